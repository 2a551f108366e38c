"""Sounds made to be noticed: alarms, telephones, horns, codes; tones in strict time patterns."""

from __future__ import annotations

import numpy as np

from echoic.data.synth.dsp import Array, band, gate, rolloff
from echoic.data.synth.registry import sound
from echoic.data.synth.take import Take

_MORSE = (
    ".-",
    "-...",
    "-.-.",
    "-..",
    ".",
    "--.",
    "....",
    "..",
    "-.-",
    ".-..",
    "--",
    "-.",
    "---",
    "...",
    "-",
)


def _on(phase: Array, share: float, edge: float = 0.02) -> Array:
    """(T,) switches on for the first `share` of every turn of `phase`, with soft edges of `edge`
    turns.
    """
    turn = phase % 1.0
    return np.clip(np.minimum(turn, share - turn) / edge, 0.0, 1.0)


@sound(
    "siren",
    nouns=("a siren", "a wailing siren", "an emergency siren"),
    clauses=(("a siren", "wails", "wailing"), ("a siren", "sounds", "sounding")),
    tags=("siren", "alarm", "emergency"),
    length_s=(1.6, 30.0),
    axes=("tempo",),
    sustained=True,
)
def siren(take: Take) -> Array:
    """A horn tone swept up and down by one octave and more, 0.4 to 4 times a second."""
    turn = (take.t * take.tempo(0.4, 4.0) + take.uniform(0.0, 0.5)) % 1.0
    sweep = np.where(turn < 0.5, 2.0 * turn, 2.0 - 2.0 * turn)
    f0_hz = take.log_uniform(450, 750) * 2.0 ** (take.uniform(0.9, 1.4) * sweep)
    return take.filtered(take.tone(f0_hz, rolloff(12, 1.0, odd_only=True)), band(500, 2500, 1))


@sound(
    "alarm clock",
    nouns=("a beeping alarm", "an alarm clock", "alarm beeps"),
    clauses=(("an alarm", "beeps", "beeping"), ("an alarm clock", "goes off", "going off")),
    tags=("alarm", "beep"),
    axes=("tempo", "pitch"),
)
def alarm_clock(take: Take) -> Array:
    """Square-like beeps of 0.9 to 2.8 kHz, in groups with one beat of rest."""
    beats, group = take.t * take.tempo(2.0, 11.0), int(take.rng.choice((2, 3, 4, 100)))
    playing = (np.floor(beats) % (group + 1)) < group
    tone = take.tone(take.pitch(900, 2800), rolloff(7, take.uniform(0.8, 1.6), odd_only=True))
    return tone * _on(beats, take.uniform(0.45, 0.65)) * playing


@sound(
    "dial tone",
    nouns=("a dial tone", "a telephone dial tone", "the dial tone of a phone"),
    clauses=(
        ("a dial tone", "sounds", "sounding"),
        ("a telephone line", "gives a dial tone", "giving a dial tone"),
    ),
    tags=("telephone", "tone"),
    sustained=True,
)
def dial_tone(take: Take) -> Array:
    """Two steady sines a fourth or a third apart (350 and 440 Hz in North America)."""
    low_hz, ratio = take.log_uniform(330, 430), take.uniform(1.15, 1.33)
    low = take.tone(low_hz, (1.0, 0.02))
    return low + take.uniform(0.7, 1.0) * take.tone(ratio * low_hz, (1.0, 0.02))


@sound(
    "busy tone",
    nouns=("a busy tone", "a telephone busy signal", "a busy signal"),
    clauses=(
        ("a busy signal", "sounds", "sounding"),
        ("a telephone line", "is busy", "being busy"),
    ),
    tags=("telephone", "tone", "beep"),
    length_s=(1.5, 30.0),
    axes=("tempo",),
)
def busy_tone(take: Take) -> Array:
    """Two sines near 480 and 620 Hz, on and off for equal times."""
    low_hz = take.log_uniform(430, 530)
    tones = take.tone(low_hz, (1.0, 0.03)) + 0.8 * take.tone(
        take.uniform(1.24, 1.34) * low_hz, (1.0,)
    )
    return tones * _on(take.t * take.tempo(0.8, 4.2), 0.5)


@sound(
    "telephone ring",
    nouns=("a ringing telephone", "a telephone ring", "a phone ringing"),
    clauses=(("a telephone", "rings", "ringing"), ("a phone", "rings", "ringing")),
    tags=("telephone", "ring", "bell"),
    length_s=(1.2, 30.0),
)
def telephone_ring(take: Take) -> Array:
    """A clapper between two bells, 16 to 26 strokes a second, 1 to 2 s on, then a pause."""
    hz, stroke_hz = take.log_uniform(900, 1600), take.uniform(16, 26)
    bells = [
        take.struck(f * hz * np.array([1.0, 1.53, 2.42]), (0.3, 0.2, 0.15), (1.0, 0.7, 0.5))
        for f in (1.0, 1.19)
    ]
    ring_s, pause_s = take.uniform(0.9, 1.8), take.uniform(0.4, 1.0)
    strokes = take.beats(stroke_hz, 0.02)
    return take.repeat(strokes[strokes % (ring_s + pause_s) < ring_s], bells, 1.0)


@sound(
    "Morse code",
    nouns=("Morse code", "a Morse code signal", "a telegraph signal"),
    clauses=(
        ("someone", "sends Morse code", "sending Morse code"),
        ("a telegraph", "beeps", "beeping"),
    ),
    tags=("morse", "radio", "beep"),
    length_s=(1.6, 30.0),
    axes=("tempo", "pitch"),
)
def morse_code(take: Take) -> Array:
    """Random letters keyed on a sine of 450 to 1200 Hz: dash 3, gap 1, letter gap 3 units."""
    unit_s = 1.0 / take.tempo(6.0, 30.0)
    keyed: list[bool] = []
    while len(keyed) * unit_s < take.duration_s:
        for mark in _MORSE[int(take.rng.integers(len(_MORSE)))]:
            keyed += [True] * (3 if mark == "-" else 1) + [False]
        keyed += [False, False]
    key = np.asarray(keyed, dtype=np.float64)[(take.t / unit_s).astype(int)]
    soft = take.samples(0.005)
    key = np.convolve(key, np.ones(soft) / soft)[: take.n]
    return key * take.tone(take.pitch(450, 1200), (1.0, 0.03))


@sound(
    "car horn",
    nouns=("a car horn", "a honking car", "honks of a car"),
    clauses=(("a car", "honks", "honking"), ("a car horn", "blares", "blaring")),
    tags=("car", "horn", "vehicle", "traffic"),
)
def car_horn(take: Take) -> Array:
    """Two reedy tones a third apart, harmonics up to 2 or 3 kHz, in honks of 0.25 to 0.8 s."""
    hz, ratio = take.log_uniform(330, 480), take.uniform(1.18, 1.28)
    honk_s, gap_s = take.uniform(0.25, 0.8), take.uniform(0.1, 0.35)
    one = take.tone(hz, rolloff(20, 0.5)) + take.tone(ratio * hz, rolloff(20, 0.5))
    pattern = _on(take.t / (honk_s + gap_s), honk_s / (honk_s + gap_s))
    return take.filtered(one, band(400, take.log_uniform(2000, 3500))) * pattern


@sound(
    "whistle",
    nouns=("a referee whistle", "a pea whistle", "whistle blasts"),
    clauses=(
        ("a referee", "blows a whistle", "blowing a whistle"),
        ("a whistle", "blows", "blowing"),
    ),
    tags=("whistle", "sport"),
    axes=("tempo",),
)
def whistle(take: Take) -> Array:
    """A pea whistle: a 2.2 to 3.3 kHz tone fluttering in level and pitch at 25 to 45 Hz, with
    breath.
    """
    hz, pea_hz = take.log_uniform(2200, 3300), take.uniform(25, 45)
    pea = np.sin(2.0 * np.pi * pea_hz * take.t)
    tone = take.tone(np.minimum(hz * (1.0 + 0.02 * pea), 0.45 * take.rate_hz), (1.0, 0.1))
    breath = take.noise(band(0.8 * hz, 1.3 * hz))
    blasts = _on(take.t * take.tempo(0.7, 4.0), take.uniform(0.55, 0.75))
    return blasts * (1.0 + 0.6 * pea) * (tone + 0.15 * breath)


@sound(
    "doorbell",
    nouns=("a doorbell", "a ding-dong doorbell", "the chime of a doorbell"),
    clauses=(("a doorbell", "rings", "ringing"), ("a doorbell", "chimes", "chiming")),
    tags=("doorbell", "bell", "door"),
    length_s=(1.4, 30.0),
)
def doorbell(take: Take) -> Array:
    """Ding, dong: two struck bars a major third apart, the lower one second."""
    hz, gap_s = take.log_uniform(520, 800), take.uniform(0.4, 0.7)
    ring_s = take.uniform(0.9, 1.6)
    bars = [
        take.struck(
            f * hz * np.array([1.0, 2.76, 5.4]),
            ring_s * np.array([1.0, 0.4, 0.15]),
            (1.0, 0.35, 0.15),
        )
        for f in (1.0, 0.794)
    ]
    bars = [bar * gate(bar.size, take.rate_hz, 0.002) for bar in bars]
    pairs = take.beats(1.0 / (2.0 * gap_s + take.uniform(0.8, 1.6)), 0.0)
    return take.repeat((pairs[:, None] + np.array([0.0, gap_s])).ravel(), bars, 1.0)
