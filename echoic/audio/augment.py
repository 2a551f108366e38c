"""Training-time changes to sound: of the waveform (in the loader's threads) and of the log-mel
frames (in the step).

`WaveAugment` plays faster or slower, shifts and scales; `FrameAugment` is SpecAugment (1904.08779;
SLAP, 2601.12594, section 2, uses it) with two more changes that stand for another voice or room: a
warp of the mel axis (vocal tract length perturbation) and a smooth equaliser (FilterAugment,
2110.03282). All draws come from a passed generator.

B clips, T samples, N frames, F mel bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from echoic.config import Spec
from echoic.types import Ragged

Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class WaveAugment(Spec):
    """speed: largest change of tempo and pitch together, as a share (0.1: 10 %). gain_db: largest
    change of level. shift_s: most silence put before the clip."""

    speed: Amount = 0.0
    gain_db: Amount = 0.0
    shift_s: Amount = 0.0

    def __call__(self, wave: np.ndarray, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
        """(T,) float32 -> (T',) float32."""
        rate = math.exp(rng.uniform(-1, 1) * math.log1p(self.speed))
        gain = 10 ** (rng.uniform(-1, 1) * self.gain_db / 20)
        lead = round(rng.uniform(0, 1) * self.shift_s * rate_hz)
        if self.speed and len(wave) > 1:
            # Linear interpolation: its aliasing is far below what the other changes do, and it is
            # cheap.
            at = np.arange(max(1, int(len(wave) / rate)), dtype=np.float64) * rate
            wave = np.interp(at, np.arange(len(wave)), wave)
        out = np.zeros(lead + len(wave), np.float32)
        np.multiply(wave, gain, out=out[lead:], casting="unsafe")
        return out


class FrameAugment(Spec):
    """time_share: longest time stripe as a share of the clip; freq_bins: widest frequency stripe;
    warp: largest stretch of the mel axis, as a share; eq: largest change by the equaliser, in units
    of the normalised frames."""

    stripes: Annotated[int, Field(ge=0)] = 2
    time_share: Share = 0.0
    freq_bins: Annotated[int, Field(ge=0)] = 0
    warp: Amount = 0.0
    eq: Amount = 0.0

    def seeded(self, seed: int) -> SeededFrameAugment:
        """The same change with its draws fixed: a function of frames that a tower takes."""
        return SeededFrameAugment(self, seed)


@dataclass(frozen=True)
class SeededFrameAugment:
    spec: FrameAugment
    seed: int

    def __call__(self, frames: Ragged) -> Ragged:
        """Normalised log-mel frames (ΣN, F) -> the same shape; stripes are set to 0, the mean."""
        spec, values = self.spec, frames.values
        clips, bins, device = len(frames), values.shape[1], values.device
        # drawn on the CPU, so that every device sees the same; as many draws whatever the lengths
        draw = torch.Generator().manual_seed(self.seed)
        lengths = torch.tensor(frames.lengths)
        clip = torch.repeat_interleave(torch.arange(clips), lengths)
        if spec.warp:
            stretch = _uniform(clips, draw) * spec.warp
            values = _warp_mel(values, clip.to(device), stretch.to(device))
        if spec.eq:
            values = values + _equaliser(clips, bins, spec.eq, draw).to(device)[clip.to(device)]
        if spec.stripes and (spec.time_share or spec.freq_bins):
            values = values.masked_fill(self._stripes(lengths, clip, bins, draw).to(device), 0.0)
        return Ragged(values, frames.offsets)

    def _stripes(self, lengths: Tensor, clip: Tensor, bins: int, draw: torch.Generator) -> Tensor:
        """(ΣN, F) bool: where a stripe lies."""
        step = torch.cat([torch.arange(int(n)) for n in lengths])
        time = torch.zeros(len(clip), dtype=torch.bool)
        freq = torch.zeros(len(lengths), bins, dtype=torch.bool)
        for _ in range(self.spec.stripes):
            time |= _inside(step[:, None], lengths * self.spec.time_share, lengths, draw, clip)[
                :, 0
            ]
            widest = torch.full_like(lengths, min(self.spec.freq_bins, bins))
            freq |= _inside(torch.arange(bins)[None], widest, torch.full_like(lengths, bins), draw)
        return time[:, None] | freq[clip]


def _inside(
    at: Tensor, widest: Tensor, room: Tensor, draw: torch.Generator, clip: Tensor | None = None
) -> Tensor:
    """Whether `at` lies in a stripe of random width up to `widest`, placed at random in `room`; one
    per clip."""
    width = (torch.rand(len(room), generator=draw) * widest).floor()
    start = (torch.rand(len(room), generator=draw) * (room - width + 1)).floor()
    stop = start + width
    if clip is not None:
        start, stop = start[clip], stop[clip]
    return (at >= start[:, None]) & (at < stop[:, None])


def _warp_mel(values: Tensor, clip: Tensor, stretch: Tensor) -> Tensor:
    """Read mel bin f at f * exp(stretch of the clip), linearly interpolated, held at the top."""
    bins = values.shape[1]
    own = torch.arange(bins, device=values.device)
    at = (own * stretch[:, None].exp()).clamp(max=bins - 1)  # (B, F)
    low = at.floor().long()
    share = (at - low)[clip]
    below = values.gather(1, low[clip])
    above = values.gather(1, (low + 1).clamp(max=bins - 1)[clip])
    return torch.lerp(below, above, share)


def _equaliser(clips: int, bins: int, most: float, draw: torch.Generator, knots: int = 4) -> Tensor:
    """(B, F): straight lines between a few random levels."""
    levels = (torch.rand(clips, 1, knots, generator=draw) * 2 - 1) * most
    curve = torch.nn.functional.interpolate(levels, bins, mode="linear", align_corners=True)
    return curve[:, 0]


def _uniform(count: int, draw: torch.Generator) -> Tensor:
    return torch.rand(count, generator=draw) * 2 - 1
