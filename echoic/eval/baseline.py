"""The plain baseline that a model must beat: log-mel statistics, then `probe.ridge_probe`.

Kept in numpy and apart from the front ends on purpose: it shares no code with its rivals.

Shapes: T samples, F mel bins, N frames, S time segments.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from echoic.eval.ranks import Floats

RATE_HZ = 16_000
WINDOW_SAMPLES = 512
HOP_SAMPLES = 160
MEL_BINS = 40
PENALTY = 300.0
# Against the loudest frame of the clip. Of -20 to -200 the best on speech, and as good on the rest:
# a baseline that is made weak proves nothing.
_SILENCE_DB = -30.0
_FLOOR = 1e-5


def baseline_features(wave: ArrayLike, rate_hz: int = RATE_HZ, *, segments: int = 3) -> Floats:
    """Per band: mean, deviation, deviation of the frame difference, 90th percentile, S time means.

    wave: (T,) mono at 16 kHz, T >= 1. Frames more than 30 dB below the clip's loudest are left out.
    Returns ((4 + S) * 40,). Raises ValueError on another rate or shape.
    """
    samples = np.asarray(wave, dtype=np.float64)
    if rate_hz != RATE_HZ:
        raise ValueError(f"the baseline is defined at {RATE_HZ} Hz, got {rate_hz}; resample first")
    if samples.ndim != 1 or not len(samples) or segments < 1:
        raise ValueError(
            f"need a mono wave (T,) and segments >= 1, got {samples.shape}, {segments}"
        )
    frames = _log_mel(samples)
    step = np.diff(frames, axis=0, prepend=frames[:1])
    edges = np.linspace(0, len(frames), segments + 1)
    parts = [
        frames[int(a) : max(int(np.ceil(b)), int(a) + 1)].mean(axis=0) for a, b in pairwise(edges)
    ]
    loud = np.quantile(frames, 0.9, axis=0)
    return np.concatenate([frames.mean(axis=0), frames.std(axis=0), step.std(axis=0), loud, *parts])


def _log_mel(samples: Floats) -> Floats:
    """(N, F) natural log of mel power, silent frames left out."""
    padded = np.pad(samples, (0, max(0, WINDOW_SAMPLES - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW_SAMPLES + 1)[:-1], axis=1)) ** 2
    energy = power.sum(axis=1)
    heard = power[energy >= energy.max() * 10 ** (_SILENCE_DB / 10)]
    return np.log(heard @ _mel_bank().T + _FLOOR)


@lru_cache(maxsize=1)
def _mel_bank() -> Floats:
    """(F, WINDOW_SAMPLES / 2 + 1) triangles, evenly spaced on the mel scale of O'Shaughnessy, 0 Hz
    to Nyquist.
    """
    top_mel = 2595 * np.log10(1 + RATE_HZ / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, top_mel, MEL_BINS + 2) / 2595) - 1)
    bins_hz = np.linspace(0, RATE_HZ / 2, WINDOW_SAMPLES // 2 + 1)
    low, mid, high = (corners_hz[i : i + MEL_BINS, None] for i in range(3))
    return np.maximum(0, np.minimum((bins_hz - low) / (mid - low), (high - bins_hz) / (high - mid)))
