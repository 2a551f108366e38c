"""Packed attention at the cost of its tokens, in plain tensor operations: the back end "cpu".

Clips of about equal length share one call (filled up to the longest of them). A window over long
clips needs no filling at all: laid end to end they are cut into blocks of queries, each against its
block of keys and the margins that the window adds, a view of the keys and not a copy. So a token
costs the same in a clip of 200 and of 752.

P tokens of all clips, H heads, E head width; of a bucket: n clips, Lq and Lk queries and keys of
the longest; of the bands: b blocks of S queries, each against W keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from echoic.nn.attention_pattern import Lengths, Pattern, within

# A bucket takes clips down to this share of its longest, or this many tokens below it: little
# filling, few calls.
_BUCKET_SHARE, _BUCKET_TOKENS = 0.8, 32
# So few queries cost less than a copy of their keys does: each clip alone, on views.
_FEW_QUERIES = 32
# Queries of a block; a clip longer than so many windows of a block is cut into blocks.
_BLOCK, _BANDS_FROM = 48, 1.3


def attend(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """q: (Pq, H, E); k, v: (Pk, H, E). Returns (Pq, H, E)."""
    plan = _plan(pattern, q.device, q.dtype)
    q, k, v = plan.queries.lay(q), plan.keys.lay(k), plan.keys.lay(v)
    if len(plan.parts) == 1:
        return plan.queries.back(plan.parts[0].attend(q, k, v))
    query_rows = [part.query_rows for part in plan.parts]
    key_rows = [part.key_rows for part in plan.parts]
    split = zip(plan.parts, q.split(query_rows), k.split(key_rows), v.split(key_rows), strict=True)
    return plan.queries.back(torch.cat([part.attend(*rows) for part, *rows in split]))


class _Part(Protocol):
    """Clips that share one call: query_rows and key_rows of the grids are theirs."""

    @property
    def query_rows(self) -> int: ...

    @property
    def key_rows(self) -> int: ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class _Bucket:
    """Clips filled up to the longest. bias: (n or 1, 1, Lq or 1, Lk) added to the scores."""

    clips: int
    queries: int
    keys: int
    bias: Tensor | None
    causal: bool

    @property
    def query_rows(self) -> int:
        return self.clips * self.queries

    @property
    def key_rows(self) -> int:
        return self.clips * self.keys

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.unflatten(0, (self.clips, -1)).transpose(1, 2) for x in (q, k, v))
        return _softmax_attention(q, k, v, self.bias, self.causal).transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True)
class _Bands:
    """Clips end to end, under one window. bias: (b, 1, S, W)."""

    rows: int
    window: tuple[int, int]
    bias: Tensor

    @property
    def query_rows(self) -> int:
        return self.rows

    @property
    def key_rows(self) -> int:
        return self.rows

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        blocks, _, _, span = self.bias.shape
        fill, (before, after) = blocks * _BLOCK - self.rows, self.window
        q = F.pad(q, (0, 0, 0, 0, 0, fill)).unflatten(0, (blocks, _BLOCK)).transpose(1, 2)
        k, v = (F.pad(x, (0, 0, 0, 0, before, fill + after)) for x in (k, v))
        k, v = (_windows(x, blocks, span).transpose(1, 2) for x in (k, v))  # (b, H, W, E)
        out = _softmax_attention(q, k, v, self.bias, causal=False)
        return out.transpose(1, 2).flatten(0, 1)[: self.rows]


def _softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool
) -> Tensor:
    """Plain attention, (n, H, Lq, E). In bfloat16 on the CPU the fused kernel takes up to twice as
    long as the products written out, its backward pass three to four times
    (benchmarks/attention.py); in float32 it is the quicker one, and keeps no (Lq, Lk)."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal)
    with torch.autocast("cpu", enabled=False):  # the softmax sums in float32 as it is
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if causal:
            bias = torch.full_like(scores[:1, :1], -torch.inf).triu(1)
        return (scores if bias is None else scores + bias).softmax(-1) @ v


# -- rows laid anew --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grid:
    """The rows of the pack in the order in which the parts take them, what only fills included.

    source: (G,) the row of the pack that each row of the grid repeats; place: (P,) where each row
    of the pack lies. None where the pack already is the grid.
    """

    source: Tensor | None
    place: Tensor | None

    def lay(self, x: Tensor) -> Tensor:
        """(P, H, E) -> (G, H, E)."""
        if self.source is None:
            return x
        laid: Tensor = _Lay.apply(x, self.source, self.place)
        return laid

    def back(self, x: Tensor) -> Tensor:
        """(G, H, E) -> (P, H, E)."""
        return x if self.place is None else x.index_select(0, self.place)


class _Lay(torch.autograd.Function):
    """Rows of the grid. What fills is heard by none and asks nothing that is used, so nothing comes
    back through it: backward is a selection as well, where autograd's would be a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return x.index_select(0, source)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return upstream.index_select(0, place), None, None


def _windows(x: Tensor, blocks: int, span: int) -> Tensor:
    """(b S + W - S, H, E) -> (b, W, H, E): a window from every S-th row on, overlapping views."""
    windows: Tensor = _Windows.apply(x, blocks, span)
    return windows


class _Windows(torch.autograd.Function):
    """`as_strided` with a backward pass of a few additions, where autograd's goes row by row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: int, span: int) -> Tensor:
        ctx.rows = len(x)
        return _overlapping(x, blocks, span, start=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        total = upstream.new_zeros(ctx.rows, *upstream.shape[2:])
        start = 0
        for piece in upstream.split(_BLOCK, 1):  # pieces of one block's rows do not overlap
            _overlapping(total, len(piece), piece.shape[1], start).add_(piece)
            start += piece.shape[1]
        return total, None, None


def _overlapping(x: Tensor, blocks: int, span: int, start: int) -> Tensor:
    step = x.stride(0)
    shape, strides = (blocks, span, *x.shape[1:]), (_BLOCK * step, *x.stride())
    return x.as_strided(shape, strides, x.storage_offset() + start * step)


# -- planning --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    queries: _Grid
    keys: _Grid
    parts: tuple[_Part, ...]


@lru_cache(maxsize=12)  # every layer of a step asks for the same
@torch.inference_mode(False)  # kept from an evaluation, it must still serve a training step
def _plan(pattern: Pattern, device: torch.device, dtype: torch.dtype) -> _Plan:
    before, after = pattern.window
    long = _BANDS_FROM * (before + _BLOCK + after)
    local = pattern.reach is not None
    banded = [i for i, n in enumerate(pattern.queries) if local and n > long]
    groups = [[i] for i in banded]  # nothing of them is filled
    parts: list[_Part] = []
    if banded:
        parts.append(_bands([pattern.queries[i] for i in banded], pattern.window, device, dtype))
    for members in _groups(pattern, set(range(len(pattern.queries))) - set(banded)):
        groups.append(members)
        parts.append(_bucket(pattern, members, device, dtype))
    queries = _grid(pattern.queries, groups, device)
    keys = queries if pattern.keys == pattern.queries else _grid(pattern.keys, groups, device)
    return _Plan(queries, keys, tuple(parts))


def _groups(pattern: Pattern, clips: set[int]) -> Iterator[list[int]]:
    """The clips of each bucket."""
    queries, keys = pattern.queries, pattern.keys
    if max(queries) <= _FEW_QUERIES and len(set(keys)) > 1 and max(keys) > _BUCKET_TOKENS:
        yield from ([i] for i in sorted(clips))
        return
    while clips:
        members = sorted(clips)
        for lengths in (keys, queries):
            longest = max(lengths[i] for i in members)
            shortest = min(_BUCKET_SHARE * longest, longest - _BUCKET_TOKENS)
            members = [i for i in members if lengths[i] >= shortest]
        clips = clips.difference(members)
        yield members


def _grid(lengths: Lengths, groups: list[list[int]], device: torch.device) -> _Grid:
    """A clip is filled with its own last row: what is not finite stays in its clip."""
    starts = torch.tensor((0, *lengths)).cumsum(0)
    sources, reals = [], []
    for members in groups:
        length = torch.tensor([lengths[i] for i in members])[:, None]
        row = torch.arange(int(length.max()))
        sources.append((starts[members][:, None] + torch.minimum(row, length - 1)).flatten())
        reals.append((row < length).flatten())
    source, real = torch.cat(sources), torch.cat(reals)
    if torch.equal(source, torch.arange(len(source))):
        return _Grid(None, None)
    place = torch.empty(sum(lengths), dtype=torch.int64)
    place[source[real]] = real.nonzero()[:, 0]
    return _Grid(source.to(device), place.to(device))


def _bucket(
    pattern: Pattern, members: list[int], device: torch.device, dtype: torch.dtype
) -> _Bucket:
    queries = max(pattern.queries[i] for i in members)
    length = torch.tensor([pattern.keys[i] for i in members])
    keys = int(length.max())
    # Behind a clip's last row only filling follows, which causality hides from it.
    causal = pattern.causal and (pattern.reach is None or pattern.reach + 1 >= keys)
    heard = None
    if not causal and int(length.min()) < keys:
        heard = (torch.arange(keys) < length[:, None])[:, None, None]  # (n, 1, 1, Lk)
    if pattern.reach is not None and pattern.reach + 1 < keys:
        ahead = torch.arange(keys) - torch.arange(queries)[:, None]
        near = within(ahead, *pattern.window)[None, None]
        # A row that only fills hears itself, so that none is empty.
        heard = near if heard is None else near & (heard | (ahead == 0))
    bias = None if heard is None else _as_bias(heard, device, dtype)
    return _Bucket(len(members), queries, keys, bias, causal)


def _bands(
    lengths: list[int], window: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> _Bands:
    rows, (before, after) = sum(lengths), window
    blocks, span = -(-rows // _BLOCK), before + _BLOCK + after
    clip = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    fill = blocks * _BLOCK - rows
    query = F.pad(clip, (0, fill), value=-1).unflatten(0, (blocks, _BLOCK))
    key = F.pad(clip, (before, fill + after), value=-2).unfold(0, span, _BLOCK)  # (b, W)
    ahead = torch.arange(span) - torch.arange(_BLOCK)[:, None] - before
    heard = (query[:, :, None] == key[:, None]) & within(ahead, before, after)
    heard |= ahead == 0  # a row that only fills hears itself, so that none is empty
    return _Bands(rows, window, _as_bias(heard[:, None], device, dtype))


def _as_bias(heard: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.zeros(heard.shape, dtype=dtype).masked_fill(~heard, -torch.inf).to(device)
