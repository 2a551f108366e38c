"""Are the tars of a folder those that were written: SHA256SUMS against their bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from echoic.data.remote import RemoteFile, place_of
from echoic.data.shard_writing import SUMS
from echoic.types import DataError

_BLOCK_BYTES = 8 * 2**20


def damaged_tars(path: str | os.PathLike[str], *, threads: int = 2) -> dict[str, str]:
    """Name -> what is wrong, of the files that the SHA256SUMS of a folder or an address names; {}
    also where there is no such list. Every byte is read. Raises DataError where the list cannot be
    read."""
    folder = place_of(path)
    listed = _listed(folder)
    with ThreadPoolExecutor(threads, thread_name_prefix="echoic-sums") as pool:
        found = pool.map(partial(_wrong, folder), listed, listed.values())
        return {name: why for name, why in zip(listed, found, strict=True) if why}


def _listed(folder: Path | str) -> dict[str, str]:
    """SHA-256 by name."""
    where = f"{str(folder).rstrip('/')}/{SUMS}"
    try:
        if isinstance(folder, Path):
            raw = (folder / SUMS).read_bytes()
        else:
            raw = RemoteFile(where).whole()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror})") from None
    listed = {}
    for line in raw.decode("utf-8", "replace").splitlines():
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name or not {"/", "\0"}.isdisjoint(name):
            raise DataError(f"{where}: not a list of SHA-256 and names: {line[:80]!r}")
        listed[name] = digest
    return listed


def _wrong(folder: Path | str, name: str, digest: str) -> str:
    found = hashlib.sha256()
    try:
        for block in _blocks(folder, name):
            found.update(block)
    except FileNotFoundError:
        return "not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if found.hexdigest() == digest else "not the bytes that were written (checksum)"


def _blocks(folder: Path | str, name: str) -> Iterator[bytes]:
    if isinstance(folder, Path):
        with (folder / name).open("rb") as file:
            yield from iter(partial(file.read, _BLOCK_BYTES), b"")
    else:
        remote = RemoteFile(f"{folder.rstrip('/')}/{name}")
        with remote.open(remote.stamp()["size"]) as file:
            yield from iter(partial(file.read, _BLOCK_BYTES), b"")
