"""Clip vectors of labelled sound for a head to learn on: of a frozen tower heard once, of one that
learns heard anew.

N clips, T samples, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from echoic.data.clips import Source, heard_or_noted
from echoic.data.loader import Loader
from echoic.data.vector_loader import VectorLoader
from echoic.embeddings import Part, cut
from echoic.finetune.reading import Reading
from echoic.objectives.tagging import BatchChange
from echoic.types import AudioFeatures, DataError, Ragged


@dataclass(frozen=True)
class Heard:
    """vectors: (N, D) of the clips `kept`, by index."""

    kept: list[int]
    vectors: Tensor


class Waves:
    """The clips of a source that can be heard, decoded, and kept as far as the memory allows.

    clip_s: of each clip the first part, padded with zeros to this length; then silence is heard
    like any other sound, as it may be no more than the beginning. None: clips as they are.
    bad: key -> reason, of the others met so far; each is named once in the log.
    """

    def __init__(
        self, source: Source, rate_hz: int, limit_bytes: int = 0, clip_s: float | None = None
    ) -> None:
        self.source, self.rate_hz, self.bad = source, rate_hz, dict[str, str]()
        self.clip_s = clip_s
        self._room, self._held = limit_bytes, dict[int, np.ndarray]()

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        for i, clip in enumerate(self.source.clips):
            if i in self._held:
                yield i, self._held[i]
            elif clip.key not in self.bad and (wave := self._wave(i)) is not None:
                if wave.nbytes <= self._room:
                    self._held[i] = wave
                    self._room -= wave.nbytes
                yield i, wave

    def _wave(self, i: int) -> np.ndarray | None:
        """None where it cannot be heard, which is put into `bad`."""
        silence = self.clip_s is not None
        wave = heard_or_noted(self.source, i, self.rate_hz, self.bad, silence=silence)
        if wave is None or self.clip_s is None:
            return wave
        part = fitted(wave, self.rate_hz, self.clip_s)
        # a view would keep the whole recording in memory
        return part.copy() if len(part) < len(wave) else part


def fitted(wave: np.ndarray, rate_hz: int, clip_s: float) -> np.ndarray:
    """The first `clip_s` of a wave (T,), zeros at the end of a shorter one."""
    return cut(wave, Part(0, round(clip_s * rate_hz)))


def hear(reading: Reading, waves: Waves) -> Heard:
    """Raises DataError where nothing can be heard."""
    kept: list[int] = []

    def each() -> Iterator[np.ndarray]:
        for i, wave in waves:
            kept.append(i)
            yield wave

    vectors = reading.vectors(each())
    if not kept:
        raise DataError(f"none of {len(waves.source.clips)} clips can be heard")
    return Heard(kept, vectors)


class Ears(Protocol):
    """How a task hears: `audio` in training, from the batches of `loader`; `hear` in evaluation."""

    @property
    def audio(self) -> nn.Module: ...
    @property
    def loader(self) -> Loader | VectorLoader: ...
    @property
    def bad(self) -> dict[str, str]: ...
    def hear(self, split: str) -> Heard: ...


class Tuned:
    """A tower that learns on the batches of `loader`; other splits are heard anew each time.

    cache_bytes: of their decoded sound to keep, for each. clip_s: see `Waves`.
    """

    def __init__(
        self,
        audio: Reading,
        loader: Loader,
        others: Mapping[str, Source],
        *,
        cache_bytes: int,
        clip_s: float | None = None,
    ) -> None:
        self.audio, self.loader = audio, loader
        self._waves = {
            name: Waves(source, audio.rate_hz, cache_bytes, clip_s)
            for name, source in others.items()
        }

    @property
    def bad(self) -> dict[str, str]:
        met = [self.loader.bad, *(waves.bad for waves in self._waves.values())]
        return {key: why for each in met for key, why in each.items()}

    def hear(self, split: str) -> Heard:
        return hear(self.audio, self._waves[split])


class Frozen:
    """A tower that is heard once: a probe learns on its vectors, and takes seconds.

    min_clips: of a batch. clip_s: see `Waves`. Raises DataError where more than `max_bad_share` of
    the training clips cannot be heard.
    """

    def __init__(
        self,
        reading: Reading,
        splits: Mapping[str, Source],
        *,
        batch_clips: int,
        min_clips: int,
        seed: int,
        max_bad_share: float,
        clip_s: float | None = None,
    ) -> None:
        self.audio: nn.Module = _Given()
        waves = {
            name: Waves(source, reading.rate_hz, clip_s=clip_s) for name, source in splits.items()
        }
        self._heard = {name: hear(reading.eval(), each) for name, each in waves.items()}
        self.bad = {key: why for each in waves.values() for key, why in each.bad.items()}
        clips, kept = splits["train"].clips, self._heard["train"].kept
        if len(kept) < (1 - max_bad_share) * len(clips):
            key, why = next(iter(waves["train"].bad.items()))
            raise DataError(
                f"{len(clips) - len(kept)} of {len(clips)} training clips are unusable, more than "
                f"the allowed {max_bad_share:.3g} of all: {key}: {why}"
            )
        self.loader = VectorLoader(
            [clips[i].key for i in kept],
            self._heard["train"].vectors,
            batch_clips=batch_clips,
            min_clips=min_clips,
            seed=seed,
        )

    def hear(self, split: str) -> Heard:
        return self._heard[split]


class _Given(nn.Module):
    """Stands for a tower that was heard before: its "samples" are clip vectors (B, D)."""

    def forward(self, audio: Ragged, change: BatchChange | None = None) -> AudioFeatures:
        times = torch.zeros(len(audio))
        return AudioFeatures(audio.values, audio.offsets, times, audio.values)
