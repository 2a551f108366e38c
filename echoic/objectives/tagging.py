"""Classification on clip vectors: one label per clip (cross-entropy) or several (binary
cross-entropy).

LAION-CLAP's supervised evaluation (2211.06687, section 4.3, and its code's `LinearProbe`): a linear
layer, or an MLP of twice the width, on the projected clip vector, which is not normalised. M2D's
head (2210.14648, section IV-A) is a linear layer on what a batch norm makes of it. Truth may be a
mixture (mixup, 1710.09412).

B clips, C classes, D width, T samples, N frames, F mel bins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from echoic.nn.heads import NormedLinear
from echoic.nn.mlp import TwoLayer
from echoic.objectives.gather import mean_over_all
from echoic.types import AudioFeatures, Batch, Ragged

Loss = Callable[[Tensor, Tensor], Tensor]
HeadKind = Literal["linear", "mlp", "normed_linear"]


class BatchChange(Protocol):
    """What one batch goes through in training, all of it drawn from its seed. waves: samples (ΣT,),
    frames: log-mels (ΣN, F), each to the same shape; truth: (B, C) of what is then heard."""

    @property
    def seed(self) -> int: ...
    def waves(self, audio: Ragged) -> Ragged: ...
    def frames(self, frames: Ragged) -> Ragged: ...
    def truth(self, truth: Tensor) -> Tensor: ...


class ClipEncoder(Protocol):
    """What the task needs of an audio tower."""

    def __call__(self, audio: Ragged, change: BatchChange | None = None) -> AudioFeatures: ...


def make_head(kind: HeadKind, width: int, classes: int) -> nn.Module:
    """(B, width) -> (B, classes) logits."""
    if kind == "linear":
        return nn.Linear(width, classes)
    if kind == "normed_linear":
        return NormedLinear(width, classes)
    return TwoLayer(width, 2 * width, classes)


def one_label(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy; logits, truth: (B, C), each row of truth a share of every class, in sum 1. Its
    mean over the processes is the mean over the clips of all, as of `many_labels`."""
    return mean_over_all(F.cross_entropy(logits, truth, reduction="none"))


def many_labels(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy, mean over clips and classes; logits, truth: (B, C), from 0 to 1."""
    each = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return mean_over_all(each.mean(1))


class ClassifyTask(nn.Module):
    """An audio tower and a head on its clip vectors. truth: keys of B clips -> (B, C) of 0 and 1.
    augment: the seed of a batch -> what is done to it, in training only."""

    def __init__(
        self,
        audio: ClipEncoder,
        head: nn.Module,
        *,
        truth: Callable[[Sequence[str]], Tensor],
        loss: Loss = one_label,
        augment: Callable[[int], BatchChange] | None = None,
    ) -> None:
        super().__init__()
        self.audio, self.head = audio, head
        self.truth, self.loss, self.augment = truth, loss, augment
        self.metrics: dict[str, float] = {}
        self.steps = 0  # made so far

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        change = self.augment(batch.seed) if self.augment and self.training else None
        heard = self.audio(batch.audio, change)
        truth = self.truth(batch.keys).to(heard.clip)
        truth = change.truth(truth) if change else truth
        logits = self.head(heard.clip).float()
        right = (logits.argmax(dim=1) == truth.argmax(dim=1)).float().mean()
        self.metrics = {"tokens": float(len(heard.tokens)), "top1": float(right)}
        return {"classify": self.loss(logits, truth.float())}

    def after_step(self, step: int) -> None:
        self.steps = step + 1
