"""Columns that the benchmark makes are those that shards have, and all of them are dealt."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import planning
from echoic.data import order, pack


@pytest.fixture(autouse=True)
def few(monkeypatch):
    for module in (order, pack):
        monkeypatch.setattr(module, "WHOLE_CLIPS", 3000)


@pytest.mark.parametrize("by_shard", [False, True])
def test_every_clip_is_dealt_once(tmp_path, by_shard):
    planning.make_columns(tmp_path, 10_001)
    found = planning.start(tmp_path, by_shard=by_shard, whole=True)
    prefix = "by_shard_" if by_shard else ""
    assert found[f"{prefix}exactly_once"]
    assert found[f"{prefix}left_out"] == 0
    assert found[f"{prefix}start_s"] > 0


def test_a_clip_that_is_dealt_twice_is_found(tmp_path):
    planning.make_columns(tmp_path, 4000)
    loader = planning.opened(tmp_path, by_shard=False)
    loader._schedule.plan(0)[0].append(loader._schedule.plan(1)[0][0])
    assert not planning.epoch(loader)["exactly_once"]


def test_lengths_are_those_of_clips(tmp_path):
    planning.make_columns(tmp_path, 2000)
    columns = planning.opened(tmp_path, by_shard=False).source.clips
    assert len(columns) == 2000
    assert 0.5 <= columns.durations_s.min() < columns.durations_s.max() <= planning.MOST_S
    assert np.array_equal(np.bincount(columns.tars()), [512, 512, 512, 464])
