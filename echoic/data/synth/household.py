"""Things in a house or a workshop: clicks, knocks and scrapes, by short noise bursts and modes."""

from __future__ import annotations

import numpy as np

from echoic.data.synth.dsp import Array, band, peaks
from echoic.data.synth.registry import sound
from echoic.data.synth.take import Take


@sound(
    "keyboard typing",
    nouns=("typing", "typing on a keyboard", "keyboard clicks"),
    clauses=(
        ("someone", "types", "typing"),
        ("someone", "types on a keyboard", "typing on a keyboard"),
    ),
    tags=("keyboard", "computer", "typing"),
    axes=("tempo",),
)
def keyboard_typing(take: Take) -> Array:
    """Uneven key strokes, each a click down, a thud of the case and a lighter click up."""
    tempo = take.tempo(2.5, 14.0)
    hz = take.log_uniform(1500, 3500)
    strokes = []
    for _ in range(5):
        down = take.burst(peaks((hz * take.rng.uniform(0.8, 1.2), 900, 1.0)), 0.025)
        up = take.burst(peaks((1.4 * hz, 1200, 1.0)), 0.015)
        stroke = take.burst(band(150, 500), take.uniform(0.09, 0.11)) * 0.25
        stroke[: down.size] += down
        late = int(0.06 * take.rate_hz)
        stroke[late : late + up.size] += 0.35 * up[: stroke.size - late]
        strokes.append(stroke)
    return take.repeat(take.beats(tempo, 0.25), strokes, 8.0)


@sound(
    "clock tick",
    nouns=("a ticking clock", "the ticking of a clock", "clock ticks"),
    clauses=(("a clock", "ticks", "ticking"),),
    tags=("clock", "tick"),
    length_s=(1.5, 30.0),
    axes=("tempo",),
)
def clock_tick(take: Take) -> Array:
    """An escapement: exactly regular clicks of three small modes, tick higher than tock."""
    hz, ring_s = take.log_uniform(1100, 2600), take.uniform(0.015, 0.05)
    ratios = np.array([1.0, 1.58, 2.3])
    tick = take.struck(hz * ratios, (ring_s, 0.7 * ring_s, 0.5 * ring_s), (1.0, 0.6, 0.4))
    tock = take.struck(0.84 * hz * ratios, (ring_s, 0.7 * ring_s, 0.5 * ring_s), (1.0, 0.6, 0.4))
    return take.repeat(take.beats(take.tempo(1.0, 6.0), 0.0), [tick, tock], 1.0)


@sound(
    "camera click",
    nouns=("a camera click", "a camera shutter", "the click of a camera"),
    clauses=(("a camera", "clicks", "clicking"), ("someone", "takes a photo", "taking a photo")),
    tags=("camera", "click"),
    length_s=(0.5, 0.9),
)
def camera_click(take: Take) -> Array:
    """Mirror up, shutter, mirror down: three bright bursts in 0.2 s, then the film motor's whir."""
    hz, gap_s = take.log_uniform(2000, 4500), take.uniform(0.05, 0.1)
    clicks = [take.burst(peaks((hz * f, 1500, 1.0)), 0.03) for f in (0.7, 1.2, 0.8)]
    shutter = take.repeat(np.array([0.0, gap_s, 2.2 * gap_s]), clicks)
    f0_hz = take.log_uniform(350, 700) * np.linspace(1.0, 1.15, take.n)
    spin = (take.t > 2.6 * gap_s) * np.exp(-(take.t - 2.6 * gap_s) / take.uniform(0.2, 0.4))
    whir = take.tone(f0_hz, 1.0 / np.arange(1, 13))
    return shutter + 0.1 * spin * (whir + 0.5 * take.noise(band(1500, 5000)))


@sound(
    "glass breaking",
    nouns=("breaking glass", "shattering glass", "a glass shattering"),
    clauses=(("glass", "breaks", "breaking"), ("glass", "shatters", "shattering")),
    tags=("glass", "crash"),
    length_s=(0.7, 1.1),
)
def glass_breaking(take: Take) -> Array:
    """A noise burst at the blow, then shards ringing at 2 to 7 kHz that fall ever more thinly."""
    blow = take.burst(band(take.log_uniform(400, 1200), 9000), take.uniform(0.15, 0.3))
    base_hz = take.log_uniform(1800, 3200)
    shards = [
        take.struck(
            base_hz * take.rng.uniform(0.8, 2.4, 3),
            take.rng.uniform(0.05, 0.25, 3),
            (1.0, 0.7, 0.5),
        )
        for _ in range(10)
    ]
    count = int(take.log_uniform(24, 60))
    falls = np.sort(take.rng.exponential(take.uniform(0.25, 0.5), count))
    pieces = take.repeat(falls[falls < 0.9 * take.duration_s] + 0.01, shards, 18.0)
    return pieces * np.exp(-take.t / 0.8) + 0.8 * take.repeat(np.array([0.0]), [blow])


@sound(
    "zipper",
    nouns=("a zipper", "the zip of a jacket", "a zipper being pulled"),
    clauses=(("a zipper", "zips", "zipping"), ("someone", "pulls a zipper", "pulling a zipper")),
    tags=("zipper", "clothing"),
    length_s=(1.0, 2.0),
)
def zipper(take: Take) -> Array:
    """Teeth passing ever faster: 25 to 180 clicks per second, their noise growing brighter."""
    slow_hz, fast_hz = take.log_uniform(25, 50), take.log_uniform(90, 180)
    teeth_hz = np.linspace(slow_hz, fast_hz, take.n)
    tooth = np.exp(-9.0 * ((np.cumsum(teeth_hz) / take.rate_hz) % 1.0))
    along = np.linspace(0.0, 1.0, take.n)
    dark = take.noise(band(take.log_uniform(800, 1500), 3500))
    bright = take.noise(band(take.log_uniform(2500, 3600), 9000))
    return tooth * ((1.0 - along) * dark + along * bright)


@sound(
    "hammer",
    nouns=("hammering", "a hammer hitting a nail", "hammer blows"),
    clauses=(
        ("someone", "hammers", "hammering"),
        ("a hammer", "strikes a nail", "striking a nail"),
    ),
    tags=("hammer", "tool", "impact"),
    length_s=(1.3, 30.0),
    axes=("tempo",),
)
def hammer(take: Take) -> Array:
    """A blow on a nail in wood: a hard click, a ringing steel bar, a dull thud below."""
    hz, wood_hz = take.log_uniform(1600, 3200), take.log_uniform(120, 260)
    ring_s = take.uniform(0.15, 0.4)
    ring = take.struck(
        (hz, 1.53 * hz, 2.1 * hz, wood_hz, 2.3 * wood_hz),
        (ring_s, 0.8 * ring_s, 0.6 * ring_s, 0.12, 0.08),
        (0.7, 0.5, 0.3, 1.2, 0.6),
    )
    click = take.burst(band(500, 8000), 0.03)
    ring[: click.size] += 0.7 * click[: ring.size]
    return take.repeat(take.beats(take.tempo(1.0, 5.0), 0.06), [ring])


@sound(
    "hand saw",
    nouns=("a hand saw", "sawing wood", "the sawing of wood"),
    clauses=(("someone", "saws wood", "sawing wood"), ("a hand saw", "cuts wood", "cutting wood")),
    tags=("saw", "tool", "wood"),
    length_s=(1.5, 30.0),
    axes=("tempo",),
)
def hand_saw(take: Take) -> Array:
    """Strokes to and fro: noise chopped by the teeth (80 to 160 Hz at mid-stroke), pull brighter
    than push.
    """
    stroke = take.t * take.tempo(0.8, 4.0)
    speed = np.abs(np.sin(np.pi * stroke))
    teeth = np.exp(-2.5 * ((take.uniform(80, 160) * np.cumsum(speed) / take.rate_hz) % 1.0))
    hz = take.log_uniform(900, 1800)
    push = take.noise(peaks((hz, 700, 1.0), (2.6 * hz, 1500, 0.4)))
    pull = take.noise(peaks((1.35 * hz, 900, 1.0), (3.2 * hz, 1800, 0.6)))
    return speed**1.5 * teeth * np.where(stroke % 2.0 < 1.0, push, pull)


@sound(
    "door knock",
    nouns=("knocking on a door", "knocks on a door", "a door knock"),
    clauses=(
        ("someone", "knocks on a door", "knocking on a door"),
        ("someone", "knocks", "knocking"),
    ),
    tags=("door", "knock", "impact"),
    axes=("tempo",),
)
def door_knock(take: Take) -> Array:
    """Knuckles on a wooden panel: four heavily damped modes of 120 to 900 Hz and a short contact
    noise.
    """
    hz, ring_s = take.log_uniform(120, 300), take.uniform(0.07, 0.16)
    ratios = np.array([1.0, 1.74, 2.41, 3.3])
    knock = take.struck(hz * ratios, ring_s * np.array([1.0, 0.8, 0.7, 0.5]), (1.0, 0.8, 0.6, 0.3))
    touch = take.burst(band(300, take.log_uniform(1500, 3000)), 0.02)
    knock[: touch.size] += 0.5 * touch[: knock.size]
    return take.repeat(take.beats(take.tempo(1.6, 7.0), 0.04), [knock])
