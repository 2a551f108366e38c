"""The recipes by name. A size follows a colon, options a comma: `laion_clap:tiny,fusion`."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from echoic.recipes.laion_clap import laion_clap
from echoic.recipes.recipe import Recipe
from echoic.recipes.slap import nano, slap
from echoic.types import ConfigError

RECIPES: dict[str, Callable[..., Recipe]] = {
    "nano": nano,
    "slap": slap,
    "laion_clap": laion_clap,
}


def find_recipe(name: str) -> Recipe:
    """`nano`, `slap:small`, `laion_clap:tiny,fusion,stage2`. Raises ConfigError that names the
    known ones."""
    known, _, sized = name.partition(":")
    if known not in RECIPES:
        close = difflib.get_close_matches(known, RECIPES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(RECIPES)}"
        raise ConfigError(f"no recipe {name!r}; {hint}")
    parts = [part.strip() for part in sized.split(",")] if sized else []
    if parts and RECIPES[known] is nano:
        raise ConfigError(f"recipe nano has no sizes, so not {sized!r}; slap has (slap:small)")
    if len(parts) > 1 and RECIPES[known] is slap:
        raise ConfigError(f"recipe slap has sizes and no options, so not {sized!r}")
    return RECIPES[known](*parts)
