"""Tables of captions: CSV, TSV and JSONL in the encodings and with the columns that people have.

`read_table` makes numbered rows of a file; `find_columns` says which columns hold the audio file,
the captions, the tags and the duration; `Columns` takes them out of a row. A row's number is the
one that an editor or a spreadsheet shows: the header of a CSV is row 1.
"""

from __future__ import annotations

import ast
import codecs
import csv
import io
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from echoic.config import parse_json
from echoic.data.captions import words
from echoic.types import DataError

log = logging.getLogger("echoic.data")

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
FILE_NAMES = ("file", "filename", "path", "audio", "file_name", "audio_path", "filepath", "wav")
CAPTION_NAMES = ("caption", "captions", "text", "caption_1..N", "description", "label", "category")
TAG_NAMES = ("tags", "tag", "labels", "keywords")
_LABEL_NAMES = ("label", "category")
# Captions by keyword-to-caption, as LAION-CLAP's shards name them: one, and all that there are.
_GENERATED, _EVERY = "text_augment_t5", "text_augment_all"
_DURATION_NAMES = ("duration_s", "duration")
_CAPTION_GROUPS = (r"captions?|caption_?\d{1,9}", r"texts?|text_?\d{1,9}", r"description")
_DELIMITERS = (",", ";", "\t")

# Which captions a training draws from: LAION-CLAP's --text-augment-selection none, augment_only and
# all. Where the one chosen says nothing, the written captions count.
CaptionChoice = Literal["written", "generated", "all"]


@dataclass(frozen=True)
class Row:
    """One row: its number in the file, and its cells by column name."""

    number: int
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(path: Path) -> Table:
    """Read a CSV, TSV or JSONL file. Raises DataError naming the file and the row at fault."""
    text = _text(path)
    if not text.strip():
        raise DataError(f"{path}: the table is empty")
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        table = _read_jsonl(path, text)
    else:
        table = _read_csv(path, text)
    if not table.rows:
        raise DataError(f"{path}: the table has a header and no rows")
    return table


def _text(path: Path) -> str:
    text = decode(path, bytes_of(path))
    if "\0" in text:
        raise DataError(f"{path}: not a text table (it holds zero bytes); save it as CSV in UTF-8")
    return text


def bytes_of(path: Path) -> bytes:
    """Raises DataError where there is no such file, or the disk refuses."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def decode(path: object, raw: bytes) -> str:
    """Text in UTF-8, or UTF-16 with its mark, else in Windows-1252 or Latin-1, with a note."""
    try:
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return raw.decode("utf-16")
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.encoding.startswith("utf-16"):
            raise DataError(f"{path}: damaged UTF-16 text at byte {error.start}") from None
    try:
        text, name = (
            raw.decode("cp1252"),
            "Windows-1252",
        )  # Latin-1 plus the quotes of office programs
    except UnicodeDecodeError:
        text, name = raw.decode("latin-1"), "Latin-1"
    log.warning("%s: not UTF-8; read as %s", path, name)
    return text


def _read_csv(path: Path, text: str) -> Table:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(path, text)
    records = _records(path, text, delimiter)
    if not records:
        raise DataError(f"{path}: the table is empty")
    number, names = records[0]
    columns = tuple(name.strip() for name in names)
    twice = sorted(name for name, times in Counter(columns).items() if name and times > 1)
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} stands twice in the header")
    rows = []
    for number, cells in records[1:]:
        if any(cell.strip() for cell in cells[len(columns) :]):
            raise DataError(
                f"{path} row {number}: {len(cells)} fields, but the header has {len(columns)}; "
                f"put a field that holds {delimiter!r} in double quotes"
            )
        cells += [""] * (len(columns) - len(cells))
        rows.append(Row(number, dict(zip(columns, cells, strict=False))))
    return Table(path, columns, tuple(rows))


def _records(path: Path, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    records: list[tuple[int, list[str]]] = []
    # newlines as written: a quoted caption may span lines (str.splitlines knows too many kinds)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for number, cells in enumerate(csv_rows(path, reader), start=1):
        if any(cell.strip() for cell in cells):
            records.append((number, cells))
    return records


def csv_rows(path: Path, reader: Iterable[list[str]]) -> Iterator[list[str]]:
    """Those of a csv.reader. Raises DataError where it can't go on."""
    number = 0
    try:
        for cells in reader:
            number += 1
            yield cells
    except csv.Error as error:
        reason = "a quote that never ends" if "field larger" in str(error) else str(error)
        raise DataError(f"{path} row {number + 1}: not readable as CSV ({reason})") from None


def _delimiter(path: Path, text: str) -> str:
    header = next(line for line in text.splitlines() if line.strip())

    def columns(delimiter: str) -> int:
        return len(next(csv_rows(path, csv.reader([header], delimiter=delimiter))))

    return max(_DELIMITERS, key=columns)


def _read_jsonl(path: Path, text: str) -> Table:
    rows = []
    # split at \n alone: JSON strings may hold U+2028 and its kind, which splitlines cuts at
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            cells = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path} row {number}: not readable as JSON ({error})") from None
        if not isinstance(cells, dict):
            raise DataError(f"{path} row {number}: wanted an object {{...}}, one per line")
        rows.append(Row(number, cells))
    columns = dict.fromkeys(str(name) for row in rows for name in row.cells)
    return Table(path, tuple(columns), tuple(rows))


@dataclass(frozen=True)
class Columns:
    """Which columns hold what.

    labels: those of `captions` and `tags` that hold label names. generated, every: captions by
    keyword-to-caption, and all captions.
    """

    file: str | None
    captions: tuple[str, ...]
    tags: tuple[str, ...]
    labels: frozenset[str]
    duration: str | None
    generated: str | None = None
    every: str | None = None

    def captions_of(
        self, cells: Mapping[str, Any], which: CaptionChoice = "written"
    ) -> tuple[str, ...]:
        """The captions of a row, none twice, none empty; a label is made into words."""
        chosen = {"written": None, "generated": self.generated, "all": self.every}[which]
        return (as_texts(cells.get(chosen)) if chosen else ()) or self._written(cells)

    def _written(self, cells: Mapping[str, Any]) -> tuple[str, ...]:
        found: list[str] = []
        for name in self.captions:
            texts = as_texts(cells.get(name))
            found += map(words, texts) if name in self.labels else texts
        return tuple(dict.fromkeys(filter(None, found)))

    def tags_of(self, cells: Mapping[str, Any]) -> tuple[str, ...]:
        found: list[str] = []
        for name in self.tags:
            value = cells.get(name)
            found += as_texts(value) if name in self.labels else as_tags(value)
        return tuple(dict.fromkeys(filter(None, map(words, found))))

    def duration_of(self, where: str, cells: Mapping[str, Any]) -> float | None:
        """Seconds, or None where the cell is empty. Raises DataError."""
        value = cells.get(self.duration) if self.duration else None
        if value is None or str(value).strip() == "":
            return None
        try:
            seconds = float(value)
        except (TypeError, ValueError, OverflowError):
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise DataError(
                f"{where}: {self.duration} {value!r} is not a number of seconds above 0"
            )
        return seconds


def find_columns(
    where: str,
    columns: Sequence[str],
    *,
    file_column: str | None = None,
    caption_column: str | Sequence[str] | None = None,
    tag_column: str | None = None,
    need_file: bool = True,
    need_captions: bool = True,
) -> Columns:
    """Columns by their usual names unless named here. Raises DataError listing what was seen."""
    asked = (caption_column,) if isinstance(caption_column, str) else tuple(caption_column or ())
    for name in filter(None, (file_column, *asked, tag_column)):
        if name not in columns:
            raise DataError(f"{where}: no column {name!r}; it has {_quoted(columns)}")
    file = file_column or _first(columns, FILE_NAMES)
    captions = asked or _caption_columns(columns)
    if need_file and file is None:
        raise DataError(_missing(where, columns, "audio files", FILE_NAMES, "file_column"))
    generated, every = (_first(columns, (name,)) for name in (_GENERATED, _EVERY))
    if need_captions and not (captions or generated or every):
        raise DataError(_missing(where, columns, "captions", CAPTION_NAMES, "caption_column"))
    label = _first(columns, _LABEL_NAMES)
    tag = tag_column or _first(columns, TAG_NAMES) or label
    return Columns(
        file=file,
        captions=captions,
        tags=(tag,) if tag else (),
        labels=frozenset({label} if label else ()),
        duration=_first(columns, _DURATION_NAMES),
        generated=generated,
        every=every,
    )


def _caption_columns(columns: Sequence[str]) -> tuple[str, ...]:
    for pattern in _CAPTION_GROUPS:
        found = [c for c in columns if re.fullmatch(pattern, c.strip().lower())]
        if found:
            return tuple(sorted(found, key=lambda c: int("0" + re.sub(r"\D", "", c))))
    label = _first(columns, _LABEL_NAMES)
    return (label,) if label else ()


def _first(columns: Sequence[str], names: Iterable[str]) -> str | None:
    seen = {column.strip().lower(): column for column in reversed(columns)}
    return next((seen[name] for name in names if name in seen), None)


def _missing(
    where: str, columns: Sequence[str], what: str, names: Sequence[str], option: str
) -> str:
    return (
        f"{where}: no column of {what}; it has {_quoted(columns)}; "
        f"wanted one of {', '.join(names)}, or name yours with {option}"
    )


def _quoted(columns: Sequence[str]) -> str:
    shown = ", ".join(repr(c) for c in columns[:20])
    return shown + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")


def as_texts(value: Any) -> tuple[str, ...]:
    """The texts in a cell: a string, or a list of them (also one written out as `["a", "b"]`)."""
    if value is None:
        return ()
    if isinstance(value, str):
        written = _written_list(value)
        value = value if written is None else written
    items = value if isinstance(value, (list, tuple)) else [value]
    texts = (" ".join(str(item).split()) for item in items if item is not None)
    return tuple(dict.fromkeys(filter(None, texts)))


def as_tags(value: Any) -> tuple[str, ...]:
    """The tags in a cell: a list, or a string of them parted by `;` or `|`, else by `,`."""
    if isinstance(value, str) and _written_list(value) is None:
        value = re.split(r"[;|]" if re.search(r"[;|]", value) else ",", value)
    return as_texts(value)


def _written_list(text: str) -> list[Any] | None:
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for parse in (parse_json, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list):
            return value
    return None
