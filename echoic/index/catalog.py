"""What an index knows beside its vectors: files, what was heard in them, tags, captions. One SQLite
file in WAL mode.

    contents    what was heard, by the SHA-256 of a file's bytes: its rows of the vectors
    files       where it lies: path, size, time, and its content or why it cannot be heard
    tags, captions, words    what is said of a content; `words` finds captions by their words
    state       how many rows count, and in which generation of the vector files

What counts is what stands here. Of a batch the vectors are on the disk first, then this commits; a
kill between leaves rows that do not count. Copies of a sound share their content, and one that is
moved, or comes back, is not heard again. Paths are bytes below the folder, as names on a disk need
not be text.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from echoic.audio.io import AudioInfo
from echoic.data.sqlite_errors import SQLITE_ERRORS, meaning
from echoic.index.vectors import DamagedError
from echoic.types import DataError, EchoicError

FILE_NAME = "catalog.sqlite"
_PATIENCE_S = 60.0

_LAYOUT = (
    "CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER)",
    "CREATE TABLE IF NOT EXISTS contents (id INTEGER PRIMARY KEY, hash BLOB UNIQUE, "
    "first INTEGER, count INTEGER, duration_s REAL, rate_hz INTEGER, channels INTEGER, "
    "format TEXT, captioned INTEGER DEFAULT 0)",
    "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, "
    "content INTEGER, reason TEXT)",
    "CREATE INDEX IF NOT EXISTS files_by_content ON files (content)",
    "CREATE TABLE IF NOT EXISTS tags (content INTEGER, tag TEXT COLLATE NOCASE, "
    "PRIMARY KEY (content, tag))",
    "CREATE TABLE IF NOT EXISTS captions (id INTEGER PRIMARY KEY, content INTEGER, start_s REAL, "
    "stop_s REAL, text TEXT, source TEXT)",
    "CREATE INDEX IF NOT EXISTS captions_by_content ON captions (content)",
)
_WORDS = "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text)"
_NUMBER = "typeof({}) IN ('real', 'integer')"
# A row each of what no writing of ours puts there.
_STRANGE = (
    f"SELECT 1 FROM state WHERE typeof(value) != 'integer' OR value NOT BETWEEN 0 AND {2**62}",
    "SELECT 1 FROM contents WHERE NOT (typeof(hash) = 'blob' AND length(hash) = 32 "
    "AND typeof(first) = 'integer' AND typeof(count) = 'integer' AND first >= 0 AND count > 0 "
    "AND first <= (SELECT max(value) FROM state WHERE name = 'rows') - count "
    f"AND (duration_s IS NULL OR {_NUMBER.format('duration_s')}))",
    "SELECT 1 FROM files WHERE NOT (typeof(path) = 'blob' AND typeof(size) = 'integer' "
    "AND typeof(mtime_ns) = 'integer' AND typeof(content) IN ('integer', 'null'))",
    "SELECT 1 FROM tags WHERE typeof(tag) != 'text' OR typeof(content) != 'integer'",
    f"SELECT 1 FROM captions WHERE NOT ({_NUMBER.format('start_s')} "
    f"AND {_NUMBER.format('stop_s')} AND typeof(text) = 'text' AND typeof(source) = 'text')",
)


class State(NamedTuple):
    """rows: how many count. generation: of the vector files. revision: of all that is here."""

    rows: int = 0
    generation: int = 1
    revision: int = 0


@dataclass(frozen=True)
class File:
    """A sound on the disk. path: below the folder. content: its id, None where it has none."""

    path: bytes
    size: int
    mtime_ns: int
    content: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Caption:
    """Said of a content from `start_s` to `stop_s`."""

    start_s: float
    stop_s: float
    text: str


class Catalog:
    """Raises DataError where the file cannot be opened, DamagedError where its pages disagree."""

    def __init__(self, folder: Path, *, writes: bool) -> None:
        self.path = folder / FILE_NAME
        with self.guarded():
            self._db = _connected(self.path, writes=writes)
            try:
                if writes:
                    _lay_out(self._db)
                asked = "SELECT name FROM sqlite_master WHERE name = 'words'"
                self.has_words = bool(self._db.execute(asked).fetchone())
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """What SQLite refuses, in the words of the house."""
        try:
            yield
        except SQLITE_ERRORS as error:
            match meaning(error):
                case "damaged":
                    raise DamagedError(f"{self.path}: {error}") from None
                case "refused":
                    raise DataError(f"{self.path}: cannot be used ({error})") from None
            raise

    @contextmanager
    def change(self) -> Iterator[None]:
        """All that is done within, or, if the process is killed now, nothing."""
        with self.guarded():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.set_state(revision=self.state().revision + 1)
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.DatabaseError):
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is asked within is answered as of one moment."""
        with self.guarded():
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    def ask(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        with self.guarded():
            return self._db.execute(question, values).fetchall()

    def do(self, order: str, rows: Iterable[Sequence[object]]) -> None:
        """Within `change`."""
        self._db.executemany(order, rows)

    def whole(self) -> bool:
        """Whether SQLite finds nothing wrong, and every value is one that could be written."""
        try:
            sound = self.ask("PRAGMA quick_check(1)") == [("ok",)]
            return sound and not any(self.ask(f"{each} LIMIT 1") for each in _STRANGE)
        except DamagedError:
            return False

    # -- state ------------------------------------------------------------------------------------

    def state(self) -> State:
        held = dict(self.ask("SELECT name, value FROM state"))
        found = State(**{name: held[name] for name in State._fields if name in held})
        if not all(isinstance(value, int) and value >= 0 for value in found):
            raise DamagedError(f"{self.path}: its state is {tuple(found)}")
        return found

    def set_state(self, **values: int) -> None:
        """Within `change`."""
        self.do("INSERT OR REPLACE INTO state VALUES (?, ?)", values.items())

    # -- contents ---------------------------------------------------------------------------------

    def content_of(self, digest: bytes) -> int | None:
        found = self.ask("SELECT id FROM contents WHERE hash = ?", digest)
        return int(found[0][0]) if found else None

    def add_content(self, digest: bytes, first: int, count: int, info: AudioInfo) -> int:
        """Within `change`; its id."""
        told = (info.duration_s, info.rate_hz, info.channels, info.format)
        row = self._db.execute(
            "INSERT INTO contents (hash, first, count, duration_s, rate_hz, channels, format) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
            (digest, first, count, *told),
        ).fetchone()
        return int(row[0])

    def drop_contents(self, ids: Sequence[int]) -> None:
        """Within `change`; their files are to be heard again."""
        keys = [(i,) for i in ids]
        self.do("DELETE FROM contents WHERE id = ?", keys)
        self.do("UPDATE files SET content = NULL, reason = NULL WHERE content = ?", keys)
        self.do("DELETE FROM tags WHERE content = ?", keys)
        for i in ids:
            self._drop_captions("content = ?", i)

    # -- files ------------------------------------------------------------------------------------

    def files(self) -> dict[bytes, File]:
        asked = "SELECT path, size, mtime_ns, content, reason FROM files"
        return {bytes(row[0]): File(bytes(row[0]), *row[1:]) for row in self.ask(asked)}

    def put_files(self, files: Iterable[File]) -> None:
        """Within `change`."""
        self.do(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
            ((f.path, f.size, f.mtime_ns, f.content, f.reason) for f in files),
        )

    def drop_files(self, paths: Iterable[bytes]) -> None:
        """Within `change`."""
        self.do("DELETE FROM files WHERE path = ?", ((path,) for path in paths))

    # -- what is said -----------------------------------------------------------------------------

    def put_tags(self, content: int, tags: Iterable[str]) -> None:
        """Within `change`."""
        self.do("INSERT OR IGNORE INTO tags VALUES (?, ?)", ((content, tag) for tag in tags))

    def put_captions(self, content: int, captions: Iterable[Caption], *, source: str) -> None:
        """Within `change`; in place of those of the same source."""
        self._drop_captions("content = ? AND source = ?", content, source)
        for each in captions:
            row = self._db.execute(
                "INSERT INTO captions (content, start_s, stop_s, text, source) "
                "VALUES (?, ?, ?, ?, ?) RETURNING id",
                (content, each.start_s, each.stop_s, each.text, source),
            ).fetchone()
            if self.has_words:
                self.do("INSERT INTO words (rowid, text) VALUES (?, ?)", [(row[0], each.text)])

    def _drop_captions(self, which: str, *values: object) -> None:
        gone = self.ask(f"SELECT id FROM captions WHERE {which}", *values)
        if self.has_words:
            self.do("DELETE FROM words WHERE rowid = ?", gone)
        self.do("DELETE FROM captions WHERE id = ?", gone)

    def captions(self, content: int) -> list[Caption]:
        asked = "SELECT start_s, stop_s, text FROM captions WHERE content = ? ORDER BY start_s, id"
        found = [Caption(*row) for row in self.ask(asked, content)]
        if not all(_is_said(each) for each in found):
            raise DamagedError(f"{self.path}: captions that are no texts")
        return found

    def saying(self) -> str:
        """A condition on captions.id with one value: that they hold some words (`said`)."""
        if self.has_words:
            return "captions.id IN (SELECT rowid FROM words WHERE words MATCH ?)"
        return "captions.text LIKE ? ESCAPE '\\'"

    def said(self, text: str) -> str:
        """What `saying` takes for all words of a text, in any place; without FTS5 for the text.
        Raises EchoicError where it has none."""
        words = text.replace("\0", " ").split()  # FTS5 ends a text at a zero byte
        if not words:
            raise EchoicError("search: the words to look for in captions are empty")
        if self.has_words:
            return " ".join('"' + word.replace('"', '""') + '"' for word in words)
        escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        return f"%{escaped}%"


def _is_said(told: Caption) -> bool:
    times = told.start_s, told.stop_s
    return isinstance(told.text, str) and all(isinstance(each, int | float) for each in times)


def _connected(path: Path, *, writes: bool) -> sqlite3.Connection:
    """Where the folder cannot be written to there is no log beside the file, and none is needed."""
    sealed = "&immutable=1" if not writes and not os.access(path.parent, os.W_OK) else ""
    place = f"{path.absolute().as_uri()}?mode={'rwc' if writes else 'ro'}{sealed}"
    return sqlite3.connect(place, uri=True, timeout=_PATIENCE_S, isolation_level=None)


def _lay_out(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # a commit is on the disk: rows count from here on
    for table in _LAYOUT:
        db.execute(table)
    try:
        db.execute(_WORDS)
    except sqlite3.OperationalError as error:
        if "fts5" not in str(error):
            raise  # else this SQLite lacks it, and captions are found by LIKE
