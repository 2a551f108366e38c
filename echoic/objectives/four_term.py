"""LAION-CLAP's four-term loss (its code's `--clap-mlploss`, `--kappa`; not in the paper, nor used
for any released model).

Beside the unit vectors of audio and text stand those of an MLP on each. Audio is matched to the
text's MLP vector at one scale, and the audio's MLP vector to text at another.

B pairs, N candidates, D embedding width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from echoic.nn.mlp import TwoLayer
from echoic.objectives.contrastive import finding
from echoic.objectives.gather import ALONE, Ranks, Side


class MlpHeads(nn.Module):
    """The two MLPs and the second scale, named as in LAION-CLAP's checkpoints."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.audio_transform = TwoLayer(width, width, width)
        self.text_transform = TwoLayer(width, width, width)
        self.logit_scale_t = nn.Parameter(torch.full((1,), math.log(1 / 0.07)))


def four_term_loss(
    audio: Tensor,
    text: Tensor,
    audio_mlp: Tensor,
    text_mlp: Tensor,
    scale_a: Tensor,
    scale_t: Tensor,
    meaning: Tensor | None = None,
    *,
    kappa: float | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Mean of four cross-entropies: scale_a * audio @ text_mlp.T, scale_t * audio_mlp @ text.T, and
    both transposed.

    audio, text: (B, D) of length 1; audio_mlp, text_mlp: (B, D), as their MLPs give them, not
    normalised. kappa: temperature of class weights that grow with a row's likeness to its own kind;
    None weighs all alike. meaning, ranks: as in `contrastive_loss`. Returns a scalar.
    """
    met = ranks.meet([audio, text, audio_mlp, text_mlp], meaning)
    heard, read, heard_mlp, read_mlp = met.sides
    weigh_a = None if kappa is None else likeness_weights(heard, kappa)
    weigh_t = None if kappa is None else likeness_weights(read, kappa)
    terms = (
        finding(heard, read_mlp, met, scale_a, weigh_a),
        finding(read_mlp, heard, met, scale_a, weigh_a),
        finding(read, heard_mlp, met, scale_t, weigh_t),
        finding(heard_mlp, read, met, scale_t, weigh_t),
    )
    return torch.stack(terms).mean()


@torch.no_grad()
def likeness_weights(side: Side, kappa: float) -> Tensor:
    """(N,) weights exp(mean cosine with all rows / kappa), constants of the step.

    differs from the code: over several processes upstream weighs by one process's rows only.
    """
    rows = side.candidates
    return torch.exp(rows @ rows.sum(dim=0) / (kappa * len(rows)))
