"""Symmetric contrastive loss (InfoNCE; CLIP 2103.00020, CLAP 2211.06687 eq. 1, SLAP 2601.12594 eq.
3).

B pairs of this process, Q queries, N candidates (gather.py), D embedding width, (q, c) a block of
scores (chunked.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from echoic.objectives.chunked import InBlocks, Meeting, loss_in_blocks
from echoic.objectives.gather import ALONE, Met, Side


def contrastive_loss(
    audio: Tensor,
    text: Tensor,
    scale: Tensor,
    meaning: Tensor | None = None,
    *,
    ranks: Meeting = ALONE,
) -> Tensor:
    """Mean of the two cross-entropies of scale * audio @ text.T.

    audio, text: (B, D), row i matches row i; normalised here. scale: (1,) or scalar factor (not its
    logarithm). meaning: (B,) ids; two rows of equal id say the same, so each also counts as a match
    of the other (their share of the target is split evenly). None: every row is its own. ranks: how
    the rows of several processes meet, and whether all scores are held at once (gather.py) or some
    at a time (chunked.py); the mean of the losses of all processes is that of the whole batch.
    Returns a scalar.
    """
    return unit_contrastive_loss(
        F.normalize(audio, dim=-1), F.normalize(text, dim=-1), scale, meaning, ranks=ranks
    )


def unit_contrastive_loss(
    audio: Tensor,
    text: Tensor,
    scale: Tensor,
    meaning: Tensor | None = None,
    *,
    ranks: Meeting = ALONE,
) -> Tensor:
    """`contrastive_loss` of rows that have length 1 already."""
    if isinstance(ranks, InBlocks):
        return loss_in_blocks(_Softmax(), ranks, audio, text, scale, None, meaning)
    met = ranks.meet([audio, text], meaning)
    heard, read = met.sides
    return (finding(heard, read, met, scale) + finding(read, heard, met, scale)) / 2


def finding(
    asked: Side, sought: Side, met: Met, scale: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy of finding, from each query of `asked`, its match among the candidates of
    `sought`.

    weight: (N,) of each candidate as a class; None weighs all alike. The mean is over all
    processes: each gives its share of it, times their number.
    """
    logits = scale * asked.queries @ sought.candidates.T  # (Q, N)
    total = F.cross_entropy(logits, met.target, weight=weight, reduction="sum")
    return met.shares * total / (len(sought.candidates) if weight is None else weight.sum())


class _Softmax:
    """A `Rule` of chunked.py. Of rows: the log-sum-exp, the sum of the scores of all matches, and
    their number. Of columns: the log-sum-exp. Rows and columns have the same shares of the target,
    so that rows can speak for both."""

    def start(self, like: Tensor) -> tuple[Tensor, float]:
        return like.new_tensor([-torch.inf, 0.0, 0.0]), -torch.inf

    def add(self, z: Tensor, same: Tensor, rows: Tensor, columns: Tensor) -> None:
        rows[:, 0] = torch.logaddexp(rows[:, 0], z.logsumexp(1))
        columns.copy_(torch.logaddexp(columns, z.logsumexp(0)))
        rows[:, 1] += torch.where(same, z, 0).sum(1)
        rows[:, 2] += same.sum(1)

    def join(self, parts: Tensor) -> Tensor:
        return parts.logsumexp(0)

    def total(self, rows: Tensor, columns: Tensor) -> Tensor:
        all_scores, matches, count = rows.unbind(1)
        return (all_scores.sum() + columns.sum()) / 2 - (matches / count).sum()

    def slope(self, z: Tensor, same: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        found = (z - rows[:, :1]).exp_().add_((z - columns).exp_()).div_(2)
        return found.sub_(same / rows[:, 2:])
