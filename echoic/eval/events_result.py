"""What became of tagging over time: its figures as JSON, a table, sections of a report; what each
recording adds, for the comparison with another model.

R recordings, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from echoic.data.tasks.paper import Published
from echoic.eval import plots
from echoic.eval.bootstrap import Interval
from echoic.eval.events import METRICS, Judgement
from echoic.eval.outcomes import Counts, Outcomes, digest
from echoic.eval.plots import share
from echoic.eval.psds import Scored
from echoic.eval.report import Section, Tile
from echoic.eval.sections import headline_section, share_tile

FORMULA = "events"  # of `Counts`
_WORDS = {
    "segment_f1": "segments of 1 s, F1",
    "segment_f1_macro": "segments of 1 s, F1, mean of classes",
    "error_rate": "segments of 1 s, error rate",
    "event_f1": "events, F1",
    "event_f1_macro": "events, F1, mean of classes",
    "psds1": "PSDS 1 (in time)",
    "psds2": "PSDS 2 (the right class)",
}
_TILES = {
    "psds1": "PSDS 1",
    "psds2": "PSDS 2",
    "event_f1": "F1 of events",
    "segment_f1": "F1 of segments",
}
_BY_CLASS = ("event_f1", "segment_f1", "psds1", "psds2")


@dataclass(frozen=True)
class EventsResult:
    """Tagging over time on recordings with known events.

    recordings, hours, events: judged. bad: recordings that could not be heard, by key; missing: how
    many the lists name and the folder lacks. words: how it was done. published: what papers report.
    counts: of each recording, see `counts_of`.
    """

    model: dict[str, Any]
    task: str
    title: str
    metrics: Mapping[str, Interval]
    per_class: Mapping[str, Mapping[str, float]]
    recordings: int
    hours: float
    events: int
    words: tuple[str, ...]
    published: tuple[Published, ...] = ()
    bad: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0
    counts: Counts | None = field(default=None, repr=False, compare=False)

    def outcomes(self) -> tuple[Outcomes, ...]:
        """What each recording adds to F1 and the error rate, for `eval.comparison`; PSDS is no sum
        over recordings, and not compared."""
        return () if self.counts is None else (self.counts,)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for programs; figures as `events/psds1`."""
        levels = {each.level for each in self.metrics.values()}
        return {
            "model": self.model,
            "data": {
                "name": self.task,
                "title": self.title,
                "recordings": self.recordings,
                "hours": self.hours,
                "events": self.events,
                "missing": self.missing,
                "bad": dict(self.bad),
            },
            "metrics": {
                f"events/{name}": {"value": each.value, "low": each.low, "high": each.high}
                for name, each in self.metrics.items()
            },
            "per_class": {label: dict(figures) for label, figures in self.per_class.items()},
            "confidence": max(levels),
            "published": [vars(each) for each in self.published],
            "protocol": list(self.words),
        }

    def table(self) -> Table:
        """For people, in per cent."""
        title = f"{self.title}: {self.recordings} recordings, {self.events} events"
        table = Table(title=title, title_justify="left", box=None)
        level = max(each.level for each in self.metrics.values())
        table.add_column("over time")
        for heading in ("value", f"{100 * level:g} % interval", "published"):
            table.add_column(heading, justify="right")
        for name, each in self.metrics.items():
            bounds = f"{100 * each.low:.1f} to {100 * each.high:.1f}"
            table.add_row(_WORDS[name], f"{100 * each.value:.1f} %", bounds, self._papers(name))
        return table

    def sections(self) -> list[Section]:
        """Of a report, all but how it was done."""
        tiles = [
            share_tile(label, self.metrics[name])
            for name, label in _TILES.items()
            if name in self.metrics
        ]
        tiles.append(Tile("Events that sound", str(self.events), f"{self.recordings} recordings"))
        found = [headline_section(tiles), self._figures()]
        return [*found, self._classes()] if self.per_class else found

    def _figures(self) -> Section:
        rows = [
            (_WORDS[name], share(each), self._papers(name)) for name, each in self.metrics.items()
        ]
        lead = (
            "Per cent, with intervals over recordings. F1 and the error rate are of one threshold, "
            "PSDS of all; an error rate can be more than 100."
        )
        return Section("Over time", [plots.Table(("", "value", "published"), rows)], lead)

    def _classes(self) -> Section:
        """Worst first, by the F1 of events."""
        known = [name for name in _BY_CLASS if name in next(iter(self.per_class.values()))]
        order = sorted(self.per_class, key=lambda label: self.per_class[label][known[0]])
        rows = [
            (label, *(f"{100 * self.per_class[label][name]:.1f}" for name in known))
            for label in order
        ]
        table = plots.Table(("class", *(_WORDS[name] for name in known)), rows, "All classes")
        return Section("By class", [table], "Per cent; classes without an event are left out.")

    def _papers(self, name: str) -> str:
        papers = (each for each in self.published if each.metric == name)
        return ", ".join(f"{each.model} {100 * each.value:.1f} %" for each in papers)


def counts_of(judgement: Judgement, recordings: Sequence[Scored], labels: Sequence[str]) -> Counts:
    """What each of R recordings adds, and against which events. labels: (C,)."""
    truth = [
        (each.key, [(event.onset_s, event.offset_s, event.label) for event in each.truth])
        for each in recordings
    ]
    return Counts(
        formula=FORMULA,
        figures=tuple(f"events/{name}" for name in METRICS),
        clips=[each.key for each in recordings],
        counts=judgement.counts,
        against=digest([list(labels), sorted(truth)]),
    )
