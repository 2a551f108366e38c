"""Sources for trainings that are compared: sound decoded once for all of them, and filled up to one
length as a model of fixed length hears it.

T samples.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from echoic.audio.views import crop_start
from echoic.data.clips import Clip, Source


class HeldSource:
    """The clips of a source, their sound in one file that is mapped into memory: decoded or
    rendered once, also for several processes. folder: where the file lies, or is written."""

    def __init__(self, source: Source, folder: Path, rate_hz: int) -> None:
        self.clips: Sequence[Clip] = source.clips
        self.rate_hz = rate_hz
        names = "\n".join(f"{clip.key} {clip.duration_s}" for clip in source.clips)
        self.digest = hashlib.sha256(f"{rate_hz}\n{names}".encode()).hexdigest()[:12]
        samples, lengths = (folder / f"{self.digest}.{end}" for end in ("f32", "npy"))
        if not lengths.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _write(source, samples, lengths, rate_hz)
        self._ends = np.load(lengths).cumsum()
        self._samples = np.asarray(np.memmap(samples, np.float32, "r"))

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        if rate_hz != self.rate_hz:
            raise ValueError(f"held at {self.rate_hz} Hz, asked for at {rate_hz}")
        start = self._ends[i - 1] if i else 0
        return self._samples[start : self._ends[i]]


def _write(source: Source, samples: Path, lengths: Path, rate_hz: int) -> None:
    """Whole or not at all; of two processes that write the same, either file is right."""
    parts = [path.with_name(f".{path.name}.{os.getpid()}.part") for path in (samples, lengths)]
    found = []
    with parts[0].open("wb") as file:
        for i in range(len(source.clips)):
            wave = source.read(i, rate_hz)
            wave.astype(np.float32, copy=False).tofile(file)
            found.append(len(wave))
    with parts[1].open("wb") as file:
        np.save(file, np.array(found))
    parts[0].replace(samples)
    parts[1].replace(lengths)  # last: where it lies, all is there


class FilledSource:
    """The clips of a source for a model of fixed length: a shorter one is followed by silence. Of a
    longer one the loader takes a window, drawn anew each epoch."""

    def __init__(self, source: Source, seconds: float) -> None:
        self.source, self.seconds = source, seconds
        self.clips: Sequence[Clip] = tuple(
            replace(clip, duration_s=max(seconds, clip.duration_s or 0.0)) for clip in source.clips
        )

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        return filled(self.source.read(i, rate_hz), round(self.seconds * rate_hz))


def filled(wave: np.ndarray, samples: int) -> np.ndarray:
    """(T,) with silence after it, of `samples` at least."""
    return np.pad(wave, (0, max(0, samples - len(wave))))


def at_length(wave: np.ndarray, samples: int) -> np.ndarray:
    """(T,) -> (samples,): filled, or the middle of it."""
    start = crop_start(len(wave), samples, None)
    return filled(wave, samples)[start : start + samples]
