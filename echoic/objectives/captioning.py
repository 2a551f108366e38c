"""The captioning loss of SLAP (2601.12594, eq. 5): mean cross-entropy of each token of a caption
after those before it (teacher forcing), given what is heard.

Logits of a whole batch over 50 000 words are larger than the model. Here they are made for some
tokens at a time, together with the gradients that follow from them, and forgotten.

B clips, P audio tokens of all clips, M tokens that are foretold, V vocabulary, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from echoic.nn.linear import linear
from echoic.objectives.gather import mean_count
from echoic.types import DataError, Ragged

# Logits that are held at once: 64 MiB of float32.
_LOGITS = 2**24


class Decoder(Protocol):
    """What the loss needs of a decoder: logits are states @ embedding.weight.T."""

    embedding: nn.Embedding

    def states(self, heard: Ragged, text: Ragged, *, parallel: bool = False) -> Tensor:
        """Audio tokens (P, ...) and ids (M,) -> (M, D): row i says what follows token i."""
        ...


class CaptionLoss(NamedTuple):
    """loss: scalar; its mean over the processes is the mean over all tokens of all. accuracy:
    share of this process's tokens that the decoder would have said, without gradient."""

    loss: Tensor
    accuracy: Tensor


def caption_loss(
    decoder: Decoder, heard: Ragged, text: Ragged, *, parallel: bool = False
) -> CaptionLoss:
    """heard: audio tokens (P, ...); text: ids (ΣL,) of one caption per clip, framed: the first of a
    row is given, each other is foretold. parallel: all at once, from the sound alone (`states` of
    the decoder). Raises DataError on a caption without anything to foretell."""
    shorter = [n - 1 for n in text.lengths]
    if min(shorter) < 1:
        raise DataError(
            f"caption {shorter.index(min(shorter))} of the batch has {min(text.lengths)} tokens; "
            "it needs two at least, where it begins and where it ends"
        )
    first, last = text.offsets[:-1], text.offsets[1:] - 1
    given = Ragged.from_lengths(_without(text.values, last), shorter)
    states = decoder.states(heard, given, parallel=parallel)
    total, right = summed_cross_entropy(
        states, decoder.embedding.weight, _without(text.values, first)
    )
    count = len(states)
    return CaptionLoss(total / mean_count(count, right), right / count)


def summed_cross_entropy(
    states: Tensor, weight: Tensor, target: Tensor, *, most_logits: int = _LOGITS
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the logits states (M, D) @ weight (V, D).T with target (M,), summed, and how
    many targets have the largest logit: two scalars, float32. The product is made in the type of
    autocast, the rest in float32. At most so many logits are held at once."""
    device = states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    rows = max(1, most_logits // len(weight))
    learns = torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad)
    if learns:
        total, right = _Summed.apply(states, weight, target, rows, dtype)
        return total, right
    with torch.no_grad():
        return _in_parts(states, weight, target, rows, dtype, None)


class _Summed(torch.autograd.Function):
    """The gradients of a sum are known as soon as the logits are: the backward pass but scales
    them."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, target: Tensor, rows: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        grads = torch.empty_like(states), torch.zeros_like(weight)
        total, right = _in_parts(states, weight, target, rows, dtype, grads)
        ctx.save_for_backward(*grads)
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        states, weight = ctx.saved_tensors
        return grad * states, grad * weight, None, None, None


def _in_parts(
    states: Tensor,
    weight: Tensor,
    target: Tensor,
    rows: int,
    dtype: torch.dtype,
    grads: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """The two sums, so many states at a time; grads: filled with the gradients of the first, to
    states (empty) and weight (zeros)."""
    total, right = (torch.zeros((), device=states.device) for _ in range(2))
    with torch.autocast(states.device.type, enabled=False):
        narrow = weight.to(dtype)
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            given, sought = states[part].to(dtype), target[part, None]
            logits = linear(given, narrow).float()
            top, said = logits.max(1, keepdim=True)
            logits -= top
            wanted = logits.gather(1, sought)
            mass = logits.exp_()
            whole = mass.sum(1, keepdim=True)
            total += (whole.log() - wanted).sum()
            right += (said == sought).sum()
            if grads is not None:
                error = mass.div_(whole)  # softmax, less 1 at the target
                error = error.scatter_add_(1, sought, torch.full_like(wanted, -1)).to(dtype)
                grads[0][part] = linear(error, narrow.t())
                grads[1].add_(linear(error.t(), given.t()))
    return total, right


def _without(values: Tensor, places: Tensor) -> Tensor:
    """values (n,) without those at places, on the CPU."""
    kept = torch.ones(len(values), dtype=torch.bool)
    kept[places] = False
    return values[kept.nonzero()[:, 0].to(values.device)]
