"""Files at an address (s3://, https://, gs://, memory:// ...) through fsspec: bytes of a part of
one, asked for again after a pause where the store fails for a moment.

Credentials and endpoints are fsspec's own business: its configuration and the environment.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from echoic.types import DataError, first_line

log = logging.getLogger("echoic.data")

T = TypeVar("T")

_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # before each further try
_TIMEOUT_S = 60.0  # of one try
_BLOCK_BYTES = 4 * 2**20
_SCHEME = re.compile(r"((?:\w+::)*)([a-z][a-z0-9+.-]+):/+(.+)")  # of two letters: C:/ is a drive
_LOCAL = ("file", "local")
# What stores raise beside OSError, by the module that has it; looked up only once it is loaded.
_FOREIGN = {
    "aiohttp": "ClientError",
    "botocore.exceptions": "BotoCoreError",
    "gcsfs.retry": "HttpError",
}
_PASSING = (408, 425, 429)  # of the answers 4xx, those that a later try may mend
_MARKS = ("ETag", "etag", "md5Hash", "Last-Modified", "LastModified", "mtime", "updated", "created")


def place_of(path: str | os.PathLike[str]) -> Path | str:
    """A path on this machine, or an address as a str, also where `Path` has made s3:/x of s3://x."""
    spelt = re.fullmatch(_SCHEME, os.fspath(path))
    if spelt is None:
        return Path(path)
    chain, scheme, rest = spelt.groups()
    if scheme in _LOCAL and not chain:
        return Path(f"/{rest}")
    return f"{chain}{scheme}://{rest}"


def tars_at(url: str, listed: str) -> list[RemoteFile]:
    """The tars of an address: one, `x-{000..127}.tar`, or a folder, by its file `listed` of names
    or as the store lists it. Raises DataError."""
    if url.partition("?")[0].endswith(".tar"):
        return [RemoteFile(each) for each in _expanded(url)]
    folder = url.rstrip("/")
    names = _listed(RemoteFile(f"{folder}/{listed}"))
    if names is None:
        names = RemoteFile(folder).tars_in()
    if not names:
        raise DataError(f"{url}: no .tar in it, and no {listed} that names some")
    return [RemoteFile(f"{folder}/{name}") for name in names]


def _expanded(url: str) -> list[str]:
    span = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", url)
    if span is None:
        return [url]
    before, first, last, after = span.groups()
    numbers = range(int(first), int(last) + 1)
    return [f"{before}{number:0{len(first)}d}{after}" for number in numbers]


def _listed(file: RemoteFile) -> list[str] | None:
    try:
        names = list(json.loads(file.whole()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: not readable as JSON ({error})") from None
    return [name for name in names if isinstance(name, str) and "/" not in name]


class RemoteFile:
    """One file of a store. Its methods raise OSError, with `strerror` in plain words, when further
    tries did not help; FileNotFoundError at once.

    pauses_s: before each further try.
    """

    def __init__(self, url: str, *, pauses_s: tuple[float, ...] = _PAUSES_S) -> None:
        self.url, self.pauses_s = url, pauses_s
        path = PurePosixPath(url.partition("?")[0])
        self.name, self.stem = path.name, path.stem

    def __str__(self) -> str:
        return self.url.partition("?")[0]  # what follows may be a signature

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from `start` on; fewer where the file ends before."""
        if not size:
            return b""
        raw: bytes = self._again("cat_file", start=start, end=start + size)
        if len(raw) > size:
            raise OSError(errno.EIO, "its server gives whole files only, no parts")
        return raw

    def whole(self) -> bytes:
        return bytes(self._again("cat_file"))

    def stamp(self) -> dict[str, Any]:
        """Its size, and the mark that the store gives a new version."""
        info = self._again("info")
        mark = next((str(info[name]) for name in _MARKS if info.get(name)), "")
        if not isinstance(info.get("size"), int):
            raise OSError(errno.EIO, "its server does not say how long it is")
        return {"size": info["size"], "mark": mark}

    def tars_in(self) -> list[str]:
        """Names of the tars in this folder."""
        try:
            entries = self._again("ls", detail=False)
        except OSError as error:
            raise DataError(f"{self}: cannot be listed ({error.strerror})") from None
        names = {PurePosixPath(str(entry)).name for entry in entries}
        return sorted(name for name in names if name.endswith(".tar"))

    def open(self, size: int) -> io.BufferedReader:
        """To be read from front to back, a few MB at a time."""
        return io.BufferedReader(_Blocks(self, size), _BLOCK_BYTES)

    def _again(self, method: str, **options: Any) -> Any:
        return again(lambda: self._ask(method, options), str(self), self.pauses_s)

    def _ask(self, method: str, options: dict[str, Any]) -> Any:
        store, path = _store(self.url)
        if not store.async_impl:
            return getattr(store, method)(path, **options)
        from fsspec.asyn import sync

        # a server that says nothing more would else be waited for
        work = getattr(store, f"_{method}")
        return sync(store.loop, work, path, timeout=_TIMEOUT_S, **options)


class _Blocks(io.RawIOBase):
    def __init__(self, file: RemoteFile, size: int) -> None:
        self._file, self._size, self._at = file, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._at))
        raw = self._file.read(self._at, wanted)
        buffer[: len(raw)] = raw
        self._at += len(raw)
        return len(raw)


def again(work: Callable[[], T], name: str, pauses_s: tuple[float, ...]) -> T:
    """What `work` gives, tried again after each pause. Raises OSError."""
    for pause_s in pauses_s:
        try:
            return work()
        except _failures() as error:
            if _lasting(error):
                raise _told(error) from error
            log.info("%s: %s; again in %g s", name, first_line(error), pause_s)
        # not all ranks at once
        time.sleep(pause_s * (1 + os.urandom(1)[0] / 256))
    try:
        return work()
    except _failures() as error:
        raise _told(error, len(pauses_s) + 1) from error


def _failures() -> tuple[type[Exception], ...]:
    loaded = ((sys.modules.get(module), name) for module, name in _FOREIGN.items())
    return (OSError, *(getattr(module, name) for module, name in loaded if module is not None))


def _true(error: Exception) -> Exception:
    """fsspec's HTTP calls any failure to learn a file's size "not found", with the truth as its
    cause."""
    cause = error.__cause__
    return cause if cause is not None and isinstance(cause, _failures()) else error


def _lasting(error: Exception) -> bool:
    status = getattr(_true(error), "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in _PASSING
    gone = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    return isinstance(_true(error), gone)


def _told(error: Exception, tries: int = 1) -> OSError:
    error = _true(error)
    if isinstance(error, FileNotFoundError) or getattr(error, "status", None) == 404:
        return FileNotFoundError(errno.ENOENT, "no such file there")
    kind = PermissionError if isinstance(error, PermissionError) else OSError
    status = getattr(error, "status", None)
    if isinstance(status, int):
        said = f"answer {status}"  # what else it says has the address, signature and all
    else:
        said = "no answer in time" if isinstance(error, TimeoutError) else first_line(error)
    return kind(errno.EIO, f"{said}, {tries} times" if tries > 1 else said)


def _store(url: str) -> tuple[Any, str]:
    scheme = url.partition(":")[0]
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)  # the same object for the same store
    except ImportError as error:
        need = "pip install 'echoic[remote]'"
        raise DataError(f"{scheme}://: {first_line(error)}; {need}") from None
    except ValueError as error:
        raise DataError(f"{scheme}://: no such kind of address ({first_line(error)})") from None
