"""Feature fusion: two feature maps of one recording become one (LAION-CLAP, 2211.06687, section
2.3; the modules are those of Attentional Feature Fusion, 2009.14082).

DAF adds the two. AFF weighs them against each other at every place, by what it sees there (local
attention) and on average (global attention). iAFF does so twice. Parameter names are upstream's.

K recordings, C channels; a map is (K, C, T) in the 1-D kinds, (K, C, H, W) in the 2-D ones.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

FusionKind = Literal["daf_1d", "aff_1d", "iaff_1d", "daf_2d", "aff_2d", "iaff_2d", "channel_map"]

_REDUCTION = 4


def make_fusion(kind: FusionKind, channels: int) -> nn.Module:
    """The module of a kind: forward(global_, local), two maps of equal shape -> one of that shape.

    Raises ValueError for "channel_map", which has no module: the views are channels of the input.
    """
    if kind == "channel_map":
        raise ValueError("channel_map has no fusion module: its views are input channels")
    name, _, dimensions = kind.partition("_")
    if name == "daf":
        return DirectFusion()
    make = AttentionalFusion if name == "aff" else IterativeFusion
    return make(channels, two_d=dimensions == "2d")


class DirectFusion(nn.Module):
    """DAF: the sum."""

    def forward(self, global_: Tensor, local: Tensor) -> Tensor:
        return global_ + local


class AttentionalFusion(nn.Module):
    """AFF: weights a = sigmoid(L(x + y) + G(x + y)), then 2 a x + 2 (1 - a) y."""

    def __init__(self, channels: int, *, two_d: bool) -> None:
        super().__init__()
        self.local_att = _attention(channels, two_d, pooled=False)
        self.global_att = _attention(channels, two_d, pooled=True)

    def forward(self, global_: Tensor, local: Tensor) -> Tensor:
        total = _two_rows(global_ + local) if self.training else global_ + local
        weight = torch.sigmoid(self.local_att(total) + self.global_att(total))
        return 2 * _mix(local, global_, weight[: len(local)])


class IterativeFusion(nn.Module):
    """iAFF: a first mix as in AFF (without its factor 2), whose attention weighs the final mix."""

    def __init__(self, channels: int, *, two_d: bool) -> None:
        super().__init__()
        self.local_att = _attention(channels, two_d, pooled=False)
        self.global_att = _attention(channels, two_d, pooled=True)
        self.local_att2 = _attention(channels, two_d, pooled=False)
        # differs from the paper: upstream's second pass reuses `global_att`, and so its checkpoints
        # hold an untrained `global_att2`. Kept, so that they load strictly; never used or trained.
        self.global_att2 = _attention(channels, two_d, pooled=True).requires_grad_(False)

    def forward(self, global_: Tensor, local: Tensor) -> Tensor:
        total = _two_rows(global_ + local) if self.training else global_ + local
        weight = torch.sigmoid(self.local_att(total) + self.global_att(total))
        mixed = _mix(local, global_, weight)
        weight = torch.sigmoid(self.local_att2(mixed) + self.global_att(mixed))
        return _mix(local, global_, weight[: len(local)])


def _attention(channels: int, two_d: bool, *, pooled: bool) -> nn.Sequential:
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if two_d else (nn.Conv1d, nn.BatchNorm1d)
    pool = [nn.AdaptiveAvgPool2d(1) if two_d else nn.AdaptiveAvgPool1d(1)] if pooled else []
    inner = channels // _REDUCTION
    return nn.Sequential(
        *pool,
        conv(channels, inner, 1),
        norm(inner),
        nn.ReLU(),
        conv(inner, channels, 1),
        norm(channels),
    )


def _two_rows(maps: Tensor) -> Tensor:
    """Batch norm learns nothing from one value per channel, which is what the pooled attention
    has of a single recording; upstream then shows it the recording twice."""
    return torch.cat([maps, maps]) if len(maps) == 1 else maps


def _mix(local: Tensor, global_: Tensor, weight: Tensor) -> Tensor:
    # not torch.lerp: under autocast the three may differ in precision
    return local + weight * (global_ - local)
