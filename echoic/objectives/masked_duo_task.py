"""What one step of M2D and of M2D-CLAP computes (2210.14648; 2406.02032, 2503.22104), as one
module: `M2dTask`, the masked modelling duo and what else is learnt on the same forward pass (the
first stage); `VisibleContrastTask`, the contrastive loss alone on the patches that a mask leaves
(the second, where the encoder is frozen).

B clips, P patches of all clips, V of them visible, E width of a sentence's vector, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from echoic.nn.masking import Mask, Masking, take
from echoic.nn.vit import split_first
from echoic.objectives.chunked import Meeting
from echoic.objectives.contrastive import contrastive_loss
from echoic.objectives.gather import OwnQueries
from echoic.objectives.grad_cache import Losses, Pairs, PairsTask, Score
from echoic.objectives.masked_duo import DecaySpec, Duo, MaskedDuo, PatchEncoder
from echoic.types import Batch, Ragged, TextFeatures

Disturb = Callable[[Ragged, int], Ragged]
Sentences = Callable[[Batch], Tensor]


class M2dTower(Protocol):
    """What the task needs of an audio tower."""

    front_end: Callable[[Ragged], Ragged]
    encoder: PatchEncoder

    def project(self, tokens: Ragged) -> Tensor:
        """Encoded patches, ragged (V, D), all of a clip's or some -> (B, embed_dim). For M2D-CLAP
        alone."""
        ...


class M2dModel(Protocol):
    """What the task needs of a model; what follows `audio` for M2D-CLAP alone."""

    audio: M2dTower
    logit_scale: nn.Parameter

    @property
    def text(self) -> Callable[[Ragged], TextFeatures]:
        """Token ids -> clip (B, embed_dim); for VisibleContrastTask without sentences."""
        ...

    def project_sentence(self, vectors: Tensor) -> Tensor:
        """(B, E) -> (B, embed_dim)."""
        ...


@dataclass(frozen=True)
class SentenceContrast:
    """M2D-CLAP's other loss: what was made of the visible patches, against cached vectors of
    sentences.

    sentences: of a batch -> (B, E), the vector of one sentence of each clip, that of
    `batch.meaning`. weight: the paper's.
    """

    sentences: Sentences
    weight: float = 0.01
    max_logit_scale: float = math.log(100)
    ranks: Meeting = field(default_factory=OwnQueries)

    def pairs(self, model: M2dModel, visible: Ragged, batch: Batch) -> Pairs:
        """visible: what the online encoder made of the visible patches, (V, D)."""
        heard = model.audio.project(visible)
        vectors = self.sentences(batch).to(heard.device, torch.float32)
        return _pairs(model, heard, model.project_sentence(vectors), batch)

    def score(self, pairs: Pairs) -> Tensor:
        return _score(pairs, self.ranks)


def _pairs(model: M2dModel, heard: Tensor, read: Tensor, batch: Batch) -> Pairs:
    """Of (B, embed_dim) twice."""
    return Pairs((heard.float(), read.float()), (model.logit_scale.exp(),), batch.meaning)


def _score(pairs: Pairs, ranks: Meeting) -> Tensor:
    """The symmetric loss."""
    (heard, read), (scale,) = pairs.rows, pairs.factors
    # bf16 would round a logit of 100 to the next half
    with torch.autocast(heard.device.type, enabled=False):
        return contrastive_loss(heard, read, scale, pairs.meaning, ranks=ranks)


def _drawn(masking: Masking, encoder: PatchEncoder, frames: Sequence[int], seed: int) -> Mask:
    """frames: of each clip."""
    patches = [encoder.columns_in(n) * encoder.rows for n in frames]
    return masking.draw(patches, encoder.rows, torch.Generator().manual_seed(seed))


def _seen(model: M2dModel, patches: Ragged, mask: Mask) -> Ragged:
    """Patches (P, D) -> what the online encoder makes of those visible (V, D)."""
    visible = take(patches, mask.visible.to(patches.values.device))
    return split_first(model.audio.encoder.encode(visible))[1]


class M2dTask(PairsTask):
    """Masked modelling alone, or with more on the same forward pass.

    masking: how patches are drawn, from each batch's seed. decay, steps: how the target follows
    over so many steps. contrast: M2D-CLAP. second: a module, (Duo, Batch) -> loss, that belongs to
    the objective (M2D-X, M2D-S, M2D-AS). disturb: what the online encoder hears, of the frames (ΣN,
    F) and the seed of a batch, while the target hears them clean (M2D-X). whole_step: as in
    `PairsTask`.
    """

    def __init__(
        self,
        model: M2dModel,
        duo: MaskedDuo,
        *,
        masking: Masking,
        decay: DecaySpec,
        steps: int,
        weight: float = 1.0,
        contrast: SentenceContrast | None = None,
        second: nn.Module | None = None,
        second_weight: float = 1.0,
        disturb: Disturb | None = None,
        whole_step: bool = False,
    ) -> None:
        super().__init__(whole_step=whole_step)
        self.model, self.duo, self.second = model, duo, second
        self.masking, self.decay, self.steps = masking, decay, steps
        self.weight, self.second_weight = weight, second_weight
        self.contrast, self.disturb = contrast, disturb
        self.metrics: dict[str, float] = {}

    def losses(self, batch: Batch, score: Score) -> Losses:
        tower = self.model.audio
        clean, heard, mask = self._drawn(batch)
        seen = self.duo(tower.encoder, heard, mask, clean=clean if self.disturb else None)
        losses = {"masked": self.weight * seen.loss}
        if self.contrast:
            pairs = self.contrast.pairs(self.model, seen.visible, batch)
            losses["contrastive"] = self.contrast.weight * score(pairs)
        if self.second is not None and self.training:  # its targets are those of training clips
            losses["second"] = self.second_weight * self.second(seen, batch)
        self._measure(seen)
        return losses

    def pairs(self, batch: Batch) -> Pairs:
        """By the online encoder alone: neither target nor predictor."""
        assert self.contrast
        _, heard, mask = self._drawn(batch)
        patches = self.model.audio.encoder.patches(heard)
        return self.contrast.pairs(self.model, _seen(self.model, patches, mask), batch)

    def score(self, pairs: Pairs) -> Tensor:
        assert self.contrast
        return self.contrast.score(pairs)

    def _drawn(self, batch: Batch) -> tuple[Ragged, Ragged, Mask]:
        """Frames as the target and as the online encoder hear them, and what is masked."""
        clean = self.model.audio.front_end(batch.audio)
        heard = self.disturb(clean, batch.seed) if self.disturb else clean
        return clean, heard, self.mask(clean.lengths, batch.seed)

    def mask(self, frames: Sequence[int], seed: int) -> Mask:
        """frames: of each clip."""
        return _drawn(self.masking, self.model.audio.encoder, frames, seed)

    def _measure(self, seen: Duo) -> None:
        patches = len(seen.visible.values) + len(seen.predicted)
        self.metrics = {"tokens": float(patches), "visible": len(seen.visible.values) / patches}
        if self.contrast:
            self.metrics["logit_scale"] = float(self.model.logit_scale.detach().exp())

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Let the target follow, and keep the scale between 1 and its ceiling."""
        self.duo.follow(self.model.audio.encoder, self.decay.at(step, self.steps))
        if self.contrast:
            self.model.logit_scale.clamp_(0, self.contrast.max_logit_scale)


class VisibleContrastTask(PairsTask):
    """Sound against text, by the patches of the first window that `masking` leaves.

    sentences: as in SentenceContrast; None: the model's text tower reads the token ids, and learns.
    frozen: the audio encoder gets no gradient, and its dropout-free pass keeps nothing for one.
    whole_step: as in `PairsTask`.
    """

    def __init__(
        self,
        model: M2dModel,
        *,
        masking: Masking,
        sentences: Sentences | None = None,
        frozen: bool = False,
        weight: float = 1.0,
        max_logit_scale: float = math.log(100),
        ranks: Meeting = OwnQueries(),
        whole_step: bool = False,
    ) -> None:
        super().__init__(whole_step=whole_step)
        self.model, self.masking, self.sentences = model, masking, sentences
        self.frozen, self.weight, self.ranks = frozen, weight, ranks
        self.max_logit_scale = max_logit_scale
        self.metrics: dict[str, float] = {}

    def losses(self, batch: Batch, score: Score) -> Losses:
        return {"contrastive": self.weight * score(self.pairs(batch))}

    def pairs(self, batch: Batch) -> Pairs:
        tower = self.model.audio
        with torch.no_grad() if self.frozen else nullcontext():
            frames = tower.front_end(batch.audio)
            mask = _drawn(self.masking, tower.encoder, frames.lengths, batch.seed)
            patches = tower.encoder.patches(frames)
            visible = _seen(self.model, patches, mask)
        self.metrics = {
            "tokens": float(len(patches.values)),
            "visible": len(visible.values) / len(patches.values),
            "logit_scale": float(self.model.logit_scale.detach().exp()),
        }
        return _pairs(self.model, tower.project(visible), self._read(batch), batch)

    def score(self, pairs: Pairs) -> Tensor:
        return _score(pairs, self.ranks)

    def _read(self, batch: Batch) -> Tensor:
        """(B, embed_dim)."""
        if self.sentences is not None:
            vectors = self.sentences(batch).to(batch.audio.values.device, torch.float32)
            return self.model.project_sentence(vectors)
        return self.model.text(batch.text).clip

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Keep the scale between 1 and its ceiling."""
        self.model.logit_scale.clamp_(0, self.max_logit_scale)
