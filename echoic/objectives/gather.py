"""Rows of all processes brought together, so that a contrastive loss sees the whole batch.

A loss scores queries against candidates. What these are over several processes is a part that the
loss is handed (open_clip's and LAION-CLAP's options in brackets):

    Alone()                     this process's rows against each other, whoever else runs
    OwnQueries()                its own rows against all                  [local_loss]
    AllQueries()                all rows against all, on every process    [no local_loss]

and each of the last two is handed how rows are gathered: `with_gradient` [gather_with_grad],
`own_gradient` (other processes' rows are constants) or `constant`. With gradient, both give,
averaged over processes as DDP does, the gradient of the one-process loss of the whole batch;
OwnQueries computes the W-th part of the logits for it. Processes may hold different numbers of
rows. In a world of one nothing is gathered, copied or awaited. All of these hold all scores at
once; chunked.py and ring.py have forms that do not.

B rows of this process, N rows of all, Q queries, D width, W processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

Gather = Callable[[Tensor, Sequence[int]], Tensor]

# torch 2.13 has these under other names and warns of the old ones
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Side(NamedTuple):
    """queries: (Q, D) rows that this process scores. candidates: (N, D) what against."""

    queries: Tensor
    candidates: Tensor


@dataclass(frozen=True)
class Met:
    """sides: of each kind of rows. target: (Q, N), each row sums to 1: the share of each candidate
    in what a query should find. shares: among how many processes the queries are divided.
    """

    sides: tuple[Side, ...]
    target: Tensor
    shares: int


class Ranks(Protocol):
    """How the rows of the processes meet."""

    def meet(self, kinds: Sequence[Tensor], meaning: Tensor | None) -> Met:
        """kinds: several kinds of rows (B, D), row i of one matching row i of the others. meaning:
        (B,) ids; rows of equal id match too, whichever process has them. None: none does."""
        ...


class Alone:
    """This process's rows against each other."""

    def meet(self, kinds: Sequence[Tensor], meaning: Tensor | None) -> Met:
        rows = kinds[0]
        ids = torch.arange(len(rows), device=rows.device) if meaning is None else meaning
        return Met(tuple(Side(each, each) for each in kinds), _target(ids, ids, rows.dtype), 1)


ALONE = Alone()


def with_gradient(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """(B, D) -> (N, D); the gradient of a row is summed over all processes that used it."""
    gathered: Tensor = _Gather.apply(rows, tuple(counts))
    return gathered


def own_gradient(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """(B, D) -> (N, D); only this process's own rows carry gradient."""
    parts = list(constant(rows, counts).split(list(counts)))
    parts[dist.get_rank()] = rows
    return torch.cat(parts)


@torch.no_grad()
def constant(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """(B, D) -> (N, D) without gradient."""
    longest = max(counts)
    padded = F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, longest - len(rows))).contiguous()
    gathered = padded.new_empty(longest * len(counts), *rows.shape[1:])
    _all_gather(gathered, padded)
    if min(counts) == longest:
        return gathered
    blocks = gathered.split(longest)
    return torch.cat([block[:n] for block, n in zip(blocks, counts, strict=True)])


@dataclass(frozen=True)
class OwnQueries:
    """Each process scores its own rows against all."""

    gather: Gather = with_gradient

    def meet(self, kinds: Sequence[Tensor], meaning: Tensor | None) -> Met:
        if processes() == 1:
            return ALONE.meet(kinds, meaning)
        counts = all_counts(kinds[0])
        sides = map(Side, kinds, _gathered(kinds, counts, self.gather))
        ids = _ids(kinds[0], counts, meaning)
        own = ids.split(list(counts))[dist.get_rank()]
        return Met(tuple(sides), _target(own, ids, kinds[0].dtype), len(counts))


@dataclass(frozen=True)
class AllQueries:
    """Each process scores all rows against all."""

    gather: Gather = with_gradient

    def meet(self, kinds: Sequence[Tensor], meaning: Tensor | None) -> Met:
        if processes() == 1:
            return ALONE.meet(kinds, meaning)
        counts = all_counts(kinds[0])
        sides = (Side(rows, rows) for rows in _gathered(kinds, counts, self.gather))
        ids = _ids(kinds[0], counts, meaning)
        return Met(tuple(sides), _target(ids, ids, kinds[0].dtype), 1)


class _Gather(torch.autograd.Function):
    """All-gather forward, reduce-scatter (sum) backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.counts = counts
        return constant(rows, counts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad, counts = grads[0], ctx.counts
        longest, own = max(counts), counts[dist.get_rank()]
        blocks = [
            F.pad(g, (0, 0) * (g.ndim - 1) + (0, longest - len(g))) for g in grad.split(counts)
        ]
        summed = grad.new_empty(longest, *grad.shape[1:])
        _reduce_scatter(summed, torch.cat(blocks))
        return summed[:own], None


def _gathered(kinds: Sequence[Tensor], counts: Sequence[int], gather: Gather) -> list[Tensor]:
    """All kinds in one exchange, as they wait for each other."""
    widths = [rows.shape[1] for rows in kinds]
    return list(gather(torch.cat(list(kinds), dim=1), counts).split(widths, dim=1))


_apart = [False]


@contextmanager
def alone() -> Iterator[None]:
    """Inside, a loss is this process's own, as in a world of one: where the others do not take
    part, as in an evaluation on one rank, whoever waited for them would hang."""
    _apart.append(True)
    try:
        yield
    finally:
        _apart.pop()


def processes() -> int:
    """How many there are; 1 where torch.distributed was not started, and inside `alone`."""
    ready = dist.is_available() and dist.is_initialized() and not _apart[-1]
    return dist.get_world_size() if ready else 1


def mean_count(own: int, like: Tensor) -> Tensor | int:
    """How many rows a process has, on average over all: the divisor of a sum of own rows of which
    the average over processes, as DDP takes it, is the mean over all rows of all. Of no rows at all
    a sum is 0, so any divisor will do."""
    if processes() == 1:
        return max(own, 1)
    count = like.detach().new_tensor(own)
    dist.all_reduce(count)
    return count.clamp(min=1) / processes()


def mean_over_all(each: Tensor) -> Tensor:
    """(n,) -> scalar, of which the average over the processes, as DDP takes it, is the mean over
    all rows of all: processes have different numbers of clips and patches."""
    return each.mean() if processes() == 1 else each.sum() / mean_count(len(each), each)


def all_counts(rows: Tensor) -> list[int]:
    """How many rows each process has: batches by token budget differ."""
    counts = torch.empty(processes(), dtype=torch.int64, device=rows.device)
    _all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    return [int(n) for n in counts.tolist()]


def _ids(rows: Tensor, counts: Sequence[int], meaning: Tensor | None) -> Tensor:
    """(N,) ids of all rows, equal where rows match."""
    if meaning is None:
        return torch.arange(sum(counts), device=rows.device)
    return constant(meaning, counts)


def shared_ids(rows: Tensor, counts: Sequence[int], place: int, meaning: Tensor | None) -> Tensor:
    """(B,) ids of this process's rows, equal to those of other processes where rows match. place:
    of this process in counts."""
    if meaning is not None:
        return meaning
    first = sum(counts[:place])
    return torch.arange(first, first + len(rows), device=rows.device)


def _target(queries: Tensor, candidates: Tensor, dtype: torch.dtype) -> Tensor:
    """(Q, N) from the ids of both."""
    same = (queries[:, None] == candidates[None, :]).to(dtype)
    return same / same.sum(dim=1, keepdim=True)
