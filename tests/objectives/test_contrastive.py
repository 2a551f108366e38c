"""The contrastive loss equals the goldens, and rows that say the same are not negatives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from echoic.objectives.contrastive import contrastive_loss
from tests.golden import Golden, golden_tools


@pytest.fixture
def pairs(shared: Path):
    tools = golden_tools(shared)
    audio = tools.unit_rows(8, 512, 10)
    text = tools.unit_rows(8, 512, 20, toward=audio, mix=0.3)
    return torch.from_numpy(audio).requires_grad_(), torch.from_numpy(text).requires_grad_()


def test_loss_equals_golden(shared: Path, pairs):
    scale = torch.tensor([14.3])
    Golden(shared, "contrastive_loss").check("plain_loss", contrastive_loss(*pairs, scale).detach())


def test_gradients_equal_golden(shared: Path, pairs):
    """The golden's rows are of unit length and not normalised inside: compare across the sphere
    only."""
    golden = Golden(shared, "contrastive_loss")
    scale = torch.tensor([14.3], requires_grad=True)
    audio, text = pairs
    grads = torch.autograd.grad(contrastive_loss(audio, text, scale), (audio, text, scale))
    golden.check("plain_grad_scale", grads[2])
    logits = scale * audio @ text.T
    target = torch.arange(8)
    plain = torch.nn.functional.cross_entropy
    loss = (plain(logits, target) + plain(logits.T, target)) / 2
    direct = torch.autograd.grad(loss, (audio, text))
    for name, ours, want, rows in zip(("audio", "text"), grads, direct, pairs, strict=False):
        golden.check(f"plain_grad_{name}", want)
        across = want - (want * rows).sum(1, keepdim=True) * rows
        torch.testing.assert_close(ours, across.detach(), rtol=1e-4, atol=1e-6)


def test_distinct_meanings_change_nothing(generator):
    audio, text = torch.randn(2, 6, 32, generator=generator)
    plain = contrastive_loss(audio, text, torch.tensor(10.0))
    told = contrastive_loss(audio, text, torch.tensor(10.0), torch.arange(6))
    torch.testing.assert_close(plain, told)


def test_equal_captions_are_not_pushed_apart(generator):
    """Two clips of one caption, each lying on the caption's vector: no loss is left between
    them."""
    audio, text = torch.eye(4)[[0, 0, 1]], torch.eye(4)[[0, 0, 1]]
    scale = torch.tensor(100.0)
    told = contrastive_loss(audio, text, scale, torch.tensor([5, 5, 9]))
    entropy = 2 / 3 * torch.tensor(2.0).log()  # the target of the twins is split evenly
    torch.testing.assert_close(told, entropy)
    audio.requires_grad_()
    contrastive_loss(audio, text, scale, torch.tensor([5, 5, 9])).backward()
    assert audio.grad.abs().max() < 1e-5
