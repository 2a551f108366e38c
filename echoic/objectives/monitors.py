"""Figures of a batch that show collapse of the embedding space while it happens.

A loss can fall, or stay, while all sounds come to lie in one place or on one line, or sounds and
texts apart from each other. Uniformity (Wang and Isola 2005.10242) is left out: spread and
dimensions together show what it mixes, and without B x B exponentials.

B pairs, D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-12  # below it a variance is rounding


@torch.no_grad()
def space_monitors(audio: Tensor, text: Tensor) -> dict[str, Tensor]:
    """0-d float32 tensors on the device of the rows, nothing waited for. audio, text: (B, D) of
    length 1, row i of one matching row i of the other; those of this process.

    audio_spread, text_spread: 1 less the length of the mean. 0: all vectors are one.
    audio_dims, text_dims: how many directions share the variance, at most min(B - 1, D). 1: all lie
    on a line; 0: there is no variance.
    gap: distance of the two means, the modality gap (2203.02053), at most 2.
    alignment: mean cosine of matching rows. Near 1 it is good news only while spread is large.
    """
    audio, text = audio.float(), text.float()
    centres = audio.mean(0), text.mean(0)
    return {
        "audio_spread": 1 - centres[0].norm(),
        "text_spread": 1 - centres[1].norm(),
        "audio_dims": _dimensions(audio - centres[0]),
        "text_dims": _dimensions(text - centres[1]),
        "gap": (centres[0] - centres[1]).norm(),
        "alignment": (audio * text).sum(1).mean(),
    }


def _dimensions(rows: Tensor) -> Tensor:
    """Participation ratio of the eigenvalues of the covariance of centred rows (B, D), (sum)^2 /
    sum of squares: needs no eigenvalue."""
    count, width = rows.shape
    gram = (rows @ rows.T if count < width else rows.T @ rows) / count
    variance = rows.square().sum() / count
    return variance.square() / (gram.square().sum() + _TINY)
