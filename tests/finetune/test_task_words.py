"""What is said of a task's protocol."""

from __future__ import annotations

from dataclasses import replace

import pytest

from echoic.data.tasks import open_task
from echoic.finetune.task_words import chooser_words, differs_words, folds_words, means_words
from tests import task_trees


@pytest.fixture
def opened(tmp_path):
    def make(name):
        task_trees.TREES[name](tmp_path / name)
        return open_task(name, tmp_path / name)

    return make


@pytest.mark.parametrize(
    ("folds", "seeds", "told"),
    [
        ("12345", (0, 1), "folds all of 5 judge. Mean over folds, then over seeds 0, 1."),
        ("13", (4,), "folds 1, 3 of 5 judge. Mean over folds, seed 4."),
        ("2", (0, 1), "fold 2 of 5 judges. Mean over seeds 0, 1."),
        ("2", (4,), "fold 2 of 5 judges. Seed 4."),
    ],
)
def test_means(opened, folds, seeds, told):
    assert means_words(opened("esc50"), tuple(folds), seeds) == f"Parts: {told}"


def test_what_chooses_and_judges(opened):
    assert chooser_words(opened("esc50")).startswith("A tenth of the training part, drawn")
    task = opened("spcv2")
    assert chooser_words(task).startswith("The data's own validation part chooses the epoch")
    assert folds_words(task, task.folds) == "the test part judges"


def test_what_differs_from_the_paper(opened):
    assert differs_words(opened("esc50")) == ""
    hashed = opened("cremad")
    own = hashed.spec.own_split.differs
    assert differs_words(hashed, "fewer seeds") == f" Differs from the paper: {own}; fewer seeds."
    assert differs_words(replace(hashed, hashed=False)) == ""
