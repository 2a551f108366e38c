"""The tower that hears windows of one length, filled where a clip is shorter (LAION-CLAP,
2211.06687, section 4.1); with feature fusion it hears a longer recording whole, as one global and
three local views.

B clips, T samples, N frames of a clip, W frames of a window, F mel bins, K clips longer
than the window, P tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from echoic.audio.frontend import FrontEnd, FrontEndSpec
from echoic.audio.views import (
    centred_starts,
    fill_window,
    fusion_views,
    int16_round_trip,
    laion_starts,
)
from echoic.encoders.htsat import HtsatEncoder, HtsatSpec
from echoic.encoders.pann import PannEncoder, PannSpec
from echoic.nn.mlp import two_layers
from echoic.types import AudioFeatures, FrameChange, Ragged


class WindowTower(nn.Module):
    """Ragged samples (ΣT,) at `rate_hz` -> AudioFeatures, clip (B, embed_dim) projected.

    Without fusion no clip may be longer than `max_s`, the window. With fusion `longest_s` is
    without limit: a longer clip is seen as its views. Tokens are the encoder's time steps that lie
    in the clip, with their times there.
    """

    def __init__(
        self, front_end: FrontEndSpec, spec: HtsatSpec | PannSpec, *, embed_dim: int
    ) -> None:
        super().__init__()
        self.spec, self.fused = spec, spec.fusion is not None
        self.rate_hz = front_end.rate_hz
        self.max_s = spec.window_samples / front_end.rate_hz
        self.longest_s = math.inf if self.fused else self.max_s
        self.front_end = FrontEnd(front_end)
        self.window_frames = front_end.frames(spec.window_samples)
        self.encoder = _window_encoder(front_end, spec)
        self.projection = two_layers(self.encoder.width, embed_dim)

    def forward(
        self,
        audio: Ragged,
        augment: FrameChange | None = None,
        draw: np.random.Generator | None = None,
    ) -> AudioFeatures:
        """augment: SpecAugment, for training. draw: where the local views of long clips start, as
        upstream draws them; None puts them in the middle of their thirds.

        Raises ValueError on a clip that is too long.
        """
        frames = self.front_end.of_clips(self.prepared(clip) for clip in audio)
        durations_s = [n / self.rate_hz for n in audio.lengths]
        return self.from_frames(list(frames), durations_s, augment=augment, draw=draw)

    def prepared(self, clip: Tensor, *, rounded: bool = True) -> Tensor:
        """Samples (T,) as the front end gets them: (window_samples,), or longer with fusion.
        rounded: to 16 bits, where the model does so."""
        window = self.spec.window_samples
        if len(clip) > window and not self.fused:
            raise ValueError(f"{len(clip)} samples are more than the window of {window}")
        if rounded and self.spec.int16:
            clip = int16_round_trip(clip)
        return clip if len(clip) > window else fill_window(clip, window, self.spec.fill)

    def frames_of(self, blocks: Iterable[np.ndarray]) -> tuple[Tensor, float]:
        """Log-mel frames (N, F) and seconds of one recording that comes in blocks (T,).

        Holds the frames, 92 MB an hour at 100 frames a second, and not the samples.
        """
        device = self.front_end.window.device
        arriving = (torch.from_numpy(block).to(device) for block in blocks)
        first: list[Tensor] = []
        samples = 0
        for block in arriving:
            first.append(block.clone())  # whoever handed it may fill its place anew
            samples += len(block)
            if samples > self.spec.window_samples:
                break
        else:  # not longer than a window
            whole = self.prepared(torch.cat(first))
            return self.front_end.of_clips([whole]).values, samples / self.rate_hz
        count = _Count()
        rest = count.of(chain(first, arriving))
        ready = (int16_round_trip(block) for block in rest) if self.spec.int16 else rest
        frames = torch.cat(list(self.front_end.stream(ready)))
        return frames, count.samples / self.rate_hz

    def from_frames(
        self,
        frames: Sequence[Tensor],
        durations_s: Sequence[float],
        *,
        augment: FrameChange | None = None,
        draw: np.random.Generator | None = None,
    ) -> AudioFeatures:
        """The same from log-mel frames: one window (W, F) each, or with fusion any number
        (N, F)."""
        seen = [self._views(each, draw) for each in frames]
        longer = torch.tensor([local is not None for _, local in seen])
        local = [local for _, local in seen if local is not None]
        features: AudioFeatures = self.encoder(
            torch.stack([view for view, _ in seen]),
            torch.stack(local) if local else None,
            longer.to(frames[0].device),
            augment,
        )
        return self._in_clips(features, durations_s, longer.tolist())

    @property
    def token_width(self) -> int:
        """D of its tokens."""
        return self.encoder.width

    def tokens_in(self, duration_s: float) -> int:
        """What a clip costs, in tokens: all cost the same."""
        return self.encoder.steps

    @property
    def at_once(self) -> int:
        """Tokens in one inference call: two windows, so that its layers stay in the cache of a
        core; many on an accelerator."""
        windows = 2 if self.front_end.window.device.type == "cpu" else 64
        return windows * self.tokens_in(0.0)

    def _views(
        self, frames: Tensor, draw: np.random.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """Frames (N, F) -> the view of the whole (W, F), and the local ones (3, W, F) of a long
        clip."""
        width = self.window_frames
        if len(frames) <= width:
            return frames, None
        total = len(frames)
        starts = centred_starts(total, width) if draw is None else laion_starts(total, width, draw)
        return fusion_views(frames, width, starts)

    def _in_clips(
        self, features: AudioFeatures, durations_s: Sequence[float], longer: Sequence[bool]
    ) -> AudioFeatures:
        """Project; keep the tokens that lie in their clip, not in its repetition, with their times
        there."""
        tokens = features.tokens.unflatten(0, (len(durations_s), -1))
        time_s = features.time_s.unflatten(0, (len(durations_s), -1)).cpu()
        rows, times = [], []
        for i, (duration_s, long) in enumerate(zip(durations_s, longer, strict=True)):
            at = time_s[i] * (duration_s / self.max_s) if long else time_s[i]
            count = max(1, int((at < duration_s).sum()))
            rows.append(tokens[i, :count])
            times.append(at[:count])
        packed = Ragged.from_rows(rows)
        clip = self.projection(features.clip.float())
        return AudioFeatures(packed.values, packed.offsets, torch.cat(times).to(clip.device), clip)


def _window_encoder(
    front_end: FrontEndSpec, spec: HtsatSpec | PannSpec
) -> HtsatEncoder | PannEncoder:
    bins, frame_s = front_end.mel_bins, front_end.hop_samples / front_end.rate_hz
    if isinstance(spec, HtsatSpec):
        return HtsatEncoder(spec, mel_bins=bins, frame_s=frame_s)
    frames = front_end.frames(spec.window_samples)
    return PannEncoder(spec, mel_bins=bins, frames=frames, frame_s=frame_s)


class _Count:
    """Counts the samples that pass."""

    samples = 0

    def of(self, blocks: Iterable[Any]) -> Iterator[Any]:
        for block in blocks:
            self.samples += len(block)
            yield block
