"""Which patches of a clip are seen, and which are masked.

`RandomMask` takes them one by one (M2D, 2210.14648, section III-A; MAE, 2111.06377),
`StructuredMask` whole rows and whole columns of the grid (structured patchout, PaSST, 2110.05069;
stage 2 and fine-tuning of M2D-CLAP, 2503.22104). Patches of all clips lie end to end, column after
column.

B clips, P patches of all clips, V of them visible, M masked, R patch rows of a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from echoic.config import Spec
from echoic.types import Ragged

Ratio = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Mask:
    """visible: ragged (V,), masked: ragged (M,) int64: places in the pack, clip after clip;
    together each of the P places once."""

    visible: Ragged
    masked: Ragged

    def to(self, device: torch.device | str) -> Mask:
        return Mask(self.visible.to(device), self.masked.to(device))


class Masking(Protocol):
    """A way to mask. lengths: patches of each clip, whole columns. generator: on the CPU."""

    def draw(self, lengths: Sequence[int], rows: int, generator: torch.Generator) -> Mask: ...


class RandomMask(Spec):
    """Each clip's patches in random order: the first int(count * (1 - ratio)) are visible, at least
    one."""

    kind: Literal["random"] = "random"
    ratio: Ratio = 0.7

    def draw(self, lengths: Sequence[int], rows: int, generator: torch.Generator) -> Mask:
        return self.by(torch.rand(sum(lengths), dtype=torch.float64, generator=generator), lengths)

    def by(self, noise: Tensor, lengths: Sequence[int]) -> Mask:
        """The same from given noise (P,): the patches of least noise are visible, in its order."""
        count = torch.tensor(lengths)
        rank = torch.arange(int(count.max()))
        grid = torch.full((len(count), len(rank)), torch.inf, dtype=noise.dtype)
        grid[rank < count[:, None]] = noise
        places = grid.argsort(dim=1, stable=True) + (count.cumsum(0) - count)[:, None]
        # 10 * (1 - 0.9) is a hair below 1; float32 would round some counts down
        shown = (count.double() * (1 - self.ratio) + 1e-9).long().clamp(min=1)
        visible = rank < shown[:, None]
        return Mask(
            Ragged.from_lengths(places[visible], shown.tolist()),
            Ragged.from_lengths(
                places[~visible & (rank < count[:, None])], (count - shown).tolist()
            ),
        )


class StructuredMask(Spec):
    """Whole rows, then whole columns are masked, about `ratio` of the patches together; what is
    visible is a grid again.

    Of F rows n = min(F - 1, int((F ratio + 1) u)), u uniform in [0, 1); of T columns
    int(T max(0, ratio - n / F) + 0.5), at most T - 1.
    differs from the code: upstream sees the stripes that it draws, and masks the rest.
    """

    kind: Literal["structured"] = "structured"
    ratio: Ratio = 0.5

    def draw(self, lengths: Sequence[int], rows: int, generator: torch.Generator) -> Mask:
        columns = torch.tensor(lengths) // rows
        clips, most = len(lengths), int(columns.max())
        u, row_noise, column_noise = (
            torch.rand(clips, n, dtype=torch.float64, generator=generator) for n in (1, rows, most)
        )
        masked_rows = ((rows * self.ratio + 1) * u[:, 0]).long().clamp(max=rows - 1)
        share = (self.ratio - masked_rows / rows).clamp(min=0)
        masked_columns = (columns * share + 0.5).long().minimum(columns - 1)
        absent = torch.arange(most) >= columns[:, None]
        by_row = _lowest(row_noise, masked_rows)  # (B, R)
        by_column = _lowest(column_noise.masked_fill(absent, torch.inf), masked_columns)
        hidden = (by_column[:, :, None] | by_row[:, None, :])[~absent].flatten()  # (P,)
        return _split(hidden, lengths)


# Either, as a recipe names it by its kind.
MaskingSpec = Annotated[RandomMask | StructuredMask, Field(discriminator="kind")]


def _lowest(noise: Tensor, count: Tensor) -> Tensor:
    """(B, n) bool: the `count` (B,) lowest of each row."""
    return noise.argsort(1).argsort(1) < count[:, None]


def _split(hidden: Tensor, lengths: Sequence[int]) -> Mask:
    """hidden: (P,) bool."""
    masked = [int(each.sum()) for each in hidden.split(list(lengths))]
    shown = [n - m for n, m in zip(lengths, masked, strict=True)]
    return Mask(
        Ragged.from_lengths((~hidden).nonzero()[:, 0], shown),
        Ragged.from_lengths(hidden.nonzero()[:, 0], masked),
    )


def take(x: Ragged, places: Ragged) -> Ragged:
    """The tokens of x (P, D) at those places."""
    return Ragged(x.values.index_select(0, places.values), places.offsets)
