"""Is a model as often right as it says? Reliability by confidence, calibration error, Brier score.

With one label per clip a decision is the class that is put first, at its softmax probability; with
many it is each class of each clip, at its sigmoid, and being right is that the clip has the class.

Expected calibration error (Guo et al., 1706.04599) over bins of equal mass (Nixon et al.,
1904.01685): the mean over decisions of |share right - mean confidence| of their bin. Chance alone
makes it positive, so it stands beside what a model of these very confidences that is perfectly
calibrated would show, and resampling adds that chance once more: the interval is the basic
bootstrap's, which takes it off again (Davison and Hinkley 1997, section 5.2), not percentiles,
which then miss the truth nearly always. Brier 1950: squared distance to the truth.

Shapes: N clips, C classes, S runs (seeds), K bins, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from echoic.data.labels import PerClip
from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.ranks import Floats, Ints, check_finite
from echoic.eval.task_score import hits

BINS = 15
_LEAST_IN_BIN = 10  # clips that a bin should have, by the mean


@dataclass(frozen=True)
class Bin:
    """Decisions of like confidence: from `low` to `high`, `confidence` by the mean; the share that
    was right, and how many there are."""

    low: float
    high: float
    confidence: float
    right: Interval
    decisions: int


@dataclass(frozen=True)
class Calibration:
    """sums: (N, S, K, 3) of each clip's decisions in each bin: how many, how many right, and their
    confidences together. squares: (N,) the Brier score of each clip. low, high: (K,) the ends of
    the bins. by_chance: the error to be expected of a model that is right exactly as often as it
    says, at these confidences, and chance_spread its deviation, by the normal approximation.
    """

    sums: Floats
    squares: Floats
    low: Floats
    high: Floats
    by_chance: float
    chance_spread: float
    per_clip: PerClip

    @property
    def confidence(self) -> float:
        """Mean over decisions."""
        return float(self.sums[..., 2].sum() / self.sums[..., 0].sum())

    @property
    def right(self) -> float:
        """Share of the decisions."""
        return float(self.sums[..., 1].sum() / self.sums[..., 0].sum())

    @cached_property
    def error(self) -> float:
        """Expected calibration error: mean over runs."""
        return float(_errors(self._gaps().sum(axis=0, keepdims=True), self._shape)[0, 0])

    def error_interval(self, bootstrap: Bootstrap) -> Interval:
        """Over clips, bins held. `value` is the error as it is counted, with what chance adds; the
        bounds are without, so that they may lie below it, and begin at 0 where chance could be all
        that there is."""
        drawn = bootstrap.of_sums(self._gaps(), lambda sums: _errors(sums, self._shape))[0]
        low, high = (max(0.0, 2 * self.error - end) for end in (drawn.high, drawn.low))
        z = NormalDist().inv_cdf((1 + bootstrap.level) / 2)
        if self.error <= self.by_chance + z * self.chance_spread:
            low = 0.0
        return Interval(self.error, low, high, bootstrap.level)

    def brier_interval(self, bootstrap: Bootstrap) -> Interval:
        """One label per clip: summed over classes, from 0 to 2; many: their mean, from 0 to 1."""
        return bootstrap.mean(self.squares, np.arange(len(self.squares)))

    def bins(self, level: float = 0.95) -> list[Bin]:
        """By rising confidence, all runs together; intervals are Wilson's, in which the decisions
        of several runs on one clip count once."""
        count, right, sure = np.moveaxis(self.sums.sum(axis=(0, 1)), -1, 0)
        runs = self.sums.shape[1]
        rows = zip(self.low, self.high, count, right, sure, strict=True)
        return [
            Bin(float(a), float(b), float(s / n), wilson(float(r / n), n / runs, level), int(n))
            for a, b, n, r, s in rows
        ]

    def to_json(self, bootstrap: Bootstrap) -> dict[str, Any]:
        """Plain values: figures with bounds, the error that chance alone makes, and means."""
        error, brier = self.error_interval(bootstrap), self.brier_interval(bootstrap)
        return {
            "calibration_error": {"value": error.value, "low": error.low, "high": error.high},
            "calibration_error_by_chance": self.by_chance,
            "brier": {"value": brier.value, "low": brier.low, "high": brier.high},
            "confidence": self.confidence,
            "right": self.right,
        }

    @property
    def _shape(self) -> tuple[int, int]:
        return self.sums.shape[1], self.sums.shape[2]

    def _gaps(self) -> Floats:
        """(N, S * K + S): right less confidence of each run and bin, then decisions of each run."""
        gaps = self.sums[..., 1] - self.sums[..., 2]
        n = len(gaps)
        return np.concatenate([gaps.reshape(n, -1), self.sums[..., 0].sum(axis=2)], axis=1)


def wilson(value: float, clips: float, level: float) -> Interval:
    """Wilson's interval (1927) of a share of so many clips: not of no width where all are right."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (value + z * z / (2 * clips)) / (1 + z * z / clips)
    half = z / (1 + z * z / clips) * (value * (1 - value) / clips + (z / (2 * clips)) ** 2) ** 0.5
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Interval(value, min(low, value), max(high, value), level)


def calibrate(
    logits: Sequence[ArrayLike], truth: ArrayLike, per_clip: PerClip, *, bins: int = BINS
) -> Calibration:
    """Of S runs of logits (N, C), whose softmax (one label per clip) or sigmoid (many) is the
    confidence, and truth (N, C) of 0 and 1.

    bins: at most; fewer where clips are few or confidences equal. Raises EchoicError where a logit
    is not finite, ValueError where shapes do not fit.
    """
    y = np.asarray(truth, dtype=np.float64)
    chances = [_probabilities(np.asarray(run, dtype=np.float64), per_clip) for run in logits]
    if not chances or any(p.shape != y.shape for p in chances):
        raise ValueError(f"truth {y.shape} for runs of {[p.shape for p in chances]}")
    sure = np.stack([p.max(axis=1, keepdims=True) if per_clip == "one" else p for p in chances])
    right = np.stack([hits(p, y)[:, None] if per_clip == "one" else y for p in chances])
    # Nearly all of many decisions are sure nos: their bins share out what is expected to be there.
    mass = np.ones_like(sure) if per_clip == "one" else sure
    most = max(1, min(bins, int(right[0].size if per_clip == "one" else y.sum()) // _LEAST_IN_BIN))
    place = _bins(sure.ravel(), mass.ravel(), most).reshape(sure.shape)
    sums = _sums(place, right, sure)
    k = sums.shape[2]
    ends = [(sure[place == b].min(), sure[place == b].max()) for b in range(k)]
    noise = np.stack(
        [np.bincount(p.ravel(), (c * (1 - c)).ravel(), k) for p, c in zip(place, sure, strict=True)]
    )
    squared = np.mean([((p - y) ** 2).sum(axis=1) for p in chances], axis=0)
    return Calibration(
        sums=sums,
        squares=squared if per_clip == "one" else squared / y.shape[1],
        low=np.array([a for a, _ in ends]),
        high=np.array([b for _, b in ends]),
        by_chance=float(np.sqrt(2 / np.pi * noise).sum(axis=1).mean() / sure[0].size),
        chance_spread=float(np.sqrt((1 - 2 / np.pi) * noise.sum(axis=1)).mean() / sure[0].size),
        per_clip=per_clip,
    )


def _probabilities(logits: Floats, per_clip: PerClip) -> Floats:
    check_finite(logits, "logits")
    if per_clip == "many":
        return np.exp(-np.logaddexp(0.0, -logits))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _bins(sure: Floats, mass: Floats, most: int) -> Ints:
    """(M,) the bin of each of M decisions, none empty; equal confidences share one."""
    order = np.argsort(sure, kind="stable")
    upto = np.cumsum(mass[order])
    ends = upto[-1] * np.arange(1, most) / most
    first = np.searchsorted(upto, ends * (1 + 1e-12), side="right")  # of the next bin
    cuts = np.unique(sure[order][np.minimum(first, len(order) - 1)])
    return np.searchsorted(cuts[cuts > sure[order[0]]], sure, side="right").astype(np.int64)


def _sums(place: Ints, right: Floats, sure: Floats) -> Floats:
    """(N, S, K, 3) of `Calibration`, of (S, N, decisions)."""
    runs, n = place.shape[:2]
    k = int(place.max()) + 1
    cell = ((np.arange(n)[:, None] * runs + np.arange(runs))[..., None] * k).transpose(1, 0, 2)
    flat = (cell + place).ravel()
    size = n * runs * k
    columns = [np.bincount(flat, w.ravel(), size) for w in (np.ones_like(sure), right, sure)]
    table: Floats = np.stack(columns, axis=-1).reshape(n, runs, k, 3).astype(np.float64)
    return table


def _errors(sums: Floats, shape: tuple[int, int]) -> Floats:
    """(R, S * K + S) sums of `Calibration._gaps` -> (R, 1) mean error over runs."""
    runs, k = shape
    gaps = np.abs(sums[:, : runs * k]).reshape(-1, runs, k).sum(axis=2)
    return np.asarray((gaps / sums[:, runs * k :]).mean(axis=1, keepdims=True))
