"""PANN, the convolutional audio encoders of LAION-CLAP: CNN14, CNN10 and CNN6 (1912.10211, with the
sizes and the feature fusion of 2211.06687).

Blocks of convolution, batch norm and ReLU, each halving time and frequency by averaging; then mean
over frequency, and the maximum plus the mean over time. Parameter names are upstream's.

B windows, N frames, F mel bins, V views (1, or 4 with fusion: the global one and three local ones),
K recordings longer than a window, S steps in time, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from echoic.audio.views import FixedWindow
from echoic.nn.fusion import FusionKind, make_fusion
from echoic.types import AudioFeatures, Ragged

Augment = Callable[[Ragged], Ragged]

_WIDTHS = {
    14: (64, 128, 256, 512, 1024, 2048),
    10: (64, 128, 256, 512, 1024),
    6: (64, 128, 256, 512),
}
_MOST_POOLINGS = 5
_DROPOUT, _CLIP_DROPOUT = 0.2, 0.5
_VIEWS = 4


class PannSpec(FixedWindow):
    """Which network. classes: how many the tagging head tells apart; None: no head."""

    kind: Literal["pann"] = "pann"
    layers: Literal[14, 10, 6] = 14
    classes: Annotated[int, Field(ge=1)] | None = None
    fusion: FusionKind | None = None

    @property
    def poolings(self) -> int:
        """How often time and frequency are halved."""
        return min(len(_WIDTHS[self.layers]), _MOST_POOLINGS)


class PannEncoder(nn.Module):
    """Log-mel windows (B, N, F) -> AudioFeatures: tokens (B S, D), clip (B, D), both unprojected.

    mel_bins, frames: F and N of a window. frame_s: seconds from one frame to the next.
    """

    def __init__(self, spec: PannSpec, *, mel_bins: int, frames: int, frame_s: float) -> None:
        super().__init__()
        widths = _WIDTHS[spec.layers]
        self.spec, self.mel_bins, self.frames, self.frame_s = spec, mel_bins, frames, frame_s
        self.poolings = spec.poolings
        self.width, self.repeat = widths[-1], 2**self.poolings
        self.steps = frames // self.repeat
        self.bn0 = nn.BatchNorm2d(mel_bins)
        self._add_fusion(mel_bins, widths[0])
        inputs = (_VIEWS if spec.fusion == "channel_map" else 1, *widths)
        make = SingleConv if spec.layers == 6 else DoubleConv
        for i, width in enumerate(widths):
            self.add_module(f"conv_block{i + 1}", make(inputs[i], width))
        self.fc1 = nn.Linear(self.width, self.width)
        if spec.classes is not None:
            self.fc_audioset = nn.Linear(self.width, spec.classes)
        self.apply(_init)

    def _add_fusion(self, mel_bins: int, width: int) -> None:
        kind = self.spec.fusion
        if kind is None or kind == "channel_map":
            return
        if kind.endswith("1d"):
            self.mel_conv1d = nn.Sequential(
                nn.Conv1d(mel_bins, mel_bins, 5, stride=3, padding=2), nn.BatchNorm1d(mel_bins)
            )
            self.fusion_model = make_fusion(kind, mel_bins)
        else:
            self.mel_conv2d = nn.Sequential(
                nn.Conv2d(1, width, 5, stride=(6, 2), padding=2), nn.BatchNorm2d(width), nn.ReLU()
            )
            self.fusion_model = make_fusion(kind, width)

    def forward(
        self,
        frames: Tensor,
        local: Tensor | None = None,
        longer: Tensor | None = None,
        augment: Augment | None = None,
    ) -> AudioFeatures:
        """frames (B, N, F): the windows, or the global views. With fusion, local (K, 3, N, F): the
        crops of the rows that `longer` (B,) bool marks, in their order.

        Raises ValueError on frames of another shape, and on local views without fusion.
        """
        steps = self._steps(frames, local, longer, augment)
        pooled = F.dropout(self._pool(steps), _CLIP_DROPOUT, self.training)
        clip = F.dropout(F.relu(self.fc1(pooled)), _CLIP_DROPOUT, self.training)
        count = len(frames)
        at = (torch.arange(self.steps, device=frames.device) + 0.5) * (self.repeat * self.frame_s)
        offsets = torch.arange(count + 1) * self.steps
        return AudioFeatures(steps.flatten(0, 1), offsets, at.repeat(count), clip)

    def fine_grained(self, tokens: Tensor) -> Tensor:
        """(B S, D) tokens -> (B, S repeat, D), upstream's `fine_grained_embedding`: every step
        with its neighbours, through the layer that also makes the clip vector."""
        return self._neighbourhoods(tokens).repeat_interleave(self.repeat, dim=1)

    def tag(
        self, frames: Tensor, local: Tensor | None = None, longer: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Class probabilities of the windows (B, C), and along them (B, S repeat, C).

        Raises ValueError where the spec names no classes.
        """
        if self.spec.classes is None:
            raise ValueError("this encoder has no tagging head: its spec names no classes")
        steps = self._steps(frames, local, longer, None)
        whole = F.relu(self.fc1(F.dropout(self._pool(steps), _CLIP_DROPOUT, self.training)))
        # Upstream has no probabilities along time; the head reads the fine-grained vectors as
        # well, since they come from the same layer as what it was trained on.
        along = torch.sigmoid(self.fc_audioset(self._neighbourhoods(steps.flatten(0, 1))))
        along = along.repeat_interleave(self.repeat, dim=1)
        return torch.sigmoid(self.fc_audioset(whole)), along

    def _pool(self, steps: Tensor) -> Tensor:
        """(B, S, D) -> (B, D)."""
        return steps.amax(1) + steps.mean(1)

    def _neighbourhoods(self, tokens: Tensor) -> Tensor:
        """(B S, D) -> (B, S, D): pooled over three steps as `_pool` does over all, then `fc1`."""
        x = tokens.unflatten(0, (-1, self.steps)).transpose(1, 2)
        x = F.max_pool1d(x, 3, 1, 1) + F.avg_pool1d(x, 3, 1, 1)
        return F.relu(self.fc1(x.transpose(1, 2)))

    def _steps(
        self, frames: Tensor, local: Tensor | None, longer: Tensor | None, augment: Augment | None
    ) -> Tensor:
        """(B, S, D): the last block's map, averaged over frequency."""
        self._check(frames, local, longer)
        views = self.bn0(self._views(frames, local, longer).transpose(1, 3)).transpose(1, 3)
        if local is None:
            longer = None
        if self.spec.fusion is not None and self.spec.fusion.endswith("1d"):
            views = self._fuse_1d(views, longer)
        x = views if augment is None else _augmented(views, augment)
        x = self._first_block(x, longer)
        for i in range(2, len(_WIDTHS[self.spec.layers]) + 1):
            x = F.dropout(x, _DROPOUT, self.training)
            x = self.get_submodule(f"conv_block{i}")(x)
            x = F.avg_pool2d(x, 2) if i <= self.poolings else x
        return F.dropout(x, _DROPOUT, self.training).mean(3).transpose(1, 2)

    def _check(self, frames: Tensor, local: Tensor | None, longer: Tensor | None) -> None:
        if frames.shape[1:] != (self.frames, self.mel_bins):
            raise ValueError(
                f"a window has {self.frames} frames of {self.mel_bins} mel bins, not "
                f"{' x '.join(map(str, frames.shape[1:]))}"
            )
        if local is None and (longer is None or not longer.any()):
            return
        if self.spec.fusion is None:
            raise ValueError("this encoder has no fusion: it takes no local views")
        rows = 0 if longer is None else int(longer.sum())
        if local is None or local.shape != (rows, _VIEWS - 1, *frames.shape[1:]):
            raise ValueError(f"{rows} rows are longer, but local views are of another number")

    def _views(self, frames: Tensor, local: Tensor | None, longer: Tensor | None) -> Tensor:
        """(B, V, N, F). A short recording has four equal views, as upstream: so it weighs in the
        batch norm's statistics as much as a long one."""
        if self.spec.fusion is None:
            return frames[:, None]
        views = frames[:, None].repeat(1, _VIEWS, 1, 1)
        if local is not None:
            views[longer, 1:] = local
        return views

    def _fuse_1d(self, views: Tensor, longer: Tensor | None) -> Tensor:
        """(B, V, N, F) -> (B, 1, N, F): the mel bins are the channels of the fused maps."""
        x = views[:, 0].transpose(1, 2)
        if longer is not None:
            crops = views[longer, 1:].transpose(2, 3)  # (K, 3, F, N)
            crops = self.mel_conv1d(crops.flatten(0, 1)).unflatten(0, (-1, _VIEWS - 1))
            crops = _fit(crops.transpose(1, 2).flatten(2), x.shape[2], dim=2)
            x = _replaced(x, longer, self.fusion_model(x[longer], crops))
        return x.transpose(1, 2)[:, None]

    def _first_block(self, x: Tensor, longer: Tensor | None) -> Tensor:
        """(B, V, N, F) -> (B, width, N / 2, F / 2), in the 2-D kinds with the fusion behind it."""
        first, kind = self.get_submodule("conv_block1"), self.spec.fusion
        if kind is None or not kind.endswith("2d"):
            return F.avg_pool2d(first(x), 2)
        fused = F.avg_pool2d(first(x[:, :1]), 2)
        if longer is not None:
            crops = self.mel_conv2d(x[longer, 1:].flatten(0, 1)[:, None])
            crops = crops.unflatten(0, (-1, _VIEWS - 1)).transpose(1, 2).flatten(2, 3)
            crops = _fit(crops, fused.shape[2], dim=2)
            fused = _replaced(fused, longer, self.fusion_model(fused[longer], crops))
        return fused


class DoubleConv(nn.Module):
    """Two 3 x 3 convolutions (CNN14, CNN10)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)), inplace=True)


class SingleConv(nn.Module):
    """One 5 x 5 convolution (CNN6)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)), inplace=True)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _augmented(views: Tensor, augment: Augment) -> Tensor:
    """The same change to every view: each call of `augment` draws the same."""
    lengths = [views.shape[2]] * len(views)
    changed = [
        augment(Ragged.from_lengths(view.flatten(0, 1), lengths)).values.view_as(view)
        for view in views.unbind(1)
    ]
    return torch.stack(changed, dim=1)


def _fit(x: Tensor, size: int, *, dim: int) -> Tensor:
    """Cut, or filled with zeros at the end, to `size` along `dim`."""
    if x.shape[dim] >= size:
        return x.narrow(dim, 0, size)
    missing = list(x.shape)
    missing[dim] = size - x.shape[dim]
    return torch.cat([x, x.new_zeros(missing)], dim)


def _replaced(x: Tensor, rows: Tensor, by: Tensor) -> Tensor:
    return x.index_put((rows,), by.to(x.dtype))
