"""How published data sets lie on disk: readers of their lists, and rows as clips.

A reader gives the cells of each row by name: of a CSV, of a list of lines, of a JSON file, or of
the files in a folder, whose names say what they are. `Rows` says by templates over these cells
where a clip lies, what its labels are and to which part it belongs.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from echoic.config import parse_json
from echoic.data.clips import AUDIO_SUFFIXES
from echoic.data.tables import bytes_of, csv_rows, decode
from echoic.types import DataError

log = logging.getLogger("echoic.data")

Cells = Mapping[str, str]


class Reader(Protocol):
    """file: what must lie in the data set's folder."""

    @property
    def file(self) -> str: ...

    def cells(self, folder: Path) -> Iterator[Cells]:
        """Of each row. Raises DataError naming the file and the row."""
        ...


@dataclass(frozen=True)
class Csv:
    """A CSV. columns: their names where it has no header. Lines that begin with # are comments."""

    file: str
    columns: tuple[str, ...] = ()

    def cells(self, folder: Path) -> Iterator[Cells]:
        path = folder / self.file
        text = io.StringIO(decode(path, bytes_of(path)), newline="")
        reader = csv.reader(text, skipinitialspace=True)
        names = self.columns
        for row in csv_rows(path, reader):
            if not any(row) or row[0].startswith("#"):
                continue
            if not names:
                names = tuple(name.strip() for name in row)
                continue
            if len(row) != len(names):
                raise DataError(
                    f"{path} row {reader.line_num}: {len(row)} fields, not {len(names)} "
                    f"({', '.join(names)})"
                )
            yield {name: cell.strip() for name, cell in zip(names, row, strict=True)}


@dataclass(frozen=True)
class Lines:
    """A text file whose lines match `pattern`, its named groups being the cells."""

    file: str
    pattern: str

    def cells(self, folder: Path) -> Iterator[Cells]:
        path = folder / self.file
        for number, line in enumerate(decode(path, bytes_of(path)).splitlines(), start=1):
            if not line.strip():
                continue
            found = re.fullmatch(self.pattern, line.strip())
            if found is None:
                raise DataError(f"{path} row {number}: {line.strip()[:60]!r} is not understood")
            yield found.groupdict()


@dataclass(frozen=True)
class Json:
    """A JSON object of objects; the name of each is its cell `key`."""

    file: str

    def cells(self, folder: Path) -> Iterator[Cells]:
        path = folder / self.file
        try:
            tree = parse_json(decode(path, bytes_of(path)))
        except ValueError as error:
            raise DataError(f"{path}: not readable as JSON ({error})") from None
        if not isinstance(tree, dict) or not all(isinstance(row, dict) for row in tree.values()):
            raise DataError(f"{path}: wanted an object of objects, one per clip")
        for key, row in tree.items():
            yield {name: str(value) for name, value in row.items()} | {"key": key}


@dataclass(frozen=True)
class Walk:
    """The audio files below the folder `file` ("." is the data set's own) whose path there matches
    `pattern`, with its named groups; `file` among them is what the clip goes by."""

    file: str
    pattern: str

    def cells(self, folder: Path) -> Iterator[Cells]:
        root = folder / self.file
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith("."):
                found = re.fullmatch(self.pattern, path.relative_to(root).as_posix())
                if found is not None:
                    yield found.groupdict()


class Located(Protocol):
    """path: a template over the reader's cells; of several the first that is there counts."""

    @property
    def reader(self) -> Reader: ...

    @property
    def path(self) -> str | tuple[str, ...]: ...


@dataclass(frozen=True)
class Rows:
    """The clips that one reader tells of.

    path, labels, part: templates over its cells, as "audio/{filename}". Of several paths the first
    that is there counts. separator: what parts the labels of a clip that has many.
    """

    reader: Reader
    path: str | tuple[str, ...]
    labels: str
    part: str
    separator: str | None = None


@dataclass(frozen=True)
class Entry:
    """A clip as its lists have it. path: relative to the folder, of a file that is there; `found`
    says whether it is. part: a fold, train, valid or test, or a group (`OwnSplit`)."""

    path: str
    found: bool
    labels: tuple[str, ...]
    part: str


class AudioFiles:
    """Which audio files lie below a folder: each of its folders is listed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """`path` as it lies there: by its name, else by the same name with another audio suffix.
        Space around a name does not count: some of Clotho's begin with it."""
        parent, _, name = path.rpartition("/")
        names = self._names(parent)
        return names.get(name.strip()) or names.get(_stem(name))

    def _names(self, parent: str) -> dict[str, str]:
        if parent not in self._listed:
            where = self.folder / parent
            try:
                names = sorted(file.name for file in where.iterdir()) if where.is_dir() else []
            except OSError:  # of a name that no folder can have, as it is too long
                names = []
            audio = [name for name in names if PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES]
            prefix = f"{parent}/" if parent else ""
            stems = {_stem(name): f"{prefix}{name}" for name in reversed(audio)}
            self._listed[parent] = stems | {name.strip(): f"{prefix}{name}" for name in audio}
        return self._listed[parent]


def _stem(name: str) -> str:
    """Without the suffix, where that is one of audio: Freesound's and YouTube's ids hold dots."""
    stem, dot, suffix = name.strip().rpartition(".")
    return stem if dot and f".{suffix.lower()}" in AUDIO_SUFFIXES else name.strip()


def located(
    reader: Reader, paths: str | tuple[str, ...], folder: Path, files: AudioFiles, *templates: str
) -> Iterator[tuple[str, bool, list[str]]]:
    """Of each row: where its clip lies, whether it is there, and `templates` filled in. Of several
    paths it is the first that is there, else the first. Raises DataError where a file is missing,
    or lacks a column that a template names."""
    for cells in reader.cells(folder):
        try:
            wanted = [path.format_map(cells) for path in _several(paths)]
            filled = [template.format_map(cells) for template in templates]
        except KeyError as error:
            has = ", ".join(cells)
            raise DataError(
                f"{folder / reader.file}: no column {error.args[0]!r}; it has {has}"
            ) from None
        found = next(filter(None, map(files.find, wanted)), None)
        yield found or wanted[0], found is not None, filled


def entries(rows: Rows, folder: Path, files: AudioFiles) -> Iterator[Entry]:
    """Raises DataError as `located`."""
    told = located(rows.reader, rows.path, folder, files, rows.labels, rows.part)
    for path, found, (label, part) in told:
        labels = [label] if rows.separator is None else label.split(rows.separator)
        named = tuple(dict.fromkeys(filter(None, (each.strip() for each in labels))))
        yield Entry(path, found, named, part)


def templates_of(rows: Iterable[Located]) -> tuple[str, ...]:
    """Where the clips lie, as templates over the columns, each once."""
    return tuple(dict.fromkeys(path for each in rows for path in _several(each.path)))


def _several(paths: str | tuple[str, ...]) -> tuple[str, ...]:
    return (paths,) if isinstance(paths, str) else paths


# -- what is missing -----------------------------------------------------------------------------


class Declared(Protocol):
    """What the declarations of all kinds of tasks have, as far as it is asked here."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def home(self) -> str: ...

    @property
    def may_lack(self) -> bool: ...


def require_folder(spec: Declared, folder: Path) -> None:
    """Raises DataError that says where the data is had."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {spec.title} is had from {spec.home}")


def require_lists(spec: Declared, folder: Path, absent: Sequence[str]) -> None:
    """absent: lists of the folder that are not there. Raises DataError that names them."""
    require_folder(spec, folder)
    if absent:
        raise DataError(
            f"{folder}: {spec.title} lacks {', '.join(absent)} (echoic data check {spec.name} "
            f"{folder} tells more)"
        )


def allow_missing(
    spec: Declared, folder: Path, missing: Sequence[str], total: int, noun: str = "clips"
) -> None:
    """Tells of files that lists name and the folder lacks, `missing` of `total`. Raises DataError
    where none may lack, or all do."""
    if not missing:
        return
    line = (
        f"{folder}: {len(missing)} of {total} {noun} of {spec.title} are not there (first: "
        f"{missing[0]})"
    )
    if not spec.may_lack or len(missing) == total:
        raise DataError(f"{line}; echoic data check {spec.name} {folder} lists them")
    log.warning("%s; left out, so figures are not quite those of the full set", line)
