"""Who attends to whom in a packed batch: what every back end of `echoic.nn.attention` is told.

A query attends to keys of its own clip only: all of them, those near it (the sliding window of
SLAP, 2601.12594, section 2), or those up to itself. Clips lie end to end, so it always attends to
one run of keys.

B clips, P tokens of all clips (Pq of queries, Pk of keys).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Lengths = tuple[int, ...]


@dataclass(frozen=True)
class Pattern:
    """queries, keys: rows of each clip, in order. reach: a query attends to keys at most that many
    rows away (None: any). causal: to none after it. Hashable: what is computed of it is kept.

    Raises ValueError on a clip without rows, and on a window or causality between unlike rows.
    """

    queries: Lengths
    keys: Lengths
    reach: int | None = None
    causal: bool = False

    def __post_init__(self) -> None:
        if len(self.queries) != len(self.keys):
            raise ValueError(f"queries of {len(self.queries)} clips, keys of {len(self.keys)}")
        if not self.queries or min(*self.queries, *self.keys) < 1:
            raise ValueError("attention needs at least one query and one key in every clip")
        if (self.reach is not None or self.causal) and self.queries != self.keys:
            raise ValueError("a window and causality are for queries and keys of the same rows")

    @property
    def window(self) -> tuple[int, int]:
        """Keys before and after a query that it attends to; -1: any number of them."""
        reach = -1 if self.reach is None else self.reach
        return reach, 0 if self.causal else reach

    def check(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Raises ValueError where the rows are not those that the lengths say."""
        wanted, found = (sum(self.queries), sum(self.keys)), (len(q), len(k))
        if wanted != found or len(k) != len(v):
            raise ValueError(f"lengths of {wanted} queries and keys, but {found} of them are given")

    def mask(self, device: torch.device) -> Tensor:
        """(Pq, Pk) bool: may query i attend to key j."""
        query_clip, key_clip = (
            torch.repeat_interleave(torch.arange(len(n)), torch.tensor(n)).to(device)
            for n in (self.queries, self.keys)
        )
        mask = query_clip[:, None] == key_clip
        before, after = self.window
        if before >= 0 or after >= 0:
            ahead = torch.arange(len(key_clip)) - torch.arange(len(query_clip))[:, None]
            mask &= within(ahead.to(device), before, after)
        return mask

    def runs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The first and the last key that each query attends to, (Pq,) int32 each. Neither ever
        falls from one query to the next."""
        ends = torch.tensor(self.keys).cumsum(0)
        counts = torch.tensor(self.queries)
        last = (ends - 1).repeat_interleave(counts)
        first = (ends - torch.tensor(self.keys)).repeat_interleave(counts)
        before, after = self.window
        at = torch.arange(len(first))
        if before >= 0:
            first = torch.maximum(first, at - before)
        if after >= 0:
            last = torch.minimum(last, at + after)
        return first.to(device, torch.int32), last.to(device, torch.int32)


def within(ahead: Tensor, before: int, after: int) -> Tensor:
    """Is a key that lies so many rows ahead of its query inside a window? Same shape, bool."""
    inside = torch.ones_like(ahead, dtype=torch.bool)
    if before >= 0:
        inside &= ahead >= -before
    if after >= 0:
        inside &= ahead <= after
    return inside
