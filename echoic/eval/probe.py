"""Linear probe on frozen features: ridge regression on one-hot ±1 targets, in closed form.

Features are standardised by the training part; the intercept is not penalised. Where features
outnumber clips the same solution is found in the dual (Hoerl and Kennard 1970; Saunders et al.
1998), so the cost is the cube of the smaller number. No random numbers, no iterations: the same
features give the same accuracy. M2D's protocol (EVAR 5.1) trains a linear layer by Adam instead;
its accuracies are close, not equal.

Shapes: N training clips, M test clips, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from echoic.eval.ranks import Floats, Ints, check_finite

PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-1, 6))


def ridge_probe(
    train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, *, penalty: float
) -> Floats:
    """(M, C) scores of test_x (M, D), after training on train_x (N, D).

    train_y: (N,) int class from 0, or (N, C) bool (several per clip, or classes not in training).
    penalty: λ > 0 on standardised features. The best class is the largest score: hand the result to
    `zeroshot.classify` or `tagging.tagging`.
    """
    x, y = _checked(train_x, train_y)
    held_out = np.asarray(test_x, dtype=np.float64)
    if held_out.ndim != 2 or held_out.shape[1] != x.shape[1]:
        raise ValueError(f"test features {held_out.shape} do not fit training features {x.shape}")
    check_finite(held_out, "test features")
    return _scores_by_penalty(x, y, held_out, [penalty])[0]


def choose_penalty(
    train_x: ArrayLike,
    train_y: ArrayLike,
    *,
    rng: np.random.Generator,
    penalties: Sequence[float] = PENALTIES,
    group: ArrayLike | None = None,
    folds: int = 5,
) -> float:
    """The λ of the best accuracy in cross-validation in the training part; of equals the largest.

    group: (N,) what must not be split between folds, such as the speaker. train_y as in
    `ridge_probe`; with several labels per clip, accuracy is the share of clips whose best class is
    one of theirs.
    """
    x, y = _checked(train_x, train_y)
    fold = _folds(len(x), group, folds, rng)
    ascending = sorted(penalties)
    hits = np.zeros(len(ascending))
    for held in range(int(fold.max()) + 1):
        out = fold == held
        scores = _scores_by_penalty(x[~out], y[~out], x[out], ascending)
        best = scores.argmax(axis=2)
        hits += (np.take_along_axis(y[out][None], best[:, :, None], axis=2) > 0).sum(axis=(1, 2))
    return ascending[len(hits) - 1 - int(hits[::-1].argmax())]


def pooled_tokens(tokens: ArrayLike, time_s: ArrayLike, *, segments: int) -> Floats:
    """A clip's un-pooled tokens as one vector: mean, deviation, means of equal time segments.

    tokens: (P, D); time_s: (P,) centre of each token. Returns ((2 + segments) * D,). A segment
    without a token takes the nearest one.
    """
    x, t = np.asarray(tokens, dtype=np.float64), np.asarray(time_s, dtype=np.float64)
    if x.ndim != 2 or not len(x) or len(t) != len(x) or segments < 1:
        raise ValueError(f"need tokens (P, D), times (P,), segments >= 1, got {x.shape}, {t.shape}")
    step = max(float(t.max() + t.min()), 1e-9) / segments  # centres lie half a token from the ends
    place = np.minimum((t / step).astype(int), segments - 1)
    centres = (np.arange(segments) + 0.5) * step
    parts = [
        x[place == s].mean(axis=0) if (place == s).any() else x[np.abs(t - centres[s]).argmin()]
        for s in range(segments)
    ]
    return np.concatenate([x.mean(axis=0), x.std(axis=0), *parts])


def _scores_by_penalty(
    train_x: Floats, targets: Floats, test_x: Floats, penalties: Sequence[float]
) -> Floats:
    """(penalties, M, C)."""
    if min(penalties) <= 0:
        raise ValueError(f"a ridge penalty must be above 0, got {min(penalties)}")
    mean, spread = train_x.mean(axis=0), train_x.std(axis=0)
    # A feature that never changes in training says nothing; dividing by its rounding error would
    # make it shout.
    scale = np.where(spread > 1e-12 * (1 + np.abs(mean)), spread, np.inf)
    z, z_test = (train_x - mean) / scale, (test_x - mean) / scale
    intercept = targets.mean(axis=0)
    centred = targets - intercept
    in_dual = z.shape[1] > z.shape[0]
    gram = z @ z.T if in_dual else z.T @ z
    given = centred if in_dual else z.T @ centred
    read = z_test @ z.T if in_dual else z_test
    eye = np.eye(len(gram))
    solved = [np.linalg.solve(gram + penalty * eye, given) for penalty in penalties]
    return np.stack([read @ weights + intercept for weights in solved])


def _checked(train_x: ArrayLike, train_y: ArrayLike) -> tuple[Floats, Floats]:
    """Features (N, D) and targets (N, C) of ±1."""
    x, y = np.asarray(train_x, dtype=np.float64), np.asarray(train_y)
    if x.ndim != 2 or x.size == 0 or len(y) != len(x) or y.ndim not in (1, 2):
        raise ValueError(
            f"need (N, D) features and (N,) or (N, C) labels, got {x.shape}, {y.shape}"
        )
    check_finite(x, "training features")
    if y.ndim == 1:
        if not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
            raise ValueError("labels: expected integers from 0, or (N, C) true and false")
        y = y[:, None] == np.arange(y.max() + 1)
    return x, np.where(y.astype(bool), 1.0, -1.0)


def _folds(n: int, group: ArrayLike | None, folds: int, rng: np.random.Generator) -> Ints:
    """(N,) fold of each clip: groups dealt out in random order."""
    names = np.arange(n) if group is None else np.asarray(group)
    unique, index = np.unique(names, return_inverse=True)
    if folds < 2 or len(unique) < 2:
        raise ValueError(f"cross-validation needs 2 folds and 2 groups, got {folds}, {len(unique)}")
    dealt = np.empty(len(unique), dtype=np.int64)
    dealt[rng.permutation(len(unique))] = np.arange(len(unique)) % folds
    return dealt[index]
