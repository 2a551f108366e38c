"""What the ranks of a training would get of an epoch, without running them: the real plan
(`data.pack.plan_window`), dealt out as loaders deal it.

Batch i of the stream goes to rank i modulo W (`data.loader.Loader`), and A batches of each rank
make a step. So a step is A W consecutive batches, and lasts as long as its busiest rank works. What
is left at the end of an epoch begins the next one; here it is left out of the balance, and in the
count of clips.

N clips, W ranks, A batches of a rank in a step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from echoic.data.order import Shuffled
from echoic.data.pack import plan_window, windows_of
from echoic.types import ConfigError


@dataclass(frozen=True)
class Dealt:
    """An epoch over all ranks.

    once: clips that exactly one rank gets, once; left_out: that none gets; again: that come more
    than once. steps: whole ones. filled: share of the budget that batches have on average.
    busiest_over_mean: work of a step's busiest rank over its ranks' mean, mean over steps; worst:
    in the worst step. lost: share of all ranks' time spent waiting for the busiest one. plan_s:
    seconds that planning the epoch took.
    """

    clips: int
    ranks: int
    once: int
    left_out: int
    again: int
    batches: int
    steps: int
    filled: float
    busiest_over_mean: float
    worst: float
    lost: float
    plan_s: float

    @property
    def exactly_once(self) -> bool:
        """No clip twice, and at most one of a window left out, as `plan_epoch` states of
        min_clips=2."""
        return self.again == 0 and self.left_out <= windows_of(self.clips)


def simulate(
    costs: np.ndarray,
    *,
    budget: int,
    ranks: int,
    accumulate: int = 1,
    work: np.ndarray | None = None,
    max_clips: int | None = None,
    epoch: int = 0,
    seed: int = 0,
) -> Dealt:
    """costs: (N,) tokens of each clip. budget: of a batch. work: (N,) what each clip costs in time,
    in any unit; None: its tokens. Raises ConfigError where the epoch is less than a step."""
    order, table = Shuffled(len(costs)), costs.astype(np.int64, copy=False)
    seen, tokens, spent = np.zeros(len(costs), np.uint8), [], []
    plan_s, batches = 0.0, 0
    for window in range(windows_of(len(costs))):
        began_s = time.perf_counter()
        plan = plan_window(
            table, window, budget=budget, epoch=epoch, seed=seed, order=order,
            max_clips=max_clips, min_clips=2,
        )  # fmt: skip
        plan_s += time.perf_counter() - began_s
        clips, ends = flat(plan)
        starts = np.concatenate([[0], ends])[:-1]
        for rank in range(ranks):  # every rank takes its own batches, as its loader would
            np.add.at(seen, _members(clips, starts, ends, (rank - batches) % ranks, ranks), 1)
        tokens.append(np.add.reduceat(table[clips], starts))
        spent.append(
            np.add.reduceat((table if work is None else work)[clips].astype(float), starts)
        )
        batches += len(plan)
    steps = batches // (ranks * accumulate)
    if not steps:
        raise ConfigError(
            f"{batches} batches of {budget} tokens are less than a step of {ranks} ranks"
        )
    # (steps, A, W): the batches of a rank lie W apart
    by_rank = (
        np.concatenate(spent)[: steps * accumulate * ranks].reshape(steps, accumulate, ranks).sum(1)
    )
    busiest, mean = by_rank.max(1), by_rank.mean(1)
    return Dealt(
        clips=len(costs),
        ranks=ranks,
        once=int((seen == 1).sum()),
        left_out=int((seen == 0).sum()),
        again=int((seen > 1).sum()),
        batches=batches,
        steps=steps,
        filled=float(np.concatenate(tokens).mean() / budget),
        busiest_over_mean=float((busiest / mean).mean()),
        worst=float((busiest / mean).max()),
        lost=float(1 - mean.sum() / busiest.sum()),
        plan_s=plan_s,
    )


def flat(plan: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The clips of all batches end to end, and where each batch ends."""
    ends = np.cumsum(np.fromiter(map(len, plan), np.int64, len(plan)))
    clips = np.fromiter(chain.from_iterable(plan), np.int64)
    return clips, ends


def _members(
    clips: np.ndarray, starts: np.ndarray, ends: np.ndarray, rank: int, ranks: int
) -> np.ndarray:
    """The clips of that rank's batches."""
    parts = [clips[a:b] for a, b in zip(starts[rank::ranks], ends[rank::ranks], strict=True)]
    return np.concatenate(parts) if parts else clips[:0]
