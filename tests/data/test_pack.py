from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echoic.data import order as orders
from echoic.data import pack
from echoic.data.order import ByShard, Draws, Shuffled
from echoic.data.pack import Schedule, plan_epoch
from echoic.plan.simulation import simulate

costs_and_budget = st.tuples(
    st.lists(st.integers(1, 60), min_size=0, max_size=80), st.integers(1, 100)
)


@given(costs_and_budget, st.integers(0, 5), st.integers(1, 6), st.none() | st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_every_clip_once_within_budget_and_limit(given, epoch, pool, max_clips):
    costs, budget = given
    plan = plan_epoch(costs, budget=budget, epoch=epoch, seed=3, pool=pool, max_clips=max_clips)
    assert sorted(i for batch in plan for i in batch) == list(range(len(costs)))
    for batch in plan:
        assert sum(costs[i] for i in batch) <= budget or len(batch) == 1
        assert len(batch) <= (max_clips or len(batch))


@given(
    st.lists(st.integers(1, 50), min_size=2, max_size=60),
    st.integers(0, 3),
    st.integers(1, 4),
    st.none() | st.integers(2, 5),
)
@settings(max_examples=150, deadline=None)
def test_no_lonely_pair_where_two_of_the_longest_fit(costs, epoch, pool, max_clips):
    plan = plan_epoch(
        costs, budget=100, epoch=epoch, seed=1, pool=pool, max_clips=max_clips, min_clips=2
    )
    planned = sorted(i for batch in plan for i in batch)
    assert len(set(planned)) == len(planned)
    assert len(costs) - len(planned) <= 1
    for batch in plan:
        assert 2 <= len(batch) <= (max_clips or len(batch))
        assert sum(costs[i] for i in batch) <= 100


def test_the_clip_that_sits_out_changes():
    def left_out(epoch: int) -> set[int]:
        plan = plan_epoch([50] * 7, budget=100, epoch=epoch, seed=0, min_clips=2)
        return set(range(7)) - {i for batch in plan for i in batch}

    assert all(len(left_out(epoch)) == 1 for epoch in range(10))
    assert len(set.union(*map(left_out, range(10)))) > 2


def test_a_clip_above_the_budget_goes_alone():
    plan = plan_epoch([5, 200, 5, 5], budget=20, epoch=0, seed=0)
    assert [1] in plan
    assert len(plan) == 2


def test_shuffled_by_seed_and_epoch():
    costs = [3, 1, 4, 1, 5, 9, 2, 6] * 20

    def plan(seed: int, epoch: int) -> list[list[int]]:
        return plan_epoch(costs, budget=40, epoch=epoch, seed=seed)

    assert plan(0, 0) == plan(0, 0)
    assert plan(0, 0) != plan(0, 1)
    assert plan(0, 0) != plan(1, 0)


@pytest.mark.parametrize("longest_s", [10, 30])
def test_batches_are_well_filled_and_mix_lengths(longest_s, rng):
    seconds = np.clip(rng.lognormal(1.7, 0.8, 3000), 0.5, longest_s)
    costs = [int(s * 25) for s in seconds]
    budget = 16 * longest_s * 25 // 4
    plan = plan_epoch(costs, budget=budget, epoch=0, seed=0)
    assert len(plan) <= 1.02 * sum(costs) / budget + 1
    means = np.array([np.mean([costs[i] for i in batch]) for batch in plan if len(batch) > 2])
    # drawn at random, a batch's mean spreads by the clips' own spread over the root of its size
    size = len(costs) / len(plan)
    assert means.std() < 2.0 * np.std(costs) / np.sqrt(size)


def test_planning_is_quick(rng):
    costs = rng.integers(10, 750, 50_000).tolist()
    start = time.perf_counter()
    plan_epoch(costs, budget=24_000, epoch=0, seed=0)
    assert time.perf_counter() - start < 3  # measured 0.1 s; this is for an accidental square


@pytest.mark.parametrize(
    "wrong", [{"budget": 0}, {"pool": 0}, {"min_clips": 3}, {"min_clips": 2, "max_clips": 1}]
)
def test_settings_that_cannot_hold(wrong):
    with pytest.raises(ValueError, match=r"must be|below"):
        plan_epoch([1, 2], **{"budget": 10, "epoch": 0, "seed": 0, **wrong})


class TestSchedule:
    def schedule(self) -> Schedule:
        return Schedule([(7 * i) % 11 + 1 for i in range(50)], budget=30, seed=4)

    def test_steps_are_the_epochs_laid_end_to_end(self):
        schedule = self.schedule()
        steps = [(e, p) for e in range(3) for p in range(len(schedule.plan(e)))]
        assert schedule.steps_in(3) == len(steps)
        assert [schedule.locate(t) for t in range(len(steps))] == steps

    def test_known_lengths_spare_planning_the_past(self):
        before, after = self.schedule(), self.schedule()
        last = before.steps_in(6) - 1
        after.lengths = list(before.lengths)
        assert after.locate(last) == before.locate(last)
        assert not after._plans

    def test_negative_step(self):
        with pytest.raises(ValueError, match="negative"):
            self.schedule().locate(-1)

    def test_no_batch_at_all(self):
        with pytest.raises(ValueError, match="no batch"):
            Schedule([50], budget=30, seed=0, min_clips=2).locate(0)


def test_drawn_epochs_hold_so_many_clips_each_once():
    draws = Draws(np.ones(50), 20)
    epochs = [
        plan_epoch([1] * 50, budget=8, epoch=e, seed=1, min_clips=2, draws=draws) for e in range(3)
    ]
    for plan in epochs:
        clips = [i for batch in plan for i in batch]
        assert len(clips) == len(set(clips)) == 20
        assert max(map(len, plan)) <= 8
    assert epochs[0] != epochs[1]
    again = plan_epoch([1] * 50, budget=8, epoch=1, seed=1, min_clips=2, draws=draws)
    assert again == epochs[1]
    assert Schedule([1] * 50, budget=5, seed=0, draws=draws).steps_in(3) == 12


def test_draws_are_in_proportion_to_what_is_left():
    """Two of three clips: the chance of each pair, written out."""
    weights = np.array([1.0, 2.0, 5.0])
    draws, rng = Draws(weights, 2), np.random.default_rng(0)
    runs = 8000
    found = [frozenset(draws.clips(rng).tolist()) for _ in range(runs)]
    share, total = weights / weights.sum(), weights.sum()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        first = share[a] * weights[b] / (total - weights[a])
        second = share[b] * weights[a] / (total - weights[b])
        chance = first + second
        error = 4 * (chance * (1 - chance) / runs) ** 0.5
        assert found.count(frozenset((a, b))) / runs == pytest.approx(chance, abs=error)


def test_drawn_clips_come_in_random_order_and_those_of_no_weight_last():
    draws, rng = Draws(np.array([1000.0, 1.0, 0.0]), 2), np.random.default_rng(0)
    orders = [tuple(draws.clips(rng).tolist()) for _ in range(40)]
    assert set(orders) == {(0, 1), (1, 0)}
    assert sorted(Draws(np.array([3.0, 0.0]), 9).clips(rng).tolist()) == [0, 1]


def test_by_shard_every_clip_once_and_few_shards_at_a_time():
    shards = np.repeat(np.arange(100), 40)
    order = ByShard(shards, window=4)
    costs = [(7 * i) % 11 + 1 for i in range(len(shards))]
    plans = [plan_epoch(costs, budget=60, epoch=e, seed=0, pool=8, draws=order) for e in (0, 1)]
    for plan in plans:
        assert sorted(i for batch in plan for i in batch) == list(range(len(shards)))
        assert all(sum(costs[i] for i in batch) <= 60 for batch in plan)
        spread = [len({shards[i] for b in plan[k : k + 8] for i in b}) for k in range(len(plan))]
        assert np.quantile(spread, 0.9) <= 12  # of 100
    assert plans[0] != plans[1]
    whole = plan_epoch(costs, budget=60, epoch=0, seed=0, pool=8)
    assert min(len({shards[i] for b in whole[k : k + 8] for i in b}) for k in range(60)) > 20


def test_by_shard_in_one_window_is_a_shuffle():
    order = ByShard(np.zeros(1000, int))
    clips = order.clips(np.random.default_rng(0), 0)
    assert sorted(clips.tolist()) == list(range(1000))
    assert abs(np.corrcoef(clips, np.arange(1000))[0, 1]) < 0.15


def test_another_order_is_another_run():
    shards = np.repeat(np.arange(4), 5)
    assert not np.array_equal(ByShard(shards).weights, ByShard(shards, window=2).weights)


@pytest.mark.parametrize("longest_s", [10, 30])
def test_ranks_have_equal_work(longest_s, rng):
    """Of W consecutive batches, one for each rank, the heaviest holds all others up."""
    seconds = np.clip(rng.lognormal(1.7, 0.8, 60_000), 0.5, longest_s)
    costs = [int(s * 25) for s in seconds]
    budget = max(16 * int(np.mean(costs)), 2 * longest_s * 25)
    plan = plan_epoch(costs, budget=budget, epoch=0, seed=0, min_clips=2)
    work = np.array([sum(costs[i] for i in batch) for batch in plan])
    for ranks in (2, 8, 64, 1024):
        steps = work[: len(work) // ranks * ranks].reshape(-1, ranks)
        held_up = steps.max(1) / steps.mean(1)
        assert held_up.mean() < 1.01  # measured: at most 1.003


class TestWindows:
    """Epochs that are too big to be planned at once."""

    costs = np.random.default_rng(0).integers(1, 40, 1003)

    @pytest.fixture(autouse=True)
    def few(self, monkeypatch):
        for module in (orders, pack):
            monkeypatch.setattr(module, "WHOLE_CLIPS", 100)

    @pytest.mark.parametrize(
        "order", [None, ByShard(np.arange(1003) // 20, 3), Shuffled(700), Draws(np.ones(1003), 350)]
    )
    def test_every_clip_once_and_nothing_beside_the_window_is_planned(self, order):
        made = Schedule(self.costs, budget=200, seed=3, min_clips=2, draws=order)
        count = 1003 if order is None else order.count
        assert made.windows == -(-count // 100)
        made.locate(0)
        assert len(made.lengths) == 1
        for epoch in range(2):
            windows = [made.plan(epoch * made.windows + w) for w in range(made.windows)]
            clips = [i for plan in windows for batch in plan for i in batch]
            assert len(set(clips)) == len(clips) == count
            assert all(self.costs[b].sum() <= 200 for plan in windows for b in plan)
            assert [batch for plan in windows for batch in plan] == plan_epoch(
                self.costs, budget=200, epoch=epoch, seed=3, min_clips=2, draws=order
            )

    def test_steps_are_the_windows_laid_end_to_end(self):
        made = Schedule(self.costs, budget=200, seed=3)
        plans = [made.plan(w) for w in range(2 * made.windows)]
        places = [(w, p) for w, plan in enumerate(plans) for p in range(len(plan))]
        again = Schedule(self.costs, budget=200, seed=3)
        assert [again.locate(t) for t in range(len(places))] == places
        assert again.steps_in(2) == len(places)
        first = sum(map(len, plans[: made.windows]))
        assert [again.epoch_of(t) for t in (0, first - 1, first)] == [0, 0, 1]

    def test_known_lengths_spare_planning_the_past(self):
        before, after = (Schedule(self.costs, budget=200, seed=3) for _ in range(2))
        before.locate(150)
        after.lengths = before.lengths
        assert after.locate(150) == before.locate(150)
        assert not after._plans

    def test_ranks_get_every_clip_once(self):
        found = simulate(self.costs, budget=200, ranks=7)
        assert found.exactly_once
        assert found.once + found.left_out == 1003


def test_what_fits_one_window_is_planned_as_a_whole(monkeypatch):
    costs = [3, 1, 4, 1, 5, 9, 2, 6] * 20
    whole = plan_epoch(costs, budget=40, epoch=1, seed=2)
    monkeypatch.setattr(pack, "WHOLE_CLIPS", len(costs))
    assert plan_epoch(costs, budget=40, epoch=1, seed=2) == whole
    digest = hashlib.sha256(repr(whole).encode()).hexdigest()
    assert digest[:16] == "40afedd7107b365a"  # a run that was begun may go on: never change this
