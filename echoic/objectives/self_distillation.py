"""Masked self-distillation (SLAP, 2601.12594, eq. 4): a student that hears half of the patches says
of the others to which prototypes a teacher, who hears all, assigns them.

The teacher is a running average of the student. The paper gives the mask's ratio, MLP heads to
prototype scores, the cross-entropy, and the average's momentum. What it leaves open is taken from
iBOT (2111.07832), DINOv2 (2304.07193) and SynCLR (2312.17742), which has the same mask and
momentum.

B clips, P patches of all clips, b values of a raw patch, M patches of the loss, D width, K
prototypes, E width of the bottleneck.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from echoic.config import Spec
from echoic.nn.masking import Mask, MaskingSpec, RandomMask
from echoic.objectives.assignment import Teacher, cross_entropy_sum
from echoic.objectives.gather import mean_count
from echoic.objectives.masked_duo import DecaySpec, follow
from echoic.objectives.prototypes import (
    Centred,
    HeadSpec,
    PrototypeHead,
    Scores,
    Sinkhorn,
    autocast_type,
)
from echoic.types import Ragged

Temperature = Annotated[float, Field(gt=0)]


class DistilledEncoder(Protocol):
    """What the objective needs of an encoder, besides being a module. A pooling `head`, where it
    has one, is no part of the teacher."""

    def embed(self, patches: Tensor) -> Tensor:
        """Raw patches (P, b) -> (P, D)."""
        ...

    def encode(self, x: Ragged) -> Ragged:
        """Embedded patches (P, D) -> tokens (P, D)."""
        ...

    def get_parameter(self, target: str, /) -> nn.Parameter:
        """That of this name."""
        ...


class CosineDecaySpec(DecaySpec):
    """How slowly the teacher follows, on half a cosine from the first step to the last. The paper's
    values; SILC (2310.13355) rather holds it fixed, as `last` equal to `first` does."""

    first: Annotated[float, Field(ge=0, le=1)] = 0.994
    last: Annotated[float, Field(ge=0, le=1)] = 1.0

    def at(self, step: int, steps: int) -> float:
        """step: from 0 to steps - 1."""
        left = (1 + math.cos(math.pi * step / max(1, steps - 1))) / 2
        return self.last + (self.first - self.last) * left


class TeacherTemperatureSpec(Spec):
    """From `first` on a line to `last` after so many steps (SynCLR)."""

    first: Temperature = 0.04
    last: Temperature = 0.07
    warmup_steps: Annotated[int, Field(ge=0)] = 4000

    def at(self, step: Tensor) -> Tensor:
        """Scalar -> scalar, both on the device: nothing waits for it."""
        done = (step / max(self.warmup_steps, 1)).clamp(min=float(not self.warmup_steps), max=1)
        return self.first + (self.last - self.first) * done


class DistillationSpec(Spec):
    """What is distilled, and how.

    mask: which patches the student does not hear. targets: how prototypes are kept from collapsing:
    "sinkhorn" over the patches of a step, or "centred" by a running mean. loss: on the "masked"
    patches (iBOT), or on "all" (iBOT++ of TIPSv2). teacher: the average of the "whole" network, or
    of the "head" only, on the student's own tokens (TIPSv2).
    """

    weight: Annotated[float, Field(ge=0)] = 1.0  # the paper's, as is the mask's ratio
    mask: MaskingSpec = RandomMask(ratio=0.5)
    head: HeadSpec = HeadSpec()
    student_temperature: Temperature = 0.1  # iBOT, DINOv2, SynCLR
    teacher_temperature: TeacherTemperatureSpec = TeacherTemperatureSpec()
    targets: Literal["sinkhorn", "centred"] = "sinkhorn"
    sinkhorn_iterations: Annotated[int, Field(ge=1)] = 3  # DINOv2, SynCLR
    centre_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # DINO
    loss: Literal["masked", "all"] = "masked"
    teacher: Literal["whole", "head"] = "whole"
    decay: CosineDecaySpec = CosineDecaySpec()

    @model_validator(mode="after")
    def _something_is_masked(self) -> Self:
        if not self.mask.ratio:
            raise ValueError("mask.ratio 0: of what is all heard nothing can be distilled")
        return self


@dataclass(frozen=True)
class Distilled:
    """loss: scalar, not weighted. monitors: (5,), the `MONITORS` of objectives/assignment, on the
    device."""

    loss: Tensor
    monitors: Tensor


class SelfDistillation(nn.Module):
    """What belongs to the objective and is not exported: mask token, heads, teacher. The student is
    the encoder, handed to each call; the teacher starts as a copy of what it is now.

    width: D.
    """

    step: Tensor  # how many updates were made: a tensor, so that it is saved and read on the device

    def __init__(self, encoder: DistilledEncoder, spec: DistillationSpec, *, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.mask_token = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.head = PrototypeHead(spec.head, width=width)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.teacher = _trunk(encoder) if spec.teacher == "whole" else None
        self.targets = (
            Sinkhorn(spec.sinkhorn_iterations)
            if spec.targets == "sinkhorn"
            else Centred(spec.head.prototypes, spec.centre_momentum)
        )
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> Self:
        """The teacher stays as in inference: no dropout."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def draw(self, lengths: Sequence[int], rows: int, seed: int) -> Mask:
        """Which patches are hidden, on this module's device. lengths: patches of each clip; rows:
        patch rows of a column. The same seed draws the same."""
        generator = torch.Generator().manual_seed(seed)
        return self.spec.mask.draw(lengths, rows, generator).to(self.mask_token.device)

    def hide(self, x: Tensor, mask: Mask) -> Tensor:
        """Embedded patches (P, D) -> the same with the mask token in place of the hidden ones."""
        places = mask.masked.values
        return x.index_copy(0, places, self.mask_token.to(x.dtype).expand(len(places), -1))

    @torch.no_grad()
    def teach(
        self, encoder: DistilledEncoder, patches: Ragged, clean: Tensor | None = None
    ) -> Tensor:
        """Raw patches (P, b), whole, as the teacher hears them -> its tokens (P, D).

        clean: what the encoder made of the same patches in this step, if it did; that is all the
        work where the head alone is the teacher's own.
        """
        if self.teacher is None and clean is not None:
            return clean.detach()
        trunk = encoder if self.teacher is None else cast(DistilledEncoder, self.teacher)
        return trunk.encode(Ragged(trunk.embed(patches.values), patches.offsets)).values

    def forward(self, seen: Tensor, taught: Tensor, mask: Mask) -> Distilled:
        """seen: (P, D) what the encoder made of the patches with some hidden; taught: (P, D) from
        `teach`. The loss is such that its mean over processes is the mean over the patches of all.
        """
        if self.spec.loss == "masked":
            seen, taught = (x.index_select(0, mask.masked.values) for x in (seen, taught))
        with torch.no_grad():
            target = self.teacher_head(taught)
        found, low = self.head(seen), autocast_type(seen.device)
        with torch.autocast(seen.device.type, enabled=False):
            total, monitors = cross_entropy_sum(
                found,
                self.head.unit_prototypes(),
                self._assigned(target, low),
                self.spec.student_temperature,
            )
            return Distilled(total / mean_count(len(found), total), monitors)

    @torch.no_grad()
    def _assigned(self, target: Tensor, low: torch.dtype | None) -> Teacher:
        """target: unit rows (M, E)."""
        temperature = self.spec.teacher_temperature.at(self.step)
        scores = Scores(target, self.teacher_head.unit_prototypes(), temperature, low=low)
        return Teacher(scores, self.targets(scores))

    @torch.no_grad()
    def after_step(self, encoder: DistilledEncoder, step: int, steps: int) -> None:
        """Let the teacher follow: teacher <- decay * teacher + (1 - decay) * student. step: from 0
        to steps - 1."""
        decay = self.spec.decay.at(step, steps)
        follow(self.teacher_head, self.head, decay)
        if self.teacher is not None:
            follow(self.teacher, encoder, decay)
        self.step.fill_(step + 1)


def _trunk(encoder: DistilledEncoder) -> nn.Module:
    """A copy without what pools, that does not learn."""
    trunk = cast(nn.Module, copy.deepcopy(encoder))
    if hasattr(trunk, "head"):
        del trunk.head
    for parameter in trunk.parameters():
        parameter.grad = None
    return trunk.requires_grad_(False).eval()
