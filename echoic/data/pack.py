"""Batches by token budget: which clips go together in each step of each epoch.

Clips are ragged, so a batch is bounded by the sum of its costs (tokens), not by a count. The
epoch's order is a shuffle by (seed, epoch); each clip goes to the fullest open batch that still has
room for it (online best fit), so batches fill to within the shortest clips' length of the budget
and yet mix lengths: clips of one length together would let a model tell pairs apart by their
length. Everything is a pure function of its arguments.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import numpy as np

_PLAN, _EPOCHS_KEPT = 0x9AC4, 2


class Order(Protocol):
    """Which clips an epoch holds, and in which order they are put into batches."""

    @property
    def count(self) -> int:
        """How many clips an epoch holds."""
        ...

    @property
    def weights(self) -> np.ndarray:
        """Numbers that the order hangs on: with others, a run cannot go on."""
        ...

    @property
    def local(self) -> bool:
        """Whether clips that come soon after each other lie near each other, and batches must keep
        that."""
        ...

    def clips(self, rng: np.random.Generator, epoch: int) -> np.ndarray:
        """Indices, a pure function of the arguments."""
        ...


@dataclass(frozen=True)
class Shuffled:
    """Every clip once, in random order."""

    count: int
    local = False

    @property
    def weights(self) -> np.ndarray:
        return np.empty(0)

    def clips(self, rng: np.random.Generator, epoch: int) -> np.ndarray:
        return rng.permutation(self.count)


@dataclass(frozen=True)
class ByShard:
    """Every clip once: the shards in random order, and the clips of `window` shards shuffled
    together. What is read at a time so lies in few shards, which a store, a disk or a cache likes.

    shards: (N,) number of each clip's shard, as `shard_numbers` gives it.
    """

    shards: np.ndarray
    window: int = 8
    local = True

    @property
    def count(self) -> int:
        return len(self.shards)

    @property
    def weights(self) -> np.ndarray:
        return np.append(self.shards, self.window)

    def clips(self, rng: np.random.Generator, epoch: int) -> np.ndarray:
        names, shard = np.unique(self.shards, return_inverse=True)
        place = rng.permutation(len(names))
        return np.lexsort((rng.random(self.count), place[shard] // self.window))


@dataclass(frozen=True)
class Draws:
    """An epoch of `count` clips (or all, where there are fewer), drawn without replacement, each
    draw in proportion to the weights (N,) of what is left; those of weight 0 come last."""

    weights: np.ndarray
    count: int
    local = False

    def clips(self, rng: np.random.Generator, epoch: int = 0) -> np.ndarray:
        """Indices in random order."""
        # Who comes first in a race of exponential waiting times is such a draw (Efraimidis &
        # Spirakis 2006).
        arrival = np.full(len(self.weights), np.inf)
        waiting = rng.exponential(size=len(self.weights))
        np.divide(waiting, self.weights, out=arrival, where=self.weights > 0)
        count = min(self.count, len(arrival))
        # sorted: in what order a partition leaves them is the processor's business
        first = np.sort(np.argpartition(arrival, count - 1)[:count])
        return rng.permutation(first)


@dataclass
class _Open:
    """Batches that may still take a clip, ordered by the room they have left."""

    pool: int
    max_clips: int | None
    rooms: list[tuple[int, int]] = field(default_factory=list)  # (room, serial), ascending
    clips: dict[int, list[int]] = field(default_factory=dict)  # serial -> clip indices
    serial: int = 0

    def put(self, clip: int, cost: int, budget: int) -> list[list[int]]:
        """Place one clip; returns the batches that this closed."""
        at, closed = bisect_left(self.rooms, (cost, -1)), []
        if at < len(self.rooms):
            room, serial = self.rooms.pop(at)
        else:
            room, serial, self.serial = budget, self.serial, self.serial + 1
            self.clips[serial] = []
            if len(self.rooms) >= self.pool:
                closed.append(self.clips.pop(self.rooms.pop(0)[1]))
        self.clips[serial].append(clip)
        if room <= cost or len(self.clips[serial]) == self.max_clips:
            closed.append(self.clips.pop(serial))
        else:
            insort(self.rooms, (room - cost, serial))
        return closed


def plan_epoch(
    costs: Sequence[int],
    *,
    budget: int,
    epoch: int,
    seed: int,
    pool: int = 64,
    max_clips: int | None = None,
    min_clips: int = 1,
    draws: Order | None = None,
) -> list[list[int]]:
    """Batches of clip indices for one epoch: every clip once, or those that `draws` takes, each
    batch's summed cost at most `budget`.

    A clip that costs more than the budget goes alone. pool: how many batches stay open while they
    fill. min_clips=2 (contrastive learning: one pair has no negative) mends batches of one clip: it
    joins a batch with room, else a batch of three or more gives it a companion; where neither fits,
    the clip sits this epoch out. Where every clip costs at most half the budget that is at most one
    clip, another one each epoch. Raises ValueError on a budget, pool or limit that cannot hold.
    """
    if budget < 1 or pool < 1 or min_clips not in (1, 2):
        raise ValueError("budget and pool must be positive, and min_clips 1 or 2")
    if max_clips is not None and max_clips < min_clips:
        raise ValueError(f"max_clips {max_clips} is below min_clips {min_clips}")
    rng = np.random.default_rng([seed, epoch, _PLAN])
    still_open, batches = _Open(pool, max_clips), []
    order = rng.permutation(len(costs)) if draws is None else draws.clips(rng, epoch)
    for clip in order.tolist():
        batches += still_open.put(clip, costs[clip], budget)
    batches += still_open.clips.values()
    if min_clips == 2:
        batches = _without_singles(batches, costs, budget, max_clips)
    if draws is not None and draws.local:
        return _shuffled_nearby(batches, pool, len(still_open.clips), rng)
    # the batches closed last are the less filled ones: they must not always end the epoch
    return [batches[i] for i in rng.permutation(len(batches)).tolist()]


def _shuffled_nearby(
    batches: list[list[int]], pool: int, unfilled: int, rng: np.random.Generator
) -> list[list[int]]:
    """In random order within every `pool` of them; the last ones, `unfilled`, go anywhere."""
    place = np.arange(len(batches)) // pool + rng.random(len(batches))
    first = max(0, len(batches) - unfilled)
    place[first:] = rng.uniform(0, len(batches) / pool, len(batches) - first)
    return [batches[i] for i in np.argsort(place).tolist()]


def _without_singles(
    batches: list[list[int]], costs: Sequence[int], budget: int, max_clips: int | None
) -> list[list[int]]:
    whole = [batch for batch in batches if len(batch) > 1]
    singles = sorted((batch[0] for batch in batches if len(batch) == 1), key=lambda c: costs[c])
    while len(singles) > 1 and costs[singles[0]] + costs[singles[1]] <= budget:
        whole.append([singles.pop(0), singles.pop(0)])
    room = [budget - sum(costs[c] for c in batch) for batch in whole]
    for clip in singles:
        if costs[clip] > budget:
            continue
        if not _join(clip, whole, room, costs, max_clips):
            _borrow(clip, whole, room, costs, budget)
    return whole


def _join(
    clip: int,
    whole: list[list[int]],
    room: list[int],
    costs: Sequence[int],
    max_clips: int | None,
) -> bool:
    for i, batch in enumerate(whole):
        if room[i] >= costs[clip] and (max_clips is None or len(batch) < max_clips):
            batch.append(clip)
            room[i] -= costs[clip]
            return True
    return False


def _borrow(
    clip: int, whole: list[list[int]], room: list[int], costs: Sequence[int], budget: int
) -> None:
    for i, batch in enumerate(whole):
        companion = min(batch, key=lambda c: costs[c])
        if len(batch) > 2 and costs[companion] + costs[clip] <= budget:
            batch.remove(companion)
            room[i] += costs[companion]
            whole.append([clip, companion])
            room.append(budget - costs[companion] - costs[clip])
            return


class Schedule:
    """The plans of all epochs laid end to end: which clips step t trains on.

    The number of steps differs a little from epoch to epoch; `lengths` keeps those known, so that a
    resumed run need not plan the past again.
    """

    def __init__(
        self,
        costs: Sequence[int],
        *,
        budget: int,
        seed: int,
        max_clips: int | None = None,
        min_clips: int = 1,
        draws: Order | None = None,
    ) -> None:
        self.costs, self.budget, self.seed = list(costs), budget, seed
        self.max_clips, self.min_clips, self.draws = max_clips, min_clips, draws
        self.lengths: list[int] = []
        self._plans: dict[int, list[list[int]]] = {}

    def plan(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch; the newest plans are kept."""
        if epoch not in self._plans:
            while len(self._plans) >= _EPOCHS_KEPT:
                del self._plans[next(iter(self._plans))]  # the oldest
            self._plans[epoch] = plan_epoch(
                self.costs,
                budget=self.budget,
                epoch=epoch,
                seed=self.seed,
                max_clips=self.max_clips,
                min_clips=self.min_clips,
                draws=self.draws,
            )
        return self._plans[epoch]

    def steps_in(self, epochs: int) -> int:
        """How many steps the first `epochs` epochs take."""
        while len(self.lengths) < epochs:
            self.lengths.append(len(self.plan(len(self.lengths))))
        return sum(self.lengths[:epochs])

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, position in it) of a step counted from 0."""
        if step < 0:
            raise ValueError(f"step {step} is negative")
        while sum(self.lengths) <= step:
            if not self.steps_in(len(self.lengths) + 1):
                raise ValueError("no batch can be made of these clips")
        ends = list(accumulate(self.lengths))
        epoch = next(e for e, end in enumerate(ends) if step < end)
        return epoch, step - (ends[epoch] - self.lengths[epoch])
