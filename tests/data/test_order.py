from __future__ import annotations

import numpy as np
import pytest

from echoic.data import order as orders
from echoic.data import pack
from echoic.data.order import ByShard, Draws, Order, Shuffled

SHARDS = np.repeat(np.arange(300), np.random.default_rng(0).integers(0, 40, 300))


def rng() -> np.random.Generator:
    return np.random.default_rng([5, 7])


@pytest.fixture(
    params=[Shuffled(5000), ByShard(SHARDS, 4), Draws(np.ones(900), 500)],
    ids=["shuffled", "by_shard", "draws"],
)
def order(request) -> Order:
    return request.param


@pytest.fixture
def few(monkeypatch) -> None:
    """Where "many" begins."""
    monkeypatch.setattr(orders, "WHOLE_CLIPS", 64)
    monkeypatch.setattr(pack, "WHOLE_CLIPS", 64)


def stretches(order: Order, ends: list[int]) -> np.ndarray:
    spans = zip([0, *ends], [*ends, order.count], strict=True)
    return np.concatenate([order.clips(rng(), 0, a, b) for a, b in spans])


@pytest.mark.parametrize("ends", [[1], [64, 65, 300], [499]])
def test_stretches_laid_end_to_end_are_the_epoch(order, ends):
    assert np.array_equal(stretches(order, ends), order.clips(rng(), 0))


@pytest.mark.parametrize("count", [65, 255, 256, 257, 1000, 4096, 9999])
def test_many_clips_are_shuffled_by_a_bijection(few, count):
    whole = Shuffled(count).clips(rng(), 0)
    assert np.array_equal(np.sort(whole), np.arange(count))
    assert np.array_equal(stretches(Shuffled(count), [1, 40, 64]), whole)
    other = Shuffled(count).clips(np.random.default_rng([5, 8]), 0)
    assert (whole == other).mean() < 0.1


def test_a_shuffle_of_many_is_as_even_as_chance(few):
    """Where clips fall, and who comes after whom, over many keys; and far apart in one."""
    count, runs = 80, 4000
    found = np.stack([
        Shuffled(count).clips(np.random.default_rng(s), 0, 0, 2) for s in range(runs)
    ])  # fmt: skip
    for column in (found[:, 0], (found[:, 1] - found[:, 0]) % count):
        often = np.bincount(column, minlength=count)[int(column.min()) :]
        expected = runs / len(often)
        chi = float(((often - expected) ** 2 / expected).sum())
        assert chi < len(often) + 5 * np.sqrt(2 * len(often))
    whole = Shuffled(20_000).clips(rng(), 0)
    for lag in (1, 2, 100, 10_000):
        assert abs(np.corrcoef(whole, np.roll(whole, lag))[0, 1]) < 0.03


def test_many_clips_by_shard_once_each_and_few_shards_at_a_time(few):
    order = ByShard(SHARDS, window=4)
    whole = order.clips(rng(), 0)
    assert np.array_equal(np.sort(whole), np.arange(len(SHARDS)))
    assert np.array_equal(stretches(order, [3, 500, 501, 2000]), whole)
    assert max(len(set(SHARDS[whole[k : k + 30]])) for k in range(len(whole) - 30)) <= 12
    assert len(set(SHARDS[whole[:60]])) > 1
    mixed = np.random.default_rng(1).permutation(SHARDS)
    other = ByShard(mixed, window=4).clips(rng(), 0)
    assert np.array_equal(np.sort(other), np.arange(len(SHARDS)))
    assert max(len(set(mixed[other[k : k + 30]])) for k in range(len(other) - 30)) <= 12


def test_another_division_into_shards_is_another_run(few):
    assert not np.array_equal(ByShard(SHARDS).weights, ByShard(SHARDS, window=3).weights)
    assert not np.array_equal(ByShard(SHARDS).weights, ByShard(SHARDS // 2).weights)
