"""Several labels per clip: average precision, area under the ROC curve, d'.

Definitions of the AudioSet benchmark (Gemmeke et al. 2017) as scikit-learn computes them: average
precision is the sum of precision times the step in recall over the distinct scores, without
interpolation; tied scores are one step. Tied pairs count half in the AUC.

Shapes: N clips, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from echoic.eval.ranks import Floats, check_finite

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Tagging:
    """average_precision, auc: (C,) per class, NaN where undefined and then left out of means."""

    average_precision: Floats
    auc: Floats
    map_micro: float
    map_samples: float
    top1: float

    def metrics(self) -> dict[str, float]:
        """mAP, mAP_micro, mAP_samples, mAUC, d_prime (of mAUC), top1, classes_scored (in mAP)."""
        scored = ~np.isnan(self.average_precision)
        mauc = _mean_of_defined(self.auc)
        return {
            "mAP": _mean_of_defined(self.average_precision),
            "mAP_micro": self.map_micro,
            "mAP_samples": self.map_samples,
            "mAUC": mauc,
            "d_prime": d_prime(mauc),
            "top1": self.top1,
            "classes_scored": float(scored.sum()),
        }


def tagging(scores: ArrayLike, labels: ArrayLike) -> Tagging:
    """Hold `scores` (N, C), any real numbers, against `labels` (N, C) bool.

    A class without a clip has no average precision, one without a clip or with nothing else no AUC.
    map_samples is the average precision of the classes within each clip, over the clips that have a
    label; top1 the share of all clips whose best class is their first label (class 0 where they
    have none: LAION's single-label accuracy). Raises EchoicError where a score is not finite,
    ValueError where the shapes do not fit.
    """
    table, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    if table.ndim != 2 or table.size == 0 or truth.shape != table.shape:
        raise ValueError(f"need (N, C) scores and labels, got {table.shape} and {truth.shape}")
    check_finite(table, "tag scores")
    columns = list(zip(truth.T, table.T, strict=True))
    return Tagging(
        average_precision=np.array([average_precision(y, s) for y, s in columns]),
        auc=np.array([roc_auc(y, s) for y, s in columns]),
        map_micro=average_precision(truth.ravel(), table.ravel()),
        map_samples=_mean_of_defined(
            np.array([average_precision(y, s) for y, s in zip(truth, table, strict=True)])
        ),
        top1=float((table.argmax(axis=1) == truth.argmax(axis=1)).mean()),
    )


def average_precision(truth: Bools, scores: Floats) -> float:
    """Of one class: truth (N,) bool, scores (N,). NaN where nothing is true."""
    hits, guesses = _counts_at_each_score(truth, scores)
    if hits[-1] == 0:
        return float("nan")
    return float(np.diff(hits, prepend=0) @ (hits / guesses) / hits[-1])


def roc_auc(truth: Bools, scores: Floats) -> float:
    """Chance that a true clip scores above a false one, ties half. NaN without both kinds."""
    hits, guesses = _counts_at_each_score(truth, scores)
    misses = guesses - hits
    if hits[-1] == 0 or misses[-1] == 0:
        return float("nan")
    mean_height = hits - np.diff(hits, prepend=0) / 2
    return float(mean_height @ np.diff(misses, prepend=0) / (hits[-1] * misses[-1]))


def d_prime(auc: float) -> float:
    """Distance in deviations of two normal scores with this AUC; infinite at 0 and 1."""
    if not 0 < auc < 1:
        return float("nan") if np.isnan(auc) else float(np.sign(auc - 0.5) * np.inf)
    return 2**0.5 * NormalDist().inv_cdf(auc)


def _counts_at_each_score(truth: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """True ones, and all, at or above each distinct score, from the best score down."""
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = np.cumsum(truth[order])[last_of_tie]
    return hits.astype(np.float64), last_of_tie + 1.0


def _mean_of_defined(values: Floats) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
