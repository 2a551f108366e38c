"""Made-up M2D checkpoints of ../shared/golden under our names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden import golden_tools


def weights(shared: Path, state: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """The made-up tensors of a spec's `state_dict` by their published names."""
    described = {key: (each["shape"], each["dtype"]) for key, each in state.items()}
    made = golden_tools(shared).fill(described, seed=seed)
    return {key: torch.from_numpy(np.asarray(value)) for key, value in made.items()}


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name begins so, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def encoder_part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    ours = ("blocks.", "norm.", "patch_embed.", "cls_token")
    return {k: v for k, v in tensors.items() if k.startswith(ours)}


def time_major(values: Any, rows: int) -> Tensor:
    """(..., R C) numbered row after row, as published -> column after column."""
    values = torch.as_tensor(values)
    return values.unflatten(-1, (rows, -1)).transpose(-1, -2).flatten(-2)


def row_major(values: Tensor, rows: int) -> Tensor:
    """(R C, ...) column after column -> row after row."""
    return values.unflatten(0, (-1, rows)).transpose(0, 1).flatten(0, 1)
