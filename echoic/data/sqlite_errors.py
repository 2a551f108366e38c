"""What SQLite's refusals mean for a file of ours."""

from __future__ import annotations

import sqlite3
from typing import Literal

_DAMAGED = {
    sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_SCHEMA,
    sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_CONSTRAINT,  # other tables
}  # fmt: skip
_REFUSED = {
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL,
}  # fmt: skip


# Python cannot always read what SQLite says of a damaged file, which quotes it.
SQLITE_ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)


def meaning(error: Exception) -> Literal["damaged", "refused"] | None:
    """Of SQLITE_ERRORS. damaged: the file is not as we wrote it. refused: by the disk, its rights
    or another process. None: a fault of ours."""
    if isinstance(error, UnicodeDecodeError):
        return "damaged"
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGED:
        return "damaged"
    return "refused" if code in _REFUSED else None
