"""A task's result: means over folds and seeds, its interval, its forms."""

from __future__ import annotations

import json

import numpy as np
import pytest

from echoic.data.tasks import open_task
from echoic.eval.bootstrap import Bootstrap
from echoic.eval.comparison import compare_results
from echoic.eval.outcomes import read_result, write_result
from echoic.eval.task_result import task_result
from echoic.types import DataError
from tests import task_trees
from tests.eval.test_report import check

TRUTH = {"1": np.eye(2)[[0, 1, 0, 1]], "2": np.eye(2)[[0, 1]]}


@pytest.fixture
def task(tmp_path):
    task_trees.esc50(tmp_path)
    return open_task("esc50", tmp_path)


KEYS = {"1": ["a", "b", "c", "d"], "2": ["e", "f"]}


def result(task, scores, protocol="linear", truth=TRUTH, **more):
    given = {"model": {"name": "m"}, "words": ["as told"], "bad": {}} | more
    return task_result(task, protocol, scores, truth, **given, bootstrap=Bootstrap(seed=0))


def test_folds_count_alike_though_they_differ_in_size(task):
    wrong = 1 - TRUTH["2"]
    found = result(task, {42: {"1": TRUTH["1"], "2": wrong}})
    assert found.by_fold == {"1": 1.0, "2": 0.0}
    assert found.value == 0.5  # of clips it were 4 of 6
    assert (found.clips, found.spread) == (6, None)
    assert found.interval.low <= 0.5 <= found.interval.high
    assert found.per_class == {"dog": pytest.approx(2 / 3), "sea waves": pytest.approx(2 / 3)}


def test_spread_is_the_deviation_over_seeds(task):
    right, half = TRUTH, {"1": TRUTH["1"], "2": 1 - TRUTH["2"]}
    found = result(task, {42: right, 43: right, 44: half})
    assert found.by_seed == {42: 1.0, 43: 1.0, 44: 0.5}
    assert found.spread == pytest.approx(np.std([1, 1, 0.5], ddof=1))
    assert found.by_fold["2"] == pytest.approx(2 / 3)


def test_without_seed_none_is_told(task):
    found = result(task, {None: {"all": TRUTH["1"]}}, "zero_shot", {"all": TRUTH["1"]})
    assert (found.by_seed, found.spread) == ({}, None)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["metrics"].keys() == {"zero_shot/accuracy"}
    assert document["chance"] == {"zero_shot/accuracy": 0.5}
    assert document["protocol"][0] == "as told"
    assert {each["protocol"] for each in document["published"]} == {"zero_shot"}


def test_report_holds_classes_confusion_and_reliability(task, tmp_path):
    wrong = TRUTH | {"2": 1 - TRUTH["2"]}
    found = result(task, {42: TRUTH, 43: wrong}, keys=KEYS, scale=2.0)
    page = found.write_report(tmp_path / "deep/report.html").read_text("utf-8")
    checked = check(page)
    titles = ["At a glance", "The figure", "By class", "Confusion", "Reliability"]
    assert [each.title for each in found.sections()] == titles
    assert "svg" in checked.seen
    for said in ("By seed", "By fold", "sea waves", "M2D-CLAP 2024", "as told", "50.00"):
        assert said in page
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        found.write_report(tmp_path / "file/report.html")


def test_scores_that_are_no_logits_have_no_reliability(task):
    found = result(task, {42: TRUTH}, keys=KEYS)
    assert (found.calibration, found.to_json()["calibration"]) == (None, None)
    assert "Reliability" not in [each.title for each in found.sections()]
    sure = result(task, {42: TRUTH}, scale=2.0).to_json()["calibration"]
    assert sure["confidence"] == pytest.approx(np.exp(2) / (np.exp(2) + 1))


def test_two_results_are_compared_by_clip(task, tmp_path):
    """The figures of the comparison are those of the results, though folds differ in size."""
    wrong = TRUTH | {"2": 1 - TRUTH["2"]}
    a, b = result(task, {42: TRUTH}, keys=KEYS), result(task, {42: wrong, 43: TRUTH}, keys=KEYS)
    paths = [write_result(tmp_path / f"{n}.json", each) for n, each in (("a", a), ("b", b))]
    (found,) = compare_results(*map(read_result, paths)).figures
    assert (found.figure, found.a, found.b) == ("linear/accuracy", a.value, b.value)
    assert found.p == 0.5  # of two clips that moved, both one way
    assert result(task, {42: TRUTH}).outcomes() == ()
