"""The audio encoder of M2D and M2D-CLAP (2210.14648, section III; 2503.22104): a ViT over patches
of a log-mel window, a class token before them, fixed positions. Parameter names are the published
ones.

The window is as long as the grid of positions. A longer clip is heard in several (`whole_columns`,
or `m2d_chunks` as upstream cuts); each begins at position 0, and what they give is laid end to end
again as the clip's columns. Tokens run column after column, low to high frequency.

B clips, N frames, F mel bins, P patches, R = F / patch_bins patch rows of a column, C columns of
all clips, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from echoic.config import Spec
from echoic.nn.linear import linear
from echoic.nn.vit import Vit, laid, prepend, row_means, sin_cos_positions, split_first
from echoic.types import AudioFeatures, Ragged

_Count = Annotated[int, Field(ge=1)]


class M2dSpec(Spec):
    """Size and shape of the encoder; the defaults are ViT-base over 6.08 s. Large: width 1024,
    depth 24, heads 16.

    frames: of the window (the second number of a published name, 608 in 80x608; whole columns of it
    are heard). positions: "sin_cos" are computed; "stored" travel with the weights, as those of
    models whose window was lengthened do.

    For the tower: projector: into the joint space of M2D-CLAP, "mlp" of the patches' mean (2024) or
    "tokens" (2025, see nn/vit.TokenProjector); classes: of a head for labels.
    """

    kind: Literal["m2d"] = "m2d"
    width: _Count = 768
    depth: _Count = 12
    heads: _Count = 12
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    frames: _Count = 608
    patch_frames: _Count = 16
    patch_bins: _Count = 16
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    positions: Literal["sin_cos", "stored"] = "sin_cos"
    projector: Literal["mlp", "tokens"] | None = None
    projector_depth: _Count = 1
    projector_mlp_ratio: Annotated[float, Field(gt=0)] = 1.0
    classes: _Count | None = None

    @property
    def columns(self) -> int:
        """Patch columns of the window."""
        return self.frames // self.patch_frames

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        if self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4, as its positions need")
        if not self.columns:
            raise ValueError(f"{self.frames} frames are not one patch of {self.patch_frames}")
        return self


class Window(NamedTuple):
    """A stretch of a clip that is encoded at once: `columns` from frame `start` on, which are the
    clip's columns from `at` on."""

    start: int
    columns: int
    at: int


@dataclass(frozen=True)
class Cut:
    """How a clip is heard: its windows, and of each of its columns the centre in frames and the
    share that sounds, not filling (both (C,))."""

    windows: tuple[Window, ...]
    centre: Tensor
    share: Tensor


Cutting = Callable[[int, M2dSpec], Cut]


def whole_columns(frames: int, spec: M2dSpec) -> Cut:
    """Ours: columns of the whole clip, each frame in one of them; windows of whole columns, one
    after the other. The last ends with the clip and is half a window or longer, so that no column
    has little to go by; one that two windows heard is the mean of both. A last column that is part
    filling weighs as much as it sounds."""
    step = spec.patch_frames
    columns = -(-frames // step)
    plan = _windows_of(columns, spec.columns)
    first = torch.arange(columns) * step
    real = (frames - first).clamp(max=step)
    windows = tuple(Window(start * step, stop - start, start) for start, stop in plan)
    return Cut(windows, first + (real - 1) / 2, real / step)


def _windows_of(columns: int, longest: int) -> list[tuple[int, int]]:
    """(start, stop) of each window, in columns."""
    if columns <= longest:
        return [(0, columns)]
    starts = range(0, columns, longest)
    last = min(starts[-1], columns - (longest + 1) // 2)
    return [*((start, start + longest) for start in starts[:-1]), (last, columns)]


def m2d_chunks(frames: int, spec: M2dSpec) -> Cut:
    """Upstream's: chunks of `spec.frames` frames. Frames beyond a chunk's last whole column go
    unheard, and a column of the last chunk that is mostly filling weighs like the others."""
    step = spec.patch_frames
    windows: list[Window] = []
    at = 0
    for start in range(0, frames, spec.frames):
        # only the clip's end is filled up to a whole column
        length = min(spec.frames, -(-(frames - start) // step) * step)
        windows.append(Window(start, length // step, at))
        at += length // step
    centre = torch.cat([w.start + torch.arange(w.columns) * step for w in windows])
    return Cut(tuple(windows), centre + (step - 1) / 2, torch.ones(at))


CUTTINGS: dict[str, Cutting] = {"whole": whole_columns, "m2d": m2d_chunks}


@dataclass(frozen=True)
class Columns:
    """What the encoder heard, column by column, and three ways to read it; in each, a clip's vector
    is the mean over its columns.

    grid: (C, R, D). offsets: (B+1,) in columns. time_s: (C,) centre of each in its clip. share:
    (C,) weight of each in the mean.
    """

    grid: Tensor
    offsets: Tensor
    time_s: Tensor
    share: Tensor

    def patches(self) -> AudioFeatures:
        """Tokens (C R, D), clip (B, D): upstream's flat features, in order of time."""
        rows = self.grid.shape[1]
        times = self.time_s.repeat_interleave(rows)
        tokens = self.grid.flatten(0, 1)
        return AudioFeatures(tokens, self.offsets * rows, times, self._mean(self.grid.mean(1)))

    def frames(self) -> AudioFeatures:
        """One token per column, the mean of its rows: tokens (C, D), clip (B, D)."""
        return self._read(self.grid.mean(1))

    def stacked(self) -> AudioFeatures:
        """One token per column, its rows end to end from low to high: tokens (C, R D),
        clip (B, R D). Upstream's features for everything but CLAP."""
        return self._read(self.grid.flatten(1))

    def _read(self, tokens: Tensor) -> AudioFeatures:
        return AudioFeatures(tokens, self.offsets, self.time_s, self._mean(tokens))

    def _mean(self, tokens: Tensor) -> Tensor:
        return row_means(Ragged(tokens, self.offsets), self.share)


class PatchEmbed(nn.Module):
    """Patches (P, patch_bins x patch_frames) -> (P, D): a convolution whose stride is its
    kernel."""

    def __init__(self, spec: M2dSpec) -> None:
        super().__init__()
        patch = (spec.patch_bins, spec.patch_frames)
        self.proj = nn.Conv2d(1, spec.width, patch, stride=patch)
        nn.init.xavier_uniform_(self.proj.weight.data.flatten(1))
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]

    def forward(self, patches: Tensor) -> Tensor:
        return linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class M2dEncoder(Vit):
    """Ragged log-mel frames (ΣN, F) of clips of any length -> AudioFeatures: tokens (P, D), clip
    (B, D).

    `hear` gives the same before it is read as patches, frames or stacked columns, `layers` that of
    every block. For objectives: `patches`, embedded, of which `encode` takes any.
    """

    pos_embed: Tensor  # (1, 1 + R columns, D), row after row of the grid, as published

    def __init__(self, spec: M2dSpec, *, mel_bins: int = 80, frame_s: float = 0.01) -> None:
        if mel_bins % spec.patch_bins:
            raise ValueError(f"{mel_bins} mel bins are not whole patches of {spec.patch_bins}")
        super().__init__(
            width=spec.width,
            depth=spec.depth,
            heads=spec.heads,
            mlp_ratio=spec.mlp_ratio,
            eps=spec.norm_eps,
        )
        self.spec, self.frame_s, self.width = spec, frame_s, spec.width
        self.rows, self.columns = mel_bins // spec.patch_bins, spec.columns
        self.patch_embed = PatchEmbed(spec)
        self.cls_token = nn.Parameter(torch.empty(1, 1, spec.width))
        nn.init.normal_(self.cls_token, std=0.02)
        stored = spec.positions == "stored"
        self.register_buffer("pos_embed", fresh_positions(spec, self.rows), persistent=stored)

    def forward(self, frames: Ragged) -> AudioFeatures:
        return self.hear(frames).patches()

    def hear(self, frames: Ragged, cutting: Cutting = whole_columns) -> Columns:
        """All columns of every clip (ΣN, F)."""
        cuts = [cutting(n, self.spec) for n in frames.lengths]
        return self._columns(self.encode(self._windows(frames, cuts)), cuts)

    def layers(self, frames: Ragged, cutting: Cutting = whole_columns) -> list[Columns]:
        """What `hear` gives of each block: the last as normed, those before it as they are."""
        cuts = [cutting(n, self.spec) for n in frames.lengths]
        states = list(self.states(self.with_class(self._windows(frames, cuts))))
        states[-1] = Ragged(self.norm(states[-1].values), states[-1].offsets)
        return [self._columns(state, cuts) for state in states]

    # -- what objectives ask for -----------------------------------------------------------------

    def columns_in(self, frames: int) -> int:
        """Columns of a clip that `patches` gives: whole ones, of its first window."""
        return min(self.columns, max(1, frames // self.spec.patch_frames))

    def patches(self, frames: Ragged) -> Ragged:
        """Ragged frames (ΣN, F) -> patches (P, D), embedded, with their positions."""
        columns = [self.columns_in(n) for n in frames.lengths]
        clips = [self._stretch(x, 0, c) for x, c in zip(frames, columns, strict=True)]
        return self._embed(clips, columns)

    def with_class(self, patches: Ragged) -> Ragged:
        """The class token before each clip's patches."""
        token = (self.cls_token + self.pos_embed[:, :1])[0]
        return prepend(token.expand(len(patches), -1), patches)

    def encode(self, patches: Ragged) -> Ragged:
        """Embedded patches (P, D), all of a clip's or some -> (P + B, D), the class token first in
        each clip."""
        return self.through(self.with_class(patches))

    # -- from frames to patches, and back to columns -----------------------------------------------

    def _windows(self, frames: Ragged, cuts: Sequence[Cut]) -> Ragged:
        pairs = [(x, w) for x, cut in zip(frames, cuts, strict=True) for w in cut.windows]
        stretches = [self._stretch(x, w.start, w.columns) for x, w in pairs]
        return self._embed(stretches, [w.columns for _, w in pairs])

    def _stretch(self, frames: Tensor, start: int, columns: int) -> Tensor:
        """(N, F) -> (columns patch_frames, F), filled with 0, the mean of the normalised
        log-mel."""
        length = columns * self.spec.patch_frames
        stretch = frames[start : start + length]
        return F.pad(stretch, (0, 0, 0, length - len(stretch)))

    def _embed(self, stretches: Sequence[Tensor], columns: Sequence[int]) -> Ragged:
        grid = torch.cat(list(stretches)).unflatten(0, (-1, self.spec.patch_frames))
        patches = grid.unflatten(-1, (self.rows, -1)).permute(0, 2, 3, 1).flatten(2)  # (C, R, f t)
        lengths = [c * self.rows for c in columns]
        places = self.pos_embed[0, 1:].unflatten(0, (self.rows, -1)).transpose(0, 1).flatten(0, 1)
        embedded: Tensor = self.patch_embed(patches.flatten(0, 1))
        return Ragged.from_lengths(embedded + laid(places, lengths), lengths)

    def _columns(self, encoded: Ragged, cuts: Sequence[Cut]) -> Columns:
        grid = split_first(encoded)[1].values.unflatten(0, (-1, self.rows))
        counts = [len(cut.centre) for cut in cuts]
        if sum(counts) < len(grid):
            grid = _mean_where_twice(grid, cuts)
        share = torch.cat([cut.share for cut in cuts]).to(grid)
        time_s = torch.cat([cut.centre for cut in cuts]) * self.frame_s
        return Columns(grid, Ragged.from_lengths(share, counts).offsets, time_s.to(grid), share)


def _mean_where_twice(grid: Tensor, cuts: Sequence[Cut]) -> Tensor:
    """Columns of windows (C', R, D) -> columns of clips (C, R, D)."""
    places, total = [], 0
    for cut in cuts:
        places += [torch.arange(w.columns) + (total + w.at) for w in cut.windows]
        total += len(cut.centre)
    place = torch.cat(places)
    times = place.bincount(minlength=total).to(grid)
    summed = grid.new_zeros(total, *grid.shape[1:]).index_add(0, place.to(grid.device), grid)
    return summed / times[:, None, None]


def fresh_positions(spec: M2dSpec, rows: int) -> Tensor:
    """(1, 1 + R columns, D): the class token's, zero, then those of the patches, row after row."""
    grid = sin_cos_positions(spec.columns, rows, spec.width).unflatten(0, (spec.columns, rows))
    return F.pad(grid.transpose(0, 1).flatten(0, 1), (0, 0, 1, 0))[None]


def lengthened_positions(table: Tensor, rows: int, columns: int) -> Tensor:
    """A table (1, 1 + R c, D) for another number of columns, bicubic along time, as upstream makes
    a 608-frame model one of 1001: (1, 1 + R columns, D)."""
    first, grid = table[:, :1], table[:, 1:].unflatten(1, (rows, -1)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([first, grid.flatten(2).transpose(1, 2)], 1)


def for_window(encoder: M2dEncoder, frames: int) -> tuple[M2dSpec, Tensor] | None:
    """The description and the positions of that encoder for a window of so many frames; None where
    its own has as many columns."""
    longer = encoder.spec.model_copy(update={"frames": frames, "positions": "stored"})
    if longer.columns <= encoder.columns:
        return None
    return longer, lengthened_positions(encoder.pos_embed, encoder.rows, longer.columns)


def upstream_times_s(columns: int, duration_s: float) -> Tensor:
    """(columns,) the times that upstream gives of the columns of a clip: equal steps from 0, though
    its chunks leave frames out. `Columns.time_s` are the true centres."""
    return torch.arange(columns) * (duration_s / columns)
