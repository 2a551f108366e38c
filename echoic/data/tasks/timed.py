"""Published sets of recordings whose events are known with their times: DESED, URBAN-SED.

A set is declared by its own lists, as `task.TaskSpec` is; a new one is one more entry. Here only
parts that judge are declared.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from echoic.data.captions import words
from echoic.data.clips import Clip
from echoic.data.sources import FileSource
from echoic.data.tables import bytes_of, csv_rows, decode
from echoic.data.tasks.layouts import (
    AudioFiles,
    Cells,
    Reader,
    allow_missing,
    located,
    require_lists,
    templates_of,
)
from echoic.data.tasks.paper import Published
from echoic.data.tasks.task import Indices
from echoic.types import DataError

PART = "test"


@dataclass(frozen=True)
class Tabs:
    """A table parted by tabs. columns: their names where it has no header. Short rows are filled
    with nothing: of a recording without events some lists give the name alone."""

    file: str
    columns: tuple[str, ...] = ()

    def cells(self, folder: Path) -> Iterator[Cells]:
        path = folder / self.file
        text = io.StringIO(decode(path, bytes_of(path)), newline="")
        reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = self.columns
        for row in csv_rows(path, reader):
            if not any(cell.strip() for cell in row):
                continue
            if not names:
                names = tuple(name.strip() for name in row)
                continue
            if len(row) > len(names):
                raise DataError(
                    f"{path} row {reader.line_num}: {len(row)} fields, not {len(names)} "
                    f"({', '.join(names)})"
                )
            filled = [*row, *[""] * (len(names) - len(row))]
            yield {name: cell.strip() for name, cell in zip(names, filled, strict=True)}


@dataclass(frozen=True)
class TabsEach:
    """A folder of such tables, one for each recording and named as it is: `stem` is its name
    without suffix. One without rows gives a row without values."""

    file: str
    columns: tuple[str, ...]

    def cells(self, folder: Path) -> Iterator[Cells]:
        for path in sorted((folder / self.file).glob("*.txt")):
            table = Tabs(f"{self.file}/{path.name}", self.columns)
            rows = list(table.cells(folder)) or [dict.fromkeys(self.columns, "")]
            yield from ({**row, "stem": path.stem} for row in rows)


@dataclass(frozen=True)
class EventRows:
    """The events that one reader tells of. path, onset, offset, label: templates over its cells; of
    several paths the first that is there counts. A row without label is a recording without
    events."""

    reader: Reader
    path: str | tuple[str, ...]
    onset: str = "{onset}"
    offset: str = "{offset}"
    label: str = "{event_label}"


@dataclass(frozen=True)
class TimedSpec:
    """A set with time lines as declared.

    home: where it is had. rows: its lists. names: a label's name in words, where it is not the
    label with spaces for underscores. expected: recordings, as published, by part. may_lack: audio
    that can no longer be had is left out. notes: what a user should know.
    """

    name: str
    title: str
    home: str
    licence: str
    rows: tuple[EventRows, ...]
    classes: int
    names: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, int] = field(default_factory=dict)
    may_lack: bool = False
    notes: str = ""
    paper: tuple[Published, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """The files and folders that must be there, audio apart."""
        return tuple(dict.fromkeys(rows.reader.file for rows in self.rows))

    @property
    def audio(self) -> tuple[str, ...]:
        """Where the recordings lie, as templates over the columns."""
        return templates_of(self.rows)

    def absent(self, folder: Path) -> list[str]:
        """What of `needs` is not there."""
        return [name for name in self.needs if not (folder / name).exists()]


@dataclass(frozen=True)
class TimedEvent:
    """Sounds from onset to offset, in seconds; label: in words."""

    onset_s: float
    offset_s: float
    label: str


@dataclass(frozen=True)
class TimedEntry:
    """A recording as its lists have it; path: relative to the folder."""

    path: str
    found: bool
    events: tuple[TimedEvent, ...]
    part: str = PART


@dataclass(frozen=True)
class TimedTask:
    """A set on the data in a folder. source: its recordings, whose tags are the labels that sound.
    truth: (R,) the events of each. labels: all there are, in words. missing: files that the lists
    name and the folder lacks."""

    spec: TimedSpec
    source: FileSource
    truth: tuple[tuple[TimedEvent, ...], ...]
    labels: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def judging(self) -> Indices:
        """All recordings."""
        return np.arange(len(self.truth))


def open_timed(spec: TimedSpec, folder: Path) -> TimedTask:
    """Raises DataError naming what is missing or at fault, in one line. No audio is opened."""
    require_lists(spec, folder, spec.absent(folder))
    listed = events_listed(spec, folder)
    found = [entry for entry in listed if entry.found]
    missing = tuple(entry.path for entry in listed if not entry.found)
    _check(spec, folder, found, missing)
    clips = [Clip(e.path, (), tuple(dict.fromkeys(x.label for x in e.events)), None) for e in found]
    source = FileSource(clips, [folder / entry.path for entry in found])
    # of all recordings that are listed: what labels there are does not hang on what is missing
    labels = sorted({event.label for entry in listed for event in entry.events})
    return TimedTask(spec, source, tuple(entry.events for entry in found), tuple(labels), missing)


def events_listed(spec: TimedSpec, folder: Path) -> list[TimedEntry]:
    """All recordings of the lists, each once with its events in order of time. Raises DataError."""
    files = AudioFiles(folder)
    there: dict[str, bool] = {}
    events: dict[str, list[TimedEvent]] = {}
    for rows in spec.rows:
        templates = (rows.onset, rows.offset, rows.label)
        for path, found, cells in located(rows.reader, rows.path, folder, files, *templates):
            there[path] = found
            sounding = events.setdefault(path, [])
            if cells[-1]:
                sounding.append(_event(spec, f"{folder / rows.reader.file}: {path}", cells))
    return [
        TimedEntry(path, found, tuple(sorted(events[path], key=lambda e: (e.onset_s, e.offset_s))))
        for path, found in there.items()
    ]


def _event(spec: TimedSpec, where: str, cells: Sequence[str]) -> TimedEvent:
    onset, offset, label = cells
    try:
        onset_s, offset_s = float(onset), float(offset)
    except ValueError:
        raise DataError(f"{where}: {onset!r} to {offset!r} is not a time in seconds") from None
    if not 0 <= onset_s < offset_s < float("inf"):
        raise DataError(f"{where}: an event from {onset} to {offset} s")
    return TimedEvent(onset_s, offset_s, spec.names.get(label) or words(label))


def _check(
    spec: TimedSpec, folder: Path, found: Sequence[TimedEntry], missing: Sequence[str]
) -> None:
    """Raises DataError on what cannot be measured; tells what is left out."""
    if not any(entry.events for entry in found):
        where = f" (first: {missing[0]})" if missing else ""
        raise DataError(f"{folder}: no recording of {spec.title} with an event is there{where}")
    allow_missing(spec, folder, missing, len(found) + len(missing), "recordings")


# -- the sets ------------------------------------------------------------------------------------

_BASELINE = "DCASE 2022 task 4 baseline, trained on its classes"
_BASELINE_SOURCE = "DCASE-REPO/DESED_task, recipes/dcase2022_task4_baseline"

DESED = TimedSpec(
    name="desed",
    title="DESED, validation part",
    home="https://github.com/turpaultn/DESED (the lists, and a downloader: the sound is YouTube's)",
    licence="CC BY 4.0 (lists)",
    rows=(
        EventRows(
            Tabs("metadata/validation/validation.tsv"),
            ("audio/validation/{filename}", "audio/validation/validation/{filename}"),
        ),
    ),
    classes=10,
    names={
        "Alarm_bell_ringing": "alarm or bell ringing",
        "Electric_shaver_toothbrush": "electric shaver or electric toothbrush",
    },
    expected={PART: 1_168},
    may_lack=True,
    notes="The part by which DCASE's task 4 reports systems on real recordings.",
    paper=tuple(
        Published("events", _BASELINE, value, metric, _BASELINE_SOURCE)
        for metric, value in (("psds1", 0.351), ("psds2", 0.531), ("event_f1_macro", 0.414))
    ),
)

DESED_PUBLIC = TimedSpec(
    name="desedpublic",
    title="DESED, public evaluation part",
    home="https://zenodo.org/record/3588172",
    licence="CC BY 4.0 (lists); the sound is YouTube's",
    rows=(EventRows(Tabs("metadata/eval/public.tsv"), "audio/eval/public/{filename}"),),
    classes=DESED.classes,
    names=DESED.names,
    expected={PART: 692},
    may_lack=True,
)

URBANSED = TimedSpec(
    name="urbansed",
    title="URBAN-SED v2.0, test part",
    home="https://zenodo.org/record/1324404",
    licence="CC BY 4.0",
    rows=(
        EventRows(
            TabsEach("annotations/test", ("onset", "offset", "event_label")),
            "audio/test/{stem}.wav",
        ),
    ),
    classes=10,
    expected={PART: 2_000},
    notes="Soundscapes made of UrbanSound8K's clips of folds 9 and 10: a model that learnt from "
    "those has heard them.",
)

TIMED: dict[str, TimedSpec] = {spec.name: spec for spec in (DESED, DESED_PUBLIC, URBANSED)}
