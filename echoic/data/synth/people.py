"""People: voices without words, breath, and what hands, feet and the heart do."""

from __future__ import annotations

import numpy as np

from echoic.data.synth.dsp import Array, band, peaks
from echoic.data.synth.registry import sound
from echoic.data.synth.take import Take


@sound(
    "laughter",
    nouns=("laughter", "a laughing person", "someone laughing"),
    clauses=(("someone", "laughs", "laughing"), ("a person", "laughs", "laughing")),
    tags=("laugh", "person", "voice"),
    axes=("tempo", "pitch"),
)
def laughter(take: Take) -> Array:
    """ "Ha" at 3 to 7 Hz: breath, then a voiced vowel; the pitch sinks through each bout of five to
    eight.
    """
    hz, tempo, bout = take.pitch(130, 420), take.tempo(2.6, 8.0), int(take.rng.integers(5, 9))
    size = take.uniform(0.9, 1.2)
    vowel = peaks((750 * size, 200, 1.0), (1250 * size, 250, 0.7), (2700 * size, 500, 0.25))
    seconds, has = min(0.16, 0.75 / tempo), []
    for i in range(bout):
        f0_hz = take.curve(seconds, (0.0, 1.15 * hz), (1.0, 0.9 * hz)) * 0.94**i
        voiced = take.voice(f0_hz, vowel, 0.8, 0.15) * take.curve(
            seconds, (0, 0), (0.25, 1), (1, 0)
        )
        breath = take.burst(vowel, 0.5 * seconds, 0.02)
        voiced[: breath.size] += 0.4 * breath[: voiced.size]
        has.append(voiced * 0.92**i)
    return take.repeat(take.beats(tempo, 0.05), has, 2.0)


@sound(
    "cough",
    nouns=("coughing", "a cough", "a coughing person"),
    clauses=(("someone", "coughs", "coughing"), ("a person", "coughs", "coughing")),
    tags=("cough", "person"),
)
def cough(take: Take) -> Array:
    """An explosive noise burst through the throat, then 0.2 s of hoarse voice; one to three in a
    row.
    """
    hz = take.log_uniform(120, 260)
    throat = peaks((450, 250, 0.7), (1100, 400, 1.0), (2400, 900, 0.6))
    f0_hz = take.curve(take.uniform(0.22, 0.35), (0.0, 1.3 * hz), (1.0, 0.8 * hz))
    hoarse = take.voice(f0_hz, throat, 0.9, 0.8)
    hoarse *= np.interp(np.linspace(0.0, 1.0, hoarse.size), (0, 0.2, 0.4, 1), (0, 0.3, 0.5, 0))
    blast = take.burst(throat, 0.18)
    hoarse[: blast.size] += take.uniform(1.2, 2.0) * blast[: hoarse.size]
    onsets, row = take.beats(take.uniform(2.0, 3.0), 0.1), int(take.rng.integers(1, 4))
    return take.repeat(onsets[np.arange(onsets.size) % (row + 2) < row], [hoarse])


@sound(
    "snoring",
    nouns=("snoring", "a snoring person", "the snores of a sleeper"),
    clauses=(("someone", "snores", "snoring"), ("a sleeper", "snores", "snoring")),
    tags=("snore", "sleep", "person"),
    length_s=(2.0, 30.0),
)
def snoring(take: Take) -> Array:
    """Each breath in flutters the palate at 25 to 55 Hz through a nasal resonance; each breath out
    is air.
    """
    breath = (take.t * take.uniform(0.4, 0.75)) % 1.0
    draw_in = np.clip(np.sin(np.pi * breath / 0.5), 0.0, 1.0) * (breath < 0.5)
    let_out = np.clip(np.sin(np.pi * (breath - 0.55) / 0.45), 0.0, 1.0) * (breath > 0.55)
    flutter = take.uniform(25, 55) * take.wander(6.0, 0.9, 1.1)
    pulse = np.exp(-6.0 * ((np.cumsum(flutter) / take.rate_hz) % 1.0))
    nose = take.noise(
        peaks((take.log_uniform(200, 350), 150, 1.0), (900, 400, 0.4), (2200, 800, 0.1))
    )
    air = take.noise(band(400, take.log_uniform(1200, 2500), 1))
    return draw_in * pulse * nose + take.uniform(0.08, 0.2) * let_out * air


@sound(
    "hand clapping",
    nouns=("hand claps", "clapping hands", "hand clapping"),
    clauses=(("someone", "claps", "clapping"), ("hands", "clap", "clapping")),
    tags=("clap", "hands", "person"),
    axes=("tempo",),
)
def hand_clapping(take: Take) -> Array:
    """A burst of 0.06 to 0.12 s around 1 to 2 kHz, the air pocket between the palms."""
    hz, seconds = take.log_uniform(850, 1900), take.uniform(0.06, 0.12)
    claps = [
        take.burst(
            peaks((hz * take.rng.uniform(0.92, 1.08), 0.7 * hz, 1.0), (2.5 * hz, hz, 0.3)), seconds
        )
        for _ in range(3)
    ]
    return take.repeat(take.beats(take.tempo(1.2, 6.5), 0.05), claps)


@sound(
    "footsteps",
    nouns=("footsteps", "the footsteps of a person", "walking footsteps"),
    clauses=(("someone", "walks", "walking"), ("a person", "walks", "walking")),
    tags=("steps", "walk", "person"),
    length_s=(1.5, 30.0),
    axes=("tempo",),
)
def footsteps(take: Take) -> Array:
    """Heel, then 60 to 110 ms later the sole: a low thud and a scuff; left and right differ."""
    thud_hz, scuff_hz = take.log_uniform(90, 200), take.log_uniform(500, 1300)
    roll, steps = take.samples(take.uniform(0.06, 0.11)), []
    for foot in (1.0, 1.12):
        heel = take.burst(peaks((foot * thud_hz, 80, 1.0), (foot * 900, 500, 0.4)), 0.1)
        sole = take.burst(band(foot * scuff_hz, 4000, 1), 0.09, 0.015)
        step = np.zeros(roll + sole.size)
        step[: heel.size] += heel[: step.size]
        step[roll:] += 0.45 * sole
        steps.append(step)
    return take.repeat(take.beats(take.tempo(0.9, 4.6), 0.03), steps)


@sound(
    "heartbeat",
    nouns=("a heartbeat", "a beating heart", "the beat of a heart"),
    clauses=(("a heart", "beats", "beating"), ("a heart", "pounds", "pounding")),
    tags=("heart", "body", "person"),
    length_s=(1.6, 30.0),
    axes=("tempo",),
)
def heartbeat(take: Take) -> Array:
    """Lub, dub: two damped thumps of 45 to 95 Hz, a third of a beat apart, the second higher."""
    hz, tempo = take.log_uniform(45, 95), take.tempo(0.8, 3.0)
    lub = take.struck((hz, 2.0 * hz, 3.1 * hz), (0.16, 0.1, 0.07), (1.0, 0.4, 0.15))
    dub = take.struck((1.3 * hz, 2.6 * hz, 4.0 * hz), (0.12, 0.08, 0.05), (0.7, 0.3, 0.12))
    pairs = take.beats(tempo, 0.02)[:, None] + np.array([0.0, 0.32 / tempo])
    return take.repeat(pairs.ravel(), [lub, dub], 1.5)


@sound(
    "human whistling",
    nouns=("human whistling", "a whistling person", "a whistled tone"),
    clauses=(("someone", "whistles", "whistling"), ("a person", "whistles", "whistling")),
    tags=("whistle", "person"),
    axes=("pitch", "pitch motion"),
)
def human_whistling(take: Take) -> Array:
    """One nearly pure tone of 800 to 2200 Hz with slow drift, light vibrato and a little breath."""
    hz = take.pitch(800, 2200)
    shake = 1.0 + take.uniform(0.003, 0.012) * np.sin(2.0 * np.pi * take.uniform(4, 6.5) * take.t)
    f0_hz = np.minimum(
        hz * take.glide() * shake * take.wander(2.0, 0.97, 1.03), 0.45 * take.rate_hz
    )
    breath = take.noise(band(0.7 * hz, 1.5 * hz))
    return (take.tone(f0_hz, (1.0, 0.04)) + 0.04 * breath) * take.wander(3.0, 0.75, 1.0)
