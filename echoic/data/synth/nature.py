"""Weather, water and fire: mostly shaped noise under slow random curves, and showers of small
grains.
"""

from __future__ import annotations

import numpy as np

from echoic.data.synth.dsp import Array, band, peaks
from echoic.data.synth.registry import sound
from echoic.data.synth.take import Take


@sound(
    "rain",
    nouns=("rain", "falling rain", "rainfall"),
    clauses=(("rain", "falls", "falling"), ("rain", "patters down", "pattering down")),
    tags=("water", "weather", "nature"),
    sustained=True,
)
def rain(take: Take) -> Array:
    """A hiss for the far drops and a Poisson shower of 4 ms ticks for the near ones."""
    hiss = take.noise(band(take.log_uniform(500, 1500), take.log_uniform(5000, 9000), 1))
    tick = take.burst(band(take.log_uniform(1200, 3000), 9000), take.uniform(0.006, 0.02))
    drops = take.shower(take.poisson(take.log_uniform(40, 160)), tick)
    return hiss * take.wander(1.0, 0.8, 1.0) + take.uniform(1.5, 4.0) * drops


@sound(
    "wind",
    nouns=("wind", "howling wind", "gusts of wind"),
    clauses=(("the wind", "blows", "blowing"), ("wind", "howls", "howling")),
    tags=("weather", "air", "nature"),
    length_s=(1.5, 30.0),
    sustained=True,
)
def wind(take: Take) -> Array:
    """A low rumble, and two narrow whistling bands that come and go with the gusts."""
    gust = take.wander(take.uniform(0.6, 1.6), 0.25, 1.0)
    rumble = take.noise(band(40, take.log_uniform(250, 500)))
    howl_hz = take.log_uniform(350, 800)
    low = take.noise(peaks((howl_hz, 0.2 * howl_hz, 1.0)))
    high = take.noise(peaks((1.6 * howl_hz, 0.25 * howl_hz, 1.0)))
    return gust * rumble + 0.8 * gust**2 * low + 0.6 * gust**4 * high


@sound(
    "waves",
    nouns=("ocean waves", "waves on a beach", "breaking waves"),
    clauses=(
        ("waves", "roll in", "rolling in"),
        ("waves", "break on the shore", "breaking on the shore"),
    ),
    tags=("water", "sea", "nature"),
    length_s=(2.0, 30.0),
    sustained=True,
)
def waves(take: Take) -> Array:
    """Dark noise that swells with each wave, and a bright wash that follows its crest."""
    phase = (take.t * take.log_uniform(0.25, 0.6) + take.uniform(0.0, 0.4)) % 1.0
    swell = np.where(phase < 0.4, (phase / 0.4) ** 2, ((1.0 - phase) / 0.6) ** 1.5)
    wash = np.where(phase < 0.4, (phase / 0.4) ** 5, np.exp(-4.0 * (phase - 0.4)))
    dark = take.noise(band(60, take.log_uniform(300, 700)))
    bright = take.noise(band(take.log_uniform(700, 1500), 6000, 1))
    return (0.15 + swell) * dark + take.uniform(0.7, 1.4) * (0.05 + wash) * bright


@sound(
    "thunder",
    nouns=("thunder", "rolling thunder", "a clap of thunder"),
    clauses=(("thunder", "rumbles", "rumbling"), ("thunder", "rolls", "rolling")),
    tags=("weather", "storm", "nature"),
    length_s=(1.5, 7.0),
)
def thunder(take: Take) -> Array:
    """A bright crack, then a low rumble whose envelope is a few overlapping decaying claps."""
    claps = take.poisson(take.uniform(1.5, 3.5))
    roll = sum(
        np.exp(-since / take.rng.uniform(0.4, 1.0)) * np.clip(since / 0.08, 0.0, 1.0) * 0.9**i
        for i, since in enumerate(np.maximum(take.t - at, 0.0) for at in claps)
    )
    crack = take.noise(band(200, take.log_uniform(1500, 4000), 1))
    rumble = take.noise(band(25, take.log_uniform(120, 350), 1))
    snap = np.exp(-take.t / take.uniform(0.08, 0.25))
    return roll * rumble + take.uniform(0.4, 1.2) * snap * crack


@sound(
    "fire",
    nouns=("a crackling fire", "crackling flames", "a burning fire"),
    clauses=(("a fire", "crackles", "crackling"), ("a fire", "burns", "burning")),
    tags=("flames", "crackle", "nature"),
    sustained=True,
)
def fire(take: Take) -> Array:
    """A soft low roar and two Poisson showers: many small crackles and a few big snaps."""
    roar = take.noise(band(40, take.log_uniform(200, 500), 1)) * take.wander(4.0, 0.4, 1.0)
    crackle = take.burst(band(take.log_uniform(900, 2200), 8000), take.uniform(0.008, 0.02))
    snap = take.burst(band(take.log_uniform(400, 900), 6000), take.uniform(0.03, 0.06))
    small = take.shower(take.poisson(take.log_uniform(10, 30)), crackle, 20.0)
    big = take.shower(take.poisson(take.log_uniform(1.5, 4)), snap, 10.0)
    return 0.2 * roar + 2.0 * small + 3.0 * big


@sound(
    "stream",
    nouns=("a babbling stream", "running water", "a flowing brook"),
    clauses=(("a stream", "flows", "flowing"), ("water", "runs", "running")),
    tags=("water", "brook", "nature"),
    sustained=True,
)
def stream(take: Take) -> Array:
    """A band of noise and a dense crowd of tiny bubbles, each a rising decaying sine."""
    wash = take.noise(band(take.log_uniform(300, 700), take.log_uniform(2500, 5000), 1))
    top_hz = take.log_uniform(900, 1800)
    grains = [
        _bubble(
            take, top_hz * 2.0 ** take.rng.uniform(-1.3, 0.5), take.rng.uniform(0.03, 0.09), 0.3
        )
        for _ in range(12)
    ]
    bubbles = take.repeat(take.poisson(take.log_uniform(25, 60)), grains, 14.0)
    return take.uniform(0.15, 0.3) * wash * take.wander(3.0, 0.6, 1.0) + bubbles


@sound(
    "dripping water",
    nouns=("dripping water", "water drops", "a dripping tap"),
    clauses=(("water", "drips", "dripping"), ("a tap", "drips", "dripping")),
    tags=("water", "drops"),
    length_s=(1.6, 30.0),
    axes=("tempo", "pitch"),
)
def dripping(take: Take) -> Array:
    """Single drops: a faint click and a decaying sine that rises as its air bubble closes."""
    hz = take.pitch(700, 2200)
    click = take.burst(band(2000, 8000), 0.01)
    grains = []
    for _ in range(4):
        plink = _bubble(take, hz * take.rng.uniform(0.9, 1.1), 0.16, 0.35)
        grains.append(plink + 0.15 * np.pad(click, (0, plink.size - click.size)))
    return take.repeat(take.beats(take.tempo(0.9, 7.0), 0.12), grains, 6.0)


@sound(
    "bubbles",
    nouns=("bubbles", "bubbling water", "gurgling bubbles"),
    clauses=(("water", "bubbles", "bubbling"), ("bubbles", "gurgle", "gurgling")),
    tags=("water", "gurgle"),
    sustained=True,
)
def bubbles(take: Take) -> Array:
    """Large bubbles under water: low sines of 50 to 120 ms that sweep up, many per second."""
    hz = take.log_uniform(180, 420)
    grains = [
        _bubble(take, hz * 2.0 ** take.rng.uniform(-0.7, 0.7), take.rng.uniform(0.08, 0.2), 0.9)
        for _ in range(10)
    ]
    return take.repeat(take.poisson(take.log_uniform(9, 18)), grains, 6.0)


def _bubble(take: Take, hz: float, seconds: float, sweep_octaves: float) -> Array:
    """Minnaert's resonance of an air bubble that rises: a sine going up as it decays by 60 dB."""
    n = take.samples(seconds)
    f0_hz = hz * 2.0 ** (sweep_octaves * np.linspace(0.0, 1.0, n))
    fall = np.exp(-6.91 * np.linspace(0.0, 1.0, n)) * np.minimum(1.0, np.arange(n) / (0.1 * n))
    return take.tone(f0_hz, (1.0, 0.1)) * fall
