"""Classification by prompts: class names become sentences, a clip goes to the nearest of them.

LAION-CLAP (2211.06687, section 4.2 and its evaluation code) and M2D-CLAP (2503.22104, EVAR): one
sentence per class. Several templates are an ensemble: the mean of the normalised vectors of a
class, normalised again (CLIP, 2103.00020).

Shapes: N clips, C classes, D width. Ranks are counted from 0 inside, reported from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.ranks import Floats, Ints, check_finite, rank_metrics, unit_rows
from echoic.types import ConfigError

LAION_TEMPLATE = "This is a sound of {label}."
M2D_TEMPLATE = "{label} can be heard"
_HOLE = "{label}"


def prompt(template: str, label: str) -> str:
    """`label` in its place, underscores read as spaces. Raises ConfigError where {label} lacks."""
    if _HOLE not in template:
        raise ConfigError(
            f"prompt template {template!r} has no {_HOLE}; write for example {M2D_TEMPLATE!r}"
        )
    return template.replace(_HOLE, label.replace("_", " "))


def class_vectors(
    embed_text: Callable[[list[str]], ArrayLike],
    labels: Sequence[str],
    templates: str | Sequence[str] = LAION_TEMPLATE,
) -> Floats:
    """(C, D) unit vectors. `embed_text` maps n sentences to (n, D); called once per template."""
    chosen = [templates] if isinstance(templates, str) else list(templates)
    if not chosen or not labels:
        raise ConfigError(
            "zero-shot classification needs at least one label and one prompt template"
        )
    sentences = [[prompt(template, label) for label in labels] for template in chosen]
    vectors = [unit_rows(embed_text(texts), "text") for texts in sentences]
    return unit_rows(np.mean(vectors, axis=0), "class")


def class_scores(audio: ArrayLike, classes: ArrayLike) -> Floats:
    """(N, C) cosine of every clip (N, D) with every class (C, D)."""
    return unit_rows(audio, "audio") @ unit_rows(classes, "class").T


@dataclass(frozen=True)
class Classification:
    """What became of N clips of C classes.

    labels: (N,) the right class; predicted: (N,); ranks: (N,) of the right class, from 0.
    """

    labels: Ints
    predicted: Ints
    ranks: Ints
    n_classes: int

    @cached_property
    def confusion(self) -> Ints:
        """(C, C) counts: row = right class, column = predicted class."""
        flat = np.bincount(
            self.labels * self.n_classes + self.predicted, minlength=self.n_classes**2
        )
        return flat.reshape(self.n_classes, self.n_classes)

    @property
    def per_class(self) -> Floats:
        """(C,) share of the clips of each class that were put there; NaN where it has none."""
        support = np.bincount(self.labels, minlength=self.n_classes)
        hits = np.bincount(self.labels[self.ranks == 0], minlength=self.n_classes)
        return np.divide(hits, support, out=np.full(self.n_classes, np.nan), where=support > 0)

    def metrics(self) -> dict[str, float]:
        """accuracy, top5, mean_class_accuracy (shares), and what `ranks.rank_metrics` gives."""
        means = rank_metrics(self.ranks)
        return {
            "accuracy": means["R@1"],
            "top5": means["R@5"],
            "mean_class_accuracy": float(np.nanmean(self.per_class)),
        } | means

    def accuracy_interval(
        self, bootstrap: Bootstrap, *, group: ArrayLike | None = None
    ) -> Interval:
        """Accuracy, with its interval over clips or over `group` (N,) int, such as recordings."""
        clips = np.arange(len(self.ranks)) if group is None else group
        return bootstrap.mean(self.ranks == 0, clips)


def classify(scores: ArrayLike, labels: ArrayLike) -> Classification:
    """Hold `scores` (N, C), any real numbers, against the right classes `labels` (N,) int.

    A class that scores the same as the right one is placed before it, and is then what counts as
    predicted. Raises EchoicError where a score is not finite, ValueError where shapes or labels do
    not fit.
    """
    table, right = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if table.ndim != 2 or table.size == 0 or right.shape != (len(table),):
        raise ValueError(f"need (N, C) scores and (N,) labels, got {table.shape} and {right.shape}")
    classes = table.shape[1]
    if not np.issubdtype(right.dtype, np.integer) or right.min() < 0 or right.max() >= classes:
        raise ValueError(f"labels: expected integers from 0 to {classes - 1}")
    check_finite(table, "class scores")
    rows, right = np.arange(len(table)), right.astype(np.int64)
    own = table[rows, right]
    rivals = table.copy()
    rivals[rows, right] = -np.inf
    ranks = np.count_nonzero(rivals >= own[:, None], axis=1)
    predicted = np.where(ranks > 0, rivals.argmax(axis=1), right)
    return Classification(right, predicted, ranks, classes)
