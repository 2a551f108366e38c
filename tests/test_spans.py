"""Spans and medians: that scores come in blocks changes nothing, and what is told while they do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from echoic.spans import Medians, SpanFinder, SpanRule
from echoic.types import EchoicError

LABELS = ("a", "b", "c")
RULES = [
    SpanRule(0.6),
    SpanRule(0.6, low=0.4),
    SpanRule(0.6, gap_s=0.5),
    SpanRule(0.6, low=0.3, gap_s=0.25, min_s=0.6),
    SpanRule(0.9, low=0.2, gap_s=1.0, min_s=0.25),
]


def scores(draw: np.random.Generator, count: int) -> np.ndarray:
    """(N, C) that go up and down slowly enough for runs, with some of exactly a threshold."""
    walk = np.cumsum(draw.normal(0, 0.25, (count, len(LABELS))), axis=0)
    return (0.5 + 0.5 * np.sin(walk)).round(1)


def cut(draw: np.random.Generator, rows: np.ndarray) -> list[np.ndarray]:
    places = np.sort(draw.integers(0, len(rows) + 1, draw.integers(0, 12)))
    return np.split(rows, places)


def found(blocks, rule: SpanRule, end_s: float):
    finder = SpanFinder(LABELS, 0.25, rule)
    spans = list(itertools.chain.from_iterable(finder.add(block) for block in blocks))
    return sorted([*spans, *finder.finish(end_s)], key=lambda s: (s.onset_s, s.offset_s, s.label))


def by_hand(column: np.ndarray, rule: SpanRule, end_s: float) -> list[float]:
    """Onset, offset and score of each span of one label, by the words of `SpanRule`."""
    runs: list[list[float]] = []
    for i, score in enumerate(column):
        stop_s = end_s if i == len(column) - 1 else 0.25 * (i + 1)
        if score >= rule.least and i and column[i - 1] >= rule.least:
            runs[-1][1:] = [stop_s, max(runs[-1][2], score)]
        elif score >= rule.least:
            runs.append([0.25 * i, stop_s, score])
    spans: list[list[float]] = []
    for run in (run for run in runs if run[2] >= rule.threshold):
        if spans and run[0] - spans[-1][1] <= rule.gap_s + 1e-9:
            spans[-1][1:] = [run[1], max(spans[-1][2], run[2])]
        else:
            spans.append(run)
    kept = (span for span in spans if span[1] - span[0] >= rule.min_s - 1e-9)
    return list(itertools.chain.from_iterable(kept))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_blocks_change_nothing_and_the_rule_is_kept(rule):
    draw = np.random.default_rng(3)
    seen = 0
    for count in [0, 1, 2, *range(5, 60, 3)]:
        rows, end_s = scores(draw, count), 0.25 * count - 0.1 * (count > 0)
        whole = found([rows], rule, end_s)
        assert found(cut(draw, rows), rule, end_s) == whole
        assert found(rows[:, None], rule, end_s) == whole
        for column, label in enumerate(LABELS):
            own = [x for s in whole if s.label == label for x in (s.onset_s, s.offset_s, s.score)]
            assert own == pytest.approx(by_hand(rows[:, column], rule, end_s))
        seen += len(whole)
    assert seen > 20


def test_a_span_is_told_as_soon_as_it_is_certain():
    rule = SpanRule(0.6, low=0.4, gap_s=0.5, min_s=0.5)
    finder = SpanFinder(("a",), 0.25, rule)
    told = []
    for score in (0.0, 0.5, 0.7, 0.5, 0.0, 0.0, 0.0, 0.7):
        over = finder.add(np.array([[score]]))
        told.append(([s.onset_s for s in finder.sounding()], [s.offset_s for s in over]))
    # begins with the step that makes it high and long enough, ends when nothing can join it
    assert told == [
        ([], []), ([], []), ([0.25], []), ([0.25], []), ([], []), ([], []), ([], [1.0]), ([], []),
    ]  # fmt: skip
    assert finder.finish(2.0) == []  # 0.25 s are too short


def test_what_is_held_does_not_grow():
    finder, draw = SpanFinder(LABELS, 0.25, RULES[3]), np.random.default_rng(0)
    for _ in range(200):
        finder.add(scores(draw, 40))
        assert len(finder._open) + len(finder._held) <= 2 * len(LABELS)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"low": 0.9}, r"low 0\.9 is above the threshold 0\.3"),
        ({"threshold": float("nan")}, "threshold nan: give a number"),
        ({"gap_s": -1}, "a gap of -1 s: give 0 or more"),
        ({"min_s": float("inf")}, "a shortest span of inf s"),
    ],
)
def test_rules_that_cannot_be_are_refused(rule, words):
    with pytest.raises(EchoicError, match=words):
        SpanRule(**rule)


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_medians_are_the_same_in_blocks(reach):
    draw = np.random.default_rng(reach)
    for count in (0, 1, 2, 5, 40):
        rows = draw.random((count, 3))
        padded = np.pad(rows, ((reach, reach), (0, 0)), mode="edge") if count else rows
        wanted = [np.median(padded[i : i + 2 * reach + 1], axis=0) for i in range(count)]
        whole = Medians(reach).whole(rows)
        assert whole.tolist() == [row.tolist() for row in wanted]
        live = Medians(reach)
        parts = [*(live.add(block) for block in cut(draw, rows)), live.finish()]
        assert [row for part in parts for row in part.tolist()] == whole.tolist()


def test_a_median_that_cannot_be_is_refused():
    assert Medians.over(1.0, 0.2)._reach == 2
    assert Medians.over(0.1, 0.2)._reach == 0
    for median_s in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(EchoicError, match="a median over"):
            Medians.over(median_s, 0.2)
