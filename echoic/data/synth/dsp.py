"""Building blocks of synthesis, in plain numpy: shaped noise, additive, modal, Karplus-Strong,
Doppler, room, level.

A recipe calls these through a `Take` (take.py), which supplies the rate, the length and the random
draws. Filters are magnitudes applied by FFT, so none needs a loop over samples; a magnitude
("gain") is a function of frequency. Everything is a pure function of its arguments.

Shape legend: T samples, K partials or modes, G grains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Gain = Callable[[Array], Array]  # frequency in Hz -> linear magnitude

SOUND_SPEED_MPS = 343.0
ACTIVE_RANGE_DB = 20.0  # frames this far below the loudest count as pauses, not as the sound
LEVEL_FRAME_S = 0.05


# ---------------------------------------------------------------- gains


def band(low_hz: float, high_hz: float, order: int = 2) -> Gain:
    """Butterworth magnitude of a band-pass, 6 * `order` dB per octave on either side; low_hz 0 is a
    low-pass.
    """

    def gain(hz: Array) -> Array:
        safe = np.maximum(hz, 1.0)
        fall = 1.0 + (low_hz / safe) ** (2 * order) + (safe / high_hz) ** (2 * order)
        return 1.0 / np.sqrt(fall)

    return gain


def peaks(*formants: tuple[float, float, float]) -> Gain:
    """A sum of resonances (centre_hz, width_hz, linear height), as of a throat or a body."""

    def gain(hz: Array) -> Array:
        total = np.full_like(hz, 1e-3)
        for centre_hz, width_hz, height in formants:
            total += height / (1.0 + ((hz - centre_hz) / (0.5 * width_hz)) ** 2)
        return total

    return gain


def fast_length(n: int) -> int:
    """The smallest m * 2^k >= n with m in {4, 5, 6}: a length at which an FFT is quick."""
    n = max(n, 16)
    return min(m << max(0, int(np.ceil(np.log2(n / m)))) for m in (4, 5, 6))


def _bins_hz(size: int, rate_hz: int) -> Array:
    return np.arange(size // 2 + 1, dtype=np.float64) * (rate_hz / size)


def shaped_noise(n: int, rate_hz: int, gain: Gain, rng: np.random.Generator) -> Array:
    """(n,) Gaussian noise with spectrum `gain`, unit RMS: drawn as a spectrum, one inverse FFT."""
    size = fast_length(n)
    hz = _bins_hz(size, rate_hz)
    draws = rng.standard_normal((2, hz.size), dtype=np.float32).astype(np.float64)
    return unit_rms(np.fft.irfft(gain(hz) * (draws[0] + 1j * draws[1]), size)[:n])


def filtered(x: Array, rate_hz: int, gain: Gain) -> Array:
    """(T,) -> (T,), zero phase; padded so that the end does not leak into the start."""
    size = fast_length(x.size + rate_hz // 20)
    spectrum = np.fft.rfft(x, size) * gain(_bins_hz(size, rate_hz))
    return np.fft.irfft(spectrum, size)[: x.size]


def convolved(x: Array, kernel: Array) -> Array:
    """(T,) * (K,) -> (T,): causal convolution, cut to the length of `x`."""
    size = fast_length(x.size + kernel.size)
    return np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(kernel, size), size)[: x.size]


# ---------------------------------------------------------------- sources


def harmonics(f0_hz: Array, weights: Sequence[float] | Array, rate_hz: int) -> Array:
    """Additive: sum over k of weights[k-1] * sin(k * phase), f0_hz (T,) -> (T,).

    Only two transcendental functions per sample: sin(k p) = 2 cos(p) sin((k-1) p) - sin((k-2) p).
    Partials above 0.46 of the rate are left out, so nothing aliases.
    """
    phase = 2.0 * np.pi * np.cumsum(f0_hz) / rate_hz
    twice_cos, previous, current = 2.0 * np.cos(phase), np.zeros_like(phase), np.sin(phase)
    low_hz, high_hz, ceiling_hz = float(f0_hz.min()), float(f0_hz.max()), 0.46 * rate_hz
    total = np.zeros_like(phase)
    for k, weight in enumerate(weights, start=1):
        if k * low_hz > ceiling_hz:
            break
        audible = 1.0 if k * high_hz <= ceiling_hz else (k * f0_hz <= ceiling_hz)
        total += weight * audible * current
        previous, current = current, twice_cos * current - previous
    return total


def rolloff(count: int, power: float, odd_only: bool = False) -> Array:
    """(count,) partial weights k^-power; odd_only leaves a square-like (hollow) tone."""
    k = np.arange(1, count + 1, dtype=np.float64)
    return k**-power * (k % 2 if odd_only else 1.0)


def modes(
    n: int,
    rate_hz: int,
    hz: Sequence[float] | Array,
    decay_s: Sequence[float] | Array,
    gain: Sequence[float] | Array,
) -> Array:
    """Modal synthesis of a struck body: (n,) sum of decaying sines; decay_s is the time to fall by
    60 dB.
    """
    t = np.arange(n) / rate_hz
    total = np.zeros(n)
    for f, d, a in zip(hz, decay_s, gain, strict=True):
        if f < 0.46 * rate_hz:
            last = min(n, int(1.2 * d * rate_hz) + 1)
            total[:last] += a * np.exp(-6.91 / d * t[:last]) * np.sin(2.0 * np.pi * f * t[:last])
    return total


def karplus_strong(n: int, rate_hz: int, hz: float, decay_s: float, burst: Array) -> Array:
    """A plucked string: `burst` circulates in a delay line that averages two neighbours (n,).

    One vector operation per period, for a sample depends only on the period before it. The pitch is
    rounded to a whole delay (at 16 kHz under 20 cents off below 400 Hz).
    """
    delay = max(2, round(rate_hz / hz - 0.5))
    loss = 0.5 * 10.0 ** (-3.0 / (hz * decay_s))
    line = np.zeros(n + 2 * delay + 1)  # one sample of silence ahead of the burst
    line[1 : 1 + delay] = np.resize(burst, delay)
    for at in range(1 + delay, n + 1, delay):
        line[at : at + delay] = loss * (line[at - delay : at] + line[at - delay - 1 : at - 1])
    return line[1 : 1 + n]


def doppler(x: Array, rate_hz: int, speed_mps: float, closest_m: float) -> Array:
    """(T,) as heard beside a straight road: it passes at mid-length; delay d/c, level 1/d."""
    t = np.arange(x.size) / rate_hz
    distance_m = np.hypot(closest_m, speed_mps * (t - 0.5 * t[-1]))
    heard_at = t - (distance_m - distance_m.max()) / SOUND_SPEED_MPS
    return np.interp(heard_at, t, x) * closest_m / distance_m


# ---------------------------------------------------------------- envelopes


def envelope(n: int, points: Sequence[tuple[float, float]]) -> Array:
    """(n,) straight lines through (place in 0..1, value) points."""
    places, values = zip(*points, strict=True)
    return np.interp(np.linspace(0.0, 1.0, n), places, values)


def decay(n: int, rate_hz: int, seconds: float, attack_s: float = 0.001) -> Array:
    """(n,) a quick attack, then an exponential fall by 60 dB in `seconds`."""
    t = np.arange(n) / rate_hz
    return np.minimum(1.0, t / attack_s) * np.exp(-6.91 / seconds * t)


def gate(n: int, rate_hz: int, edge_s: float = 0.01) -> Array:
    """(n,) one, with raised-cosine edges of `edge_s`."""
    edge = min(max(1, int(edge_s * rate_hz)), n // 2)
    shape = np.ones(n)
    if edge:
        ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
        shape[:edge], shape[n - edge :] = ramp, ramp[::-1]
    return shape


def place(n: int, starts: Sequence[int] | npt.NDArray[np.int64], grains: Sequence[Array]) -> Array:
    """(n,) the G grains added in at their start samples; what hangs over the end is cut."""
    total = np.zeros(n)
    for start, grain in zip(starts, grains, strict=True):
        piece = grain[: max(0, n - start)]
        total[start : start + piece.size] += piece
    return total


# ---------------------------------------------------------------- room and level


def reverberated(
    x: Array, rate_hz: int, decay_s: float, wet: float, rng: np.random.Generator
) -> Array:
    """(T,) with a diffuse tail: noise that falls by 60 dB in `decay_s`, `wet` of the energy, cut at
    T.
    """
    n = min(x.size, max(2, int(decay_s * rate_hz)))
    tail = rng.standard_normal(n) * np.exp(-6.91 / n * np.arange(n))
    tail *= np.sqrt(wet / np.sum(tail**2))
    tail[0] += np.sqrt(1.0 - wet)
    return convolved(x, tail)


def unit_rms(x: Array) -> Array:
    return np.asarray(x / max(float(np.sqrt(np.mean(x**2))), 1e-12), dtype=np.float64)


def active_level_db(x: Array, rate_hz: int) -> float:
    """RMS in dB re full scale over the 50 ms frames within 20 dB of the loudest: pauses do not
    count.
    """
    frame = max(1, int(LEVEL_FRAME_S * rate_hz))
    padded = np.zeros(-(-x.size // frame) * frame)
    padded[: x.size] = x
    power = np.mean(padded.reshape(-1, frame) ** 2, axis=1)
    active = power[power >= power.max() * 10.0 ** (-ACTIVE_RANGE_DB / 10.0)]
    return 10.0 * float(np.log10(max(float(active.mean()), 1e-20)))


def limited(x: Array, knee: float = 0.4, ceiling: float = 0.6) -> Array:
    """(T,) unchanged up to `knee`, bent smoothly so that it never reaches `ceiling`."""
    over = np.abs(x) - knee
    if not (over > 0.0).any():
        return x
    room = ceiling - knee
    return np.where(over > 0.0, np.sign(x) * (knee + room * np.tanh(over / room)), x)
