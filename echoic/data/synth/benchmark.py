"""The benchmark of word order and attributes: one sound, a right caption, and its contrary.

Right and wrong are made from the same template with the same words for everything else, and each
direction and pole is as frequent as its opposite, so a model that reads only the text is at 50 %.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from echoic.data.synth import scenes
from echoic.data.synth.events import AXES, OPPOSITE, SPLITS, Event, Scene
from echoic.data.synth.registry import REGISTRY
from echoic.data.synth.templates import TEMPLATES
from echoic.data.synth.wording import phrase
from echoic.types import ConfigError

_ORDER, _ATTRIBUTE = 1, 2  # set apart from the entropy of draw_scene by their length
_ORDER_S, _ATTRIBUTE_S = (2.4, 5.0), (2.0, 4.0)


@dataclass(frozen=True)
class Choice:
    """axis: "order" or a name of AXES, to report by; right fits the sound, wrong does not."""

    scene: Scene
    right: str
    wrong: str
    axis: str


def order_pairs(seed: int, count: int, *, split: str = "test") -> tuple[Choice, ...]:
    """`count` scenes of two plain events, "X then Y" against "Y then X". Raises ConfigError."""
    _check(seed, count, split)
    return tuple(_order_pair(seed, i, split) for i in range(count))


def attribute_pairs(seed: int, count: int, *, split: str = "test") -> tuple[Choice, ...]:
    """`count` single events with one attribute against its opposite, every axis in turn. Raises
    ConfigError.
    """
    _check(seed, count, split)
    return tuple(_attribute_pair(seed, i, split) for i in range(count))


def _check(seed: int, count: int, split: str) -> None:
    if split not in SPLITS:
        raise ConfigError(f"synth: no split {split!r}; there are {', '.join(SPLITS)}")
    if seed < 0 or count < 0:
        raise ConfigError(f"synth: seed {seed} and count {count} must not be negative")


def _order_pair(seed: int, index: int, split: str) -> Choice:
    entropy = (seed, SPLITS.index(split), index, _ORDER)
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    one = scenes.pick(list(REGISTRY), rng)
    other = scenes.pick(sorted(scenes.partners(one, split)), rng)
    spans = scenes.sequence([REGISTRY[one], REGISTRY[other]], float(rng.uniform(*_ORDER_S)), rng)
    events = [
        Event(round(on, 3), round(off, 3), n)
        for (on, off), n in zip(spans, (one, other), strict=True)
    ]
    scene = scenes.compose(
        events, "sequence", split, entropy, rng, f"order-{split}-{seed}-{index:06d}"
    )
    style, text = TEMPLATES[split]["sequence2"][
        int(rng.integers(len(TEMPLATES[split]["sequence2"])))
    ]
    first, second = (phrase(event, style, (), int(rng.integers(6)), 0) for event in events)
    return Choice(scene, text.format(a=first, b=second), text.format(a=second, b=first), "order")


def _attribute_pair(seed: int, index: int, split: str) -> Choice:
    entropy = (seed, SPLITS.index(split), index, _ATTRIBUTE)
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    axis = list(AXES)[index % len(AXES)]
    able = [
        n for n, known in REGISTRY.items() if axis in ("loudness", "distance") or axis in known.axes
    ]
    name, pole = scenes.pick(able, rng), scenes.pick(AXES[axis], rng)
    known = REGISTRY[name]
    length_s = float(np.clip(rng.uniform(*_ATTRIBUTE_S), *known.length_s))
    event = Event(0.0, round(length_s, 3), name, (pole,))
    scene = scenes.compose(
        [event], "single", split, entropy, rng, f"attribute-{split}-{seed}-{index:06d}"
    )
    templates = TEMPLATES[split]["single"]
    style, text = templates[int(rng.integers(len(templates)))]
    choice, word = int(rng.integers(6)), int(rng.integers(3))
    right = text.format(a=phrase(event, style, (pole,), choice, word))
    contrary = replace(event, attributes=(OPPOSITE[pole],))
    wrong = text.format(a=phrase(contrary, style, contrary.attributes, choice, word))
    return Choice(scene, right, wrong, axis)
