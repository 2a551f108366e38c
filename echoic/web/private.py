"""A folder for the files of this process alone, which goes when the process does: at its end, or,
where it was killed, when the next one begins."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import IO

PREFIX = "echoic-web-"
_LOCK = "lock"


class PrivateFolder:
    """Only this user may look into it."""

    def __init__(self) -> None:
        remove_left()
        self._held = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
        self.path = Path(self._held.name)
        self._lock = _locked(self.path / _LOCK, make=True)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
        self._held.cleanup()


def remove_left() -> None:
    """What killed processes left: folders whose lock nobody holds."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        lock = _locked(folder / _LOCK, make=False)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()


def _locked(path: Path, *, make: bool) -> IO[bytes] | None:
    """None where another process holds it, it is another user's, or there are no such locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        file = path.open("wb" if make else "rb+")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
