"""How sure is a figure: percentile bootstrap intervals over clips, paired comparison of models.

Clips are drawn with replacement, and each brings all its queries (its five captions, say): the
captions of one clip succeed and fail together, and an interval that drew them one by one would be
far too narrow. Only the queries are drawn anew; what they were searched in stays as it was.
Efron and Tibshirani 1993, chapters 13 and 16; clusters: Davison and Hinkley 1997, section 3.8.

Shapes: Q queries, C clips that have queries, K figures at once, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from echoic.eval.ranks import Floats, Ints

_BLOCK_VALUES = 4_000_000  # weights held at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """A figure and the bounds that hold it with confidence `level`."""

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Difference:
    """A figure of model A less that of model B, on the same queries. p: two-sided, for no gap."""

    value: float
    low: float
    high: float
    p: float
    level: float


@dataclass(frozen=True)
class Bootstrap:
    """How to resample. Every call draws afresh from `seed`, so no figure hangs on the others.

    In each method `clip` (Q,) holds integers: the clip that a query belongs to.
    Raises ValueError where the arguments do not fit each other.
    """

    seed: int
    resamples: int = 2000
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.resamples < 1 or not 0 < self.level < 1:
            raise ValueError(f"need resamples >= 1 and 0 < level < 1, got {self}")

    def means(self, values: ArrayLike, clip: ArrayLike) -> list[Interval]:
        """Of each column of `values` (Q, K)."""
        table, group = _checked(values, clip)
        low, high = self._bounds(self._drawn_means(table, group))
        rows = zip(table.mean(axis=0), low, high, strict=True)
        return [Interval(float(v), float(a), float(b), self.level) for v, a, b in rows]

    def mean(self, values: ArrayLike, clip: ArrayLike) -> Interval:
        """Of `values` (Q,)."""
        return self.means(np.asarray(values, dtype=np.float64).reshape(-1, 1), clip)[0]

    def of_sums(self, values: ArrayLike, figures: Callable[[Floats], Floats]) -> list[Interval]:
        """Of figures that are made of sums over clips: `values` (C, K), `figures` turns sums (r, K)
        into figures (r, F)."""
        table, group = _checked(values, np.arange(len(np.asarray(values))))
        drawn = [figures(counts @ table) for counts in self._draws(group)]
        low, high = self._bounds(np.concatenate(drawn))
        rows = zip(figures(table.sum(axis=0, keepdims=True))[0], low, high, strict=True)
        return [Interval(float(v), float(a), float(b), self.level) for v, a, b in rows]

    def median_rank(self, ranks: ArrayLike, clip: ArrayLike) -> Interval:
        """Of the median rank as reported, floor(median) + 1, of `ranks` (Q,) counted from 0."""
        column, group = _checked(np.asarray(ranks).reshape(-1, 1), clip)
        order = np.argsort(column[:, 0], kind="stable")
        ranked, owner = column[order, 0], group[order]
        drawn = [_medians(ranked, owner, counts) for counts in self._draws(group)]
        low, high = self._bounds(np.concatenate(drawn)[:, None])
        value = np.floor(np.median(ranked)) + 1
        return Interval(float(value), float(low[0]), float(high[0]), self.level)

    def difference(self, a: ArrayLike, b: ArrayLike, clip: ArrayLike) -> Difference:
        """mean(a) - mean(b) of the values (Q,) of two models for the same queries.

        p is twice the share of resamples beyond zero, zero included, and one more; at most 1.
        """
        first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
        if first.shape != second.shape:
            raise ValueError(f"two models, same queries: got {first.shape}, {second.shape} values")
        column, group = _checked((first - second).reshape(-1, 1), clip)
        drawn = self._drawn_means(column, group)
        low, high = self._bounds(drawn)
        beyond = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
        p = min(1.0, 2 * (beyond + 1) / (self.resamples + 1))
        return Difference(float(column.mean()), float(low[0]), float(high[0]), p, self.level)

    def _draws(self, group: Ints) -> Iterator[Ints]:
        """Blocks of (r, C): how often each clip was drawn in each of r resamples."""
        rng = np.random.default_rng(self.seed)
        clips = int(group.max()) + 1
        block = max(1, _BLOCK_VALUES // len(group))
        for start in range(0, self.resamples, block):
            rows = min(block, self.resamples - start)
            picks = rng.integers(clips, size=(rows, clips))
            picks += np.arange(rows)[:, None] * clips
            yield np.bincount(picks.ravel(), minlength=rows * clips).reshape(rows, clips)

    def _drawn_means(self, table: Floats, group: Ints) -> Floats:
        """(R, K) means; of a clip, a resample needs only the sum of its values and their number."""
        sums = np.stack([np.bincount(group, weights=column) for column in table.T], axis=1)
        sizes = np.bincount(group)
        weights = (counts.astype(np.float64) for counts in self._draws(group))
        return np.concatenate([(w @ sums) / (w @ sizes)[:, None] for w in weights])

    def _bounds(self, drawn: Floats) -> tuple[Floats, Floats]:
        tail = (1 - self.level) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
        return low, high


def _checked(values: ArrayLike, clip: ArrayLike) -> tuple[Floats, Ints]:
    table, names = np.asarray(values, dtype=np.float64), np.asarray(clip)
    if table.ndim != 2 or len(table) == 0 or names.shape != (len(table),):
        raise ValueError(f"need (Q, K) values and (Q,) clips, got {table.shape}, {names.shape}")
    return table, np.unique(names, return_inverse=True)[1].astype(np.int64)


def _medians(ranked: Floats, owner: Ints, counts: Ints) -> Floats:
    """(r,) floor(median) + 1 of `ranked` (Q,) ascending, where clip `owner` (Q,) of each stands
    `counts` (r, C) times.

    Medians of resamples lie near that of all: the middle is looked at alone, six deviations wide at
    least, and all of it only where one lies outside.
    """
    clips, half = counts.shape[1], len(ranked) // 2
    queries = np.bincount(owner, minlength=clips)
    total = counts @ queries
    lower, upper = (total - 1) // 2, total // 2  # places of the two in the middle, from 0
    for reach in (3 * math.isqrt(len(ranked) * int(queries.max())) + 1, len(ranked)):
        first, last = max(0, half - reach), half + reach
        before = counts @ np.bincount(owner[:first], minlength=clips)
        upto = before[:, None] + np.cumsum(counts[:, owner[first:last]], axis=1)
        if (before <= lower).all() and (upto[:, -1] > upper).all():
            break
    middle = ranked[first:last]
    a, b = (middle[(upto > place[:, None]).argmax(axis=1)] for place in (lower, upper))
    return np.floor((a + b) / 2) + 1
