"""What lies in a folder, and what of it is new, changed or gone since it was indexed.

A file whose size and time are the same is taken to be the same; of another one the SHA-256 of its
bytes tells whether it is. Links to folders are followed, each folder once, so that a loop of them
ends; names that begin with a dot are passed over.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from echoic.data.clips import AUDIO_SUFFIXES
from echoic.index.catalog import File

_SUFFIXES = frozenset(os.fsencode(suffix) for suffix in AUDIO_SUFFIXES)


@dataclass
class Scan:
    """files: by path below the folder, in order. blocked: folders below it that cannot be read."""

    files: dict[bytes, File] = field(default_factory=dict)
    blocked: dict[bytes, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Differences:
    """pending: to be looked at. gone: no longer there. same: as they were. unreadable: as they were
    when they could not be heard."""

    pending: list[File]
    gone: list[File]
    same: int
    unreadable: int


def scan(folder: Path) -> Scan:
    """The audio files below a folder. Raises OSError where the folder itself cannot be read."""
    root, found = os.fsencode(folder), Scan()
    os.scandir(root).close()
    visited = set[tuple[int, int]]()

    def blocked(error: OSError) -> None:
        found.blocked[os.path.relpath(error.filename, root)] = error.strerror or str(error)

    for where, folders, names in os.walk(root, onerror=blocked, followlinks=True):
        folders[:] = sorted(_unvisited(where, folders, visited))
        for name in sorted(names):
            if name.startswith(b".") or os.path.splitext(name)[1].lower() not in _SUFFIXES:
                continue
            path = os.path.join(where, name)
            if (file := state_of(path)) is not None:
                relative = os.path.relpath(path, root)
                found.files[relative] = File(relative, *file)
    return found


def _unvisited(
    where: bytes, folders: list[bytes], visited: set[tuple[int, int]]
) -> Iterator[bytes]:
    if not visited:
        told = os.stat(where)
        visited.add((told.st_dev, told.st_ino))
    for name in folders:
        if name.startswith(b"."):
            continue
        try:
            told = os.stat(os.path.join(where, name))
        except OSError:
            continue  # a link to nothing
        if (told.st_dev, told.st_ino) not in visited:
            visited.add((told.st_dev, told.st_ino))
            yield name


def state_of(path: bytes) -> tuple[int, int] | None:
    """(size, time in ns) of a regular file; None where there is none."""
    try:
        told = os.stat(path)
    except OSError:
        return None
    return (told.st_size, told.st_mtime_ns) if stat.S_ISREG(told.st_mode) else None


def compare(found: Scan, known: Mapping[bytes, File], *, retry: bool = False) -> Differences:
    """What is there with what was known. retry: look again at what could not be heard."""
    pending, same, unreadable = [], 0, 0
    for path, file in found.files.items():
        old = known.get(path)
        settled = old is not None and (old.size, old.mtime_ns) == (file.size, file.mtime_ns)
        if settled and old is not None and old.content is not None:
            same += 1
        elif settled and old is not None and old.reason is not None and not retry:
            unreadable += 1
        else:
            pending.append(file)
    gone = [
        file for path, file in known.items()
        if path not in found.files and not _below(path, found.blocked)
    ]  # fmt: skip
    return Differences(pending, gone, same, unreadable)


def _below(path: bytes, folders: Mapping[bytes, str]) -> bool:
    return any(path.startswith(folder + os.fsencode(os.sep)) for folder in folders)


def digest_of(path: bytes) -> bytes:
    """The SHA-256 of a file's bytes. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
