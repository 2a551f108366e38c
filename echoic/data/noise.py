"""Background noise for M2D-X (2404.06095): crops of a source's clips, each a pure function
of a seed.

T samples.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np

from echoic.data.clips import LONG_S, Source, check_audio, read_window
from echoic.types import AudioError, DataError

log = logging.getLogger("echoic.data")

_TRIED = 50
_NOISE = 0x6E6F697365  # a stream of draws of its own, whoever else draws from the same seed


class Noise:
    """Crops of a source's clips, at random places, at `rate_hz`.

    cache_bytes: how much decoded audio to keep in memory; whether a clip is there changes no
    sample. threads: readers at work. bad: clip key -> reason, of clips met that cannot be used;
    each is told once, and another is drawn in its place.

    Raises DataError on a source without clips.
    """

    def __init__(
        self, source: Source, rate_hz: int, *, cache_bytes: int = 1 << 30, threads: int = 1
    ) -> None:
        if not source.clips:
            raise DataError("the background noise has no clips")
        self.source, self.rate_hz, self.threads = source, rate_hz, threads
        self.bad: dict[str, str] = {}
        self._held: dict[int, np.ndarray] = {}
        self._room, self._lock = cache_bytes, Lock()

    def crop(self, seed: int, lengths: Sequence[int]) -> list[np.ndarray]:
        """Noise of so many samples each, (T,) float32, drawn from the seed; a clip that is shorter
        is repeated. Raises DataError where no usable clip is found."""
        rows = range(len(lengths))
        if self.threads == 1:
            return [self._crop(seed, row, lengths[row]) for row in rows]
        with ThreadPoolExecutor(self.threads, thread_name_prefix="echoic-noise") as pool:
            return list(pool.map(lambda row: self._crop(seed, row, lengths[row]), rows))

    def _crop(self, seed: int, row: int, samples: int) -> np.ndarray:
        """What it draws hangs on (seed, row) and the clips alone, not on what was met before."""
        rng = np.random.default_rng([seed, row, _NOISE])
        for _ in range(_TRIED):
            i = int(rng.integers(len(self.source.clips)))
            place = rng.uniform()
            try:
                return np.resize(self._cut(i, place, samples), samples)
            except AudioError as error:
                self._note(i, error.reason)
        known = "; ".join(f"{key}: {reason}" for key, reason in list(self.bad.items())[:3])
        raise DataError(f"background noise: {_TRIED} clips drawn in a row are unusable ({known})")

    def _cut(self, i: int, place: float, samples: int) -> np.ndarray:
        """At most so many samples of clip i, (T,). place: from 0, at its start, to 1, at its end.
        Raises AudioError."""
        clip, wanted_s = self.source.clips[i], samples / self.rate_hz
        if clip.duration_s is not None and clip.duration_s > max(LONG_S, wanted_s):
            start_s = place * (clip.duration_s - wanted_s)
            audio = read_window(self.source, i, self.rate_hz, start_s, wanted_s)
            check_audio(clip.key, audio)
            return audio
        audio = self._whole(i)
        latest = max(0, len(audio) - samples)
        first = min(int(place * (latest + 1)), latest)
        return audio[first : first + samples]

    def _whole(self, i: int) -> np.ndarray:
        audio = self._held.get(i)
        if audio is None:
            audio = self.source.read(i, self.rate_hz)
            check_audio(self.source.clips[i].key, audio)
            with self._lock:
                if i not in self._held and audio.nbytes <= self._room:
                    self._held[i] = audio
                    self._room -= audio.nbytes
        return audio

    def _note(self, i: int, reason: str) -> None:
        key = self.source.clips[i].key
        with self._lock:
            if key not in self.bad:
                self.bad[key] = reason
                log.warning("noise clip %s skipped: %s", key, reason)
