"""What one training step computes: a model and its objectives as one module, whose forward gives
named losses.

Wrapping them together lets DDP, FSDP and torch.compile see a single forward. The model arrives as a
value and is called through the protocol below, so objectives know no encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from echoic.objectives.contrastive import contrastive_loss
from echoic.types import AudioFeatures, Batch, Ragged, TextFeatures

FrameChange = Callable[[Ragged], Ragged]


class AudioTextModel(Protocol):
    """What a task needs of a model."""

    logit_scale: nn.Parameter

    def audio(self, audio: Ragged, augment: FrameChange | None = None) -> AudioFeatures: ...

    def text(self, text: Ragged) -> TextFeatures: ...


class ContrastiveTask(nn.Module):
    """Symmetric contrastive pretraining. `augment` makes, from a batch's seed, the change of its
    frames."""

    def __init__(
        self,
        model: AudioTextModel,
        *,
        weight: float = 1.0,
        max_logit_scale: float = math.log(100),
        augment: Callable[[int], FrameChange] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.weight, self.max_logit_scale, self.augment = weight, max_logit_scale, augment
        self.metrics: dict[str, float] = {}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        change = self.augment(batch.seed) if self.augment and self.training else None
        audio = self.model.audio(batch.audio, change)
        text = self.model.text(batch.text)
        scale = self.model.logit_scale.exp()
        self.metrics = {
            "tokens": float(len(audio.tokens) + len(text.tokens)),
            "logit_scale": float(scale.detach()),
        }
        # bf16 would round a logit of 100 to the next half
        with torch.autocast(audio.clip.device.type, enabled=False):
            loss = contrastive_loss(audio.clip.float(), text.clip.float(), scale, batch.meaning)
        return {"contrastive": self.weight * loss}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Keep the scale below its ceiling (CLIP and LAION-CLAP: 100)."""
        self.model.logit_scale.clamp_(max=self.max_logit_scale)
