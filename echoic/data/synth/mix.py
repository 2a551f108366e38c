"""From a scene to samples: each event is played, placed near or far, set to its level, and summed.

Levels are RMS over the active frames of an event, dB re full scale: loud -18, near -20,
unremarkable -27, far -36, soft -39, each +-1 dB; the background noise lies at -64 to -56. Growing
and fading sounds cross 24 dB. Shape legend: T samples of the scene.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from echoic.data.synth import dsp
from echoic.data.synth.dsp import Array
from echoic.data.synth.events import Event, Scene
from echoic.data.synth.registry import REGISTRY
from echoic.data.synth.take import Take
from echoic.types import ConfigError

PLAIN_DB = -27.0
LEVEL_DB = {"loud": -18.0, "near": -20.0, "far": -36.0, "soft": -39.0}
LEVEL_JITTER_DB = 1.0
MOTION_DB = 24.0
CEILING = 0.98
RATES_HZ = (8_000, 48_000)


def render(scene: Scene, rate_hz: int = 16_000) -> npt.NDArray[np.float32]:
    """(T,) samples in [-1, 1], T = round(duration_s * rate_hz); the same bits for the same scene.

    rate_hz: 8000 to 48000; another rate keeps the events and parameters, and draws other noise.
    Raises ConfigError on a rate out of range.
    """
    total = sum(stems(scene, rate_hz), background(scene, rate_hz))
    total *= min(1.0, CEILING / max(float(np.abs(total).max()), 1e-9))
    return total.astype(np.float32)


def stems(scene: Scene, rate_hz: int) -> list[Array]:
    """One (T,) per event, at its place and level in the mix."""
    low, high = RATES_HZ
    if not low <= rate_hz <= high:
        raise ConfigError(f"synth: rate_hz is {rate_hz}; give {low} to {high}")
    n = round(scene.duration_s * rate_hz)
    made = []
    for i, event in enumerate(scene.events):
        seed = np.random.SeedSequence((*scene.entropy, 1 + i))
        start = round(event.onset_s * rate_hz)
        made.append(dsp.place(n, [start], [perform(event, seed, rate_hz, scene.split)]))
    return made


def background(scene: Scene, rate_hz: int) -> Array:
    """(T,) the faint floor that every recording has: noise that falls towards high frequencies."""
    rng = np.random.default_rng(np.random.SeedSequence((*scene.entropy, 0)))
    n = round(scene.duration_s * rate_hz)
    noise = dsp.shaped_noise(n, rate_hz, dsp.band(40.0, rng.uniform(300.0, 3000.0), 1), rng)
    return noise * 10.0 ** (scene.background_db / 20.0)


def perform(event: Event, seed: np.random.SeedSequence, rate_hz: int, split: str) -> Array:
    """The event alone (n,), from onset to offset."""
    play, hall = seed.spawn(2)
    take = Take(play, event.duration_s, rate_hz, event.attributes, split)
    rng = np.random.default_rng(hall)
    jitter_db = LEVEL_JITTER_DB * rng.uniform(-1.0, 1.0)
    x = REGISTRY[event.label].recipe(take)
    x = x * _motion(event.attributes, x.size) * dsp.gate(x.size, rate_hz, 0.004)
    x = _placed(x, event.attributes, rate_hz, rng)
    level_db = next((LEVEL_DB[a] for a in event.attributes if a in LEVEL_DB), PLAIN_DB)
    gain_db = level_db + jitter_db - dsp.active_level_db(x, rate_hz)
    return dsp.limited(x * 10.0 ** (gain_db / 20.0)) * dsp.gate(x.size, rate_hz, 0.004)


def _motion(attributes: tuple[str, ...], n: int) -> Array:
    """A level that crosses MOTION_DB from start to end, straight in dB; one where neither is asked
    for.
    """
    if "growing" in attributes:
        return 10.0 ** (MOTION_DB / 20.0 * np.linspace(-1.0, 0.0, n))
    if "fading" in attributes:
        return 10.0 ** (MOTION_DB / 20.0 * np.linspace(0.0, -1.0, n))
    return np.ones(n)


def _placed(x: Array, attributes: tuple[str, ...], rate_hz: int, rng: np.random.Generator) -> Array:
    """Near is dry with its full treble; far is dull and mostly reverberation; else a small room."""
    if "near" in attributes:
        return x
    if "far" in attributes:
        dull = dsp.filtered(x, rate_hz, dsp.band(0.0, rng.uniform(900.0, 1600.0), 1))
        return dsp.reverberated(dull, rate_hz, rng.uniform(0.5, 0.9), 0.6, rng)
    return dsp.reverberated(x, rate_hz, rng.uniform(0.1, 0.2), 0.12, rng)
