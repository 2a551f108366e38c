"""A model's vectors along time, at equal steps: what HEAR and X-ARES ask of an encoder.

What one vector is; its time is the model's own `AudioFeatures.time_s`:

    M2D         a column of patches, its rows stacked from low to high: `features(..., "stacked")`,
                which M2D's papers evaluate; 160 ms, R D wide
    SLAP        a column of patches, its rows stacked in the same way; 160 ms, R D wide
    HTSAT       a time step of the last grid, before the projection; 313 ms, D wide
    PANN        a time step of the last block, before the projection; 320 ms (CNN6 160), D wide

A finer step is made by linear interpolation between them. All of a long recording is heard: an M2D
parts it by itself; the others hear windows of whole steps, the last of which ends with the
recording, and where two windows heard a step their mean counts. Feature fusion's views of a whole
recording are not used: they know time only coarsely.

B clips, T samples, S steps, R patch rows of a column, D width of a token, W of a step.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from echoic.api import EchoicModel, load
from echoic.encoders.htsat import HtsatEncoder
from echoic.listening import AudioTower
from echoic.towers import M2dTower, PackedTower
from echoic.types import AudioError, AudioFeatures, ConfigError, EchoicError

MODEL_VARIABLE = "ECHOIC_MODEL"


class Steps(NamedTuple):
    """vectors: (B, S, W) float32, on the CPU. time_s: (S,) float64, the centre of each."""

    vectors: Tensor
    time_s: Tensor


class Grid(NamedTuple):
    """The steps of a tower: the centre of the first, and from one to the next."""

    first_s: float
    step_s: float


class StepModel(nn.Module):
    """A frozen model that is heard step by step. As a module it moves its network to a device; it
    stays in evaluation mode."""

    def __init__(
        self, model: EchoicModel | str | Path | None = None, *, hop_ms: float | None = None
    ) -> None:
        """model: a loaded model, or the path or name of one; None: what ECHOIC_MODEL names.
        hop_ms: from one step to the next, at most the model's own, which None takes.

        Raises ConfigError, and CheckpointError where there is no such model.
        """
        super().__init__()
        self.model = model if isinstance(model, EchoicModel) else load(_named(model))
        self.network = self.model.network  # so that the module's device is the network's
        self.grid = grid_of(self.network.audio)
        self.hop_s = _hop_s(self.grid.step_s, hop_ms)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Nothing: it is frozen."""
        return super().train(False)

    @property
    def step_width(self) -> int:
        """W."""
        tower = self.network.audio
        if isinstance(tower, M2dTower):
            return tower.spec.width * tower.encoder.rows
        return tower.token_width * _rows_in_step(tower)

    def steps(self, audio: Tensor) -> Steps:
        """Sounds of one length (B, T) at the model's rate. There are T / hop steps, rounded up; the
        last may have its centre after the end.

        No gradient, no random number, and no sound counts for another. Raises EchoicError,
        AudioError.
        """
        waves = as_waves(audio)
        known = self._windows(waves)
        duration_s = waves.shape[1] / self.model.rate_hz
        count = max(1, math.ceil(duration_s / self.hop_s - 1e-6))
        own = self.hop_s == self.grid.step_s
        first_s = self.grid.first_s if own else self.hop_s / 2
        time_s = first_s + torch.arange(count, dtype=torch.float64) * self.hop_s
        return Steps(_interpolated(known, time_s), time_s)

    def _windows(self, waves: np.ndarray) -> Steps:
        """The model's own steps, of all windows."""
        tower, rate_hz, samples = self.network.audio, self.model.rate_hz, waves.shape[1]
        window, step = round(tower.max_s * rate_hz), self.grid.step_s * rate_hz
        if isinstance(tower, M2dTower) or samples <= window:
            return self._heard(waves)
        whole = max(1, math.floor(window / step))
        last = math.ceil((samples - window) / step)
        heard: list[Steps] = []
        for first in (*range(0, last, whole), last):
            start = round(first * step)
            vectors, time_s = self._heard(waves[:, start : start + window])
            if first != last:  # the next window hears the rest, and hears it whole
                vectors, time_s = vectors[:, :whole], time_s[:whole]
            heard.append(Steps(vectors, time_s + start / rate_hz))
        vectors = torch.cat([each.vectors for each in heard], dim=1)
        return _merged(Steps(vectors, torch.cat([each.time_s for each in heard])), self.grid)

    def _heard(self, waves: np.ndarray) -> Steps:
        """Of sounds (B, T) that the tower hears at once, few of them in one call."""
        tower = self.network.audio
        cost = max(1, tower.tokens_in(waves.shape[1] / self.model.rate_hz))
        few = max(1, tower.at_once // cost)
        parts = [self._features(waves[i : i + few]) for i in range(0, len(waves), few)]
        tokens = torch.cat([part.tokens.float().cpu() for part in parts])
        vectors = tokens.unflatten(0, (len(waves), -1)).reshape(len(waves), -1, self.step_width)
        rows = _rows_in_step(tower)
        length = vectors.shape[1] * rows
        return Steps(vectors, parts[0].time_s[:length:rows].double().cpu())

    def _features(self, waves: np.ndarray) -> AudioFeatures:
        if isinstance(self.network.audio, M2dTower):
            return self.model.features(list(waves), "stacked")
        return self.model.audio_features(list(waves))


def as_waves(audio: Tensor) -> np.ndarray:
    """Sounds (B, T), or one (T,), as an array (B, T) float32 on the CPU. Raises EchoicError on
    another shape and where there is no sample, AudioError where one is not finite."""
    waves = audio.detach().to("cpu", torch.float32)
    waves = waves[None] if waves.ndim == 1 else waves
    if waves.ndim != 2 or not waves.numel():
        raise EchoicError(f"sounds must be (n_sounds, n_samples), and not {tuple(audio.shape)}")
    if len(broken := (~waves.isfinite().all(1)).nonzero()):
        raise AudioError(f"sound {int(broken[0])} of the batch", "holds NaN or infinity")
    array: np.ndarray = waves.numpy()
    return array


def grid_of(tower: AudioTower) -> Grid:
    """Where a tower's steps lie, by its own times."""
    if isinstance(tower, M2dTower | PackedTower):
        frame_s, frames = tower.encoder.frame_s, tower.encoder.spec.patch_frames
        centre = (frames - 1) / 2 if isinstance(tower, M2dTower) else frames / 2
        return Grid(centre * frame_s, frames * frame_s)
    if isinstance(tower.encoder, HtsatEncoder):
        first_s, second_s = tower.encoder.time_s(tower.window_frames)[:2].double().tolist()
        return Grid(first_s, second_s - first_s)
    step_s = tower.encoder.repeat * tower.encoder.frame_s
    return Grid(step_s / 2, step_s)


def _rows_in_step(tower: AudioTower) -> int:
    """Tokens of `_features` that one step is made of."""
    return tower.encoder.rows if isinstance(tower, PackedTower) else 1


def _merged(heard: Steps, grid: Grid) -> Steps:
    """Steps of windows that overlap: of two at one place, the mean."""
    place = ((heard.time_s - grid.first_s) / grid.step_s).round().long()
    found, where, times = place.unique(return_inverse=True, return_counts=True)
    if len(found) == len(place):
        return heard
    batch, _, width = heard.vectors.shape
    vectors = heard.vectors.new_zeros(batch, len(found), width)
    vectors = vectors.index_add(1, where, heard.vectors) / times[:, None]
    time_s = heard.time_s.new_zeros(len(found)).index_add(0, where, heard.time_s) / times
    return Steps(vectors, time_s)


def _interpolated(known: Steps, time_s: Tensor) -> Tensor:
    """(B, S, W) at `time_s` (S,): between two steps linear, beyond the outermost as they are."""
    if len(known.time_s) == 1:
        return known.vectors.expand(-1, len(time_s), -1).contiguous()
    after = torch.searchsorted(known.time_s, time_s).clamp(1, len(known.time_s) - 1)
    left, right = known.time_s[after - 1], known.time_s[after]
    share = ((time_s - left) / (right - left)).clamp(0, 1).to(known.vectors)
    return torch.lerp(known.vectors[:, after - 1], known.vectors[:, after], share[:, None])


def _named(model: str | Path | None) -> str | Path:
    if named := model or os.environ.get(MODEL_VARIABLE):
        return named
    raise ConfigError(f"no model given: name its file, or set {MODEL_VARIABLE}")


def _hop_s(own_s: float, hop_ms: float | None) -> float:
    if hop_ms is None:
        return own_s
    if not 0 < hop_ms <= own_s * 1000:
        raise ConfigError(
            f"hop_ms {hop_ms:g}: must be above 0 and at most this model's own {own_s * 1000:g}"
        )
    return hop_ms / 1000
