"""Animals: throats are harmonics on a pitch curve through resonances; insects, modulated tones."""

from __future__ import annotations

import numpy as np

from echoic.data.synth.dsp import Array, Gain, band, gate, peaks
from echoic.data.synth.registry import sound
from echoic.data.synth.take import Take


def _call(
    take: Take,
    seconds: float,
    f0: tuple[tuple[float, float], ...],
    level: tuple[tuple[float, float], ...],
    gain: Gain,
    power: float = 1.0,
    breath: float = 0.0,
) -> Array:
    """One call: a voice on the pitch curve f0 (place, Hz) under the level curve (place, value)."""
    f0_hz = take.curve(seconds, *f0)
    return take.voice(f0_hz, gain, power, breath) * take.curve(seconds, *level)


@sound(
    "dog bark",
    nouns=("a barking dog", "dog barks", "the barking of a dog"),
    clauses=(("a dog", "barks", "barking"),),
    tags=("dog", "animal"),
    axes=("tempo", "pitch"),
)
def dog_bark(take: Take) -> Array:
    """Short bursts of 0.12 to 0.25 s: a rough voice that jumps up and falls, mouth opening at 1
    kHz.
    """
    hz, seconds = take.pitch(180, 700), take.uniform(0.12, 0.25)
    size = (hz / 350.0) ** 0.4  # a small dog has a short throat
    throat = peaks((600 * size, 300, 1.0), (1150 * size, 400, 0.9), (2600 * size, 800, 0.35))
    f0 = ((0.0, 0.7 * hz), (0.25, 1.2 * hz), (1.0, 0.6 * hz))
    level = ((0.0, 0.0), (0.08, 1.0), (0.5, 0.7), (1.0, 0.0))
    barks = [_call(take, seconds, f0, level, throat, 0.7, 0.8) for _ in range(2)]
    return take.repeat(take.beats(take.tempo(0.8, 4.5), 0.1), barks)


@sound(
    "cat meow",
    nouns=("a meowing cat", "a cat meow", "the meow of a cat"),
    clauses=(("a cat", "meows", "meowing"), ("a cat", "cries", "crying")),
    tags=("cat", "animal"),
    axes=("pitch",),
)
def cat_meow(take: Take) -> Array:
    """A pitch arc of 0.5 to 0.9 s while the mouth goes from "ee" (2.5 kHz) to "ow" (900 Hz)."""
    hz, seconds = take.pitch(350, 850), take.uniform(0.5, 0.9)
    f0_hz = take.curve(seconds, (0.0, 0.8 * hz), (0.35, 1.15 * hz), (1.0, 0.7 * hz))
    closed = take.voice(f0_hz, peaks((400, 200, 0.5), (2600, 500, 1.0)), 0.6)
    opened = take.voice(f0_hz, peaks((900, 300, 1.0), (1500, 400, 0.6)), 0.6)
    mouth = take.curve(seconds, (0.0, 0.0), (0.2, 0.1), (0.6, 1.0), (1.0, 1.0))
    meow = (1.0 - mouth) * closed + mouth * opened
    meow *= take.curve(seconds, (0.0, 0.0), (0.15, 0.7), (0.5, 1.0), (1.0, 0.0))
    return take.repeat(take.beats(1.0 / (seconds + take.uniform(0.1, 0.7)), 0.05), [meow])


@sound(
    "cow",
    nouns=("a mooing cow", "a cow moo", "the moo of a cow"),
    clauses=(("a cow", "moos", "mooing"),),
    tags=("cow", "animal", "farm"),
    length_s=(1.2, 30.0),
)
def cow(take: Take) -> Array:
    """A long low voice (90 to 180 Hz) that rises, holds and sags; closed mouth first, then open."""
    hz, seconds = take.log_uniform(90, 180), take.uniform(1.0, 1.8)
    f0 = ((0.0, 0.8 * hz), (0.3, 1.1 * hz), (0.8, 1.15 * hz), (1.0, 0.75 * hz))
    dark = peaks((260, 120, 1.0), (600, 200, 0.3))
    bright = peaks((420, 200, 1.0), (850, 250, 0.8), (2300, 600, 0.2))
    closed = _call(take, seconds, f0, ((0.0, 0.0), (0.15, 1.0), (0.5, 0.2), (1.0, 0.0)), dark)
    opened = _call(
        take, seconds, f0, ((0.0, 0.0), (0.4, 0.8), (0.8, 1.0), (1.0, 0.0)), bright, 0.8, 0.1
    )
    return take.repeat(take.beats(1.0 / (seconds + take.uniform(0.2, 0.8))), [closed + opened])


@sound(
    "rooster",
    nouns=("a crowing rooster", "a rooster", "a cock-a-doodle-doo"),
    clauses=(("a rooster", "crows", "crowing"),),
    tags=("rooster", "animal", "farm"),
    length_s=(1.3, 30.0),
)
def rooster(take: Take) -> Array:
    """Four syllables, the third and the fourth long, on a pitch that leaps up and falls away."""
    hz, seconds = take.log_uniform(420, 700), take.uniform(1.2, 2.0)
    f0 = (
        (0.0, hz),
        (0.1, 1.3 * hz),
        (0.18, hz),
        (0.3, 1.4 * hz),
        (0.45, 2.0 * hz),
        (0.7, 1.9 * hz),
    )
    level = (
        (0.0, 0.0), (0.03, 0.7), (0.1, 0.6), (0.13, 0.05), (0.17, 0.8), (0.24, 0.6), (0.27, 0.05),
        (0.33, 1.0), (0.5, 1.0), (0.54, 0.3), (0.6, 0.9), (0.8, 0.6), (1.0, 0.0),
    )  # fmt: skip
    throat = peaks((1100, 500, 1.0), (2300, 600, 0.9), (3400, 800, 0.3))
    crow = _call(take, seconds, (*f0, (1.0, 0.9 * hz)), level, throat, 0.6, 0.25)
    return take.repeat(take.beats(1.0 / (seconds + take.uniform(0.3, 0.9))), [crow])


@sound(
    "crow",
    nouns=("a cawing crow", "crow calls", "the caw of a crow"),
    clauses=(("a crow", "caws", "cawing"),),
    tags=("crow", "bird", "animal"),
    axes=("tempo",),
)
def crow(take: Take) -> Array:
    """Harsh notes of 0.25 to 0.4 s: a voice roughened by 70 to 110 Hz beating and much breath."""
    hz, seconds = take.log_uniform(380, 600), take.uniform(0.25, 0.38)
    f0 = ((0.0, 0.9 * hz), (0.4, 1.1 * hz), (1.0, 0.8 * hz))
    throat = peaks((1300, 400, 1.0), (1900, 500, 0.8), (3300, 900, 0.4))
    caw = _call(
        take, seconds, f0, ((0.0, 0.0), (0.1, 1.0), (0.7, 0.8), (1.0, 0.0)), throat, 0.4, 0.9
    )
    rough = np.sin(2.0 * np.pi * take.uniform(70, 110) * np.arange(caw.size) / take.rate_hz)
    return take.repeat(take.beats(take.tempo(0.7, 2.6), 0.08), [caw * (1.0 + 0.8 * rough)])


@sound(
    "owl",
    nouns=("a hooting owl", "owl hoots", "the hoot of an owl"),
    clauses=(("an owl", "hoots", "hooting"),),
    tags=("owl", "bird", "animal", "night"),
    length_s=(1.2, 30.0),
)
def owl(take: Take) -> Array:
    """Nearly pure tones of 280 to 480 Hz in the rhythm short, short, long."""
    hz, short_s = take.log_uniform(280, 480), take.uniform(0.13, 0.22)
    long_s = take.uniform(0.4, 0.6)
    grains = []
    for seconds in (short_s, short_s, long_s):
        f0_hz = take.curve(seconds, (0.0, 0.9 * hz), (0.3, hz), (1.0, 0.88 * hz))
        grains.append(take.tone(f0_hz, (1.0, 0.12, 0.05)) * gate(f0_hz.size, take.rate_hz, 0.06))
    phrase = np.array([0.0, 1.8, 3.2]) * short_s
    starts = take.beats(1.0 / (3.2 * short_s + long_s + take.uniform(0.25, 0.8)))
    return take.repeat((starts[:, None] + phrase).ravel(), grains, 2.0)


@sound(
    "birdsong",
    nouns=("birdsong", "a singing bird", "chirping birds"),
    clauses=(("a bird", "sings", "singing"), ("a bird", "chirps", "chirping")),
    tags=("bird", "animal"),
    axes=("tempo", "pitch"),
)
def birdsong(take: Take) -> Array:
    """Syllables of 60 to 160 ms: sines on random pitch curves, some trilled at 25 to 60 Hz."""
    hz, tempo = take.pitch(1600, 4200), take.tempo(2.0, 11.0)
    trill_hz, depth = take.uniform(25, 60), take.uniform(0.02, 0.15)
    grains = []
    for i in range(5):
        seconds = min(take.rng.uniform(0.07, 0.16), 0.8 / tempo)
        bends = hz * 2.0 ** take.rng.uniform(-0.35, 0.2, 3)
        f0_hz = take.curve(seconds, (0.0, bends[0]), (0.5, bends[1]), (1.0, bends[2]))
        trill = np.sin(2.0 * np.pi * trill_hz * np.arange(f0_hz.size) / take.rate_hz)
        f0_hz = np.minimum(f0_hz * (1.0 + depth * (i % 2) * trill), 0.45 * take.rate_hz)
        grains.append(take.tone(f0_hz, (1.0, 0.08)) * gate(f0_hz.size, take.rate_hz, 0.3 * seconds))
    onsets = take.beats(tempo, 0.1)
    rest = (take.rng.random(onsets.size) < 0.8) | (np.arange(onsets.size) < 1)
    return take.repeat(onsets[rest], grains, 6.0)


@sound(
    "crickets",
    nouns=("crickets", "chirping crickets", "a cricket"),
    clauses=(("crickets", "chirp", "chirping"),),
    tags=("cricket", "insect", "animal", "night"),
    axes=("tempo",),
    sustained=True,
)
def crickets(take: Take) -> Array:
    """A 3 to 5 kHz tone in chirps of three to five pulses, one pulse per stroke of the wing."""
    hz = min(take.log_uniform(3000, 5200), 0.4 * take.rate_hz)
    pulse_hz, pulses, tempo = (
        take.uniform(35, 70),
        int(take.rng.integers(3, 6)),
        take.tempo(1.4, 6.0),
    )
    in_chirp = take.t % (1.0 / tempo)
    wing = np.sin(np.pi * pulse_hz * in_chirp) ** 2 * (
        in_chirp < min(pulses / pulse_hz, 0.8 / tempo)
    )
    return wing * take.tone(hz * take.wander(2.0, 0.995, 1.005), (1.0, 0.05))


@sound(
    "frogs",
    nouns=("a croaking frog", "frog croaks", "croaking frogs"),
    clauses=(("a frog", "croaks", "croaking"),),
    tags=("frog", "animal", "night"),
    axes=("tempo", "pitch"),
)
def frogs(take: Take) -> Array:
    """Croaks of 0.2 to 0.4 s: a train of 25 to 60 clicks per second in a vocal sac's resonance."""
    hz, tempo = take.pitch(350, 1400), take.tempo(0.7, 3.4)
    seconds = min(take.uniform(0.2, 0.38), 0.7 / tempo)
    click = take.struck((hz, 2.1 * hz), (0.04, 0.025), (1.0, 0.4))
    gaps = np.arange(0.0, seconds, 1.0 / take.uniform(25, 60))
    croak = np.zeros(take.samples(seconds + 0.05))
    for i, start in enumerate((gaps * take.rate_hz).astype(int)):
        piece = click[: croak.size - start]
        croak[start : start + piece.size] += (
            piece * np.sin(np.pi * (i + 1) / (gaps.size + 1)) ** 0.5
        )
    return take.repeat(take.beats(tempo, 0.08), [croak])


@sound(
    "bees",
    nouns=("buzzing bees", "a swarm of bees", "the buzz of bees"),
    clauses=(("bees", "buzz", "buzzing"),),
    tags=("bee", "insect", "animal", "buzz"),
    axes=("pitch",),
    sustained=True,
)
def bees(take: Take) -> Array:
    """Three wings beating at 150 to 300 Hz, each with its own wander in pitch and distance."""
    hz = take.pitch(140, 320)
    wings = np.zeros(take.n)
    for _ in range(3):
        f0_hz = hz * take.rng.uniform(0.94, 1.06) * take.wander(5.0, 0.95, 1.05)
        wings += take.wander(2.0, 0.2, 1.0) * take.tone(f0_hz, 1.0 / np.arange(1, 25))
    return take.filtered(wings, band(take.log_uniform(120, 250), take.log_uniform(1800, 3500), 1))
