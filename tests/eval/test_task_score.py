"""A task's figure and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from echoic.eval.bootstrap import Bootstrap
from echoic.eval.tagging import average_precision, tagging
from echoic.eval.task_score import (
    _weighted_precision,
    draw_weights,
    drawn_maps,
    hits,
    map_interval,
    per_class,
    precision_interval,
    score,
)


def test_accuracy_counts_the_right_ones():
    scores = np.array([[2.0, 1, 0], [0, 1, 2], [1, 1, 0]])
    truth = np.eye(3)[[0, 1, 0]]
    assert hits(scores, truth).tolist() == [1, 0, 0]  # a tie counts against
    assert score(scores, truth, "one") == pytest.approx(1 / 3)
    np.testing.assert_array_equal(per_class(scores, truth, "one"), [0.5, 0, np.nan])


def test_map_is_that_of_tagging(rng):
    scores, truth = rng.standard_normal((40, 5)), rng.random((40, 5)) < 0.3
    truth[:, 4] = False
    assert score(scores, truth, "many") == pytest.approx(tagging(scores, truth).metrics()["mAP"])
    assert np.isnan(per_class(scores, truth, "many")[4])
    assert np.isnan(score(scores, np.zeros_like(truth), "many"))


def test_weights_are_repeated_clips(rng):
    scores = rng.integers(0, 6, size=25).astype(float)  # with ties
    truth, weights = rng.random(25) < 0.4, rng.integers(0, 4, size=(25, 7))
    found = _weighted_precision(truth, scores, weights)
    for row, value in zip(weights.T, found, strict=True):
        many = np.repeat(np.arange(25), row)
        assert value == pytest.approx(average_precision(truth[many], scores[many]))
    assert np.isnan(_weighted_precision(np.zeros(25, bool), scores, weights)).all()


def test_interval_of_map_holds_it_and_shrinks_with_clips(rng):
    widths = []
    for n in (60, 960):
        truth = rng.random((n, 3)) < 0.4
        found = map_interval(truth + rng.standard_normal((n, 3)), truth, Bootstrap(seed=0))
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 2


def test_interval_hangs_on_the_seed_alone(rng):
    truth = rng.random((30, 2)) < 0.5
    scores = rng.standard_normal((30, 2))
    first, again, other = (map_interval(scores, truth, Bootstrap(seed=s)) for s in (0, 0, 1))
    assert first == again != other


def test_interval_of_one_class(rng):
    truth = rng.random(80) < 0.3
    scores = truth + rng.standard_normal(80)
    found = precision_interval(scores, truth, Bootstrap(seed=0))
    assert found.low < found.value == average_precision(truth, scores) < found.high
    lone = precision_interval(scores, np.arange(80) == 3, Bootstrap(seed=0, resamples=20))
    assert 0 < lone.low <= lone.high <= 1  # resamples without that clip count not
    with pytest.raises(ValueError, match="without a clip"):
        precision_interval(scores, np.zeros(80), Bootstrap(seed=0))


def test_drawn_maps_are_those_of_repeated_clips(rng):
    scores, truth = rng.standard_normal((20, 4)), rng.random((20, 4)) < 0.4
    weights = draw_weights(20, 5, seed=1)
    assert weights.sum(axis=0).tolist() == [20] * 5
    for row, value in zip(weights.T, drawn_maps(scores, truth, weights), strict=True):
        many = np.repeat(np.arange(20), row)
        assert value == pytest.approx(score(scores[many], truth[many], "many"))
