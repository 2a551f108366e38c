"""The clips of many tars as columns: a few numbers for each, and a text that is read when it is
asked for. A hundred million clips so take a few GB of the disk's cache, which all processes of a
machine share, where as objects they would take 76 GB of each.

Small sets stay in memory. Those whose columns grow beyond 64 MB lie in the user's cache folder
(ECHOIC_CACHE; on a fast disk of the machine) with the stamps of the tars they were made of.

N clips, S tars.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from echoic.data.clips import Clip, Listed, key_places
from echoic.data.files import cache_folder
from echoic.data.tar_index import Member
from echoic.types import DataError

_VERSION = 1
_SPILL_BYTES = 64 * 2**20
_NO_CRC = -1
_TYPES: dict[str, np.dtype[Any]] = {
    "duration_s": np.dtype("<f8"),  # NaN where it is not known
    "offset": np.dtype("<i8"),
    "size": np.dtype("<i8"),
    "crc32": np.dtype("<i8"),
    "place": np.dtype("<u8"),  # see clips.key_places
    "text_end": np.dtype("<i8"),
    "text": np.dtype("u1"),
    "tar_end": np.dtype("<i8"),  # (S,) how many clips this tar and those before it hold
    "twice": np.dtype("u1"),  # whether others have the same key, so that the tar's name joins it
}
_BY_CLIP = ("duration_s", "offset", "size", "crc32", "place", "text_end", "twice")


@dataclass(frozen=True)
class Told:
    """What is said of one clip: see tar_index.Member."""

    clip: Clip
    name: str
    origin: dict[str, str]


class Columns(Listed):
    """Clips of tars. stems: (S,) what is put before a key that several have."""

    captioned = False

    def __init__(
        self, columns: dict[str, np.ndarray], stems: Sequence[str], digest: str, captioned: bool
    ) -> None:
        self._columns, self._stems = columns, stems
        self.digest, self.captioned = digest, captioned

    def __len__(self) -> int:
        return len(self._columns["offset"])

    def at(self, i: int) -> Clip:
        return self.told(i).clip

    @property
    def durations_s(self) -> np.ndarray:
        return self._columns["duration_s"]

    @property
    def places(self) -> np.ndarray:
        return self._columns["place"]

    def told(self, i: int) -> Told:
        ends = self._columns["text_end"]
        begin = int(ends[i - 1]) if i else 0
        raw = self._columns["text"][begin : int(ends[i])].tobytes()
        key, captions, tags, name, origin = json.loads(raw)
        if self._columns["twice"][i]:
            key = f"{self._stems[self.tar(i)]}/{key}"
        seconds = float(self._columns["duration_s"][i])
        clip = Clip(key, tuple(captions), tuple(tags), None if np.isnan(seconds) else seconds)
        return Told(clip, name, origin)

    def tar(self, i: int) -> int:
        """In which tar clip i lies."""
        return int(np.searchsorted(self._columns["tar_end"], i, side="right"))

    def tars(self) -> np.ndarray:
        """(N,) of all clips."""
        sizes = np.diff(self._columns["tar_end"], prepend=0)
        return np.repeat(np.arange(len(sizes), dtype=np.uint32), sizes)

    def tar_size(self, tar: int) -> int:
        """How many clips it holds."""
        ends = self._columns["tar_end"]
        return int(ends[tar] - (ends[tar - 1] if tar else 0))

    def bytes_of(self, i: int) -> tuple[int, int, str]:
        """First byte, length, and checksum (eight digits; "" for none)."""
        crc = int(self._columns["crc32"][i])
        held = (int(self._columns[name][i]) for name in ("offset", "size"))
        return *held, "" if crc == _NO_CRC else f"{crc:08x}"  # type: ignore[return-value]

    def part(self, first: int, stop: int) -> Columns:
        """Clips `first` to `stop` - 1 in memory of their own, small enough for another process."""
        ends = self._columns["text_end"]
        begin, end = (int(ends[i - 1]) if i else 0 for i in (first, max(first, stop)))
        own = {name: np.array(self._columns[name][first:stop]) for name in _BY_CLIP}
        own["text_end"] -= begin
        own["text"] = np.array(self._columns["text"][begin:end])
        own["tar_end"] = np.clip(self._columns["tar_end"], first, stop) - first
        digest = sha256(f"{self.digest} {first} {stop}".encode()).hexdigest()
        return Columns(own, self._stems, digest, self.captioned)


class Writer:
    """Columns, tar by tar. folder: where they go when they are many."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # several may be at it, and in containers every one of them is process 1
        self._scratch = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.part")
        self._held = {name: bytearray() for name in _TYPES}
        self._spilled, self._tars, self._clips, self._text_bytes = False, 0, 0, 0
        self._captioned, self._digest = True, sha256()

    def add(self, number: int, stem: str, clips: Iterable[tuple[Member, Clip]]) -> None:
        """The clips of a tar; those between it and the one before are empty. Raises DataError where
        the disk refuses."""
        self._digest.update(stem.encode("utf-8", "surrogatepass"))
        numbers: dict[str, list[float]] = {name: [] for name in _BY_CLIP if name != "place"}
        keys = []
        for member, clip in clips:
            told = [clip.key, clip.captions, clip.tags, member.name, dict(member.described.origin)]
            text = json.dumps(told).encode()
            self._held["text"] += text
            self._text_bytes += len(text)
            self._digest.update(text)
            self._captioned = self._captioned and bool(clip.captions)
            keys.append(clip.key)
            seconds = float("nan") if clip.duration_s is None else clip.duration_s
            crc = int(member.crc32, 16) if member.crc32 else _NO_CRC
            row = (seconds, member.offset, member.size, crc, self._text_bytes, 0)
            for column, value in zip(numbers.values(), row, strict=True):
                column.append(value)
        ends = [self._clips] * (number - self._tars) + [self._clips + len(keys)]
        self._clips, self._tars = self._clips + len(keys), number + 1
        for name, values in [*numbers.items(), ("tar_end", ends)]:
            self._held[name] += np.array(values, _TYPES[name]).tobytes()
        self._held["place"] += key_places(keys).tobytes()
        self._digest.update(np.array(numbers["duration_s"], _TYPES["duration_s"]).tobytes())
        if sum(map(len, self._held.values())) > _SPILL_BYTES:
            self._spill()

    def close(
        self, stems: Sequence[str], stamp: Callable[[], str], notes: Sequence[str]
    ) -> Columns:
        """stamp: of the tars, asked for only where the columns are kept. notes: what was said of
        them. Raises DataError."""
        if self._spilled:
            self._spill()
            columns = _mapped(self._scratch, "r+")
        else:
            columns = {name: np.frombuffer(held, _TYPES[name]) for name, held in self._held.items()}
        _tell_apart(columns, stems)
        digest = self._digest.hexdigest()
        if not self._spilled:
            return Columns(columns, stems, digest, self._captioned)
        mark = stamp()
        theirs = kept(self._folder, stems, mark)
        if theirs is not None and theirs[0].digest == digest:
            return theirs[0]  # another rank was quicker: so all share what lies on the disk
        about = {"version": _VERSION, "stamp": mark, "notes": list(notes), "digest": digest,
                 "captioned": self._captioned, "lengths": _lengths(columns)}  # fmt: skip
        try:
            (self._scratch / "about.json").write_text(json.dumps(about), "utf-8")
            columns = _mapped(self._scratch, "r")  # before another rank may put its own there
            self._publish()
        except OSError as error:
            raise _refused(self._folder, error) from None
        return Columns(columns, stems, digest, self._captioned)

    def _publish(self) -> None:
        """In place of what lies there of tars that have changed."""
        old = self._scratch.with_suffix(".old")
        with suppress(FileNotFoundError):
            self._folder.replace(old)
            shutil.rmtree(old, ignore_errors=True)
        try:
            self._scratch.replace(self._folder)
        except OSError as error:
            # another rank's have come meanwhile: they stay there, and ours serve this one alone
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    def drop(self) -> None:
        """Leave nothing half written."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _spill(self) -> None:
        try:
            self._scratch.mkdir(parents=True, exist_ok=self._spilled)
            self._spilled = True
            for name, held in self._held.items():
                with (self._scratch / f"{name}.bin").open("ab") as file:
                    file.write(held)
                held.clear()
        except OSError as error:
            raise _refused(self._folder, error) from None


def kept_place(name: str) -> Path:
    """Where the columns of that name lie if they are many."""
    return cache_folder() / "shards" / f"{sha256(name.encode()).hexdigest()[:32]}.columns"


def kept(folder: Path, stems: Sequence[str], stamp: str) -> tuple[Columns, list[str]] | None:
    """The columns there with their notes, if they are those of tars with that stamp."""
    try:
        about: dict[str, Any] = json.loads((folder / "about.json").read_bytes())
        if (about["version"], about["stamp"]) != (_VERSION, stamp):
            return None
        columns = _mapped(folder, "r")
        if _lengths(columns) != about["lengths"]:
            return None  # the machine went down before all was on the disk
        return Columns(columns, stems, about["digest"], about["captioned"]), about["notes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lengths(columns: dict[str, np.ndarray]) -> list[int]:
    return [len(columns[name]) for name in _TYPES]


def _mapped(folder: Path, mode: Any) -> dict[str, np.ndarray]:
    return {
        # asarray: a memmap's own way of being indexed takes ten times as long
        name: np.asarray(np.memmap(folder / f"{name}.bin", kind, mode=mode))
        for name, kind in _TYPES.items()
    }


def _tell_apart(columns: dict[str, np.ndarray], stems: Sequence[str]) -> None:
    """Marks keys that come more than once; two of 2**64 that only look equal get longer ones."""
    places = np.sort(columns["place"])
    double = np.unique(places[1:][places[1:] == places[:-1]])
    if not len(double):
        return
    view = Columns(columns, stems, "", captioned=False)
    # by sorting: NumPy 2.0's table of whole numbers has no room for half of those of 64 bits
    found = np.flatnonzero(np.isin(columns["place"], double, kind="sort"))
    columns["twice"][found] = 1
    columns["place"][found] = key_places([view.at(int(i)).key for i in found])


def _refused(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"{folder}: the index of these shards cannot be written ({error.strerror}); set "
        "ECHOIC_CACHE to a folder with room"
    )
