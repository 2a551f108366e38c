"""WebDataset shards, read: tars of `<key>.flac` + `<key>.json`, in the form of LAION-CLAP's own, in
a folder or at an address.

`ShardSource` reads any clip at any time through an index of byte offsets (`tar_index`), and holds
what it reads against the checksum that `shard_writing` has put into the clip's .json. T samples.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import get_ident
from typing import Any, NamedTuple, TypeVar, overload
from zlib import crc32

import numpy as np

from echoic.audio.io import load_audio
from echoic.config import parse_json
from echoic.data.clips import (
    Clip,
    ConcatSource,
    Missing,
    RetoldSource,
    Source,
    SubsetSource,
    has_long_caption,
    note_long_captions,
    refuse,
)
from echoic.data.columns import Columns, Writer, kept, kept_place
from echoic.data.remote import RemoteFile, place_of, tars_at
from echoic.data.shard_writing import SIZES, ShardSummary, write_shards
from echoic.data.tables import CaptionChoice
from echoic.data.tar_index import TarIndex, open_index
from echoic.types import AudioError, DataError

__all__ = ["SIZES", "ShardSource", "ShardSummary", "shard_numbers", "write_shards"]

log = logging.getLogger("echoic.data")

_LOST_FOR_S = 60.0  # a tar that cannot be read is let alone for so long
_OPENED_AT_ONCE = 16  # of a store, where each index is a question or two

Tar = Path | RemoteFile
T = TypeVar("T")


class _Place(NamedTuple):
    """Where a clip's bytes lie: see tar_index.Member."""

    tar: Tar
    name: str
    offset: int
    size: int
    crc32: str


class ShardClips:
    """Some clips of some tars, read in any order, by any thread.

    A read raises AudioError naming tar and member, also where the bytes are not those that were
    written. A tar that cannot be read at all is told once, with the number of its clips.
    """

    def __init__(self, columns: Columns, at: Sequence[Tar]) -> None:
        self.clips: Columns = columns
        self._at = at
        self._lost: dict[Tar, tuple[float, str]] = {}  # until when, and why

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        name, raw = self._bytes(i)
        return load_audio(raw, rate_hz=rate_hz, name=name)

    def read_window(self, i: int, rate_hz: int, start_s: float, duration_s: float) -> np.ndarray:
        name, raw = self._bytes(i)
        return load_audio(raw, rate_hz=rate_hz, start_s=start_s, duration_s=duration_s, name=name)

    def part(self, first: int, stop: int) -> Source:
        return ShardClips(self.clips.part(first, stop), self._at)

    def _place(self, i: int) -> _Place:
        name = self.clips.told(i).name
        return _Place(self._at[self.clips.tar(i)], name, *self.clips.bytes_of(i))

    def _bytes(self, i: int) -> tuple[str, bytes]:
        place = self._place(i)
        name = f"{place.tar}/{place.name}"
        until, reason = self._lost.get(place.tar, (0.0, ""))
        if time.monotonic() < until:
            raise AudioError(name, reason)
        try:
            raw = _read(place)
        except OSError as error:
            reason = f"the tar cannot be read ({error.strerror})"
            self._lose(i, place.tar, reason)
            raise AudioError(name, reason) from None
        if len(raw) < place.size:
            raise AudioError(name, "the tar has become shorter than its index")
        if place.crc32 and f"{crc32(raw):08x}" != place.crc32:
            raise AudioError(name, "damaged: not the bytes that were written (checksum)")
        return name, raw

    def _lose(self, i: int, tar: Tar, reason: str) -> None:
        if tar not in self._lost:
            clips = self.clips.tar_size(self.clips.tar(i))
            log.warning("%s: %s; its %d clips count as bad while this lasts", tar, reason, clips)
        self._lost[tar] = time.monotonic() + _LOST_FOR_S, reason


def _read(place: _Place) -> bytes:
    if isinstance(place.tar, RemoteFile):
        return place.tar.read(place.offset, place.size)
    # opened for each read: threads share no position, and many tars meet no limit
    with place.tar.open("rb", buffering=0) as file:
        file.seek(place.offset)
        raw = file.read(place.size)
        while len(raw) < place.size and (more := file.read(place.size - len(raw))):
            raw += more  # of a network's file system, which may give less than was asked for
        return raw


class ShardSource(ShardClips):
    """The clips of some tars.

    path: a folder of tars, one tar, or several; or the address of a folder or of tars, as
    s3://bucket/shards or https://host/shard-{000000..000127}.tar. A clip's key is its member's name
    without suffix, with the tar's name before it where two agree. tars[i]: the tar of clip i;
    rows[i]: what names its recording elsewhere, of upstream's `original_data`.
    captions: which ones; need_captions: whether a clip must have one.
    missing: what a damaged, truncated or unreadable tar is, or one that only sizes.json knows, or a
    member without its partner: an error, or left out with a note (the whole clips before the damage
    are used). Raises DataError naming tar and member.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[Path],
        *,
        missing: Missing = "error",
        captions: CaptionChoice = "written",
        need_captions: bool = True,
    ) -> None:
        tars, absent = _tars(path)
        refuse(
            path,
            absent,
            len(tars) + len(absent),
            f"tars of {SIZES} are not there",
            fix="copy them anew",
            missing=missing,
        )
        columns = _columns(path, tars, captions, need_captions, missing)
        if not len(columns):
            raise DataError(f"{path}: no clip with audio and caption in it")
        super().__init__(columns, tars)
        self.tars: Sequence[Path] = _Each(len(columns), self._tar)
        self.rows: Sequence[Mapping[str, str]] = _Each(len(columns), self._row)

    def _tar(self, i: int) -> Path:
        return Path(str(self._at[self.clips.tar(i)]))

    def _row(self, i: int) -> Mapping[str, str]:
        return self.clips.told(i).origin

    def numbers(self) -> np.ndarray:
        """(N,) of each clip's tar, in the order of their names."""
        names = np.unique([str(tar) for tar in self._at], return_inverse=True)[1]
        found: np.ndarray = names.astype(np.uint32)[self.clips.tars()]
        return found


class _Each(Sequence[T]):
    """What a function gives for 0 to `count` - 1."""

    def __init__(self, count: int, function: Callable[[int], T]) -> None:
        self._count, self._function = count, function

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[T]: ...
    def __getitem__(self, i: int | slice) -> T | Sequence[T]:
        if isinstance(i, slice):
            return [self._function(at) for at in range(self._count)[i]]
        return self._function(range(self._count)[i])


def _columns(
    path: str | os.PathLike[str] | Sequence[Path],
    tars: Sequence[Tar],
    captions: CaptionChoice,
    need_captions: bool,
    missing: Missing,
) -> Columns:
    """The clips that are wanted of the tars, as kept from before or made of their indices."""
    stems = [tar.stem for tar in tars]
    names = [str(tar if isinstance(tar, RemoteFile) else tar.absolute()) for tar in tars]
    folder = kept_place(json.dumps([names, captions, need_captions, missing]))
    stamp = _stamp(tars) if folder.is_dir() else ""
    found = kept(folder, stems, stamp) if stamp else None
    if found is not None:
        for line in found[1]:
            log.warning(line)
        return found[0]
    writer, notes, long = Writer(folder), _Notes(), list[Clip]()
    log.addHandler(notes)
    try:
        for number, index in _indices(tars, missing):
            told = [(member, member.described.chosen(captions)) for member in index.members]
            mute = [m.name for m, clip in told if need_captions and not clip.captions]
            _refuse_faults(tars[number], index, mute, missing)
            wanted = [(m, clip) for m, clip in told if clip.captions or not need_captions]
            writer.add(number, stems[number], wanted)
            long += [clip for _, clip in wanted if has_long_caption(clip)]
        note_long_captions(path, long)
        return writer.close(stems, lambda: stamp or _stamp(tars), notes.lines)
    finally:
        log.removeHandler(notes)
        writer.drop()


def _stamp(tars: Sequence[Tar]) -> str:
    """Another one where a tar is another."""

    def of(tar: Tar) -> Any:
        try:
            if isinstance(tar, RemoteFile):
                return tar.stamp()
            stat = tar.stat()
            return [stat.st_size, stat.st_mtime_ns]
        except OSError:
            return None

    with ThreadPoolExecutor(_OPENED_AT_ONCE, thread_name_prefix="echoic-index") as pool:
        return sha256(json.dumps(list(pool.map(of, tars))).encode()).hexdigest()


class _Notes(logging.Handler):
    """Keeps what is said, so that it can be said again."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == get_ident():
            self.lines.append(record.getMessage())


def _indices(tars: Sequence[Tar], missing: Missing) -> Iterator[tuple[int, TarIndex]]:
    """The tars that can be read, by number, with their indices; few are held at a time."""

    def opened(tar: Tar) -> TarIndex | DataError:
        try:
            return open_index(tar)
        except DataError as error:
            return error

    at_once = _OPENED_AT_ONCE if any(isinstance(tar, RemoteFile) for tar in tars) else 1
    with ThreadPoolExecutor(at_once, thread_name_prefix="echoic-index") as pool:
        for first in range(0, len(tars), at_once):
            some = pool.map(opened, tars[first : first + at_once])
            for number, index in enumerate(some, start=first):
                if isinstance(index, TarIndex):
                    yield number, index
                elif missing == "error":
                    raise index
                else:
                    log.warning("%s; left out", index)


def shard_numbers(source: Source) -> np.ndarray:
    """(N,) in which tar each clip lies, for `pack.ByShard`; all else is one shard."""
    if isinstance(source, ShardSource):
        return source.numbers()
    if isinstance(source, SubsetSource):
        return shard_numbers(source.source)[source.indices]
    if isinstance(source, RetoldSource):
        return shard_numbers(source.source)
    if isinstance(source, ConcatSource):
        parts = [shard_numbers(each) for each in source.sources]
        starts = np.cumsum([0, *(int(part.max()) + 1 if len(part) else 0 for part in parts)])
        return np.concatenate([a + part for a, part in zip(starts.tolist(), parts, strict=False)])
    return np.zeros(len(source.clips), np.int64)


def _tars(path: str | os.PathLike[str] | Sequence[Path]) -> tuple[Sequence[Tar], list[str]]:
    """The tars in the order of their numbers, and the names that sizes.json has beyond them."""
    if not isinstance(path, (str, os.PathLike)):
        return list(path), []
    folder = place_of(path)
    if isinstance(folder, str):
        return sorted(tars_at(folder, SIZES), key=lambda tar: _by_number(tar.name)), []
    if not folder.is_dir():
        return [folder], []
    tars = sorted(folder.glob("*.tar"), key=lambda tar: _by_number(tar.name))
    if not tars:
        raise DataError(f"{folder}: no .tar in it")
    listed = _listed(folder / SIZES)
    return tars, sorted(listed - {tar.name for tar in tars}, key=_by_number)


def _listed(sizes: Path) -> set[str]:
    if not sizes.is_file():
        return set()
    try:
        return set(map(os.fspath, parse_json(sizes.read_bytes())))  # texts
    except (ValueError, TypeError) as error:
        raise DataError(f"{sizes}: not readable as JSON ({error})") from None


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(digits[:18] or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def _refuse_faults(tar: Tar, index: TarIndex, mute: Sequence[str], missing: Missing) -> None:
    total = len(index.members) - len(mute)
    if index.damage:
        line = f"{tar}: damaged or cut off ({index.damage}); {total} whole clips before that"
        if missing == "error":
            raise DataError(f'{line}; copy it anew, or use them with missing="skip"')
        log.warning("%s are used", line)
    seen = len(index.members) + len(index.mute) + len(index.deaf)
    for faults, what in (
        (sorted([*index.mute, *mute]), "clips have no caption"),
        (index.deaf, "captions have no audio"),
    ):
        refuse(tar, faults, seen, what, fix="write the shard anew", missing=missing)
