"""Ranks that are not there get what real loaders would."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from echoic.data.clips import Clip
from echoic.data.loader import Loader
from echoic.data.pack import plan_epoch, plan_window
from echoic.plan import simulation
from echoic.plan.simulation import flat, simulate
from echoic.types import ConfigError


def lengths(clips: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(4, 120, clips)


def test_1024_ranks_get_every_clip_once():
    found = simulate(lengths(60_000), budget=960, ranks=1024)
    assert found.exactly_once
    assert (found.once + found.left_out, found.again) == (60_000, 0)
    assert found.steps == found.batches // 1024 >= 3
    assert 0.97 < found.filled <= 1
    assert 1 <= found.busiest_over_mean <= found.worst < 1.1
    assert found.lost == pytest.approx(1 - 1 / found.busiest_over_mean, rel=0.05)


def test_a_clip_dealt_twice_or_not_at_all_is_found(monkeypatch):
    def wrong(*given, **options):
        plan = plan_window(*given, **options)
        plan[3][0] = plan[5][0]
        plan[7] = plan[7][2:]
        return plan

    monkeypatch.setattr(simulation, "plan_window", wrong)
    found = simulate(lengths(2000), budget=960, ranks=4)
    assert (found.again, found.left_out) == (1, 3)
    assert not found.exactly_once


def test_more_batches_of_each_rank_in_a_step_even_out():
    costs = lengths(20_000)
    work = costs.astype(float) ** 2  # attention's
    one, four = (
        simulate(costs, budget=960, ranks=8, accumulate=count, work=work) for count in (1, 4)
    )
    assert four.steps == one.steps // 4
    assert four.lost < 0.7 * one.lost


def test_the_busiest_rank_is_that_of_each_step(monkeypatch):
    monkeypatch.setattr(
        simulation, "plan_window", lambda *_, **__: [[0, 1], [2, 3], [4, 5], [6, 7]]
    )
    found = simulate(np.arange(1, 9), budget=20, ranks=2)  # 3 and 7, then 11 and 15
    assert (found.steps, found.worst) == (2, 7 / 5)
    assert found.busiest_over_mean == pytest.approx((7 / 5 + 15 / 13) / 2)
    assert found.lost == pytest.approx(1 - 18 / 22)


def test_real_loaders_give_the_batches_that_are_dealt():
    class Silence:
        def __init__(self):
            self.clips = [Clip(f"{i}", (f"{i}",), (), float(s)) for i, s in enumerate(lengths(60))]

        def read(self, i, rate_hz):
            return np.full(int(self.clips[i].duration_s), 0.5, np.float32)

    ranks = 3
    costs = lengths(60)
    clips, ends = flat(plan_epoch(costs.tolist(), budget=400, epoch=0, seed=7, min_clips=2))
    dealt = [sorted(map(str, part)) for part in np.split(clips, ends[:-1])]
    for rank in range(ranks):
        loader = Loader(
            Silence(), rate_hz=1, tokenize=lambda texts: [[1] for _ in texts], cost=int,
            budget=400, seed=7, max_s=200.0, rank=rank, ranks=ranks,
        )  # fmt: skip
        own = dealt[rank::ranks]
        given = [sorted(batch.keys) for batch in islice(loader.batches(), len(own))]
        assert given == own


def test_less_than_a_step_is_told():
    with pytest.raises(ConfigError, match="less than a step of 1024 ranks"):
        simulate(lengths(100), budget=960, ranks=1024)
    with pytest.raises(ConfigError, match="0 batches of 10 tokens are less than a step of 1 ranks"):
        simulate(np.array([11, 12]), budget=10, ranks=1)  # each goes alone, which is left out
