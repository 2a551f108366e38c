"""The model as its users meet it: sounds and words in, vectors out.

    model = echoic.load("runs/demo/model.safetensors")
    model.embed_audio(["rain.wav", "dog.mp3"])          # (2, D) unit vectors
    model.embed_text(["rain on a roof"])                # (1, D)
    model.classify("rain.wav", ["rain", "dog bark"]).top()

The same file gives the same vector, whatever it is embedded with. Recordings longer than the model
hears at once are heard in full, in windows, in constant memory. B items, D embedding width, C
labels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from echoic.audio.io import AudioLike, stream_audio
from echoic.audio.windows import stream_windows, window_weights
from echoic.convert.native import ModelFile, load_model
from echoic.data.clips import SILENCE_PEAK
from echoic.eval.zeroshot import LAION_TEMPLATE, class_vectors
from echoic.hub import find_model
from echoic.types import AudioError, AudioFeatures, EchoicError, Ragged

log = logging.getLogger("echoic.api")

# Tokens of audio in one encoder call: about 40 s, few enough that its layers stay in the cache of a
# core (at the size of nano a tenth to a fifth faster than 4096).
BATCH_TOKENS = 1024
BLOCK_S = 10.0


def load(
    path_or_name: str | Path, *, device: str = "cpu", sha256: str | None = None
) -> EchoicModel:
    """Open a model: a file, a folder that holds `model.safetensors`, or `owner/name` on the Hugging
    Face Hub.

    Raises CheckpointError where there is none, where it is damaged, or where a tensor does not fit.
    """
    return EchoicModel(load_model(find_model(path_or_name, sha256=sha256)), device=device)


@dataclass(frozen=True)
class LabelScores:
    """Scores of B items under C labels: cosines (B, C) and their softmax at the model's scale."""

    labels: tuple[str, ...]
    cosines: Tensor
    probabilities: Tensor

    def top(self, count: int = 5) -> list[list[tuple[str, float]]]:
        """For each item, the `count` likeliest labels with their probabilities, best first."""
        values, index = self.probabilities.topk(min(count, len(self.labels)), dim=1)
        return [
            [(self.labels[i], p) for i, p in zip(row_i, row_p, strict=True)]
            for row_i, row_p in zip(index.tolist(), values.tolist(), strict=True)
        ]


@dataclass
class _Heard:
    """What has been heard of one item so far: the windows and their vectors."""

    plan: list[tuple[int, int]] = field(default_factory=list)
    vectors: list[Tensor] = field(default_factory=list)

    def pooled(self) -> Tensor:
        """The mean of the windows' unit vectors in which every sample counts once, as a unit
        vector."""
        weights = torch.from_numpy(window_weights(self.plan)).float()
        return F.normalize(weights @ torch.stack(self.vectors), dim=0)


class EchoicModel:
    """A loaded model, its tokenizer and its card. Inference draws no random number."""

    def __init__(self, content: ModelFile, *, device: str | None = None) -> None:
        """device: where to move the network (the one given, not a copy); None leaves it where it
        is."""
        self.network = content.model.eval().to(device)
        self.tokenizer = content.tokenizer
        self.card: dict[str, Any] = content.card

    @property
    def device(self) -> torch.device:
        return self.network.logit_scale.device

    @property
    def rate_hz(self) -> int:
        """The sample rate that the model hears; everything given is resampled to it."""
        return self.network.audio.rate_hz

    @property
    def embed_dim(self) -> int:
        return self.network.spec.embed_dim

    @cached_property
    def space_id(self) -> str:
        """Names the space of the vectors (weights, front end, windowing): compare only within
        one."""
        return self.network.space_id()

    # -- audio ------------------------------------------------------------

    def embed_audio(
        self,
        items: AudioLike | Iterable[AudioLike],
        *,
        on_error: Callable[[int, AudioError], None] | None = None,
    ) -> Tensor:
        """One item or many -> (B, D) float32 unit vectors on the CPU.

        An item is a path, bytes, a binary file, (array, rate_hz), or an array or tensor at
        `rate_hz`. A list or another iterable holds many. on_error: called with the index and the
        error of an item that cannot be heard, whose row is then NaN; without it the error is
        raised.
        """
        rows: dict[int, Tensor] = {}
        count = 0
        for index, result in self.iter_audio(items):
            if isinstance(result, AudioError):
                if on_error is None:
                    raise result
                on_error(index, result)
                result = torch.full((self.embed_dim,), torch.nan)
            rows[index], count = result, count + 1
        return (
            torch.stack([rows[i] for i in range(count)]) if rows else torch.zeros(0, self.embed_dim)
        )

    def iter_audio(
        self, items: AudioLike | Iterable[AudioLike]
    ) -> Iterator[tuple[int, Tensor | AudioError]]:
        """(index, unit vector (D,) or the error) of each item as soon as it is known, in no fixed
        order.

        Memory does not grow with the number of items or their length.
        """
        heard: dict[int, _Heard] = {}
        batch: list[tuple[int, int, np.ndarray]] = []
        tokens = 0
        for index, start, window in self._windows(items):
            if isinstance(window, AudioError):
                batch = [entry for entry in batch if entry[0] != index]
                heard.pop(index, None)
                yield index, window
                continue
            if window is not None:
                heard.setdefault(index, _Heard())
                batch.append((index, start, window))
                tokens += self.network.audio.tokens_in(len(window) / self.rate_hz)
            if tokens >= BATCH_TOKENS:
                self._encode(batch, heard)
                batch, tokens = [], 0
                yield from self._finished(heard, unfinished=index if window is not None else None)
        self._encode(batch, heard)
        yield from self._finished(heard, unfinished=None)

    def embed_windows(
        self, item: AudioLike, *, window_s: float, hop_s: float | None = None
    ) -> Iterator[tuple[float, float, Tensor]]:
        """(start_s, stop_s, unit vector (D,)) of each window of one recording, in constant
        memory.

        Raises EchoicError unless 0 < hop_s <= window_s <= max_s of the model.
        """
        rate, longest_s = self.rate_hz, self.network.audio.max_s
        hop_s = window_s if hop_s is None else hop_s
        if not 0 < hop_s <= window_s <= longest_s:
            raise EchoicError(
                f"windows of {window_s:g} s every {hop_s:g} s: this model hears windows of up to "
                f"{longest_s:g} s, each starting before the last one ends"
            )
        cuts = stream_windows(
            stream_audio(item, rate_hz=rate, block_s=BLOCK_S),
            window_samples=max(1, round(window_s * rate)),
            hop_samples=max(1, round(hop_s * rate)),
        )
        for start, window in cuts:
            yield start / rate, (start + len(window)) / rate, self._clip_vectors([window])[0]

    @torch.no_grad()
    def audio_features(self, waves: Sequence[np.ndarray]) -> AudioFeatures:
        """Un-pooled tokens and clip vectors of waves (T,) at `rate_hz`, none longer than the model
        hears."""
        ragged = Ragged.from_rows([torch.from_numpy(wave) for wave in waves]).to(self.device)
        return self.network.audio(ragged)

    def _windows(
        self, items: AudioLike | Iterable[AudioLike]
    ) -> Iterator[tuple[int, int, np.ndarray | AudioError | None]]:
        """(index, start, samples) of each window; then (index, 0, None) at the end of the item, or
        its error."""
        length = round(self.network.audio.max_s * self.rate_hz)
        for index, item in enumerate(_as_items(items)):
            silent, name = True, _name(index, item)
            try:
                blocks = stream_audio(item, rate_hz=self.rate_hz, block_s=BLOCK_S, name=name)
                for start, window in stream_windows(
                    blocks, window_samples=length, hop_samples=length
                ):
                    silent = silent and not np.any(np.abs(window) >= SILENCE_PEAK)
                    yield index, start, window
            except AudioError as error:
                yield index, 0, error
            else:
                if silent:
                    log.warning("%s: silent; its vector says nothing", name)
                yield index, 0, None

    def _encode(self, batch: list[tuple[int, int, np.ndarray]], heard: dict[int, _Heard]) -> None:
        if not batch:
            return
        by_length = sorted(
            batch, key=lambda entry: len(entry[2])
        )  # equal lengths share attention calls
        for (index, start, window), vector in zip(
            by_length, self._clip_vectors([w for _, _, w in by_length]), strict=True
        ):
            heard[index].plan.append((start, start + len(window)))
            heard[index].vectors.append(vector)

    @torch.no_grad()
    def _clip_vectors(self, waves: Sequence[np.ndarray]) -> Tensor:
        return F.normalize(self.audio_features(waves).clip.float(), dim=-1).cpu()

    def _finished(
        self, heard: dict[int, _Heard], *, unfinished: int | None
    ) -> Iterator[tuple[int, Tensor]]:
        for index in [i for i in heard if i != unfinished]:
            yield index, heard.pop(index).pooled()

    # -- text ------------------------------------------------------------

    def embed_text(self, texts: str | Sequence[str]) -> Tensor:
        """One text or many -> (B, D) float32 unit vectors on the CPU."""
        many = [texts] if isinstance(texts, str) else list(texts)
        if not many:
            return torch.zeros(0, self.embed_dim)
        ids = self.tokenizer(many)
        vectors = [self._text_vectors(ids[i : i + 256]) for i in range(0, len(ids), 256)]
        return torch.cat(vectors)

    def embed_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ready token ids (B, L) with mask (B, L), 1 where a token stands -> (B, D) unit
        vectors."""
        rows = [row[m.bool()].tolist() for row, m in zip(ids, mask, strict=True)]
        if empty := [i for i, row in enumerate(rows) if not row]:
            raise EchoicError(f"embed_tokens: row {empty[0]} has no token")
        return self._text_vectors(rows) if rows else torch.zeros(0, self.embed_dim)

    @torch.no_grad()
    def _text_vectors(self, ids: Sequence[Sequence[int]]) -> Tensor:
        ragged = Ragged.from_rows([torch.tensor(row, dtype=torch.int64) for row in ids])
        return F.normalize(self.network.text(ragged.to(self.device)).clip.float(), dim=-1).cpu()

    # -- both ------------------------------------------------------------

    def embed_labels(
        self, labels: str | Sequence[str], templates: str | Sequence[str] = LAION_TEMPLATE
    ) -> Tensor:
        """(C, D): for each label, the mean direction of its prompts.

        Raises EchoicError where there is no label, an empty one, or a template without {label}.
        """
        return torch.from_numpy(class_vectors(self.embed_text, _named(labels), templates)).float()

    def classify(
        self,
        items: AudioLike | Iterable[AudioLike],
        labels: str | Sequence[str],
        *,
        templates: str | Sequence[str] = LAION_TEMPLATE,
    ) -> LabelScores:
        """Zero-shot classification: how well each label, put into each template, fits each item."""
        classes = self.embed_labels(labels, templates)  # first: a wrong label costs no listening
        return self._scores(self.embed_audio(items), _named(labels), classes)

    def score_labels(
        self,
        vectors: Tensor,
        labels: str | Sequence[str],
        *,
        templates: str | Sequence[str] = LAION_TEMPLATE,
    ) -> LabelScores:
        """`classify` of sounds that are already embedded (B, D)."""
        return self._scores(vectors, _named(labels), self.embed_labels(labels, templates))

    def _scores(self, vectors: Tensor, labels: list[str], classes: Tensor) -> LabelScores:
        cosines = vectors @ classes.T
        scale = self.network.logit_scale.detach().exp().cpu()
        return LabelScores(tuple(labels), cosines, (scale * cosines).softmax(dim=1))

    def similarity(
        self, items: AudioLike | Iterable[AudioLike], texts: str | Sequence[str]
    ) -> Tensor:
        """Cosines (B, texts) of sounds and texts."""
        return self.embed_audio(items) @ self.embed_text(texts).T


def _as_items(items: Any) -> Iterable[AudioLike]:
    """Many items, or one alone. A pair that ends in a number is one: (array, rate_hz)."""
    single = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Tensor)
    pair = isinstance(items, tuple) and len(items) == 2 and isinstance(items[1], Real)
    one = pair or isinstance(items, single) or hasattr(items, "read")
    return items if isinstance(items, Iterable) and not one else [items]


def _name(index: int, item: object) -> str:
    """What errors call an item: its path, or its place."""
    if isinstance(item, (str, os.PathLike)):
        return os.fsdecode(item)
    named = getattr(item, "name", None)
    return named if isinstance(named, str) else f"item {index}"


def _named(labels: str | Sequence[str]) -> list[str]:
    """One label or several, none empty. Raises EchoicError."""
    several = [labels] if isinstance(labels, str) else list(labels)
    if not several:
        raise EchoicError("no labels given")
    for i, label in enumerate(several):
        if not label.strip():
            raise EchoicError(f"label {i} is empty")
    return several
