"""The index of one tar shard: where each clip's bytes lie, and what is said about it.

Made from the headers of the tar in one pass, kept beside it as `<tar>.index.json` together with
the size and time of the tar it was made of, and made anew when those differ. Where the folder
cannot be written it stays in memory. Of a tar at an address, the one that lies beside it is taken
if the sizes agree; it is kept in the user's cache folder with the mark of the tar's version.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tarfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from echoic.audio.io import probe_audio
from echoic.config import parse_json
from echoic.data.clips import AUDIO_SUFFIXES, Clip
from echoic.data.describe import DESCRIPTION_SUFFIXES, Described, describe
from echoic.data.files import cache_folder
from echoic.data.remote import RemoteFile
from echoic.types import AudioError, DataError

log = logging.getLogger("echoic.data")

SUFFIX = ".index.json"
CHECKSUM = "audio_crc32"  # of a clip's bytes, in its .json: it goes wherever the tar goes
_VERSION = 3
_BLOCK = tarfile.BLOCKSIZE
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


@dataclass(frozen=True)
class Member:
    """One clip of a tar: what is said of it; the audio member's name, first byte, length, and
    checksum where its .json has one (eight hexadecimal digits, else "")."""

    described: Described
    name: str
    offset: int
    size: int
    crc32: str = ""


@dataclass(frozen=True)
class TarIndex:
    """The clips of a tar, in its order, and its faults.

    mute: audio members that nothing legible is said of. deaf: captions without audio. damage: ""
    for none.
    """

    members: tuple[Member, ...]
    mute: tuple[str, ...] = ()
    deaf: tuple[str, ...] = ()
    damage: str = ""


def open_index(tar: Path | RemoteFile) -> TarIndex:
    """The index kept of a tar if it fits it, else a new one. Raises DataError."""
    try:
        return _of_remote(tar) if isinstance(tar, RemoteFile) else _of_file(tar)
    except OSError as error:
        raise DataError(f"{tar}: cannot be read ({error.strerror})") from None


def _of_file(path: Path) -> TarIndex:
    beside = path.with_name(f"{path.name}{SUFFIX}")
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        stamp = {"version": _VERSION, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        index = _load(beside, stamp)
        if index is None:
            index = _build(path, file, stat.st_size)
            _save(beside, stamp, index)
    return index


def _of_remote(tar: RemoteFile) -> TarIndex:
    stamp = {"version": _VERSION, **tar.stamp()}
    kept = cache_folder() / "shards" / f"{sha256(str(tar).encode()).hexdigest()[:32]}{SUFFIX}"
    index = _load(kept, stamp)
    if index is None:
        index = _beside(tar, {"version": _VERSION, "size": stamp["size"]})
        if index is None:
            with tar.open(stamp["size"]) as file:
                index = _build(tar, file, stamp["size"])
        _save(kept, stamp, index)
    return index


def _beside(tar: RemoteFile, stamp: Mapping[str, Any]) -> TarIndex | None:
    try:
        return _parsed(RemoteFile(f"{tar.url}{SUFFIX}", pauses_s=tar.pauses_s).whole(), stamp)
    except OSError:
        return None  # it spares a pass over the tar, no more


def _load(kept: Path, stamp: Mapping[str, Any]) -> TarIndex | None:
    try:
        return _parsed(kept.read_bytes(), stamp)
    except OSError:
        return None


def _parsed(raw: bytes, stamp: Mapping[str, Any]) -> TarIndex | None:
    try:
        tree = parse_json(raw)
        if {name: tree[name] for name in stamp} != stamp:
            return None
        members = tuple(_member(**entry) for entry in tree["members"])
        return TarIndex(members, tuple(tree["mute"]), tuple(tree["deaf"]), tree["damage"])
    except (ValueError, KeyError, TypeError):
        return None  # cut short, or of another making: the tar itself has the truth


def _member(described: dict[str, Any], name: str, offset: int, size: int, crc32: str) -> Member:
    told = described["clip"]
    texts = {field: tuple(told[field]) for field in ("captions", "tags")}
    clip = Clip(told["key"], **texts, duration_s=told["duration_s"])
    augmented = {which: tuple(found) for which, found in described["augmented"].items()}
    return Member(Described(clip, augmented, described["origin"]), name, offset, size, crc32)


def _save(kept: Path, stamp: Mapping[str, Any], index: TarIndex) -> None:
    text = json.dumps({**stamp, **asdict(index)}, ensure_ascii=False)
    raw = text.encode("utf-8", "surrogatepass")  # as of names that are not UTF-8
    scratch = kept.with_name(f".{kept.name}.{os.getpid()}.part")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(raw)
        scratch.replace(kept)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink()
        log.info("%s: index kept in memory only (%s)", kept, error.strerror)


def _build(path: Path | RemoteFile, file: BinaryIO, size: int) -> TarIndex:
    start = file.read(8)
    packed = next((name for magic, name in _COMPRESSED.items() if start.startswith(magic)), None)
    if packed:
        raise DataError(
            f"{path}: compressed with {packed}, so no clip can be reached alone; unpack it"
        )
    infos, texts, damage = _headers(file, size)
    audio, about = _grouped(infos)
    members, mute = [], []
    for key, info in audio.items():
        if key not in about:
            mute.append(info.name)
            continue
        raw = texts[about[key].offset_data]
        try:
            described = describe(f"{path}/{about[key].name}", key, raw)
        except DataError as error:
            mute.append(str(error).removeprefix(f"{path}/"))
            continue
        if described.clip.duration_s is None:
            duration_s = _duration_s(_bytes_at(file, info))
            described = replace(described, clip=replace(described.clip, duration_s=duration_s))
        crc32 = _checksum(raw) if _is_json(about[key]) else ""
        members.append(Member(described, info.name, info.offset_data, info.size, crc32))
    deaf = tuple(info.name for key, info in about.items() if key not in audio)
    return TarIndex(tuple(members), tuple(mute), deaf, damage)


def _grouped(
    infos: Iterable[tarfile.TarInfo],
) -> tuple[dict[str, tarfile.TarInfo], dict[str, tarfile.TarInfo]]:
    """Audio members and descriptions by key: the name up to its last dot.

    Of two members of one name the later counts, as in tar; a .json counts before a .txt.
    """
    audio: dict[str, tarfile.TarInfo] = {}
    about: dict[str, tarfile.TarInfo] = {}
    for info in infos:
        key, suffix = os.path.splitext(info.name)
        if suffix.lower() in AUDIO_SUFFIXES:
            audio[key] = info
        elif suffix.lower() == ".json" or (
            suffix.lower() in DESCRIPTION_SUFFIXES and not _is_json(about.get(key))
        ):
            about[key] = info
    return audio, about


def _is_json(info: tarfile.TarInfo | None) -> bool:
    return info is not None and info.name.lower().endswith(".json")


def _checksum(raw: bytes) -> str:
    """What a .json that was understood says of its clip's bytes."""
    try:
        told = parse_json(raw).get(CHECKSUM)
    except ValueError:
        return ""  # in another encoding: not of our making
    written = isinstance(told, str) and re.fullmatch("[0-9a-f]{8}", told)
    return str(told) if written else ""


def _duration_s(raw: bytes) -> float | None:
    try:
        return probe_audio(raw).duration_s or None
    except AudioError:
        return None  # a bad clip is met, named and counted where it is read


class _Bounded:
    """A file that is never asked for more than its `size`: where a header lies about the size of
    what follows, it would be allocated."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(max(0, min(count, self._size - self.tell())))


def _bytes_at(file: BinaryIO | _Bounded, info: tarfile.TarInfo) -> bytes:
    file.seek(info.offset_data)
    return file.read(info.size)


def _headers(file: BinaryIO, size: int) -> tuple[list[tarfile.TarInfo], dict[int, bytes], str]:
    """The whole regular members of a tar, the descriptions among them by their first byte, read on
    the way, and what is wrong with it ("": nothing)."""
    infos: list[tarfile.TarInfo] = []
    texts: dict[int, bytes] = {}
    damage, end = "", 0
    file.seek(0)
    held: Any = _Bounded(file, size)
    try:
        with tarfile.open(fileobj=held, mode="r:") as tar:
            for info in tar:
                infos.append(info)
                if info.isreg() and info.name.lower().endswith(DESCRIPTION_SUFFIXES):
                    texts[info.offset_data] = _bytes_at(held, info)
                length = info.size if info.isreg() else 0
                end = info.offset_data + -(-length // _BLOCK) * _BLOCK
    except (tarfile.TarError, ValueError, OverflowError) as error:
        damage = str(error)
    if not damage:
        # tarfile takes a broken header for the end of the archive: look for the true mark
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            damage = "no end mark" if end >= size else "a broken header"
    if damage:
        damage = f"{damage} at byte {min(end, size)} of {size}"
    whole = [i for i in infos if _wanted(i) and i.offset_data + i.size <= size]
    return whole, texts, damage


def _wanted(info: tarfile.TarInfo) -> bool:
    regular = info.isreg() and not info.issparse()  # whose bytes are not its content
    return regular and not os.path.basename(info.name).startswith(".")
