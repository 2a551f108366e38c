"""What a classifier said of the clips that judged it, in every run: what figures by class, the
confusion, the calibration and the comparison with another model are made of.

Shapes: N clips, C classes, S runs (seeds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from echoic.data.labels import PerClip
from echoic.eval.calibration import Calibration, calibrate
from echoic.eval.outcomes import Means, Outcomes, Tags, digest
from echoic.eval.ranks import Floats, Ints
from echoic.eval.task_score import hits
from echoic.eval.zeroshot import classify


@dataclass(frozen=True)
class Answers:
    """labels: (C,) names. truth: (N, C) of 0 and 1. runs: scores (N, C) of each seed. folds: (N,)
    int, the fold in which each clip answers. keys: (N,) of the clips; empty where they are not
    known, and then there is nothing to compare by. scale: scores times it are logits; None where
    scores say nothing of probability.
    """

    labels: Sequence[str]
    per_clip: PerClip
    truth: Floats
    runs: Sequence[Floats]
    folds: Ints
    keys: Sequence[str] = ()
    scale: float | None = None

    @cached_property
    def clips(self) -> Ints:
        """(C,) how many clips each class has."""
        return np.asarray(self.truth).sum(axis=0).astype(np.int64)

    @cached_property
    def hits(self) -> Floats:
        """(N,) of one label per clip: the share of the runs that were right."""
        return np.mean([hits(run, self.truth) for run in self.runs], axis=0)

    @cached_property
    def confusion(self) -> Floats:
        """(C, C) of one label per clip, mean over runs: row = right class, column = predicted."""
        right = self.truth.argmax(axis=1)
        return np.mean([classify(run, right).confusion for run in self.runs], axis=0)

    @cached_property
    def calibration(self) -> Calibration | None:
        if self.scale is None:
            return None
        return calibrate([self.scale * run for run in self.runs], self.truth, self.per_clip)

    @property
    def weights(self) -> Floats | None:
        """(N,) by which the mean over clips is the mean over folds; None where folds are alike."""
        sizes = np.bincount(self.folds)
        sizes = sizes[sizes > 0]
        if (sizes == sizes[0]).all():
            return None
        each = np.bincount(self.folds)[self.folds]
        return np.asarray(len(self.folds) / (len(sizes) * each))

    def outcomes(self, figure: str) -> tuple[Outcomes, ...]:
        """Of the one figure; nothing where keys are not known."""
        if not self.keys:
            return ()
        if self.per_clip == "many":
            return (Tags(figure, self.keys, np.asarray(self.truth).astype(bool), self.runs),)
        right = [self.labels[column] for column in self.truth.argmax(axis=1)]
        against = digest([list(self.labels), sorted(zip(self.keys, right, strict=True))])
        return (Means(self.keys, {figure: self.hits}, against, self.weights),)


def pooled(
    labels: Sequence[str],
    per_clip: PerClip,
    truth: Mapping[str, Floats],
    runs: Sequence[Mapping[str, Floats]],
    keys: Mapping[str, Sequence[str]] | None,
    scale: float | None,
) -> Answers:
    """All folds together: truth, scores of each run, and keys by fold, in the order of `truth`.
    Raises ValueError where the keys of a fold are not as many as its clips."""
    folds = np.repeat(np.arange(len(truth)), [len(rows) for rows in truth.values()])
    named: list[str] = [key for fold in truth for key in keys[fold]] if keys else []
    if keys and any(len(keys[fold]) != len(rows) for fold, rows in truth.items()):
        raise ValueError("a fold has other numbers of keys and of clips")
    together = np.concatenate(list(truth.values()))
    scores = [np.concatenate([by[fold] for fold in truth]) for by in runs]
    return Answers(labels, per_clip, together, scores, folds, named, scale)
