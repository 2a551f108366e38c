"""`SentenceTransformer.encode` for sounds and texts, by the arguments of sentence-transformers.

    from echoic.compat.sentence_transformers import SentenceTransformer

    model = SentenceTransformer("runs/demo")
    model.encode(["rain on a roof", Path("rain.wav")])       # (2, D)

A str is a text; a Path, bytes, an array at the model's rate, (array, rate_hz) and
{"array": ..., "sampling_rate": ...} are sounds; a list may hold both. Vectors always have length 1,
so `normalize_embeddings` changes nothing. N items, T samples, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echoic.api import EchoicModel, load
from echoic.items import as_items
from echoic.types import DataError


class SentenceTransformer:
    """model_name_or_path: what `echoic.load` opens, or an opened model. options: of
    `echoic.load`."""

    def __init__(
        self, model_name_or_path: str | Path | EchoicModel, device: str = "cpu", **options: Any
    ) -> None:
        if not isinstance(model_name_or_path, EchoicModel):
            model_name_or_path = load(model_name_or_path, device=device, **options)
        self.model = model_name_or_path

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def max_seq_length(self) -> int:
        """Where texts are cut, in tokens."""
        return self.model.network.spec.max_tokens

    def get_sentence_embedding_dimension(self) -> int:
        return self.model.embed_dim

    get_embedding_dimension = get_sentence_embedding_dimension

    def encode(
        self,
        sentences: Any,
        batch_size: int = 32,
        show_progress_bar: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
    ) -> Any:
        """One item -> (D,), a list of them -> (N, D): an array, a tensor, or, with neither asked
        for, a list of tensors; float32, on the CPU. A tuple of an array and a rate is one item.

        batch_size: items between two steps of the bar; how many are computed at once the model
        knows. Raises DataError on a str that is the name of a file, AudioError, CheckpointError.
        """
        if batch_size < 1:
            raise DataError(f"batch_size {batch_size}: must be 1 or more")
        if isinstance(sentences, np.ndarray) and sentences.dtype.kind in "UO":
            sentences = sentences.tolist()  # of strings, and no samples
        alone = isinstance(sentences, dict) or as_items(sentences) is not sentences
        items = [sentences] if alone else list(sentences)
        rows = torch.empty(len(items), self.model.embed_dim)
        for part in _batches(items, batch_size, shown=show_progress_bar):
            self._encode(items, part, rows)
        result: Any = rows[0] if alone else rows
        if convert_to_tensor:
            return result
        if convert_to_numpy:
            return result.numpy()
        return result if alone else list(rows)

    def _encode(self, items: list[Any], part: range, rows: Tensor) -> None:
        texts = [i for i in part if isinstance(items[i], str)]
        sounds = [i for i in part if not isinstance(items[i], str)]
        for i in texts:
            if _is_file(items[i]):
                raise DataError(f"{items[i]}: a str is read as text; for the sound give a Path")
        if texts:
            rows[texts] = self.model.embed_text([items[i] for i in texts])
        if sounds:
            rows[sounds] = self.model.embed_audio([as_sound(items[i]) for i in sounds])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines (N, M) of vectors (N, D) and (M, D)."""
        one, other = (torch.atleast_2d(torch.as_tensor(x)) for x in (embeddings1, embeddings2))
        return one @ other.T


def as_sound(item: Any) -> Any:
    """{"array" or "raw", "sampling_rate"}, as `datasets` and `transformers` have it ->
    (array, rate_hz); anything else as it is. Raises DataError."""
    if not isinstance(item, dict):
        return item
    samples = item.get("array", item.get("raw"))
    if samples is None or "sampling_rate" not in item:
        raise DataError('a sound as a dict needs "array" (or "raw") and "sampling_rate"')
    return np.asarray(samples), int(item["sampling_rate"])


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name
        return False


def _batches(items: list[Any], size: int, *, shown: bool) -> Iterator[range]:
    parts = [range(i, min(i + size, len(items))) for i in range(0, len(items), size)]
    if not shown:
        yield from parts
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(parts, description="Batches", console=Console(stderr=True))
