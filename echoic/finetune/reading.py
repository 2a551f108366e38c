"""How a tower is heard by the head that is trained on it: samples in, one vector per clip out.

Any tower by its own clip vector (`Reading`); an M2D also as it is tuned on labels (`M2dReading`,
2210.14648, section IV-A; 2503.22104, stage 1.1): an input of fixed length, part of its patches
hidden in training, no projector. Nothing is random but what a `BatchChange` brings, and that comes
in training only.

B clips, T samples, N frames, P patches, R patch rows of a column, D width, W width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from echoic.api import EchoicModel
from echoic.config import Spec
from echoic.encoders.m2d import for_window
from echoic.finetune.augment import MASKED, stream
from echoic.listening import AudioTower, clip_vectors
from echoic.model import ModelSpec
from echoic.nn.masking import Mask, StructuredMask, take
from echoic.nn.vit import row_means, split_first
from echoic.objectives.tagging import BatchChange
from echoic.towers import M2dTower
from echoic.train.process import isolated_rng
from echoic.types import AudioFeatures, ConfigError, Ragged


class M2dInput(Spec):
    """How an M2D is tuned on labels.

    frames: of the input. Shorter clips are filled with silence, of longer ones a window is heard;
    positions for more than the model's window are made of its own. None: as long as the clip is, up
    to the model's window. mask: the patches hidden in training. With a mask the vector is the mean
    over patches (W = D), without one over columns, rows end to end (W = R D). freeze_patches: leave
    the patch embedding as it is.
    """

    frames: Annotated[int, Field(ge=2)] | None = None
    mask: StructuredMask | None = None
    freeze_patches: bool = False


class Reading(nn.Module):
    """A tower by its own clip vector. Ragged samples (ΣT,) at `rate_hz` -> AudioFeatures with clip
    (B, W). width: W."""

    def __init__(self, tower: AudioTower, width: int) -> None:
        super().__init__()
        self.tower, self.width = tower, width

    def forward(self, audio: Ragged, change: BatchChange | None = None) -> AudioFeatures:
        heard: AudioFeatures
        if change is None:
            heard = self.tower(audio)
        else:
            heard = self.tower(change.waves(audio), change.frames)
        return heard

    def vectors(self, waves: Iterable[np.ndarray]) -> Tensor:
        """(B, W) of whole waves (T,), on the CPU; of one longer than what is heard at once, the
        mean over windows in which every sample counts once."""
        return clip_vectors(self, waves)

    @property
    def rate_hz(self) -> int:
        return self.tower.rate_hz

    @property
    def longest_s(self) -> float:
        """Of a clip that is heard at once."""
        return self.tower.longest_s

    @property
    def at_once(self) -> int:
        """Tokens in one inference call."""
        return self.tower.at_once

    def tokens_in(self, duration_s: float) -> int:
        return self.tower.tokens_in(duration_s)


class M2dReading(Reading):
    """An M2D as `M2dInput` describes. Its window must hold the input, see `lengthened`."""

    tower: M2dTower

    def __init__(self, tower: M2dTower, spec: M2dInput) -> None:
        rows = 1 if spec.mask else tower.encoder.rows
        super().__init__(tower, rows * tower.spec.width)
        self.spec = spec

    def forward(self, audio: Ragged, change: BatchChange | None = None) -> AudioFeatures:
        """Tokens: the visible patches, or the stacked columns."""
        audio = self._fitted(audio)
        if change is None:
            return self._heard(self._patches(self.tower.front_end(audio)))
        frames = self.tower.front_end(change.waves(audio))
        patches = self._patches(change.frames(frames))
        return self._heard(patches, self.mask(patches, change.seed))

    def mask(self, patches: Ragged, seed: int) -> Mask | None:
        """Which patches are hidden in the batch of that seed; None: none."""
        if self.spec.mask is None:
            return None
        draw = torch.Generator().manual_seed(int(stream(seed, MASKED).integers(2**63)))
        mask = self.spec.mask.draw(patches.lengths, self.tower.encoder.rows, draw)
        return mask.to(patches.values.device)

    @property
    def longest_s(self) -> float:
        return self._most_samples / self.rate_hz

    def tokens_in(self, duration_s: float) -> int:
        if self.spec.frames is not None:
            duration_s = self.longest_s
        return self.tower.tokens_in(min(duration_s, self.longest_s))

    @property
    def _most_samples(self) -> int:
        window = self.tower.encoder.columns * self.tower.spec.patch_frames
        return ((self.spec.frames or window) - 1) * self.tower.front_end.spec.hop_samples

    def _fitted(self, audio: Ragged) -> Ragged:
        """Samples as long as the input is."""
        if self.spec.frames is None:
            return audio
        length = self._most_samples
        rows = [F.pad(clip[:length], (0, max(0, length - len(clip)))) for clip in audio]
        return Ragged.from_rows(rows)

    def _patches(self, frames: Ragged) -> Ragged:
        """(ΣN, F) -> embedded (P, D). An input of fixed length is heard as far as its columns are
        whole, as published; a clip of its own length in full, filled up with 0, the mean."""
        if self.spec.frames is None:
            step = self.tower.spec.patch_frames
            frames = Ragged.from_rows([F.pad(x, (0, 0, 0, -len(x) % step)) for x in frames])
        return self.tower.encoder.patches(frames)

    def _heard(self, patches: Ragged, mask: Mask | None = None) -> AudioFeatures:
        time_s = self._times(patches)
        if mask is not None:
            patches, time_s = take(patches, mask.visible), time_s[mask.visible.values]
        tokens = split_first(self.tower.encoder.encode(patches))[1]
        if self.spec.mask is None:
            rows = self.tower.encoder.rows
            stacked = tokens.values.unflatten(0, (-1, rows)).flatten(1)
            tokens, time_s = Ragged(stacked, tokens.offsets // rows), time_s[::rows]
        clip = row_means(Ragged(tokens.values.float(), tokens.offsets))
        return AudioFeatures(tokens.values, tokens.offsets, time_s, clip)

    def _times(self, patches: Ragged) -> Tensor:
        """(P,) the centre of each patch in its clip."""
        encoder, step = self.tower.encoder, self.tower.spec.patch_frames
        columns = torch.cat([torch.arange(n) // encoder.rows for n in patches.lengths])
        return ((columns * step + (step - 1) / 2) * encoder.frame_s).to(patches.values.device)


def read_by(tower: AudioTower, m2d: M2dInput | None, width: int) -> Reading:
    """width: of the tower's own clip vector. Raises ConfigError where `m2d` is asked of another
    kind of model."""
    if m2d is None:
        return Reading(tower, width)
    if not isinstance(tower, M2dTower):
        raise ConfigError(
            "these settings tune an M2D (their part m2d), and this model is none: add m2d=null"
        )
    return M2dReading(tower, m2d)


def to_be_tuned(model: EchoicModel, m2d: M2dInput | None) -> tuple[ModelSpec, Reading]:
    """A copy of the model's tower, ready to learn, and the description of the model with it in its
    place. Raises ConfigError as `read_by`."""
    spec, tower = model.network.spec, deepcopy(model.network.audio).requires_grad_()
    if m2d is not None and m2d.frames is not None and isinstance(tower, M2dTower):
        spec, tower = lengthened(spec, tower, m2d.frames)
    reading = read_by(tower, m2d, model.embed_dim)
    if m2d is not None and m2d.freeze_patches and isinstance(reading, M2dReading):
        reading.tower.encoder.patch_embed.requires_grad_(False)
    return spec, reading


def lengthened(spec: ModelSpec, tower: M2dTower, frames: int) -> tuple[ModelSpec, M2dTower]:
    """A model's tower for a window of so many frames, its positions resampled along time, and the
    description that goes with it; those given where the window has as many columns already."""
    longer_window = for_window(tower.encoder, frames)
    if longer_window is None:
        return spec, tower
    audio, table = longer_window
    front = spec.front_end
    max_s = max(spec.max_s, (frames - 1) * front.hop_samples / front.rate_hz)
    with isolated_rng():  # what it draws is replaced at once
        longer = M2dTower(front, audio, embed_dim=spec.embed_dim, max_s=max_s)
    longer.load_state_dict(tower.state_dict() | {"encoder.pos_embed": table})
    return spec.model_copy(update={"audio": audio, "max_s": max_s}), longer.to(table.device)
