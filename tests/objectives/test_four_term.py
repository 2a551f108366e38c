"""The four-term loss equals its goldens, and its weights are what they are said to be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from echoic.objectives.contrastive import unit_contrastive_loss
from echoic.objectives.four_term import MlpHeads, four_term_loss, likeness_weights
from echoic.objectives.gather import Side
from tests.golden import Golden, golden_tools

KINDS = ("audio", "text", "audio_mlp", "text_mlp")


def golden_inputs(shared: Path) -> list[torch.Tensor]:
    """Four kinds of rows (8, 512), and the scales 14.3 and 9.7."""
    tools = golden_tools(shared)
    audio = tools.unit_rows(8, 512, 10)
    text = tools.unit_rows(8, 512, 20, toward=audio, mix=0.3)
    audio_mlp = tools.unit_rows(8, 512, 30, toward=audio, mix=0.5)
    text_mlp = tools.unit_rows(8, 512, 40, toward=text, mix=0.5)
    rows = [torch.from_numpy(each) for each in (audio, text, audio_mlp, text_mlp)]
    return [each.requires_grad_() for each in (*rows, torch.tensor([14.3]), torch.tensor([9.7]))]


@pytest.mark.parametrize(("name", "kappa"), [("mlp", None), ("mlp_weighted", 1.0)])
def test_loss_and_gradients_equal_golden(shared, name, kappa):
    golden, inputs = Golden(shared, "contrastive_loss"), golden_inputs(shared)
    for kind, rows in zip(KINDS, inputs, strict=False):
        golden.check(kind, rows.detach())
    loss = four_term_loss(*inputs, kappa=kappa)
    golden.check(f"{name}_loss", loss.detach())
    *grads, scale_a, scale_t = torch.autograd.grad(loss, inputs)
    for kind, grad in zip(KINDS, grads, strict=True):
        golden.check(f"{name}_grad_{kind}", grad)
    golden.check(f"{name}_grad_scale", torch.cat([scale_a, scale_t]))


def rows(generator) -> list[torch.Tensor]:
    return list(F.normalize(torch.randn(4, 6, 16, generator=generator), dim=-1))


def test_without_mlps_it_is_the_plain_loss(generator):
    audio, text, *_ = rows(generator)
    scale, meaning = torch.tensor(9.0), torch.tensor([0, 1, 2, 0, 4, 5])
    four = four_term_loss(audio, text, audio, text, scale, scale, meaning)
    torch.testing.assert_close(four, unit_contrastive_loss(audio, text, scale, meaning))


def test_weights_grow_with_likeness_and_are_constants(generator):
    audio = rows(generator)[0].requires_grad_()
    wanted = torch.exp((audio @ audio.T).sum(1) / (0.5 * 6)).detach()
    found = likeness_weights(Side(audio, audio), 0.5)
    torch.testing.assert_close(found, wanted)
    assert not found.requires_grad


def test_equal_weights_change_nothing(generator):
    """Rows of one kind that are all equally like each other."""
    inputs = [torch.eye(6), torch.eye(6), *rows(generator)[:2]]
    inputs[2:] = [each[:, :6] for each in inputs[2:]]
    scales = torch.tensor(9.0), torch.tensor(5.0)
    plain = four_term_loss(*inputs, *scales)
    torch.testing.assert_close(four_term_loss(*inputs, *scales, kappa=1.0), plain)


def test_heads_are_named_as_in_the_checkpoints():
    names = {name for name, _ in MlpHeads(8).named_parameters()}
    layers = (f"{tower}_transform.sequential.{i}" for tower in ("audio", "text") for i in (0, 3))
    wanted = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    assert names == wanted | {"logit_scale_t"}


def test_the_second_scale_begins_as_the_paper_says():
    """LAION-CLAP: both temperatures begin at 0.07, kept as the logarithm of their inverse."""
    heads = MlpHeads(8)
    assert float(heads.logit_scale_t.detach().exp()) == pytest.approx(1 / 0.07)
