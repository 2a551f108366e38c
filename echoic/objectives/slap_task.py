"""What one step of SLAP computes (2601.12594, section 2): three losses of one pass over a batch.

    frames -> patches -> clean | masked -> encoder -> tokens     both views in one packed call
    clean tokens  -> pooled, against the pooled caption          contrastive, eq. 3
    masked tokens -> prototypes, as the teacher assigns them     distillation, eq. 4
    clean tokens  -> decoder -> the caption, word by word        captioning, eq. 5

The paper does not say which view the contrastive and the captioning loss hear: the clean one here,
as in SigLIP 2 (2502.14786); `shared_view` gives all three the masked one, at half the cost.

B clips, N frames, P patches of all clips, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from echoic.objectives.assignment import MONITORS
from echoic.objectives.captioning import Decoder, caption_loss
from echoic.objectives.chunked import Meeting
from echoic.objectives.contrastive import unit_contrastive_loss
from echoic.objectives.gather import OwnQueries
from echoic.objectives.grad_cache import Losses, Pairs, PairsTask, Score
from echoic.objectives.monitors import space_monitors
from echoic.objectives.self_distillation import Distilled, DistilledEncoder, SelfDistillation
from echoic.objectives.task import AudioTextModel
from echoic.types import AudioFeatures, Batch, FrameChange, Ragged, TextFeatures


class Contrast(Protocol):
    """A loss of unit vectors of sound and of text (B, D), at the scale of their cosine. A module
    may have parameters, and nothing else that changes."""

    def __call__(
        self, audio: Tensor, text: Tensor, scale: Tensor, meaning: Tensor, /, *, ranks: Meeting
    ) -> Tensor: ...


class MaskableEncoder(DistilledEncoder, Protocol):
    """An audio encoder whose patches can be masked. rows: patch rows of a column."""

    rows: int

    def patchify(self, frames: Ragged) -> Ragged:
        """Frames (ΣN, F) -> raw patches (P, b)."""
        ...

    def features(self, tokens: Ragged) -> AudioFeatures:
        """Tokens (P, D) -> with their times and the clips' pooled vectors."""
        ...


class SlapTower(Protocol):
    """What the task needs of an audio tower, for distillation."""

    front_end: Callable[[Ragged], Ragged]
    encoder: MaskableEncoder


class CaptioningModel(Protocol):
    """What the task needs of a model, for captioning."""

    decoder: Decoder


class Heard(NamedTuple):
    """audio: what the contrastive and the captioning loss hear."""

    audio: AudioFeatures
    distilled: Distilled | None = None


class SlapTask(PairsTask):
    """Weighted losses by name, of a batch.

    contrast: the loss of sound against text, `weight` its own; `ranks` says how the rows of several
    processes meet. distillation: None leaves it out; else the model's audio tower is a `SlapTower`.
    captioning: the weight of what the model's decoder learns; 0 leaves it out. parallel_captions:
    in what share of the batches it foretells all words at once, from the sound alone (CapPa).
    steps: of the whole training. augment: makes, from a batch's seed, the change of the frames that
    the student hears; the teacher hears them unchanged, but where the head alone is its own.
    whole_step: as in `PairsTask`.
    """

    def __init__(
        self,
        model: AudioTextModel,
        *,
        steps: int,
        contrast: Contrast = unit_contrastive_loss,
        weight: float = 1.0,
        distillation: SelfDistillation | None = None,
        captioning: float = 0.0,
        parallel_captions: float = 0.0,
        shared_view: bool = False,
        augment: Callable[[int], FrameChange] | None = None,
        max_logit_scale: float = math.log(100),
        ranks: Meeting = OwnQueries(),
        whole_step: bool = False,
    ) -> None:
        super().__init__(whole_step=whole_step)
        self.model, self.distillation = model, distillation
        self.contrast, self.ranks = contrast, ranks
        self.weight, self.captioning, self.shared_view = weight, captioning, shared_view
        self.parallel_captions = parallel_captions
        self.steps, self.augment, self.max_logit_scale = steps, augment, max_logit_scale
        self.metrics: dict[str, float | Tensor] = {}

    def losses(self, batch: Batch, score: Score) -> Losses:
        audio, distilled = self._hear(batch)
        text = self.model.text(batch.text)
        pairs = self._pairs(audio, text, batch)
        losses = {"contrastive": self.weight * score(pairs)}
        with torch.autocast(audio.clip.device.type, enabled=False):
            of_space = space_monitors(*pairs.rows)
        # the log's line shows the first ones, its file all
        monitors = {"logit_scale": pairs.factors[0]}
        of_patches: dict[str, Tensor] = {}
        if self.captioning:
            tokens = Ragged(audio.tokens, audio.offsets)
            decoder = cast(CaptioningModel, self.model).decoder
            said = caption_loss(decoder, tokens, batch.text, parallel=self._parallel(batch.seed))
            losses["captioning"] = self.captioning * said.loss
            monitors["word_accuracy"] = said.accuracy
        if distilled is not None and self.distillation is not None:
            losses["distillation"] = self.distillation.spec.weight * distilled.loss
            of_patches = dict(zip(MONITORS, distilled.monitors, strict=True))
            monitors["prototype_use"] = of_patches["prototype_use"]
        tokens_in = float(len(audio.tokens) + len(text.tokens))
        monitors |= of_space | of_patches
        self.metrics = {"tokens": tokens_in, **{n: v.detach() for n, v in monitors.items()}}
        return losses

    def pairs(self, batch: Batch) -> Pairs:
        return self._pairs(self._hear(batch, alone=True).audio, self.model.text(batch.text), batch)

    def _pairs(self, audio: AudioFeatures, text: TextFeatures, batch: Batch) -> Pairs:
        with torch.autocast(audio.clip.device.type, enabled=False):
            rows = tuple(F.normalize(x.clip.float(), dim=-1) for x in (audio, text))
            factors = (self.model.logit_scale.exp(), *_learnt(self.contrast).values())
        return Pairs(rows, factors, batch.meaning)

    def score(self, pairs: Pairs) -> Tensor:
        scale, *learnt = pairs.factors
        given, ranks = (*pairs.rows, scale, pairs.meaning), {"ranks": self.ranks}
        with torch.autocast(scale.device.type, enabled=False):
            if not isinstance(self.contrast, nn.Module):
                return self.contrast(*given, **ranks)
            by_name = dict(zip(_learnt(self.contrast), learnt, strict=True))
            loss: Tensor = functional_call(self.contrast, by_name, given, ranks)
            return loss

    def _parallel(self, seed: int) -> bool:
        """Drawn for a batch, so that it stays one call of the decoder."""
        return self.training and np.random.default_rng(seed).random() < self.parallel_captions

    def _hear(self, batch: Batch, *, alone: bool = False) -> Heard:
        """alone: without what distillation alone hears. The encoder draws nothing, so that a clip
        is the same to it."""
        change = self.augment(batch.seed) if self.augment and self.training else None
        if self.distillation is not None:
            return self._hear_views(batch, change, self.distillation, alone=alone)
        draw = np.random.default_rng(batch.seed) if self.training else None
        return Heard(self.model.audio(batch.audio, change, draw))

    def _hear_views(
        self,
        batch: Batch,
        change: FrameChange | None,
        distillation: SelfDistillation,
        *,
        alone: bool,
    ) -> Heard:
        """Clean and masked clips lie end to end in one pass through the encoder."""
        tower = cast(SlapTower, self.model.audio)
        encoder, frames = tower.encoder, tower.front_end(batch.audio)
        patches = encoder.patchify(frames)
        heard = encoder.patchify(change(frames)) if change else patches
        clean = encoder.embed(heard.values)
        mask = distillation.draw(heard.lengths, encoder.rows, batch.seed)
        views = [] if alone and not self.shared_view else [distillation.hide(clean, mask)]
        if not self.shared_view:
            views.append(clean)
        both = Ragged.from_lengths(torch.cat(views), heard.lengths * len(views))
        tokens = encoder.encode(both).values.split(len(clean))
        features = encoder.features(Ragged(tokens[-1], heard.offsets))
        if alone:
            return Heard(features)
        taught = distillation.teach(
            encoder, patches, clean=None if self.shared_view else tokens[-1]
        )
        return Heard(features, distillation(tokens[0], taught, mask))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Let the teacher follow, and keep the scale between 1 and its ceiling."""
        self.model.logit_scale.clamp_(0, self.max_logit_scale)
        if self.distillation is not None:
            encoder = cast(SlapTower, self.model.audio).encoder
            self.distillation.after_step(encoder, step, self.steps)


def _learnt(contrast: Contrast) -> dict[str, nn.Parameter]:
    """Its own parameters."""
    return dict(contrast.named_parameters()) if isinstance(contrast, nn.Module) else {}
