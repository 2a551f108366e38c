"""The best weights: of equals the last, over an interruption, and what cannot be read."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from echoic.train.best import Best
from echoic.types import CheckpointError


def task(value: float) -> nn.Module:
    made = nn.Linear(2, 2)
    nn.init.constant_(made.weight, value)
    return made


def restored(best: Best) -> tuple[int, float]:
    made = task(0.0)
    step = best.restore(made)
    return step, float(made.weight[0, 0].detach())


def test_the_best_is_kept_and_of_equals_the_last(tmp_path):
    best = Best(tmp_path / "best", fresh=True)
    for step, score in enumerate([0.1, 0.7, 0.3, 0.7, math.nan]):
        best.offer(score, task(float(step)), step)
    assert restored(best) == (3, 3.0)


def test_something_is_kept_even_if_no_score_is_a_number(tmp_path):
    best = Best(tmp_path / "best", fresh=True)
    best.offer(math.nan, task(5.0), 5)
    assert restored(best) == (5, 5.0)
    best.offer(-3.0, task(6.0), 6)
    assert restored(best) == (6, 6.0)


def test_it_outlives_an_interruption(tmp_path):
    Best(tmp_path / "best", fresh=True).offer(0.5, task(1.0), 1)
    again = Best(tmp_path / "best", fresh=False)
    again.offer(0.4, task(2.0), 2)
    assert restored(again) == (1, 1.0)
    fresh = Best(tmp_path / "best", fresh=True)
    fresh.offer(0.1, task(3.0), 3)
    assert restored(fresh) == (3, 3.0)


def test_weights_are_those_of_the_moment(tmp_path):
    best, made = Best(tmp_path / "best", fresh=True), task(1.0)
    best.offer(0.5, made, 1)
    with torch.no_grad():
        made.weight.fill_(9.0)
    assert restored(best) == (1, 1.0)


def test_a_damaged_or_foreign_file_is_named(tmp_path):
    (tmp_path / "best").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="best: not a whole file"):
        Best(tmp_path / "best", fresh=False)
    best = Best(tmp_path / "best", fresh=True)
    best.offer(0.5, nn.Linear(3, 2), 1)
    with pytest.raises(CheckpointError, match="does not fit"):
        best.restore(task(0.0))
    missing = Best(tmp_path / "no" / "best", fresh=True)
    with pytest.raises(CheckpointError, match="cannot be written"):
        missing.offer(0.5, task(1.0), 1)
