"""A classifier of sounds: an audio tower, a head on its clip vectors, and their file.

    probe = load_classifier("runs/esc/classifier.safetensors", echoic.load("630k-audioset-best.pt"))
    probe.probabilities(["dog.wav"])          # (1, C), columns as in probe.labels

The file holds the head and its labels; and the tower with its description, where it was tuned with
the head. A probe on a frozen tower holds no tower: it is handed the model it was trained on.

B clips, T samples, D width, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from echoic.api import EchoicModel
from echoic.audio.io import AudioLike, load_audio
from echoic.config import Spec, parse_json
from echoic.convert.native import (
    CLASSIFIER_FILE_NAME,
    CLASSIFIER_FORMAT,
    buildable,
    load_strictly,
    read_tensors,
    write_tensors,
)
from echoic.data.labels import PerClip
from echoic.finetune.reading import M2dInput, read_by
from echoic.listening import AudioTower
from echoic.model import ModelSpec, build
from echoic.objectives.tagging import HeadKind, make_head
from echoic.train.process import isolated_rng
from echoic.types import CheckpointError, ConfigError, finite

FORMAT, FILE_NAME = CLASSIFIER_FORMAT, CLASSIFIER_FILE_NAME
_HEAD, _AUDIO = "head.", "audio."


class ClassifierSpec(Spec):
    """labels: of the columns. per_clip: one label or many. width: of the clip vector. space_id: of
    the model that training began with. model: the description of a tuned tower's model, None where
    the tower is that model's own. m2d: how a tuned M2D is heard; None: by its own clip vector.
    """

    labels: tuple[str, ...] = Field(min_length=1)
    per_clip: PerClip
    head: HeadKind
    width: int = Field(ge=1)
    space_id: str
    model: ModelSpec | None = None
    m2d: M2dInput | None = None


@dataclass(frozen=True)
class Classifier:
    """card: how it was made (settings, data, figures), for people."""

    spec: ClassifierSpec
    audio: AudioTower
    head: nn.Module
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.spec.labels

    def probabilities(self, items: Iterable[AudioLike]) -> Tensor:
        """(B, C) on the CPU: of one label per clip they sum to 1, of many each stands alone.

        An item is whatever `EchoicModel.embed_audio` takes. Raises AudioError, and CheckpointError
        where weights are damaged.
        """
        waves = (load_audio(item, rate_hz=self.audio.rate_hz) for item in items)
        logits = finite(self.logits(waves))
        return logits.softmax(dim=1) if self.spec.per_clip == "one" else logits.sigmoid()

    @torch.no_grad()
    def logits(self, waves: Iterable[np.ndarray]) -> Tensor:
        """(B, C) of waves (T,) at the tower's rate."""
        reading = read_by(self.audio.eval(), self.spec.m2d, self.spec.width)
        vectors = reading.vectors(waves)
        if not len(vectors):
            return torch.zeros(0, len(self.labels))
        scores: Tensor = self.head.eval()(vectors.to(next(self.head.parameters()).device))
        return scores.float().cpu()

    def save(self, path: Path) -> None:
        """Write to `path` at once or not at all. Raises CheckpointError when the disk refuses."""
        parts = [(_HEAD, self.head), *([(_AUDIO, self.audio)] if self.spec.model else [])]
        tensors = {
            f"{start}{name}": tensor
            for start, part in parts
            for name, tensor in part.state_dict().items()
        }
        header = {
            "format": FORMAT,
            "spec": self.spec.model_dump_json(),
            "card": json.dumps(self.card),
        }
        write_tensors(path, tensors, header, what="classifier")


def load_classifier(path: str | Path, model: EchoicModel | None = None) -> Classifier:
    """Read a classifier's file, or the one in a folder. model: that a probe was trained on.

    Raises CheckpointError on another kind of file, a damaged one, and where `model` is missing or
    is not the one of the training.
    """
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such classifier file")
    header, tensors = read_tensors(file)
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{file}: not a classifier of echoic's (no {FORMAT} header)")
    try:
        spec = ClassifierSpec.parse(parse_json(header["spec"]), where="spec")
        card = parse_json(header["card"])
    except (KeyError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{file}: its header cannot be read ({error})") from None
    if not isinstance(card, dict):
        raise CheckpointError(f"{file}: its card is a {type(card).__name__}, not an object")
    try:
        with isolated_rng(), buildable():  # what it draws is replaced at once
            head = make_head(spec.head, spec.width, len(spec.labels))
            built = build(spec.model, seed=0).audio if spec.model is not None else None
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    load_strictly(head, _below(_HEAD, tensors), str(file))
    return Classifier(spec, _tower(spec, tensors, model, built, file), head.eval(), card)


def _tower(
    spec: ClassifierSpec,
    tensors: Mapping[str, Tensor],
    model: EchoicModel | None,
    built: AudioTower | None,
    file: Path,
) -> AudioTower:
    if built is not None:
        load_strictly(built, _below(_AUDIO, tensors), str(file))
        return built.eval()
    if model is None:
        raise CheckpointError(
            f"{file}: a head alone; open it with the model that it was trained on (space "
            f"{spec.space_id})"
        )
    if model.space_id != spec.space_id:
        raise CheckpointError(
            f"{file}: trained on the model of space {spec.space_id}, and this one is "
            f"{model.space_id}"
        )
    return model.network.audio


def _below(start: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }
