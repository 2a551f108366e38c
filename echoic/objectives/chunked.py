"""A loss of all pairs that never holds all pairs: contrastive losses in memory-saving forms.

The scores of some audio rows against some text rows are one block. Forward, each block leaves what
the loss needs of its rows and columns (for the softmax a running log-sum-exp, as in 1805.02867) and
is gone; backward, it is made again and becomes gradient at once. A block serves both directions, so
that this takes two thirds of the products of the exact form, which scores audio against text and
text against audio.

Over several processes each has its own audio rows, and the text rows of all come by:

    Chunked()   all together, gathered; each process holds all rows
    Ring()      (ring.py) those of one process at a time; none holds more than two others' rows

Averaged over processes, as DDP does, loss and gradient are those of the exact form.

B pairs of this process, N of all, C text rows that visit, (q, c) a block, D width, W processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from echoic.nn.linear import linear
from echoic.objectives.gather import Ranks, all_counts, constant, processes, shared_ids


class Rule(Protocol):
    """What a loss makes of scores z (q, c) and of `same` (q, c), whether row and column say the
    same. rows: (q, r) and columns: (c,) are what blocks leave, in views that `add` writes to."""

    def start(self, like: Tensor) -> tuple[Tensor, float]:
        """Before any block: (r,) of each row, on the device of `like`, and the value of each
        column."""
        ...

    def add(self, z: Tensor, same: Tensor, rows: Tensor, columns: Tensor) -> None: ...

    def join(self, parts: Tensor) -> Tensor:
        """Columns of several processes' rows (W, c) -> (c,)."""
        ...

    def total(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The part of these rows and columns, once all blocks were added, in N times the loss."""
        ...

    def slope(self, z: Tensor, same: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """(q, c): N times the loss differentiated by each score."""
        ...


class Visitors(NamedTuple):
    """Text rows (C, D), their ids (C,), and what the columns of their scores came to (C,)."""

    rows: Tensor
    ids: Tensor
    columns: Tensor


# What a process does with visitors and with what they carry home (C, ...), which it changes.
Work = Callable[[Visitors, Tensor], None]
# Values of several processes (W, ...) -> (...)
Join = Callable[[Tensor], Tensor]


class Travel(Protocol):
    """Shows this process the text rows of all, and all processes its own."""

    def __call__(
        self, own: Visitors, start: Callable[[int], Tensor], work: Work, join: Join
    ) -> Tensor:
        """start: for a number of rows, what they carry at first. Returns what its own rows brought
        home, joined where processes wrote to it apart."""
        ...


@dataclass(frozen=True)
class InBlocks(ABC):
    """side: rows and columns of a block, whose scores are all that is held of (N, N)."""

    side: int = 2048

    @abstractmethod
    def travel(self, counts: Sequence[int]) -> Travel:
        """Between processes that have so many rows each, two or more."""


class Chunked(InBlocks):
    """All text rows are gathered."""

    def travel(self, counts: Sequence[int]) -> Travel:
        return partial(_gathered, counts)


# How the rows of several processes meet: with all scores at once, or in blocks.
Meeting = Ranks | InBlocks


def loss_in_blocks(
    rule: Rule,
    form: InBlocks,
    audio: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    meaning: Tensor | None,
) -> Tensor:
    """Of scores scale * audio @ text.T + bias. audio, text: (B, D) of length 1; scale, bias: one
    value each; meaning: (B,) ids or None, as in `contrastive_loss`. Back-propagate it with the same
    factor on all processes. Returns a scalar, of which the mean over processes is the loss."""
    alone = processes() == 1
    counts = [len(audio)] if alone else all_counts(audio)
    place = 0 if alone else dist.get_rank()
    ids = shared_ids(audio, counts, place, meaning)
    share = len(counts) / max(1, sum(counts))
    plan = _Plan(rule, form.side, _at_home if alone else form.travel(counts), ids, share)
    loss: Tensor = _InBlocks.apply(audio, text, scale, bias, plan)
    return loss


@dataclass(frozen=True)
class _Plan:
    """ids: (B,). share: W / N, of the rule's sums in this process's loss."""

    rule: Rule
    side: int
    travel: Travel
    ids: Tensor
    share: float

    def blocks(self, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
        for i in range(0, rows, self.side):
            for j in range(0, columns, self.side):
                yield slice(i, i + self.side), slice(j, j + self.side)


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, audio: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, plan: _Plan
    ) -> Tensor:
        rule, ids = plan.rule, plan.ids
        of_row, of_column = rule.start(audio)
        rows = of_row.repeat(len(audio), 1)

        def work(seen: Visitors, columns: Tensor) -> None:
            for i, j in plan.blocks(len(audio), len(seen.rows)):
                z = _scores(audio[i], seen.rows[j], scale, bias)
                rule.add(z, ids[i, None] == seen.ids[j], rows[i], columns[j])

        def start(count: int) -> Tensor:
            return audio.new_full((count,), of_column)

        own = Visitors(text, ids, start(len(text)))
        columns = plan.travel(own, start, work, rule.join)
        ctx.save_for_backward(audio, text, scale, bias, rows, columns)
        ctx.plan = plan
        return plan.share * rule.total(rows, columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        plan, (audio, text, scale, bias, rows, columns) = ctx.plan, ctx.saved_tensors
        by_audio, by_bias = torch.zeros_like(audio), audio.new_zeros(())

        def work(seen: Visitors, by_text: Tensor) -> None:
            for i, j in plan.blocks(len(audio), len(seen.rows)):
                z = _scores(audio[i], seen.rows[j], scale, bias)
                same = plan.ids[i, None] == seen.ids[j]
                slope = plan.rule.slope(z, same, rows[i], seen.columns[j])
                by_audio[i] += linear(slope, seen.rows[j].t())
                by_text[j] += linear(slope.t(), audio[i].t())
                by_bias.add_(slope.sum())

        def start(count: int) -> Tensor:
            return text.new_zeros(count, text.shape[1])

        by_text = plan.travel(Visitors(text, plan.ids, columns), start, work, _sum)
        factor = grads[0] * plan.share
        by_scale = (factor * (by_audio * audio).sum()).reshape(scale.shape)
        step = factor * scale.reshape(())
        of_bias = None if bias is None else (factor * by_bias).reshape(bias.shape)
        return step * by_audio, step * by_text, by_scale, of_bias, None


def _scores(audio: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """(q, D), (c, D) -> (q, c)."""
    z = linear(scale.reshape(()) * audio, text)
    return z if bias is None else z.add_(bias.reshape(()))


def _sum(parts: Tensor) -> Tensor:
    return parts.sum(0)


def _at_home(own: Visitors, start: Callable[[int], Tensor], work: Work, join: Join) -> Tensor:
    """In a world of one."""
    carried = start(len(own.rows))
    work(own, carried)
    return carried


def _gathered(
    counts: Sequence[int], own: Visitors, start: Callable[[int], Tensor], work: Work, join: Join
) -> Tensor:
    carried = start(sum(counts))
    work(Visitors(*(constant(each, counts) for each in own)), carried)
    world, count = len(counts), len(own.rows)
    parts = carried.new_empty(world * count, *carried.shape[1:])
    dist.all_to_all_single(parts, carried, [count] * world, list(counts))
    return join(parts.unflatten(0, (world, count)))
