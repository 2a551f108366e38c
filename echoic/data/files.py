"""Files that a kill leaves usable: those that are there whole or not at all, and one that grows by
pieces; and where what may be made anew is kept."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from echoic.types import DataError


def cache_folder() -> Path:
    """ECHOIC_CACHE if it is set, else `echoic` in the user's cache folder of this platform."""
    if named := os.environ.get("ECHOIC_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "echoic"


def is_file(path: Path) -> bool:
    """Whether there is such a file; of a name that none can have, as it is too long, no."""
    try:
        return path.is_file()
    except OSError:
        return False


def made_folder(path: str | os.PathLike[str]) -> tuple[Path, bool]:
    """The folder, made if it is not there, and whether it is empty but for what a stop left half
    written. Raises DataError."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return folder, all(file.name.endswith(".part") for file in folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be made a folder ({error.strerror})") from None


def write_whole(path: Path, content: str | bytes) -> None:
    """The file gets its name when it is on the disk. Raises DataError where the disk refuses."""
    raw = content.encode() if isinstance(content, str) else content
    scratch = path.with_name(f".{path.name}.part")
    try:
        with scratch.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which becomes `path` when all went well. Raises DataError
    naming `path`.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        beside.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            beside.unlink()


class GrowingFile:
    """A file written in pieces of one size: a kill at any moment costs the last piece at most.

    journal: a file with a line for each piece, the SHA-256 of all up to its end. What is there at
    the start and agrees with it is kept: `done_bytes`. Every byte has its place, so two runs at
    once, which write the same, do no harm. Raises DataError where the disk refuses.
    """

    _LINE = 65

    def __init__(self, path: Path, journal: Path, total_bytes: int, piece_bytes: int) -> None:
        self._path, self._journal_path = path, journal
        self._total, self._piece = total_bytes, piece_bytes
        self._digest, self.done_bytes, self._pieces = hashlib.sha256(), 0, 0

    def __enter__(self) -> Self:
        with self._disk():
            for path in (self._path, self._journal_path):
                path.touch()
            self._file = self._path.open("r+b")
            self._journal = self._journal_path.open("r+b")
            self._recover()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # closing writes what is left: a disk that was full refuses it again
        with suppress(OSError) if error is not None else nullcontext():
            self._file.close()
            self._journal.close()

    def _recover(self) -> None:
        for line in iter(lambda: self._journal.read(self._LINE), b""):
            raw = self._file.read(min(self._piece, self._total - self.done_bytes))
            digest = self._digest.copy()
            digest.update(raw)
            if not raw or line != self._line(digest):
                break
            self._counted(digest, len(raw))
        self._file.seek(self.done_bytes)
        self._journal.seek(self._pieces * self._LINE)

    def add(self, raw: bytes) -> None:
        digest = self._digest.copy()
        digest.update(raw)
        with self._disk():
            self._file.write(raw)
            self._file.flush()
            self._journal.write(self._line(digest))
            self._journal.flush()
        self._counted(digest, len(raw))

    def _counted(self, digest: Any, size: int) -> None:
        self._digest, self.done_bytes = digest, self.done_bytes + size
        self._pieces += 1

    @staticmethod
    def _line(digest: Any) -> bytes:
        return f"{digest.hexdigest()}\n".encode()

    def finished(self) -> dict[str, Any]:
        """Its `bytes` and `sha256`, once it is on the disk."""
        with self._disk():
            self._file.truncate(self._total)
            os.fsync(self._file.fileno())
        return {"bytes": self._total, "sha256": self._digest.hexdigest()}

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self._path}: cannot be written ({error.strerror}); make room and run again, it "
                "goes on from here"
            ) from None
