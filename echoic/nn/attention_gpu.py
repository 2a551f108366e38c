"""Packed attention by the fused kernels of a GPU: the back ends "flex", "varlen" and "flash".

varlen and flash are the same kernel (FlashAttention-2, 2307.08691), of torch and of the package
flash-attn, and want 16 bits; flex (FlexAttention, 2412.05496) is compiled for the pattern and runs
in float32 as well, on the CPU forward only. The patterns' tensors are kept, so that the layers of a
step share them.

B clips, P tokens of all clips (Pq of queries, Pk of keys), H heads, E head width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from echoic.nn.attention_pattern import Lengths, Pattern

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

_BLOCK = 128  # flex attends, or does not, to blocks of so many queries and keys
_HALF = (torch.bfloat16, torch.float16)


def varlen(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """q: (Pq, H, E); k, v: (Pk, H, E). Returns (Pq, H, E)."""
    from torch.nn.attention.varlen import varlen_attn

    mixed = varlen_attn(q, k, v, *_bounds(pattern, q.device), window_size=pattern.window)
    assert isinstance(mixed, Tensor)
    return mixed


def flash(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """q: (Pq, H, E); k, v: (Pk, H, E). Returns (Pq, H, E)."""
    kernel = import_module("flash_attn").flash_attn_varlen_func
    mixed: Tensor = kernel(
        q, k, v, *_bounds(pattern, q.device), causal=pattern.causal, window_size=pattern.window
    )
    return mixed


def flex(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """q: (Pq, H, E); k, v: (Pk, H, E). Returns (Pq, H, E)."""
    mask = block_mask(pattern, q.device)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # (1, H, P, E)
    if q.device.type == "cpu":
        mixed = _flex_eagerly(q, k, v, mask)
    else:
        mixed = _compiled_flex()(q, k, v, block_mask=mask)
    return mixed[0].transpose(0, 1)


def _flex_eagerly(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    with warnings.catch_warnings():  # to compile takes a minute and a compiler
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        mixed = flex_attention(q.detach(), k.detach(), v.detach(), block_mask=mask)
    assert isinstance(mixed, Tensor)
    return mixed


@lru_cache(maxsize=1)
def _compiled_flex() -> Callable[..., Any]:
    """Compiled once for any lengths: a pattern differs from another in tensors only."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


# -- patterns as the kernels want them -------------------------------------------------------------


def _bounds(pattern: Pattern, device: torch.device) -> tuple[Tensor, Tensor, int, int]:
    """Where the clips' queries and keys start, and the most that a clip has of each."""
    q_starts, k_starts = _starts(pattern.queries, device), _starts(pattern.keys, device)
    return q_starts, k_starts, max(pattern.queries), max(pattern.keys)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # kept from an evaluation, it must still serve a training step
def _starts(lengths: Lengths, device: torch.device) -> Tensor:
    """(B + 1,) int32: the row at which each clip starts, and the end."""
    return torch.tensor((0, *lengths)).cumsum(0).to(device, torch.int32)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def block_mask(pattern: Pattern, device: torch.device) -> BlockMask:
    """The pattern for flex_attention. A query attends to one run of keys, so a block of queries to
    one run of blocks; `create_block_mask` would find the same in a dense (Pq, Pk) mask."""
    from torch.nn.attention.flex_attention import BlockMask

    first, last = pattern.runs(device)

    def heard(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (first[query] <= key) & (key <= last[query])

    block = torch.arange(-(-sum(pattern.keys) // _BLOCK), device=device)
    begins = torch.arange(0, len(first), _BLOCK, device=device)
    ends = (begins + _BLOCK - 1).clamp(max=len(first) - 1)
    touched = (first[begins, None] // _BLOCK <= block) & (block <= last[ends, None] // _BLOCK)
    # Full: the block's last query begins to hear no later, its first stops no sooner.
    full = (first[ends, None] <= block * _BLOCK) & ((block + 1) * _BLOCK - 1 <= last[begins, None])
    full &= (ends - begins == _BLOCK - 1)[:, None]
    return BlockMask.from_kv_blocks(
        *_listed(touched & ~full),
        *_listed(full),
        BLOCK_SIZE=_BLOCK,
        mask_mod=heard,
        seq_lengths=(sum(pattern.queries), sum(pattern.keys)),
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) bool -> how many in each row, (1, 1, rows), and which come first, (1, 1,
    rows, columns), int32 both."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]


# -- what can run here -----------------------------------------------------------------------------


@lru_cache(maxsize=64)
def suited(device: torch.device, dtype: torch.dtype, width: int) -> str:
    """The back end for queries of head width `width` where none is named."""
    if device.type != "cuda":
        return "cpu"
    if not _lacks_half(device, dtype, width):
        return "varlen"
    return "cpu" if _lacks_compiler() else "flex"


def lacks(backend: str, q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """What a back end lacks to take this input; None where it can."""
    if backend == "varlen":
        return _lacks_half(q.device, q.dtype, q.shape[-1])
    if backend == "flash":
        missing = None if _installed("flash_attn") else "needs the package flash-attn"
        return missing or _lacks_half(q.device, q.dtype, q.shape[-1])
    if backend == "flex" and q.device.type == "cuda":
        return _lacks_compiler()
    if backend == "flex" and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return f"has no backward pass on {q.device.type}: it needs CUDA, or torch.no_grad()"
    return None


@lru_cache(maxsize=64)
def _lacks_half(device: torch.device, dtype: torch.dtype, width: int) -> str | None:
    if device.type != "cuda" or dtype not in _HALF:
        named = str(dtype).removeprefix("torch.")
        return f"needs bfloat16 or float16 on CUDA, not {named} on {device.type}"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return "needs a GPU of compute capability 8.0 or more, not {}.{}".format(*capability)
    if width % 8 or width > 256:
        return f"needs a head width that is a multiple of 8, at most 256, not {width}"
    return None


def _lacks_compiler() -> str | None:
    return None if _installed("triton") else "needs the package triton on CUDA"


@lru_cache(maxsize=8)
def _installed(package: str) -> bool:
    return find_spec(package) is not None
