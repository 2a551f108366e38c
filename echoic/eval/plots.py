"""Line and bar charts, for reports that need no script and no network.

Every figure carries its numbers as a table, and hover titles on its marks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from echoic.eval.bootstrap import Interval
from echoic.eval.ranks import Floats
from echoic.eval.svg import WIDTH, drawing, number, short, stroke, text

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 14, 42
_HEIGHT = 300
_FLOOR, _CEILING = _HEIGHT - _BOTTOM, _TOP + 14  # where the y axis begins and ends
_SERIES = 4


@dataclass(frozen=True)
class Table:
    """Cells as text; the first `text_columns` are set to the left, the numbers to the right. wide:
    over the whole page, and never scrolled down."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    text_columns: int = 1
    wide: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawing with its heading, legend (name, colour class), a note in words, and its numbers."""

    title: str
    svg: str
    table: Table
    note: str = ""
    legend: Sequence[tuple[str, str]] = field(default=())


@dataclass(frozen=True)
class Line:
    """A curve through (x, y), each (Q,). `faint` for raw values behind their smoothed curve."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    faint: bool = False


@dataclass(frozen=True)
class Bars:
    """One bar per group, with whiskers, and the value of pure chance where it is known."""

    name: str
    values: Sequence[Interval]
    chance: Sequence[float] | None = None


@dataclass(frozen=True)
class Spot:
    """A share of 1 over another. size: how many decisions it stands for."""

    name: str
    x: float
    y: Interval
    size: int


def line_chart(title: str, lines: Sequence[Line], *, x_label: str, y_label: str) -> Figure:
    """Curves over a common x axis. Raises ValueError where no line has a finite point."""
    clean = [curve for curve in map(_finite, lines) if curve.x]
    if not clean:
        raise ValueError(f"{title}: nothing to draw")
    axes = _Axes(clean)
    names = list(dict.fromkeys(curve.name for curve in clean))
    colours = {name: f"s{i % _SERIES}" for i, name in enumerate(names)}
    parts = axes.frame(x_label, y_label)
    for curve in clean:
        parts += axes.curve(curve, colours[curve.name], x_label)
    rows = [
        (curve.name, number(a), number(b))
        for curve in clean
        if not curve.faint
        for a, b in _thinned(curve, 20)
    ]
    table = Table(("", x_label, y_label), rows)
    legend = list(colours.items()) if len(names) > 1 else []
    return Figure(title, drawing(parts, _HEIGHT, title), table, "", legend)


def bar_chart(title: str, groups: Sequence[str], series: Sequence[Bars], *, y_label: str) -> Figure:
    """Shares of 1 as groups of upright bars from 0 to 100 %, whiskers for the interval."""
    parts = _percent_grid(y_label)
    group_width = (WIDTH - _LEFT - _RIGHT) / len(groups)
    bar_width = min(46.0, group_width * 0.8 / len(series))
    for g, group in enumerate(groups):
        middle = _LEFT + group_width * (g + 0.5)
        parts.append(text(middle, _FLOOR + 20, group, "label", "middle"))
        for s, bars in enumerate(series):
            left = middle + bar_width * (s - len(series) / 2)
            title_of = f"{bars.name}, {group}: {share(bars.values[g])}"
            parts += _bar(left, bar_width, bars.values[g], f"s{s % _SERIES}", title_of)
            if bars.chance is not None:
                y = _percent_y(bars.chance[g])
                parts.append(stroke(left - 1, y, left + bar_width + 1, y, "chance"))
    columns = ("", *(f"{b.name}, {y_label} (%)" for b in series))
    rows = [(group, *(share(b.values[g]) for b in series)) for g, group in enumerate(groups)]
    note = _level_note([v for bars in series for v in bars.values])
    if any(bars.chance is not None for bars in series):
        note += " Dashes mark chance."
    legend = [(bars.name, f"s{s % _SERIES}") for s, bars in enumerate(series)]
    return Figure(title, drawing(parts, _HEIGHT, title), Table(columns, rows), note, legend)


def row_chart(
    title: str,
    rows: Sequence[tuple[str, Interval]],
    *,
    x_label: str,
    reference: float | None = None,
    reference_name: str = "chance",
) -> Figure:
    """Shares of 1 as lying bars, one below the other, each with its name and its whisker."""
    left, right, step = 118, 52, 34
    width, foot = WIDTH - left - right, 10 + step * len(rows)
    parts = [stroke(left + width * t / 4, 6, left + width * t / 4, foot, "grid") for t in range(5)]
    parts += [
        text(left + width * t / 4, foot + 17, f"{25 * t}", "tick", "middle") for t in range(5)
    ]
    parts.append(text(left + width / 2, foot + 36, f"{x_label} (%)", "axis", "middle"))
    for i, (name, value) in enumerate(rows):
        y = 10 + step * (i + 0.5)
        at, low, high = (left + width * v for v in (value.value, value.low, value.high))
        parts += [
            f"<g><title>{escape(name)}: {share(value)}</title>",
            f'<rect class="bar s0" x="{left}" y="{y - 9:.1f}" width="{at - left:.1f}" '
            'height="18"/>',
            *_whisker([(low, y), (high, y)], 0, 4),
            text(left - 10, y + 4.5, short(name, 16), "label", "end"),
            text(WIDTH - 4, y + 4.5, f"{100 * value.value:.1f}", "value", "end"),
            "</g>",
        ]
    note = _level_note([value for _, value in rows])
    if reference is not None:
        x = left + width * reference
        parts.append(stroke(x, 2, x, foot, "chance"))
        note += f" The dashed line is {reference_name}, {100 * reference:.0f} %."
    table = Table(("", f"{x_label} (%)"), [(name, share(value)) for name, value in rows])
    return Figure(title, drawing(parts, foot + 46, title), table, note)


def agreement_chart(
    title: str, spots: Sequence[Spot], *, x_label: str, y_label: str, note: str = ""
) -> Figure:
    """Shares of 1 against shares of 1, by rising x, each with its whisker and its distance from the
    dashed line on which the two agree."""
    axes = _Square()
    parts = axes.frame(x_label, y_label)
    for spot in spots:
        x, y = axes.x(spot.x), axes.y(spot.y.value)
        low, high = axes.y(spot.y.low), axes.y(spot.y.high)
        parts += [
            f"<g><title>{escape(spot.name)}: {share(spot.y)}</title>",
            f'<polyline class="line s1" points="{x:.1f},{axes.y(spot.x):.1f} {x:.1f},{y:.1f}"/>',
            *_whisker([(x, low), (x, high)], 4, 0),
            f'<circle class="bar s0" cx="{x:.1f}" cy="{y:.1f}" r="5"/>',
            "</g>",
        ]
    rows = [(s.name, f"{100 * s.x:.1f}", share(s.y), str(s.size)) for s in spots]
    table = Table(("", f"{x_label} (%)", f"{y_label} (%)", "decisions"), rows)
    said = f"{_level_note([spot.y for spot in spots])} {note}".strip()
    return Figure(title, drawing(parts, axes.height, title), table, said)


def share(value: Interval) -> str:
    """An interval of a share of 1, in per cent: 46.2 (43.1 to 49.0)."""
    return f"{100 * value.value:.1f} ({100 * value.low:.1f} to {100 * value.high:.1f})"


class _Axes:
    """Where values lie on the drawing of a line chart."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.x_low, self.x_high = min(min(c.x) for c in lines), max(max(c.x) for c in lines)
        if 0 < self.x_low < self.x_high / 20:
            self.x_low = 0.0
        self.x_ticks = _ticks(self.x_low, self.x_high)
        self.y_ticks = _ticks(min(min(c.y) for c in lines), max(max(c.y) for c in lines))

    def x(self, value: float) -> float:
        width = WIDTH - _LEFT - _RIGHT
        return _LEFT + width * (value - self.x_low) / ((self.x_high - self.x_low) or 1.0)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return _FLOOR - (_FLOOR - _CEILING) * (value - low) / (high - low)

    def frame(self, x_label: str, y_label: str) -> list[str]:
        parts = [text(0, 14, y_label, "axis", "start")]
        for tick in self.y_ticks:
            parts.append(stroke(_LEFT, self.y(tick), WIDTH - _RIGHT, self.y(tick), "grid"))
            parts.append(text(_LEFT - 8, self.y(tick) + 4.5, number(tick), "tick", "end"))
        parts += [
            text(self.x(tick), _FLOOR + 18, number(tick), "tick", "middle")
            for tick in self.x_ticks
            if self.x_low <= tick <= self.x_high
        ]
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        return [*parts, text(middle, _FLOOR + 37, x_label, "axis", "middle")]

    def curve(self, line: Line, colour: str, x_label: str) -> list[str]:
        path = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in _thinned(line, 400))
        faint = " faint" if line.faint else ""
        drawn = [f'<polyline class="line {colour}{faint}" points="{path}"/>']
        if line.faint:
            return drawn
        return drawn + [
            f'<circle class="hit" cx="{self.x(a):.1f}" cy="{self.y(b):.1f}" r="7">'
            f"<title>{escape(line.name)}, {escape(x_label)} {number(a)}: {number(b)}</title>"
            "</circle>"
            for a, b in _thinned(line, 40)
        ]


class _Square:
    """Where shares of 1 lie on a drawing with both axes from 0 to 100 %."""

    height = 440
    _floor, _ceiling = height - _BOTTOM, _TOP + 14

    def x(self, value: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * value

    def y(self, value: float) -> float:
        return self._floor - (self._floor - self._ceiling) * value

    def frame(self, x_label: str, y_label: str) -> list[str]:
        parts = [text(0, 14, f"{y_label} (%)", "axis", "start")]
        for quarter in range(5):
            at, words = quarter / 4, str(25 * quarter)
            parts += [
                stroke(_LEFT, self.y(at), WIDTH - _RIGHT, self.y(at), "grid"),
                text(_LEFT - 8, self.y(at) + 4.5, words, "tick", "end"),
                text(self.x(at), self._floor + 18, words, "tick", "middle"),
            ]
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        parts.append(text(middle, self._floor + 37, f"{x_label} (%)", "axis", "middle"))
        return [*parts, stroke(self.x(0), self.y(0), self.x(1), self.y(1), "chance")]


def _percent_y(value: float) -> float:
    return _FLOOR - (_FLOOR - _CEILING) * value


def _percent_grid(y_label: str) -> list[str]:
    parts = [text(0, 14, f"{y_label} (%)", "axis", "start")]
    for percent in range(0, 101, 25):
        y = _percent_y(percent / 100)
        parts.append(stroke(_LEFT, y, WIDTH - _RIGHT, y, "grid"))
        parts.append(text(_LEFT - 8, y + 4.5, str(percent), "tick", "end"))
    return parts


def _bar(left: float, width: float, value: Interval, colour: str, title: str) -> list[str]:
    middle = left + width / 2
    top, low, high = (_percent_y(v) for v in (value.value, value.low, value.high))
    return [
        f"<g><title>{escape(title)}</title>",
        f'<rect class="bar {colour}" x="{left + 1.5:.1f}" y="{top:.1f}" '
        f'width="{width - 3:.1f}" height="{_FLOOR - top:.1f}"/>',
        *_whisker([(middle, low), (middle, high)], 4, 0),
        text(middle, high - 6, f"{100 * value.value:.1f}", "value", "middle"),
        "</g>",
    ]


def _whisker(ends: Sequence[tuple[float, float]], across: float, along: float) -> list[str]:
    """A stroke between two points with caps that reach `across` in x and `along` in y."""
    (x1, y1), (x2, y2) = ends
    caps = [stroke(x - across, y - along, x + across, y + along, "whisker") for x, y in ends]
    return [stroke(x1, y1, x2, y2, "whisker"), *caps]


def _level_note(values: Sequence[Interval]) -> str:
    levels = sorted({value.level for value in values})
    return (
        f"Whiskers: {' and '.join(f'{100 * level:g} %' for level in levels)} interval over clips."
    )


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values that enclose low to high."""
    spread = (high - low) or abs(high) or 1.0
    rough = spread / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(s * unit for s in (1, 2, 2.5, 5, 10) if s * unit >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _finite(line: Line) -> Line:
    pairs = [(float(a), float(b)) for a, b in zip(line.x, line.y, strict=True)]
    kept = [p for p in pairs if math.isfinite(p[0]) and math.isfinite(p[1])]
    return Line(line.name, [a for a, _ in kept], [b for _, b in kept], line.faint)


def _thinned(line: Line, most: int) -> list[tuple[float, float]]:
    """At most `most` points, evenly spread, first and last kept."""
    chosen: Floats = np.linspace(0, len(line.x) - 1, min(most, len(line.x)))
    return [(line.x[i], line.y[i]) for i in np.unique(chosen.round().astype(int))]
