"""Masked self-distillation: what is hidden stays hidden, the teacher only follows, the loss is the
one written out, and a training that was stopped goes on bit for bit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from echoic.encoders.slap import SlapEncoder, SlapSpec
from echoic.nn.linear import linear
from echoic.nn.masking import Mask, StructuredMask
from echoic.objectives import prototypes
from echoic.objectives.assignment import MONITORS
from echoic.objectives.prototypes import HeadSpec
from echoic.objectives.self_distillation import (
    CosineDecaySpec,
    DistillationSpec,
    Distilled,
    SelfDistillation,
    TeacherTemperatureSpec,
)
from echoic.types import Ragged
from tests.objectives.processes import in_processes

WIDTH, ROWS = 16, 2
FRAMES = (40, 64, 9, 33)
HEAD = HeadSpec(layers=2, hidden=24, bottleneck=8, prototypes=10)
VARIANTS = [
    {},
    {"targets": "centred"},
    {"loss": "all"},
    {"teacher": "head"},
    {"mask": StructuredMask(ratio=0.5)},
]


class Part(nn.Module):
    """An encoder and the objective, joined as a task joins them."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        spec = SlapSpec(
            depth=2, width=WIDTH, heads=2, hidden=24, patch_bins=4, window_columns=2, global_every=2
        )
        self.encoder = SlapEncoder(spec, mel_bins=8, frame_s=0.01, embed_dim=6)
        self.distil = SelfDistillation(
            self.encoder, DistillationSpec(head=HEAD, **changes), width=WIDTH
        )
        generator = torch.Generator().manual_seed(1)
        for p in self.parameters():  # the teacher's differ from the student's
            p.data = 0.3 * torch.randn(p.shape, generator=generator) + (p.ndim == 1)

    def forward(self, frames: Ragged, mask: Mask | None = None, seed: int = 3) -> Distilled:
        patches = self.encoder.patchify(frames)
        mask = mask or self.distil.draw(patches.lengths, ROWS, seed)
        x = self.encoder.embed(patches.values)
        seen = self.encoder.encode(Ragged(self.distil.hide(x, mask), patches.offsets))
        found: Distilled = self.distil(seen.values, self.distil.teach(self.encoder, patches), mask)
        return found


def clips(lengths: tuple[int, ...] = FRAMES) -> Ragged:
    generator = torch.Generator().manual_seed(0)
    return Ragged.from_lengths(torch.randn(sum(lengths), 8, generator=generator), lengths)


def told(found: Distilled) -> dict[str, float]:
    return dict(zip(MONITORS, found.monitors.tolist(), strict=True))


def trained(part: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in part.named_parameters() if p.requires_grad}


# -- what is hidden --------------------------------------------------------------------------------


@pytest.mark.parametrize("masking", [{}, {"mask": StructuredMask(ratio=0.5)}])
def test_the_same_seed_hides_the_same_and_no_other_generator_is_touched(masking):
    distil, before = Part(**masking).distil, torch.random.get_rng_state()
    lengths = (6, 8, 2, 6)
    one, same, other = (distil.draw(lengths, ROWS, seed) for seed in (3, 3, 4))
    assert torch.equal(one.masked.values, same.masked.values)
    assert not torch.equal(one.masked.values, other.masked.values)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_half_of_the_patches_are_hidden():
    mask = Part().distil.draw((100, 40, 2), ROWS, 0)
    assert mask.masked.lengths == (50, 20, 1)


def test_the_student_gets_no_raw_input_of_what_is_hidden():
    part = Part()
    frames = clips()
    patches = part.encoder.patchify(frames)
    mask = part.distil.draw(patches.lengths, ROWS, 3)
    x = part.encoder.embed(patches.values).detach().requires_grad_()
    hidden = part.distil.hide(x, mask)
    assert torch.equal(hidden[mask.visible.values], x[mask.visible.values])
    assert torch.equal(
        hidden[mask.masked.values],
        part.distil.mask_token.expand(len(mask.masked.values), -1),
    )
    part.encoder.encode(Ragged(hidden, patches.offsets)).values.square().sum().backward()
    reached = x.grad.abs().sum(1) > 0
    assert reached[mask.visible.values].all()
    assert not reached[mask.masked.values].any()
    assert part.distil.mask_token.grad.any()


# -- the teacher -----------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", VARIANTS)
def test_all_that_learns_gets_a_gradient_and_the_teacher_none(changes):
    part = Part(**changes)
    part(clips()).loss.backward()
    for name, p in part.named_parameters():
        pooling = name.startswith("encoder.head")
        teaching = name.startswith(("distil.teacher.", "distil.teacher_head."))
        assert p.requires_grad != teaching
        assert (p.grad is not None and bool(p.grad.any())) == (not teaching and not pooling), name


def test_the_teachers_tokens_carry_no_gradient_and_are_those_of_its_own_network():
    part = Part()
    patches = part.encoder.patchify(clips())
    taught = part.distil.teach(part.encoder, patches, clean=torch.zeros(1))
    assert not taught.requires_grad
    same = copy.deepcopy(part.encoder)
    same.load_state_dict(part.distil.teacher.state_dict() | head_of(part))
    x = Ragged(same.embed(patches.values), patches.offsets)
    assert torch.equal(taught, same.encode(x).values)
    assert not torch.allclose(taught, part.encoder.encode(x).values)


def head_of(part: Part) -> dict[str, Tensor]:
    return {f"head.{name}": x for name, x in part.encoder.head.state_dict().items()}


def test_a_teacher_of_the_head_alone_hears_with_the_students_encoder():
    part = Part(teacher="head")
    patches = part.encoder.patchify(clips())
    x = Ragged(part.encoder.embed(patches.values), patches.offsets)
    own = part.encoder.encode(x).values
    for taught in (part.distil.teach(part.encoder, patches, clean=own),
                   part.distil.teach(part.encoder, patches)):  # fmt: skip
        assert torch.equal(taught, own)
        assert not taught.requires_grad
    assert part.distil.teacher is None


def test_at_the_start_the_teacher_is_the_student_in_memory_of_its_own():
    part = Part()
    distil = SelfDistillation(part.encoder, DistillationSpec(head=HEAD), width=WIDTH)
    pairs = [(distil.teacher, part.encoder), (distil.teacher_head, distil.head)]
    for teacher, student in pairs:
        for name, p in teacher.named_parameters():
            assert torch.equal(p, student.get_parameter(name))
            assert p.data_ptr() != student.get_parameter(name).data_ptr()
    assert not hasattr(distil.teacher, "head")
    assert hasattr(part.encoder, "head")


def test_the_teacher_stays_in_evaluation_mode():
    part = Part().train()
    assert part.distil.head.training
    assert not part.distil.teacher.training


@pytest.mark.parametrize("teacher", ["whole", "head"])
def test_the_teacher_follows_exactly_at_both_ends(teacher):
    part = Part(teacher=teacher, decay=CosineDecaySpec(first=0.0, last=1.0))
    before = copy.deepcopy(part.state_dict())
    part.distil.after_step(part.encoder, 10, 11)
    after = part.state_dict()
    assert after.pop("distil.step") == 11
    assert all(torch.equal(x, before[name]) for name, x in after.items())  # decay 1

    part.distil.after_step(part.encoder, 0, 11)  # decay 0
    for name, p in part.distil.teacher_head.named_parameters():
        assert torch.equal(p, part.distil.head.get_parameter(name))
    if teacher == "whole":
        for name, p in part.distil.teacher.named_parameters():
            assert torch.equal(p, part.encoder.get_parameter(name))


def test_the_teacher_follows_in_between():
    part = Part(decay=CosineDecaySpec(first=0.75, last=0.75))
    name = "blocks.1.mlp.down.weight"
    before = part.distil.teacher.get_parameter(name).detach().clone()
    part.distil.after_step(part.encoder, 2, 5)
    wanted = 0.75 * before + 0.25 * part.encoder.get_parameter(name).detach()
    torch.testing.assert_close(part.distil.teacher.get_parameter(name).detach(), wanted)


def test_the_papers_momentum():
    spec = CosineDecaySpec()
    assert spec.at(0, 101) == 0.994
    assert spec.at(100, 101) == 1.0
    assert spec.at(50, 101) == pytest.approx(0.997)
    assert spec.at(25, 101) == pytest.approx(1 - 0.006 * (1 + math.cos(math.pi / 4)) / 2)
    fixed = CosineDecaySpec(first=0.996, last=0.996)
    assert {fixed.at(step, 10) for step in range(10)} == {0.996}


@pytest.mark.parametrize(("step", "wanted"), [(0, 0.04), (2000, 0.055), (4000, 0.07), (9999, 0.07)])
def test_the_teachers_temperature(step, wanted):
    assert float(TeacherTemperatureSpec().at(torch.tensor(step))) == pytest.approx(wanted)


def test_a_temperature_without_warm_up_is_the_last():
    spec = TeacherTemperatureSpec(warmup_steps=0)
    assert float(spec.at(torch.tensor(0))) == pytest.approx(0.07)


# -- the loss --------------------------------------------------------------------------------------


def written_out(part: Part, frames: Ragged, mask: Mask, *, masked: bool = True) -> Tensor:
    """Equation 4, one clip at a time, one matrix after the other."""
    distil, student = part.distil, []
    teacher = []
    for frame, start in zip(frames, [0, 6, 14, 16], strict=True):
        patches = part.encoder.patchify(Ragged.from_rows([frame]))
        n = len(patches.values)
        hidden = torch.tensor([start + i in mask.masked.values.tolist() for i in range(n)])
        x = part.encoder.embed(patches.values)
        x = torch.where(hidden[:, None], distil.mask_token, x)
        seen = part.encoder.encode(Ragged(x, patches.offsets)).values
        raw = Ragged(distil.teacher.embed(patches.values), patches.offsets)
        taught = distil.teacher.encode(raw).values.detach()
        kept = hidden if masked else slice(None)
        student.append(cosines(distil.head, seen[kept]))
        teacher.append(cosines(distil.teacher_head, taught[kept]).detach())
    scaled = (torch.cat(teacher) / 0.04).double().exp()
    for _ in range(3):
        scaled = scaled / scaled.sum(0) / scaled.shape[1]
        scaled = scaled / scaled.sum(1, keepdim=True) / scaled.shape[0]
    target = (scaled * scaled.shape[0]).float()
    log_found = (torch.cat(student) / 0.1).log_softmax(1)
    return -(target * log_found).sum(1).mean()


def cosines(head: nn.Module, tokens: Tensor) -> Tensor:
    inner = head.layers[1](F.gelu(head.layers[0](tokens)))
    return F.cosine_similarity(inner[:, None], head.prototypes[None], dim=2)


@pytest.mark.parametrize("loss", ["masked", "all"])
def test_the_loss_and_its_gradients_equal_those_written_out(loss):
    part, frames = Part(loss=loss), clips()
    mask = part.distil.draw((6, 8, 2, 6), ROWS, 3)
    wanted = written_out(part, frames, mask, masked=loss == "masked")
    inner = {k: p for k, p in trained(part).items() if "encoder.head" not in k}
    grads = torch.autograd.grad(wanted, list(inner.values()))
    found = part(frames)
    torch.testing.assert_close(found.loss, wanted.detach(), rtol=1e-4, atol=1e-5)
    found.loss.backward()
    for (name, p), grad in zip(inner.items(), grads, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-3, atol=1e-5, msg=name)


def test_the_temperature_is_that_of_the_step():
    part, frames = Part(), clips()
    cold = told(part(frames))
    part.distil.after_step(part.encoder, 3999, 4000)  # decay 1: nothing else changes
    warm = told(part(frames))
    assert warm["teacher_entropy"] > cold["teacher_entropy"]
    assert warm["student_entropy"] == pytest.approx(cold["student_entropy"])


def test_no_clip_tells_another_but_through_the_shares_of_prototypes():
    """Centring leaves not even these."""
    part, frames = Part(targets="centred"), clips()
    mask = part.distil.draw((6, 8, 2, 6), ROWS, 3)
    whole, alone, start = part(frames, mask).loss, [], 0
    part.distil.targets.centre.zero_()
    for i, (frame, n) in enumerate(zip(frames, (6, 8, 2, 6), strict=True)):
        own = [Ragged.from_rows([side[i] - start]) for side in (mask.visible, mask.masked)]
        found = part.eval()(Ragged.from_rows([frame]), Mask(*own)).loss
        alone.append(found * mask.masked.lengths[i])
        start += n
    torch.testing.assert_close(whole, sum(alone) / len(mask.masked.values))


def test_under_bfloat16_the_loss_is_computed_in_float32(monkeypatch):
    part, frames = Part(), clips()
    exact, products = part(frames), []

    def kept(a: Tensor, b: Tensor) -> Tensor:
        products.append(linear(a, b))
        return products[-1]

    monkeypatch.setattr(prototypes, "linear", kept)
    with torch.autocast("cpu", torch.bfloat16):
        rough = part(frames)
    assert {x.dtype for x in [rough.loss, *products]} == {torch.float32}
    assert rough.loss != exact.loss
    torch.testing.assert_close(rough.loss, exact.loss, rtol=0.05, atol=0)
    rough.loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in part.distil.head.parameters())


def test_monitors_are_told_without_a_gradient():
    found = Part()(clips())
    assert found.monitors.shape == (len(MONITORS),)
    assert found.monitors.isfinite().all()
    assert not found.monitors.requires_grad


def test_only_the_rows_of_the_loss_go_through_the_heads():
    part, met = Part(), []
    for head in (part.distil.head, part.distil.teacher_head):
        head.register_forward_hook(lambda _m, given, _o: met.append(len(given[0])))
    part(clips())
    assert met == [11, 11]


def test_steps_lower_the_divergence():
    part, frames = Part(), clips((64, 64, 64, 64))
    optimizer = torch.optim.AdamW(trained(part).values(), lr=3e-3)
    divergences = []
    for step in range(40):
        optimizer.zero_grad()
        found = part(frames)
        found.loss.backward()
        optimizer.step()
        part.distil.after_step(part.encoder, step, 40)
        divergences.append(told(found)["teacher_kl"])
    assert divergences[-1] < 0.5 * divergences[0]


def test_a_mask_of_nothing_is_refused():
    with pytest.raises(ValidationError, match=r"mask\.ratio 0: of what is all heard nothing"):
        DistillationSpec.model_validate({"mask": {"kind": "random", "ratio": 0}})


# -- resuming --------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", ["sinkhorn", "centred"])
def test_a_training_put_back_goes_on_bit_for_bit(targets):
    def go_on(part: Part, first: int, last: int) -> list[Tensor]:
        losses = []
        for step in range(first, last):
            found = part(clips(), seed=step)
            found.loss.backward()
            with torch.no_grad():
                for p in trained(part).values():
                    if p.grad is not None:
                        p -= 0.1 * p.grad
                        p.grad = None
            part.distil.after_step(part.encoder, step, 6)
            losses.append(found.loss.detach())
        return losses

    warm = TeacherTemperatureSpec(warmup_steps=5)
    first = Part(targets=targets, teacher_temperature=warm)
    go_on(first, 0, 3)
    saved = copy.deepcopy(first.state_dict())
    wanted = go_on(first, 3, 6)
    second = Part(targets=targets, teacher_temperature=warm)
    second.load_state_dict(saved)
    assert all(torch.equal(*both) for both in zip(go_on(second, 3, 6), wanted, strict=True))
    state = second.state_dict()
    assert all(torch.equal(x, state[name]) for name, x in first.state_dict().items())


# -- over processes --------------------------------------------------------------------------------


def learnt(
    wrap: Callable[[nn.Module], nn.Module], start: int, stop: int, **changes: Any
) -> dict[str, Tensor]:
    """From the clips [start, stop), two steps: the second has a centre that is not zero."""
    part = Part(**changes)
    part.encoder.head.requires_grad_(False)
    every, lengths = clips(), (6, 8, 2, 6)
    mask = part.distil.draw(lengths, ROWS, 3)
    before = sum(lengths[:start])
    own = Mask(*(
        Ragged.from_rows([x - before for x in list(side)[start:stop]])
        for side in (mask.visible, mask.masked)
    ))  # fmt: skip
    whole = wrap(Loss(part))
    for _ in range(2):
        whole.zero_grad()
        loss = whole(Ragged.from_rows(list(every)[start:stop]), own)
        loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in trained(part).items()}


class Loss(nn.Module):
    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part

    def forward(self, frames: Ragged, mask: Mask) -> Tensor:
        return self.part(frames, mask).loss


def of_a_rank(rank: int, _folder: Path) -> dict[str, Tensor]:
    clips_of_it = (0, 1) if rank == 0 else (1, 4)  # 3 and 8 masked patches
    found = {}
    for targets in ("sinkhorn", "centred"):
        named = learnt(DistributedDataParallel, *clips_of_it, targets=targets)
        found |= {f"{targets} {name}": x for name, x in named.items()}
    return found


def test_two_processes_learn_what_one_learns_of_the_whole_batch(tmp_path):
    both = in_processes(of_a_rank, 2, tmp_path)
    for targets in ("sinkhorn", "centred"):
        for name, wanted in learnt(lambda module: module, 0, 4, targets=targets).items():
            got = torch.stack([each[f"{targets} {name}"] for each in both])
            got = got.mean(0) if name == "loss" else got  # of the gradients, each has the average
            torch.testing.assert_close(got, wanted.expand_as(got), rtol=1e-3, atol=1e-5, msg=name)
