"""Symmetric contrastive loss (InfoNCE; CLIP 2103.00020, CLAP 2211.06687 eq. 1, SLAP 2601.12594 eq.
3).

B pairs of this process, Q queries, N candidates (gather.py), D embedding width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from echoic.objectives.gather import ALONE, Met, Ranks, Side


def contrastive_loss(
    audio: Tensor,
    text: Tensor,
    scale: Tensor,
    meaning: Tensor | None = None,
    *,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Mean of the two cross-entropies of scale * audio @ text.T.

    audio, text: (B, D), row i matches row i; normalised here. scale: (1,) or scalar factor (not its
    logarithm). meaning: (B,) ids; two rows of equal id say the same, so each also counts as a match
    of the other (their share of the target is split evenly). None: every row is its own. ranks: how
    the rows of several processes meet; the mean of the losses of all processes is that of the whole
    batch. Returns a scalar.
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
    ranks: Ranks = ALONE,
) -> Tensor:
    """`contrastive_loss` of rows that have length 1 already."""
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
