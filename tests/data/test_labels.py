"""Labels: which there are, one or many, and what would spoil the figures."""

from __future__ import annotations

import logging

import pytest
import torch

from echoic.data.clips import Clip
from echoic.data.labels import labels_of
from echoic.types import DataError


class Tagged:
    def __init__(self, *tags: tuple[str, ...], name: str = "t") -> None:
        self.clips = [Clip(f"{name}{i}", ("x",), each, 1.0) for i, each in enumerate(tags)]

    def read(self, i, rate_hz):
        raise NotImplementedError


def test_one_label_each():
    source = Tagged(("dog",), ("cat",), ("dog",))
    labels = labels_of({"train": source})
    assert (labels.names, labels.per_clip) == (("cat", "dog"), "one")
    assert torch.equal(labels.truth(source.clips), torch.tensor([[0.0, 1], [1, 0], [0, 1]]))


def test_several_labels_somewhere_make_it_many():
    train, test = Tagged(("a",), ("b",)), Tagged(("a", "c"), (), name="u")
    labels = labels_of({"train": train, "test": test})
    assert (labels.names, labels.per_clip) == (("a", "b", "c"), "many")
    assert torch.equal(labels.truth(test.clips), torch.tensor([[1.0, 0, 1], [0, 0, 0]]))
    assert labels_of({"train": train}, "many").per_clip == "many"


@pytest.mark.parametrize(
    ("tags", "asked", "line"),
    [
        ([("a",), ("b",), ()], "auto", "1 clip has not exactly one label: train clip t2 has 0"),
        ([("a", "b"), (), ("a",)], "one", "2 clips have not exactly one label: train clip t0"),
        ([("a",), ("a",)], "auto", "the clips' tags are only 'a'"),
        ([(), ()], "auto", "the clips' tags are none"),
    ],
)
def test_what_cannot_be_labels(tags, asked, line):
    with pytest.raises(DataError, match=line):
        labels_of({"train": Tagged(*tags)}, asked)


def test_what_spoils_figures_is_told(caplog):
    train, test = Tagged(("a",), ("b",)), Tagged(("a",), ("c",))
    with caplog.at_level(logging.WARNING):
        labels_of({"train": train, "test": test})
    assert "1 labels have no training clip (first: c)" in caplog.text
    assert "2 clips are in train and test (first: t0)" in caplog.text
