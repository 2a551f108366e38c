"""Batches by token budget: which clips go together in each step of each epoch.

Clips are ragged, so a batch is bounded by the sum of its costs (tokens), not by a count. The
epoch's order is a shuffle by (seed, epoch); each clip goes to the fullest open batch that still has
room for it (online best fit), so batches fill to within the shortest clips' length of the budget
and yet mix lengths: clips of one length together would let a model tell pairs apart by their
length. Everything is a pure function of its arguments.

An epoch of many clips is planned window by window, of `WHOLE_CLIPS` at most: each as if it were an
epoch of its own, so that memory and the time before the first step do not grow with the corpus.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Protocol

import numpy as np

from echoic.data.order import WHOLE_CLIPS, Order, Shuffled

_PLAN, _WINDOWS_KEPT = 0x9AC4, 2


class Costs(Protocol):
    """(N,) the cost of each clip, told for many at once: an array, or what computes it."""

    def __len__(self) -> int: ...

    def __getitem__(self, clips: np.ndarray) -> np.ndarray: ...


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
    costs: Sequence[int] | Costs,
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
    clip of a window, another one each epoch. Raises ValueError on a budget, pool or limit that
    cannot hold.
    """
    table = _as_costs(costs)
    order = Shuffled(len(table)) if draws is None else draws
    windows = (
        plan_window(
            table, window, budget=budget, epoch=epoch, seed=seed, pool=pool, max_clips=max_clips,
            min_clips=min_clips, order=order,
        )
        for window in range(windows_of(order.count))
    )  # fmt: skip
    return list(chain.from_iterable(windows))


def windows_of(clips: int) -> int:
    """How many windows an epoch of so many clips has."""
    return max(1, -(-clips // WHOLE_CLIPS))


def plan_window(
    costs: Costs,
    window: int,
    *,
    budget: int,
    epoch: int,
    seed: int,
    order: Order,
    pool: int = 64,
    max_clips: int | None = None,
    min_clips: int = 1,
) -> list[list[int]]:
    """The batches of one window of an epoch: see `plan_epoch`."""
    if budget < 1 or pool < 1 or min_clips not in (1, 2):
        raise ValueError("budget and pool must be positive, and min_clips 1 or 2")
    if max_clips is not None and max_clips < min_clips:
        raise ValueError(f"max_clips {max_clips} is below min_clips {min_clips}")
    rng, windows = np.random.default_rng([seed, epoch, _PLAN]), windows_of(order.count)
    if windows == 1:
        indices = order.clips(rng, epoch)
    else:
        first, stop = (order.count * at // windows for at in (window, window + 1))
        indices = order.clips(rng, epoch, first, stop)
        rng = np.random.default_rng([seed, epoch, _PLAN, window, windows])
    held = costs[indices].tolist()
    batches, unfilled = _packed(held, budget, pool, max_clips)
    if min_clips == 2:
        batches = _without_singles(batches, held, budget, max_clips)
    if order.local:
        batches = _shuffled_nearby(batches, pool, unfilled, rng)
    else:
        # the batches closed last are the less filled ones: they must not always end the epoch
        batches = [batches[i] for i in rng.permutation(len(batches)).tolist()]
    clips = indices.tolist()
    return [[clips[at] for at in batch] for batch in batches]


def _packed(
    costs: list[int], budget: int, pool: int, max_clips: int | None
) -> tuple[list[list[int]], int]:
    """Batches of places in `costs`, and how many of the last were closed because all was dealt."""
    still_open, batches = _Open(pool, max_clips), []
    for at, cost in enumerate(costs):
        batches += still_open.put(at, cost, budget)
    batches += still_open.clips.values()
    return batches, len(still_open.clips)


def _as_costs(costs: Sequence[int] | Costs) -> Costs:
    return np.asarray(costs, np.int64) if isinstance(costs, Sequence) else costs


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

    The number of steps differs a little from window to window; `lengths` keeps those known, window
    by window and epoch after epoch, so that a resumed run need not plan the past again.
    """

    def __init__(
        self,
        costs: Sequence[int] | Costs,
        *,
        budget: int,
        seed: int,
        max_clips: int | None = None,
        min_clips: int = 1,
        draws: Order | None = None,
    ) -> None:
        self.costs, self.budget, self.seed = _as_costs(costs), budget, seed
        self.max_clips, self.min_clips, self.draws = max_clips, min_clips, draws
        self._order = Shuffled(len(self.costs)) if draws is None else draws
        self.windows = windows_of(self._order.count)  # of an epoch
        self.lengths = []
        self._plans: dict[int, list[list[int]]] = {}

    @property
    def lengths(self) -> list[int]:
        return [end - begin for begin, end in zip([0, *self._ends], self._ends, strict=False)]

    @lengths.setter
    def lengths(self, known: Sequence[int]) -> None:
        self._ends = list(accumulate(known))

    def plan(self, window: int) -> list[list[int]]:
        """The batches of one window, counted through all epochs; the newest plans are kept."""
        if window not in self._plans:
            while len(self._plans) >= _WINDOWS_KEPT:
                del self._plans[next(iter(self._plans))]  # the oldest
            epoch, at = divmod(window, self.windows)
            self._plans[window] = plan_window(
                self.costs,
                at,
                budget=self.budget,
                epoch=epoch,
                seed=self.seed,
                max_clips=self.max_clips,
                min_clips=self.min_clips,
                order=self._order,
            )
        return self._plans[window]

    def steps_in(self, epochs: int) -> int:
        """How many steps the first `epochs` epochs take; their windows are planned to know it."""
        return self._end_of(epochs * self.windows)

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) of a step counted from 0."""
        return self.locate(step)[0] // self.windows

    def locate(self, step: int) -> tuple[int, int]:
        """(window, position in it) of a step counted from 0."""
        if step < 0:
            raise ValueError(f"step {step} is negative")
        while not self._ends or self._ends[-1] <= step:
            if not self._end_of(len(self._ends) + 1) and len(self._ends) >= self.windows:
                raise ValueError("no batch can be made of these clips")
        window = bisect_right(self._ends, step)
        return window, step - (self._ends[window - 1] if window else 0)

    def _end_of(self, windows: int) -> int:
        """How many steps the first so many windows take."""
        for window in range(len(self._ends), windows):
            self._ends.append((self._ends[-1] if window else 0) + len(self.plan(window)))
        return self._ends[windows - 1] if windows else 0
