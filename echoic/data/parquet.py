"""Parquet as data sets of the Hugging Face Hub have it: audio in a column of {"bytes", "path"}, and
captions in others. Extra `parquet` (pyarrow).

Made to be read from front to back, as `echoic data shards` does it: a clip lies in a row group of
some hundred, which is read as a whole, and the last one read is kept. T samples.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from echoic.audio.io import load_audio
from echoic.data.clips import Clip, Missing, Source, note_long_captions, refuse
from echoic.data.tables import CaptionChoice, Columns, find_columns
from echoic.types import AudioError, DataError, first_line

SUFFIX = ".parquet"


class _Place(NamedTuple):
    """Where a clip's bytes lie."""

    file: Path
    column: str
    group: int
    row: int


class ParquetClips:
    """Some clips of parquet files. A read raises AudioError naming file and row."""

    def __init__(self, clips: Sequence[Clip], places: Sequence[_Place]) -> None:
        self.clips: Sequence[Clip] = tuple(clips)
        self._places = tuple(places)
        # one pair, replaced as a whole: threads that meet here read twice, and never wrong
        self._newest: tuple[tuple[Path, int], Any] | None = None

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        place = self._places[i]
        name = f"{place.file} row group {place.group} row {place.row}"
        sounds = self._group(name, place)
        if place.row >= len(sounds):
            raise AudioError(name, f"is not there: its row group holds {len(sounds)} sounds")
        sound = sounds[place.row].as_py() or {}
        raw, path = sound.get("bytes"), sound.get("path")
        if raw:
            return load_audio(raw, rate_hz=rate_hz, name=name)
        if not path:
            raise AudioError(name, "neither bytes nor a path")
        return load_audio(place.file.parent / path, rate_hz=rate_hz)

    def part(self, first: int, stop: int) -> Source:
        return ParquetClips(self.clips[first:stop], self._places[first:stop])

    def _group(self, name: str, place: _Place) -> Any:
        where, kept = (place.file, place.group), self._newest
        if kept is None or kept[0] != where:
            arrow, parquet = _arrow()
            self._newest = None  # two at a time would be twice the memory
            try:
                with parquet.ParquetFile(place.file) as file:
                    table = file.read_row_group(place.group, columns=[place.column])
            except (OSError, arrow.ArrowException) as error:
                raise AudioError(name, f"cannot be read ({first_line(error)})") from None
            self._newest = kept = where, table.column(0).combine_chunks()
        return kept[1]


class ParquetSource(ParquetClips):
    """The clips of one parquet file, or of all in a folder, in the order of their names.

    A key is the path that stands beside the bytes, else file and row; with the file's name before
    it where two agree, and where they still do its row and its folder. file_column: the column of
    audio, else the first that holds bytes.
    missing: what a row without caption is. Raises DataError naming file and row.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        file_column: str | None = None,
        caption_column: str | Sequence[str] | None = None,
        tag_column: str | None = None,
        captions: CaptionChoice = "written",
        need_captions: bool = True,
        missing: Missing = "error",
    ) -> None:
        place = Path(path)
        files = sorted(place.rglob(f"*{SUFFIX}")) if place.is_dir() else [place]
        if not files:
            raise DataError(f"{path}: no {SUFFIX} in it")
        named = {"caption_column": caption_column, "tag_column": tag_column}
        clips: list[Clip] = []
        places: list[_Place] = []
        mute: list[str] = []
        for file in files:
            for at, clip in _clips_of(file, file_column, named, captions, need_captions):
                if need_captions and not clip.captions:
                    mute.append(f"{file.name} {clip.key!r}")
                    continue
                clips.append(clip)
                places.append(at)
        total = len(clips) + len(mute)
        refuse(path, mute, total, "rows have no caption", fix="write one", missing=missing)
        if not clips:
            raise DataError(f"{path}: no row has a caption")
        super().__init__(_told_apart(clips, places, place), places)
        note_long_captions(path, self.clips)


def _told_apart(clips: Sequence[Clip], places: Sequence[_Place], top: Path) -> list[Clip]:
    """With keys that are each of one clip alone."""
    keys = [clip.key for clip in clips]
    befores: tuple[Callable[[_Place], str], ...] = (
        lambda at: at.file.stem,
        lambda at: f"{at.group}-{at.row}",
        lambda at: at.file.parent.relative_to(top).as_posix(),
    )
    for before in befores:
        often = Counter(keys)
        keys = [
            f"{before(at)}/{key}" if often[key] > 1 else key
            for key, at in zip(keys, places, strict=True)
        ]
    return [replace(clip, key=key) for clip, key in zip(clips, keys, strict=True)]


def _clips_of(
    path: Path,
    audio: str | None,
    named: dict[str, Any],
    which: CaptionChoice,
    need_captions: bool,
) -> list[tuple[_Place, Clip]]:
    arrow, parquet = _arrow()
    found: list[tuple[_Place, Clip]] = []
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            sounds = [field.name for field in schema if _holds_bytes(arrow, field.type)]
            if audio is not None and audio not in sounds:
                raise DataError(f"{path}: column {audio!r} holds no audio bytes; {_told(sounds)}")
            if not sounds:
                raise DataError(
                    f"{path}: no column of audio bytes; it has {', '.join(schema.names)}"
                )
            column = audio or sounds[0]
            said = [name for name in schema.names if name not in sounds]
            columns = find_columns(
                str(path), said, need_file=False, need_captions=need_captions, **named
            )
            paths = f"{column}.path" if _has_path(schema.field(column).type) else None
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=[*said, *([paths] if paths else [])])
                for row, cells in enumerate(table.to_pylist()):
                    number = len(found)
                    sound = (cells.pop(column, None) or {}).get("path")
                    key = str(sound or f"{path.stem}-{number}")
                    clip = _clip(f"{path} row {number + 1}", key, cells, columns, which)
                    found.append((_Place(path, column, group, row), clip))
    except (OSError, UnicodeDecodeError, arrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from None
    return found


def _clip(
    where: str, key: str, cells: dict[str, Any], columns: Columns, which: CaptionChoice
) -> Clip:
    return Clip(
        key,
        columns.captions_of(cells, which),
        columns.tags_of(cells),
        columns.duration_of(where, cells),
    )


def _holds_bytes(arrow: Any, kind: Any) -> bool:
    types = arrow.types
    if not types.is_struct(kind):
        return False
    inner = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    held = inner.get("bytes")
    return held is not None and (types.is_binary(held) or types.is_large_binary(held))


def _has_path(kind: Any) -> bool:
    return kind.get_field_index("path") >= 0


def _told(sounds: Sequence[str]) -> str:
    return f"{', '.join(sounds)} do" if sounds else "none does"


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError("reading parquet needs pyarrow; pip install 'echoic[parquet]'") from None
    return pyarrow, pyarrow.parquet
