"""A recording's time line as a drawing: a row for each label, shaded by its score, its spans as
bars below.

Shapes: N steps, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from echoic.eval.events import Span
from echoic.eval.plots import Figure, Table
from echoic.eval.ranks import Floats
from echoic.eval.svg import WIDTH, drawing, number, short, stroke, text

_LEFT, _RIGHT, _TOP = 118, 12, 22
_ROW, _STRIP, _BAR = 34, 20, 5  # of a row: all of it, the scores, the spans
_MOST_CELLS = 240  # along time: more would be thinner than a dot
_TICKS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)


def time_chart(
    title: str,
    labels: Sequence[str],
    edges_s: Floats,
    scores: Floats,
    spans: Sequence[Span],
    *,
    note: str = "",
) -> Figure:
    """edges_s: (N + 1,) of the steps; scores: (N, C). A cell that stands for many steps shows the
    highest of them. The table sums each label up. Raises ValueError where there is no step."""
    if not len(scores):
        raise ValueError(f"{title}: nothing to draw")
    end_s = float(edges_s[-1])
    scale = (WIDTH - _LEFT - _RIGHT) / end_s
    foot = _TOP + _ROW * len(labels)
    parts = []
    for tick_s in ticks_s(end_s, 6):
        x = _LEFT + scale * tick_s
        parts += [
            stroke(x, _TOP - 4, x, foot, "grid"),
            text(x, foot + 16, clock(tick_s, end_s), "tick", "middle"),
        ]
    starts, cells = highest(scores, _MOST_CELLS)
    edges = _LEFT + scale * np.append(edges_s[starts], end_s)
    low, high = min(0.0, float(scores.min())), max(float(scores.max()), 1e-9)
    for row, label in enumerate(labels):
        y = _TOP + _ROW * row
        parts += [
            text(_LEFT - 8, y + 15, short(label, 16), "label", "end"),
            _strip(y, edges, (cells[:, row] - low) / (high - low), escape(label)),
            *(_bar(span, y, scale) for span in spans if span.label == label),
        ]
    told = f"The fullest shade is {number(high)}, the palest {number(low)}; bars are the spans."
    table = _summary(labels, scores, spans)
    return Figure(title, drawing(parts, foot + 24, title), table, f"{told} {note}".strip())


def spans_table(spans: Sequence[Span], title: str = "", *, wide: bool = False) -> Table:
    """One row for each, in the order given."""
    rows = [
        (span.label, f"{span.onset_s:.2f}", f"{span.offset_s:.2f}", f"{span.score or 0:.2f}")
        for span in spans
    ]
    return Table(("label", "from (s)", "to (s)", "highest score"), rows, title, wide=wide)


def _summary(labels: Sequence[str], scores: Floats, spans: Sequence[Span]) -> Table:
    rows = []
    for column, label in enumerate(labels):
        own = [span for span in spans if span.label == label]
        sounds_s = sum(span.offset_s - span.onset_s for span in own)
        top = number(float(scores[:, column].max()))
        rows.append((label, str(len(own)), f"{sounds_s:.1f}", top))
    return Table(("label", "spans", "together (s)", "highest score"), rows)


def highest(scores: Floats, most: int) -> tuple[NDArray[np.int64], Floats]:
    """(N, C) -> at most `most` stretches of steps: where each begins (M,), and the highest score in
    it (M, C)."""
    places = np.linspace(0, len(scores), min(most, len(scores)), endpoint=False)
    starts = np.unique(places.astype(np.int64))
    return starts, np.maximum.reduceat(scores, starts, axis=0)


def ticks_s(end_s: float, most: int) -> list[float]:
    """Round times from 0 up to `end_s`, about as many as there is place for."""
    step_s = next((s for s in _TICKS_S if end_s / s <= most), 3600 * np.ceil(end_s / 3600 / most))
    return [step_s * i for i in range(int(end_s / step_s + 1e-9) + 1)]


def clock(time_s: float, end_s: float) -> str:
    """A time on an axis up to `end_s`: 0.5, 1:05, 1:02:05."""
    if end_s < 10:
        return f"{time_s:g}" if time_s == round(time_s) else f"{time_s:.1f}"
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if end_s >= 3600 else f"{minutes}:{seconds:02d}"


def _strip(y: float, edges: Floats, strength: Floats, label: str) -> str:
    """One shape for each shade rather than for each cell: an hour has thousands of them."""
    shades = np.round(20 * strength).astype(int)
    parts = [
        f'<rect class="plate" x="{edges[0]:.1f}" y="{y}" width="{edges[-1] - edges[0]:.1f}" '
        f'height="{_STRIP}"/>'
    ]
    for shade in sorted(set(shades.tolist()) - {0}):
        path = "".join(
            f"M{a:.1f} {y}H{b:.1f}v{_STRIP}H{a:.1f}z"
            for a, b, found in zip(edges[:-1], edges[1:], shades, strict=True)
            if found == shade
        )
        parts.append(f'<path class="heat" fill-opacity="{shade / 20:.2f}" d="{path}"/>')
    return f"<g><title>{label}</title>{''.join(parts)}</g>"


def _bar(span: Span, y: float, scale: float) -> str:
    x, width = _LEFT + scale * span.onset_s, scale * (span.offset_s - span.onset_s)
    told = f"{span.label}: {span.onset_s:.2f} to {span.offset_s:.2f} s, {span.score or 0:.2f}"
    return (
        f'<rect class="bar s1" x="{x:.1f}" y="{y + _STRIP + 2}" width="{max(width, 1.5):.1f}" '
        f'height="{_BAR}"><title>{escape(told)}</title></rect>'
    )
