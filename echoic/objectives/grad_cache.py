"""Gradient caching (2101.06983): the contrastive loss of all batches of a step, in the memory of
one.

    1. each batch -> its vectors, without a graph
    2. the vectors of all batches (and processes) -> the loss, and its gradient by each vector
    3. each batch again, with a graph: what it back-propagates is the gradient of its vectors

The loss and its gradient are those of one batch of all the step's clips, however they were divided.
Both passes must draw the same: masks and SpecAugment do, as a task draws them from its batch's
seed; for dropout whoever calls sets the process's generators by that seed. A task's other losses
are of a batch, and averaged over batches, as with `accumulate`; so are the statistics of batch
norms.

Whatever has parameters is called as the whole module, in all passes, so that DDP, FSDP and autocast
see what they always see; all gradient reaches the parameters by the third pass.

B clips of a batch, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from echoic.types import Batch

Losses = dict[str, Tensor]


class Pairs(NamedTuple):
    """All that a contrastive loss hangs on. rows: of each kind (B, D), row i matching row i.
    factors: what else learns, such as the scale; not their logarithms. meaning: (B,) ids, as in
    `contrastive_loss`."""

    rows: tuple[Tensor, ...]
    factors: tuple[Tensor, ...]
    meaning: Tensor


Score = Callable[[Pairs], Tensor]


class Forward(Protocol):
    """A task with all that stands around it (device, autocast, DDP); of the same batch it draws the
    same each time."""

    def __call__(self, batch: Batch, score: Score | None = None, /) -> Losses: ...


class PairsTask(nn.Module):
    """A task with a contrastive loss, and maybe others.

    whole_step: the contrastive loss is of all batches of a step, by gradient caching, in place of
    each batch's own.
    """

    def __init__(self, *, whole_step: bool = False) -> None:
        super().__init__()
        self.whole_step = whole_step

    def pairs(self, batch: Batch) -> Pairs:
        """As `losses` hands them to its `score`, and no more work than that takes."""
        raise NotImplementedError

    def score(self, pairs: Pairs) -> Tensor:
        """The contrastive loss, not weighted; a function of nothing else that learns."""
        raise NotImplementedError

    def losses(self, batch: Batch, score: Score) -> Losses:
        """All of them, weighted. score: stands for the method of that name."""
        raise NotImplementedError

    def forward(self, batch: Batch, score: Score | None = None) -> Losses:
        """score: what gradient caching has in place of the task's own."""
        if isinstance(score, _Note):
            score.taken = self.pairs(batch)
            return {}
        return self.losses(batch, score or self.score)

    def losses_of_step(self, forward: Forward, batches: Sequence[Batch]) -> Iterator[Losses]:
        """Named losses of each batch of one step, of which this process has as many as every other.
        Back-propagate their sum over the number of batches before the next ones are asked for.
        forward: this module, as it is to be called."""
        if self.whole_step:
            return _cached(self, forward, batches)
        return (forward(batch) for batch in batches)


def _cached(task: PairsTask, forward: Forward, batches: Sequence[Batch]) -> Iterator[Losses]:
    with torch.no_grad(), _buffers_kept(task):
        noted = [_noted(forward, batch) for batch in batches]
    for batch, again in zip(batches, _replays(task.score, noted), strict=True):
        yield forward(batch, again)  # a name for it here would hold its graph


def _noted(forward: Forward, batch: Batch) -> Pairs:
    note = _Note()
    forward(batch, note)
    assert note.taken is not None, "the task's forward did not reach PairsTask"
    rows, factors, meaning = note.taken
    return Pairs(rows, tuple(each.clone() for each in factors), meaning)  # FSDP frees parameters


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms must not count a batch twice."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    yield
    for buffer, value in before:
        buffer.copy_(value)


class _Note:
    """Takes down what a batch would be scored by."""

    taken: Pairs | None = None

    def __call__(self, pairs: Pairs) -> Tensor:
        raise AssertionError("PairsTask.forward asks for the pairs alone")


@dataclass(frozen=True)
class _Replay:
    """loss: of the whole step. rows, factors: its gradient by those of one batch, times the number
    of batches over which losses are averaged."""

    loss: Tensor
    grads: tuple[Tensor, ...]

    def __call__(self, pairs: Pairs) -> Tensor:
        value: Tensor = _Known.apply(self.loss, self.grads, *pairs.rows, *pairs.factors)
        return value


def _replays(score: Score, noted: Sequence[Pairs]) -> list[_Replay]:
    """Of each batch."""
    counts = [len(pairs.meaning) for pairs in noted]
    kinds = zip(*(pairs.rows for pairs in noted), strict=True)
    with torch.enable_grad():
        rows = tuple(torch.cat(kind).requires_grad_() for kind in kinds)
        factors = tuple(each.clone().requires_grad_() for each in noted[0].factors)
        loss = score(Pairs(rows, factors, torch.cat([pairs.meaning for pairs in noted])))
        grads = torch.autograd.grad(loss, [*rows, *factors], materialize_grads=True)
    # a row is in one batch; a factor is in all, and each gives its part of the mean
    of_rows = [(len(noted) * each).split(counts) for each in grads[: len(rows)]]
    of_factors = grads[len(rows) :]
    return [_Replay(loss.detach(), (*each, *of_factors)) for each in zip(*of_rows, strict=True)]


class _Known(torch.autograd.Function):
    """A loss whose gradient is known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, grads: tuple[Tensor, ...], *of: Tensor) -> Tensor:
        ctx.grads = grads
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(outer[0] * each for each in ctx.grads)
