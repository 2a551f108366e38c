"""Tagging: the golden numbers of scikit-learn, ties, and classes that have no figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from echoic.eval.tagging import average_precision, d_prime, roc_auc, tagging
from echoic.types import EchoicError
from tests.golden import Golden


def golden_case(name: str, n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.Generator(np.random.PCG64(407 if name == "dense" else 408))
    truth = g.random((n, classes)) < 0.12
    truth[0], truth[1] = True, False
    scores = g.standard_normal((n, classes)) + 1.5 * truth
    return (scores.round(1) if name == "ties" else scores).astype(np.float32), truth


@pytest.mark.parametrize("name", ["dense", "ties"])
def test_golden(shared: Path, name: str) -> None:
    golden = Golden(shared, "metrics")
    case = golden.spec["tagging"][name]
    scores, truth = golden_case(name, case["n"], case["classes"])
    golden.check(f"scores_{name}", scores)
    result = tagging(scores, truth)
    golden.check(f"ap_{name}", result.average_precision)
    golden.check(f"auc_{name}", result.auc)
    metrics = result.metrics()
    names = {
        "mAP": "mAP_macro",
        "mAP_micro": "mAP_micro",
        "mAP_samples": "mAP_samples_skip_empty",
        "mAUC": "mAUC_macro",
        "d_prime": "d_prime",
        "top1": "accuracy_of_argmax_against_first_label",
    }
    for ours, theirs in names.items():
        assert metrics[ours] == pytest.approx(case[theirs], abs=1e-6), ours
    squashed = tagging(1 / (1 + np.exp(-scores.astype(np.float64))), truth).metrics()
    after = case["mAP_and_mAUC_after_sigmoid"]
    assert squashed["mAP"] == pytest.approx(after["map"], abs=1e-6)
    assert squashed["mAUC"] == pytest.approx(after["mauc"], abs=1e-6)


def test_by_hand() -> None:
    truth, scores = np.array([True, False, True, False]), np.array([4.0, 3.0, 2.0, 1.0])
    assert average_precision(truth, scores) == pytest.approx((1 + 2 / 3) / 2)
    assert roc_auc(truth, scores) == 0.75
    assert average_precision(truth, np.zeros(4)) == 0.5
    assert roc_auc(truth, np.zeros(4)) == 0.5


def test_auc_is_the_chance_of_a_right_pair(rng: np.random.Generator) -> None:
    truth, scores = rng.random(80) < 0.3, rng.standard_normal(80).round(1)
    gap = scores[truth][:, None] - scores[~truth]
    assert roc_auc(truth, scores) == pytest.approx(((gap > 0) + 0.5 * (gap == 0)).mean())


def test_order_of_tied_clips_changes_nothing(rng: np.random.Generator) -> None:
    truth, scores = rng.random(60) < 0.3, rng.integers(0, 4, 60).astype(float)
    order = rng.permutation(60)
    assert average_precision(truth, scores) == average_precision(truth[order], scores[order])


def test_classes_without_a_figure_are_left_out() -> None:
    truth = np.array([[1, 0, 1], [0, 0, 1]], dtype=bool)
    result = tagging(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]), truth)
    np.testing.assert_array_equal(np.isnan(result.average_precision), [False, True, False])
    np.testing.assert_array_equal(np.isnan(result.auc), [False, True, True])
    assert result.metrics()["mAP"] == 1
    assert result.metrics()["classes_scored"] == 2
    nothing = tagging(np.zeros((2, 2)), np.zeros((2, 2), dtype=bool)).metrics()
    assert np.isnan(nothing["mAP"])


def test_the_least_table_and_less() -> None:
    assert tagging([[0.3]], [[True]]).map_micro == 1.0
    with pytest.raises(ValueError, match="need"):
        tagging(np.zeros((0, 3)), np.zeros((0, 3), bool))


def test_d_prime() -> None:
    assert d_prime(0.5) == 0
    assert d_prime(1.0) == np.inf
    assert d_prime(0.0) == -np.inf
    assert np.isnan(d_prime(np.nan))


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="scores and labels"):
        tagging(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(EchoicError, match="row 0 "):
        tagging(np.full((2, 2), np.inf), np.zeros((2, 2)))
