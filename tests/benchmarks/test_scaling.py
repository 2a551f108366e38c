"""The figures are what they say: fits find rates, failing children are told, ranks are dealt to."""

from __future__ import annotations

import json

import pytest

from benchmarks import scaling
from benchmarks.scaling import (
    clips_per_s,
    efficiency,
    fit_rates,
    planner_errors,
    simulated,
    together,
)


def test_two_rates_are_found_again():
    costs = [(8e9, 1e8), (4e9, 3e8), (9e9, 9e8)]
    seconds = [2e-10 * flop + 1e-9 * kept for flop, kept in costs]
    assert fit_rates(costs, seconds) == pytest.approx([2e-10, 1e-9])


def test_a_rate_is_never_negative():
    costs = [(1e9, 1e8), (2e9, 1e8)]
    assert min(fit_rates(costs, [1.0, 2.5])) == 0
    assert fit_rates(costs, [1.0, 2.0]) == pytest.approx([1e-9, 0])


def test_efficiency_is_over_twice_one_process(monkeypatch):
    def told(processes, size, steps, *, meet):
        return [10.0] if processes == 1 else [9.0, 9.0] if meet else [9.5, 9.5]

    monkeypatch.setattr(scaling, "together", told)
    found = efficiency("nano", steps=1, rounds=3)
    assert (found["two_process_efficiency"], found["machine_efficiency"]) == (0.9, 0.95)


def test_a_child_trains_and_one_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(scaling, "contrastive_only", _tiny)
    assert clips_per_s("nano", "1") > 0
    with pytest.raises(RuntimeError, match="a process failed"):
        together(1, "nope", 1, meet=False)


def test_errors_are_over_what_was_measured(monkeypatch):
    monkeypatch.setattr(scaling, "find_recipe", lambda name: _tiny(_find(name)))
    monkeypatch.setattr(scaling, "_own_words", lambda *_, **__: "50.0")
    found = planner_errors([("nano", 1.0, 2)], [("nano", 2.0, 2)], rounds=1)
    assert abs(found["flop_error"]) < 0.02
    assert found["planner_error"] == max(
        found[f"{kind}_error"] for kind in ("flop", "memory", "time")
    )
    assert found["memory_error"] == max(abs(found[f"memory_error_nano_{s}s"]) for s in (1, 2))


def test_1024_ranks_are_dealt_to_and_the_planning_is_measured(monkeypatch):
    asked = []

    def own(*given):
        asked.append(given)
        return scaling.CHILDREN[given[0]](*given[1:])

    monkeypatch.setattr(scaling, "_own_words", own)
    found = simulated(60_000, (3000,))
    assert found["simulated_exactly_once"] == 1
    assert found["simulated_clips"] == 60_000
    assert found["for_109m_plan_s"] == pytest.approx(109 * found["plan_s_per_m_at_3000"])
    assert json.loads(own("plan", "3000", asked[0][2]))["batches"] > 60


def _find(name):
    from echoic.recipes import find_recipe

    return find_recipe(name)


def _tiny(recipe):
    return recipe.override(
        ["model.audio.depth=1", "model.audio.width=32", "model.audio.heads=2",
         "model.audio.hidden=48", "model.text.depth=1", "model.text.vocab=64", "model.decoder=null",
         "model.embed_dim=16"]
    )  # fmt: skip
