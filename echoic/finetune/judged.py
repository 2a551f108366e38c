"""What a classifier made of the clips that judge it, and their figures.

n clips, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from echoic.data.labels import PerClip
from echoic.eval.tagging import tagging
from echoic.eval.zeroshot import classify

CHOSEN_BY: dict[PerClip, str] = {"one": "accuracy", "many": "mAP"}
_SHOWN: dict[PerClip, tuple[str, ...]] = {
    "one": ("accuracy", "top5", "mean_class_accuracy", "mAP"),
    "many": ("mAP", "mAP_micro", "mAUC", "d_prime"),
}


@dataclass(frozen=True)
class Judged:
    """keys: of n clips. scores: (n, C) logits, on the CPU."""

    keys: tuple[str, ...]
    scores: Tensor


def figures(scores: Tensor, truth: Tensor, per_clip: PerClip) -> dict[str, float]:
    """Accuracy or mAP and others. scores: (n, C); truth: (n, C) of 0 and 1."""
    table, right = scores.numpy(), truth.numpy()
    found = tagging(table, right).metrics()
    if per_clip == "one":
        found |= classify(table, right.argmax(axis=1)).metrics()
    return {name: found[name] for name in _SHOWN[per_clip]}
