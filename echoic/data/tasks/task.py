"""What a classification task is: its declaration, and the clips of its parts once it is opened.

No part judges that was learnt from or chosen by: where a data set brings no validation part, a
tenth of the training part is drawn for it.

N clips, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from echoic.data.clips import Source, SubsetSource
from echoic.data.labels import Labels, PerClip
from echoic.data.sources import FileSource
from echoic.data.tasks.layouts import Csv, Rows, templates_of
from echoic.data.tasks.paper import Published
from echoic.types import DataError

Indices = NDArray[np.int64]
PARTS = ("train", "valid", "test")
VALID_SHARE = 0.1
_DRAWS = 1000


def by_part(train: int, valid: int, test: int) -> dict[str, int]:
    """Of data with fixed parts: how many clips each has."""
    return dict(zip(PARTS, (train, valid, test), strict=True))


@dataclass(frozen=True)
class OwnSplit:
    """For data without public parts. The user's `file`, a CSV of the columns file (its path in the
    folder, or its name alone) and split (train, valid, test), says them; without it a clip falls by
    a hash of its group, such as its speaker, in these shares. `differs`: from the paper, in words.
    """

    shares: Mapping[str, float]
    differs: str
    file: str = "split.csv"


@dataclass(frozen=True)
class LabelFile:
    """The classes, where the data set lists them: the column by which clips name them, and that of
    their names in words."""

    table: Csv
    key: str
    name: str


@dataclass(frozen=True)
class TaskSpec:
    """A task as declared.

    home: where the data is had. rows: the clips. clip_s: to this length a clip is cut, or padded
    with zeros. folds: cross-validation over so many, else the parts are train, valid, test. names:
    a label's name in words, where it is not the label with spaces for underscores. parts: what the
    lists call train, valid and test, where they differ. expected: the clips of each part, as
    published. may_lack: audio that can no longer be had is left out. prompts: the name in
    `eval.prompts`. notes: what a user should know.
    """

    name: str
    title: str
    home: str
    licence: str
    rows: tuple[Rows, ...]
    clip_s: float
    classes: int
    per_clip: PerClip = "one"
    folds: int = 0
    labels: LabelFile | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    own_split: OwnSplit | None = None
    expected: Mapping[str, int] = field(default_factory=dict)
    may_lack: bool = False
    prompts: str = ""
    notes: str = ""
    seeds: tuple[int, ...] = (42, 43, 44)
    paper: tuple[Published, ...] = ()

    @property
    def metric(self) -> str:
        return "accuracy" if self.per_clip == "one" else "mAP"

    @property
    def needs(self) -> tuple[str, ...]:
        """The files and folders that must be there, audio apart."""
        tables = (self.labels.table.file,) if self.labels else ()
        files = (*(rows.reader.file for rows in self.rows), *tables)
        return tuple(dict.fromkeys(file for file in files if file != "."))

    @property
    def audio(self) -> tuple[str, ...]:
        """Where the clips lie, as templates over the columns."""
        return templates_of(self.rows)

    def absent(self, folder: Path) -> list[str]:
        """What of `needs` is not there."""
        return [name for name in self.needs if not (folder / name).exists()]


@dataclass(frozen=True)
class Task:
    """A task on the data in a folder.

    source: all its clips, whose tags are their labels in words. parts: (N,) the fold or part of
    each. missing: files that the lists name and the folder lacks. hashed: the parts were made by
    the hash of `OwnSplit`.
    """

    spec: TaskSpec
    source: FileSource
    parts: tuple[str, ...]
    labels: Labels
    missing: tuple[str, ...] = ()
    hashed: bool = False

    @cached_property
    def folds(self) -> tuple[str, ...]:
        """The parts that judge, one after the other: all folds, or "test" alone."""
        if not self.spec.folds:
            return ("test",)
        return tuple(sorted(set(self.parts), key=lambda name: (len(name), name)))

    @cached_property
    def has_valid(self) -> bool:
        """Does the data set bring a validation part? Else it is drawn from the training part."""
        return not self.spec.folds and "valid" in self.parts

    def judging(self, fold: str | None = None) -> Indices:
        """The clips of `fold` (None: the first one). Raises DataError where there is none such."""
        fold = self.folds[0] if fold is None else fold
        if fold not in self.folds:
            raise DataError(
                f"{self.spec.name}: no fold {fold!r}; there are {', '.join(self.folds)}"
            )
        return self._in(fold)

    def learning(self, fold: str | None = None) -> Indices:
        """The clips in train and valid where `fold` judges."""
        if self.spec.folds:
            return np.setdiff1d(np.arange(len(self.parts)), self.judging(fold))
        return np.union1d(self._in("train"), self._in("valid"))

    def indices(self, fold: str | None = None, *, seed: int = 42) -> dict[str, Indices]:
        """Of the clips in train, valid and test where `fold` judges (None: the first one).

        seed: by which a validation part is drawn, if the data brings none. Raises DataError where
        there is no such fold, or nothing to learn from.
        """
        test = self.judging(fold)
        if self.has_valid:
            return {"train": self._in("train"), "valid": self._in("valid"), "test": test}
        train = self.learning(fold)
        tags = [self.source.clips[i].tags for i in train]
        held = draw_valid(tags, np.random.default_rng(seed), where=self.spec.name)
        return {"train": train[~held], "valid": train[held], "test": test}

    def _in(self, part: str) -> Indices:
        return np.flatnonzero(np.array(self.parts) == part)

    def splits(self, fold: str | None = None, *, seed: int = 42) -> dict[str, Source]:
        """The same as sources."""
        chosen = self.indices(fold, seed=seed)
        return {name: SubsetSource(self.source, rows.tolist()) for name, rows in chosen.items()}


def draw_valid(
    tags: Sequence[tuple[str, ...]], rng: np.random.Generator, *, where: str
) -> NDArray[np.bool_]:
    """(N,) a tenth of the clips, drawn anew until every class is on both sides, at most 1000 times;
    then the draw with the fewest classes that are missing on a side. Raises DataError where there
    are not two clips.
    """
    if len(tags) < 2:
        raise DataError(f"{where}: {len(tags)} training clips; validation needs some too")
    names = {name: i for i, name in enumerate(sorted({tag for each in tags for tag in each}))}
    row = np.repeat(np.arange(len(tags)), [len(each) for each in tags])
    column = np.array([names[tag] for each in tags for tag in each], dtype=np.int64)
    size = max(1, round(VALID_SHARE * len(tags)))
    best: NDArray[np.bool_] = np.zeros(len(tags), dtype=bool)
    fewest = math.inf
    for _ in range(_DRAWS):
        held = np.zeros(len(tags), dtype=bool)
        held[rng.permutation(len(tags))[:size]] = True
        in_valid = np.bincount(column[held[row]], minlength=len(names)) > 0
        in_train = np.bincount(column[~held[row]], minlength=len(names)) > 0
        # a class that is not learnt is worse than any number that do not help to choose
        lacking = float(len(names) * (~in_train).sum() + (~in_valid).sum())
        if lacking < fewest:
            best, fewest = held, lacking
        if not lacking:
            break
    return best
