"""Pairwise sigmoid loss (SigLIP, 2303.15343, algorithm 1): each pair of the batch is judged alone,
match or not, in place of a choice among candidates (contrastive.py).

    - 1/N  sum over i, j of  log sigmoid( z_ij (scale * audio_i . text_j + bias) )

z is 1 where row i and row j say the same and -1 elsewhere. The sum is over all N^2 pairs and
divided by N, as in the paper. Nearly all pairs are negative: the bias starts where the loss of
them is small.

B pairs of this process, N of all, Q queries, D embedding width, (q, c) a block of scores
(chunked.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoic.objectives.chunked import InBlocks, Meeting, loss_in_blocks
from echoic.objectives.gather import ALONE

SCALE_START = 10.0  # of the factor itself; the model holds its logarithm
BIAS_START = -10.0


class SigmoidContrast(nn.Module):
    """The loss with its bias, which is learnt with the objective and left out of the exported
    model: it moves all scores alike. The scale is the model's own; start it at `SCALE_START`."""

    def __init__(self, bias: float = BIAS_START) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([bias]))

    def forward(
        self,
        audio: Tensor,
        text: Tensor,
        scale: Tensor,
        meaning: Tensor | None = None,
        *,
        ranks: Meeting = ALONE,
    ) -> Tensor:
        """As `unit_sigmoid_loss`."""
        return unit_sigmoid_loss(audio, text, scale, self.bias, meaning, ranks=ranks)


def unit_sigmoid_loss(
    audio: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    meaning: Tensor | None = None,
    *,
    ranks: Meeting = ALONE,
) -> Tensor:
    """Of rows audio, text (B, D) that have length 1, row i matching row i.

    scale: (1,) or scalar factor (not its logarithm). bias: (1,) or scalar. meaning: (B,) ids; rows
    of equal id match too. ranks: how the rows of several processes meet, as in `contrastive_loss`;
    the mean of the losses of all processes is that of the whole batch. Text rows are candidates
    only: gather them with gradient. Returns a scalar.
    """
    if isinstance(ranks, InBlocks):
        return loss_in_blocks(_Sigmoid(), ranks, audio, text, scale, bias, meaning)
    met = ranks.meet([audio, text], meaning)
    heard, read = met.sides
    logits = scale * heard.queries @ read.candidates.T + bias  # (Q, N)
    z = torch.where(met.target > 0, 1.0, -1.0)
    return met.shares * F.softplus(-z * logits).sum() / len(read.candidates)


class _Sigmoid:
    """A `Rule` of chunked.py. Of rows: the loss. Of columns: nothing."""

    def start(self, like: Tensor) -> tuple[Tensor, float]:
        return like.new_zeros(1), 0.0

    def add(self, z: Tensor, same: Tensor, rows: Tensor, columns: Tensor) -> None:
        rows[:, 0] += F.softplus(torch.where(same, -z, z)).sum(1)

    def join(self, parts: Tensor) -> Tensor:
        return parts[0]

    def total(self, rows: Tensor, columns: Tensor) -> Tensor:
        return rows.sum()

    def slope(self, z: Tensor, same: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return torch.where(same, -torch.sigmoid(-z), torch.sigmoid(z))
