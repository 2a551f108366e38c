"""A matrix of values as a grid of shaded cells.

Shapes: R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike

from echoic.eval.plots import Figure, Table
from echoic.eval.ranks import Floats
from echoic.eval.svg import WIDTH, drawing, number, short, text, turned

_RIGHT = 12
_MOST_NAMED = 30  # rows; with more, names would be too small to read, and are in the hover titles


def heat_map(
    title: str,
    matrix: ArrayLike,
    row_names: Sequence[str],
    column_names: Sequence[str],
    *,
    row_axis: str,
    column_axis: str,
    show_values: bool = False,
    marked: Collection[tuple[int, int]] = (),
    bounds: tuple[float, float] | None = None,
) -> Figure:
    """Cells (R, C) from pale (lowest) to full (highest); `marked` (row, column) are outlined.

    The table holds the whole matrix. bounds: what pale and full stand for, by default the extremes.
    Raises ValueError where the names do not fit the cells.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.shape != (len(row_names), len(column_names)) or values.size == 0:
        raise ValueError(f"{title}: {values.shape} cells do not fit their names")
    low, high = bounds or (float(values.min()), float(values.max()))
    grid = _Grid(row_names, column_names)
    strength = np.clip((values - low) / ((high - low) or 1.0), 0, 1)
    parts = [
        text(0, 14, f"{row_axis} ↓", "axis", "start"),
        text(WIDTH - _RIGHT, 14, f"{column_axis} →", "axis", "end"),
        *grid.names(),
        *(grid.cell(i, j, values, strength, (i, j) in marked) for i, j in np.ndindex(values.shape)),
    ]
    if show_values:
        parts += [grid.value(i, j, values, strength) for i, j in np.argwhere(values != 0)]
    parts += _key(grid.left, grid.bottom + 14, low, high)
    rows = [(name, *map(number, row)) for name, row in zip(row_names, values, strict=True)]
    table = Table((f"{row_axis} \\ {column_axis}", *column_names), rows)
    return Figure(title, drawing(parts, grid.bottom + 34, title), table)


@dataclass(frozen=True)
class _Grid:
    """Where the cells lie."""

    rows: Sequence[str]
    columns: Sequence[str]

    @property
    def named(self) -> bool:
        return len(self.rows) <= _MOST_NAMED

    @property
    def left(self) -> float:
        return 118 if self.named else 30

    @property
    def top(self) -> float:
        return 32 + (6.2 * min(16, max(map(len, self.columns))) if self.named else 0)

    @property
    def width(self) -> float:
        return (WIDTH - self.left - _RIGHT) / len(self.columns)

    @property
    def height(self) -> float:
        return min(self.width, 34.0)

    @property
    def bottom(self) -> float:
        return self.top + self.height * len(self.rows)

    @property
    def letter(self) -> float:
        """Size of the letters that fit a row."""
        return min(13.0, max(6.0, 0.8 * self.height))

    def names(self) -> list[str]:
        parts = [
            f'<rect class="plate" x="{self.left}" y="{self.top:.1f}" '
            f'width="{WIDTH - self.left - _RIGHT}" height="{self.bottom - self.top:.1f}"/>'
        ]
        if self.named:
            parts += [
                text(self.left - 6, self._base(i), short(name, 17), "label", "end", self.letter)
                for i, name in enumerate(self.rows)
            ]
            parts += [
                turned(self._x(j + 0.5), self.top - 6, short(name, 16), self.letter)
                for j, name in enumerate(self.columns)
            ]
        return parts

    def cell(self, i: int, j: int, values: Floats, strength: Floats, marked: bool) -> str:
        return (
            f'<rect class="heat{" marked" * marked}" x="{self._x(j):.1f}" '
            f'y="{self.top + i * self.height:.1f}" width="{self.width - 0.6:.1f}" '
            f'height="{self.height - 0.6:.1f}" fill-opacity="{strength[i, j]:.2f}">'
            f"<title>{escape(self.rows[i])} × {escape(self.columns[j])}: "
            f"{number(values[i, j])}</title></rect>"
        )

    def value(self, i: int, j: int, values: Floats, strength: Floats) -> str:
        kind = "cell strong" if strength[i, j] > 0.55 else "cell"
        words = number(values[i, j])
        return text(self._x(j + 0.5), self._base(i), words, kind, "middle", self.letter)

    def _x(self, column: float) -> float:
        return self.left + column * self.width

    def _base(self, row: int) -> float:
        """Where letters stand that are centred in a row."""
        return self.top + (row + 0.5) * self.height + 0.35 * self.letter


def _key(left: float, y: float, low: float, high: float) -> list[str]:
    steps, width = 20, 120.0
    parts = [text(left, y + 11, number(low), "tick", "start")]
    start = left + 8 + 7.5 * len(number(low))
    parts += [
        f'<rect class="heat" x="{start + i * width / steps:.1f}" y="{y:.1f}" '
        f'width="{width / steps:.1f}" height="12" fill-opacity="{i / (steps - 1):.2f}"/>'
        for i in range(steps)
    ]
    return [*parts, text(start + width + 8, y + 11, number(high), "tick", "start")]
