"""Drawing scenes: what sounds, when, with which attributes; no audio is made here.

Scene i is a pure function of (seed, split, i). Two classes meet in a scene only in the split that
their unordered pair belongs to (by a hash), so every combination in valid and test is new there.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from echoic.data.synth import wording
from echoic.data.synth.events import AXES, RELATIONS, SPLITS, Event, Scene
from echoic.data.synth.registry import REGISTRY, SoundClass
from echoic.types import ConfigError

MIN_MAX_S, LONGEST_S = 2.0, 30.0
CAPTIONS_PER_SCENE = 5
_MEDIAN_S, _SPREAD = 3.4, 0.6  # the log-normal of lengths
_RELATION_SHARES = (0.42, 0.30, 0.12, 0.09, 0.07)  # in the order of RELATIONS
_GAP_S = (0.1, 0.45)
_BACKGROUND_DB = (-64.0, -56.0)
_PROMINENT = ("loud", "soft", "near", "far")


def pair_split(one: str, other: str) -> str:
    """The only split in which these classes may share a scene: 1/8 valid, 1/8 test, 3/4 train."""
    bucket = zlib.crc32("|".join(sorted((one, other))).encode()) % 8
    return {0: "valid", 1: "test"}.get(bucket, "train")


@cache
def partners(name: str, split: str) -> frozenset[str]:
    """The classes that may share a scene with `name` in this split."""
    return frozenset(n for n in REGISTRY if n != name and pair_split(name, n) == split)


def draw_scene(
    seed: int,
    index: int,
    *,
    split: str = "train",
    max_s: float = LONGEST_S,
    relation: str | None = None,
) -> Scene:
    """Scene `index` of an endless corpus: events, attributes, captions, tags; cheap, no audio.

    max_s: longest scene, 2 to 30 s. relation: one of RELATIONS instead of a drawn one (a scene that
    cannot hold it within max_s becomes a simpler one). Raises ConfigError on a value out of range.
    """
    _check(seed, index, split, max_s, relation)
    entropy = (seed, SPLITS.index(split), index)
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    drawn = relation or str(rng.choice(RELATIONS, p=_RELATION_SHARES))
    target_s = float(np.clip(_MEDIAN_S * np.exp(_SPREAD * rng.standard_normal()), 1.0, max_s))
    names = _cast(drawn, target_s, split, rng)
    events, drawn = _fitting(names, drawn, target_s, max_s, rng)
    return compose(events, drawn, split, entropy, rng, key=f"synth-{split}-{seed}-{index:07d}")


def compose(
    events: Sequence[Event],
    relation: str,
    split: str,
    entropy: tuple[int, ...],
    rng: np.random.Generator,
    key: str,
) -> Scene:
    """The scene of these events, with captions, tags and a faint background."""
    end_s = max(event.offset_s for event in events)
    said = wording.captions(events, relation, split, CAPTIONS_PER_SCENE, rng)
    return Scene(
        key=key,
        events=tuple(events),
        relation=relation,
        duration_s=round(max(1.0, end_s), 3),
        captions=said,
        tags=_tags(events),
        split=split,
        entropy=entropy,
        background_db=round(float(rng.uniform(*_BACKGROUND_DB)), 2),
    )


def _check(seed: int, index: int, split: str, max_s: float, relation: str | None) -> None:
    if split not in SPLITS:
        raise ConfigError(f"synth: no split {split!r}; there are {', '.join(SPLITS)}")
    if relation is not None and relation not in RELATIONS:
        raise ConfigError(f"synth: no relation {relation!r}; there are {', '.join(RELATIONS)}")
    if not MIN_MAX_S <= max_s <= LONGEST_S:
        raise ConfigError(f"synth: max_s is {max_s}; give {MIN_MAX_S:g} to {LONGEST_S:g} seconds")
    if seed < 0 or index < 0:
        raise ConfigError(f"synth: seed {seed} and index {index} must not be negative")


# ---------------------------------------------------------------- who


def _cast(relation: str, target_s: float, split: str, rng: np.random.Generator) -> list[str]:
    """Classes that may meet in this split; the ground of during and backdrop is sustained."""
    grounded = relation in ("during", "backdrop")
    first = [n for n, known in REGISTRY.items() if known.sustained or not grounded]
    names = [pick(first, rng)]
    wanted = {"single": 1, "backdrop": 3}.get(relation, 2)
    if relation == "sequence" and target_s > 4.0 and rng.random() < 0.4:
        wanted = 3
    while len(names) < wanted:
        free = frozenset.intersection(*(partners(n, split) for n in names))
        if not free:
            break
        names.append(pick(sorted(free), rng))
    return names


def pick(names: Sequence[str], rng: np.random.Generator) -> str:
    return names[int(rng.integers(len(names)))]


# ---------------------------------------------------------------- when

Spans = list[tuple[float, float]]


def _fitting(
    names: list[str], relation: str, target_s: float, max_s: float, rng: np.random.Generator
) -> tuple[list[Event], str]:
    """Events on the time line; drops the last class until the scene fits into max_s."""
    while True:
        if relation == "backdrop" and len(names) == 2:
            relation = "during"
        if len(names) == 1:
            relation = "single"
        spans = _LAYOUTS[relation]([REGISTRY[n] for n in names], target_s, rng)
        if len(names) == 1:
            spans = [(0.0, min(spans[0][1], max_s))]
        if max(end for _, end in spans) <= max_s:
            attributes = _attributes([REGISTRY[n] for n in names], relation, rng)
            return [
                Event(round(on, 3), round(off, 3), n, a)
                for (on, off), n, a in zip(spans, names, attributes, strict=True)
            ], relation
        names = names[:-1]


def _length(known: SoundClass, seconds: float) -> float:
    return float(np.clip(seconds, *known.length_s))


def _single(cast: list[SoundClass], target_s: float, rng: np.random.Generator) -> Spans:
    return [(0.0, _length(cast[0], target_s))]


def sequence(cast: list[SoundClass], target_s: float, rng: np.random.Generator) -> Spans:
    shares = rng.uniform(0.7, 1.3, len(cast))
    spans: Spans = []
    at = float(rng.uniform(0.0, 0.2))
    for known, share in zip(cast, shares / shares.sum(), strict=True):
        end = at + _length(known, target_s * float(share))
        spans.append((at, end))
        at = end + float(rng.uniform(*_GAP_S))
    return spans


def _overlap(cast: list[SoundClass], target_s: float, rng: np.random.Generator) -> Spans:
    lengths = [_length(known, target_s) for known in cast]
    slack = max(lengths) - np.array(lengths)
    starts = slack * rng.uniform(0.2, 0.6, len(cast))
    return [(float(s), float(s) + length) for s, length in zip(starts, lengths, strict=True)]


def _during(cast: list[SoundClass], target_s: float, rng: np.random.Generator) -> Spans:
    return _over(cast, [_length(cast[1], 0.4 * target_s)], target_s, rng)


def _backdrop(cast: list[SoundClass], target_s: float, rng: np.random.Generator) -> Spans:
    return _over(cast, [_length(known, 0.32 * target_s) for known in cast[1:]], target_s, rng)


def _over(
    cast: list[SoundClass], lengths: list[float], target_s: float, rng: np.random.Generator
) -> Spans:
    """The ground lasts throughout; the figures lie inside it, 0.4 s and more from its ends."""
    gaps = [float(g) for g in rng.uniform(*_GAP_S, len(lengths) - 1)]
    inner = sum(lengths) + sum(gaps)
    ground = max(_length(cast[0], target_s), inner + 0.9)
    at = float(rng.uniform(0.4, ground - inner - 0.4))
    spans: Spans = [(0.0, ground)]
    for length, gap in zip(lengths, [*gaps, 0.0], strict=True):
        spans.append((at, at + length))
        at += length + gap
    return spans


_LAYOUTS: dict[str, Callable[[list[SoundClass], float, np.random.Generator], Spans]] = {
    "single": _single,
    "sequence": sequence,
    "overlap": _overlap,
    "during": _during,
    "backdrop": _backdrop,
}


# ---------------------------------------------------------------- how


def _attributes(
    cast: list[SoundClass], relation: str, rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """Attributes of each event, none that its neighbours would mask: where sounds overlap, the
    ground is never made prominent nor a figure faint, and nothing grows or fades."""
    alone = relation in ("single", "sequence")
    raised, lowered = ("loud", "near"), ("soft", "far")
    allowed: list[tuple[str, ...]]
    if relation == "overlap":
        allowed = [(raised, lowered)[int(rng.integers(2))]] * len(cast)
    elif alone:
        allowed = [_PROMINENT] * len(cast)
    else:
        allowed = [lowered, *[raised] * (len(cast) - 1)]
    return [_poles(known, may, alone, rng) for known, may in zip(cast, allowed, strict=True)]


def _poles(
    known: SoundClass, prominence: Sequence[str], alone: bool, rng: np.random.Generator
) -> tuple[str, ...]:
    """Up to two poles. Loudness and distance both change the level, so at most one of them and of
    growing or fading; likewise at most one of pitch and its motion."""
    poles: list[str] = []
    level_axes = rng.random()
    if level_axes < 0.45:
        poles.append(pick(prominence, rng))
    elif level_axes < 0.65 and alone and "level motion" in known.axes:
        poles.append(pick(AXES["level motion"], rng))
    own = [axis for axis in known.axes if axis != "level motion"]
    if own and rng.random() < 0.45:
        poles.append(pick(AXES[pick(own, rng)], rng))
    return tuple(poles)


def _tags(events: Sequence[Event]) -> tuple[str, ...]:
    words = [event.label for event in events]
    words += [tag for event in events for tag in REGISTRY[event.label].tags]
    words += [pole for event in events for pole in event.attributes]
    return tuple(dict.fromkeys(words))
