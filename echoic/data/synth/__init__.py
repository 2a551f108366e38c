"""The embedded corpus: endless scenes of synthesised sound whose content is known exactly.

    from echoic.data import synth
    scene = synth.draw_scene(seed=0, index=7)      # events, captions, tags; no audio yet
    samples = synth.render(scene, rate_hz=16_000)  # (T,) float32

See docs/synth.md for the classes, the held-out splits and the limits.
"""

from __future__ import annotations

from echoic.data.synth import (  # noqa: F401 - importing these registers their classes
    animals,
    household,
    machines,
    music,
    nature,
    people,
    signals,
)
from echoic.data.synth.benchmark import Choice, attribute_pairs, order_pairs
from echoic.data.synth.events import AXES, OPPOSITE, RELATIONS, SPLITS, Event, Scene
from echoic.data.synth.mix import render
from echoic.data.synth.registry import REGISTRY, SoundClass
from echoic.data.synth.scenes import draw_scene, pair_split

CLASSES: tuple[str, ...] = tuple(REGISTRY)


def sound_class(name: str) -> SoundClass:
    """What is known of a class: nouns for prompts, tags, attributes. Raises KeyError."""
    return REGISTRY[name]


__all__ = [
    "AXES",
    "CLASSES",
    "OPPOSITE",
    "RELATIONS",
    "SPLITS",
    "Choice",
    "Event",
    "Scene",
    "SoundClass",
    "attribute_pairs",
    "draw_scene",
    "order_pairs",
    "pair_split",
    "render",
    "sound_class",
]
