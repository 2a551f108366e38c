"""What the names and shapes of a checkpoint's tensors tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from echoic.types import CheckpointError


def shape_of(tensors: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    """Raises CheckpointError where it is missing, empty or of other dimensions."""
    if name not in tensors:
        raise CheckpointError(f"{name} is missing")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise CheckpointError(f"{name} is {shape}, wanted {dimensions} dimensions")
    return shape


def numbers_in(pattern: str, names: Iterable[str]) -> set[str]:
    """The numbers that follow a name: how many there are, however they are counted."""
    return {match[1] for match in map(re.compile(pattern).match, names) if match}


def depth_of(blocks: str, names: Iterable[str]) -> int:
    """How many blocks there are; where there is none, or a number is left out, names are
    missing."""
    return max(1, len(numbers_in(re.escape(blocks) + r"(\d+)\.", names)))
