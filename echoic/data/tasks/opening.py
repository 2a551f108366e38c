"""Opens a declared task on a folder: which clips its lists name, where they lie, in which part."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from echoic.data.captions import words
from echoic.data.clips import Clip
from echoic.data.labels import Labels
from echoic.data.sources import FileSource
from echoic.data.tasks.layouts import AudioFiles, Csv, Entry, allow_missing, entries, require_lists
from echoic.data.tasks.task import PARTS, Task, TaskSpec
from echoic.types import DataError


def open_folder(spec: TaskSpec, folder: Path) -> Task:
    """Raises DataError naming what is missing or at fault, in one line."""
    require_lists(spec, folder, spec.absent(folder))
    listed = listing(spec, folder)
    found = [entry for entry in listed if entry.found]
    missing = tuple(entry.path for entry in listed if not entry.found)
    allow_missing(spec, folder, missing, len(listed))
    clips = [Clip(entry.path, (), entry.labels, None) for entry in found]
    source = FileSource(clips, [folder / entry.path for entry in found])
    names = label_names(spec, folder, found)
    parts, own = tuple(entry.part for entry in found), spec.own_split
    hashed = own is not None and not (folder / own.file).is_file()
    task = Task(spec, source, parts, Labels(names, spec.per_clip), missing, hashed)
    _check(task, folder)
    return task


def listing(spec: TaskSpec, folder: Path) -> list[Entry]:
    """All clips that the lists name, each once: of two rows of a file the first one counts. Labels
    are in words, parts are folds or train, valid, test. Raises DataError."""
    files, once = AudioFiles(folder), dict[str, Entry]()
    for rows in spec.rows:
        for entry in entries(rows, folder, files):
            once.setdefault(entry.path, entry)
    named = _label_file(spec, folder)
    part_of = _own_parts(spec, folder, once.values()) if spec.own_split else {}
    return [_in_words(spec, entry, named, part_of) for entry in once.values()]


def label_names(spec: TaskSpec, folder: Path, found: Sequence[Entry]) -> tuple[str, ...]:
    """The classes in words: those of the label file in its order, else those that clips have."""
    if spec.labels is not None:
        return tuple(_label_file(spec, folder).values())
    return tuple(sorted({name for entry in found for name in entry.labels}))


def _label_file(spec: TaskSpec, folder: Path) -> dict[str, str]:
    """The label of a clip -> its name in words."""
    if spec.labels is None:
        return {}
    rows = list(spec.labels.table.cells(folder))
    for column in (spec.labels.key, spec.labels.name) if rows else ():
        if column not in rows[0]:
            has = f"it has {', '.join(rows[0])}"
            raise DataError(f"{folder / spec.labels.table.file}: no column {column!r}; {has}")
    return {row[spec.labels.key]: words(row[spec.labels.name]) for row in rows}


def _in_words(
    spec: TaskSpec, entry: Entry, named: Mapping[str, str], part_of: Mapping[str, str]
) -> Entry:
    strange = next((label for label in entry.labels if named and label not in named), None)
    if strange is not None and spec.labels is not None:
        raise DataError(f"{entry.path}: label {strange!r} is none of {spec.labels.table.file}")
    inner = {**named, **spec.names}
    labels = tuple(inner.get(label) or words(label) for label in entry.labels)
    part = part_of.get(entry.path) if part_of else spec.parts.get(entry.part, entry.part)
    return Entry(entry.path, entry.found, labels, part or "")


def _own_parts(spec: TaskSpec, folder: Path, listed: Iterable[Entry]) -> dict[str, str]:
    """Path -> train, valid or test, by the user's file or by the hash of the clip's group."""
    own = spec.own_split
    assert own is not None
    path = folder / own.file
    if not path.is_file():
        return {entry.path: part_of_group(entry.part, own.shares) for entry in listed}
    given: dict[str, str] = {}
    for row in Csv(own.file).cells(folder):
        if not {"file", "split"} <= row.keys() or row["split"] not in PARTS:
            wanted = f"wanted the columns file and split, the latter one of {', '.join(PARTS)}"
            raise DataError(f"{path}: {wanted}; a row has {dict(row)}")
        given[row["file"]] = row["split"]
    parts = {}
    for entry in listed:
        part = given.get(entry.path) or given.get(entry.path.rpartition("/")[2])
        parts[entry.path] = part or ""  # not listed: in no part, as four clips of CREMA-D
    return parts


def part_of_group(group: str, shares: Mapping[str, float]) -> str:
    """The same on every machine, whatever other groups there are."""
    place = random.Random(group).random() * sum(shares.values())
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return name


def _check(task: Task, folder: Path) -> None:
    """Raises DataError on what cannot be learnt from or measured."""
    spec, clips = task.spec, task.source.clips
    known = set(task.folds) if spec.folds else set(PARTS)
    needed = task.folds if spec.folds else ("test",)  # zero-shot learns nothing
    if not clips:
        raise DataError(f"{folder}: no clip of {spec.title} is there ({', '.join(spec.audio)})")
    if spec.folds and len(task.folds) < 2:
        raise DataError(f"{folder}: all clips of {spec.title} are in one fold")
    if empty := [name for name in needed if name not in task.parts]:
        own = f"; {spec.own_split.file} can say which are" if spec.own_split else ""
        raise DataError(f"{folder}: no clip of {spec.title} is in {' and '.join(empty)}{own}")
    if strange := sorted(set(task.parts) - known - {""}):
        raise DataError(f"{folder}: unknown part {strange[0]!r}, not one of {', '.join(PARTS)}")
    bare = [clip.key for clip in clips if not clip.tags]
    if bare:
        raise DataError(f"{folder}: {len(bare)} clips have no label (first: {bare[0]})")
    if len(task.labels.names) < 2:
        has = f"only the label {task.labels.names[0]!r}" if task.labels.names else "no label"
        raise DataError(f"{folder}: {spec.title} has {has} here")
