"""The figures of a training are shares of its steps, and cores follow from the planner."""

from __future__ import annotations

import pytest

from benchmarks import loader
from benchmarks.loader import Timer, gpu_cores, of_clip, overheads, training
from echoic.recipes import find_recipe


def test_a_training_is_measured(tmp_path, monkeypatch):
    tiny = find_recipe("nano").override(
        ["model.audio.depth=1", "model.text.depth=1", "data.budget_tokens=1600"]
    )
    monkeypatch.setattr(loader, "find_recipe", lambda name: tiny)
    found = training(tmp_path, clips=6, steps=4)
    assert found["step_s"] > 0
    assert all(0 <= found[f"{name}_share"] < 1 for name in ("wait", "logging", "checkpoint"))
    assert found["checkpoint_share"] > found["logging_share"] > 0


def test_the_larger_overhead_is_told(tmp_path, monkeypatch):
    times = iter([[1.2, 1.0], [4.5, 3.0]])
    monkeypatch.setattr(loader, "measure_loader", lambda *_: next(times))
    found = overheads(tmp_path, clips=720, runs=1)
    assert found["loader_overhead"] == 1.5
    assert found["hours_per_core_s_16000"] == pytest.approx(1 / 1.2)


def test_a_quicker_core_is_needed_less():
    assert gpu_cores(1.0) == pytest.approx(2 * gpu_cores(2.0))


def test_a_timer_keeps_what_its_function_gives():
    timer = Timer(lambda x: x + 1)
    assert [timer(1), timer(2)] == [2, 3]
    assert len(timer.laps) == 2


def test_a_profile_is_in_parts(tmp_path):
    parts = of_clip(tmp_path, 16_000, clips=16)
    assert parts["all"] > parts["decoder and resampler alone"] > 0
    parts.pop("decoder and resampler alone")
    assert len(parts) == 6
