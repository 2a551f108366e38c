"""What trained models are probed on: the real sets of ../shared/data with one fold held out, and
single events of the embedded corpus, each with its classes and prompts.

T samples, C classes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch.nn.functional as F

from benchmarks.real_sets import RATE_HZ, SETS, Fold
from echoic.api import EchoicModel
from echoic.data.synth import CLASSES
from echoic.data.synth.corpus import draw_scenes, render_all
from echoic.eval.baseline import PENALTY
from echoic.eval.probe import pooled_tokens, ridge_probe
from echoic.eval.zeroshot import class_scores, class_vectors
from echoic.types import AudioFeatures

SYNTH_PROMPTS = ("the sound of {label}", "{label}")
Waves = Sequence[np.ndarray]
Hear = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Probe:
    """One set, split: waves (T,) and class of each. segments: of the time axis."""

    name: str
    train: tuple[Waves, np.ndarray]
    test: tuple[Waves, np.ndarray]
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    segments: int

    def accuracy_of(self, features: Callable[[np.ndarray], np.ndarray]) -> float:
        """On the held-out clips, after training on the others."""
        train_x, test_x = (np.stack([*map(features, part[0])]) for part in (self.train, self.test))
        targets = self.train[1][:, None] == np.arange(len(self.classes))
        return accuracy(ridge_probe(train_x, targets, test_x, penalty=PENALTY), self.test[1])

    def zero_shot(self, model: EchoicModel, hear: Hear | None = None) -> float:
        """The model's accuracy on the held-out clips, by prompts. hear: what it is given of a
        wave; None: the wave."""
        words = class_vectors(model.embed_text, self.classes, self.prompts)
        waves, labels = self.test
        vectors = model.embed_audio(map(hear, waves) if hear else waves)
        return accuracy(class_scores(vectors, words), labels)

    def at_most(self, clips: int) -> Probe:
        """Evenly chosen ones of either part."""

        def some(part: tuple[Waves, np.ndarray]) -> tuple[Waves, np.ndarray]:
            waves, labels = part
            chosen = np.unique(np.linspace(0, len(labels) - 1, clips).astype(int))
            return [waves[i] for i in chosen], labels[chosen]

        return replace(self, train=some(self.train), test=some(self.test))


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of clips whose best class is their own."""
    return float((scores.argmax(1) == labels).mean())


def probe_vector(features: AudioFeatures, segments: int, sound_s: float = math.inf) -> np.ndarray:
    """What the probe sees of one clip: its unit vector, as embed_audio gives it, and its tokens
    pooled over time as the baseline pools frames. sound_s: what follows is filling, whose tokens
    are left out."""
    clip = F.normalize(features.clip[0].float(), dim=0).numpy()
    time_s = features.time_s.numpy()
    own = time_s <= max(sound_s, time_s[0])
    tokens = features.tokens.float().numpy()[own]
    return np.concatenate([clip, pooled_tokens(tokens, time_s[own], segments=segments)])


def real_folds(shared: Path, held_out: int) -> dict[str, Fold]:
    """The real sets by name, one fold of each held out."""
    return {real.name: Fold(real, shared, held_out) for real in SETS}


def real_probes(folds: Mapping[str, Fold]) -> list[Probe]:
    """One of each."""
    return [
        Probe(
            name, fold.part(fold.train), fold.part(fold.test), fold.classes, fold.real.prompts,
            fold.real.segments,
        )
        for name, fold in folds.items()
    ]  # fmt: skip


def synth_probe(labelled: int = 240, tested: int = 300) -> Probe:
    """Scenes of one event: a few of the training split with labels, those of the test split."""

    def part(split: str, count: int, seed: int) -> tuple[Waves, np.ndarray]:
        scenes = draw_scenes(count, split=split, seed=seed, max_s=6.0, relation="single")
        labels = np.array([CLASSES.index(scene.labels[0]) for scene in scenes])
        return list(render_all(scenes, RATE_HZ)), labels

    classes = tuple(name.replace("_", " ") for name in CLASSES)
    train, test = part("train", labelled, 11), part("test", tested, 12)
    return Probe("synth", train, test, classes, SYNTH_PROMPTS, segments=3)


def shared_folder() -> Path:
    """Where real audio is looked for."""
    return Path(os.environ.get("ECHOIC_SHARED", Path(__file__).resolve().parents[2] / "shared"))
