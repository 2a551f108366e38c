"""What an M2D gives of whole recordings beside the vectors that lie in a space with texts: features
before any projection, what a linear probe sees, and the labels that it was tuned on.

Shapes: B recordings, T samples, P tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from echoic.listening import AudioTower, Listening, clip_vectors
from echoic.model import LanguageAudioModel
from echoic.towers import READINGS, M2dTower
from echoic.types import AudioFeatures, ConfigError, EchoicError, Ragged


@torch.no_grad()
def read_features(
    network: LanguageAudioModel,
    waves: Iterable[np.ndarray],
    listening: Listening,
    reading: str,
    *,
    layers: bool = False,
) -> list[AudioFeatures]:
    """Of waves (T,): those of each layer, or of the last alone. Raises ConfigError for another
    model and an unknown reading, EchoicError where there is no wave."""
    tower = network.audio
    if not isinstance(tower, M2dTower):
        kind = network.spec.audio.kind
        raise ConfigError(f"features {reading!r} are M2D's; this model's encoder is {kind}")
    if reading not in READINGS:
        raise ConfigError(f"features {reading!r}: there are {', '.join(READINGS)}")
    rows = [torch.from_numpy(wave) for wave in waves]
    if not rows:
        raise EchoicError("no sound given")
    audio = Ragged.from_rows(rows).to(next(tower.parameters()).device)
    if layers:
        return tower.read_layers(audio, reading, listening.cutting)
    return [tower.read(audio, reading, listening.cutting)]


def probe_vectors(tower: AudioTower, waves: Iterable[np.ndarray], listening: Listening) -> Tensor:
    """(B, D) of waves (T,): an M2D's mean over its stacked columns; of others the clip vector, not
    normalised."""
    if not isinstance(tower, M2dTower):
        return clip_vectors(tower, waves)
    cutting = listening.cutting
    return _vectors(tower, waves, lambda a: tower.read(a, "stacked", cutting).clip, listening)


def label_logits(
    tower: AudioTower, waves: Iterable[np.ndarray], listening: Listening
) -> Tensor | None:
    """(B, classes) of an M2D that was tuned on labels; None of other models."""
    if not isinstance(tower, M2dTower) or tower.spec.classes is None:
        return None
    logits = _vectors(tower, waves, lambda a: tower.logits(a, listening.cutting), listening)
    return logits.reshape(-1, tower.spec.classes)


def _vectors(
    tower: M2dTower,
    waves: Iterable[np.ndarray],
    hear: Callable[[Ragged], Tensor],
    listening: Listening,
) -> Tensor:
    """`clip_vectors`; upstream's chunks part a recording by themselves."""
    longest_s = math.inf if listening.name == "m2d" else None
    return clip_vectors(tower, waves, hear, longest_s=longest_s)
