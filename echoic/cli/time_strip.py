"""A time line in the terminal: a row of blocks for each label, as high as its score, and a table of
its spans. Heights tell without colour what colours tell.

Shapes: N steps, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from echoic.cli.caption import clock
from echoic.cli.common import plain_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from echoic.eval.events import Span
    from echoic.eval.ranks import Floats
    from echoic.timeline import Scale, Timeline

PIPE_WIDTH = 80  # of what goes into a file or a pipe
MOST_ROWS = 12
_NAME = 20  # characters of a label, at most
_BLOCKS, _PLAIN = " ▁▂▃▄▅▆▇█", " .:-=+*#%@"
_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red")


def strip_console() -> Console:
    """On stdout; of the terminal's width, or `PIPE_WIDTH`."""
    import sys

    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(markup=False, highlight=False, emoji=False, width=width)


def show_line(
    console: Console, file: str, line: Timeline, spans: Sequence[Span], by: Scale
) -> None:
    """Name and length, the strips of the labels that have spans, the spans."""
    console.print(f"{file}  {clock(line.duration_s)}", style="bold", soft_wrap=True)
    shown = strongest_labels(spans)
    for row in strips(line, shown, by, console):
        console.print(row, no_wrap=True, overflow="crop")
    if spans:
        console.print(spans_table(spans))
    quiet = len(line.labels) - len({span.label for span in spans})
    unseen = len({span.label for span in spans}) - len(shown)
    if unseen:
        console.print(f"{unseen} more labels have spans and no strip here", style="dim")
    if quiet:
        told = "no span of any label" if not spans else f"no span of {quiet} other labels"
        console.print(told if quiet > 1 or not spans else "no span of 1 other label", style="dim")
    console.print()


def strongest_labels(spans: Sequence[Span]) -> list[str]:
    """At most `MOST_ROWS`, those with the highest scores, in order of their first onset."""
    scores: dict[str, float] = {}
    for span in spans:
        scores[span.label] = max(scores.get(span.label, -1.0), span.score or 0.0)
    best = sorted(scores, key=lambda label: -scores[label])[:MOST_ROWS]
    return [label for label in scores if label in best]


def strips(line: Timeline, labels: Sequence[str], by: Scale, console: Console) -> list[Text]:
    """A row for each of `labels`, and the axis below; none where there is nothing to show."""
    from rich.cells import cell_len
    from rich.text import Text

    from echoic.eval.time_chart import highest

    if not labels or not len(line.cosines):
        return []
    name = min(_NAME, max(map(cell_len, labels)))
    width = max(10, min(console.width, 160) - name - 3)
    _, cells = highest(line.scores(by), width)
    cells = _stretched(cells, width)
    high = max(float(cells.max()), 1e-9)
    levels = _BLOCKS if _can_show(console, _BLOCKS) else _PLAIN
    rows = []
    for place, label in enumerate(labels):
        column = cells[:, line.labels.index(label)].clip(0) / high
        marks = "".join(levels[round(x * (len(levels) - 1))] for x in column.tolist())
        row = Text(f"{_fitted(label, name, console)}  ")
        rows.append(row.append(marks, style=_COLOURS[place % len(_COLOURS)]))
    return [*rows, Text(" " * (name + 2) + _axis(line.duration_s, width), style="dim")]


def spans_table(spans: Sequence[Span]) -> Table:
    table = plain_table("from", "to", "label", "score", right=["from", "to", "score"])
    for span in spans:
        score = f"{span.score or 0:.2f}"
        table.add_row(clock(span.onset_s), clock(span.offset_s), span.label, score)
    return table


def _stretched(cells: Floats, width: int) -> Floats:
    """(M, C) -> (width, C): of a recording of few steps each stands for several characters."""
    return cells[[place * len(cells) // width for place in range(width)]]


def _axis(end_s: float, width: int) -> str:
    from echoic.eval import time_chart

    line = [" "] * (width + 8)
    free = 0
    for tick_s in time_chart.ticks_s(end_s, max(2, width // 8)):
        at, told = round(tick_s / end_s * width), time_chart.clock(tick_s, end_s)
        if at >= free and at + len(told) <= width:
            line[at : at + len(told)] = told
            free = at + len(told) + 2
    return "".join(line).rstrip()


def _fitted(label: str, cells: int, console: Console) -> str:
    """Exactly so many places of the terminal, of which some letters take two."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(label) <= cells:
        return set_cell_size(label, cells)
    return set_cell_size(label, cells - 1) + ("…" if _can_show(console, "…") else ".")


def _can_show(console: Console, marks: str) -> bool:
    try:
        marks.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
