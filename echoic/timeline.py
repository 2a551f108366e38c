"""Tagging over time: how well each label fits a recording, step by step, from un-pooled tokens.

A step's vector is what the model's own pooling makes of the tokens around it, a window of about a
second, so that it lies in the space where clips and texts are compared:

    SLAP        attention pooling (the MAP head) over the window's patches (2601.12594, section 2)
    M2D-CLAP    the projector over the window's patches (2406.02032; 2503.22104)
    HTSAT       the mean of the window's time steps, projected; over a whole clip that is its vector
                (2202.00874, section 2.2: these steps are what HTSAT finds events by)
    PANN        maximum plus mean of the window's time steps, then both layers (1912.10211)

The tokens have heard their surroundings: up to what the model hears at once. A recording is heard
in stretches of that length which overlap, each step in the one that has enough on both sides of it;
so any length takes the same memory, and blocks as they come give what the whole file gives, bit for
bit.

T samples, N steps, P tokens, D embedding width, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from echoic.audio.windows import stream_windows
from echoic.encoders.htsat import HtsatEncoder
from echoic.eval.events import Span
from echoic.eval.ranks import Floats
from echoic.listening import AudioTower, Blocks, Piece
from echoic.nn.vit import row_means
from echoic.spans import THRESHOLD, Medians, SpanFinder, SpanRule
from echoic.towers import M2dTower, PackedTower
from echoic.types import AudioFeatures, EchoicError, Ragged

Scale = Literal["probability", "cosine"]
_SLIVER = 0.1  # of a step: a shorter last one belongs to the one before


@dataclass(frozen=True)
class Steps:
    """How finely a recording is read. step_s: from one step to the next. window_s: what is pooled
    for a step, around its middle. context_s: what is heard at once; None: all that the model can.
    """

    step_s: float = 0.2
    window_s: float = 1.0
    context_s: float | None = None

    def context_of(self, tower: AudioTower) -> float:
        """Seconds heard at once. Raises EchoicError on what cannot be."""
        context_s = tower.max_s if self.context_s is None else self.context_s
        if not 0 < self.step_s <= self.window_s:
            raise EchoicError(
                f"steps of {self.step_s:g} s with windows of {self.window_s:g} s leave gaps: a "
                "window must be as long as a step, or longer"
            )
        if not 3 * self.window_s - 1e-9 <= context_s <= tower.max_s:
            raise EchoicError(
                f"{context_s:g} s at once: this model hears up to {tower.max_s:g} s, and windows "
                f"of {self.window_s:g} s need three times that"
            )
        return context_s

    def delay_s(self, tower: AudioTower) -> tuple[float, float]:
        """How far behind live the middle of a step is when its vector comes: at least, at most.
        The first come when all of a context was heard. A smaller context means less delay, and
        more work: it is heard anew every context less two windows. Raises EchoicError."""
        return self.window_s, self.context_of(tower) - self.window_s


@dataclass(frozen=True)
class Timeline:
    """Scores of one recording over time.

    cosines: (N, C) of each step with each label, in [-1, 1]. probabilities: (N, C) their softmax
    over the labels at the model's scale, as `classify` has it: it says which of the labels, not
    whether any. step_s: step n is from n step_s to (n + 1) step_s, the last one to the end.
    """

    labels: tuple[str, ...]
    step_s: float
    duration_s: float
    cosines: Floats = field(repr=False)
    probabilities: Floats = field(repr=False)

    @classmethod
    def of_parts(
        cls, labels: Sequence[str], step_s: float, parts: Sequence[ScoredStretch]
    ) -> Timeline:
        """Of a recording's stretches, in order."""
        none = np.zeros((0, len(labels)))
        return cls(
            tuple(labels),
            step_s,
            parts[-1].heard_s if parts else 0.0,
            np.concatenate([none, *(each.cosines for each in parts)]),
            np.concatenate([none, *(each.probabilities for each in parts)]),
        )

    @property
    def times_s(self) -> Floats:
        """(N,) where the steps begin."""
        return np.arange(len(self.cosines), dtype=np.float64) * self.step_s

    @property
    def edges_s(self) -> Floats:
        """(N + 1,) the same, and the end."""
        return np.append(self.times_s, self.duration_s)

    def scores(self, by: Scale = "probability") -> Floats:
        """(N, C)."""
        return self.cosines if by == "cosine" else self.probabilities

    def smoothed(self, median_s: float) -> Timeline:
        """Each score the median of those within `median_s`; at the ends the first and last count
        on. Raises EchoicError unless that is more than 0."""
        return replace(
            self,
            cosines=Medians.over(median_s, self.step_s).whole(self.cosines),
            probabilities=Medians.over(median_s, self.step_s).whole(self.probabilities),
        )

    def spans(
        self,
        threshold: float = THRESHOLD,
        *,
        by: Scale = "probability",
        low: float | None = None,
        gap_s: float = 0.0,
        min_s: float = 0.0,
    ) -> list[Span]:
        """Where each label scores `threshold` or more, in order of onset; the rest says
        `spans.SpanRule`. Raises EchoicError on a `low` above the threshold."""
        rule = SpanRule(threshold, low, gap_s, min_s)
        finder = SpanFinder(self.labels, self.step_s, rule)
        found = [*finder.add(self.scores(by)), *finder.finish(self.duration_s)]
        return sorted(found, key=lambda each: (each.onset_s, each.offset_s))

    def to_json(self, *, by: Scale = "probability") -> dict[str, Any]:
        """Plain values: scores row by row, one number for each label."""
        return {
            "labels": list(self.labels),
            "step_s": self.step_s,
            "duration_s": round(self.duration_s, 6),
            "scale": by,
            "scores": [[round(x, 6) for x in row] for row in self.scores(by).tolist()],
        }


# -- from sound to steps --------------------------------------------------------------------------

HearPieces = Callable[[Sequence[Piece]], AudioFeatures]


def read_timeline(
    tower: AudioTower,
    blocks: Blocks,
    hear: HearPieces,
    classes: Tensor,
    labels: Sequence[str],
    *,
    scale: float,
    steps: Steps | None = None,
) -> Timeline:
    """Of a recording in blocks (T,) at the tower's rate. hear: pieces -> their tokens. classes:
    (C, D) unit vectors of the labels; scale: of cosines, for probabilities. Memory holds one
    stretch and the scores, however long the recording. Raises EchoicError on steps that do not fit
    the tower."""
    how = steps or Steps()
    parts = list(stream_scores(stream_vectors(tower, blocks, hear, how), classes, scale))
    return Timeline.of_parts(labels, how.step_s, parts)


@dataclass(frozen=True)
class ScoredStretch:
    """cosines, probabilities: (n, C) of the steps from `first` on, as a `Timeline` has them.
    heard_s: what came so far."""

    first: int
    cosines: Floats
    probabilities: Floats
    heard_s: float


def stream_scores(
    stretches: Iterable[Stretch], classes: Tensor, scale: float
) -> Iterator[ScoredStretch]:
    """The scores of each. classes: (C, D) unit vectors; scale: of cosines, for probabilities."""
    for each in stretches:
        cosines = each.vectors @ classes.T
        probabilities = (scale * cosines).softmax(dim=1)
        yield ScoredStretch(
            each.first, cosines.double().numpy(), probabilities.double().numpy(), each.heard_s
        )


@dataclass(frozen=True)
class Stretch:
    """vectors: (n, D) unit vectors of the steps from `first` on. heard_s: what came so far."""

    first: int
    vectors: Tensor
    heard_s: float


def stream_vectors(
    tower: AudioTower, blocks: Blocks, hear: HearPieces, steps: Steps
) -> Iterator[Stretch]:
    """The steps of a recording in order, once each, as soon as what they need was heard; the last
    of them when the blocks end. How blocks are cut changes nothing."""
    rate, overlap_s = tower.rate_hz, 2 * steps.window_s
    length_s = steps.context_of(tower)
    cuts = stream_windows(
        blocks,
        window_samples=round(length_s * rate),
        hop_samples=max(1, round((length_s - overlap_s) * rate)),
    )
    done, held = 0, None
    for start, wave in cuts:
        piece = Piece(start, start + len(wave), wave)
        held = _Heard.of(tower, piece, hear([piece]))
        # all but the last stretch leave what is near their end to the next
        limit_s = held.stop_s - overlap_s / 2
        middles = _middles(done, math.ceil(limit_s / steps.step_s - 0.5), steps.step_s)
        if len(middles):
            yield Stretch(done, held.vectors(tower, middles, steps.window_s), held.stop_s)
            done += len(middles)
    if held is not None:
        count = max(1, math.ceil(held.stop_s / steps.step_s - _SLIVER))
        middles = _middles(done, count, steps.step_s)
        yield Stretch(done, held.vectors(tower, middles, steps.window_s), held.stop_s)


def _middles(first: int, stop: int, step_s: float) -> Floats:
    """(n,) seconds, of the steps from `first` up to `stop`."""
    return (np.arange(first, stop, dtype=np.float64) + 0.5) * step_s


@dataclass(frozen=True)
class _Heard:
    """Tokens (P, D) of a stretch and their times in the recording, ascending (P,)."""

    tokens: Tensor
    time_s: Floats
    stop_s: float

    @classmethod
    def of(cls, tower: AudioTower, piece: Piece, features: AudioFeatures) -> _Heard:
        time_s = features.time_s.double().cpu().numpy() + piece.start / tower.rate_hz
        return cls(features.tokens.float(), time_s, piece.stop / tower.rate_hz)

    @torch.no_grad()
    def vectors(self, tower: AudioTower, middles_s: Floats, window_s: float) -> Tensor:
        """(n, D) unit vectors of windows around `middles_s` (n,); of one that no token's middle
        lies in, the nearest tokens."""
        low = np.searchsorted(self.time_s, middles_s - window_s / 2 - 1e-6, "left")
        high = np.searchsorted(self.time_s, middles_s + window_s / 2 + 1e-6, "right")
        for i in np.flatnonzero(low == high):
            nearest = self.time_s[np.abs(self.time_s - middles_s[i]).argmin()]
            low[i] = np.searchsorted(self.time_s, nearest, "left")
            high[i] = np.searchsorted(self.time_s, nearest, "right")
        index = np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True)])
        picked = self.tokens[torch.from_numpy(index).to(self.tokens.device)]
        windows = Ragged.from_lengths(picked, (high - low).tolist())
        return F.normalize(pooled(tower, windows).float(), dim=-1).cpu()


def pooled(tower: AudioTower, windows: Ragged) -> Tensor:
    """Tokens of windows, ragged (P, D) -> (B, embed_dim), as the tower pools and projects those of
    a clip. Raises ValueError on an M2D without projector."""
    if isinstance(tower, PackedTower):
        vectors: Tensor = tower.encoder.head(windows.values, windows.offsets)
        return vectors
    if isinstance(tower, M2dTower):
        return tower.project(windows)
    encoder = tower.encoder
    if isinstance(encoder, HtsatEncoder):
        clip = row_means(windows)
    else:
        clip = F.relu(encoder.fc1(torch.stack([x.amax(0) + x.mean(0) for x in windows])))
    projected: Tensor = tower.projection(clip)
    return projected
