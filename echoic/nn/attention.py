"""Packed variable-length attention: clips lie end to end in one sequence and never see each other.

SLAP (2601.12594, section 2) packs a whole batch and alternates local sliding-window and global
blocks; its caption decoder attends from words to a clip's tokens. `packed_attention` is the first,
`cross_attention` the second. Each computes the same whichever back end does the work:

| back end | runs on | is |
| --- | --- | --- |
| cpu    | any device             | buckets and bands in plain operations (attention_cpu.py) |
| flex   | CUDA; CPU in inference | flex_attention under a block mask (attention_gpu.py) |
| varlen | CUDA, 16 bits          | torch's own kernel of packed attention (attention_gpu.py) |
| flash  | CUDA, 16 bits          | the package flash-attn (attention_gpu.py) |
| masked | any device             | one dense (P, P) mask: the reference that all must equal |

Without a name the device and the precision of the queries decide.

P tokens of all clips (Pq of queries, Pk of keys), H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoic.nn import attention_cpu, attention_gpu
from echoic.nn.attention_pattern import Lengths as Lengths
from echoic.nn.attention_pattern import Pattern
from echoic.types import ConfigError

Backend = Literal["cpu", "flex", "varlen", "flash", "masked"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Lengths,
    reach: int | None = None,
    *,
    causal: bool = False,
    backend: Backend | None = None,
) -> Tensor:
    """Softmax attention inside each clip of a packed batch.

    q, k, v: (P, H, E). lengths: tokens per clip, in order, summing to P, none 0. reach: a token
    attends to those at most `reach` tokens away (None: the whole clip). causal: and to none after
    it. Returns (P, H, E). Raises ConfigError where the back end cannot run.
    """
    return _outside_graphs(q, k, v, lengths, lengths, reach, causal, backend)


def cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_lengths: Lengths,
    k_lengths: Lengths,
    *,
    backend: Backend | None = None,
) -> Tensor:
    """Softmax attention from the queries of each clip to all of that clip's keys.

    q: (Pq, H, E); k, v: (Pk, H, E). q_lengths, k_lengths: rows of each clip, in order, summing to
    Pq and Pk, none 0; several queries of a clip (words, beams) do not see each other. Returns
    (Pq, H, E). Raises ConfigError where the back end cannot run.
    """
    return _outside_graphs(q, k, v, q_lengths, k_lengths, None, False, backend)


def set_backend(module: nn.Module, backend: Backend | None) -> None:
    """Have every attention layer of a module use that back end; None: what suits its input. It is a
    matter of the machine, not of the model: no file keeps it."""
    for part in module.modules():
        if isinstance(part, AttentionLayer):
            part.backend = backend


class AttentionLayer(nn.Module):
    """What `set_backend` finds: a layer that hands its `backend` to the functions above."""

    backend: Backend | None = None


def _outside_graphs(*arguments: Any) -> Tensor:
    """`_attend`, never a part of a compiled graph: one that knew the lengths would be compiled anew
    for every batch. torch.compile takes what lies between two attentions, once for each number of
    clips."""
    if torch.compiler.is_compiling():
        attend: Callable[..., Tensor] = torch.compiler.disable(_attend)
        return attend(*arguments)
    return _attend(*arguments)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_lengths: Lengths,
    k_lengths: Lengths,
    reach: int | None,
    causal: bool,
    backend: Backend | None,
) -> Tensor:
    pattern = Pattern(q_lengths, k_lengths, reach, causal)
    pattern.check(q, k, v)
    if backend is None:
        backend = cast(Backend, attention_gpu.suited(q.device, q.dtype, q.shape[-1]))
    else:
        if backend not in BACKENDS:
            raise ConfigError(f"no attention back end {backend!r}; there are {', '.join(BACKENDS)}")
        lacking = attention_gpu.lacks(backend, q, k, v)
        if lacking:
            raise ConfigError(f"attention back end {backend!r} {lacking}")
    return _WAYS[backend](q, k, v, pattern)


def _masked(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    mask = pattern.mask(q.device)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1)


_WAYS: dict[str, Callable[[Tensor, Tensor, Tensor, Pattern], Tensor]] = {
    "cpu": attention_cpu.attend,
    "flex": attention_gpu.flex,
    "varlen": attention_gpu.varlen,
    "flash": attention_gpu.flash,
    "masked": _masked,
}
