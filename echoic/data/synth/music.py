"""Instruments: struck bodies by modes, strings by Karplus-Strong, blown and bowed tones by
harmonics.
"""

from __future__ import annotations

import numpy as np

from echoic.data.synth.dsp import Array, band, decay, gate, karplus_strong, peaks, rolloff
from echoic.data.synth.registry import sound
from echoic.data.synth.take import Take

_SCALE = 2.0 ** (np.array([0, 2, 4, 7, 9, 12]) / 12.0)  # a major pentatonic and its octave


def _melody(take: Take, hz: float, count: int) -> Array:
    """(count,) pitches in Hz from a pentatonic scale above hz."""
    return hz * _SCALE[take.rng.integers(_SCALE.size, size=count)]


@sound(
    "church bell",
    nouns=("a church bell", "a tolling church bell", "the toll of a bell"),
    clauses=(("a church bell", "rings", "ringing"), ("a church bell", "tolls", "tolling")),
    tags=("bell", "church"),
    length_s=(1.6, 30.0),
    axes=("tempo", "pitch"),
)
def church_bell(take: Take) -> Array:
    """The partials of a tuned bell: hum, prime, minor third, fifth, nominal and three above."""
    hz, ring_s = take.pitch(180, 620), take.log_uniform(2.0, 5.0)
    ratios = np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.52, 3.0, 4.05]) * take.rng.uniform(
        0.995, 1.005, 8
    )
    fade = ring_s * np.array([1.0, 0.7, 0.55, 0.4, 0.35, 0.2, 0.15, 0.1])
    stroke = take.struck(hz * ratios, fade, (0.4, 0.7, 0.6, 0.3, 1.0, 0.5, 0.4, 0.3))
    return take.repeat(take.beats(take.tempo(0.5, 2.6), 0.02), [stroke])


@sound(
    "wind chimes",
    nouns=("wind chimes", "tinkling wind chimes", "chimes in the breeze"),
    clauses=(("wind chimes", "tinkle", "tinkling"), ("wind chimes", "ring", "ringing")),
    tags=("chimes", "bell", "metal"),
    axes=("tempo",),
)
def wind_chimes(take: Take) -> Array:
    """Five metal tubes on a pentatonic scale, struck at random; free-bar modes 1, 2.76, 5.4."""
    hz, ring_s = take.log_uniform(900, 1500), take.uniform(0.8, 2.0)
    tubes = [
        take.struck(
            f * np.array([1.0, 2.76, 5.4]), ring_s * np.array([1.0, 0.6, 0.3]), (1.0, 0.5, 0.2)
        )
        for f in hz * _SCALE[:5]
    ]
    onsets = take.beats(take.tempo(1.8, 9.0), 0.35)
    order = take.rng.integers(5, size=onsets.size)
    return take.repeat(onsets, lambda i: tubes[order[i]], 12.0)


@sound(
    "guitar",
    nouns=("a guitar", "plucked guitar strings", "a plucked guitar"),
    clauses=(("a guitar", "plays", "playing"), ("someone", "plucks a guitar", "plucking a guitar")),
    tags=("guitar", "string", "music", "instrument"),
    axes=("tempo", "pitch"),
)
def guitar(take: Take) -> Array:
    """Karplus-Strong strings on a pentatonic melody, through a body with resonances at 100 and 220
    Hz.
    """
    onsets = take.beats(take.tempo(1.2, 7.0), 0.02)
    bright, ring_s = take.log_uniform(1500, 6000), take.uniform(0.8, 2.5)
    pitches, n = (
        _melody(take, take.pitch(90, 330), onsets.size),
        take.samples(min(1.5, take.duration_s)),
    )
    pluck = take.noise(band(60, bright, 1), 0.02)
    made = {f: karplus_strong(n, take.rate_hz, f, ring_s, pluck) for f in set(pitches.tolist())}
    line = take.repeat(onsets, lambda i: made[float(pitches[i])])
    return line + take.filtered(line, peaks((105, 40, 1.0), (220, 60, 0.8)))


@sound(
    "organ",
    nouns=("an organ", "an organ chord", "a pipe organ"),
    clauses=(("an organ", "plays a chord", "playing a chord"), ("an organ", "plays", "playing")),
    tags=("organ", "music", "instrument"),
    axes=("pitch",),
    sustained=True,
)
def organ(take: Take) -> Array:
    """A held triad of additive pipes (drawbars at octaves and fifths) with a slow tremulant."""
    hz, third = take.pitch(100, 330), float(take.rng.choice((1.189, 1.26)))
    drawbars = np.array([1.0, 0.8, 0.35, 0.6, 0.1, 0.25, 0.0, 0.35]) * take.rng.uniform(0.5, 1.0, 8)
    tremulant = 1.0 + 0.12 * np.sin(2.0 * np.pi * take.uniform(4.5, 7.0) * take.t)
    return tremulant * sum(
        (take.tone(hz * f, drawbars) for f in (1.0, third, 1.498)), np.zeros(take.n)
    )


@sound(
    "bass drum",
    nouns=("a bass drum", "drum beats", "a beating drum"),
    clauses=(("a drum", "beats", "beating"), ("someone", "beats a drum", "beating a drum")),
    tags=("drum", "music", "instrument", "percussion"),
    axes=("tempo",),
)
def bass_drum(take: Take) -> Array:
    """A membrane: a sine that drops from 2-3 times its pitch to 50 to 110 Hz, and the beater's
    click.
    """
    hz, seconds = take.log_uniform(50, 110), take.uniform(0.25, 0.5)
    n = take.samples(seconds)
    drop = 1.0 + take.uniform(1.0, 2.2) * np.exp(-np.arange(n) / (0.025 * take.rate_hz))
    body = take.tone(hz * drop, (1.0, 0.25, 0.1)) * decay(n, take.rate_hz, seconds)
    click = take.burst(band(800, take.log_uniform(2500, 5000)), 0.02)
    body[: click.size] += 0.15 * click
    return take.repeat(take.beats(take.tempo(1.0, 5.5), 0.02), [body])


@sound(
    "snare drum",
    nouns=("a snare drum", "snare hits", "a rattling snare drum"),
    clauses=(("a snare drum", "plays", "playing"), ("a snare drum", "rattles", "rattling")),
    tags=("drum", "music", "instrument", "percussion"),
    axes=("tempo",),
)
def snare_drum(take: Take) -> Array:
    """Two membrane modes near 180 and 330 Hz under 0.15 to 0.3 s of bright wire noise."""
    hz = take.log_uniform(160, 240)
    hit = take.burst(band(take.log_uniform(1000, 2000), 9000, 1), take.uniform(0.15, 0.3))
    skin = take.struck((hz, 1.83 * hz), (0.12, 0.1), (1.0, 0.7))
    size = min(hit.size, skin.size)
    hit[:size] += take.uniform(0.6, 1.2) * skin[:size]
    return take.repeat(take.beats(take.tempo(1.4, 11.0), 0.03), [hit], 5.0)


@sound(
    "hi-hat",
    nouns=("a hi-hat", "hi-hat cymbals", "a ticking hi-hat"),
    clauses=(("a hi-hat", "plays", "playing"), ("a hi-hat", "keeps time", "keeping time")),
    tags=("cymbal", "music", "instrument", "percussion"),
    axes=("tempo",),
)
def hi_hat(take: Take) -> Array:
    """Six clashing high partials and noise above 3 to 6 kHz, short when closed, longer every fourth
    stroke.
    """
    cut_hz = min(take.log_uniform(3500, 6500), 0.35 * take.rate_hz)
    closed = take.burst(band(cut_hz, 14000, 4), take.uniform(0.05, 0.09))
    opened = take.burst(band(cut_hz, 14000, 4), take.uniform(0.25, 0.45))
    clash = cut_hz * np.array([1.0, 1.13, 1.27, 1.41, 1.56, 1.73])
    ring = take.struck(np.minimum(clash, 0.44 * take.rate_hz), np.full(6, 0.08), (0.5,) * 6)
    closed[: ring.size] += 0.4 * ring[: closed.size]
    return take.repeat(take.beats(take.tempo(1.8, 10.0), 0.02), [closed, closed, closed, opened])


@sound(
    "flute",
    nouns=("a flute", "a flute melody", "a flute playing"),
    clauses=(("a flute", "plays", "playing"), ("someone", "plays the flute", "playing the flute")),
    tags=("flute", "music", "instrument"),
    axes=("tempo", "pitch"),
)
def flute(take: Take) -> Array:
    """Few harmonics with 5 Hz vibrato and band-passed breath, in a legato pentatonic melody."""
    tempo = take.tempo(0.9, 5.0)
    beat = np.minimum(take.t * tempo, 1e6)
    pitches = _melody(take, take.pitch(420, 1250), int(beat[-1]) + 1)
    depth = take.uniform(0.003, 0.01)
    vibrato = 1.0 + depth * np.sin(2.0 * np.pi * take.uniform(4.5, 6.0) * take.t)
    f0_hz = pitches[beat.astype(int)] * vibrato
    tongue = np.clip(np.minimum(beat % 1.0, 1.0 - beat % 1.0) / (0.04 * tempo), 0.15, 1.0)
    breath = take.noise(band(600, take.log_uniform(2500, 5000), 1))
    return tongue * (take.tone(f0_hz, (1.0, 0.35, 0.15, 0.05)) + take.uniform(0.03, 0.08) * breath)


@sound(
    "violin",
    nouns=("a violin", "a bowed violin", "a violin playing"),
    clauses=(
        ("a violin", "plays", "playing"),
        ("someone", "plays the violin", "playing the violin"),
    ),
    tags=("violin", "string", "music", "instrument"),
    axes=("pitch", "pitch motion"),
    sustained=True,
)
def violin(take: Take) -> Array:
    """A bowed string: a saw-like tone with 5 to 7 Hz vibrato through the body's resonances, and bow
    noise.
    """
    shake = np.sin(2.0 * np.pi * take.uniform(5.0, 7.0) * take.t)
    f0_hz = take.pitch(220, 880) * take.glide() * (1.0 + take.uniform(0.006, 0.015) * shake)
    string = take.tone(f0_hz, rolloff(28, 0.9))
    body = peaks((290, 120, 1.0), (480, 150, 1.0), (1000, 500, 0.6), (2700, 1200, 0.8))
    bow = take.noise(band(1500, 6000, 1)) * take.wander(12.0, 0.5, 1.0)
    return take.filtered(string, body) * (1.0 + 0.15 * shake) + 0.03 * bow


@sound(
    "xylophone",
    nouns=("a xylophone", "a xylophone melody", "wooden xylophone notes"),
    clauses=(
        ("a xylophone", "plays", "playing"),
        ("someone", "plays a xylophone", "playing a xylophone"),
    ),
    tags=("xylophone", "music", "instrument", "percussion"),
    axes=("tempo", "pitch"),
)
def xylophone(take: Take) -> Array:
    """Wooden bars tuned 1 : 3 : 6, dry and short, with the mallet's knock; a pentatonic melody."""
    onsets = take.beats(take.tempo(1.6, 9.0), 0.02)
    pitches, ring_s = _melody(take, take.pitch(420, 1300), onsets.size), take.uniform(0.2, 0.5)
    knock = take.burst(band(400, 2500), 0.02)

    def bar(hz: float) -> Array:
        note = take.struck(
            (hz, 3.0 * hz, 6.1 * hz), ring_s * np.array([1.0, 0.4, 0.2]), (1.0, 0.4, 0.15)
        )
        note[: knock.size] += 0.12 * knock[: note.size]
        return note * gate(note.size, take.rate_hz, 0.001)

    made = {f: bar(f) for f in sorted(set(pitches.tolist()))}
    return take.repeat(onsets, lambda i: made[float(pitches[i])])
