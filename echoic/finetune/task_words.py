"""A task's protocol in plain words: those that learning on frozen vectors and fine-tuning share."""

from __future__ import annotations

from collections.abc import Sequence

from echoic.data.tasks.task import Task


def chooser_words(task: Task) -> str:
    """Which part chooses the epoch, and that the test part does not."""
    valid = (
        "The data's own validation part"
        if task.has_valid
        else "A tenth of the training part, drawn by the seed,"
    )
    return f"{valid} chooses the epoch, by {task.spec.metric}; the test part is scored once."


def length_words(clip_s: float) -> str:
    return f"Each clip is cut, or padded with zeros, to {clip_s:g} s"


def means_words(task: Task, folds: Sequence[str], seeds: Sequence[int]) -> str:
    """Which parts judge, and what the figure is the mean of."""
    drawn = ", ".join(map(str, seeds))
    if len(folds) > 1:
        mean = (
            f"Mean over folds, {f'then over seeds {drawn}' if len(seeds) > 1 else f'seed {drawn}'}."
        )
    else:
        mean = f"{'Mean over seeds' if len(seeds) > 1 else 'Seed'} {drawn}."
    return f"Parts: {folds_words(task, folds)}. {mean}"


def folds_words(task: Task, folds: Sequence[str]) -> str:
    if not task.spec.folds:
        return "the test part judges"
    if len(folds) == 1:
        return f"fold {folds[0]} of {len(task.folds)} judges"
    which = "all" if set(folds) == set(task.folds) else ", ".join(folds)
    return f"folds {which} of {len(task.folds)} judge"


def differs_words(task: Task, *others: str) -> str:
    """What is not as in the paper: the parts, and `others`; empty where nothing is."""
    own = task.spec.own_split
    found = [*([own.differs] if own and task.hashed else []), *others]
    return f" Differs from the paper: {'; '.join(found)}." if found else ""
