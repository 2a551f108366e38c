"""Our models in MTEB's audio tasks (MAEB): an encoder of sounds and texts.

    import echoic, mteb
    from echoic.adapters.mteb import MtebEncoder

    encoder = MtebEncoder(echoic.load("model.safetensors"), name="me/my-model")
    mteb.evaluate(encoder, mteb.get_tasks(["ESC50_Zeroshot"]))

Tried with mteb 2.26.24: its own mock tasks of sound, seven kinds, from zero-shot classification to
retrieval. Sounds and texts become unit vectors of the joint space, compared by their cosine; texts
are read as the task words them. A data set's files are decoded by echoic at their own rate, so that
a file has the vector that it has everywhere else, and neither torchcodec nor torchaudio is needed.

B items, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from echoic.api import EchoicModel
from echoic.audio.io import AudioLike
from echoic.types import ConfigError

Batch = Mapping[str, Any]


class MtebEncoder:
    """mteb's EncoderProtocol around a loaded model."""

    def __init__(self, model: EchoicModel, *, name: str = "echoic/model") -> None:
        """name: "owner/model", under which mteb keeps the results; those of other weights are kept
        apart by the revision, which is the model's space id. Raises ConfigError where mteb is not
        installed, and on another name."""
        if find_spec("mteb") is None:
            raise ConfigError("MTEB is not installed here: pip install mteb")
        if name.count("/") != 1 or not all(name.split("/")):
            raise ConfigError(f'name {name!r}: mteb wants "owner/model"')
        self.model = model
        self.mteb_model_meta = _meta(model, name)  # here, as mteb takes an error of it for none

    def encode(self, inputs: Iterable[Batch], **of_task: Any) -> np.ndarray:
        """Batches with lists under "audio", "text" or both -> (B, D) float32, unit vectors; of both
        together the direction of their mean. of_task: the task, its split, a batch size: nothing
        here hangs on them.

        Raises ConfigError where there is neither, AudioError on a sound that cannot be heard,
        CheckpointError on texts for a model of sound alone.
        """
        texts: list[str] = []
        sounds = self.model.embed_audio(_sounds(inputs, texts))
        words = self.model.embed_text(texts) if texts else sounds
        vectors = words if not len(sounds) else sounds
        if not len(vectors):
            raise ConfigError("this task gives neither sounds nor texts, and echoic reads no other")
        if len(sounds) and texts:
            vectors = F.normalize(sounds + words, dim=1)
        array: np.ndarray = vectors.numpy()
        return array

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines (B, B')."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines (B,) of each with its own."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(-1)


def _meta(model: EchoicModel, name: str) -> Any:
    """mteb's ModelMeta: what is known of the model."""
    known = {
        "name": name,
        "revision": model.space_id,
        "embed_dim": model.embed_dim,
        "n_parameters": sum(p.numel() for p in model.network.parameters()),
        "modalities": ["audio", "text"] if model.reads_text else ["audio"],
        "framework": ["PyTorch"],
        "similarity_fn_name": "cosine",
        "use_instructions": False,
    }
    return import_module("mteb.models").ModelMeta.create_empty(overwrites=known)


def _unit(vectors: Any) -> Tensor:
    return F.normalize(torch.atleast_2d(torch.as_tensor(vectors)).float(), dim=-1)


def _sounds(inputs: Iterable[Batch], texts: list[str]) -> Iterator[AudioLike]:
    """The sounds of all batches; what they hold of texts goes into `texts` on the way."""
    for batch in _undecoded(inputs):
        texts += batch.get("text", ())
        yield from map(_sound, batch.get("audio", ()))


def _undecoded(inputs: Iterable[Batch]) -> Iterable[Batch]:
    """The same batches, with the files of sounds where the data set would decode them itself."""
    features = getattr(getattr(inputs, "dataset", None), "features", None) or {}
    audio: Any = features.get("audio")
    if not (isinstance(inputs, DataLoader) and getattr(audio, "decode", False)):
        return inputs
    files: Any = inputs.dataset
    return DataLoader(
        files.cast_column("audio", replace(audio, decode=False)),
        batch_size=inputs.batch_size,
        collate_fn=inputs.collate_fn,
        num_workers=inputs.num_workers,
    )


def _sound(item: Any) -> AudioLike:
    """An item of mteb's as echoic takes it: {"bytes", "path"} of a file, or {"array",
    "sampling_rate"}, which a decoder of `datasets` answers as well."""
    if isinstance(item, Mapping) and "array" not in item:
        content: AudioLike = item["path"] if item.get("bytes") is None else item["bytes"]
        return content
    return np.asarray(item["array"]), int(item["sampling_rate"])
