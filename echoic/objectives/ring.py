"""Text rows that travel around the processes, for losses in blocks (chunked.py).

Each process keeps its audio rows and sees the text rows of one process after the other; what they
gather on the way (a log-sum-exp, a gradient) goes with them and comes home in the end. So none ever
holds the rows of all, and each waits for its neighbours alone (as in ring attention, 2310.01889).
While one process's rows are at work, the next ones are on their way.

C text rows that visit, D width, W processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from echoic.objectives.chunked import InBlocks, Join, Travel, Visitors, Work


class Ring(InBlocks):
    """Text rows travel from neighbour to neighbour."""

    def travel(self, counts: Sequence[int]) -> Travel:
        return _Round(tuple(counts), dist.get_rank())


@dataclass(frozen=True)
class _Round:
    """counts: rows of each process. rank: of this one, which hands on to the next."""

    counts: tuple[int, ...]
    rank: int

    def __call__(
        self, own: Visitors, start: Callable[[int], Tensor], work: Work, join: Join
    ) -> Tensor:
        world = len(self.counts)
        seen, carried = own, start(len(own.rows))
        for hop in range(world):
            # of whom the rows are that come next; after the last hop these are its own
            coming = self.counts[(self.rank - hop - 1) % world]
            rows = self._exchange(seen, coming) if hop < world - 1 else None
            work(seen, carried)
            (carried,) = self._exchange([carried], coming, tag=len(own))()
            if rows is not None:
                seen = Visitors(*rows())
        return carried

    def _exchange(
        self, sent: Sequence[Tensor], coming: int, tag: int = 0
    ) -> Callable[[], list[Tensor]]:
        """Begin to hand tensors (C, ...) on, and to take those of `coming` rows; returns what waits
        for them."""
        world = len(self.counts)
        after, before = (self.rank + 1) % world, (self.rank - 1) % world
        sent = [each.contiguous() for each in sent]
        taken = [each.new_empty(coming, *each.shape[1:]) for each in sent]
        moves = []
        for place, (out, into) in enumerate(zip(sent, taken, strict=True), start=tag):
            # without rows there is nothing to send, and the other side knows
            if out.numel():
                moves.append(dist.P2POp(dist.isend, out, after, tag=place))
            if into.numel():
                moves.append(dist.P2POp(dist.irecv, into, before, tag=place))
        works = dist.batch_isend_irecv(moves) if moves else []

        def wait() -> list[Tensor]:
            for each in works:
                each.wait()
            del sent[:]  # held until they were sent
            return taken

        return wait
