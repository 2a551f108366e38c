"""Open what a person has as a source of clips: a table, a folder of audio, WebDataset shards.

A source holds no audio; `read` decodes one clip to (T,) mono float32 at the rate asked for.
docs/data.md shows the smallest example of each form. T samples.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from echoic.audio.io import load_audio, probe_audio
from echoic.data.clips import (
    AUDIO_SUFFIXES,
    Clip,
    ConcatSource,
    Missing,
    RecaptionedSource,
    Source,
    SubsetSource,
    note_long_captions,
    refuse,
)
from echoic.data.describe import DESCRIPTION_SUFFIXES, clip_from_names, describe
from echoic.data.files import is_file
from echoic.data.keyword_captions import read_captions, with_captions
from echoic.data.parquet import SUFFIX as PARQUET
from echoic.data.parquet import ParquetSource
from echoic.data.remote import place_of
from echoic.data.shards import ShardSource
from echoic.data.tables import (
    TABLE_SUFFIXES,
    CaptionChoice,
    Columns,
    Row,
    Table,
    bytes_of,
    find_columns,
    read_table,
)
from echoic.types import AudioError, DataError

__all__ = [
    "Clip",
    "ConcatSource",
    "FileSource",
    "RecaptionedSource",
    "ShardSource",
    "Source",
    "SubsetSource",
    "TableSource",
    "open_source",
    "tagged_clips",
]

log = logging.getLogger("echoic.data")

_TABLES_IN_FOLDER = ("captions", "metadata", "meta")


class FileSource:
    """Clips that are files. A key is the path as the table has it, or relative to the folder."""

    def __init__(self, clips: Sequence[Clip], paths: Sequence[Path]) -> None:
        self.clips, self.paths = tuple(clips), tuple(paths)

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        return load_audio(self.paths[i], rate_hz=rate_hz)

    def read_window(self, i: int, rate_hz: int, start_s: float, duration_s: float) -> np.ndarray:
        return load_audio(self.paths[i], rate_hz=rate_hz, start_s=start_s, duration_s=duration_s)

    def part(self, first: int, stop: int) -> Source:
        return FileSource(self.clips[first:stop], self.paths[first:stop])


class TableSource(FileSource):
    """Clips named by a table. rows[i]: all cells of clip i's first row, such as its split."""

    def __init__(
        self, clips: Sequence[Clip], paths: Sequence[Path], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        super().__init__(clips, paths)
        self.rows = tuple(rows)


def open_source(
    path: str | os.PathLike[str],
    *,
    audio_dir: str | os.PathLike[str] | None = None,
    file_column: str | None = None,
    caption_column: str | Sequence[str] | None = None,
    tag_column: str | None = None,
    captions: CaptionChoice | None = None,
    captions_from: str | os.PathLike[str] | None = None,
    need_captions: bool = True,
    missing: Missing = "error",
    probe_threads: int = 4,
) -> Source:
    """Open a table (.csv .tsv .jsonl), a folder of audio or of tars, one .tar, parquet of the Hub;
    tars also by address, as s3://bucket/shards: docs/data.md.

    audio_dir, *_column: for tables, where the files lie and which columns to take (else found by
    name).
    captions: which ones of a clip that has several kinds: those written by people, those made of
    its tags by keyword-to-caption ("generated"; the written ones where it has none), or all.
    captions_from: the folder of generated captions that `echoic data keywords` wrote. By default
    they stand for the written ones; with captions="all" they join them.
    need_captions: whether a clip must have one; for trainings on sound alone it need not.
    missing: what a row without its file or caption is, or a damaged tar: an error, or left out
    with a note.
    Durations that no table states are measured, `probe_threads` files at a time; what cannot be
    measured is None. Raises DataError naming the file, and the row or the clip at fault.
    """
    columns = {"file_column": file_column, "caption_column": caption_column}
    columns["tag_column"] = tag_column
    if captions_from is None:
        rules = _Rules(missing, captions or "written", need_captions)
        return _open(Path(path), audio_dir, columns, rules, probe_threads)
    if captions == "written":
        raise DataError(f'{captions_from}: captions="written" would leave these captions unused')
    sentences = read_captions(captions_from)
    rules = _Rules(missing, need_captions=False)
    source = _open(Path(path), audio_dir, columns, rules, probe_threads)
    return with_captions(
        source, sentences, keep_own=captions == "all", where=f"{path} with {captions_from}"
    )


def tagged_clips(
    path: str | os.PathLike[str],
    *,
    audio_dir: str | os.PathLike[str] | None = None,
    file_column: str | None = None,
    tag_column: str | None = None,
    missing: Missing = "error",
    probe_threads: int = 4,
) -> Source:
    """The same, for what needs tags alone: clips may lack captions, and those of a table their
    files, whose durations are then None unless the table states them. Raises DataError.
    """
    columns = {"file_column": file_column, "tag_column": tag_column}
    rules = _Rules(missing, need_captions=False, need_files=False)
    return _open(Path(path), audio_dir, columns, rules, probe_threads)


@dataclass(frozen=True)
class _Rules:
    """What a clip must have, and which of its captions count."""

    missing: Missing
    captions: CaptionChoice = "written"
    need_captions: bool = True
    need_files: bool = True


def _open(
    path: Path,
    audio_dir: str | os.PathLike[str] | None,
    columns: Mapping[str, Any],
    rules: _Rules,
    probe_threads: int,
) -> Source:
    where = place_of(path)
    if isinstance(where, str):
        return _open_shards(where, rules)
    path = where
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    table = path if path.is_file() else _table_in(path)
    source: FileSource
    if path.suffix.lower() == ".tar" or (table is None and any(path.glob("*.tar"))):
        return _open_shards(path, rules)
    if path.suffix.lower() == PARQUET or (table is None and _holds_parquet(path)):
        return ParquetSource(
            path,
            **columns,
            captions=rules.captions,
            need_captions=rules.need_captions,
            missing=rules.missing,
        )
    if table is None:
        source = _open_folder(path, rules)
    elif table.suffix.lower() in TABLE_SUFFIXES:
        source = _open_table(table, audio_dir, columns, rules)
    else:
        raise DataError(f"{path}: wanted a table ({' '.join(TABLE_SUFFIXES)}), a folder or a .tar")
    note_long_captions(path, source.clips)
    source.clips = _with_durations(source, probe_threads)
    return source


def _open_shards(path: Path | str, rules: _Rules) -> ShardSource:
    return ShardSource(
        path,
        missing=rules.missing,
        captions=rules.captions,
        need_captions=rules.need_captions,
    )


def _holds_parquet(folder: Path) -> bool:
    """As a data set of the Hub: its files in the folder or in its `data`."""
    return any(folder.glob(f"*{PARQUET}")) or any(folder.glob(f"data/*{PARQUET}"))


def _table_in(folder: Path) -> Path | None:
    names = (f"{stem}{suffix}" for stem in _TABLES_IN_FOLDER for suffix in TABLE_SUFFIXES)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _with_durations(source: FileSource, threads: int) -> tuple[Clip, ...]:
    unknown = [i for i, clip in enumerate(source.clips) if clip.duration_s is None]
    clips = list(source.clips)
    with ThreadPoolExecutor(threads, thread_name_prefix="echoic-probe") as pool:
        durations = pool.map(_duration_s, (source.paths[i] for i in unknown))
        for i, duration_s in zip(unknown, durations, strict=True):
            clips[i] = replace(clips[i], duration_s=duration_s)
    return tuple(clips)


def _duration_s(path: Path) -> float | None:
    try:
        return probe_audio(path).duration_s or None
    except AudioError:
        return None  # a bad clip is met, named and counted where it is read


# Tables


def _open_table(
    path: Path,
    audio_dir: str | os.PathLike[str] | None,
    named: Mapping[str, Any],
    rules: _Rules,
) -> TableSource:
    table = read_table(path)
    columns = find_columns(str(path), table.columns, **named, need_captions=rules.need_captions)
    folders = [path.parent, path.parent / "audio"]
    if audio_dir is not None:
        folders.insert(0, Path(audio_dir))  # named by hand, so it goes before the usual places
        if not folders[0].is_dir():
            raise DataError(f"{audio_dir}: no such folder (given as audio_dir)")
    entries = _entries(table, columns, folders, rules)
    if not entries:
        raise DataError(f"{path}: no row has both an audio file and a caption")
    clips, rows = zip(*entries.values(), strict=True)
    return TableSource(clips, tuple(entries), rows)


def _entries(
    table: Table, columns: Columns, folders: Sequence[Path], rules: _Rules
) -> dict[Path, tuple[Clip, Mapping[str, Any]]]:
    """(clip, cells of its first row) by path: rows of one file are captions of one clip."""
    entries: dict[Path, tuple[Clip, Mapping[str, Any]]] = {}
    absent: list[str] = []
    mute: list[str] = []
    for row in table.rows:
        clip = _clip(row, columns, f"{table.path} row {row.number}", rules.captions)
        file = _find_file(clip.key, folders)
        if file is None and clip.key and not rules.need_files:
            file = folders[0] / clip.key
        if file is None:
            absent.append(f"row {row.number} {clip.key!r}")
        elif rules.need_captions and not clip.captions:
            mute.append(f"row {row.number} {clip.key!r}")
        elif file in entries:
            first, cells = entries[file]
            entries[file] = (_merged(first, clip), cells)
        else:
            entries[file] = (clip, row.cells)
    where, total = table.path, len(table.rows)
    *asked, beside, below = folders
    usual = f"the table's folder ({beside}) or {beside}{os.sep}{below.name}"
    looked = ", ".join([*map(str, asked), usual])
    fix = "correct the paths, name their folder as audio_dir"
    what = f"rows name no file in {looked}"
    refuse(where, absent, total, what, fix=fix, missing=rules.missing)
    refuse(where, mute, total, "rows have no caption", fix="write one", missing=rules.missing)
    return entries


def _clip(row: Row, columns: Columns, where: str, which: CaptionChoice) -> Clip:
    name = row.cells.get(columns.file or "")
    return Clip(
        key="" if name is None else str(name).strip(),
        captions=columns.captions_of(row.cells, which),
        tags=columns.tags_of(row.cells),
        duration_s=columns.duration_of(where, row.cells),
    )


def _find_file(name: str, folders: Sequence[Path]) -> Path | None:
    if not name:
        return None
    spellings = (name, name.replace("\\", "/")) if "\\" in name else (name,)
    candidates = (folder / spelling for spelling in spellings for folder in folders)
    return next(filter(is_file, candidates), None)


def _merged(first: Clip, second: Clip) -> Clip:
    return replace(
        first,
        captions=tuple(dict.fromkeys(first.captions + second.captions)),
        tags=tuple(dict.fromkeys(first.tags + second.tags)),
        duration_s=first.duration_s or second.duration_s,
    )


# Folders


def _open_folder(folder: Path, rules: _Rules) -> FileSource:
    paths = sorted(path for path in _walk(folder) if path.suffix.lower() in AUDIO_SUFFIXES)
    if not paths:
        raise DataError(
            f"{folder}: wanted audio files, a captions.csv or .tar shards in it; there are none"
        )
    described = [_sidecar(path, rules) for path in paths]
    if not any(described):
        described = [clip_from_names(path.relative_to(folder)) for path in paths]
        example = next((clip.captions[0] for clip in described if clip), "")
        if rules.need_captions and example:
            log.warning("%s: captions made of folder and file names, as %r", folder, example)
    if not rules.need_captions:
        described = [
            clip or Clip(path.stem, (), (), None)
            for path, clip in zip(paths, described, strict=True)
        ]
    found = [(path, clip) for path, clip in zip(paths, described, strict=True) if clip]
    mute = [path.name for path, clip in zip(paths, described, strict=True) if not clip]
    fix, what = "write one into a .txt beside each", "audio files have no caption"
    refuse(folder, mute, len(paths), what, fix=fix, missing=rules.missing)
    if not found:
        raise DataError(f"{folder}: no audio file has a caption")
    clips = [replace(clip, key=path.relative_to(folder).as_posix()) for path, clip in found]
    return FileSource(clips, [path for path, _ in found])


def _walk(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(where, name) for name in files if not name.startswith("."))


def _sidecar(path: Path, rules: _Rules) -> Clip | None:
    for suffix in DESCRIPTION_SUFFIXES:
        beside = path.with_suffix(suffix)
        if beside.is_file():
            told = describe(str(beside), path.stem, bytes_of(beside))
            clip = told.chosen(rules.captions)
            return clip if clip.captions or not rules.need_captions else None
    return None
