"""Zero-shot classification: prompts, hand-made scores, the golden numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from echoic.eval.bootstrap import Bootstrap
from echoic.eval.zeroshot import (
    LAION_TEMPLATE,
    M2D_TEMPLATE,
    class_scores,
    class_vectors,
    classify,
    prompt,
)
from echoic.types import ConfigError, EchoicError
from tests.golden import Golden, golden_tools


def test_prompts_of_the_papers() -> None:
    assert prompt(LAION_TEMPLATE, "church_bells") == "This is a sound of church bells."
    assert prompt(M2D_TEMPLATE, "dog") == "dog can be heard"
    assert prompt("{label} {x}", "{label}") == "{label} {x}"
    with pytest.raises(ConfigError, match=r"has no \{label\}"):
        prompt("a dog", "dog")


def test_several_templates_are_averaged_and_normalised() -> None:
    vectors = {"a dog": [3, 0], "one dog": [0, 1], "a cat": [1, 1], "one cat": [5, 5]}
    calls = []

    def embed(sentences: list[str]) -> np.ndarray:
        calls.append(sentences)
        return np.array([vectors[s] for s in sentences], dtype=np.float32)

    found = class_vectors(embed, ["dog", "cat"], ["a {label}", "one {label}"])
    assert calls == [["a dog", "a cat"], ["one dog", "one cat"]]
    np.testing.assert_allclose(found, np.full((2, 2), 0.5**0.5))
    with pytest.raises(ConfigError, match="at least one label"):
        class_vectors(embed, [], "a {label}")


@pytest.mark.parametrize(("name", "mix"), [("esc", 0.3), ("few", 0.25)])
def test_golden(shared: Path, name: str, mix: float) -> None:
    golden, rows = Golden(shared, "metrics"), golden_tools(shared).unit_rows
    case, i = golden.spec["zero_shot"][name], 5 if name == "esc" else 6
    n, classes, dim = case["n"], case["classes"], case["dim"]
    labels = np.random.Generator(np.random.PCG64(310 + i)).integers(0, classes, n)
    golden.check(f"labels_{name}", labels)
    vectors = rows(classes, dim, 300 + i)
    audio = rows(n, dim, 320 + i, toward=vectors[labels], mix=mix)
    result = classify(class_scores(audio, vectors), labels)
    metrics = result.metrics()
    assert metrics["accuracy"] == pytest.approx(case["accuracy"], abs=1e-6)
    assert metrics["top5"] == metrics["R@5"]
    for key, value in case["metrics"].items():
        assert metrics[key] == pytest.approx(value, abs=1e-6), key
    per_class = [np.nan if v is None else v for v in case["per_class_accuracy"]]
    np.testing.assert_allclose(result.per_class, per_class, atol=1e-6)


def test_by_hand_with_a_tie_and_an_empty_class() -> None:
    scores = [[0.9, 0.1, 0.0], [0.2, 0.2, 0.1], [0.5, 0.3, 0.4], [0.0, 1.0, 2.0]]
    result = classify(scores, [0, 0, 1, 1])
    assert result.ranks.tolist() == [0, 1, 2, 1]
    assert result.predicted.tolist() == [0, 1, 0, 2]  # the tie goes to the wrong class
    assert result.confusion.tolist() == [[1, 1, 0], [1, 0, 1], [0, 0, 0]]
    np.testing.assert_array_equal(result.per_class, [0.5, 0, np.nan])
    assert result.metrics()["mean_class_accuracy"] == 0.25
    assert result.confusion.trace() / 4 == result.metrics()["accuracy"]


def test_confusion_agrees_with_accuracy(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 7, 200)
    result = classify(rng.standard_normal((200, 7)).round(1), labels)  # many ties
    assert result.confusion.sum() == 200
    assert result.confusion.trace() / 200 == pytest.approx(result.metrics()["accuracy"])
    bounds = result.accuracy_interval(Bootstrap(0))
    assert bounds.value == pytest.approx(result.metrics()["accuracy"])
    assert bounds.low < bounds.value < bounds.high
    grouped = result.accuracy_interval(Bootstrap(0), group=labels)
    assert grouped.value == pytest.approx(bounds.value)


def test_wrong_input_is_named() -> None:
    with pytest.raises(EchoicError, match="row 1 "):
        classify([[0.0, 1.0], [np.nan, 0.0]], [0, 1])
    with pytest.raises(ValueError, match="0 to 1"):
        classify([[0.0, 1.0]], [2])
    with pytest.raises(ValueError, match="labels"):
        classify([[0.0, 1.0]], [0, 1])
