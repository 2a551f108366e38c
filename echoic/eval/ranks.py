"""Ranks and what is said of them: the part that retrieval and classification share.

A rank is the number of competitors placed before the right answer: 0 is best. Reports add 1.
Ties are read against the model: a competitor with an equal score is placed before the right answer,
so a model that gives everything the same vector scores as badly as it deserves.

Shapes: Q queries, D width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from echoic.types import EchoicError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RECALL_AT = (1, 5, 10)
MAP_DEPTH = 10

# Cosines nearer than this are tied. Far above the rounding of a float64 dot product (1e-16), so
# that equal captions tie in whatever block they fall; far below what a model means to tell apart.
TIE_COSINE = 1e-9


def unit_rows(vectors: ArrayLike, name: str) -> Floats:
    """Rows of `vectors` (Q, D) at length 1 in float64; a zero row stays zero and ties with all.

    Raises EchoicError where a value is not finite, ValueError where rows or columns are missing.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(f"{name} vectors: expected (Q, D), not empty, got shape {rows.shape}")
    check_finite(rows, f"{name} vectors")
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def check_finite(rows: Floats, name: str) -> None:
    """Raises EchoicError that names the first row of (Q, D) with a NaN or an infinity."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        more = f" (and {len(bad) - 1} rows more)" if len(bad) > 1 else ""
        raise EchoicError(
            f"{name}: row {bad[0]} holds a value that is not finite{more}; the model has diverged"
        )


def per_query(ranks: Ints) -> dict[str, Floats]:
    """What each query (Q,) with one right answer adds: the means are R@1/5/10 and mAP@10."""
    hits = {f"R@{k}": (ranks < k).astype(np.float64) for k in RECALL_AT}
    reciprocal = np.where(ranks < MAP_DEPTH, 1.0 / (ranks + 1.0), 0.0)
    return hits | {f"mAP@{MAP_DEPTH}": reciprocal}


def rank_metrics(ranks: Ints) -> dict[str, float]:
    """mean_rank, median_rank (from 1), R@1/5/10, mAP@10 of ranks (Q,), one right answer each."""
    return rank_averages(ranks) | {name: float(v.mean()) for name, v in per_query(ranks).items()}


def rank_averages(ranks: Ints) -> dict[str, float]:
    """The median is that of the published evaluations: floor(median of the ranks from 0) + 1."""
    return {
        "mean_rank": float(ranks.mean()) + 1,
        "median_rank": float(np.floor(np.median(ranks))) + 1,
    }
