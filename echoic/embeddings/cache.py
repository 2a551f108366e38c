"""The cache of vectors on disk: one SQLite file for all models.

SQLite because a kill, several processes at once and deletion are what it is good at. Beside it
nothing is trusted: each vector carries a checksum of itself and of what it is the vector of.

D width.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from echoic.api import EchoicModel
from echoic.data.files import cache_folder, made_folder
from echoic.data.sqlite_errors import SQLITE_ERRORS, meaning
from echoic.embeddings.keys import Kind, made_by
from echoic.types import DataError

log = logging.getLogger("echoic.embeddings")

FILE_NAME = "vectors-1.sqlite"  # another number: another layout, which leaves this file alone
LIMIT_BYTES = 4 * 2**30
AT_ONCE = 256  # vectors between two writes: what a kill loses at most
_PATIENCE_S = 60.0  # for another process that writes

_LAYOUT = (
    "CREATE TABLE IF NOT EXISTS spaces (space BLOB PRIMARY KEY, made_by TEXT, used_s REAL)",
    "CREATE TABLE IF NOT EXISTS vectors (space BLOB, content BLOB, start INTEGER, length INTEGER, "
    "samples INTEGER, vector BLOB, checksum BLOB, PRIMARY KEY (space, content, start, length))",
    "CREATE TABLE IF NOT EXISTS files (place TEXT PRIMARY KEY, state TEXT, content BLOB)",
)


class Part(NamedTuple):
    """Samples [start, start + length) of a sound; zeros where it ends earlier."""

    start: int
    length: int


class VectorCache:
    """The vectors in a folder, shared by whatever processes have it open.

    found, made: vectors that were asked for and were there, and that had to be computed.
    limit_bytes: of the file. Where it is reached, other spaces go, those used longest ago first;
    where there is no other, nothing more is kept.

    A damaged file is told in one line and begun anew. A disk that refuses is told in one line too:
    from then on all is computed. Raises DataError where the folder or the file cannot be made.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, limit_bytes: int = LIMIT_BYTES
    ) -> None:
        self.folder, _ = made_folder(cache_folder() if folder is None else folder)
        self.path, self.found, self.made = self.folder / FILE_NAME, 0, 0
        self._limit, self._told_once = limit_bytes, set[str]()
        self._db: sqlite3.Connection | None = None
        with self._guarded(opening=True):
            self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def space(self, model: EchoicModel, kind: Kind) -> Space | None:
        """Where vectors of that kind of the model are kept; None where they hang on chance."""
        if kind != "text" and model.listening.draw is not None:
            return None
        space = Space(self, made_by(model, kind))
        with self._guarded():
            if self._db is not None:
                with self._db as db:
                    used = "UPDATE spaces SET used_s = ? WHERE space = ?"
                    db.execute(used, (time.time(), space.name))
        return space

    def content_of(self, place: str, state: str) -> bytes | None:
        """What was found in a file that had this state."""
        rows = self.ask("SELECT content FROM files WHERE place = ? AND state = ?", place, state)
        return rows[0][0] if rows and isinstance(rows[0][0], bytes) else None

    def write(
        self, space: Space, vectors: Sequence[Entry], files: Mapping[str, tuple[str, bytes]]
    ) -> None:
        """All of them or, if the process is killed now, none."""
        before = self._db
        self._insert(space, vectors, files)
        if self._db is not before:  # it was damaged, and is begun anew
            self._insert(space, vectors, files)

    def _insert(
        self, space: Space, vectors: Sequence[Entry], files: Mapping[str, tuple[str, bytes]]
    ) -> None:
        with self._guarded():
            if (db := self._db) is not None and self._has_room(db, space):
                with db:
                    db.execute(
                        "INSERT OR REPLACE INTO spaces VALUES (?, ?, ?)",
                        (space.name, space.made_by, time.time()),
                    )
                    db.executemany(
                        "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (space.row(entry) for entry in vectors),
                    )
                    db.executemany(
                        "INSERT OR REPLACE INTO files VALUES (?, ?, ?)",
                        ((place, *told) for place, told in files.items()),
                    )

    def tell_once(self, line: str) -> None:
        if line not in self._told_once:
            self._told_once.add(line)
            log.warning("%s: %s", self.path, line)

    def ask(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        with self._guarded():
            if self._db is not None:
                return self._db.execute(question, values).fetchall()
        return []

    def _connect(self) -> None:
        self._db = sqlite3.connect(self.path, timeout=_PATIENCE_S, isolation_level="IMMEDIATE")
        for table in _LAYOUT:
            self._db.execute(table)

    @contextmanager
    def _guarded(self, *, opening: bool = False) -> Iterator[None]:
        try:
            yield
        except SQLITE_ERRORS as error:
            match meaning(error):
                case "damaged":
                    self.tell_once(f"the cache is damaged ({error}) and is begun anew")
                    self._begin_anew()
                case "refused":
                    self.close()
                    if opening:
                        raise DataError(f"{self.path}: cannot be opened ({error})") from None
                    self.tell_once(f"the cache cannot be used ({error}); all is computed")
                case None:
                    raise

    def _begin_anew(self) -> None:
        """Whoever has the old file open may go on with it: checksums keep a mixture from harm."""
        self.close()
        try:
            for path in (self.path, self.path.with_name(f"{FILE_NAME}-journal")):
                path.unlink(missing_ok=True)
            self._connect()
        except (OSError, sqlite3.DatabaseError) as error:
            self.close()
            raise DataError(
                f"{self.path}: is damaged, and cannot be begun anew ({error})"
            ) from None

    def _has_room(self, db: sqlite3.Connection, space: Space) -> bool:
        while _bytes_in_use(db) > self._limit:
            asked = "SELECT space FROM spaces WHERE space != ? ORDER BY used_s LIMIT 1"
            oldest = db.execute(asked, (space.name,)).fetchone()
            if oldest is None:
                self.tell_once(f"the cache has {self._limit / 2**30:.3g} GiB and takes no more")
                return False
            with db:
                for table in ("vectors", "spaces"):
                    db.execute(f"DELETE FROM {table} WHERE space = ?", oldest)
        return True


def _bytes_in_use(db: sqlite3.Connection) -> int:
    """Without the pages of what was deleted, which are written to again."""
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


@contextmanager
def open_cache(
    folder: str | os.PathLike[str] | None = None, *, wanted: bool = True
) -> Iterator[VectorCache | None]:
    """The cache in `folder`; None: in the default one, and where that cannot be made, a warning and
    None. Raises DataError."""
    try:
        cache = VectorCache(folder) if wanted else None
    except DataError as error:
        if folder is not None:
            raise
        log.warning("%s; all is computed", error)
        cache = None
    with cache or nullcontext():
        yield cache


@dataclass(frozen=True)
class Entry:
    """The vector (D,) of a part of what `content` names, which is `samples` long."""

    content: bytes
    part: Part
    samples: int
    vector: Tensor


class Known(NamedTuple):
    """The vectors (D,) of the parts of a content, and how many samples it has, if any was heard."""

    samples: int | None
    vectors: dict[Part, Tensor]


class Space:
    """The vectors of one kind that one model makes under one set of circumstances."""

    def __init__(self, cache: VectorCache, made_by: str) -> None:
        self.cache, self.made_by = cache, made_by
        self.name = hashlib.sha256(made_by.encode()).digest()

    def known(self, contents: Sequence[bytes]) -> list[Known]:
        """Of each, in order: what the cache has of it."""
        found = {content: Known(None, {}) for content in contents}
        for start in range(0, len(contents), AT_ONCE):
            for row in self._rows(contents[start : start + AT_ONCE]):
                content, *place, samples, raw, checksum = row
                part = Part(*place)
                whole = all(isinstance(n, int) for n in (*part, samples)) and isinstance(raw, bytes)
                if whole and checksum == self._checksum(content, part, samples, raw):
                    vector = torch.from_numpy(np.frombuffer(raw, "<f4").astype(np.float32))
                    found[content] = Known(samples, found[content].vectors | {part: vector})
                else:
                    self.cache.tell_once("damaged vectors in the cache are computed anew")
        return [found[content] for content in contents]

    def _rows(self, contents: Sequence[bytes]) -> list[tuple[Any, ...]]:
        marks = ", ".join("?" * len(contents))
        return self.cache.ask(
            "SELECT content, start, length, samples, vector, checksum FROM vectors "
            f"WHERE space = ? AND content IN ({marks})",
            self.name,
            *contents,
        )

    def row(self, entry: Entry) -> tuple[object, ...]:
        raw = entry.vector.numpy().astype("<f4").tobytes()
        checksum = self._checksum(entry.content, entry.part, entry.samples, raw)
        return self.name, entry.content, *entry.part, entry.samples, raw, checksum

    def _checksum(self, content: bytes, part: Part, samples: int, raw: bytes) -> bytes:
        numbers = np.array([*part, samples], "<i8").tobytes()
        return hashlib.blake2b(self.name + content + numbers + raw, digest_size=16).digest()
