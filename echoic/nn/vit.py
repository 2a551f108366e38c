"""The vision transformer (ViT, 2010.11929) as M2D has it (2210.14648, section III-A): pre-norm
blocks with LayerNorm, GELU and biases, a class token before each clip, and fixed positions, sines
and cosines of a patch's column and row.

Clips lie end to end, so any number of a clip's patches can be encoded, at the cost of their number.
Parameter names are those of published ViTs.

B clips, P tokens of all clips, D width, H heads, E = D / H, R patch rows of a column.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor, nn

from echoic.nn.attention import AttentionLayer, Lengths, packed_attention
from echoic.nn.linear import GeluMlp, Linear
from echoic.types import Ragged


class VitAttention(AttentionLayer):
    """Self-attention inside each clip, (P, D) -> (P, D)."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, lengths: Lengths) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)  # (P, H, E) each
        mixed = packed_attention(q, k, v, lengths, backend=self.backend)
        out: Tensor = self.proj(mixed.flatten(1))
        return out


class VitBlock(nn.Module):
    """One pre-norm block, (P, D) -> (P, D)."""

    def __init__(self, *, width: int, heads: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = VitAttention(width=width, heads=heads)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = GeluMlp(width=width, hidden=round(width * mlp_ratio))

    def forward(self, x: Tensor, lengths: Lengths) -> Tensor:
        x = x + self.attn(self.norm1(x), lengths)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Vit(nn.Module):
    """The blocks and the norm after them. `through` takes tokens as they come: no patch embedding,
    no positions."""

    def __init__(
        self, *, width: int, depth: int, heads: int, mlp_ratio: float = 4.0, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            VitBlock(width=width, heads=heads, mlp_ratio=mlp_ratio, eps=eps) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps)
        init_vit(self)

    def states(self, x: Ragged) -> Iterator[Ragged]:
        """The tokens after each block, not normed."""
        values = x.values.float()  # the residual stream stays float32 under autocast
        for block in self.blocks:
            values = block(values, x.lengths)
            yield Ragged(values, x.offsets)

    def through(self, x: Ragged, layers: Collection[int] | None = None) -> Ragged:
        """Ragged tokens (P, D) -> the same, normed. layers: the blocks, from 0, whose mean output
        is taken; None: the last."""
        wanted = layers or (len(self.blocks) - 1,)
        if not set(wanted) <= set(range(len(self.blocks))):
            raise ValueError(f"layers {sorted(wanted)}: there are 0 to {len(self.blocks) - 1}")
        taken: list[Tensor] = []
        for i, state in enumerate(self.states(x)):
            taken += [state.values] if i in wanted else []
            if i == max(wanted):
                break
        mean = taken[0] if len(taken) == 1 else torch.stack(taken).mean(0)
        return Ragged(self.norm(mean), x.offsets)


class TokenProjector(nn.Module):
    """M2D-CLAP's audio projector of 2025 (2503.22104): a learned token before the clip's tokens,
    one block of a single head, and that token normed. Ragged tokens (P, D) -> (B, D)."""

    def __init__(self, width: int, *, depth: int = 1, mlp_ratio: float = 1.0) -> None:
        super().__init__()
        self.sem_token = nn.Parameter(torch.zeros(1, 1, width))
        self.sem_blocks = nn.ModuleList(
            VitBlock(width=width, heads=1, mlp_ratio=mlp_ratio, eps=1e-5) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, 1e-5)
        init_vit(self)

    def forward(self, tokens: Ragged) -> Tensor:
        x = prepend(self.sem_token[0].expand(len(tokens), -1), tokens)
        values = x.values
        for block in self.sem_blocks:
            values = block(values, x.lengths)
        out: Tensor = self.norm(split_first(Ragged(values, x.offsets))[0])
        return out


def init_vit(module: nn.Module) -> None:
    """Matrices Xavier uniform, biases 0 (MAE, 2111.06377; M2D starts as it does)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)


def prepend(first: Tensor, x: Ragged) -> Ragged:
    """first (B, D), x ragged (P, D) -> ragged (P + B, D): row i of `first` before clip i."""
    if len(set(x.lengths)) == 1:  # one copy, where the parts of each clip would be many
        rows = x.values.unflatten(0, (len(x), -1))
        values = torch.cat([first[:, None].to(rows.dtype), rows], 1).flatten(0, 1)
    else:
        parts = zip(first.to(x.values.dtype).unsqueeze(1), x, strict=True)
        values = torch.cat([part for pair in parts for part in pair])
    return Ragged(values, x.offsets + torch.arange(len(x.offsets)))


def split_first(x: Ragged) -> tuple[Tensor, Ragged]:
    """The inverse of `prepend`."""
    offsets = x.offsets - torch.arange(len(x.offsets))
    if len(set(x.lengths)) == 1:
        rows = x.values.unflatten(0, (len(x), -1))
        return rows[:, 0], Ragged(rows[:, 1:].flatten(0, 1), offsets)
    starts = x.offsets[:-1]
    rest = torch.ones(len(x.values), dtype=torch.bool)
    rest[starts] = False
    others = rest.nonzero()[:, 0].to(x.values.device)
    return x.values[starts.to(x.values.device)], Ragged(x.values.index_select(0, others), offsets)


def row_means(x: Ragged, weight: Tensor | None = None) -> Tensor:
    """Ragged (P, D) -> (B, D): the mean of each clip's rows. weight: (P,) of each row."""
    weight = x.values.new_ones(len(x.values)) if weight is None else weight
    clip = torch.arange(len(x)).repeat_interleave(x.offsets.diff()).to(x.values.device)
    total = x.values.new_zeros(len(x), x.values.shape[1])
    total = total.index_add(0, clip, x.values * weight[:, None])
    return total / weight.new_zeros(len(x)).index_add(0, clip, weight)[:, None]


def sin_cos_positions(columns: int, rows: int, width: int) -> Tensor:
    """(columns * R, width) float32, column after column: half of the width for the column, half for
    the row, and of each half the sines, then the cosines.

    Raises ValueError where the width is not four equal parts.
    """
    if width % 4:
        raise ValueError(f"width {width} is not a multiple of 4: sines and cosines of two axes")
    rates = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    time, frequency = (
        torch.cat([angles.sin(), angles.cos()], 1)
        for angles in (torch.arange(n)[:, None] * rates for n in (columns, rows))
    )
    grid = [time[:, None].expand(-1, rows, -1), frequency[None].expand(columns, -1, -1)]
    return torch.cat(grid, 2).flatten(0, 1).float()


def laid(table: Tensor, lengths: Sequence[int]) -> Tensor:
    """The first rows of a table (L, D), as many as each clip has tokens, end to end: (P, D)."""
    if len(set(lengths)) == 1:
        return table[: lengths[0]].repeat(len(lengths), 1)
    return torch.cat([table[:n] for n in lengths])
