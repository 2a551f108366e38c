"""PSDS: what two public programs say of random time lines, cases that are known by thought, and
resampling."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echoic.eval.bootstrap import Bootstrap
from echoic.eval.events import Span
from echoic.eval.psds import PSDS1, PSDS2, Scenario, Scored, psds, stretches
from echoic.types import EchoicError

# Made by make_events_golden.py: sed_scores_eval 0.0.4 and psds_eval 0.5.3.
GOLDEN = Path(__file__).with_name("events_golden.json")
SCENARIOS = {
    "psds1": PSDS1,
    "psds2": PSDS2,
    "wide": Scenario("wide", 0.5, 0.5, cttc=0.3, alpha_ct=0.5, alpha_st=0.0, max_alarms=2000.0),
}
LABELS = ("bell", "dog")


@cache
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text())


def golden_recordings(name: str) -> list[Scored]:
    held = golden()
    tables = held["scored"][name]["scores"]
    return [
        Scored(key, spans, np.arange(len(table) + 1) * held["step_s"], np.array(table))
        for key, table in tables.items()
        for spans in ([Span(*row) for row in held["truth"][key]],)
    ]


def recording(*events: tuple[float, float, str], seconds: int = 36, **columns: Any) -> Scored:
    """Steps of a second; of each label the steps' scores by their place, elsewhere 0."""
    scores = np.zeros((seconds, len(LABELS)))
    for label, at in columns.items():
        for step, score in at.items():
            scores[step, LABELS.index(label)] = score
    truth = [Span(*event) for event in events]
    return Scored("a", truth, np.arange(seconds + 1.0), scores)


def area(*recordings: Scored, labels=LABELS, **changes: Any) -> float:
    return psds(recordings, labels, replace(PSDS1, **({"alpha_st": 0.0} | changes))).value


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", ["clear", "noisy"])
def test_the_public_programs_find_the_same(name, scenario):
    held = golden()
    wanted = held["scored"][name]["psds"][scenario]
    found = psds(golden_recordings(name), held["labels"], SCENARIOS[scenario])
    assert found.value == pytest.approx(wanted["value"], abs=1e-9)
    assert found.value == pytest.approx(wanted["psds_eval"], abs=1e-9)
    assert found.per_class == pytest.approx(wanted["per_class"], abs=1e-9)


def test_all_found_without_a_false_alarm_is_one_and_nothing_is_zero():
    events = ((2.0, 5.0, "bell"), (8.0, 9.0, "dog"))
    perfect = recording(*events, bell={2: 1, 3: 1, 4: 1}, dog={8: 1})
    assert area(perfect, alpha_st=1.0) == pytest.approx(1.0)
    assert area(recording(*events), alpha_st=1.0) == 0.0


def test_an_alarm_before_it_costs_its_share_of_the_axis():
    """36 s are a hundredth of an hour: one false alarm is 100 an hour."""
    one = recording((2.0, 3.0, "bell"), bell={2: 0.5, 7: 0.9})
    assert area(one) == 0.0
    four = [one, *[recording(bell={})] * 3]  # one alarm in four times the time: 25 an hour
    assert area(*four) == pytest.approx(0.75)
    assert area(*four, max_alarms=50.0) == pytest.approx(0.5)


def test_the_deviation_over_classes_is_taken_off():
    half = recording((2.0, 3.0, "bell"), (5.0, 6.0, "dog"), bell={2: 1})
    assert area(half) == pytest.approx(0.5)
    assert area(half, alpha_st=1.0) == pytest.approx(0.0)
    assert area(half, alpha_st=0.5) == pytest.approx(0.25)


@pytest.mark.parametrize(("steps", "found"), [(7, 1.0), (6, 0.0)])
def test_an_event_is_found_where_enough_of_it_is_covered(steps, found):
    ten = recording((0.0, 10.0, "bell"), bell=dict.fromkeys(range(steps), 1))
    assert area(ten) == pytest.approx(found)


@pytest.mark.parametrize(("beyond", "found"), [(3, 1.0), (4, 0.0)])
def test_a_stretch_is_right_where_enough_of_it_is_in_events(beyond, found):
    """With one stretch more that is too wide, nothing is left to find the event by."""
    seven = recording((0.0, 7.0, "bell"), bell=dict.fromkeys(range(7 + beyond), 1))
    assert area(seven) == pytest.approx(found)


def test_a_cross_trigger_weighs_by_the_seconds_of_the_other_class():
    """At the score that finds the bell a bell is also heard in the dog, of 9 s: 1 alarm in 72 s is
    50 an hour, and 1 cross trigger in 9 s is 400 an hour."""
    events = ((2.0, 3.0, "bell"), (10.0, 19.0, "dog"))
    crossed = recording(*events, seconds=72, bell={2: 0.5, 12: 0.9}, dog={})
    wide = {"dtc": 0.5, "gtc": 0.5, "cttc": 0.3, "max_alarms": 1000.0, "labels": LABELS}
    assert area(crossed, **wide) == pytest.approx(0.95 / 2)
    assert area(crossed, **wide, alpha_ct=0.5) == pytest.approx(0.75 / 2)


def test_only_the_order_within_a_class_matters():
    held = golden_recordings("noisy")
    labels = golden()["labels"]
    changed = [replace(each, scores=each.scores**3 * [1, 5, 0.1] - 2) for each in held]
    for scenario in SCENARIOS.values():
        assert psds(held, labels, scenario).value == psds(changed, labels, scenario).value


def test_events_of_a_class_that_overlap_are_one():
    parts = recording((2.0, 4.0, "bell"), (3.0, 6.0, "bell"), bell=dict.fromkeys(range(2, 6), 1))
    found = psds([parts], LABELS, PSDS1)
    assert found.labels == ("bell",)
    assert found.events.tolist() == [[1.0]]
    assert found.value == pytest.approx(1.0)


def test_a_long_recording_is_counted_in_blocks(monkeypatch):
    held, labels = golden_recordings("noisy"), golden()["labels"]
    whole = psds(held, labels, PSDS2).value
    monkeypatch.setattr("echoic.eval.psds._BLOCK_VALUES", 100)
    assert psds(held, labels, PSDS2).value == whole


def test_the_interval_holds_the_value_and_follows_the_seed():
    found = psds(golden_recordings("clear"), golden()["labels"], SCENARIOS["wide"])
    bounds = found.interval(Bootstrap(seed=3))
    assert bounds == found.interval(Bootstrap(seed=3))
    assert bounds.value == found.value
    assert bounds.low < bounds.value < bounds.high


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_recordings_that_count_twice_are_as_good_as_there_twice(scenario):
    """What a resample is: first all twice, then one of them three times in all."""
    held, labels = golden_recordings("clear"), golden()["labels"]
    found = psds(held, labels, scenario)
    assert found._value(np.full(6, 2.0)) == pytest.approx(found.value)
    assert psds([*held, *held], labels, scenario).value == pytest.approx(found.value)
    again = psds([*held, held[2], held[2]], labels, replace(scenario, alpha_ct=0.0)).value
    weighed = psds(held, labels, replace(scenario, alpha_ct=0.0))
    assert weighed._value(np.array([1, 1, 3, 1, 1, 1.0])) == pytest.approx(again)


@pytest.mark.parametrize(
    ("events", "line"),
    [
        ((), "1 recordings without any event"),
        (((1.0, 2.0, "cat"),), "a: the label 'cat' is none that was scored"),
        (((2.0, 2.0, "dog"),), "a: a 'dog' from 2 s ends at 2 s"),
    ],
)
def test_what_cannot_be_judged_is_refused(events, line):
    with pytest.raises(EchoicError, match=line):
        psds([recording(*events)], LABELS, PSDS1)


def test_scores_must_be_finite_and_fit():
    good = recording((1.0, 2.0, "dog"))
    with pytest.raises(EchoicError, match="scores of a: row 0 holds a value that is not finite"):
        psds([replace(good, scores=np.full((36, 2), np.nan))], LABELS, PSDS1)
    with pytest.raises(ValueError, match="not \\(N, C\\)"):
        psds([replace(good, scores=np.zeros((35, 2)))], LABELS, PSDS1)


def test_stretches_of_rows():
    row, begin, end = stretches([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]])
    assert (row.tolist(), begin.tolist(), end.tolist()) == ([0, 0, 2], [0, 3, 1], [2, 4, 3])
