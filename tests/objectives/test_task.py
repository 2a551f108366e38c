"""The contrastive task: what learns, what is clamped, and that a batch fixes its loss."""

from __future__ import annotations

import math

import pytest
import torch

from echoic.audio.augment import FrameAugment
from echoic.model import build
from echoic.objectives.contrastive import contrastive_loss
from echoic.objectives.four_term import MlpHeads, four_term_loss
from echoic.objectives.task import ContrastiveTask, FourTermTask
from echoic.types import Batch, Ragged
from tests.tiny import SENTENCES, noise, spec, tokenizer

AUGMENT = FrameAugment(time_share=0.5, freq_bins=20, warp=0.1, eq=0.5)


@pytest.fixture
def batch() -> Batch:
    waves = [torch.from_numpy(noise(0.2 + 0.3 * i, seed=i)) for i in range(5)]
    texts = [torch.tensor(ids) for ids in tokenizer()(SENTENCES[:5])]
    return Batch(
        Ragged.from_rows(waves), Ragged.from_rows(texts), torch.arange(5), tuple("abcde"), seed=3
    )


def task(**options) -> ContrastiveTask:
    return ContrastiveTask(build(spec(), seed=0), **options)


def loss(of: ContrastiveTask, batch: Batch) -> torch.Tensor:
    return of(batch)["contrastive"]


@pytest.mark.parametrize("augment", [None, AUGMENT.seeded])
@pytest.mark.parametrize("bf16", [False, True])
def test_gradient_reaches_every_parameter(batch, augment, bf16):
    chosen = task(augment=augment).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        value = loss(chosen, batch)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    value.backward()
    for name, parameter in chosen.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
        assert parameter.grad.dtype == torch.float32, name


def test_the_same_batch_gives_the_same_loss(batch):
    chosen = task(augment=AUGMENT.seeded).train()
    state = torch.get_rng_state()
    assert torch.equal(loss(chosen, batch), loss(chosen, batch))
    assert torch.equal(torch.get_rng_state(), state)
    other = Batch(batch.audio, batch.text, batch.meaning, batch.keys, seed=4)
    assert not torch.equal(loss(chosen, batch), loss(chosen, other))


def test_augment_changes_training_only(batch):
    plain, changed = task(), task(augment=AUGMENT.seeded)
    assert not torch.equal(loss(plain.train(), batch), loss(changed.train(), batch))
    assert torch.equal(loss(plain.eval(), batch), loss(changed.eval(), batch))


def test_the_loss_is_that_of_the_vectors(batch):
    chosen = task(weight=0.5).eval()
    audio, text = chosen.model(batch.audio, batch.text)
    scale = chosen.model.logit_scale.exp()
    torch.testing.assert_close(loss(chosen, batch), contrastive_loss(audio, text, scale) / 2)
    tokens = len(chosen.model.audio(batch.audio).tokens) + len(batch.text.values)
    assert chosen.metrics == {
        "tokens": tokens, "logit_scale": pytest.approx(1 / 0.07, rel=1e-5)
    }  # fmt: skip


def test_bf16_does_not_round_the_logits(batch):
    """At the largest scale bf16 would round a logit of 100 to the next half."""
    chosen = task().eval()
    with torch.no_grad():
        chosen.model.logit_scale.fill_(math.log(100))
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(chosen, batch)
            audio, text = chosen.model.audio(batch.audio).clip, chosen.model.text(batch.text).clip
    wanted = contrastive_loss(audio.float(), text.float(), torch.tensor(100.0))
    torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-5)


def test_the_scale_is_kept_below_its_ceiling():
    chosen = task(max_logit_scale=2.0)
    for value, wanted in ((5.0, 2.0), (1.5, 1.5)):
        with torch.no_grad():
            chosen.model.logit_scale.fill_(value)
        chosen.after_step(0)
        assert float(chosen.model.logit_scale.detach()) == wanted
    assert task().max_logit_scale == math.log(100)


def test_rows_of_equal_meaning_are_not_pushed_apart(batch):
    twins = Batch(batch.audio, batch.text, torch.tensor([0, 0, 1, 2, 3]), batch.keys, seed=3)
    assert not torch.equal(loss(task(), batch), loss(task(), twins))


def four_terms(**options) -> FourTermTask:
    return FourTermTask(build(spec(), seed=0), MlpHeads(16), **options)


def test_four_terms_reach_every_parameter(batch):
    chosen = four_terms(kappa=1.0).train()
    loss(chosen, batch).backward()
    for name, parameter in chosen.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_four_terms_are_of_the_unit_vectors_and_their_mlps(batch):
    chosen = four_terms(kappa=2.0, weight=0.5).eval()
    audio, text = chosen.model(batch.audio, batch.text)
    mlps = chosen.heads.audio_transform(audio), chosen.heads.text_transform(text)
    with torch.no_grad():
        chosen.heads.logit_scale_t.fill_(1.0)
    scales = chosen.model.logit_scale.exp(), torch.tensor([math.e])
    wanted = four_term_loss(audio, text, *mlps, *scales, kappa=2.0) / 2
    torch.testing.assert_close(loss(chosen, batch), wanted)
    assert chosen.metrics["logit_scale_t"] == pytest.approx(math.e)


def test_both_scales_are_kept_in_their_bounds():
    chosen = four_terms()
    with torch.no_grad():
        chosen.model.logit_scale.fill_(9.0)
        chosen.heads.logit_scale_t.fill_(-1.0)
    chosen.after_step(0)
    assert float(chosen.model.logit_scale.detach()) == pytest.approx(math.log(100))
    assert float(chosen.heads.logit_scale_t.detach()) == 0.0
