"""Word order and attributes: is a clip nearer to its true sentence than to the false twin?

An item is a clip, its caption, and the same caption made false by one change: "X then Y" as "Y then
X", loud as soft, near as far, slow as fast, rising as falling (the benchmark of echoic.data.synth).
Chance is one half; a bag of words stays there on order (Wu et al. 2023, 2303.10667; CompA,
2310.08753).

Shapes: I items, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.ranks import TIE_COSINE, Floats, unit_rows

ALL = "all"


def order_wins(clip: ArrayLike, right: ArrayLike, wrong: ArrayLike) -> Floats:
    """(I,) 1 where cos(clip, right) > cos(clip, wrong), 0 where less, 0.5 where tied; all (I, D).

    Raises EchoicError where a vector is not finite, ValueError where the shapes differ.
    """
    a = unit_rows(clip, "clip")
    good, bad = unit_rows(right, "right caption"), unit_rows(wrong, "wrong caption")
    if not a.shape == good.shape == bad.shape:
        raise ValueError(
            f"items: clips {a.shape}, right {good.shape}, wrong {bad.shape} must agree"
        )
    margin = np.einsum("id,id->i", a, good) - np.einsum("id,id->i", a, bad)
    return np.where(np.abs(margin) <= TIE_COSINE, 0.5, (margin > 0).astype(np.float64))


def order_accuracy(
    clip: ArrayLike,
    right: ArrayLike,
    wrong: ArrayLike,
    kind: Sequence[str],
    bootstrap: Bootstrap,
    *,
    clip_id: ArrayLike | None = None,
) -> dict[str, Interval]:
    """Share of items won, by `kind` (I,) in order of first appearance, then over all as "all".

    clip_id: (I,) int, equal where items share a clip; None where each has its own.
    """
    wins = order_wins(clip, right, wrong)
    if len(kind) != len(wins) or ALL in kind:
        raise ValueError(f"kind: need {len(wins)} names, none of them {ALL!r}; got {len(kind)}")
    names = np.asarray(kind)
    clips = np.arange(len(wins)) if clip_id is None else np.asarray(clip_id)
    everything = {ALL: np.full(len(wins), True)}
    chosen = {name: names == name for name in dict.fromkeys(kind)} | everything
    return {name: bootstrap.mean(wins[mask], clips[mask]) for name, mask in chosen.items()}
