"""A model put through a published classification task: linear evaluation, zero-shot by prompts.

Any model will do. Sound is cut, or padded with zeros, to the task's length at the model's rate: a
random part where the clip is learnt from, the first part where it judges, as in M2D's evaluation
(2210.14648, 2406.02032). The task says which clips those are; within a fold none is both.

N clips, C classes, D width, T samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from echoic.api import EchoicModel
from echoic.data.clips import heard_or_noted
from echoic.data.tasks.task import Indices, Task, TaskSpec
from echoic.embeddings import Part, VectorCache, hear_parts
from echoic.eval.bootstrap import Bootstrap
from echoic.eval.linear import LinearSettings, fit_linear
from echoic.eval.prompts import PAPERS, Prompts, find_prompts, paper_prompts
from echoic.eval.ranks import Floats
from echoic.eval.task_result import TaskResult, task_result
from echoic.eval.zeroshot import class_scores, class_vectors
from echoic.evaluate import describe, scale_of
from echoic.finetune.task_words import (
    chooser_words,
    differs_words,
    folds_words,
    length_words,
    means_words,
)
from echoic.types import ConfigError, DataError

CROP_SEED = 42


def linear(
    model: EchoicModel,
    task: Task,
    *,
    seeds: Sequence[int] | None = None,
    folds: Sequence[str] | None = None,
    generator: np.random.Generator | None = None,
    settings: LinearSettings | None = None,
    bootstrap: Bootstrap | None = None,
    cache: VectorCache | None = None,
) -> TaskResult:
    """Linear evaluation of frozen vectors (`eval.linear`); each clip is heard once for all seeds.

    seeds, folds: None: the task's. generator: of the random parts that are learnt from. cache: of
    vectors, see `echoic.embeddings`. Raises DataError where there is no such fold, or a part has no
    clip that can be heard.
    """
    seeds, folds = tuple(dict.fromkeys(seeds or task.spec.seeds)), _folds(task, folds)
    draw = generator or np.random.default_rng(CROP_SEED)
    heard = _hear(model, task, folds, draw, cache)
    truth = task.labels.truth(task.source.clips).numpy()
    judged = {fold: heard.kept(task.judging(fold), fold) for fold in folds}
    scores: dict[int | None, dict[str, Floats]] = {seed: {} for seed in seeds}
    for seed in seeds:
        for fold in folds:
            parts = task.indices(fold, seed=seed)
            train, valid = (heard.kept(parts[name], name) for name in ("train", "valid"))
            scores[seed][fold] = fit_linear(
                (heard.learnt(train), truth[train]),
                (heard.learnt(valid), truth[valid]),
                heard.first(judged[fold]),
                per_clip=task.spec.per_clip,
                seed=seed,
                settings=settings,
            ).scores
    return task_result(
        task,
        "linear",
        scores,
        {fold: truth[judged[fold]] for fold in folds},
        model=describe(model),
        words=_linear_words(task, seeds, folds, settings or LinearSettings()),
        bad=heard.bad,
        bootstrap=bootstrap,
        keys={fold: _keys(task, judged[fold]) for fold in folds},
        scale=1.0,
    )


def zero_shot(
    model: EchoicModel,
    task: Task,
    *,
    prompts: str = "m2d",
    folds: Sequence[str] | None = None,
    whole: bool = False,
    bootstrap: Bootstrap | None = None,
    cache: VectorCache | None = None,
) -> TaskResult:
    """Classification by sentences: all folds pooled, or the test part; by cosine.

    prompts: "laion", "m2d" or "slap", as these papers ask; or a sentence with {label}, or a name of
    `eval.prompts`. whole: clips are heard as long as they are, not cut or padded to the task's
    length. Raises ConfigError where it is neither, DataError as `linear`.
    """
    asked, folds = task_prompts(task.spec, prompts), _folds(task, folds)
    names = asked.worded(task.labels.names)
    classes = class_vectors(model.embed_text, names, asked.template)
    chosen = np.concatenate([task.judging(fold) for fold in folds])
    bad: dict[str, str] = {}
    length = round(task.spec.clip_s * model.rate_hz)
    rows, vectors = hear_parts(
        model,
        task.source,
        chosen.tolist(),
        lambda i: heard_or_noted(task.source, i, model.rate_hz, bad, silence=True),
        parts=lambda i, samples: [Part(0, samples if whole else length)],
        cache=cache,
    )
    if not rows:
        raise DataError(_unheard(task.spec.name, "test", bad))
    heard = [i for i, _ in rows]
    truth = task.labels.truth([task.source.clips[i] for i in heard]).numpy()
    # cosines of a softmax over captions: of several labels at once they say nothing
    alone = task.spec.per_clip == "one"
    return task_result(
        task,
        "zero_shot",
        {None: {"all": class_scores(vectors, classes)}},
        {"all": truth},
        model=describe(model),
        words=_zero_shot_words(task, asked, folds, whole),
        bad=bad,
        bootstrap=bootstrap,
        keys={"all": _keys(task, heard)},
        scale=scale_of(model) if alone else None,
    )


def _keys(task: Task, clips: Iterable[int]) -> list[str]:
    return [task.source.clips[i].key for i in clips]


def task_prompts(spec: TaskSpec, asked: str) -> Prompts:
    """Of a paper ("laion", "m2d", "slap") for this task; else as `find_prompts`. Raises
    ConfigError."""
    if asked in PAPERS:
        return paper_prompts(asked, spec.prompts)
    try:
        return find_prompts(asked)
    except ConfigError as error:
        raise ConfigError(f"{error}; or a paper: {', '.join(PAPERS)}") from None


def random_part(samples: int, length: int, generator: np.random.Generator) -> Part:
    """So long a part of so many samples; of fewer the first, which `embeddings.cut` pads."""
    surplus = samples - length
    return Part(int(generator.integers(surplus + 1)) if surplus > 0 else 0, length)


@dataclass(frozen=True)
class _Vectors:
    """vectors: (rows, D). rows_learnt, rows_first: clip -> the row of its random and first part."""

    task: str
    vectors: Tensor
    rows_learnt: Mapping[int, int]
    rows_first: Mapping[int, int]
    bad: dict[str, str]

    def kept(self, clips: Indices, name: str) -> Indices:
        """Of `clips` those that were heard. Raises DataError where there are none."""
        there = {*self.rows_learnt, *self.rows_first}
        found = np.array([i for i in clips.tolist() if i in there], dtype=np.int64)
        if not len(found):
            raise DataError(_unheard(self.task, name, self.bad))
        return found

    def learnt(self, clips: Indices) -> Tensor:
        return self.vectors[[self.rows_learnt[i] for i in clips.tolist()]]

    def first(self, clips: Indices) -> Tensor:
        return self.vectors[[self.rows_first[i] for i in clips.tolist()]]


def _hear(
    model: EchoicModel,
    task: Task,
    folds: Sequence[str],
    generator: np.random.Generator,
    cache: VectorCache | None,
) -> _Vectors:
    """Each clip is decoded once, and becomes two vectors only if it both learns and judges (in
    different folds) and is longer than the task."""
    learns = {i for fold in folds for i in task.learning(fold).tolist()}
    judges = {i for fold in folds for i in task.judging(fold).tolist()}
    length = round(task.spec.clip_s * model.rate_hz)
    bad: dict[str, str] = {}

    def parts(i: int, samples: int) -> list[Part]:
        learnt = [random_part(samples, length, generator)] if i in learns else []
        alike = learnt and samples <= length
        return learnt if alike or i not in judges else [*learnt, Part(0, length)]

    rows, vectors = hear_parts(
        model,
        task.source,
        sorted(learns | judges),
        lambda i: heard_or_noted(task.source, i, model.rate_hz, bad, silence=True),
        parts=parts,
        kind="probe",
        cache=cache,
    )
    numbered = [(i, row) for row, (i, _) in enumerate(rows)]
    rows_first = {i: row for i, row in numbered if i in judges}  # the last of a clip's
    rows_learnt = {i: row for i, row in reversed(numbered) if i in learns}
    return _Vectors(task.spec.name, vectors, rows_learnt, rows_first, bad)


def _unheard(task: str, part: str, bad: Mapping[str, str]) -> str:
    first = next((f" ({key}: {reason})" for key, reason in bad.items()), "")
    return f"{task}: no clip of {part} can be heard{first}"


def _folds(task: Task, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Each once. Raises DataError where one is not there, before anything is heard."""
    folds = task.folds if asked is None else tuple(dict.fromkeys(asked))
    for fold in folds:
        task.judging(fold)
    return folds


def _linear_words(
    task: Task, seeds: Sequence[int], folds: Sequence[str], settings: LinearSettings
) -> list[str]:
    return [
        f"Linear evaluation of frozen vectors (M2D's protocol): standardised by the training part, "
        f"one linear layer, Adam at {settings.lr:g}, batches of {settings.batch}, at most "
        f"{settings.epochs} epochs. {chooser_words(task)}",
        f"{length_words(task.spec.clip_s)}: a random part to learn from, the first part to judge "
        "by.",
        f"{means_words(task, folds, seeds)}{differs_words(task)}",
    ]


def _zero_shot_words(task: Task, prompts: Prompts, folds: Sequence[str], whole: bool) -> list[str]:
    how = "nearest sentence" if task.spec.per_clip == "one" else "cosine with each sentence"
    worded = " with a wording of its own for each label" if prompts.wording else ""
    return [
        f"Zero-shot classification: {len(task.labels.names)} classes, each put in the sentence "
        f"“{prompts.template}”{worded} ({prompts.source}); {task.spec.metric} by the {how}.",
        "Each clip is heard as long as it is."
        if whole
        else f"{length_words(task.spec.clip_s)}: the first part.",
        f"Clips: {folds_words(task, folds)}, pooled.{differs_words(task)}",
    ]
