"""Symmetric contrastive loss (InfoNCE; CLIP 2103.00020, CLAP 2211.06687 eq. 1, SLAP 2601.12594 eq.
3).

B pairs, D embedding width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    audio: Tensor, text: Tensor, scale: Tensor, meaning: Tensor | None = None
) -> Tensor:
    """Mean of the two cross-entropies of scale * audio @ text.T.

    audio, text: (B, D), row i matches row i; normalised here. scale: (1,) or scalar factor (not its
    logarithm). meaning: (B,) ids; two rows of equal id say the same, so each also counts as a match
    of the other (their share of the target is split evenly). None: every row is its own. Returns a
    scalar.
    """
    logits = scale * F.normalize(audio, dim=-1) @ F.normalize(text, dim=-1).T  # (B, B)
    if meaning is None:
        target = logits.new_zeros(logits.shape).fill_diagonal_(1)
    else:
        same = (meaning[:, None] == meaning[None, :]).to(logits.dtype)
        target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
