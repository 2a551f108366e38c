"""The register of sound classes: a recipe, the words for it, and the attributes that it can
perform.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from echoic.data.synth.dsp import Array
from echoic.data.synth.take import Take

Recipe = Callable[[Take], Array]


@dataclass(frozen=True)
class SoundClass:
    """recipe: Take -> (T,) at any level. nouns: "a barking dog", "dog barks".

    clauses: (subject, verb, -ing form), e.g. ("a dog", "barks", "barking").
    length_s: shortest and longest sensible event. axes: what the recipe performs beyond loudness
    and distance, which every class can. sustained: goes on evenly, so it may lie under other events
    and may grow or fade.
    """

    name: str
    recipe: Recipe
    nouns: tuple[str, ...]
    clauses: tuple[tuple[str, str, str], ...]
    tags: tuple[str, ...]
    length_s: tuple[float, float]
    axes: tuple[str, ...]
    sustained: bool


REGISTRY: dict[str, SoundClass] = {}


def sound(
    name: str,
    *,
    nouns: tuple[str, ...],
    clauses: tuple[tuple[str, str, str], ...],
    tags: tuple[str, ...],
    length_s: tuple[float, float] = (1.0, 30.0),
    axes: tuple[str, ...] = (),
    sustained: bool = False,
) -> Callable[[Recipe], Recipe]:
    """Register the decorated recipe as class `name`; see SoundClass for the fields."""

    def register(recipe: Recipe) -> Recipe:
        if name in REGISTRY:
            raise ValueError(f"sound class {name!r} is registered twice")
        motion = ("level motion",) if sustained else ()
        REGISTRY[name] = SoundClass(
            name, recipe, nouns, clauses, tags, length_s, (*axes, *motion), sustained
        )
        return recipe

    return register
