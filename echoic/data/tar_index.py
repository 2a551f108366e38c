"""The index of one tar shard: where each clip's bytes lie, and what is said about it.

Made from the headers of the tar in one pass, kept beside it as `<tar>.index.json` together with
the size and time of the tar it was made of, and made anew when those differ. Where the folder
cannot be written it stays in memory.
"""

from __future__ import annotations

import json
import logging
import os
import tarfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from echoic.audio.io import probe_audio
from echoic.data.clips import AUDIO_SUFFIXES, Clip
from echoic.data.describe import DESCRIPTION_SUFFIXES, Described, describe
from echoic.types import AudioError, DataError

log = logging.getLogger("echoic.data")

_VERSION = 2
_BLOCK = tarfile.BLOCKSIZE
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


@dataclass(frozen=True)
class Member:
    """One clip of a tar: what is said of it; the audio member's name, first byte and length."""

    described: Described
    name: str
    offset: int
    size: int


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


def open_index(path: Path) -> TarIndex:
    """The index kept beside a tar if it fits it, else a new one. Raises DataError."""
    beside = path.with_name(f"{path.name}.index.json")
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            stamp = {"version": _VERSION, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
            index = _load(beside, stamp)
            if index is None:
                index = _build(path, file, stat.st_size)
                _save(beside, stamp, index)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return index


def _load(beside: Path, stamp: dict[str, int]) -> TarIndex | None:
    try:
        tree = json.loads(beside.read_bytes())
        if {name: tree[name] for name in stamp} != stamp:
            return None
        members = tuple(_member(**entry) for entry in tree["members"])
        return TarIndex(members, tuple(tree["mute"]), tuple(tree["deaf"]), tree["damage"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, cut short, or of another making: the tar itself has the truth


def _member(described: dict[str, Any], name: str, offset: int, size: int) -> Member:
    told = described["clip"]
    texts = {field: tuple(told[field]) for field in ("captions", "tags")}
    clip = Clip(told["key"], **texts, duration_s=told["duration_s"])
    augmented = {which: tuple(found) for which, found in described["augmented"].items()}
    return Member(Described(clip, augmented, described["origin"]), name, offset, size)


def _save(beside: Path, stamp: dict[str, int], index: TarIndex) -> None:
    text = json.dumps({**stamp, **asdict(index)}, ensure_ascii=False)
    scratch = beside.with_name(f".{beside.name}.{os.getpid()}.part")
    try:
        scratch.write_text(text, "utf-8")
        scratch.replace(beside)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        log.info("%s: index kept in memory only (%s)", beside, error.strerror)


def _build(path: Path, file: BinaryIO, size: int) -> TarIndex:
    start = file.read(8)
    packed = next((name for magic, name in _COMPRESSED.items() if start.startswith(magic)), None)
    if packed:
        raise DataError(
            f"{path}: compressed with {packed}, so no clip can be reached alone; unpack it"
        )
    infos, damage = _headers(file, size)
    audio, about = _grouped(infos)
    members, mute = [], []
    for key, info in audio.items():
        if key not in about:
            mute.append(info.name)
            continue
        try:
            raw = _bytes_at(file, about[key])
            described = describe(f"{path}/{about[key].name}", key, raw)
        except DataError as error:
            mute.append(str(error).removeprefix(f"{path}/"))
            continue
        if described.clip.duration_s is None:
            duration_s = _duration_s(_bytes_at(file, info))
            described = replace(described, clip=replace(described.clip, duration_s=duration_s))
        members.append(Member(described, info.name, info.offset_data, info.size))
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


def _duration_s(raw: bytes) -> float | None:
    try:
        return probe_audio(raw).duration_s or None
    except AudioError:
        return None  # a bad clip is met, named and counted where it is read


def _bytes_at(file: BinaryIO, info: tarfile.TarInfo) -> bytes:
    file.seek(info.offset_data)
    return file.read(info.size)


def _headers(file: BinaryIO, size: int) -> tuple[list[tarfile.TarInfo], str]:
    """The whole regular members of a tar, and what is wrong with it ("": nothing)."""
    infos: list[tarfile.TarInfo] = []
    damage, end = "", 0
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                infos.append(info)
                held = info.size if info.isreg() else 0
                end = info.offset_data + -(-held // _BLOCK) * _BLOCK
    except (tarfile.TarError, ValueError, OverflowError) as error:
        damage = str(error)
    if not damage:
        # tarfile takes a broken header for the end of the archive: look for the true mark
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            damage = "no end mark" if end >= size else "a broken header"
    if damage:
        damage = f"{damage} at byte {min(end, size)} of {size}"
    return [i for i in infos if _wanted(i) and i.offset_data + i.size <= size], damage


def _wanted(info: tarfile.TarInfo) -> bool:
    return info.isreg() and not os.path.basename(info.name).startswith(".")
