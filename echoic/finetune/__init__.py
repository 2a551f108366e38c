"""Probes and fine-tuning of audio towers on labelled sound, and the classifiers that they give."""

from __future__ import annotations

from echoic.finetune.classifier import Classifier, load_classifier
from echoic.finetune.of_task import TaskPlan, finetune_task, plan_task
from echoic.finetune.presets import M2D_SEEDS, PRESETS, FinetuneSpec, find_preset
from echoic.finetune.run import Finetuned, Splits, finetune
from echoic.finetune.tuned import tuned_model

__all__ = [
    "M2D_SEEDS",
    "PRESETS",
    "Classifier",
    "FinetuneSpec",
    "Finetuned",
    "Splits",
    "TaskPlan",
    "find_preset",
    "finetune",
    "finetune_task",
    "load_classifier",
    "plan_task",
    "tuned_model",
]
