"""WebDataset shards: tars of `<key>.flac` + `<key>.json`, in the form of LAION-CLAP's own.

`write_shards` fills them; `ShardSource` reads any clip at any time through an index of byte
offsets, made once from the headers of a tar and kept beside it. T samples.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path

import numpy as np
import soundfile

from echoic.audio.io import load_audio
from echoic.data.clips import (
    AUDIO_SUFFIXES,
    Clip,
    Missing,
    Source,
    check_audio,
    note_long_captions,
    refuse,
)
from echoic.data.tables import CaptionChoice
from echoic.data.tar_index import Member, TarIndex, open_index
from echoic.types import AudioError, DataError

log = logging.getLogger("echoic.data")

SIZES = "sizes.json"
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


def write_shards(
    source: Source | Iterable[tuple[Clip, np.ndarray]],
    folder: str | os.PathLike[str],
    *,
    per_shard: int = 512,
    rate_hz: int,
    format: str = "flac",
) -> ShardSummary:
    """Write clips as shard-000000.tar ... and sizes.json.

    source: a source, or (clip, (T,) float32 at `rate_hz`) one after another; one clip is in memory
    at a time. Samples beyond +-1 are clipped, 16 bits are kept. Each tar gets its name when it is
    whole and on disk, so whatever stops the writing leaves whole shards; sizes.json comes last and
    says that the folder is complete. Unusable clips are counted, named in the log and left out.
    Raises DataError: no usable clip, one without caption, a folder that already holds tars, no
    free disk.
    """
    if format not in FORMATS:
        raise DataError(f"shard format {format!r}: wanted one of {', '.join(FORMATS)}")
    writer = _Writer(_empty_folder(Path(folder)), per_shard, rate_hz, format)
    try:
        for clip, audio in _heard(source, rate_hz, writer.bad):
            writer.add(clip, audio)
        writer.close_shard()
    except BaseException:
        writer.abandon()
        raise
    if not writer.sizes:
        first = next(iter(writer.bad.items()), None)
        raise DataError(
            f"{folder}: no usable clip to write" + (f" ({': '.join(first)})" if first else "")
        )
    return writer.finish()


def _empty_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made a folder ({error.strerror})") from None
    if any(folder.glob("*.tar")):
        state = "" if (folder / SIZES).exists() else f" of an unfinished run (no {SIZES})"
        raise DataError(f"{folder}: already holds shards{state}; remove it or name another folder")
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
    """Fills one tar after another under a temporary name."""

    def __init__(self, folder: Path, per_shard: int, rate_hz: int, format: str) -> None:
        self.folder, self.per_shard, self.rate_hz, self.format = folder, per_shard, rate_hz, format
        self.bad: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.audio_s, self.bytes = 0.0, 0
        self._names: set[str] = set()
        self._tar: tarfile.TarFile | None = None
        self._held = 0

    @property
    def _path(self) -> Path:
        return self.folder / f"shard-{len(self.sizes):06d}.tar"

    @property
    def _scratch(self) -> Path:
        return self._path.with_name(f".{self._path.name}.part")

    def add(self, clip: Clip, audio: np.ndarray) -> None:
        if not clip.captions:
            raise DataError(f"clip {clip.key} has no caption")
        duration_s = len(audio) / self.rate_hz
        name = self._name(clip.key)
        about = {
            "text": clip.captions,
            "tag": clip.tags,
            "original_data": {"key": clip.key},
            "duration_s": duration_s,
        }
        sound = self._encoded(audio)
        self._put(f"{name}.{self.format}", sound)
        self._put(f"{name}.json", json.dumps(about, ensure_ascii=False).encode())
        self.audio_s += duration_s
        self._held += 1
        if self._held == self.per_shard:
            self.close_shard()

    def _encoded(self, audio: np.ndarray) -> bytes:
        container, subtype = FORMATS[self.format]
        memory = io.BytesIO()
        soundfile.write(memory, audio, self.rate_hz, format=container, subtype=subtype)
        return memory.getvalue()

    def _name(self, key: str) -> str:
        """A member name without dots (they part name and suffix), of this clip alone."""
        stem, suffix = os.path.splitext(key)
        stem = stem if suffix.lower() in AUDIO_SUFFIXES else key
        safe = re.sub(r"[^\w-]+", "_", stem).strip("_")[:_NAME_CHARACTERS] or "clip"
        name = next(
            n for n in chain([safe], (f"{safe}_{i}" for i in count(2))) if n not in self._names
        )
        self._names.add(name)
        return name

    def _put(self, name: str, raw: bytes) -> None:
        with self._disk():
            if shutil.disk_usage(self.folder).free < len(raw) + _DISK_RESERVE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self._tar is None:
                self._tar = tarfile.open(self._scratch, "w")  # noqa: SIM115 (close_shard)
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            self._tar.addfile(info, io.BytesIO(raw))

    def close_shard(self) -> None:
        """Bring the tar that is being filled to the disk, and give it its name."""
        if self._tar is None:
            return
        with self._disk():
            self._tar.close()
            self._tar = None
            _to_disk(self._scratch)
            self.bytes += self._scratch.stat().st_size
            self._scratch.replace(self._path)
        self.sizes[self._path.name] = self._held
        self._held = 0

    def abandon(self) -> None:
        """Remove the tar that is being filled; whole ones stay."""
        if self._tar is not None:
            with suppress(OSError):  # closing writes the end mark: a full disk refuses it
                self._tar.close()
        self._scratch.unlink(missing_ok=True)

    def finish(self) -> ShardSummary:
        with self._disk():
            scratch = self.folder / f".{SIZES}.part"
            scratch.write_text(json.dumps(self.sizes, indent=1), "utf-8")
            _to_disk(scratch)
            scratch.replace(self.folder / SIZES)
        clips = sum(self.sizes.values())
        return ShardSummary(
            self.folder, len(self.sizes), clips, self.audio_s, self.bytes, dict(self.bad)
        )

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "no free disk space" if full else error.strerror
            done = f"{len(self.sizes)} whole shards ({sum(self.sizes.values())} clips) are written"
            raise DataError(f"{self.folder}: {reason}; {done}") from None


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


class ShardSource:
    """The clips of some tars, read in any order, by any thread.

    path: a folder of tars, one tar, or several. A clip's key is its member's name without suffix,
    with the tar's name before it where two agree. tars[i]: the tar of clip i; rows[i]: what names
    its recording elsewhere, of upstream's `original_data`.
    captions: which ones; need_captions: whether a clip must have one.
    missing: what a damaged or truncated tar is, or one that only sizes.json knows, or a member
    without its partner: an error, or left out with a note (the whole clips before the damage are
    used). Raises DataError naming tar and member.
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
        held: list[tuple[Path, Member, Clip]] = []
        for tar in tars:
            index = open_index(tar)
            told = [(member, member.described.chosen(captions)) for member in index.members]
            mute = [m.name for m, clip in told if need_captions and not clip.captions]
            _refuse_faults(tar, index, mute, missing)
            held += [(tar, m, clip) for m, clip in told if clip.captions or not need_captions]
        if not held:
            raise DataError(f"{path}: no clip with audio and caption in it")
        often = Counter(clip.key for _, _, clip in held)
        self.clips: Sequence[Clip] = tuple(
            replace(clip, key=f"{tar.stem}/{clip.key}") if often[clip.key] > 1 else clip
            for tar, _, clip in held
        )
        self.tars: tuple[Path, ...] = tuple(tar for tar, _, _ in held)
        self.rows: tuple[Mapping[str, str], ...] = tuple(m.described.origin for _, m, _ in held)
        self._places = tuple((tar, m.name, m.offset, m.size) for tar, m, _ in held)
        note_long_captions(path, self.clips)

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        name, raw = self._bytes(i)
        return load_audio(raw, rate_hz=rate_hz, name=name)

    def read_window(self, i: int, rate_hz: int, start_s: float, duration_s: float) -> np.ndarray:
        name, raw = self._bytes(i)
        return load_audio(raw, rate_hz=rate_hz, start_s=start_s, duration_s=duration_s, name=name)

    def _bytes(self, i: int) -> tuple[str, bytes]:
        tar, member, offset, size = self._places[i]
        name = f"{tar}/{member}"
        try:
            # opened for each read: threads share no position, and many tars meet no limit
            with tar.open("rb") as file:
                file.seek(offset)
                raw = file.read(size)
        except OSError as error:
            raise AudioError(name, f"the tar cannot be read ({error.strerror})") from None
        if len(raw) < size:
            raise AudioError(name, "the tar has become shorter than its index")
        return name, raw


def _tars(path: str | os.PathLike[str] | Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The tars in the order of their numbers, and the names that sizes.json has beyond them."""
    if not isinstance(path, (str, os.PathLike)):
        return list(path), []
    folder = Path(path)
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


def _refuse_faults(tar: Path, index: TarIndex, mute: Sequence[str], missing: Missing) -> None:
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
