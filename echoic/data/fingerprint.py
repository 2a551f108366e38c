"""Fingerprints of recordings: is this sound in that one, louder or softer, coded by another codec,
shifted or cut?

Two steps. Landmarks find candidates: at each moment that is the loudest within 0.13 s, the log-mel
spectrogram about it without its mean by band and by step, so that neither level nor timbre counts
but what happens where (as in Haitsma and Kalker 2002, whose bits are the signs of such
differences). They lie at the same moments of the sound in every copy, so two copies need no common
grid. Then the samples decide: how alike they are at the lag that the landmarks state, with loud
frequencies softened (half way to the phase transform, Knapp and Carter 1976), as two tones of one
pitch are alike in their samples and not in what lies between.

T samples, N frames, F bands, L landmarks, V = steps · F numbers of a landmark.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from echoic.audio.frontend import FrontEnd, FrontEndSpec

RATE_HZ = 16_000
CANDIDATE = 0.75  # the least cosine of two landmarks that are looked at
_BAND_HZ = (100.0, 4000.0)  # what codecs keep, and what a file at 8 kHz has
_HOP = 256
_AROUND = 12  # frames before and after a landmark: 0.19 s
_APART = 8  # frames before and after in which it is the loudest: 0.13 s
_FRAMES_PER_STEP = 3
_DEPTH_DB = 50.0  # below the loudest of a landmark all is equal, so that padding is
_REACH = 3 * _HOP  # samples, about the lag that landmarks state
_SHORTEST_S = 0.1  # of what two recordings share
_PLACES = 3  # of a pair of recordings that are looked at
_BLOCK = 2048  # landmarks at once: 16 MB of cosines


@dataclass(frozen=True)
class Landmarks:
    """at: (L,) int64 in samples; vectors: (L, V) float16, each of length one."""

    at: np.ndarray
    vectors: np.ndarray


NO_LANDMARKS = Landmarks(np.zeros(0, np.int64), np.zeros((0, 1), np.float16))


@dataclass(frozen=True)
class Match:
    """Two landmarks that are alike: of recording `first` and `second`, `lag` samples later in the
    first."""

    first: int
    second: int
    lag: int
    cosine: float


def sound_digest(audio: np.ndarray) -> bytes:
    """(T,) in ±1 -> what equals for the same samples of 16 bits, whatever file they lay in."""
    whole = np.rint(np.clip(audio * 32768.0, -32768.0, 32767.0)).astype("<i2")
    return hashlib.blake2b(whole.tobytes(), digest_size=16).digest()


@cache
def _front_end() -> FrontEnd:
    low, high = _BAND_HZ
    spec = FrontEndSpec(
        rate_hz=RATE_HZ, n_fft=1024, win_samples=1024, hop_samples=_HOP, mel_bins=18, fmin_hz=low,
        fmax_hz=high, mel_scale="htk", mel_norm="none", log="db", floor=1e-10,
    )  # fmt: skip
    return FrontEnd(spec)


def landmarks(audio: np.ndarray) -> Landmarks:
    """(T,) at RATE_HZ -> its landmarks, two to five in a second, at least one."""
    padded = np.pad(np.asarray(audio, np.float32), _AROUND * _HOP)
    with torch.inference_mode():
        frames = _front_end().of_clips([torch.from_numpy(padded)])
    bands_db = frames.values.numpy()  # (N + 2 · _AROUND, F)
    at = _peaks(_loudness_db(bands_db)[_AROUND:-_AROUND])
    about = np.stack([bands_db[i : i + 2 * _AROUND] for i in at])  # (L, 2 · _AROUND, F)
    about = np.maximum(about, about.max((1, 2), keepdims=True) - _DEPTH_DB)
    steps = about.reshape(len(at), -1, _FRAMES_PER_STEP, about.shape[2]).mean(2)
    steps = steps - steps.mean(1, keepdims=True)
    steps = steps - steps.mean(2, keepdims=True)
    vectors = steps.reshape(len(at), -1)
    size = np.linalg.norm(vectors, axis=1, keepdims=True)
    return Landmarks(at * _HOP, (vectors / np.maximum(size, 1e-6)).astype(np.float16))


def _loudness_db(bands_db: np.ndarray) -> np.ndarray:
    """(N, F) -> (N,), of all bands, smooth over 0.1 s."""
    power = (10 ** (bands_db / 10)).sum(1)
    window = np.hanning(9)[1:-1]
    return np.convolve(np.pad(10 * np.log10(power), 3, mode="edge"), window / window.sum(), "valid")


def _peaks(loudness: np.ndarray) -> np.ndarray:
    """(N,) -> the frames that are the loudest within _APART; of equals in a row the first."""
    padded = np.pad(loudness, _APART, constant_values=-np.inf)
    loudest = np.lib.stride_tricks.sliding_window_view(padded, 2 * _APART + 1).max(1)
    at = np.flatnonzero(loudness >= loudest)
    return at[np.diff(at, prepend=-_APART - 1) > _APART]


class LandmarkIndex:
    """The landmarks of many recordings, to be searched with those of others. 1 kB a second."""

    def __init__(self, of: Sequence[Landmarks]) -> None:
        self._at, self._owner, self._vectors = _joined(of)

    def matches(self, of: Sequence[Landmarks]) -> Iterator[list[Match]]:
        """The most alike landmarks, three at most, of each pair of recordings that has some: the
        first of `of`, the second of the index. The memory is that of _BLOCK² cosines."""
        at, owner, vectors = _joined(of)
        found: dict[tuple[int, int], list[Match]] = {}
        for start in range(0, len(at), _BLOCK):
            queries = vectors[start : start + _BLOCK].astype(np.float32)
            for low in range(0, len(self._at), _BLOCK):
                cosines = queries @ self._vectors[low : low + _BLOCK].astype(np.float32).T
                for i, j in np.argwhere(cosines > CANDIDATE):
                    a, b = start + i, low + j
                    match = Match(
                        int(owner[a]), int(self._owner[b]), int(at[a] - self._at[b]),
                        float(cosines[i, j]),
                    )  # fmt: skip
                    _keep_best(found.setdefault((match.first, match.second), []), match)
        yield from found.values()


def _joined(of: Sequence[Landmarks]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place, recording and vector of all landmarks."""
    counts = [len(each.at) for each in of]
    if not counts:
        return NO_LANDMARKS.at, NO_LANDMARKS.at, NO_LANDMARKS.vectors
    at = np.concatenate([each.at for each in of])
    owner = np.repeat(np.arange(len(of)), counts)
    return at, owner, np.concatenate([each.vectors for each in of])


def _keep_best(kept: list[Match], match: Match) -> None:
    """Add a match; of the same lag only the better, and _PLACES at most."""
    same = [other for other in kept if abs(other.lag - match.lag) <= _HOP]
    if any(other.cosine >= match.cosine for other in same):
        return
    kept[:] = sorted(
        [*(other for other in kept if other not in same), match], key=lambda m: -m.cosine
    )[:_PLACES]


def likeness(first: np.ndarray, second: np.ndarray, lag: int) -> float:
    """How alike (T,) and (T',) are where they overlap, the first being `lag` samples later: 1 for
    the same sound at any level, about 0 for another."""
    begin, begin_second = max(0, lag), max(0, -lag)
    length = min(len(first) - begin, len(second) - begin_second)
    if length < _SHORTEST_S * RATE_HZ:
        return 0.0
    size = 1 << (length + _REACH - 1).bit_length()
    a = _softened(first[begin : begin + length], size)
    b = _softened(second[begin_second : begin_second + length], size)
    energy = float((np.abs(a) ** 2).sum() * (np.abs(b) ** 2).sum())
    if energy <= 0:
        return 0.0
    together = np.fft.irfft(a * b.conj(), size)
    near = max(together[: _REACH + 1].max(), together[-_REACH:].max())
    return float(near * size / 2 / np.sqrt(energy))


def _softened(audio: np.ndarray, size: int) -> np.ndarray:
    """(T,) -> its spectrum within _BAND_HZ, each bin as the root of its magnitude."""
    spectrum = np.fft.rfft(audio, size)
    hz = np.fft.rfftfreq(size, 1 / RATE_HZ)
    spectrum[(hz < _BAND_HZ[0]) | (hz > _BAND_HZ[1])] = 0
    return spectrum / np.sqrt(np.maximum(np.abs(spectrum), 1e-12))
