"""The order of an epoch's clips: shuffled, shard by shard, or drawn by weight.

Up to `WHOLE_CLIPS` clips are put in order at once. Of more, any stretch of the epoch is made alone,
in memory for that stretch: a shuffle is then a bijection that is computed clip by clip (a Feistel
network, Luby & Rackoff 1988), and shards are shuffled as wholes.

N clips, S shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

WHOLE_CLIPS = 2**18
_ROUNDS = 6


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

    def clips(
        self, rng: np.random.Generator, epoch: int, first: int = 0, stop: int | None = None
    ) -> np.ndarray:
        """Indices at places `first` to `stop` - 1 of the epoch, a pure function of the arguments
        and of the state of `rng`."""
        ...


@dataclass(frozen=True)
class Shuffled:
    """Every clip once, in random order."""

    count: int
    local = False

    @property
    def weights(self) -> np.ndarray:
        return np.empty(0)

    def clips(
        self, rng: np.random.Generator, epoch: int, first: int = 0, stop: int | None = None
    ) -> np.ndarray:
        if self.count <= WHOLE_CLIPS:
            return rng.permutation(self.count)[first:stop]
        places = np.arange(first, self.count if stop is None else stop)
        return _scattered(places, self.count, rng)


class ByShard:
    """Every clip once: the shards in random order, and the clips of `window` shards shuffled
    together. What is read at a time so lies in few shards, which a store, a disk or a cache likes.

    shards: (N,) number of each clip's shard, as `shard_numbers` gives it.
    """

    local = True

    def __init__(self, shards: np.ndarray, window: int = 8) -> None:
        self.count, self.window = len(shards), window
        self._shards = shards if len(shards) <= WHOLE_CLIPS else None
        # the clips shard by shard; None where they lie so already
        in_turn = bool(np.all(shards[1:] >= shards[:-1]))
        self._clips = None if in_turn else np.argsort(shards, kind="stable")
        lying = shards if self._clips is None else shards[self._clips]
        ends = np.flatnonzero(lying[1:] != lying[:-1]) + 1
        self._starts = np.concatenate([[0], ends, [len(shards)]])  # (S + 1,)

    @property
    def weights(self) -> np.ndarray:
        return np.append(self._starts if self._shards is None else self._shards, self.window)

    def clips(
        self, rng: np.random.Generator, epoch: int, first: int = 0, stop: int | None = None
    ) -> np.ndarray:
        place = rng.permutation(len(self._starts) - 1)
        if self._shards is not None:
            shard = np.unique(self._shards, return_inverse=True)[1]
            return np.lexsort((rng.random(self.count), place[shard] // self.window))[first:stop]
        seed = int(rng.integers(2**63))
        return self._stretch(np.argsort(place), seed, first, self.count if stop is None else stop)

    def _stretch(self, shards: np.ndarray, seed: int, first: int, stop: int) -> np.ndarray:
        """Of the epoch that reads the shards in that order; `window` of them are shuffled by a
        generator of their own, so that it does not matter where stretches begin."""
        sizes = np.diff(self._starts)[shards]
        ends = np.cumsum(np.add.reduceat(sizes, np.arange(0, len(sizes), self.window)))
        group, parts = int(np.searchsorted(ends, first, side="right")), []
        begin = int(ends[group - 1]) if group else 0
        skipped = first - begin
        while begin < stop:
            some = shards[group * self.window : (group + 1) * self.window]
            clips = np.concatenate([np.arange(self._starts[s], self._starts[s + 1]) for s in some])
            parts.append(np.random.default_rng([seed, group]).permutation(clips))
            begin, group = begin + len(clips), group + 1
        places = np.concatenate(parts)[skipped : skipped + stop - first]
        return places if self._clips is None else self._clips[places]


@dataclass(frozen=True)
class Draws:
    """An epoch of `count` clips (or all, where there are fewer), drawn without replacement, each
    draw in proportion to the weights (N,) of what is left; those of weight 0 come last."""

    weights: np.ndarray
    count: int
    local = False

    def clips(
        self, rng: np.random.Generator, epoch: int = 0, first: int = 0, stop: int | None = None
    ) -> np.ndarray:
        """Indices in random order."""
        # Who comes first in a race of exponential waiting times is such a draw (Efraimidis &
        # Spirakis 2006).
        arrival = np.full(len(self.weights), np.inf)
        waiting = rng.exponential(size=len(self.weights))
        np.divide(waiting, self.weights, out=arrival, where=self.weights > 0)
        count = min(self.count, len(arrival))
        # sorted: in what order a partition leaves them is the processor's business
        early = np.sort(np.argpartition(arrival, count - 1)[:count])
        return rng.permutation(early)[first:stop]


def _scattered(places: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Where a random bijection of 0 to `count` - 1 sends the places (n,).

    A Feistel network is one of the next power of 4; what falls outside goes through it again.
    """
    half = np.uint64(max(1, -(-(count - 1).bit_length() // 2)))
    keys = rng.integers(2**64, size=_ROUNDS, dtype=np.uint64)
    found = _feistel(places.astype(np.uint64), half, keys)
    while len(outside := np.flatnonzero(found >= count)):
        found[outside] = _feistel(found[outside], half, keys)
    return found.astype(np.int64)


def _feistel(x: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    low = (np.uint64(1) << half) - np.uint64(1)
    left, right = x >> half, x & low
    for key in keys:
        mixed = (right + key) * np.uint64(0x9E3779B97F4A7C15)  # modulo 2**64
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        left, right = right, left ^ (mixed >> np.uint64(32) & low)
    return left << half | right
