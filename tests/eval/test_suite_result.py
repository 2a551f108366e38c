"""Entries beside the papers' values; all of them as a table, JSON, a report, a result file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from echoic.data.tasks.paper import Published
from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.comparison import compare_results
from echoic.eval.evaluation import Evaluation, ZeroShot
from echoic.eval.events_result import EventsResult
from echoic.eval.outcomes import Counts, read_result, result_of, write_result
from echoic.eval.suite_entry import Entry, filled
from echoic.eval.suite_result import SuiteResult
from echoic.eval.task_result import TaskResult
from echoic.eval.zeroshot import classify
from echoic.types import DataError

MODEL = {"recipe": "tiny"}


def interval(value):
    return Interval(value, value - 0.1, value + 0.1, 0.95)


def planned(task, measure):
    return Entry(task, task.upper(), measure, "m2d", "in one line", ("in full.",))


def task_result(value=0.5):
    return TaskResult(
        model=MODEL, task="esc50", title="ESC-50", protocol="zero_shot", metric="accuracy",
        value=value, spread=None, interval=interval(value), chance=0.02, by_seed={}, by_fold={},
        per_class={}, clips=4, words=("measured so.",), published=(), bad={"a.wav": "damaged"},
        missing=3,
    )  # fmt: skip


def evaluation(right=(0, 1, 1)):
    scores = np.array([[3.0, 1.0], [1.0, 3.0], [3.0, 1.0]])
    return Evaluation(
        model=MODEL,
        data={"name": "scenes", "clips": 3, "bad": {}},
        protocol=("asked so.",),
        bootstrap=Bootstrap(seed=0, resamples=20),
        zero_shot=ZeroShot(classify(scores, list(right)), ["x", "y"]),
    )


def events():
    return EventsResult(
        model=MODEL, task="synth", title="Scenes", per_class={}, recordings=2, hours=0.1, events=5,
        metrics={"segment_f1": interval(0.4), "psds1": interval(0.3), "error_rate": interval(1.2)},
        words=("tagged so.",),
        counts=Counts("events", ("events/segment_f1",), ["a", "b"], np.ones((2, 7)), "truth"),
    )  # fmt: skip


PAPER = (
    Published("linear", "Ours 2025", 0.9),
    Published("zero_shot", "Theirs", 0.8),
    Published("zero_shot", "Ours 2024", 0.6),
    Published("zero_shot", "Ours 2024", 0.3, "mAP"),
)


@pytest.fixture
def found():
    entries = (
        filled(planned("esc50", "zero_shot"), task_result(), PAPER, ("Ours 2025", "Ours 2024")),
        filled(planned("synth", "zero_shot"), evaluation(), (), ()),
        filled(planned("synth", "events"), events(), (), ()),
        Entry("gtzan", "GTZAN", "linear", "m2d", "", status="no data", reason="no folder gtzan"),
    )
    return SuiteResult(MODEL, "some", entries)


def test_the_papers_value_is_that_of_its_own_model_and_of_this_figure(found):
    (figure,) = found.entries[0].figures
    assert figure.published == PAPER[2]
    second = filled(planned("esc50", "zero_shot"), task_result(), PAPER, ("Nobody", "Theirs"))
    assert second.figures[0].published == PAPER[1]
    assert found.entries[1].figures[0].published is None


def test_what_a_result_knows_is_in_its_entry(found):
    task, scenes, over_time, _ = found.entries
    assert (task.clips, task.missing, task.bad) == (4, 3, {"a.wav": "damaged"})
    assert task.words == ("measured so.", "in full.")
    assert scenes.figures[0].chance == 0.5
    assert scenes.figures[0].ours.value == pytest.approx(2 / 3)
    assert [each.name for each in over_time.figures] == ["segment_f1", "psds1", "error_rate"]
    assert [each.name for each in over_time.shown()] == ["psds1", "segment_f1"]


def test_json_has_a_row_of_each_figure_and_of_what_is_lacking(found):
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    rows = document["rows"]
    assert [row["figure"] for row in rows] == [
        "accuracy", "accuracy", "segment_f1", "psds1", "error_rate", None,
    ]  # fmt: skip
    assert rows[0]["published"]["model"] == "Ours 2024"
    assert rows[0]["protocol"] == "m2d"
    assert rows[0]["protocol_line"] == "in one line"
    assert rows[0]["protocol_words"] == ["measured so.", "in full."]
    assert rows[-1]["status"] == "no data"
    assert rows[-1]["reason"] == "no folder gtzan"
    assert rows[-1]["value"] is None
    assert document["metrics"]["esc50/zero_shot/accuracy"]["value"] == 0.5
    assert len(document["metrics"]) == 5


@pytest.mark.parametrize("width", [70, 160])
def test_the_table_has_one_line_for_each_figure(found, width):
    console = Console(width=width)
    with console.capture() as captured:
        console.print(found.table())
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert lines[0] == "some: 3 of 4 measured"
    assert lines[1] == "ours 95 % interval paper chance"
    assert lines[2] == "ESC-50, zero shot, by m2d: in one line"
    assert lines[3] == "accuracy 50.0 % 40.0 to 60.0 60.0 % Ours 2024 2.0 %"
    assert lines[-1] == "GTZAN, linear, no data: no folder gtzan"


def test_other_clips_than_published_are_told(found):
    whole = replace(found.entries[0], expected=4)
    part = replace(whole, expected=2000)
    assert not whole.partly
    assert not found.entries[0].partly
    assert part.heading() == "ESC-50, zero shot, by m2d: in one line; 4 clips, published are 2000"
    assert next(part.rows())["expected"] == 2000
    assert not replace(part, status="failed", reason="damaged").partly


def test_the_report_tells_sections_of_one_name_apart(found):
    twice = (found.entries[0], replace(found.entries[0], measure="linear"), found.entries[1])
    result = SuiteResult(MODEL, "some", twice)
    titles = [section.title for section in result.report().sections]
    assert {"ESC-50, zero shot: The figure", "ESC-50, linear: The figure"} <= set(titles)
    assert "SYNTH: Zero-shot classification" in titles
    figures, how = result.report().sections[0].blocks
    assert [row[0] for row in figures.rows] == [
        "ESC-50, zero shot", "ESC-50, linear", "SYNTH, zero shot",
    ]  # fmt: skip
    assert how.rows[0] == ("ESC-50, zero shot", "by m2d: in one line")


def test_a_stopped_one_says_so(found):
    stopped = SuiteResult(MODEL, "some", found.entries[:1], complete=False)
    assert stopped.table().title == "some: 1 measured, stopped before the end"
    assert stopped.to_json()["complete"] is False


def test_the_report_has_the_table_and_what_each_result_knows(found, tmp_path):
    html = found.write_report(tmp_path / "report.html").read_text("utf-8")
    for told in ("Ours 2024", "no data: no folder gtzan", "esc50/zero_shot: in full."):
        assert told in html
    titles = [section.title for section in found.report().sections]
    assert titles[0] == "At a glance"
    assert "ESC-50: The figure" in titles
    assert "Scenes: Over time" in titles
    assert "SYNTH: Zero-shot classification" in titles
    with pytest.raises(DataError, match="cannot be written"):
        found.write_report(tmp_path / "report.html" / "within.html")


def test_a_result_file_names_figures_by_their_task(found, tmp_path):
    read = read_result(write_result(tmp_path / "a.json", found))
    figures = {name for each in read.outcomes for name in each.figures}
    assert figures == {"synth/zero_shot/accuracy", "synth/events/segment_f1"}
    assert figures <= read.document["metrics"].keys()


def test_what_was_measured_in_two_ways_is_told_apart(found):
    other = filled(planned("synth", "zero_shot"), evaluation((0, 1, 0)), (), ())
    twice = SuiteResult(MODEL, "some", (*found.entries[:2], other))
    document = twice.to_json()
    first, second = "synth/zero_shot/accuracy", "synth (2)/zero_shot/accuracy"
    assert document["metrics"][first]["value"] == pytest.approx(2 / 3)
    assert document["metrics"][second]["value"] == 1
    assert document["rows"][-1]["task"] == "synth"
    compared = compare_results(result_of(twice, "a"), result_of(twice, "b"))
    assert [each.figure for each in compared.figures] == [first, second]
