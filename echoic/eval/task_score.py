"""The one figure of a classification task, and its interval: accuracy, or macro mAP.

One label per clip: accuracy. Many: the mean over the classes that have a clip of their average
precision (`tagging`), as AudioSet and FSD50K are reported.

Shapes: N clips, C classes, R resamples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from echoic.data.labels import PerClip
from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.ranks import Floats, check_finite
from echoic.eval.tagging import average_precision
from echoic.eval.zeroshot import classify

MAP_RESAMPLES = 200  # each sorts every class anew
Counts = NDArray[np.int16]


def score(scores: ArrayLike, truth: ArrayLike, per_clip: PerClip) -> float:
    """Accuracy or macro mAP of `scores` (N, C) against `truth` (N, C) of 0 and 1.

    A class that scores as the right one counts as before it. NaN where no class has a clip.
    """
    if per_clip == "one":
        return float(hits(scores, truth).mean())
    found = per_class(scores, truth, "many")
    scored = found[~np.isnan(found)]
    return float(scored.mean()) if len(scored) else float("nan")


def hits(scores: ArrayLike, truth: ArrayLike) -> Floats:
    """(N,) 1 where the right class of a clip scores above all others."""
    return (classify(scores, np.asarray(truth).argmax(axis=1)).ranks == 0).astype(np.float64)


def per_class(scores: ArrayLike, truth: ArrayLike, per_clip: PerClip) -> Floats:
    """(C,) the share of its clips that were put there, or its average precision; NaN where it has
    no clip."""
    if per_clip == "one":
        return classify(scores, np.asarray(truth).argmax(axis=1)).per_class
    table, right = np.asarray(scores, dtype=np.float64), np.asarray(truth).astype(bool)
    check_finite(table, "tag scores")
    columns = zip(right.T, table.T, strict=True)
    return np.array([average_precision(y, s) for y, s in columns])


def map_interval(scores: ArrayLike, truth: ArrayLike, bootstrap: Bootstrap) -> Interval:
    """Of macro mAP, by resampling clips: at most 200 times. A class that a resample has no clip of
    is left out of its mean."""
    table, right = np.asarray(scores, dtype=np.float64), np.asarray(truth).astype(bool)
    weights = draw_weights(len(table), min(bootstrap.resamples, MAP_RESAMPLES), bootstrap.seed)
    drawn = drawn_maps(table, right, weights)
    tail = (1 - bootstrap.level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    value = score(table, right, "many")
    return Interval(value, float(low), float(high), bootstrap.level)


def precision_interval(scores: Floats, truth: ArrayLike, bootstrap: Bootstrap) -> Interval:
    """Of the average precision of one class, (N,) each; resamples without a clip of it count not.
    Raises ValueError where it has none."""
    right = np.asarray(truth).astype(bool)
    if not right.any():
        raise ValueError("average precision of a class without a clip")
    weights = draw_weights(len(right), min(bootstrap.resamples, MAP_RESAMPLES), bootstrap.seed)
    tail = (1 - bootstrap.level) / 2
    low, high = np.nanquantile(_weighted_precision(right, scores, weights), [tail, 1 - tail])
    return Interval(average_precision(right, scores), float(low), float(high), bootstrap.level)


def draw_weights(clips: int, resamples: int, seed: int) -> Counts:
    """(N, R) how often each clip stands in each resample."""
    rng = np.random.default_rng(seed)
    drawn = np.empty((clips, resamples), dtype=np.int16)
    for column in range(resamples):
        drawn[:, column] = np.bincount(rng.integers(clips, size=clips), minlength=clips)
    return drawn


def drawn_maps(scores: Floats, truth: NDArray[np.bool_], weights: Counts) -> Floats:
    """(R,) macro mAP of each resample, over the classes that it has a clip of."""
    sums, counted = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for y, s in zip(truth.T, scores.T, strict=True):
        found = _weighted_precision(y, s, weights)
        there = ~np.isnan(found)
        sums += np.where(there, found, 0.0)
        counted += there
    return sums / np.maximum(counted, 1)


def _weighted_precision(truth: ArrayLike, scores: Floats, weights: Counts) -> Floats:
    """(R,) average precision of one class where clip i stands weights[i, r] times, weights (N, R);
    NaN where nothing is true.

    Only where a true clip stands is precision asked for: between two of these the guesses are added
    up, which is some thirty times as fast as all running sums.
    """
    order = np.argsort(-scores, kind="stable")
    places = np.flatnonzero(np.asarray(truth, dtype=bool)[order])
    if not len(places):
        return np.full(weights.shape[1], np.nan)
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    ends, first = np.unique(last_of_tie[np.searchsorted(last_of_tie, places)], return_index=True)
    starts = np.append(0, ends[:-1] + 1)
    drawn = weights[order[: ends[-1] + 1]]
    guesses = np.cumsum(np.add.reduceat(drawn, starts, axis=0, dtype=np.int64), axis=0)
    gained = np.add.reduceat(drawn[places], first, axis=0, dtype=np.int64)
    true = np.cumsum(gained, axis=0)
    precision = np.divide(true, guesses, out=np.zeros(true.shape), where=guesses > 0)
    area, total = (gained * precision).sum(axis=0), true[-1]
    return np.divide(area, total, out=np.full(len(total), np.nan), where=total > 0)
