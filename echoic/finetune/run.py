"""Fine-tune or probe an audio tower on labelled sound: what `echoic finetune` does.

The supervised protocols of LAION-CLAP (2211.06687, section 4.3, and its code: a linear layer or an
MLP on the projected clip vector, the tower frozen or trained with it) and of M2D (2210.14648,
section IV-A); the best epoch is chosen by the validation split, of equals the last, and the test
split is looked at once, at the end.

run folder
  log.jsonl                 losses and validation figures
  checkpoints/              everything needed to go on
  best.safetensors          the weights of the best epoch so far
  classifier.safetensors    the result (classifier.py)
  model.safetensors         of a tuned M2D: the model with its encoder (tuned.py)
  result.json               its figures

N clips of a split, B clips of a batch, D width, C classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from echoic.api import EchoicModel, save_tested
from echoic.convert.native import FILE_NAME as MODEL_FILE_NAME
from echoic.data.clips import Source, durations_of
from echoic.data.files import write_whole
from echoic.data.labels import Labels, PerClip, labels_of
from echoic.data.loader import Augment, Loader
from echoic.finetune.classifier import FILE_NAME, Classifier, ClassifierSpec
from echoic.finetune.judged import CHOSEN_BY, Judged, figures
from echoic.finetune.presets import FinetuneSpec
from echoic.finetune.reading import Reading, to_be_tuned
from echoic.finetune.tuned import tuned_model
from echoic.finetune.vectors import Ears, Frozen, Tuned, fitted
from echoic.model import ModelSpec
from echoic.objectives.tagging import ClassifyTask, make_head, many_labels, one_label
from echoic.train.best import Best
from echoic.train.checkpoint import Checkpoints
from echoic.train.loop import RunSpec, train
from echoic.train.optim import OptimSpec
from echoic.train.process import isolated_rng


@dataclass(frozen=True)
class Splits:
    """Labelled clips, whose tags are their labels."""

    train: Source
    valid: Source
    test: Source | None = None

    def named(self) -> dict[str, Source]:
        named = {"train": self.train, "valid": self.valid}
        return named | ({"test": self.test} if self.test is not None else {})


@dataclass(frozen=True)
class Finetuned:
    """What became of it; without figures and file where the training was asked to stop.

    metrics: by split, then by name: accuracy and others (one label per clip), mAP and others
    (many). Those of "train" are there for a frozen tower only. judged: what the test clips scored.
    best_epoch: fractional, the one whose weights were kept. bad: clips left out, by key. model: the
    file of the model with the tuned encoder, where that is an M2D.
    """

    finished: bool
    labels: tuple[str, ...]
    per_clip: PerClip
    step: int
    best_epoch: float | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    judged: Judged | None = field(default=None, compare=False, repr=False)
    bad: dict[str, str] = field(default_factory=dict)
    file: Path | None = None
    model: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not a number is None."""
        figures = {
            split: {k: v if math.isfinite(v) else None for k, v in values.items()}
            for split, values in self.metrics.items()
        }
        return {
            "classifier": str(self.file) if self.file else None,
            "model": str(self.model) if self.model else None,
            "classes": len(self.labels),
            "labels_per_clip": self.per_clip,
            "chosen_by": CHOSEN_BY[self.per_clip],
            "best_epoch": self.best_epoch,
            "steps": self.step,
            "metrics": figures,
            "bad": self.bad,
        }


def finetune(
    model: EchoicModel,
    splits: Splits,
    folder: Path,
    spec: FinetuneSpec,
    *,
    labels: Labels | None = None,
    resume: bool = False,
    threads: int = 1,
    console: Console | None = None,
) -> Finetuned:
    """Train a classifier on `splits.train` in `folder`; `model` stays as it is.

    labels: the columns; None: the tags of all splits. Raises ConfigError, DataError,
    CheckpointError and what decoding raises, each one line.
    """
    there = Checkpoints(folder / "checkpoints", 1)
    if not resume:
        there.require_none()  # told here: it can take long to hear what comes first
    fresh = not there.steps()
    sources = splits.named()
    labels = labels or labels_of(sources, spec.per_clip)
    table = labels.truth(splits.train.clips)
    described, reading = _heard_by(model, spec)
    ears = _ears(reading, sources, table, spec, threads)
    task = _task(ears, reading.width, labels, table, splits.train, spec).to(model.device)
    best = Best(folder / "best.safetensors", fresh=fresh)
    accumulate = min(spec.accumulate, ears.loader.steps_in(1))
    steps = math.ceil(ears.loader.steps_in(spec.epochs) / accumulate)
    per_epoch = math.ceil(steps / spec.epochs)

    def evaluate(_: nn.Module) -> Mapping[str, float]:
        found = _figures(_judged(task, ears, splits.valid, "valid"), splits.valid, labels)
        best.offer(found[CHOSEN_BY[labels.per_clip]], task, task.steps)
        return found

    result = train(
        task,
        ears.loader,
        optim=_optim(spec, steps, accumulate),
        run=RunSpec(
            eval_every=per_epoch,
            # an epoch of a probe is shorter than the saving of it
            save_every=max(per_epoch, steps // 10) if spec.freeze else per_epoch,
            keep_last=1,
            seed=spec.seed,
        ),
        folder=folder,
        evaluate=evaluate,
        resume=resume,
        console=console,
        sample_rate_hz=None if spec.freeze else model.rate_hz,
        config={
            "finetune": spec.model_dump(mode="json"),
            "labels": list(labels.names),
            "space_id": model.space_id,
        },
    )
    done = Finetuned(result.finished, labels.names, labels.per_clip, result.step)
    if not result.finished:
        return done
    epoch = round(best.restore(task) / per_epoch, 2)
    task.eval()
    judging = {name: each for name, each in sources.items() if spec.freeze or name != "train"}
    judged = {name: _judged(task, ears, each, name) for name, each in judging.items()}
    done = replace(
        done,
        best_epoch=epoch,
        metrics={name: _figures(judged[name], each, labels) for name, each in judging.items()},
        judged=judged.get("test"),
        bad=ears.bad,
        file=folder / FILE_NAME,
        model=folder / MODEL_FILE_NAME if described and described.audio.kind == "m2d" else None,
    )
    own = _description(model, labels, spec, described, reading)
    _write(done, Classifier(own, reading.tower, task.head, _card(spec, done)), model)
    return done


def _description(
    model: EchoicModel,
    labels: Labels,
    spec: FinetuneSpec,
    described: ModelSpec | None,
    reading: Reading,
) -> ClassifierSpec:
    return ClassifierSpec(
        labels=labels.names,
        per_clip=labels.per_clip,
        head=spec.head,
        width=reading.width,
        space_id=model.space_id,
        model=described,
        m2d=spec.m2d,
    )


def _write(done: Finetuned, classifier: Classifier, model: EchoicModel) -> None:
    """Raises CheckpointError, DataError."""
    assert done.file is not None
    classifier.save(done.file)
    if done.model is not None:
        save_tested(done.model, tuned_model(classifier, model))
    text = json.dumps(done.to_json(), indent=2)
    write_whole(done.file.parent / "result.json", text + "\n")


def _card(spec: FinetuneSpec, done: Finetuned) -> dict[str, Any]:
    """What is told of a classifier: its files by their names alone, since a folder may move."""
    files = {"classifier": FILE_NAME, "model": MODEL_FILE_NAME if done.model else None}
    return {"settings": spec.model_dump(mode="json"), **done.to_json(), **files}


# What is measured


def _judged(task: ClassifyTask, ears: Ears, source: Source, split: str) -> Judged:
    heard = ears.hear(split)
    with torch.no_grad():
        device = next(task.head.parameters()).device
        scores = task.head(heard.vectors.to(device)).float().cpu()
    return Judged(tuple(source.clips[i].key for i in heard.kept), scores)


def _figures(judged: Judged, source: Source, labels: Labels) -> dict[str, float]:
    """Accuracy or mAP and others of one split."""
    clips = {clip.key: clip for clip in source.clips}
    truth = labels.truth([clips[key] for key in judged.keys])
    return figures(judged.scores, truth, labels.per_clip)


# The parts of a training


def _heard_by(model: EchoicModel, spec: FinetuneSpec) -> tuple[ModelSpec | None, Reading]:
    """The tower as the head hears it, and, of one that learns, the description of its model. Raises
    ConfigError."""
    if spec.freeze:
        return None, Reading(model.network.audio, model.embed_dim)
    return to_be_tuned(model, spec.m2d)


def _ears(
    reading: Reading,
    splits: Mapping[str, Source],
    table: Tensor,
    spec: FinetuneSpec,
    threads: int,
) -> Ears:
    """table: truth (N, C) of the training clips."""
    if spec.freeze:
        return Frozen(
            reading,
            splits,
            batch_clips=spec.batch_clips,
            min_clips=spec.min_clips,
            seed=spec.seed,
            max_bad_share=spec.max_bad_share,
            clip_s=spec.clip_s,
        )
    cache_bytes = spec.cache_mb * 2**20
    loader = Loader(
        splits["train"],
        rate_hz=reading.rate_hz,
        tokenize=None,
        cost=lambda seconds: 1,
        budget=spec.batch_clips,
        seed=spec.seed,
        augment=_fitting(spec.clip_s) if spec.clip_s else None,
        max_s=min(reading.longest_s, spec.clip_s or _longest_s(splits["train"])),
        min_clips=spec.min_clips,
        draws=spec.draws.draws(table) if spec.draws else None,
        threads=threads,
        max_bad_share=spec.max_bad_share,
        cache_bytes=cache_bytes,
    )
    others = {name: source for name, source in splits.items() if name != "train"}
    return Tuned(reading, loader, others, cache_bytes=cache_bytes, clip_s=spec.clip_s)


def _fitting(clip_s: float) -> Augment:
    """A part that the loader drew, of a clip that may be shorter than `clip_s`, to this length; how
    much is heard at once is the loader's business."""
    return lambda wave, rate_hz, rng: fitted(wave, rate_hz, clip_s)


def _task(
    ears: Ears, width: int, labels: Labels, table: Tensor, source: Source, spec: FinetuneSpec
) -> ClassifyTask:
    """width: of the vectors that the head reads. table: truth (N, C) of the clips of `source`."""
    with isolated_rng(spec.seed):
        head = make_head(spec.head, width, len(labels.names))
    row = {clip.key: i for i, clip in enumerate(source.clips)}
    return ClassifyTask(
        ears.audio,
        head,
        truth=lambda keys: table[[row[key] for key in keys]],
        loss=one_label if labels.per_clip == "one" else many_labels,
        augment=None if spec.freeze else spec.augment.seeded,
    )


def _optim(spec: FinetuneSpec, steps: int, accumulate: int) -> OptimSpec:
    """Of AdamW without decay, Adam. accumulate: batches that make a step."""
    return OptimSpec(
        **spec.optimizer.model_dump(),
        lr=spec.lr,
        weight_decay=spec.weight_decay,
        warmup_steps=round(steps * spec.warmup_epochs / spec.epochs),
        warmup_from_zero=True,
        steps=steps,
        final_lr_share=spec.final_lr_share,
        clip_norm=spec.clip_norm,
        accumulate=accumulate,
        precision=spec.precision,
    )


def _longest_s(source: Source) -> float:
    """Of the clips whose length is known; of others, an hour."""
    known = durations_of(source.clips).tolist()
    return max((each if each > 0 else 3600.0 for each in known), default=3600.0)
