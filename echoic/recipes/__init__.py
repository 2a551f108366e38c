"""The recipes by name. A size follows a colon, options a comma: `laion_clap:tiny,fusion`."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from echoic.config import close_to
from echoic.recipes.laion_clap import laion_clap
from echoic.recipes.m2d_clap import m2d_clap
from echoic.recipes.recipe import Recipe, Stage
from echoic.recipes.slap import nano, slap
from echoic.types import ConfigError

RECIPES: dict[str, Callable[..., Any]] = {
    "nano": nano,
    "slap": slap,
    "laion_clap": laion_clap,
    "m2d_clap": m2d_clap,
}


def find_stages(name: str) -> tuple[Stage, ...]:
    """`nano`, `slap:small`, `laion_clap:tiny,fusion,stage2`, `m2d_clap:nano,stage2`: one stage, or
    those of `m2d_clap:nano`. Raises ConfigError that names the known ones."""
    known, _, sized = name.partition(":")
    if known not in RECIPES:
        raise ConfigError(f"no recipe {name!r}; {close_to(known, RECIPES)}")
    parts = [part.strip() for part in sized.split(",")] if sized else []
    if parts and known == "nano":
        raise ConfigError(f"recipe nano has no sizes, so not {sized!r}; slap has (slap:small)")
    if len(parts) > 2 and known in ("slap", "m2d_clap"):
        raise ConfigError(f"recipe {known} takes a size and a stage, so not {sized!r}")
    found: Recipe | tuple[Stage, ...] = RECIPES[known](*parts)
    return found if isinstance(found, tuple) else (Stage(name=found.name, recipe=found),)


def find_recipe(name: str) -> Recipe:
    """The recipe of a training of one stage. Raises ConfigError on another."""
    stages = find_stages(name)
    if len(stages) > 1 or stages[0].recipe is None:
        named = ", ".join(stage.name for stage in stages)
        raise ConfigError(f"recipe {name} is not one recipe but the stages {named}: name one")
    return stages[0].recipe


def default_size(name: str) -> str | None:
    """Of a recipe that has sizes; None where there is no such recipe."""
    if name not in RECIPES or "size" not in (known := signature(RECIPES[name]).parameters):
        return None
    return str(known["size"].default)
