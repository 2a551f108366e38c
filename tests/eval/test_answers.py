"""What a classifier said, all folds and runs together."""

from __future__ import annotations

import numpy as np
import pytest

from echoic.eval.answers import pooled

EYE = np.eye(3)
TRUTH = {"1": EYE[[0, 1, 2, 2]], "2": EYE[[0, 1]]}
WRONG = {"1": EYE[[1, 1, 2, 2]], "2": EYE[[0, 1]]}
KEYS = {"2": ["e", "f"], "1": ["a", "b", "c", "d"]}


def answers(runs=(TRUTH, WRONG), keys=KEYS, scale=1.0, per_clip="one"):
    return pooled(("x", "y", "z"), per_clip, TRUTH, runs, keys, scale)


def test_runs_are_averaged_by_clip():
    found = answers()
    assert found.hits.tolist() == [0.5, 1, 1, 1, 1, 1]
    np.testing.assert_array_equal(found.confusion, [[1.5, 0.5, 0], [0, 2, 0], [0, 0, 2]])
    assert found.clips.tolist() == [2, 2, 2]
    assert list(found.keys) == ["a", "b", "c", "d", "e", "f"]  # in the order of the truth


def test_weights_make_the_mean_over_clips_that_over_folds():
    found = answers()
    by_fold = np.mean([np.mean([0.5, 1, 1, 1]), 1])
    assert (found.weights * found.hits).mean() == pytest.approx(by_fold)
    assert found.weights.mean() == pytest.approx(1.0)
    alike = pooled(("x", "y", "z"), "one", {"2": TRUTH["2"]}, [{"2": TRUTH["2"]}], None, None)
    assert alike.weights is None


def test_outcomes_hold_what_is_right():
    (found,) = answers().outcomes("linear/accuracy")
    assert (found.figures, found.clips) == (("linear/accuracy",), ["a", "b", "c", "d", "e", "f"])
    (other,) = answers(keys={"1": KEYS["1"], "2": ["f", "e"]}).outcomes("linear/accuracy")
    assert found.against != other.against  # e and f have each other's labels
    (tags,) = answers(per_clip="many").outcomes("finetune/mAP")
    assert (tags.truth.dtype, len(tags.runs)) == (bool, 2)


def test_without_keys_nothing_can_be_compared():
    assert answers(keys=None).outcomes("linear/accuracy") == ()
    with pytest.raises(ValueError, match="other numbers of keys"):
        answers(keys={"1": ["a", "b", "c"], "2": ["d", "e", "f"]})


def test_scale_is_what_makes_scores_sure():
    faint, loud = answers(scale=0.1).calibration, answers(scale=50.0).calibration
    assert faint.confidence < 0.4
    assert loud.confidence > 0.99
    assert answers(scale=None).calibration is None
