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
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np

from echoic.audio.io import load_audio
from echoic.data.clips import (
    Clip,
    ConcatSource,
    Missing,
    RetoldSource,
    Source,
    SubsetSource,
    note_long_captions,
    refuse,
)
from echoic.data.remote import RemoteFile, place_of, tars_at
from echoic.data.shard_writing import SIZES, ShardSummary, write_shards
from echoic.data.tables import CaptionChoice
from echoic.data.tar_index import Member, TarIndex, open_index
from echoic.types import AudioError, DataError

__all__ = ["SIZES", "ShardSource", "ShardSummary", "shard_numbers", "write_shards"]

log = logging.getLogger("echoic.data")

_LOST_FOR_S = 60.0  # a tar that cannot be read is let alone for so long
_OPENED_AT_ONCE = 16  # of a store, where each index is a question or two

Tar = Path | RemoteFile


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

    def __init__(self, clips: Sequence[Clip], places: Sequence[_Place]) -> None:
        self.clips: Sequence[Clip] = tuple(clips)
        self._places = tuple(places)
        self._lost: dict[Tar, tuple[float, str]] = {}  # until when, and why

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        name, raw = self._bytes(i)
        return load_audio(raw, rate_hz=rate_hz, name=name)

    def read_window(self, i: int, rate_hz: int, start_s: float, duration_s: float) -> np.ndarray:
        name, raw = self._bytes(i)
        return load_audio(raw, rate_hz=rate_hz, start_s=start_s, duration_s=duration_s, name=name)

    def part(self, first: int, stop: int) -> Source:
        return ShardClips(self.clips[first:stop], self._places[first:stop])

    def _bytes(self, i: int) -> tuple[str, bytes]:
        place = self._places[i]
        name = f"{place.tar}/{place.name}"
        until, reason = self._lost.get(place.tar, (0.0, ""))
        if time.monotonic() < until:
            raise AudioError(name, reason)
        try:
            raw = _read(place)
        except OSError as error:
            reason = f"the tar cannot be read ({error.strerror})"
            self._lose(place.tar, reason)
            raise AudioError(name, reason) from None
        if len(raw) < place.size:
            raise AudioError(name, "the tar has become shorter than its index")
        if place.crc32 and f"{crc32(raw):08x}" != place.crc32:
            raise AudioError(name, "damaged: not the bytes that were written (checksum)")
        return name, raw

    def _lose(self, tar: Tar, reason: str) -> None:
        if tar not in self._lost:
            clips = sum(place.tar is tar for place in self._places)
            log.warning("%s: %s; its %d clips count as bad while this lasts", tar, reason, clips)
        self._lost[tar] = time.monotonic() + _LOST_FOR_S, reason


def _read(place: _Place) -> bytes:
    if isinstance(place.tar, RemoteFile):
        return place.tar.read(place.offset, place.size)
    # opened for each read: threads share no position, and many tars meet no limit
    with place.tar.open("rb") as file:
        file.seek(place.offset)
        return file.read(place.size)


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
        held: list[tuple[Tar, Member, Clip]] = []
        for tar, index in _indices(tars, missing):
            told = [(member, member.described.chosen(captions)) for member in index.members]
            mute = [m.name for m, clip in told if need_captions and not clip.captions]
            _refuse_faults(tar, index, mute, missing)
            held += [(tar, m, clip) for m, clip in told if clip.captions or not need_captions]
        if not held:
            raise DataError(f"{path}: no clip with audio and caption in it")
        often = Counter(clip.key for _, _, clip in held)
        super().__init__(
            [
                replace(clip, key=f"{tar.stem}/{clip.key}") if often[clip.key] > 1 else clip
                for tar, _, clip in held
            ],
            [_Place(tar, m.name, m.offset, m.size, m.crc32) for tar, m, _ in held],
        )
        paths = {tar: Path(str(tar)) for tar in tars}
        self.tars: tuple[Path, ...] = tuple(paths[tar] for tar, _, _ in held)
        self.rows: tuple[Mapping[str, str], ...] = tuple(m.described.origin for _, m, _ in held)
        note_long_captions(path, self.clips)


def _indices(tars: Sequence[Tar], missing: Missing) -> list[tuple[Tar, TarIndex]]:
    """The tars that can be read, with their indices."""

    def opened(tar: Tar) -> TarIndex | DataError:
        try:
            return open_index(tar)
        except DataError as error:
            return error

    at_once = _OPENED_AT_ONCE if any(isinstance(tar, RemoteFile) for tar in tars) else 1
    found = []
    with ThreadPoolExecutor(at_once, thread_name_prefix="echoic-index") as pool:
        for tar, index in zip(tars, pool.map(opened, tars), strict=True):
            if isinstance(index, TarIndex):
                found.append((tar, index))
            elif missing == "error":
                pool.shutdown(cancel_futures=True)
                raise index
            else:
                log.warning("%s; left out", index)
    return found


def shard_numbers(source: Source) -> np.ndarray:
    """(N,) in which tar each clip lies, for `pack.ByShard`; all else is one shard."""
    if isinstance(source, ShardSource):
        return np.unique([str(tar) for tar in source.tars], return_inverse=True)[1]
    if isinstance(source, SubsetSource):
        return shard_numbers(source.source)[list(source.indices)]
    if isinstance(source, RetoldSource):
        return shard_numbers(source.source)
    if isinstance(source, ConcatSource):
        parts = [shard_numbers(each) for each in source.sources]
        starts = np.cumsum([0, *(part.max(initial=-1) + 1 for part in parts)])
        return np.concatenate([a + part for a, part in zip(starts, parts, strict=False)])
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
        return set(json.loads(sizes.read_bytes()))
    except (ValueError, TypeError) as error:
        raise DataError(f"{sizes}: not readable as JSON ({error})") from None


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", name)]


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
