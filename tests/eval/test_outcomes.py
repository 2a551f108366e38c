"""The file that keeps what each clip adds: comes back as it was, and says what it lacks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from echoic.eval.outcomes import Counts, Means, Tags, digest, read_result, result_of, write_result
from echoic.types import DataError


class Found:
    """A result as `write_result` takes them."""

    def __init__(self, *outcomes, document=None):
        self.given, self.document = outcomes, document or {"metrics": {"linear/mAP": {}}}

    def to_json(self):
        return self.document

    def outcomes(self):
        return self.given


def both(rng):
    truth = rng.random((4, 3)) < 0.5
    runs = [rng.standard_normal((4, 3)).astype(np.float32).astype(float) for _ in range(2)]
    values = {"x/a": np.array([1, 0, 1 / 3, 1]), "x/b": np.zeros(4)}
    keys = ["a.wav", "b.wav", "雨.wav", "d.wav"]
    weights = np.array([1, 1, 0.5, 1.5])
    return Means(keys, values, "0123", weights), Tags("linear/mAP", keys, truth, runs)


def test_what_is_written_is_read(tmp_path, rng):
    means, tags = both(rng)
    path = write_result(tmp_path / "deep" / "a.json", Found(means, tags))
    found = read_result(path)
    assert (found.name, found.document) == (str(path), {"metrics": {"linear/mAP": {}}})
    first, second = found.outcomes
    assert (first.clips, first.against, first.figures) == (means.clips, "0123", ("x/a", "x/b"))
    np.testing.assert_array_equal(first.weights, means.weights)
    np.testing.assert_array_equal(first.values["x/a"], means.values["x/a"])
    assert (second.clips, second.figures) == (tags.clips, ("linear/mAP",))
    np.testing.assert_array_equal(second.truth, tags.truth)
    np.testing.assert_array_equal(second.runs, tags.runs)
    assert list(path.parent.iterdir()) == [path]


def test_counts_are_read_too(tmp_path):
    counts = Counts("bleu", ("x/bleu_1", "x/bleu_2"), ["a", "b"], np.arange(6.0).reshape(2, 3), "1")
    (found,) = read_result(write_result(tmp_path / "a.json", Found(counts))).outcomes
    np.testing.assert_array_equal(found.counts, counts.counts)
    assert (found.formula, found.figures, found.clips, found.against) == (
        "bleu", counts.figures, ["a", "b"], "1",
    )  # fmt: skip


def test_it_is_the_document_with_more_in_it(tmp_path, rng):
    path = write_result(tmp_path / "a.json", Found(both(rng)[0]))
    document = json.loads(path.read_text("utf-8"))
    assert document["metrics"] == {"linear/mAP": {}}
    assert document["outcomes"][0]["values"]["x/b"] == [0.0] * 4


def test_digest_tells_apart():
    assert digest([["a", 1]]) == digest((("a", 1),)) != digest([["a", 2]])


def test_data_is_named():
    titled = {"data": {"title": "ESC-50", "name": "esc50"}}
    assert result_of(Found(document=titled), "a").data == "ESC-50"
    assert result_of(Found(document={"data": {"name": "my.csv"}}), "a").data == "my.csv"


def test_what_cannot_be_read_is_told_in_one_line(tmp_path, rng):
    means, tags = both(rng)
    path = tmp_path / "a.json"

    def refused(text, line):
        path.write_text(text, "utf-8")
        with pytest.raises(DataError, match=line) as caught:
            read_result(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)

    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        read_result(tmp_path / "none.json")
    refused("{", "not JSON; give what echoic eval --save wrote")
    refused("[1]", "no result of echoic eval")
    refused('{"metrics": {}}', "no outcomes of clips to compare by; measure again with echoic eval")
    document = json.loads(write_result(path, Found(means, tags)).read_text("utf-8"))

    def damaged(at, **changes):
        told = [each | (changes if i == at else {}) for i, each in enumerate(document["outcomes"])]
        refused(json.dumps(document | {"outcomes": told}), "its outcomes are damaged")

    damaged(0, clips=means.clips[:2])
    damaged(0, values={"x/a": [1, 0, None, 1]})
    damaged(0, values=3)
    damaged(1, scores=["no base64"])
    damaged(1, scores=["AAAA"])
    damaged(1, truth=[[0], [7], [], []])
    refused(json.dumps(document | {"outcomes": [3]}), "damaged")


def test_what_cannot_be_written_is_told(tmp_path: Path, rng):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"cannot be written"):
        write_result(tmp_path / "file" / "a.json", Found(*both(rng)))
