"""`transformers.pipeline("zero-shot-audio-classification")` with models of echoic's.

    from echoic.compat.pipeline import pipeline

    classifier = pipeline("zero-shot-audio-classification", model="laion/clap-htsat-unfused")
    classifier("dog.wav", candidate_labels=["dog", "vacuum cleaner"])
    # [{"score": 0.99, "label": "dog"}, {"score": 0.01, "label": "vacuum cleaner"}]

Arguments, defaults and results are those of transformers 5. What differs: a file at another rate is
resampled by soxr and not by FFmpeg, a long recording is heard in full and the same every time, and
nothing is fetched from an address.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from echoic.api import EchoicModel, load
from echoic.compat.sentence_transformers import as_sound
from echoic.types import ConfigError, DataError

TASK = "zero-shot-audio-classification"
Scores = list[dict[str, Any]]


def pipeline(
    task: str = TASK, model: str | Path | EchoicModel | None = None, **options: Any
) -> ZeroShotAudioClassificationPipeline:
    """model: what `echoic.load` opens, or an opened model. options: of `echoic.load`. Raises
    ConfigError on another task, and without a model."""
    if task != TASK:
        raise ConfigError(f"task {task!r}: echoic has {TASK}")
    if model is None:
        raise ConfigError(f"{TASK}: name a model (echoic models lists the known ones)")
    return ZeroShotAudioClassificationPipeline(model, **options)


class ZeroShotAudioClassificationPipeline:
    """model: what `echoic.load` opens, or an opened model."""

    task = TASK

    def __init__(self, model: str | Path | EchoicModel, **options: Any) -> None:
        self.model = model if isinstance(model, EchoicModel) else load(model, **options)

    def __call__(
        self,
        audios: Any,
        candidate_labels: Sequence[str] | None = None,
        hypothesis_template: str = "This is a sound of {}.",
        batch_size: int | None = None,
    ) -> Scores | list[Scores]:
        """One sound -> its labels, likeliest first, with scores that sum to 1; a list -> one such
        list each. A sound: a path, bytes, samples (T,) at the model's rate, or {"array" or "raw",
        "sampling_rate"}. batch_size is taken and not needed.

        Raises DataError on labels or a template that say nothing, AudioError, CheckpointError.
        """
        labels = _labels(candidate_labels)
        texts = self.model.embed_text(_prompts(labels, hypothesis_template))
        alone = not isinstance(audios, list | tuple)
        sounds = [_checked(sound) for sound in ([audios] if alone else audios)]
        scale = self.model.network.logit_scale.detach().exp().cpu()
        scores = (scale * (self.model.embed_audio(sounds) @ texts.T)).softmax(1)
        told = [_sorted(row, labels) for row in scores]
        return told[0] if alone else told


def _labels(given: Sequence[str] | str | None) -> list[str]:
    labels = [label.strip() for label in given.split(",")] if isinstance(given, str) else given
    if not labels or not all(labels):
        raise DataError("candidate_labels: give one or more, none of them empty")
    return list(labels)


def _prompts(labels: Sequence[str], template: str) -> list[str]:
    try:
        prompts = [template.format(label) for label in labels]
    except (LookupError, ValueError):
        told = f"hypothesis_template {template!r}: the label stands where {{}} is, once"
        raise DataError(told) from None
    if len(set(labels)) > 1 and len(set(prompts)) == 1:
        raise DataError(f"hypothesis_template {template!r}: has no {{}} where the label stands")
    return prompts


def _checked(sound: Any) -> Any:
    """Raises DataError on what transformers refuses too, and on an address."""
    if isinstance(sound, str) and sound.startswith(("http://", "https://")):
        raise DataError(f"{sound}: nothing is fetched from an address; save it to a file first")
    if isinstance(sound, np.ndarray) and sound.ndim != 1:
        raise DataError(f"samples of shape {sound.shape}: give one channel, (T,)")
    return as_sound(sound)


def _sorted(scores: Tensor, labels: Sequence[str]) -> Scores:
    pairs = sorted(zip(scores.tolist(), labels, strict=True), key=lambda pair: -pair[0])
    return [{"score": score, "label": label} for score, label in pairs]
