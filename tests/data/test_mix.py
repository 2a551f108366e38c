from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echoic.data.clips import Clip, ConcatSource, RecaptionedSource, SubsetSource
from echoic.data.loader import Loader
from echoic.data.mix import Mix, OrderedSource, by_shard, mixed
from echoic.data.order import ByShard, Shuffled
from echoic.data.pack import Schedule
from echoic.data.shards import ShardSource, shard_numbers, write_shards
from echoic.types import ConfigError

RNG = np.random.default_rng(0)


class Tones:
    """So many clips of 0.1 s."""

    def __init__(self, count: int) -> None:
        self.clips = tuple(Clip(f"{i}", (f"caption {i}",), (), 0.1) for i in range(count))

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        return np.full(rate_hz // 10, 0.5, np.float32)


def stream(mix: Mix, epochs: int) -> np.ndarray:
    return np.concatenate([mix.clips(RNG, epoch) for epoch in range(epochs)])


sources_st = st.lists(st.tuples(st.integers(1, 40), st.floats(0.02, 50)), min_size=1, max_size=6)


@given(sources_st, st.integers(1, 90), st.integers(0, 3))
@settings(max_examples=100)
def test_exact_shares_and_each_clip_once_per_own_epoch(given, count, seed):
    sizes, weights = zip(*given, strict=True)
    mix = Mix([Shuffled(n) for n in sizes], np.array(weights), count, seed)
    clips = stream(mix, 6)
    starts = np.cumsum([0, *sizes])
    which = np.searchsorted(starts, clips, side="right") - 1
    drawn = np.cumsum(np.eye(len(sizes))[which], axis=0)
    wanted = np.arange(1, len(clips) + 1)[:, None] * mix.shares
    assert np.abs(drawn - wanted).max() <= 0.5 + len(sizes) / 2
    for s, size in enumerate(sizes):
        own = clips[which == s] - starts[s]
        for first in range(0, len(own) - size + 1, size):
            assert sorted(own[first : first + size].tolist()) == list(range(size))
    for n in range(0, len(clips), 7):
        assert np.array_equal(mix.drawn(n), np.bincount(which[:n], minlength=len(sizes)))


def test_the_stream_does_not_hang_on_where_epochs_are_cut():
    def made(count: int) -> Mix:
        return Mix([Shuffled(100), Shuffled(30)], np.array([1.0, 2.0]), count, 5)

    assert np.array_equal(stream(made(60), 7), stream(made(35), 12))
    assert not np.array_equal(stream(made(60), 1), stream(made(60), 2)[60:])
    assert np.array_equal(made(60).clips(RNG, 4), stream(made(60), 5)[240:])  # without the past


def test_exact_for_ever():
    mix = Mix([Shuffled(7)] * 3, np.array([0.2, 0.3, 0.5]), 100, 0)
    assert np.abs(mix.drawn(10**12) - 10**12 * mix.shares).max() <= 2


def test_two_seeds_differ_in_order_and_not_in_shares():
    one, two = (Mix([Shuffled(50), Shuffled(50)], np.array([1.0, 3.0]), 60, s) for s in (0, 1))
    assert not np.array_equal(one.clips(RNG, 0), two.clips(RNG, 0))
    assert np.array_equal(one.clips(RNG, 0) < 50, two.clips(RNG, 0) < 50)


def test_an_epoch_brings_no_source_round_twice_by_default():
    source = mixed({"a": Tones(100), "b": Tones(30)}, {"a": 1, "b": 2}, seed=0)
    assert [clip.key for clip in source.clips][98:102] == ["a/98", "a/99", "b/0", "b/1"]
    assert source.order.count == 45
    assert mixed({"a": Tones(100), "b": Tones(30)}, {}, seed=0).order.count == 130
    short = mixed({"a": Tones(100), "b": Tones(30)}, {"a": 1, "b": 2}, seed=0, count=7)
    assert short.order.count == 7


def test_without_weights_an_epoch_holds_every_clip_once():
    mix = mixed({"a": Tones(100), "b": Tones(30), "c": Tones(1)}, {}, seed=0).order
    for epoch in range(3):
        assert sorted(mix.clips(RNG, epoch).tolist()) == list(range(131))


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        ({"x": 1}, "weight of 'x': there is no such source; there are a, b"),
        ({"a": 0, "b": 1}, "weight 0 of 'a': give a number above 0"),
        ({"a": float("nan"), "b": 1}, "weight nan of 'a'"),
        ({"a": 1}, "no weight of 'b': give one of each source, or of none"),
    ],
)
def test_wrong_weights(weights, line):
    with pytest.raises(ConfigError) as caught:
        mixed({"a": Tones(3), "b": Tones(3)}, weights, seed=0)
    assert line in str(caught.value)


def test_in_the_loader_it_goes_on_anywhere():
    def loader() -> Loader:
        source = mixed({"a": Tones(20), "b": Tones(6)}, {"a": 1, "b": 1}, seed=3)
        return Loader(
            source, rate_hz=1000, tokenize=lambda texts: [[1] for _ in texts],
            cost=lambda s: 1, budget=4, seed=3, draws=source.order,
        )  # fmt: skip

    def keys(first: int, count: int) -> list[tuple[str, ...]]:
        batches = loader().batches(first)
        found = [next(batches).keys for _ in range(count)]
        batches.close()
        return found

    whole = keys(0, 30)
    assert keys(17, 13) == whole[17:]
    names = [key[0] for batch in whole for key in batch]
    assert abs(names.count("a") - names.count("b")) <= 2
    other = loader()
    other._schedule.draws = mixed({"a": Tones(20), "b": Tones(6)}, {"a": 1, "b": 2}, seed=3).order
    assert other.fingerprint != loader().fingerprint
    other._schedule.draws = mixed({"a": Tones(20), "b": Tones(6)}, {"a": 1, "b": 1}, seed=4).order
    assert other.fingerprint != loader().fingerprint


def test_of_sources_read_by_shard_the_reads_stay_together():
    order = ByShard(np.repeat(np.arange(20), 50), window=2)
    mix = mixed({name: OrderedSource(Tones(1000), order) for name in "ab"}, {}, seed=0).order
    assert mix.local
    plan = Schedule([1] * 2000, budget=10, seed=0, draws=mix).plan(0)
    assert sorted(i for batch in plan for i in batch) == list(range(2000))
    at_once = [
        len({i // 50 for batch in plan[k : k + 10] for i in batch}) for k in range(len(plan) - 10)
    ]
    assert np.median(at_once) <= 18  # of 40, of which others meet about 37
    assert not mixed(
        {"a": OrderedSource(Tones(1000), order), "b": Tones(9)}, {}, seed=0
    ).order.local


def test_the_shards_of_a_source_seen_through_views(tmp_path):
    wave = np.full(800, 0.5, np.float32)
    pairs = [(Clip(f"{i}", ("x",), (), None), wave) for i in range(10)]
    write_shards(pairs, tmp_path, per_shard=4, rate_hz=8000)
    shards = ShardSource(tmp_path)
    assert shard_numbers(shards).tolist() == [0] * 4 + [1] * 4 + [2] * 2
    some = SubsetSource(RecaptionedSource(shards, lambda clip: ("y",)), [9, 4, 0])
    assert shard_numbers(some).tolist() == [2, 1, 0]
    both = ConcatSource({"a": some, "b": Tones(2), "c": shards})
    assert shard_numbers(both).tolist() == [2, 1, 0, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6]
    assert sorted(by_shard(both).order.clips(RNG, 0).tolist()) == list(range(15))
