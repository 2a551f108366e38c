"""The tasks of M2D and M2D-CLAP: losses of the parts by name, all draws from the batch's seed, a
target that follows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from echoic.audio.frontend import FrontEnd, m2d
from echoic.encoders.m2d import M2dEncoder, M2dSpec
from echoic.nn.masking import Mask, RandomMask, StructuredMask
from echoic.nn.vit import Vit, row_means
from echoic.objectives.contrastive import contrastive_loss
from echoic.objectives.masked_duo import (
    ColumnPredictor,
    DecaySpec,
    Duo,
    MaskedDuo,
    Predictor,
    PredictorSpec,
    label_loss,
)
from echoic.objectives.masked_duo_task import M2dTask, SentenceContrast
from echoic.types import Batch, Ragged

SECONDS = (0.7, 0.4, 0.64, 0.2)
KEYS = ("a", "b", "c", "d")
STEPS = 5
PLAN = {"masking": RandomMask(ratio=0.6), "decay": DecaySpec(first=0.5, last=0.9), "steps": STEPS}


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.front_end = FrontEnd(m2d())
        self.encoder = M2dEncoder(M2dSpec(width=32, depth=1, heads=2, frames=64))
        self.projection = nn.Linear(32, 8)

    def project(self, tokens: Ragged) -> Tensor:
        return self.projection(row_means(tokens))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.audio = Tower()
        self.project_sentence = nn.Linear(6, 8)
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(1 / 0.07)))


class Labels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.predictor = ColumnPredictor(width=32, rows=5, out_width=3)

    def forward(self, seen: Duo, batch: Batch) -> Tensor:
        truth = torch.tensor([[key == "a", key == "b", True] for key in batch.keys])
        return label_loss(self.predictor(seen), truth)


@pytest.fixture
def parts() -> tuple[Model, MaskedDuo]:
    generator = torch.Generator().manual_seed(0)
    predictor = Predictor(PredictorSpec(width=16, depth=1, heads=2), width=32, rows=5, columns=4)
    model, duo = Model(), MaskedDuo(Vit(width=32, depth=1, heads=2), predictor)
    for p in [*model.parameters(), *duo.parameters()]:
        p.data = 0.2 * torch.randn(p.shape, generator=generator) + (p.ndim == 1)
    return model, duo


def batch(seed: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(1)
    waves = [0.1 * torch.randn(round(16_000 * s), generator=generator) for s in SECONDS]
    text = Ragged.from_lengths(torch.zeros(4, dtype=torch.int64), [1] * 4)
    return Batch(Ragged.from_rows(waves), text, torch.arange(4), KEYS, seed)


def sentences(keys: Sequence[str], seed: int) -> Tensor:
    rows = [torch.randn(6, generator=torch.Generator().manual_seed(seed + ord(k))) for k in keys]
    return torch.stack(rows).half()


def test_both_losses_of_m2d_clap_and_their_weights(parts):
    model, duo = parts
    task = M2dTask(model, duo, weight=2.0, contrast=SentenceContrast(sentences, 0.5), **PLAN)
    losses = task(batch())
    seen = duo(model.audio.encoder, model.audio.front_end(batch().audio), mask_of(task))
    vectors = model.project_sentence(sentences(KEYS, 3).float())
    wanted = contrastive_loss(model.audio.projection(seen.clip()), vectors, model.logit_scale.exp())
    torch.testing.assert_close(losses["masked"], 2 * seen.loss)
    torch.testing.assert_close(losses["contrastive"], 0.5 * wanted)
    assert losses.keys() == {"masked", "contrastive"}
    # windows of 64 frames: 4, 2, 4 and 1 columns of 5 patches
    assert task.metrics["tokens"] == 55
    assert task.metrics["visible"] == (8 + 4 + 8 + 2) / 55
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in task.parameters() if p.requires_grad)


def mask_of(task: M2dTask) -> Mask:
    lengths = task.model.audio.front_end(batch().audio).lengths
    return task.mask(lengths, 3)


@pytest.mark.parametrize("masking", [RandomMask(ratio=0.6), StructuredMask(ratio=0.5)])
def test_masks_are_drawn_from_the_seed(parts, masking):
    task = M2dTask(*parts, **(PLAN | {"masking": masking}))
    before = torch.random.get_rng_state()
    same = [task(batch())["masked"] for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], task(batch(seed=4))["masked"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_second_task_on_the_same_pass(parts):
    task = M2dTask(*parts, second=Labels(), second_weight=0.1, **PLAN)
    losses = task(batch())
    assert losses.keys() == {"masked", "second"}
    losses["second"].backward()
    assert task.model.audio.encoder.cls_token.grad.any()
    assert task.duo.predictor.mask_token.grad.any()
    assert any(name.startswith("second.") for name in task.state_dict())


def test_the_student_alone_hears_what_disturbs(parts):
    def disturb(frames: Ragged, seed: int) -> Ragged:
        return Ragged(frames.values + seed, frames.offsets)

    task = M2dTask(*parts, disturb=disturb, **PLAN)
    frames = task.model.audio.front_end(batch().audio)
    noisy = Ragged(frames.values + 3, frames.offsets)
    seen = task.duo(task.model.audio.encoder, noisy, mask_of(task), clean=frames)
    assert torch.equal(task(batch())["masked"], seen.loss)


def test_after_a_step_the_target_has_moved_and_the_scale_is_bounded(parts):
    model, duo = parts
    task = M2dTask(model, duo, contrast=SentenceContrast(sentences), **PLAN)
    target, online = duo.target.norm.bias.clone(), model.audio.encoder.norm.bias
    model.logit_scale.data.fill_(9.0)
    task.after_step(STEPS - 1)
    torch.testing.assert_close(duo.target.norm.bias, 0.9 * target + 0.1 * online)
    assert model.logit_scale.item() == pytest.approx(math.log(100))


def test_a_run_of_steps_lowers_both_losses(parts):
    contrast = SentenceContrast(lambda keys, _: sentences(keys, 0), weight=1.0)
    task = M2dTask(*parts, contrast=contrast, **PLAN)
    optimizer = torch.optim.AdamW((p for p in task.parameters() if p.requires_grad), lr=3e-3)
    told = []
    for step in range(40):
        losses = task(batch(seed=step))
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        task.after_step(step % STEPS)
        told.append({name: loss.item() for name, loss in losses.items()})
    for name in ("masked", "contrastive"):
        assert told[-1][name] < 0.8 * told[0][name]
