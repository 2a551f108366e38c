"""Engines and machines: low harmonic series with roughness, broadband flow, and things that pass
by.
"""

from __future__ import annotations

import numpy as np

from echoic.data.synth.dsp import Array, band, doppler, peaks, rolloff
from echoic.data.synth.registry import sound
from echoic.data.synth.take import Take


@sound(
    "car engine",
    nouns=("a car engine", "a running engine", "an engine"),
    clauses=(("a car engine", "runs", "running"), ("an engine", "rumbles", "rumbling")),
    tags=("car", "engine", "machine", "vehicle"),
    axes=("pitch motion",),
    sustained=True,
)
def car_engine(take: Take) -> Array:
    """Firing at 45 to 110 Hz: uneven harmonics with half orders, beating once a turn, and intake
    noise.
    """
    f0_hz = take.log_uniform(45, 110) * take.glide() * take.wander(6.0, 0.985, 1.015)
    weights = rolloff(48, take.uniform(0.8, 1.2)) * take.rng.uniform(0.3, 1.0, 48)
    turn = np.cos(np.pi * np.cumsum(f0_hz) / take.rate_hz)
    intake = take.noise(band(100, take.log_uniform(600, 2000), 1))
    body = take.tone(0.5 * f0_hz, weights) * (1.0 + 0.4 * turn)
    return take.filtered(body, band(70, 2500, 1)) + take.uniform(0.05, 0.2) * intake * (1.0 + turn)


@sound(
    "passing car",
    nouns=("a passing car", "a car driving past", "a car going by"),
    clauses=(("a car", "passes by", "passing by"), ("a car", "drives past", "driving past")),
    tags=("car", "vehicle", "traffic"),
    length_s=(2.0, 8.0),
)
def passing_car(take: Take) -> Array:
    """Tyre noise and engine harmonics on a straight road: Doppler shift and 1/distance level."""
    tyres = take.noise(band(take.log_uniform(200, 500), take.log_uniform(1500, 3500), 1))
    engine = take.tone(take.log_uniform(80, 180), rolloff(20, 1.0))
    speed_mps, closest_m = take.uniform(14, 35), take.uniform(3, 9)
    return doppler(tyres + take.uniform(0.5, 1.2) * engine, take.rate_hz, speed_mps, closest_m)


@sound(
    "helicopter",
    nouns=("a helicopter", "a hovering helicopter", "helicopter rotors"),
    clauses=(("a helicopter", "flies", "flying"), ("a helicopter", "hovers", "hovering")),
    tags=("helicopter", "aircraft", "machine"),
    sustained=True,
)
def helicopter(take: Take) -> Array:
    """Blades at 9 to 17 Hz chop low noise into thumps; a turbine whines above."""
    phase = take.log_uniform(9, 17) * np.cumsum(take.wander(1.0, 0.99, 1.01)) / take.rate_hz
    chop = np.exp(-take.uniform(4, 8) * (phase % 1.0))
    thump = take.noise(band(50, take.log_uniform(250, 700)))
    wash = take.noise(band(300, 3000, 1))
    whine = take.tone(take.log_uniform(1200, 2600), (1.0, 0.3))
    return chop * (thump + 0.4 * wash) + 0.1 * wash + take.uniform(0.02, 0.06) * whine


@sound(
    "train",
    nouns=("a train", "a train on rails", "a moving train"),
    clauses=(
        ("a train", "rolls along", "rolling along"),
        ("a train", "clatters past", "clattering past"),
    ),
    tags=("train", "vehicle", "railway"),
    length_s=(1.6, 30.0),
    axes=("tempo",),
    sustained=True,
)
def train(take: Take) -> Array:
    """Rolling rumble, and at every rail joint the double clack of an axle pair."""
    tempo = take.tempo(0.8, 3.6)
    rumble = take.noise(band(50, take.log_uniform(250, 600), 1)) * take.wander(3.0, 0.7, 1.0)
    hz = take.log_uniform(300, 800)
    clack = take.burst(peaks((hz, 300, 1.0), (2.7 * hz, 700, 0.6)), 0.12)
    pairs = take.beats(tempo, 0.01)[:, None] + np.array([0.0, 0.22 / tempo])
    return 0.3 * rumble + take.uniform(1.2, 2.4) * take.repeat(pairs.ravel(), [clack, 0.8 * clack])


@sound(
    "vacuum cleaner",
    nouns=("a vacuum cleaner", "a running vacuum cleaner", "vacuuming"),
    clauses=(("a vacuum cleaner", "runs", "running"), ("someone", "vacuums", "vacuuming")),
    tags=("vacuum", "machine", "household"),
    sustained=True,
)
def vacuum_cleaner(take: Take) -> Array:
    """A roar of air between 300 Hz and 6 kHz with a whining motor and its blade tone on top."""
    air = take.noise(band(take.log_uniform(200, 450), take.log_uniform(3500, 6500), 1))
    hose = take.noise(peaks((take.log_uniform(600, 1100), 250, 1.0)))
    motor_hz = take.log_uniform(280, 420)
    weights = np.array([0.5, 0.2, 0.15, 0.1, 0.1, 0.1, 0.8, 0.1])
    motor = take.tone(motor_hz * take.wander(2.0, 0.995, 1.005), weights)
    return air + 0.5 * hose + take.uniform(0.4, 0.9) * motor


@sound(
    "power drill",
    nouns=("a power drill", "an electric drill", "drilling"),
    clauses=(("an electric drill", "whirs", "whirring"), ("someone", "drills", "drilling")),
    tags=("drill", "tool", "machine"),
    axes=("pitch motion",),
    sustained=True,
)
def power_drill(take: Take) -> Array:
    """A commutator motor: saw-like harmonics of 250 to 500 Hz, roughened by gear noise at 30 to 60
    Hz.
    """
    f0_hz = take.log_uniform(250, 500) * take.glide() * take.wander(8.0, 0.98, 1.02)
    gear = 1.0 + 0.5 * np.sin(2.0 * np.pi * take.uniform(30, 60) * take.t)
    grind = take.noise(band(1500, 6000, 1))
    motor = take.filtered(take.tone(f0_hz, rolloff(24, 0.7)), band(300, 5000, 1))
    return gear * (motor + take.uniform(0.2, 0.5) * grind)


@sound(
    "electric hum",
    nouns=("an electric hum", "a humming transformer", "a hum"),
    clauses=(("a transformer", "hums", "humming"), ("something electric", "hums", "humming")),
    tags=("hum", "electricity"),
    axes=("pitch", "pitch motion"),
    sustained=True,
)
def electric_hum(take: Take) -> Array:
    """A steady low tone of 50 to 220 Hz with a dozen fixed harmonics, the even ones strong."""
    f0_hz = take.pitch(50, 220) * take.glide()
    weights = rolloff(14, take.uniform(0.7, 1.1)) * take.rng.uniform(0.3, 1.0, 14)
    weights[1::2] *= 2.0
    flutter = 1.0 + 0.05 * np.sin(2.0 * np.pi * take.uniform(0.5, 3.0) * take.t)
    return flutter * take.tone(f0_hz, weights)


@sound(
    "steam",
    nouns=("hissing steam", "a steam hiss", "escaping steam"),
    clauses=(("steam", "hisses", "hissing"), ("steam", "escapes", "escaping")),
    tags=("steam", "hiss", "machine"),
    sustained=True,
)
def steam(take: Take) -> Array:
    """A jet: noise above 2 to 3.5 kHz with a broad peak, hardly modulated."""
    jet = take.noise(band(take.log_uniform(2000, 3500), 12000, 3))
    edge = take.noise(peaks((take.log_uniform(2500, 3600), 500, 1.0)))
    return (jet + take.uniform(0.1, 0.5) * edge) * take.wander(8.0, 0.85, 1.0)
