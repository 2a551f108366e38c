"""FENSE of vectors and probabilities that are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from echoic.eval.captioning import AsWritten, score_captions
from echoic.eval.fense import Fense
from echoic.types import EchoicError

# of lengths that must not count
VECTORS = {"rain": (2, 0), "drops": (3, 4), "dog": (0, 5), "Dog!": (0.6, -0.8), "nothing": (0, 0)}
CHANCES = {"rain": 0.1, "drops": 0.9, "dog": 0.91, "Dog!": 0.0, "nothing": 0.2}


def sentences(texts: Sequence[str]) -> np.ndarray:
    return np.array([VECTORS[text] for text in texts])


def errors(texts: Sequence[str]) -> list[float]:
    return [CHANCES[text] for text in texts]


def test_mean_of_cosines_with_each_reference() -> None:
    references = [["rain", "drops", "dog"], ["rain"], ["drops", "nothing"]]
    found = Fense(sentences, errors)(["rain", "drops", "rain"], references)
    assert found.clips == pytest.approx([(1 + 0.6 + 0) / 3, 0.6, 0.6 / 2])
    assert found.value == pytest.approx(found.clips.mean())


def test_an_error_leaves_a_tenth() -> None:
    """Where its probability is above 0.9; errors of references do not count."""
    found = Fense(sentences, errors)(
        ["dog", "drops", "rain"], [["dog"], ["drops"], ["dog", "rain"]]
    )
    assert found.clips == pytest.approx([0.1, 1.0, 0.5])


def test_captions_are_read_as_they_are_written() -> None:
    fense = Fense(sentences, errors)
    both = {"fense": AsWritten(fense), "tokenised": fense}
    found = score_captions(["Dog!"], [["dog", "rain"]], judges=both).scores
    assert found["fense"].value == pytest.approx((-0.8 + 0.6) / 2)
    assert found["tokenised"].value == pytest.approx(0.1 * 0.5)


def test_a_vector_that_is_not_finite_is_an_error() -> None:
    def broken(texts: Sequence[str]) -> np.ndarray:
        return np.full((len(texts), 2), np.nan)

    with pytest.raises(EchoicError, match="sentence vectors"):
        Fense(broken, errors)(["rain"], [["dog"]])
