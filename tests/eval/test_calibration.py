"""Is a model as often right as it says: bins, calibration error and Brier score by hand, and what
of the error is chance."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from echoic.eval.bootstrap import Bootstrap
from echoic.eval.calibration import calibrate, wilson
from echoic.types import EchoicError

BOOT = Bootstrap(seed=0, resamples=200)


def two_classes(sure, right):
    """Logits (N, 2) of which class 0 comes first with these probabilities, and truth."""
    p = np.asarray(sure, dtype=np.float64)
    logits = np.stack([np.log(p / (1 - p)), np.zeros(len(p))], axis=1)
    return logits, np.eye(2)[1 - np.asarray(right)]


def test_error_and_brier_by_hand():
    """Ten clips at 0.6, of which 5 are right, ten at 0.9, of which all are."""
    sure, right = [0.6] * 10 + [0.9] * 10, [1, 0] * 5 + [1] * 10
    found = calibrate([two_classes(sure, right)[0]], two_classes(sure, right)[1], "one", bins=2)
    assert [(round(b.confidence, 9), b.right.value, b.decisions) for b in found.bins()] == [
        (0.6, 0.5, 10),
        (0.9, 1.0, 10),
    ]
    assert found.error == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)
    brier = (5 * 2 * 0.4**2 + 5 * 2 * 0.6**2 + 10 * 2 * 0.1**2) / 20
    assert found.brier_interval(BOOT).value == pytest.approx(brier)
    assert (found.confidence, found.right) == (pytest.approx(0.75), 0.75)


def test_one_bin_hides_what_two_show():
    """The two bins above are off to either side: together they are right."""
    sure, right = [0.6] * 10 + [0.9] * 10, [1, 0] * 5 + [1] * 10
    logits, truth = two_classes(sure, right)
    assert calibrate([logits], truth, "one", bins=1).error == pytest.approx(0.0)


def test_equal_confidences_share_a_bin_and_none_is_empty():
    logits, truth = two_classes([0.7] * 40, [1] * 28 + [0] * 12)
    found = calibrate([logits], truth, "one")
    assert [b.decisions for b in found.bins()] == [40]
    assert found.error == pytest.approx(0.0)


def test_bins_have_equal_mass(rng):
    sure = rng.uniform(0.5, 0.999, 300)
    logits, truth = two_classes(sure, rng.random(300) < sure)
    bins = calibrate([logits], truth, "one", bins=15).bins()
    assert [b.decisions for b in bins] == [20] * 15
    assert all(a.high < b.low for a, b in pairwise(bins))
    assert len(calibrate([logits[:30]], truth[:30], "one").bins()) == 3  # ten clips in each


def test_runs_are_averaged_not_voted(rng):
    """Two runs that are off to either side do not make one that is right."""
    right = np.arange(40) % 2
    low, truth = two_classes([0.501] * 40, right)
    high, _ = two_classes([0.9] * 40, right)
    alone = [calibrate([run], truth, "one").error for run in (low, high)]
    both = calibrate([low, high], truth, "one")
    assert both.error == pytest.approx(np.mean(alone), abs=1e-9)
    assert [b.decisions for b in both.bins()] == [40, 40]


def test_many_labels_decide_for_each_class():
    """Sigmoids of 0.2 and 0.8; of five classes at 0.2 one is there."""
    p = np.array([[0.2, 0.2, 0.2, 0.2, 0.2, 0.8, 0.8, 0.8, 0.8, 0.8]] * 20)
    truth = np.array([[1, 0, 0, 0, 0, 1, 1, 1, 0, 0]] * 20, dtype=float)
    found = calibrate([np.log(p / (1 - p))], truth, "many", bins=2)
    assert found.error == pytest.approx(0.5 * 0.0 + 0.5 * 0.2)
    assert found.brier_interval(BOOT).value == pytest.approx(((p - truth) ** 2).mean())
    assert [b.decisions for b in found.bins()] == [100, 100]


def test_bins_of_many_labels_share_out_what_is_expected(rng):
    """Nearly all decisions are sure nos; they do not take nearly all bins."""
    p = np.where(rng.random((400, 50)) < 0.95, 0.001, rng.uniform(0.05, 0.95, (400, 50)))
    truth = (rng.random(p.shape) < p).astype(float)
    bins = calibrate([np.log(p / (1 - p))], truth, "many").bins()
    assert len(bins) == 15
    assert sum(b.confidence > 0.05 for b in bins) >= 13


def drawn(rng, excess, clips=400):
    """Of a model that is by `excess` surer than right."""
    sure = 0.5 + 0.5 * rng.beta(4, 1.5, clips)
    logits, truth = two_classes(sure, (rng.random(clips) < sure - excess).astype(int))
    return calibrate([logits], truth, "one")


def test_of_a_calibrated_model_chance_is_all_the_error(rng):
    found = [drawn(rng, 0.0) for _ in range(40)]
    expected = np.mean([each.by_chance for each in found])
    assert np.mean([each.error for each in found]) == pytest.approx(expected, rel=0.1)
    spread = np.std([each.error for each in found])
    assert np.mean([each.chance_spread for each in found]) == pytest.approx(spread, rel=0.4)
    assert sum(each.error_interval(BOOT).low == 0 for each in found) >= 36


def test_bounds_hold_the_true_error(rng):
    """Percentiles of resamples would hold one of 0.05 in a fifth of such sets."""
    for excess, least in ((0.05, 32), (0.15, 32)):
        bounds = [drawn(rng, excess).error_interval(BOOT) for _ in range(40)]
        assert sum(each.low <= excess <= each.high for each in bounds) >= least
    assert all(each.low > 0 for each in bounds)


def test_json_and_what_is_refused():
    logits, truth = two_classes([0.6, 0.7, 0.8], [1, 0, 1])
    document = json.loads(json.dumps(calibrate([logits], truth, "one").to_json(BOOT)))
    assert set(document) == {
        "calibration_error", "calibration_error_by_chance", "brier", "confidence", "right",
    }  # fmt: skip
    with pytest.raises(EchoicError, match="not finite"):
        calibrate([logits * np.nan], truth, "one")
    with pytest.raises(ValueError, match="truth"):
        calibrate([logits], truth[:2], "one")


def test_huge_logits_are_sure_and_no_overflow():
    found = calibrate([np.array([[2000.0, -2000.0]] * 3)], np.eye(2)[[0, 0, 1]], "one")
    assert found.confidence == 1.0
    assert found.error == pytest.approx(1 / 3)
    many = calibrate([np.array([[2000.0, -2000.0]] * 3)], np.eye(2)[[0, 0, 0]], "many")
    assert many.error == 0.0


def test_wilson():
    """8 of 10 at 95 %: 0.490 to 0.943 (Wilson 1927, formula worked by hand)."""
    found = wilson(0.8, 10, 0.95)
    assert (found.low, found.high) == (
        pytest.approx(0.4902, abs=1e-4),
        pytest.approx(0.9433, abs=1e-4),
    )
    sure = wilson(1.0, 8, 0.95)
    assert (sure.low, sure.high) == (pytest.approx(8 / (8 + 1.959964**2), abs=1e-6), 1.0)
