"""What one training step computes: a model and its objectives as one module, whose forward gives
named losses.

Wrapping them together lets DDP, FSDP and torch.compile see a single forward. The model arrives as a
value and is called through the protocol below, so objectives know no encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoic.objectives.chunked import Meeting
from echoic.objectives.contrastive import contrastive_loss
from echoic.objectives.four_term import MlpHeads, four_term_loss
from echoic.objectives.gather import OwnQueries, Ranks
from echoic.objectives.grad_cache import Losses, Pairs, PairsTask, Score
from echoic.types import AudioFeatures, Batch, FrameChange, Ragged, TextFeatures


class AudioTextModel(Protocol):
    """What a task needs of a model."""

    logit_scale: nn.Parameter

    def audio(
        self,
        audio: Ragged,
        augment: FrameChange | None = None,
        draw: np.random.Generator | None = None,
    ) -> AudioFeatures: ...

    def text(self, text: Ragged) -> TextFeatures: ...


class ContrastiveTask(PairsTask):
    """Symmetric contrastive pretraining. `augment` makes, from a batch's seed, the change of its
    frames; the views of long clips are drawn from that seed too. `ranks` says how the rows of
    several processes meet. whole_step: as in `PairsTask`."""

    def __init__(
        self,
        model: AudioTextModel,
        *,
        weight: float = 1.0,
        max_logit_scale: float = math.log(100),
        augment: Callable[[int], FrameChange] | None = None,
        ranks: Meeting = OwnQueries(),
        whole_step: bool = False,
    ) -> None:
        super().__init__(whole_step=whole_step)
        self.model = model
        self.weight, self.max_logit_scale, self.augment = weight, max_logit_scale, augment
        self.ranks = ranks
        self.metrics: dict[str, float] = {}

    def losses(self, batch: Batch, score: Score) -> Losses:
        pairs = self.pairs(batch)
        self.metrics |= {
            name: float(scale.detach().exp()) for name, scale in self.log_scales().items()
        }
        return {"contrastive": self.weight * score(pairs)}

    def pairs(self, batch: Batch) -> Pairs:
        change = self.augment(batch.seed) if self.augment and self.training else None
        draw = np.random.default_rng(batch.seed) if self.training else None
        audio = self.model.audio(batch.audio, change, draw)
        text = self.model.text(batch.text)
        self.metrics = {"tokens": float(len(audio.tokens) + len(text.tokens))}
        with torch.autocast(audio.clip.device.type, enabled=False):
            rows = self.rows(audio.clip.float(), text.clip.float())
            factors = tuple(scale.exp() for scale in self.log_scales().values())
        return Pairs(rows, factors, batch.meaning)

    def rows(self, audio: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        """What is scored, of vectors (B, D), not normalised."""
        return audio, text

    def score(self, pairs: Pairs) -> Tensor:
        # bf16 would round a logit of 100 to the next half
        with torch.autocast(pairs.meaning.device.type, enabled=False):
            return self.loss(*pairs.rows, *pairs.factors, pairs.meaning)

    def loss(self, *of: Tensor) -> Tensor:
        """Of rows, scales and meaning, in this order."""
        audio, text, scale, meaning = of
        return contrastive_loss(audio, text, scale, meaning, ranks=self.ranks)

    def log_scales(self) -> dict[str, nn.Parameter]:
        return {"logit_scale": self.model.logit_scale}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Keep the scales between 1 and their ceiling (CLIP and LAION-CLAP: 100)."""
        for scale in self.log_scales().values():
            scale.clamp_(0, self.max_logit_scale)


class FourTermTask(ContrastiveTask):
    """The same with LAION-CLAP's four-term loss. `heads` belong to the objective: they are trained
    and saved with it, and left out of the exported model."""

    def __init__(
        self,
        model: AudioTextModel,
        heads: MlpHeads,
        *,
        kappa: float | None = None,
        weight: float = 1.0,
        max_logit_scale: float = math.log(100),
        augment: Callable[[int], FrameChange] | None = None,
        ranks: Ranks = OwnQueries(),
        whole_step: bool = False,
    ) -> None:
        super().__init__(
            model,
            weight=weight,
            max_logit_scale=max_logit_scale,
            augment=augment,
            ranks=ranks,
            whole_step=whole_step,
        )
        self.heads, self.kappa = heads, kappa

    def rows(self, audio: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        audio, text = F.normalize(audio, dim=-1), F.normalize(text, dim=-1)
        return audio, text, self.heads.audio_transform(audio), self.heads.text_transform(text)

    def loss(self, *of: Tensor) -> Tensor:
        ranks = cast(Ranks, self.ranks)  # as it was made with
        return four_term_loss(*of, kappa=self.kappa, ranks=ranks)

    def log_scales(self) -> dict[str, nn.Parameter]:
        return super().log_scales() | {"logit_scale_t": self.heads.logit_scale_t}
