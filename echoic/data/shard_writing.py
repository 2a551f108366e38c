"""Writing WebDataset shards: tars of `<key>.flac` + `<key>.json`, in the form of LAION-CLAP's own.

folder
  shard-000000.tar   whole when it has its name
  SHA256SUMS         of every tar, as `sha256sum -c` reads it
  sizes.json         clips by tar; written last, so a folder that has it is complete

T samples.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from uuid import uuid4
from zlib import crc32

import numpy as np
import soundfile

from echoic.data.clips import AUDIO_SUFFIXES, Clip, Source, check_audio
from echoic.data.files import write_whole
from echoic.data.tar_index import CHECKSUM
from echoic.types import AudioError, DataError

log = logging.getLogger("echoic.data")

SIZES, SUMS = "sizes.json", "SHA256SUMS"
FORMATS = {"flac": ("FLAC", "PCM_16"), "wav": ("WAV", "PCM_16")}
_DISK_RESERVE_BYTES = 16 * 2**20
_NAME_CHARACTERS = 120


@dataclass(frozen=True)
class ShardSummary:
    """What was written. `bad`: clip key -> reason, for those that could not be used."""

    folder: Path
    shards: int
    clips: int
    audio_s: float
    bytes: int
    bad: dict[str, str]


@dataclass(frozen=True)
class ShardRecord:
    """One whole tar."""

    name: str
    clips: int
    audio_s: float
    bytes: int
    sha256: str


def write_shards(
    source: Source | Iterable[tuple[Clip, np.ndarray]],
    folder: str | os.PathLike[str],
    *,
    per_shard: int = 512,
    rate_hz: int,
    format: str = "flac",
) -> ShardSummary:
    """Write clips as shard-000000.tar ..., SHA256SUMS and sizes.json, one after another;
    `building.build_shards` does it in many processes, and goes on after a stop.

    source: a source, or (clip, (T,) float32 at `rate_hz`) one after another; one clip is in memory
    at a time. Samples beyond +-1 are clipped, 16 bits are kept. Each tar gets its name when it is
    whole and on disk, so whatever stops the writing leaves whole shards; sizes.json comes last and
    says that the folder is complete. Unusable clips are counted, named in the log and left out.
    Raises DataError: no usable clip, one without caption, a folder that already holds tars, no
    free disk.
    """
    check_format(format)
    writer = _Writer(_empty_folder(Path(folder)), per_shard, rate_hz, format)
    try:
        for clip, audio in _heard(source, rate_hz, writer.bad):
            writer.add(clip, audio)
        writer.close_shard()
    except BaseException:
        writer.abandon()
        raise
    return finish(writer.folder, writer.records, writer.bad)


def check_format(name: str) -> None:
    """Raises DataError."""
    if name not in FORMATS:
        raise DataError(f"shard format {name!r}: wanted one of {', '.join(FORMATS)}")


def finish(
    folder: Path,
    records: Sequence[ShardRecord],
    bad: dict[str, str],
    *,
    before_the_end: Callable[[ShardSummary], None] | None = None,
) -> ShardSummary:
    """Say that the folder is complete. before_the_end: what else is to be written before that.
    Raises DataError where nothing is in it."""
    if not records:
        first = next(iter(bad.items()), None)
        raise DataError(
            f"{folder}: no usable clip to write" + (f" ({': '.join(first)})" if first else "")
        )
    write_whole(folder / SUMS, "".join(f"{each.sha256}  {each.name}\n" for each in records))
    summary = ShardSummary(
        folder,
        len(records),
        sum(each.clips for each in records),
        sum(each.audio_s for each in records),
        sum(each.bytes for each in records),
        dict(bad),
    )
    if before_the_end is not None:
        before_the_end(summary)
    write_whole(folder / SIZES, json.dumps({each.name: each.clips for each in records}, indent=1))
    return summary


def tar_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def holds_shards(folder: Path) -> DataError:
    state = "" if (folder / SIZES).exists() else f" of an unfinished run (no {SIZES})"
    return DataError(f"{folder}: already holds shards{state}; remove it or name another folder")


def _empty_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made a folder ({error.strerror})") from None
    if any(folder.glob("*.tar")):
        raise holds_shards(folder)
    return folder


def _heard(
    source: Source | Iterable[tuple[Clip, np.ndarray]], rate_hz: int, bad: dict[str, str]
) -> Iterator[tuple[Clip, np.ndarray]]:
    for clip, hear in _pairs(source, rate_hz):
        try:
            audio = hear()
            check_audio(clip.key, audio)
        except AudioError as error:
            bad[clip.key] = error.reason
            log.warning("clip %s left out: %s", clip.key, error.reason)
        else:
            yield clip, audio


def _pairs(
    source: Source | Iterable[tuple[Clip, np.ndarray]], rate_hz: int
) -> Iterator[tuple[Clip, Callable[[], np.ndarray]]]:
    if isinstance(source, Iterable):
        for clip, audio in source:
            yield clip, partial(np.asarray, audio)
    else:
        for i, clip in enumerate(source.clips):
            yield clip, partial(source.read, i, rate_hz)


class _Writer:
    """Fills one tar after another."""

    def __init__(self, folder: Path, per_shard: int, rate_hz: int, format: str) -> None:
        self.folder, self.per_shard, self.rate_hz, self.format = folder, per_shard, rate_hz, format
        self.bad: dict[str, str] = {}
        self.records: list[ShardRecord] = []
        self._names = Names()
        self._tar: TarWriter | None = None

    def add(self, clip: Clip, audio: np.ndarray) -> None:
        name = self._names.of(clip.key)
        with self._disk():
            if self._tar is None:
                path = self.folder / tar_name(len(self.records))
                self._tar = TarWriter(path, self.rate_hz, self.format)
            self._tar.add(name, clip, audio)
        if self._tar.clips == self.per_shard:
            self.close_shard()

    def close_shard(self) -> None:
        if self._tar is None:
            return
        with self._disk():
            self.records.append(self._tar.close())
        self._tar = None

    def abandon(self) -> None:
        """Remove the tar that is being filled; whole ones stay."""
        if self._tar is not None:
            self._tar.abandon()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        clips = sum(each.clips for each in self.records)
        done = f"{len(self.records)} whole shards ({clips} clips) are written"
        with refused_disk(self.folder, done):
            yield


@contextmanager
def refused_disk(folder: Path, done: str) -> Iterator[None]:
    """OSError as a DataError of one line that ends with what is done."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no free disk space" if full else error.strerror
        raise DataError(f"{folder}: {reason}; {done}") from None


class Names:
    """Member names without dots (they part name and suffix), each of one clip alone."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, key: str) -> str:
        stem, suffix = os.path.splitext(key)
        stem = stem if suffix.lower() in AUDIO_SUFFIXES else key
        safe = re.sub(r"[^\w-]+", "_", stem).strip("_")[:_NAME_CHARACTERS] or "clip"
        name = next(
            n for n in chain([safe], (f"{safe}_{i}" for i in count(2))) if n not in self._taken
        )
        self._taken.add(name)
        return name


class TarWriter:
    """One tar, filled under a name of its own; `close` gives it that of `path` when it is on disk.

    Its methods raise OSError where the disk refuses. clips: how many are in it.
    """

    def __init__(self, path: Path, rate_hz: int, format: str) -> None:
        self.path, self.rate_hz, self.format = path, rate_hz, format
        self.clips, self._audio_s = 0, 0.0
        # several may be at it: a task that a cluster gave to another machine as well
        self._scratch = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
        self._tar = tarfile.open(self._scratch, "w")  # noqa: SIM115 (close)

    def add(self, name: str, clip: Clip, audio: np.ndarray) -> None:
        """audio: (T,) float32. Raises DataError on a clip without caption."""
        if not clip.captions:
            raise DataError(f"clip {clip.key} has no caption")
        sound = self._encoded(audio)
        about = {
            "text": clip.captions,
            "tag": clip.tags,
            "original_data": {"key": clip.key},
            "duration_s": len(audio) / self.rate_hz,
            CHECKSUM: f"{crc32(sound):08x}",
        }
        self._put(f"{name}.{self.format}", sound)
        self._put(f"{name}.json", json.dumps(about, ensure_ascii=False).encode())
        self._audio_s += len(audio) / self.rate_hz
        self.clips += 1

    def _encoded(self, audio: np.ndarray) -> bytes:
        container, subtype = FORMATS[self.format]
        memory = io.BytesIO()
        soundfile.write(memory, audio, self.rate_hz, format=container, subtype=subtype)
        return memory.getvalue()

    def _put(self, name: str, raw: bytes) -> None:
        if shutil.disk_usage(self.path.parent).free < len(raw) + _DISK_RESERVE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        info = tarfile.TarInfo(name)
        info.size = len(raw)
        self._tar.addfile(info, io.BytesIO(raw))

    def close(self) -> ShardRecord:
        """Bring the tar to the disk, and give it its name."""
        self._tar.close()
        with self._scratch.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
        self._scratch.replace(self.path)
        return ShardRecord(self.path.name, self.clips, self._audio_s, size, digest)

    def abandon(self) -> None:
        with suppress(OSError):  # closing writes the end mark: a full disk refuses it
            self._tar.close()
        self._scratch.unlink(missing_ok=True)
