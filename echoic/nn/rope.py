"""Rotary positions (RoFormer, 2104.09864) on any number of axes, each with its share of the width.

SLAP (2601.12594, section 2) turns by a patch's column and row; text by one position.

P tokens, H heads, E head width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_angles(positions: Tensor, width: int, base: float = 10_000.0) -> Tensor:
    """Rotary angles of axial positions.

    positions: (P, axes). width: head width, a multiple of 2 x axes. Returns (P, width / 2) float32.
    """
    axes = positions.shape[1]
    if width % (2 * axes):
        raise ValueError(f"head width {width} is not a multiple of {2 * axes}")
    pairs = width // (2 * axes)
    rates = base ** (-torch.arange(pairs, device=positions.device, dtype=torch.float32) / pairs)
    return (positions.float()[:, :, None] * rates).flatten(1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair of channels (i, i + E/2) of x (P, H, E) by angles (P, E/2)."""
    cos, sin = angles.cos()[:, None].to(x.dtype), angles.sin()[:, None].to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
