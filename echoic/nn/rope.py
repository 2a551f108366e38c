"""Rotary positions (RoFormer, 2104.09864) on any number of axes, each with its share of the width.

SLAP (2601.12594, section 2) turns by a patch's column and row; text by one position.

P tokens, H heads, E head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rope_turns(positions: Tensor, width: int, base: float = 10_000.0) -> Tensor:
    """Rotations of axial positions, computed once for all layers.

    positions: (P, axes). width: head width, a multiple of 2 x axes. Returns (P, 2, E/2) float32:
    the cosine and the sine of each angle.
    """
    axes = positions.shape[1]
    if width % (2 * axes):
        raise ValueError(f"head width {width} is not a multiple of {2 * axes}")
    pairs = width // (2 * axes)
    rates = base ** (-torch.arange(pairs, device=positions.device, dtype=torch.float32) / pairs)
    angles = (positions.float()[:, :, None] * rates).flatten(1)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair of channels (i, i + E/2) of x (P, H, E) by `rope_turns` (P, 2, E/2)."""
    cos, sin = turns[:, None].to(x.dtype).unbind(-2)
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        turned: Tensor = _Rotate.apply(x, cos, sin)
        return turned
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class _Rotate(torch.autograd.Function):
    """Without a copy of either half; what goes back is turned back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(upstream, cos, sin, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, way: int) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    (a, b), (to_a, to_b) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(a, cos, out=to_a).addcmul_(b, sin, value=-way)
    torch.mul(b, cos, out=to_b).addcmul_(a, sin, value=way)
    return out
