"""The hierarchical transformer of shifted windows (Swin, 2103.14030), over a square grid of tokens.

Attention stays inside windows of 8 x 8 tokens; every other block shifts the windows by half of one,
so that neighbours meet; between stages 2 x 2 tokens become one. Parameter names are upstream's.

Tokens run along a Z (Morton) curve: a window, the four windows that become one in the next stage,
and the 2 x 2 tokens that merge are each contiguous in memory, at every stage. So a plain block
moves nothing, merging is a view, and a shifted block is a plain one between two gathers.

B clips, P tokens of a clip (a square), W windows of a clip, S = 64 tokens of a window, D width,
H heads, E = D / H.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from echoic.nn.linear import GeluMlp, Linear

WINDOW = 8
# What upstream adds to the scores of tokens that only the cyclic shift made neighbours.
_APART = -100.0


class SwinBlock(nn.Module):
    """One pre-norm block, (B, P, D) -> (B, P, D), tokens along the Z curve.

    shifted: whether its windows lie half a window off. drop_path: chance that a clip skips a
    residual branch in training. dropout: after the MLP.
    """

    into: Tensor  # (P,): which token comes to each place of the shifted windows
    back: Tensor  # (P,): and where it is then
    apart: Tensor  # (W, 1, S, S): 0, or `_APART` where two tokens are no neighbours

    def __init__(
        self, *, width: int, heads: int, hidden: int, side: int, shifted: bool,
        drop_path: float = 0.0, dropout: float = 0.0, eps: float = 1e-5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = WindowAttention(width=width, heads=heads)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = GeluMlp(width=width, hidden=hidden, dropout=dropout)
        self.drop_path = drop_path
        self.shifted = shifted and side > WINDOW
        if self.shifted:
            into = shift_order(side)
            self.register_buffer("into", into, persistent=False)
            self.register_buffer("back", into.argsort(), persistent=False)
            self.register_buffer("apart", shift_mask(side)[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.shifted:
            x = x.index_select(1, self.into)
        x = self._add(x, self.attn(self.norm1(x), self.apart if self.shifted else None))
        x = self._add(x, self.mlp(self.norm2(x)))
        return x.index_select(1, self.back) if self.shifted else x

    def _add(self, x: Tensor, branch: Tensor) -> Tensor:
        if not (self.training and self.drop_path):
            return x + branch
        return torch.addcmul(x, branch, F.dropout(x.new_ones(len(x), 1, 1), self.drop_path))


class WindowAttention(nn.Module):
    """Self-attention inside each window, with a learned bias per head and relative position.
    (B, P, D) -> (B, P, D)."""

    relative: Tensor  # (S S,): which row of the table is the bias of each pair of tokens

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.register_buffer("relative", relative_positions().flatten(), persistent=False)

    def bias(self) -> Tensor:
        """(H, S, S)."""
        table = self.relative_position_bias_table
        return table.t().index_select(1, self.relative).view(self.heads, WINDOW**2, WINDOW**2)

    def forward(self, x: Tensor, apart: Tensor | None = None) -> Tensor:
        """apart: (W, 1, S, S), added to the scores."""
        qkv = self.qkv(x).view(len(x), -1, WINDOW**2, 3, self.heads, x.shape[-1] // self.heads)
        bias = self.bias()[None] if apart is None else self.bias() + apart
        return self.proj(window_attention(qkv, bias).reshape(x.shape))


def window_attention(qkv: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention inside windows: qkv (B, W, S, 3, H, E), bias of the scores (W or 1, H, S,
    S) -> (B, W, S, H, E).

    On the CPU written out, one clip after the other, so that its scores stay in the cache: for
    windows of 64 tokens that is faster than the fused kernel (in bfloat16 twice as fast), which
    besides has no gradient for a bias.
    """
    if qkv.device.type != "cpu" or torch.compiler.is_compiling():
        return fused_attention(qkv, bias)
    if torch.is_grad_enabled() and (qkv.requires_grad or bias.requires_grad):
        out: Tensor = _WindowAttention.apply(qkv, bias)
        return out
    bias = _per_window(bias, qkv)
    out = torch.empty_like(qkv[:, :, :, 0])
    for clip, result in zip(qkv, out, strict=True):
        _attend(_heads_first(clip), bias, result)
    return out


def fused_attention(qkv: Tensor, bias: Tensor) -> Tensor:
    """The same through torch's kernel, with all the batch at once."""
    q, k, v = qkv.flatten(0, 1).permute(2, 0, 3, 1, 4)  # (B W, H, S, E)
    bias = bias.to(q.dtype).repeat(len(q) // len(bias), 1, 1, 1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return out.transpose(1, 2).unflatten(0, qkv.shape[:2])


def _per_window(bias: Tensor, qkv: Tensor) -> Tensor:
    """(W or 1, H, S, S) -> (W H, S, S)."""
    return bias.to(qkv.dtype).expand(qkv.shape[1], -1, -1, -1).flatten(0, 1)


def _heads_first(clip: Tensor) -> Tensor:
    """(W, S, n, H, E) -> (n, W H, S, E), contiguous: so torch multiplies all of them at once."""
    return clip.permute(2, 0, 3, 1, 4).flatten(1, 2).contiguous()


def _attend(qkv: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """One clip (3, W H, S, E): writes the result to (W, S, H, E), returns the weights (W H, S,
    S)."""
    q, k, v = qkv
    weights = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    torch.softmax(weights, -1, out=weights)
    out.copy_((weights @ v).unflatten(0, (len(out), -1)).transpose(1, 2))
    return weights


class _WindowAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor) -> Tensor:
        per_window = _per_window(bias, qkv)
        out = torch.empty_like(qkv[:, :, :, 0])
        clips = [_heads_first(clip) for clip in qkv]
        weights = [
            _attend(clip, per_window, result) for clip, result in zip(clips, out, strict=True)
        ]
        ctx.save_for_backward(*clips, *weights)
        ctx.shared, ctx.bias_dtype = len(bias) == 1, bias.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        B, W, S, H, E = grad.shape
        saved = ctx.saved_tensors
        qkv_grad = grad.new_empty(B, W, S, 3, H, E)
        bias_grad = torch.zeros(W * H, S, S, dtype=ctx.bias_dtype)
        for i, (qkv, weights) in enumerate(zip(saved[:B], saved[B:], strict=True)):
            parts, scores = _attend_backward(qkv, weights, _heads_first(grad[i][:, :, None])[0])
            bias_grad += scores
            qkv_grad[i] = parts.unflatten(1, (W, H)).permute(1, 3, 0, 2, 4)
        per_window = bias_grad.view(W, H, S, S)
        return qkv_grad, per_window.sum(0, keepdim=True) if ctx.shared else per_window


def _attend_backward(qkv: Tensor, weights: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """One clip: qkv (3, W H, S, E), weights (W H, S, S), grad of the result (W H, S, E) -> the
    gradients of qkv and of the scores."""
    q, k, v = qkv
    scores = grad @ v.transpose(1, 2)
    torch.ops.aten._softmax_backward_data.out(scores, weights, -1, scores.dtype, grad_input=scores)
    parts, scaled = torch.empty_like(qkv), {"beta": 0, "alpha": q.shape[-1] ** -0.5}
    torch.baddbmm(parts[0], scores, k, **scaled, out=parts[0])
    torch.baddbmm(parts[1], scores.transpose(1, 2), q, **scaled, out=parts[1])
    torch.bmm(weights.transpose(1, 2), grad, out=parts[2])
    return parts, scores


class PatchMerging(nn.Module):
    """2 x 2 tokens become one of twice the width: (B, P, D) -> (B, P / 4, 2 D)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, eps)
        self.reduction = Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(x.view(len(x), -1, 4 * x.shape[-1])))


class Stage(nn.Module):
    """Blocks on one grid, every other one shifted; then the merging, but in the last stage."""

    def __init__(self, blocks: list[SwinBlock], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


def z_order(side: int) -> Tensor:
    """(P, 2) int64: row and column of each place along the Z curve over a side x side grid.

    Down before right, as upstream's patch merging concatenates. Raises ValueError unless side is a
    power of two.
    """
    bits = side.bit_length() - 1
    if side != 1 << bits:
        raise ValueError(f"a Z curve needs a power of two, not {side}")
    place = torch.arange(side * side)
    row, column = torch.zeros_like(place), torch.zeros_like(place)
    for bit in range(bits):
        row |= (place >> 2 * bit & 1) << bit
        column |= (place >> 2 * bit + 1 & 1) << bit
    return torch.stack([row, column], dim=1)


def z_cells(side: int) -> Tensor:
    """(P,) int64: the cell, counted row by row, at each place along the Z curve."""
    row, column = z_order(side).unbind(1)
    return row * side + column


def z_places(side: int) -> Tensor:
    """(P,) int64: the place along the Z curve of each cell, counted row by row."""
    return z_cells(side).argsort()


def relative_positions() -> Tensor:
    """(S, S) int64: for each pair of tokens of a window, their row in the bias table."""
    cell = z_order(WINDOW)
    step = cell[:, None] - cell[None, :] + WINDOW - 1  # 0 .. 2 WINDOW - 2 on each axis
    return step[..., 0] * (2 * WINDOW - 1) + step[..., 1]


def shift_order(side: int) -> Tensor:
    """(P,) int64: the tokens in the order of windows moved by half a window, down and right; those
    beyond the edge come from the other side."""
    row, column = ((z_order(side) + WINDOW // 2) % side).unbind(1)
    return z_places(side)[row * side + column]


def shift_mask(side: int) -> Tensor:
    """(W, S, S) float32: `_APART` for two tokens of a shifted window that lie on different sides of
    the grid's edge, else 0."""
    wrapped = (z_order(side) + WINDOW // 2 >= side).view(-1, WINDOW**2, 2)  # (W, S, axis)
    differ = (wrapped[:, :, None] != wrapped[:, None]).any(-1)
    return differ * _APART
