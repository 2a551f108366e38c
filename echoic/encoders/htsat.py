"""HTSAT, the audio encoder of the released LAION-CLAP models (2202.00874; 2211.06687, section 2.2).

A log-mel window is stretched to 1024 frames and folded: its four quarters, stacked along frequency,
make a square image for a Swin transformer. The last grid is unfolded again into time steps of the
window. With feature fusion a long recording comes as one global and three local views. Parameter
names are those below upstream's `audio_branch.`.

B clips, K clips with local views, V views, N frames, F = 64 mel bins, P patches, D width of the
output, S steps in time, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from echoic.audio.views import FixedWindow
from echoic.nn.fusion import FusionKind, make_fusion
from echoic.nn.swin import PatchMerging, Stage, SwinBlock, WindowAttention, z_cells, z_places
from echoic.types import AudioFeatures, Ragged

MEL_BINS, PATCH = 64, 4
FRAMES, FOLDS = 1024, 4  # the stretched window, and the pieces that it is cut into
IMAGE = FRAMES // FOLDS  # = MEL_BINS * FOLDS, so the image is square
GRID = IMAGE // PATCH
_LOCAL = 3  # local views of a long recording
_NARROWEST = 96  # of the published sizes

Share = Annotated[float, Field(ge=0, lt=1)]


class HtsatSpec(FixedWindow):
    """Size and shape of the encoder; the defaults are HTSAT-tiny. Base: width 128, depths
    (2, 2, 12, 2); large: width 256 and the same depths.

    width: of the first stage; each further one has twice that, on a quarter of the tokens.
    mlp_dropout: after each MLP, 0 upstream. classes: of the tagging head; None: there is none.
    """

    kind: Literal["htsat"] = "htsat"
    width: Annotated[int, Field(ge=1)] = 96
    depths: Annotated[tuple[int, ...], Field(min_length=1, max_length=4)] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    drop_path: Share = 0.1
    mlp_dropout: Share = 0.0
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    classes: Annotated[int, Field(ge=1)] | None = None
    fusion: FusionKind | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if len(self.heads) != len(self.depths):
            raise ValueError(f"{len(self.depths)} depths need as many heads, not {len(self.heads)}")
        for stage, heads in enumerate(self.heads):
            if heads < 1 or (self.width << stage) % heads:
                width = self.width << stage
                raise ValueError(f"stage {stage + 1}: width {width} is not whole heads, {heads}")
        if int(self.width * self.mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio:g} of width {self.width} is none at all")
        return self


class HtsatEncoder(nn.Module):
    """Log-mel windows (B, N, F), N <= 1024 -> AudioFeatures: tokens (B S, D), clip (B, D).

    frame_s: seconds from frame to frame. `width` is D, `steps` S: 32 with four stages.
    """

    unfold: Tensor  # (bands S,): the place along the Z curve of each cell of the unfolded grid

    def __init__(self, spec: HtsatSpec, *, mel_bins: int = MEL_BINS, frame_s: float = 0.01) -> None:
        super().__init__()
        if mel_bins != MEL_BINS:
            raise ValueError(f"HTSAT hears {MEL_BINS} mel bins, not {mel_bins}")
        self.spec, self.frame_s = spec, frame_s
        last = len(spec.depths) - 1
        self.side = GRID >> last  # of the last grid
        self.width, self.steps = spec.width << last, FOLDS * self.side
        self.bn0 = nn.BatchNorm1d(mel_bins)
        if _is_1d(spec.fusion):
            self.mel_conv1d = nn.Sequential(
                nn.Conv1d(mel_bins, mel_bins, 5, stride=_LOCAL, padding=2),
                nn.BatchNorm1d(mel_bins),
            )
            self.fusion_model = make_fusion(spec.fusion, mel_bins)  # type: ignore[arg-type]
        self.patch_embed = PatchEmbed(spec)
        self.layers = nn.ModuleList(_stages(spec))
        self.norm = nn.LayerNorm(self.width, spec.norm_eps)
        folds = z_places(self.side).view(FOLDS, -1, self.side)
        self.register_buffer("unfold", folds.transpose(0, 1).flatten(), persistent=False)
        if spec.classes:
            self.tscam_conv = nn.Conv2d(
                self.width, spec.classes, (self.side // FOLDS, 3), padding=(0, 1)
            )
        self.apply(partial(_init, narrow=spec.width < _NARROWEST))

    def forward(
        self,
        frames: Tensor,
        local: Tensor | None = None,
        longer: Tensor | None = None,
        augment: Callable[[Ragged], Ragged] | None = None,
    ) -> AudioFeatures:
        """frames: (B, N, F), with fusion the global view. local: (K, 3, N, F), the further views of
        the K clips that `longer` (B,) bool marks, in order; without it no clip is longer. augment:
        a change of the normalised frames, in training, made of each view alike.

        Raises ValueError on more than 1024 frames, and on local views that do not fit.
        """
        cells = self.cells(frames, local, longer, augment)
        tokens = cells.mean(1).flatten(0, 1)
        offsets = torch.arange(len(cells) + 1) * self.steps
        time_s = self.time_s(frames.shape[1]).to(frames.device).repeat(len(cells))
        return AudioFeatures(tokens, offsets, time_s, cells.mean((1, 2)))

    def time_s(self, frames: int) -> Tensor:
        """(S,): the centre of each step in a window of that many frames, from its first frame's
        centre on."""
        centre = (torch.arange(self.steps) + 0.5) * (FRAMES / self.steps) - 0.5
        return centre * ((frames - 1) / (FRAMES - 1) * self.frame_s)

    def fine_grained(self, tokens: Tensor) -> Tensor:
        """Tokens (B S, D) -> upstream's `fine_grained_embedding` (B, 1024, D): a step's vector at
        each stretched frame."""
        return tokens.view(-1, self.steps, self.width).repeat_interleave(FRAMES // self.steps, 1)

    def tag(
        self, frames: Tensor, local: Tensor | None = None, longer: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Probabilities of the tagging head: of each clip (B, C), at each stretched frame
        (B, 1024, C). Arguments as of `forward`. Raises ValueError without a head."""
        if not self.spec.classes:
            raise ValueError("this encoder has no tagging head: its spec names no classes")
        cells = self.cells(frames, local, longer).permute(0, 3, 1, 2)
        logits = self.tscam_conv(cells).squeeze(2)  # (B, C, S)
        framewise = logits.sigmoid().repeat_interleave(FRAMES // self.steps, 2)
        return logits.mean(2).sigmoid(), framewise.transpose(1, 2)

    def cells(
        self,
        frames: Tensor,
        local: Tensor | None = None,
        longer: Tensor | None = None,
        augment: Callable[[Ragged], Ragged] | None = None,
    ) -> Tensor:
        """The last grid, unfolded: (B, side / 4 bands of frequency, S, D). Arguments as of
        `forward`."""
        if local is not None and self.spec.fusion is None:
            raise ValueError("this encoder has no feature fusion, so it takes no local views")
        rows = _rows(frames, local, longer)
        views = self._normalised(frames, local, rows, augment)
        x = self._embedded(views, rows)
        for stage in self.layers:
            x = stage(x)
        return self._unfolded(self.norm(x))

    def _normalised(
        self,
        frames: Tensor,
        local: Tensor | None,
        rows: Tensor | None,
        augment: Callable[[Ragged], Ragged] | None,
    ) -> Tensor:
        """Views (B, V, N, F) after `bn0`. V is 4 where there are local views; a clip without any
        then has four times its only view, as upstream, whose batch statistics count them all."""
        views = frames[:, None]
        if local is not None and rows is not None:
            views = views.repeat(1, 1 + _LOCAL, 1, 1)
            views[rows, 1:] = local
        views = self.bn0(views.flatten(0, 2)).view_as(views)
        if augment is None:
            return views
        lengths = [frames.shape[1]] * len(frames)
        changed = [
            augment(Ragged.from_lengths(view.flatten(0, 1), lengths)).values.view_as(frames)
            for view in views.unbind(1)
        ]
        return torch.stack(changed, 1)

    def _embedded(self, views: Tensor, rows: Tensor | None) -> Tensor:
        """Views (B, V, N, F) -> patches (B, P, width)."""
        kind = self.spec.fusion
        if kind == "channel_map":
            return self.patch_embed(image(views.expand(-1, 1 + _LOCAL, -1, -1)))
        whole = views[:, :1]
        if rows is None:
            return self.patch_embed(image(whole))
        if _is_1d(kind):
            fused = self._fused_frames(whole[rows, 0], views[rows, 1:])
            return self.patch_embed(image(whole.index_copy(0, rows, fused[:, None])))
        return self.patch_embed(image(whole), image(views[rows, 1:]), rows)

    def _fused_frames(self, whole: Tensor, local: Tensor) -> Tensor:
        """1-D fusion: (K, N, F) and (K, 3, N, F) -> (K, N, F)."""
        thirds = self.mel_conv1d(local.flatten(0, 1).transpose(1, 2))  # a third of the frames each
        joined = thirds.unflatten(0, (-1, _LOCAL)).transpose(1, 2).flatten(2)
        fused: Tensor = self.fusion_model(whole.transpose(1, 2), joined[..., : whole.shape[1]])
        return fused.transpose(1, 2)

    def _unfolded(self, x: Tensor) -> Tensor:
        """(B, P, D) along the Z curve -> (B, bands, S, D): the folds end to end in time."""
        return x.index_select(1, self.unfold).view(len(x), -1, self.steps, self.width)


class PatchEmbed(nn.Module):
    """Image (B, V, 256, 256) -> patches of 4 x 4 along the Z curve, (B, P, width), normalised.

    2-D fusion happens here: the local views of the clips `rows` (K,) come as `local`
    (K, 3, 256, 256), and each becomes a third of a map.
    """

    order: Tensor  # (P,): the cell of the grid at each place along the curve

    def __init__(self, spec: HtsatSpec) -> None:
        super().__init__()
        views = 1 + _LOCAL if spec.fusion == "channel_map" else 1
        self.proj = nn.Conv2d(views, spec.width, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(spec.width, spec.norm_eps)
        self.register_buffer("order", z_cells(GRID), persistent=False)
        if spec.fusion in ("daf_2d", "aff_2d", "iaff_2d"):
            third = (PATCH, PATCH * _LOCAL)
            self.mel_conv2d = nn.Conv2d(1, spec.width, third, stride=third)
            self.fusion_model = make_fusion(spec.fusion, spec.width)

    def forward(
        self, whole: Tensor, local: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        maps = self.proj(whole)  # (B, width, GRID, GRID)
        if local is not None and rows is not None:
            maps = maps.index_copy(0, rows, self.fusion_model(maps[rows], self._local_map(local)))
        return self.norm(maps.flatten(2).index_select(2, self.order).transpose(1, 2))

    def _local_map(self, local: Tensor) -> Tensor:
        """(K, 3, 256, 256) -> (K, width, GRID, GRID): the three side by side, the rest zeros."""
        maps = self.mel_conv2d(local.flatten(0, 1)[:, None]).unflatten(0, (-1, _LOCAL))
        joined = maps.permute(0, 2, 3, 1, 4).flatten(3)
        return F.pad(joined, (0, GRID - joined.shape[3]))


def image(views: Tensor) -> Tensor:
    """Views (B, V, N, F) -> (B, V, 256, 256): row fold * F + mel bin, column the frame in its fold.

    Fewer than 1024 frames are stretched to that (bicubic), however few there are.
    """
    if views.shape[2] < FRAMES:
        views = F.interpolate(views, (FRAMES, MEL_BINS), mode="bicubic", align_corners=True)
    return views.unflatten(2, (FOLDS, IMAGE)).transpose(3, 4).flatten(2, 3)


def _rows(frames: Tensor, local: Tensor | None, longer: Tensor | None) -> Tensor | None:
    """(K,): which clips have local views; None where none has. Raises ValueError on a misfit."""
    if frames.shape[1] > FRAMES or frames.shape[2] != MEL_BINS:
        raise ValueError(
            f"HTSAT hears windows of at most {FRAMES} frames of {MEL_BINS} mel bins, "
            f"not {frames.shape[1]} of {frames.shape[2]}"
        )
    if local is None:
        return None
    rows = torch.zeros(0) if longer is None else longer.nonzero()[:, 0]
    if local.shape != (len(rows), _LOCAL, *frames.shape[1:]):
        raise ValueError(f"{len(rows)} longer clips do not have local views {tuple(local.shape)}")
    return rows if len(rows) else None


def _stages(spec: HtsatSpec) -> list[Stage]:
    total = sum(spec.depths)
    rates = [spec.drop_path * i / max(1, total - 1) for i in range(total)]
    stages = []
    for s, (depth, heads) in enumerate(zip(spec.depths, spec.heads, strict=True)):
        width = spec.width << s
        blocks = [
            SwinBlock(
                width=width, heads=heads, hidden=int(width * spec.mlp_ratio), side=GRID >> s,
                shifted=i % 2 == 1, drop_path=rates.pop(0), dropout=spec.mlp_dropout,
                eps=spec.norm_eps,
            )
            for i in range(depth)
        ]  # fmt: skip
        last = s == len(spec.depths) - 1
        stages.append(Stage(blocks, None if last else PatchMerging(width, spec.norm_eps)))
    return stages


def _is_1d(kind: FusionKind | None) -> bool:
    return kind is not None and kind.endswith("_1d")


def _init(module: nn.Module, narrow: bool) -> None:
    """Upstream's: matrices and bias tables from a normal of deviation 0.02, convolutions as torch
    has them.

    Narrower than any that is published, matrices get a deviation of fan_in^-0.5: with 0.02 all
    clips came out alike, and a training stood still for its first hundred steps.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5 if narrow else 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, WindowAttention):
        nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
