"""Order and attribute accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from echoic.eval.bootstrap import Bootstrap
from echoic.eval.order import order_accuracy, order_wins


def test_by_hand_by_kind() -> None:
    clip = [[1, 0]] * 4
    right = [[2, 0], [1, 1], [0, 1], [1, 1]]
    wrong = [[1, 1], [3, 3], [9, 0], [0, 1]]
    assert order_wins(clip, right, wrong).tolist() == [1, 0.5, 0, 1]
    kinds = ["order", "order", "speed", "speed"]
    found = order_accuracy(clip, right, wrong, kinds, Bootstrap(0))
    assert list(found) == ["order", "speed", "all"]
    assert [v.value for v in found.values()] == [0.75, 0.5, 0.625]
    assert found["speed"].low == 0
    assert found["speed"].high == 1


def test_a_bag_of_words_stays_at_chance() -> None:
    rng = np.random.default_rng(0)
    words = rng.standard_normal((100, 2, 8)).astype(np.float32)
    clip = rng.standard_normal((100, 8))
    there, back = words[:, 0] + words[:, 1], words[:, 1] + words[:, 0]
    found = order_accuracy(clip, there, back, ["order"] * 100, Bootstrap(0))
    assert found["all"].value == found["all"].low == found["all"].high == 0.5


def test_items_of_one_clip_are_drawn_together(rng: np.random.Generator) -> None:
    clip = np.repeat(rng.standard_normal((20, 8)), 10, axis=0)
    right, wrong = (np.repeat(rng.standard_normal((20, 8)), 10, axis=0) for _ in range(2))
    kinds = ["order"] * 200
    alone = order_accuracy(clip, right, wrong, kinds, Bootstrap(0))["all"]
    clip_id = np.repeat(np.arange(20), 10)
    grouped = order_accuracy(clip, right, wrong, kinds, Bootstrap(0), clip_id=clip_id)["all"]
    assert grouped.value == alone.value
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="must agree"):
        order_wins(np.eye(2), np.eye(2), np.eye(3))
    with pytest.raises(ValueError, match="need 2 names"):
        order_accuracy(np.eye(2), np.eye(2), np.eye(2), ["order"], Bootstrap(0))
    with pytest.raises(ValueError, match="none of them 'all'"):
        order_accuracy(np.eye(2), np.eye(2), np.eye(2), ["all", "x"], Bootstrap(0))
