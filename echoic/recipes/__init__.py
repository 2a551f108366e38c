"""The recipes by name. A size follows a colon: `slap:small`."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from echoic.recipes.recipe import Recipe
from echoic.recipes.slap import nano, slap
from echoic.types import ConfigError

RECIPES: dict[str, Callable[..., Recipe]] = {"nano": nano, "slap": slap}


def find_recipe(name: str) -> Recipe:
    """`nano`, `slap`, `slap:small`. Raises ConfigError that names the known ones."""
    known, _, size = name.partition(":")
    if known not in RECIPES:
        close = difflib.get_close_matches(known, RECIPES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(RECIPES)}"
        raise ConfigError(f"no recipe {name!r}; {hint}")
    if size and RECIPES[known] is nano:
        raise ConfigError(f"recipe nano has no sizes, so not {size!r}; slap has (slap:small)")
    return RECIPES[known](size) if size else RECIPES[known]()
