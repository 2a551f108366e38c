"""The sections of a task's report: every class is told, the worst are drawn, mistakes are named."""

from __future__ import annotations

import re

import numpy as np
import pytest

from echoic.data.tasks.paper import Published
from echoic.eval.answers import Answers
from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.calibration import calibrate
from echoic.eval.plots import Spot, agreement_chart
from echoic.eval.report import Report, Tiles
from echoic.eval.task_score import per_class
from echoic.eval.task_sections import (
    MOST_DRAWN,
    class_section,
    confusion_figure,
    confusion_section,
    reliability_blocks,
    rival,
    runs_section,
)
from tests.eval.test_report import HOSTILE, check

BOOT = Bootstrap(seed=0, resamples=50)


def answers(rng, classes, per_clip="one", clips=200, labels=None):
    if per_clip == "one":
        truth = np.eye(classes)[np.arange(clips) % (classes - 1)]  # the last has no clip
    else:
        truth = (rng.random((clips, classes)) < 0.2).astype(float)
        truth[:, -1] = 0
    runs = [truth + 0.6 * rng.standard_normal(truth.shape) for _ in range(2)]
    names = labels or [f"class {i}" for i in range(classes)]
    return Answers(names, per_clip, truth, runs, np.zeros(clips, dtype=np.int64), scale=3.0)


def by_class(found):
    figures = np.mean([per_class(run, found.truth, found.per_clip) for run in found.runs], axis=0)
    return dict(zip(found.labels, figures.tolist(), strict=True))


@pytest.mark.parametrize("per_clip", ["one", "many"])
def test_all_classes_are_told_and_the_ends_of_many_drawn(per_clip, rng):
    few, many = answers(rng, 5, per_clip), answers(rng, 40, per_clip)
    shown = class_section(few, by_class(few), BOOT).blocks
    assert [block.title for block in shown] == ["Classes, worst first", "All classes"]
    shown = class_section(many, by_class(many), BOOT).blocks
    assert [block.title for block in shown] == ["Worst classes", "Best classes", "All classes"]
    assert [len(block.table.rows) for block in shown[:2]] == [12, 12]
    rows = shown[2].rows
    assert len(rows) == 39  # not the one without a clip
    shares = [float(row[-1]) for row in rows]
    assert shares == sorted(shares)
    assert shown[0].table.rows[0][0] == rows[0][0]
    assert all(int(row[-2]) > 0 for row in rows)


def test_few_clips_make_no_sure_class(rng):
    """A class whose three clips are all right is not sure to be."""
    truth = np.eye(2)[[0, 0, 0, 1, 1, 1]]
    found = Answers(["a", "b"], "one", truth, [truth], np.zeros(6, dtype=np.int64))
    rows = class_section(found, {"a": 1.0, "b": 1.0}, BOOT).blocks[0].table.rows
    assert rows[0] == ("a", "100.0 (43.9 to 100.0)")


def test_mistakes_are_named_by_how_many():
    truth = np.eye(3)[[0] * 6 + [1] * 4 + [2] * 2]
    said = np.eye(3)[[1, 1, 1, 0, 0, 0, 1, 1, 1, 2, 2, 2]]
    found = Answers(["a", "b", "c"], "one", truth, [said], np.zeros(12, dtype=np.int64))
    figure, table = confusion_section(found).blocks
    assert table.rows == [("a", "b", "3", "50"), ("b", "c", "1", "25")]
    assert figure.table.rows[0] == ("a", "50", "50", "0")
    right = Answers(["a", "b", "c"], "one", truth, [truth], np.zeros(12, dtype=np.int64))
    assert len(confusion_section(right).blocks) == 1
    assert rival(["a", "b"], [3, 0.5], 0) == "b (0.5)"
    assert rival(["a", "b"], [3, 0], 0) == ""


def test_of_very_many_classes_those_with_mistakes_are_drawn():
    counts = np.eye(MOST_DRAWN + 40) * 9
    counts[70, 3], counts[5, 80] = 4, 2
    figure = confusion_figure(counts, [f"c{i}" for i in range(len(counts))])
    assert "24 of 100 classes" in figure.title
    names = [row[0] for row in figure.table.rows]
    assert {"c3", "c5", "c70", "c80"} <= set(names)
    assert names == sorted(names, key=lambda name: int(name[1:]))
    assert len(figure.svg) < 200_000


def test_reliability_is_drawn_with_its_numbers(rng):
    logits = 8 * rng.standard_normal((400, 4))
    found = calibrate([logits], np.eye(4)[rng.integers(4, size=400)], "one")
    tiles, figure = reliability_blocks(found, BOOT)
    assert isinstance(tiles, Tiles)
    assert tiles.tiles[0].value.startswith("+")  # sure, and right by chance
    assert float(tiles.tiles[1].value.split()[0]) > 50
    assert len(figure.table.rows) == len(found.bins()) == figure.svg.count("<circle")
    assert sum(int(row[-1]) for row in figure.table.rows) == 400


def test_runs_stand_beside_the_papers():
    value = Interval(0.9, 0.88, 0.92, 0.95)
    papers = [Published("linear", "M2D", 0.913)]
    section = runs_section("accuracy", value, papers, {42: 0.89, 43: 0.91}, {"test": 0.9})
    first, seeds = section.blocks
    assert first.rows == [("this model", "90.0 (88.0 to 92.0)"), ("M2D", "91.3")]
    assert seeds.rows == [("42", "89.00"), ("43", "91.00")]
    alone = runs_section("mAP", value, [], {}, {"test": 0.9})
    assert ([block.title for block in alone.blocks], alone.lead) == (["This model"], "")


@pytest.mark.parametrize("label", ["rain", HOSTILE, ""])
def test_pages_are_whole_and_safe(label, rng):
    labels = [f"{label} {i}" for i in range(5)]
    one, many = (answers(rng, 5, kind, labels=labels) for kind in ("one", "many"))
    sections = [class_section(each, by_class(each), BOOT) for each in (one, many)]
    page = Report("t", "s", [*sections, confusion_section(one)]).html()
    assert {"svg", "table"} <= check(page).seen
    assert "<img" not in page


def test_reliability_stays_inside_its_drawing():
    ends = [Spot("a", 0.0, Interval(0, 0, 0, 0.9), 1), Spot("b", 1.0, Interval(1, 0, 1, 0.9), 1)]
    figure = agreement_chart("t", ends, x_label="x", y_label="y")
    width, height = (float(v) for v in figure.svg.split('"')[1].split()[2:])
    for name, bound in (("cx", width), ("cy", height), ("x1", width), ("y2", height)):
        found = [float(v) for v in re.findall(rf' {name}="(-?[\d.]+)"', figure.svg)]
        assert found
        assert all(0 <= v <= bound for v in found), name
