"""A take: one performance of a sound class, with the random draws that its recipe asks for.

Parameters and noise come from two generators, so the same take at another sampling rate keeps its
parameters. A parameter is drawn from cells of its range: the range is cut into 24 cells, of which
train, valid and test own disjoint sets. A pitch or a tempo in test was therefore never heard in
train.

Shape legend: T samples of the take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from echoic.data.synth import dsp
from echoic.data.synth.dsp import Array, Gain

CELLS = 24
LEAD_S = 0.006  # a grain starts this late: the fade at the edge of an event spares the first one
_HELD_OUT = {"valid": (6, 13, 21), "test": (3, 10, 18)}
CELLS_OF: dict[str, tuple[int, ...]] = {
    "train": tuple(c for c in range(CELLS) if all(c not in held for held in _HELD_OUT.values())),
    **_HELD_OUT,
}
_THIRDS = {"lower": range(8), "middle": range(8, 16), "upper": range(16, 24)}


class Take:
    """rate_hz, n samples, the attributes to perform, and the draws; handed to every recipe."""

    def __init__(
        self,
        seed: np.random.SeedSequence,
        duration_s: float,
        rate_hz: int,
        attributes: Sequence[str] = (),
        split: str = "train",
    ) -> None:
        parameters, noise = seed.spawn(2)
        self.rng = np.random.default_rng(parameters)  # counts, times, choices: alike at every rate
        self._noise_rng = np.random.default_rng(noise)
        self.duration_s, self.rate_hz = duration_s, rate_hz
        self.n = max(1, round(duration_s * rate_hz))
        self.attributes, self.split = tuple(attributes), split
        self.units: list[float] = []  # every parameter drawn, as a place in 0..1 of its range
        self.performed: set[str] = set()  # the axes that the recipe looked at

    # ------------------------------------------------------------ parameters

    def _unit(self, third: str | None = None) -> float:
        cells = CELLS_OF[self.split]
        if third:
            cells = tuple(c for c in cells if c in _THIRDS[third])
        unit = (cells[int(self.rng.integers(len(cells)))] + float(self.rng.random())) / CELLS
        self.units.append(unit)
        return unit

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._unit()

    def log_uniform(self, low: float, high: float) -> float:
        return float(low * (high / low) ** self._unit())

    def pitch(self, low_hz: float, high_hz: float) -> float:
        """A frequency, log-uniform; "low" and "high" take the outer thirds. Kept below 0.42 of the
        rate.
        """
        self.performed.add("pitch")
        third = self._pole(low="lower", high="upper")
        hz = low_hz * (high_hz / low_hz) ** self._unit(third)
        return float(min(hz, 0.42 * self.rate_hz))

    def tempo(self, low_hz: float, high_hz: float) -> float:
        """Repeats per second, log-uniform: "slow" the lower third, "fast" the upper, else the
        middle.
        """
        self.performed.add("tempo")
        third = self._pole(slow="lower", fast="upper") or "middle"
        return float(low_hz * (high_hz / low_hz) ** self._unit(third))

    def glide(self) -> Array:
        """(T,) factor on a frequency: one, or 0.9 to 1.5 octaves "rising" or "falling"."""
        self.performed.add("pitch motion")
        octaves = self.uniform(0.9, 1.5)
        sign = self._pole(rising="1", falling="-1")
        if sign is None:
            return np.ones(self.n)
        return 2.0 ** (float(sign) * octaves * np.linspace(-0.5, 0.5, self.n))

    def _pole(self, **meaning: str) -> str | None:
        return next((value for pole, value in meaning.items() if pole in self.attributes), None)

    # ------------------------------------------------------------ times

    @property
    def t(self) -> Array:
        """(T,) seconds."""
        return np.arange(self.n) / self.rate_hz

    def samples(self, seconds: float) -> int:
        return max(2, int(seconds * self.rate_hz))

    def beats(self, hz: float, jitter: float = 0.05) -> Array:
        """Onsets in s of a regular beat, each moved by about `jitter` of a period; the first is at
        0.
        """
        count = max(1, int(np.ceil((self.duration_s - 0.06) * hz)))
        moved = np.arange(count) + jitter * self.rng.standard_normal(count)
        moved[0] = 0.0
        return np.clip(moved / hz, 0.0, None)

    def poisson(self, hz: float) -> Array:
        """Onsets in s at random, `hz` per second in the mean, one of them near the start."""
        count = max(1, int(self.rng.poisson(hz * self.duration_s)))
        onsets = np.sort(self.rng.random(count)) * self.duration_s
        onsets[0] = min(onsets[0], 0.02)
        return onsets

    # ------------------------------------------------------------ sound

    def noise(self, gain: Gain, seconds: float | None = None) -> Array:
        """Noise of unit RMS with spectrum `gain`, as long as the take or `seconds`."""
        n = self.n if seconds is None else self.samples(seconds)
        return dsp.shaped_noise(n, self.rate_hz, gain, self._noise_rng)

    def burst(self, gain: Gain, seconds: float, attack_s: float = 0.001) -> Array:
        """A grain of shaped noise with an exponential fall by 60 dB in `seconds`."""
        grain = self.noise(gain, seconds)
        return grain * dsp.decay(grain.size, self.rate_hz, seconds, attack_s)

    def struck(
        self, hz: Sequence[float] | Array, decay_s: Sequence[float] | Array, gain: Sequence[float]
    ) -> Array:
        """A grain of modal synthesis, as long as its slowest mode."""
        seconds = min(float(np.max(decay_s)), self.duration_s)
        return dsp.modes(self.samples(seconds), self.rate_hz, hz, decay_s, gain)

    def tone(self, f0_hz: float | Array, weights: Sequence[float] | Array) -> Array:
        """Additive tone; a scalar f0_hz fills the take, an array (n,) lasts as long as it is."""
        curve = np.full(self.n, float(f0_hz)) if np.ndim(f0_hz) == 0 else np.asarray(f0_hz)
        return dsp.harmonics(curve, weights, self.rate_hz)

    def voice(self, f0_hz: Array, gain: Gain, power: float = 1.0, breath: float = 0.0) -> Array:
        """A throat: harmonics of f0_hz (n,) and breath, through resonances `gain`; unit RMS."""
        source = dsp.unit_rms(self.tone(f0_hz, dsp.rolloff(40, power)))
        if breath:
            flat = dsp.band(0.0, 0.4 * self.rate_hz)
            source += breath * dsp.shaped_noise(f0_hz.size, self.rate_hz, flat, self._noise_rng)
        return dsp.unit_rms(dsp.filtered(source, self.rate_hz, gain))

    def filtered(self, x: Array, gain: Gain) -> Array:
        return dsp.filtered(x, self.rate_hz, gain)

    def curve(self, seconds: float, *points: tuple[float, float]) -> Array:
        """Straight lines through (place in 0..1, value) points, `seconds` long."""
        return dsp.envelope(self.samples(seconds), points)

    def wander(self, hz: float, low: float = 0.0, high: float = 1.0) -> Array:
        """(T,) a random curve between low and high with about `hz` turns per second."""
        count = max(3, int(self.duration_s * hz) + 2)
        points = low + (high - low) * self.rng.random(count)
        return np.interp(np.linspace(0.0, count - 1.0, self.n), np.arange(count), points)

    def repeat(
        self,
        onsets_s: Array,
        grains: Sequence[Array] | Callable[[int], Array],
        spread_db: float = 3.0,
    ) -> Array:
        """(T,) grains at `onsets_s`, cycling through them (or made one by one), each with its own
        level.
        """
        levels = 10.0 ** (spread_db * self.rng.uniform(-0.5, 0.5, onsets_s.size) / 20.0)
        made = [
            grains(i) if callable(grains) else grains[i % len(grains)] for i in range(onsets_s.size)
        ]
        starts = ((onsets_s + LEAD_S) * self.rate_hz).astype(np.int64)
        return dsp.place(self.n, starts, [a * g for a, g in zip(levels, made, strict=True)])

    def shower(self, onsets_s: Array, kernel: Array, spread_db: float = 12.0) -> Array:
        """(T,) like `repeat` for hundreds of equal grains: an impulse train through one FFT."""
        train = np.zeros(self.n)
        starts = np.minimum((onsets_s * self.rate_hz).astype(np.int64), self.n - 1)
        levels = 10.0 ** (spread_db * self.rng.uniform(-1.0, 0.0, onsets_s.size) / 20.0)
        np.add.at(train, starts, levels * self.rng.choice((-1.0, 1.0), onsets_s.size))
        return dsp.convolved(train, kernel)
