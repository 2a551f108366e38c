"""Several sources in one training, by weight: from which of them each clip of the endless stream
is taken, and which of its clips.

Source s gives its j-th clip (from 0) at the time (j + 1/2) / share_s, and the stream is these
events in the order of their times. So at every point, for ever, the clips that each of S sources
has given are within 1/2 + S/2 of its share; there is no state to keep, and an epoch, which is
`count` clips of the stream, follows from its number alone. Each source goes through its own clips
in epochs of its own: each once, in an order of its own, however long the others are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from echoic.data.clips import ConcatSource, RetoldSource, Source
from echoic.data.order import WHOLE_CLIPS, ByShard, Order, Shuffled
from echoic.data.shards import shard_numbers
from echoic.types import ConfigError

_OWN_EPOCH = 0x313


@dataclass(frozen=True)
class Mix:
    """Epochs of `count` clips of several sources, whose indices lie end to end.

    orders: of the own epochs of each source; wanted: (S,) weights of any sum.
    """

    orders: Sequence[Order]
    wanted: np.ndarray
    count: int
    seed: int
    _newest: dict[int, tuple[int, np.ndarray]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def local(self) -> bool:
        return all(order.local for order in self.orders)

    @property
    def shares(self) -> np.ndarray:
        """(S,), of sum 1."""
        return np.asarray(self.wanted / self.wanted.sum())

    @property
    def weights(self) -> np.ndarray:
        return np.concatenate([self.wanted, [self.seed], *(order.weights for order in self.orders)])

    def clips(
        self, rng: np.random.Generator, epoch: int, first: int = 0, stop: int | None = None
    ) -> np.ndarray:
        """Indices; the same for the same epoch, whatever `rng` is."""
        begin, end = epoch * self.count + first, self.count if stop is None else stop
        given, then = self.drawn(begin), self.drawn(epoch * self.count + end)
        _, which = self._events(given, then)
        taken = np.empty(end - first, np.int64)
        starts = np.cumsum([0, *(order.count for order in self.orders)])
        for s, (a, b) in enumerate(zip(given.tolist(), then.tolist(), strict=True)):
            taken[which == s] = starts[s] + self._own(s, a, b)
        return taken

    def drawn(self, clips: int) -> np.ndarray:
        """(S,) how many of the first `clips` clips of the stream each source has given."""
        # at the time t each source has given its share of t to within a half
        sources = len(self.orders)
        surely = np.ceil((clips - sources) * self.shares - 0.5).astype(np.int64)
        counts = np.maximum(surely - 1, 0)
        _, which = self._events(counts, counts + np.ceil(2 * sources * self.shares).astype(int) + 3)
        which = which[: clips - counts.sum()]
        return np.asarray(counts + np.bincount(which, minlength=sources))

    def _events(self, first: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Time and source of each source's clips `first` to `stop` - 1, in order."""
        spans = zip(first.tolist(), stop.tolist(), self.shares, strict=True)
        times = [(np.arange(a, b) + 0.5) / share for a, b, share in spans]
        which = np.repeat(np.arange(len(times)), [len(each) for each in times])
        joined = np.concatenate(times)
        order = np.lexsort((which, joined))
        return joined[order], which[order]

    def _own(self, s: int, first: int, stop: int) -> np.ndarray:
        """Clips `first` to `stop` - 1 of what source s gives in all, as its indices."""
        size = self.orders[s].count
        parts = []
        while first < stop:
            epoch, at = divmod(first, size)
            end = min(size, at + stop - first)
            parts.append(self._stretch(s, epoch, at, end))
            first += end - at
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _stretch(self, s: int, epoch: int, first: int, stop: int) -> np.ndarray:
        rng, order = np.random.default_rng([self.seed, s, epoch, _OWN_EPOCH]), self.orders[s]
        if order.count > WHOLE_CLIPS:
            return order.clips(rng, epoch, first, stop)
        kept = self._newest.get(s)
        if kept is None or kept[0] != epoch:
            kept = self._newest[s] = epoch, order.clips(rng, epoch)
        return kept[1][first:stop]


class OrderedSource(RetoldSource):
    """A source with the order of its epochs: `Loader(source, draws=source.order)`."""

    def __init__(self, source: Source, order: Order) -> None:
        super().__init__(source, source.clips)
        self.order = order


def by_shard(source: Source, window: int = 8) -> OrderedSource:
    """A source of shards, read shard by shard: see pack.ByShard."""
    return OrderedSource(source, ByShard(shard_numbers(source), window))


def mixed(
    sources: Mapping[str, Source],
    weights: Mapping[str, float],
    *,
    seed: int,
    count: int | None = None,
) -> OrderedSource:
    """The sources as one, of which each gives its share of the clips.

    weights: by name, of any sum; of each, or of none: then all clips come equally often.
    count: clips of an epoch; by default as many as bring no source round twice.
    A source that has an order keeps it in its own epochs. Raises ConfigError.
    """
    unknown = [name for name in weights if name not in sources]
    if unknown:
        raise ConfigError(f"weight of {unknown[0]!r}: there is no such source; {_names(sources)}")
    for name, weight in weights.items():
        if not 0 < weight < float("inf"):
            raise ConfigError(f"weight {weight:g} of {name!r}: give a number above 0")
    each: list[Order] = [
        source.order if isinstance(source, OrderedSource) else Shuffled(len(source.clips))
        for source in sources.values()
    ]
    given = [weights.get(name, len(source.clips)) for name, source in sources.items()]
    if weights and len(weights) < len(sources):
        left = [name for name in sources if name not in weights]
        raise ConfigError(f"no weight of {left[0]!r}: give one of each source, or of none")
    wanted = np.array(given, np.float64)
    longest = min(
        order.count / share for order, share in zip(each, wanted / wanted.sum(), strict=True)
    )
    mix = Mix(each, wanted, count or max(1, int(longest + 1e-9)), seed)
    return OrderedSource(ConcatSource(sources), mix)


def _names(sources: Mapping[str, Source]) -> str:
    return f"there are {', '.join(sources)}"
