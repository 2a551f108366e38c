"""Tagging over time as JSON, a table, sections of a report; and what each recording adds."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from echoic.data.tasks.paper import Published
from echoic.eval.bootstrap import Bootstrap
from echoic.eval.comparison import SWAP, compare_results
from echoic.eval.events import METRICS, Span, judge_events
from echoic.eval.events_result import EventsResult, counts_of
from echoic.eval.outcomes import Result, read_result, write_result
from echoic.eval.psds import Scored
from echoic.eval.report import Report
from echoic.types import DataError

LABELS = ("bell", "dog <b>")
BOOT = Bootstrap(seed=0, resamples=200)


def measured(rng, hit=0.9, recordings=40, shift_s=0.0):
    """A recording has one event of each class, of which a share is found; in drawn order."""
    held, found = [], []
    for i in rng.permutation(recordings):
        events = [Span(1 + i % 3 + shift_s, 4.0 + i % 3, label) for label in LABELS]
        held.append(Scored(f"{i:03}.wav", events, np.arange(9.0), np.zeros((8, 2))))
        found.append([event for event in events if rng.random() < hit])
    judged = judge_events(held, found, LABELS, bootstrap=BOOT)
    paper = (Published("events", "a baseline", 0.351, "psds1"),)
    return EventsResult(
        {"name": "m"}, "desed", "DESED", judged.metrics, judged.per_class, recordings, 0.01,
        2 * recordings, ("how",), paper, {"x": "silent"}, 2, counts_of(judged, held, LABELS),
    )  # fmt: skip


def test_a_result_says_all_of_itself(rng):
    result = measured(rng)
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert set(document["metrics"]) == {f"events/{n}" for n in (*METRICS, "psds1", "psds2")}
    assert document["data"]["missing"] == 2
    assert document["data"]["bad"] == {"x": "silent"}
    assert document["published"][0]["value"] == 0.351
    assert document["confidence"] == 0.95
    assert set(document["per_class"]) == set(LABELS)
    out = io.StringIO()
    Console(width=140, file=out).print(result.table())
    shown = out.getvalue()
    assert "DESED: 40 recordings, 80 events" in shown
    assert "a baseline 35.1 %" in shown


def test_the_report_has_its_figures_and_classes_worst_first(rng):
    result = measured(rng)
    result = replace(
        result,
        per_class={
            "good": dict.fromkeys(("segment_f1", "event_f1", "psds1", "psds2"), 0.75),
            "bad <i>": dict.fromkeys(("segment_f1", "event_f1", "psds1", "psds2"), 0.25),
        },
    )
    page = Report("x", "y", result.sections()).html()
    value = f"{100 * result.metrics['event_f1'].value:.1f}"
    for told in ("PSDS 1", "F1 of events", value, "a baseline 35.1", "error rate", "By class"):
        assert told in page
    assert page.index("bad &lt;i&gt;") < page.index("good")
    bare = replace(result, per_class={})
    assert [section.title for section in bare.sections()] == ["At a glance", "Over time"]


def test_two_models_are_compared_by_recording(tmp_path, rng):
    a, b = measured(rng, 0.9), measured(rng, 0.5)
    for name, each in (("a", a), ("b", b)):
        write_result(tmp_path / name, each)
    sides = [read_result(tmp_path / name) for name in "ab"]
    found = {f.figure: f for f in compare_results(*sides, bootstrap=BOOT).figures}
    assert set(found) == {f"events/{name}" for name in METRICS}
    for name in METRICS:
        each = found[f"events/{name}"]
        assert (each.test, each.clips) == (SWAP, 40)
        assert each.a == a.metrics[name].value
        assert each.b == b.metrics[name].value
        assert each.difference == pytest.approx(each.a - each.b)
        assert each.low < each.difference < each.high
        assert each.p < 0.01
    assert found["events/error_rate"].difference < 0
    order = rng.permutation(40)
    mixed = replace(
        b.counts, clips=[b.counts.clips[i] for i in order], counts=b.counts.counts[order]
    )
    assert compare_results(sides[0], replace(sides[1], outcomes=(mixed,)), bootstrap=BOOT) == (
        compare_results(*sides, bootstrap=BOOT)
    )
    same = compare_results(sides[0], sides[0], bootstrap=BOOT).figures
    assert {(f.difference, f.p) for f in same} == {(0.0, 1.0)}


def test_other_events_are_refused(rng):
    (ours,), (theirs,) = (measured(rng, shift_s=s).outcomes() for s in (0.0, 0.25))
    assert ours.clips != theirs.clips
    assert ours.against != theirs.against
    with pytest.raises(DataError, match="not held against the same labels or captions"):
        compare_results(*(result(f"{i}", each) for i, each in enumerate((ours, theirs))))
    unknown = replace(ours, formula="of a later version")
    with pytest.raises(DataError, match="not held against the same"):
        compare_results(result("a", unknown), result("b", unknown))
    assert replace(measured(rng), counts=None).outcomes() == ()


def result(name, outcomes):
    return Result(name, {"data": {}, "protocol": ["as told"]}, (outcomes,))
