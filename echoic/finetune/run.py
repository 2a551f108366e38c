"""Fine-tune or probe an audio tower on labelled sound: what `echoic finetune` does.

The supervised protocol of LAION-CLAP (2211.06687, section 4.3, and its code): a linear layer or an
MLP on the projected clip vector, the tower frozen or trained with it; the best epoch is chosen by
the validation split, and the test split is looked at once, at the end.

run folder
  log.jsonl                 losses and validation figures
  checkpoints/              everything needed to go on
  best.safetensors          the weights of the best epoch so far
  classifier.safetensors    the result (classifier.py)
  result.json               its figures

N clips of a split, B clips of a batch, D width, C classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from echoic.api import EchoicModel
from echoic.data.clips import Source
from echoic.data.labels import Labels, PerClip, labels_of
from echoic.data.loader import Loader
from echoic.eval.tagging import tagging
from echoic.eval.zeroshot import classify
from echoic.finetune.classifier import FILE_NAME, Classifier, ClassifierSpec
from echoic.finetune.presets import FinetuneSpec
from echoic.finetune.vectors import Ears, Frozen, Tuned
from echoic.objectives.tagging import ClassifyTask, make_head, many_labels, one_label
from echoic.train.best import Best
from echoic.train.checkpoint import Checkpoints
from echoic.train.loop import RunSpec, train
from echoic.train.optim import OptimSpec
from echoic.train.process import isolated_rng
from echoic.types import ConfigError

CHOSEN_BY: dict[PerClip, str] = {"one": "accuracy", "many": "mAP"}
_SHOWN: dict[PerClip, tuple[str, ...]] = {
    "one": ("accuracy", "top5", "mean_class_accuracy", "mAP"),
    "many": ("mAP", "mAP_micro", "mAUC", "d_prime"),
}


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
    (many). Those of "train" are there for a frozen tower only. best_epoch: fractional, the one
    whose weights were kept. bad: clips left out of validation and test, by key.
    """

    finished: bool
    labels: tuple[str, ...]
    per_clip: PerClip
    step: int
    best_epoch: float | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    file: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not a number is None."""
        figures = {
            split: {k: v if math.isfinite(v) else None for k, v in values.items()}
            for split, values in self.metrics.items()
        }
        return {
            "classifier": str(self.file) if self.file else None,
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
    resume: bool = False,
    threads: int = 1,
    console: Console | None = None,
) -> Finetuned:
    """Train a classifier on `splits.train` in `folder`; `model` stays as it is.

    Raises ConfigError, DataError, CheckpointError and what decoding raises, each one line.
    """
    fresh = not Checkpoints(folder / "checkpoints", 1).steps()
    if not fresh and not resume:  # told here: it can take long to hear what comes first
        raise ConfigError(
            f"{folder}: holds a training; resume it (--resume) or name another folder"
        )
    sources = splits.named()
    labels = labels_of(sources, spec.per_clip)
    ears = _ears(model, sources, spec, threads)
    task = _task(ears, labels, splits.train, spec, model.embed_dim).to(model.device)
    best = Best(folder / "best.safetensors", fresh=fresh)
    steps = math.ceil(ears.loader.steps_in(spec.epochs) / spec.accumulate)
    per_epoch = math.ceil(steps / spec.epochs)

    def evaluate(_: nn.Module) -> Mapping[str, float]:
        found = _figures(task, ears, splits.valid, "valid", labels)
        best.offer(found[CHOSEN_BY[labels.per_clip]], task, task.steps)
        return found

    result = train(
        task,
        ears.loader,
        optim=_optim(spec, steps),
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
    judged = [name for name in sources if spec.freeze or name != "train"]
    found = {name: _figures(task, ears, sources[name], name, labels) for name in judged}
    file = folder / FILE_NAME
    done = replace(done, best_epoch=epoch, metrics=found, bad=ears.bad, file=file)
    card = {"settings": spec.model_dump(mode="json"), **done.to_json(), "classifier": FILE_NAME}
    audio = ears.audio if isinstance(ears, Tuned) else model.network.audio
    Classifier(_description(model, labels, spec), audio, task.head, card).save(file)
    (folder / "result.json").write_text(json.dumps(done.to_json(), indent=2) + "\n", "utf-8")
    return done


def _description(model: EchoicModel, labels: Labels, spec: FinetuneSpec) -> ClassifierSpec:
    return ClassifierSpec(
        labels=labels.names,
        per_clip=labels.per_clip,
        head=spec.head,
        width=model.embed_dim,
        space_id=model.space_id,
        model=None if spec.freeze else model.network.spec,
    )


# What is measured


def _figures(
    task: ClassifyTask, ears: Ears, source: Source, split: str, labels: Labels
) -> dict[str, float]:
    """Accuracy or mAP and others of one split."""
    heard = ears.hear(split)
    truth = labels.truth([source.clips[i] for i in heard.kept]).numpy()
    with torch.no_grad():
        device = next(task.head.parameters()).device
        scores = task.head(heard.vectors.to(device)).float().cpu().numpy()
    found = tagging(scores, truth).metrics()
    if labels.per_clip == "one":
        found |= classify(scores, truth.argmax(axis=1)).metrics()
    return {name: found[name] for name in _SHOWN[labels.per_clip]}


# The parts of a training


def _ears(
    model: EchoicModel, splits: Mapping[str, Source], spec: FinetuneSpec, threads: int
) -> Ears:
    if spec.freeze:
        return Frozen(
            model.network.audio,
            splits,
            batch_clips=spec.batch_clips,
            seed=spec.seed,
            max_bad_share=spec.max_bad_share,
        )
    audio = deepcopy(model.network.audio).requires_grad_()
    cache_bytes = spec.cache_mb * 2**20
    loader = Loader(
        splits["train"],
        rate_hz=audio.rate_hz,
        tokenize=lambda texts: [[0]] * len(texts),  # no text is read
        cost=lambda seconds: 1,
        budget=spec.batch_clips,
        seed=spec.seed,
        max_s=min(audio.longest_s, _longest_s(splits["train"])),
        min_clips=1,
        threads=threads,
        max_bad_share=spec.max_bad_share,
        cache_bytes=cache_bytes,
    )
    others = {name: source for name, source in splits.items() if name != "train"}
    return Tuned(audio, loader, others, cache_bytes=cache_bytes)


def _task(
    ears: Ears, labels: Labels, source: Source, spec: FinetuneSpec, width: int
) -> ClassifyTask:
    with isolated_rng(spec.seed):
        head = make_head(spec.head, width, len(labels.names))
    table = labels.truth(source.clips)
    row = {clip.key: i for i, clip in enumerate(source.clips)}
    return ClassifyTask(
        ears.audio,
        head,
        truth=lambda keys: table[[row[key] for key in keys]],
        loss=one_label if labels.per_clip == "one" else many_labels,
        augment=None if spec.freeze else spec.frame_augment.seeded,
    )


def _optim(spec: FinetuneSpec, steps: int) -> OptimSpec:
    """AdamW, which is Adam where nothing decays."""
    return OptimSpec(
        lr=spec.lr,
        weight_decay=spec.weight_decay,
        warmup_steps=min(spec.warmup_steps, steps),
        steps=steps,
        final_lr_share=spec.final_lr_share,
        clip_norm=spec.clip_norm,
        accumulate=spec.accumulate,
        precision=spec.precision,
    )


def _longest_s(source: Source) -> float:
    """Of the clips whose length is known; of others, an hour."""
    return max((clip.duration_s or 3600.0 for clip in source.clips), default=3600.0)
