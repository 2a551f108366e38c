"""What a suite found, all its entries: one table, one JSON document, one report; knows no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from echoic.eval.evaluation import Evaluation
from echoic.eval.events_result import EventsResult
from echoic.eval.outcomes import Outcomes, told_apart
from echoic.eval.plots import Table
from echoic.eval.report import Report, Section
from echoic.eval.sections import ALARM, configuration_section, sections_of_run
from echoic.eval.suite_entry import Entry, Status
from echoic.eval.task_result import TaskResult


@dataclass(frozen=True)
class SuiteResult:
    """model: what names it. asked: the suites and tasks, as the user named them. level: of the
    intervals. complete: False where it was stopped."""

    model: Mapping[str, Any]
    asked: str
    entries: tuple[Entry, ...]
    level: float = 0.95
    complete: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain values, for programs: a row of each figure with all that is known of it. `metrics`
        has the figures once more, as task/measure/figure; of what was asked for twice, by another
        protocol or size, the second as "task (2)/measure/figure"."""
        rows = [row for entry in self.entries for row in entry.rows()]
        apart = [row for entry in self._apart() for row in entry.rows()]
        return {
            "model": self.model,
            "data": {"name": self.asked},
            "complete": self.complete,
            "confidence": self.level,
            "rows": rows,
            "metrics": {
                f"{row['task']}/{row['measure']}/{row['figure']}": {
                    name: row[name] for name in ("value", "low", "high")
                }
                for row in apart
                if row["figure"] is not None
            },
            "alarms": self._alarms(),
            "protocol": self._words(),
        }

    def outcomes(self) -> list[Outcomes]:
        """What each clip adds to the figures, for `eval.comparison`."""
        return [each for entry in self._apart() for each in entry.outcomes()]

    def table(self) -> RichTable:
        """For people: under a line for each measure its figures, in columns that all share."""
        rows = [self._headings(), *(row for entry in self.entries for row in entry.cells())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = RichTable(
            title=f"{self.asked}: {self._summary()}",
            title_justify="left",
            box=None,
            pad_edge=False,
            caption="\n".join(f"space: {told}" for told in self._alarms()) or None,
            caption_justify="left",
        )
        # one column, so that the lines of measures may be longer than the first of figures
        table.add_column(_in_columns(rows[0], widths), overflow="fold")
        for entry in self.entries:
            table.add_row(entry.heading(), style="bold" if entry.figures else "dim")
            for row in entry.cells():
                table.add_row(_in_columns(row, widths))
        return table

    def write_report(self, path: Path, *, run_folder: Path | None = None) -> Path:
        """Write the HTML report; run_folder: of the training, for its loss curves. Raises
        DataError."""
        return self.report(run_folder).write(path)

    def report(self, run_folder: Path | None = None) -> Report:
        lead = f"{ALARM} The embedding space is not in order: see there." if self._alarms() else ""
        sections = [Section("At a glance", self._sheets(), lead)]
        sections += [*sections_of_run(run_folder), *self._of_entries()]
        sections.append(configuration_section({"model": self.model}, self._words()))
        name = str(self.model.get("recipe", "model"))
        return Report(f"echoic: {name}", f"{self.asked}, {self._summary()}", sections)

    def having(self, status: Status) -> list[Entry]:
        return [entry for entry in self.entries if entry.status == status]

    def _apart(self) -> list[Entry]:
        """The entries, no two of one name."""
        names = told_apart(entry.name for entry in self.entries)
        return [
            replace(entry, task=f"{entry.task}{name.removeprefix(entry.name)}")
            for entry, name in zip(self.entries, names, strict=True)
        ]

    def _words(self) -> list[str]:
        return [f"{entry.name}: {told}" for entry in self.entries for told in entry.words]

    def _alarms(self) -> list[str]:
        return list(dict.fromkeys(told for entry in self.entries for told in entry.alarms))

    def _summary(self) -> str:
        done = len(self.having("measured"))
        if not self.complete:
            return f"{done} measured, stopped before the end"
        return f"{done} of {len(self.entries)} measured"

    def _headings(self) -> tuple[str, ...]:
        return ("", "ours", f"{100 * self.level:g} % interval", "paper", "chance")

    def _sheets(self) -> list[Table]:
        """The figures; and how each measure was made, or why there is none."""
        rows: list[tuple[str, ...]] = []
        for entry in self.entries:
            names = [entry.what, *[""] * len(entry.figures)]
            rows += ((name, *cells) for name, cells in zip(names, entry.cells(), strict=False))
        figures = ("task", "figure", *self._headings()[1:])
        told = [(entry.what, entry.how()) for entry in self.entries]
        return [
            *([Table(figures, rows, text_columns=2, wide=True)] if rows else []),
            Table(("task", "how"), told, text_columns=2, wide=True),
        ]

    def _of_entries(self) -> list[Section]:
        """Under the task's name, and that of the measure where several have such a section."""
        found = [(entry, each) for entry in self.entries for each in _sections(entry)]
        seen = Counter((entry.title, each.title) for entry, each in found)
        return [
            replace(each, title=f"{entry.title if once else entry.what}: {each.title}")
            for entry, each in found
            for once in [seen[entry.title, each.title] == 1]
        ]


def _in_columns(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The first to the left, the numbers to the right."""
    first, *others = cells
    told = [each.rjust(width) for each, width in zip(others, widths[1:], strict=True)]
    return "  ".join(["", first.ljust(widths[0]), *told])


def _sections(entry: Entry) -> list[Section]:
    """What is known of it beyond its figures."""
    found: list[Section] = []
    match entry.result:
        case Evaluation():
            found = [*entry.result.report().sections[1:-1]]  # between its figures and its protocol
        case TaskResult() | EventsResult():
            found = entry.result.sections()
    return found
