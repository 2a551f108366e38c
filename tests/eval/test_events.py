"""Events against events: what sed_eval says of random time lines, and cases by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from echoic.eval.bootstrap import Bootstrap
from echoic.eval.events import (
    METRICS,
    Span,
    event_counts,
    figures_of_sums,
    judge_events,
    most_pairs,
    segment_counts,
)
from echoic.eval.psds import Scored
from echoic.types import EchoicError
from tests.eval.test_psds import golden, golden_recordings

LABELS = ("bell", "dog")


def spans(*rows):
    return [Span(on, off, label) for on, off, label in rows]


@pytest.fixture(scope="module")
def judgement():
    held = golden()
    found = [spans(*held["found"][key]) for key in held["found"]]
    return judge_events(golden_recordings("clear"), found, held["labels"])


@pytest.mark.parametrize("name", METRICS)
def test_sed_eval_finds_the_same(name, judgement):
    bounds = judgement.metrics[name]
    assert bounds.value == pytest.approx(golden()["expected"][name], abs=1e-9)
    assert bounds.low < bounds.value < bounds.high


def test_sed_eval_finds_the_same_of_each_class(judgement):
    wanted = golden()["expected"]["per_class"]
    for label, figures in wanted.items():
        for name, value in figures.items():
            assert judgement.per_class[label][name] == pytest.approx(value, abs=1e-9)
    assert set(judgement.per_class["dog"]) == {"segment_f1", "event_f1", "psds1", "psds2"}
    psds1 = golden()["scored"]["clear"]["psds"]["psds1"]
    assert judgement.metrics["psds1"].value == pytest.approx(psds1["value"])
    assert judgement.per_class["dog"]["psds1"] == pytest.approx(psds1["per_class"]["dog"])


def test_the_figures_follow_from_what_each_recording_adds(judgement):
    assert judgement.counts.shape == (len(golden()["found"]), 6 * len(golden()["labels"]) + 1)
    found = figures_of_sums(judgement.counts.sum(axis=0, keepdims=True))[0]
    assert found.tolist() == [judgement.metrics[name].value for name in METRICS]


def test_segments_hold_what_sounds_in_any_part_of_them():
    truth = spans((0.9, 1.1, "bell"), (3.0, 4.0, "dog"))
    found = spans((1.0, 2.0, "bell"), (3.5, 3.6, "bell"))
    hits, true, guessed, errors = np.split(segment_counts(truth, found, LABELS, 4.5), [2, 4, 6])
    assert hits.tolist() == [1, 0]
    assert true.tolist() == [2, 1]
    assert guessed.tolist() == [2, 0]
    assert errors.tolist() == [2]  # one lacking; one taken for another


def counts(truth, found, **changes):
    return event_counts(truth, found, ["bell"], **changes).tolist()


@pytest.mark.parametrize(
    ("onset", "offset", "hit"),
    [(1.2, 3.0, 1), (1.25, 3.0, 0), (1.0, 3.4, 1), (1.0, 3.45, 0), (0.8, 2.6, 1)],
)
def test_an_event_is_found_within_collar_and_share_of_its_length(onset, offset, hit):
    assert counts(spans((1, 3, "bell")), spans((onset, offset, "bell"))) == [hit, 1, 1]
    assert counts(spans((1, 3, "bell")), spans((onset, offset, "dog"))) == [0, 1, 0]


def test_the_edge_of_the_collar_is_within():
    there, edge = spans((1, 3, "bell")), spans((1.25, 3.5, "bell"))
    assert counts(there, edge, collar_s=0.25, offset_share=0.25) == [1, 1, 1]


def test_recordings_without_events_have_no_error_rate():
    """As a bootstrap may draw them."""
    assert figures_of_sums(np.zeros((1, 6 * len(LABELS) + 1))).tolist() == [[0.0] * 5]


def test_of_a_short_event_the_collar_counts_for_the_offset():
    assert counts(spans((1, 1.1, "bell")), spans((1, 1.29, "bell"))) == [1, 1, 1]


def test_each_guess_stands_for_one_event_in_the_way_that_finds_most():
    # the first guess fits both events, the second only the first event
    truth = spans((1.0, 2.0, "bell"), (1.3, 2.3, "bell"))
    found = spans((1.15, 2.15, "bell"), (0.85, 1.85, "bell"))
    assert counts(truth, found) == [2, 2, 2]
    assert counts(truth, found[:1]) == [1, 2, 1]


def test_most_pairs_is_most(rng):
    for _ in range(200):
        fits = [np.flatnonzero(rng.random(4) < 0.4).tolist() for _ in range(4)]
        every = itertools.permutations([0, 1, 2, 3, None, None, None, None], 4)
        best = max(
            sum(j is not None and j in fits[i] for i, j in enumerate(choice))
            for choice in set(every)
        ) if any(fits) else 0  # fmt: skip
        assert most_pairs(fits) == best


def test_thousands_of_events_close_together_are_paired():
    """Each guess fits two events: paths of changes are long, and no stack overflows."""
    fits = [[i, i + 1] for i in range(1, 3000)] + [[0, 1]]
    assert most_pairs(fits) == 3000


def test_without_any_event_found_all_is_zero_and_no_warning():
    held = golden_recordings("clear")
    found = judge_events(held, [[]] * len(held), golden()["labels"], bootstrap=Bootstrap(seed=1))
    assert [found.metrics[name].value for name in METRICS] == [0, 0, 1, 0, 0]
    assert found.metrics["psds2"].value > 0  # over all thresholds, whatever was decided


def test_a_class_without_events_is_not_in_the_mean():
    one = Scored("a", spans((0, 2, "bell")), np.arange(5.0), np.eye(4)[:, :2])
    found = judge_events([one, one], [spans((0, 2, "bell"))] * 2, LABELS)
    assert found.metrics["event_f1_macro"].value == 1.0
    assert list(found.per_class) == ["bell"]


def test_nothing_to_find_is_an_error():
    with pytest.raises(EchoicError, match="without any event"):
        judge_events([Scored("a", [], np.arange(3.0), np.zeros((2, 2)))], [[]], LABELS)


def test_a_span_as_json():
    assert Span(1.0, 2.0, "dog").to_json() == {"label": "dog", "onset_s": 1.0, "offset_s": 2.0}
    assert Span(1.0, 2.0, "dog", 0.25).to_json()["score"] == 0.25
