"""A published task by fine-tuning: every fold and seed a run of its own from the model's weights,
and one figure of them all.

The clips that learn, choose and judge are the task's: a validation part (the data's own, or a tenth
that the seed draws from the training part) chooses the epoch, the test part is judged once. Sound
is cut, or padded with zeros, to the task's length: a random part in training, the first part else.

folder
  FOLD-SEED/judged.safetensors   what the clips of that fold scored; a run that has it is done
  FOLD-SEED/...                  as of any fine-tuning (run.py), without what only served to go on
  result.json                    the figures

n clips of a fold, C classes, T samples.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from rich.console import Console

from echoic.api import EchoicModel
from echoic.config import parse_json
from echoic.convert.native import read_tensors, write_tensors
from echoic.data.clips import Source, SubsetSource
from echoic.data.files import write_whole
from echoic.data.tasks.task import Task
from echoic.eval.bootstrap import Bootstrap
from echoic.eval.ranks import Floats
from echoic.eval.task_result import TaskResult, task_result
from echoic.evaluate import describe
from echoic.finetune.judged import Judged
from echoic.finetune.presets import (
    M2D_SEEDS,
    FinetuneSpec,
    find_preset,
    preset_of_task,
    preset_seeds,
)
from echoic.finetune.run import Splits, finetune
from echoic.finetune.task_words import chooser_words, differs_words, length_words, means_words
from echoic.train.state import require_same
from echoic.types import CheckpointError, ConfigError, DataError

FORMAT = "echoic-judged-1"
JUDGED_NAME, RESULT_NAME = "judged.safetensors", "result.json"
_MB = 2**20


@dataclass(frozen=True)
class TaskPlan:
    """What is to be run. spec: the preset's settings with the task's labels per clip and length,
    and `changes`; its seed is replaced by each of `seeds`."""

    preset: str
    changes: tuple[str, ...]
    spec: FinetuneSpec
    folds: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def protocol(self) -> str:
        return "probe" if self.spec.freeze else "finetune"

    def seeded(self, seed: int) -> FinetuneSpec:
        return self.spec.model_copy(update={"seed": seed})


def plan_task(
    model: EchoicModel,
    task: Task,
    *,
    preset: str | None = None,
    folds: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
) -> TaskPlan:
    """preset: None: that of the model's paper for this task, else `finetune`. folds: None: all.
    seeds: None: M2D's three for its presets, else the preset's one. overrides: as `epochs=30`.

    Raises ConfigError on settings that do not fit the task, DataError where there is no such fold.
    """
    name = preset or preset_of_task(task.spec.name, model.network.spec.audio.kind)
    of_task = {"per_clip": task.spec.per_clip, "clip_s": task.spec.clip_s}
    given = find_preset(name).model_copy(update=of_task)
    spec = given.override(overrides)
    if spec.per_clip != task.spec.per_clip:
        raise ConfigError(
            f"per_clip={spec.per_clip}: {task.spec.name} has {task.spec.per_clip} of its labels "
            "per clip"
        )
    if spec.seed != given.seed:
        raise ConfigError(f"seed={spec.seed}: the seeds of a task are given by seeds (--seeds)")
    chosen = task.folds if folds is None else tuple(dict.fromkeys(folds))
    for fold in chosen:
        task.judging(fold)
    drawn = preset_seeds(name) if seeds is None else tuple(dict.fromkeys(seeds))
    if not (chosen and drawn):
        raise ConfigError(f"{task.spec.name}: no {'seed' if chosen else 'fold'} is asked for")
    return TaskPlan(name, tuple(overrides), spec, chosen, drawn)


def finetune_task(
    model: EchoicModel,
    task: Task,
    folder: Path,
    *,
    preset: str | None = None,
    folds: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    bootstrap: Bootstrap | None = None,
    threads: int = 1,
    console: Console | None = None,
) -> TaskResult:
    """Tune `model` on the task's folds in `folder`, by `plan_task`'s preset, folds, seeds and
    overrides; the model stays as it is. Mean over folds, then over seeds.

    Called again it goes on: runs that are done are not run again, one that was stopped goes on as
    if it had not been. Its protocol is "finetune", or "probe" where the preset leaves the encoder
    frozen. threads: that decode.

    Raises ConfigError (also where a run of other settings lies in the folder), DataError,
    CheckpointError and what decoding raises, each one line; KeyboardInterrupt where it was asked to
    stop.
    """
    plan = plan_task(model, task, preset=preset, folds=folds, seeds=seeds, overrides=overrides)
    todo = [(seed, fold) for seed in plan.seeds for fold in plan.folds]
    _tell(console, _plan_words(task, plan, folder))
    sound = Kept(task.source, plan.spec.cache_mb * _MB)
    runs: dict[int, dict[str, _Done]] = {seed: {} for seed in plan.seeds}
    for number, (seed, fold) in enumerate(todo, 1):
        run = _Run(model, task, sound, plan.seeded(seed), fold, folder / f"{fold}-{seed}")
        _tell(console, f"fold {fold}, seed {seed} ({number} of {len(todo)}): {run.folder}")
        runs[seed][fold] = run.done(threads=threads, console=console)
    found = _result(model, task, plan, runs, bootstrap)
    text = json.dumps(found.to_json(), ensure_ascii=False, indent=2)
    write_whole(folder / RESULT_NAME, text + "\n")
    return found


class Kept:
    """A source whose sound, once decoded, stays in memory as far as it has room: epochs, folds and
    seeds hear the same clips."""

    def __init__(self, source: Source, limit_bytes: int) -> None:
        self.source, self.clips = source, source.clips
        self._room, self._lock = limit_bytes, Lock()
        self._held: dict[tuple[int, int], np.ndarray] = {}

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        held = self._held.get((i, rate_hz))
        if held is not None:
            return held
        wave = self.source.read(i, rate_hz)
        with self._lock:
            if (i, rate_hz) not in self._held and wave.nbytes <= self._room:
                self._held[i, rate_hz] = wave
                self._room -= wave.nbytes
        return wave


# One fold and seed


@dataclass(frozen=True)
class _Done:
    """best_epoch: fractional. bad: clips left out, by key."""

    judged: Judged
    best_epoch: float
    bad: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Run:
    model: EchoicModel
    task: Task
    sound: Source
    spec: FinetuneSpec
    fold: str
    folder: Path

    def done(self, *, threads: int, console: Console | None) -> _Done:
        """Read where it was run before, else run, or gone on with. Raises as `finetune_task`."""
        chosen = self.task.indices(self.fold, seed=self.spec.seed)
        splits = Splits(**{k: SubsetSource(self.sound, i.tolist()) for k, i in chosen.items()})
        stamp, file = self._stamp(splits), self.folder / JUDGED_NAME
        if not file.is_file():
            made = finetune(
                self.model,
                splits,
                self.folder,
                self.spec,
                labels=self.task.labels,
                resume=(self.folder / "checkpoints").is_dir(),
                threads=threads,
                console=console,
            )
            if not made.finished:
                raise KeyboardInterrupt
            assert made.judged is not None
            assert made.best_epoch is not None
            _write(file, _Done(made.judged, made.best_epoch, made.bad), stamp)
        done = _read(file, stamp)
        # as large as the model several times over, and of use only to go on
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        (self.folder / "best.safetensors").unlink(missing_ok=True)
        return done

    def _stamp(self, splits: Splits) -> dict[str, Any]:
        """All that the scores hang on."""
        return {
            "finetune": self.spec.model_dump(mode="json"),
            "labels": list(self.task.labels.names),
            "space_id": self.model.space_id,
            "clips": {name: _named(source) for name, source in splits.named().items()},
        }


def _named(source: Source) -> str:
    """A part's clips, in short."""
    digest = hashlib.sha256("\0".join(clip.key for clip in source.clips).encode()).hexdigest()
    return f"{len(source.clips)} clips, {digest[:12]}"


def _write(file: Path, done: _Done, stamp: Mapping[str, Any]) -> None:
    """Raises CheckpointError when the disk refuses."""
    facts = {
        "keys": done.judged.keys,
        "best_epoch": done.best_epoch,
        "bad": dict(done.bad),
        "stamp": stamp,
    }
    header = {"format": FORMAT, "facts": json.dumps(facts)}
    write_tensors(file, {"scores": done.judged.scores}, header, what="scores")


def _read(file: Path, stamp: Mapping[str, Any]) -> _Done:
    """Raises CheckpointError on another kind of file, ConfigError where it was made otherwise."""
    header, tensors = read_tensors(file)
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{file}: not the scores of a fine-tuning (no {FORMAT} header)")
    try:
        facts = parse_json(header["facts"])
        require_same(facts["stamp"], stamp, file.parent)
        judged = Judged(tuple(facts["keys"]), tensors["scores"].clone())
        return _Done(judged, facts["best_epoch"], facts["bad"])
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: damaged ({error}); remove it and run again") from None


# All of them


def _result(
    model: EchoicModel,
    task: Task,
    plan: TaskPlan,
    runs: Mapping[int, Mapping[str, _Done]],
    bootstrap: Bootstrap | None,
) -> TaskResult:
    each = [done for by_fold in runs.values() for done in by_fold.values()]
    scores: dict[int | None, dict[str, Floats]] = {
        seed: {fold: done.judged.scores.double().numpy() for fold, done in by_fold.items()}
        for seed, by_fold in runs.items()
    }
    keys = {fold: _keys(task, fold, runs) for fold in plan.folds}
    clips = {clip.key: clip for clip in task.source.clips}
    truth = {fold: task.labels.truth([clips[k] for k in of]).numpy() for fold, of in keys.items()}
    return task_result(
        task,
        plan.protocol,
        scores,
        truth,
        model=describe(model),
        words=_words(task, plan, [done.best_epoch for done in each]),
        bad={key: why for done in each for key, why in done.bad.items()},
        bootstrap=bootstrap,
        keys=keys,
        scale=1.0,
    )


def _keys(task: Task, fold: str, runs: Mapping[int, Mapping[str, _Done]]) -> tuple[str, ...]:
    """Of the clips that were judged. Raises DataError where those differ by seed."""
    keys, *others = [by_fold[fold].judged.keys for by_fold in runs.values()]
    if any(other != keys for other in others):
        raise DataError(
            f"{task.spec.name}: the clips of fold {fold} that could be heard are not the same for "
            "all seeds; run it anew in another folder"
        )
    return keys


# In words


def _plan_words(task: Task, plan: TaskPlan, folder: Path) -> str:
    spec = plan.spec
    runs = len(plan.folds) * len(plan.seeds)
    what = "frozen" if spec.freeze else "trained too"
    return (
        f"{task.spec.title}, preset {plan.preset}: {spec.head} head, encoder {what}, "
        f"{_count(spec.epochs, 'epoch')}\n"
        f"{_count(len(plan.folds), 'fold')} x {_count(len(plan.seeds), 'seed')}: "
        f"{_count(runs, 'run')} in {folder}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _words(task: Task, plan: TaskPlan, epochs: Sequence[float]) -> list[str]:
    spec = plan.spec
    changed = f", changed: {' '.join(plan.changes)}" if plan.changes else ""
    what = (
        "A probe of the frozen encoder"
        if spec.freeze
        else "Fine-tuning, each run from the model's weights anew"
    )
    first, last = min(epochs), max(epochs)
    chosen = f"epoch {first:g}" if first == last else f"epochs {first:g} to {last:g}"
    heard = "" if spec.freeze else ": a random part to learn from, the first part to judge by"
    length = length_words(spec.clip_s) if spec.clip_s else "Each clip is heard as long as it is"
    return [
        f"{what}: preset {plan.preset} ({_whose(plan.preset)}){changed}; {spec.head} head, "
        f"{spec.optimizer.kind} at {spec.lr:g}, {'up to ' if spec.accumulate > 1 else ''}"
        f"{spec.batch_clips * spec.accumulate} clips a step, "
        f"{_count(spec.epochs, 'epoch')}. {chooser_words(task)} Chosen: {chosen}.",
        f"{length}{heard if spec.clip_s else ''}.",
        means_words(task, plan.folds, plan.seeds) + differs_words(task, *_differs(task, plan)),
    ]


def _whose(preset: str) -> str:
    if preset == "m2d_nano":
        return "ours"
    by_paper = {
        "m2d": "M2D's settings",
        "laion": "LAION-CLAP's released settings",
        "slap": "ours, SLAP's paper does not say",
    }
    return by_paper.get(preset.partition("_")[0], "ours")


def _differs(task: Task, plan: TaskPlan) -> list[str]:
    """From the paper that the preset is of."""
    found = []
    if _whose(plan.preset).startswith("M2D"):
        if not task.has_valid:
            found.append(
                "where there is no validation part, M2D lets the test part choose the epoch, which "
                "raises its figure"
            )
        if set(plan.seeds) != set(M2D_SEEDS):
            found.append(f"its seeds are {', '.join(map(str, M2D_SEEDS))}")
    if plan.spec.clip_s != task.spec.clip_s:
        found.append(f"the task's clips are {task.spec.clip_s:g} s")
    return found


def _tell(console: Console | None, line: str) -> None:
    if console is not None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
