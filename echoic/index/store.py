"""The folder of an index: its parts, who may write, and how it is mended.

    index.json          the space of its vectors, and how recordings are cut; written once
    catalog.sqlite      files, contents, captions (catalog.py)
    vectors-G.f16, rows-G.bin    (vectors.py), lists-G-N.npz, codes-G-N.i8 (lists.py)
    lock.sqlite         held by the one process that writes

Order of writes, which a kill at any moment leaves usable: index.json, whole, before all else; of a
batch the vectors, then their rows, then the catalogue that counts them; new vector files whole
before the catalogue names them, old ones removed after. At the start of a writing what does not
count is cut off. A catalogue that is damaged is set aside and made again of the rows, which say
what they are of; damaged rows are dropped, and their sounds heard again.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from echoic.audio.io import AudioInfo
from echoic.config import parse_json
from echoic.data.files import made_folder, write_whole
from echoic.data.sqlite_errors import SQLITE_ERRORS
from echoic.index.catalog import FILE_NAME as CATALOG
from echoic.index.catalog import Caption, Catalog
from echoic.index.lance import LanceVectors
from echoic.index.lists import LEAST_ROWS
from echoic.index.vectors import ROW, DamagedError, Heard, RowFiles, Rows, Vectors, disk
from echoic.types import DataError

log = logging.getLogger("echoic.index")

FOLDER_NAME = ".echoic"
_DESCRIPTION = "index.json"
_FORMAT = 1
_LOCK = "lock.sqlite"
_LARGEST = 86_400  # width of a vector, seconds of a window
_DEAD_SHARE, _DEAD_ROWS = 0.5, 1000  # from both on the rows are written anew
_NEW_SHARE = 0.25  # of rows in no list: from there on the lists are built anew
_AT_ONCE = 4096
_HAS_FILES = "EXISTS (SELECT 1 FROM files WHERE files.content = contents.id)"


@dataclass(frozen=True)
class Description:
    """space_id: of every vector. sounds: the folder that is indexed. window_s, hop_s: how a
    recording is cut. model: which heard it, as it was named. vectors: where, if not here."""

    space_id: str
    dim: int
    window_s: float
    hop_s: float
    sounds: str
    model: str | None = None
    vectors: str | None = None


def index_folder(place: str | os.PathLike[str]) -> Path:
    """The index that is meant by a folder: itself, or `.echoic` in it."""
    path = Path(place)
    return path if is_index(path) else path / FOLDER_NAME


def is_index(folder: Path) -> bool:
    """A folder of sounds may hold an index.json of another program."""
    written = any((folder / name).exists() for name in (_LOCK, CATALOG))
    return written and (folder / _DESCRIPTION).is_file()


def find_index(start: Path) -> Path | None:
    """That of the folder or of one above it."""
    for folder in (start, *start.absolute().parents):
        if is_index(found := folder / FOLDER_NAME):
            return found
    return None


def read_description(folder: Path) -> Description:
    """Raises DataError where there is no index, or one that cannot be read."""
    path = folder / _DESCRIPTION
    if not path.is_file():
        raise DataError(_no_index(folder))
    try:
        held = parse_json(path.read_text("utf-8"))
        if held.pop("format") != _FORMAT:
            raise DataError(f"{path}: of another version of echoic; remove {folder}, index again")
        return _checked(Description(**held))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({error}); remove {folder} and index again") from None


def _no_index(folder: Path) -> str:
    """The line where there is none, of the folder that was named."""
    named = folder
    while named.name == FOLDER_NAME:
        named = named.parent
    if not named.is_dir():
        return f"{named}: no index here: there is no such folder"
    sounds = "FOLDER" if named == folder else shlex.quote(str(named))
    return f"{named}: no index here; make one: echoic index {sounds}"


def _checked(told: Description) -> Description:
    """Raises ValueError on what no index can have."""
    texts = (told.space_id, told.sounds, told.model or "", told.vectors or "")
    numbers = (told.dim, told.window_s, told.hop_s)
    if not all(isinstance(each, str) and "\0" not in each for each in texts):
        raise ValueError("a name that is no text")
    os.fsencode(told.sounds)  # a path holds bytes of a disk, not any half of a character
    if not all(isinstance(each, int | float) and 0 < each <= _LARGEST for each in numbers):
        raise ValueError(f"sizes of {numbers}")
    if type(told.dim) is not int or told.hop_s > told.window_s:
        raise ValueError(f"sizes of {numbers}")
    return told


def write_description(folder: Path, told: Description) -> None:
    """Raises DataError where the disk refuses."""
    try:
        made_folder(folder)
    except DataError as error:
        raise DataError(f"{error}; name another place for the index with --out") from None
    write_whole(folder / _DESCRIPTION, json.dumps({"format": _FORMAT} | asdict(told), indent=1))


@contextmanager
def sole_writer(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """For one process at a time, and until it ends, however it ends. waiting: called once where
    another is at it. Raises DataError where the folder cannot be written to."""
    path, told = folder / _LOCK, False
    try:
        db = sqlite3.connect(path, timeout=0, isolation_level=None)
    except sqlite3.Error as error:
        raise DataError(f"{path}: cannot be written ({error})") from None
    with closing(db):
        while True:
            try:
                db.execute("BEGIN EXCLUSIVE")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise DataError(f"{path}: cannot be written ({error})") from None
            if not told:
                waiting()
                told = True
            time.sleep(0.2)
        yield


class Store:
    """An index's parts, opened for reading, or by its sole writer. Raises DataError."""

    def __init__(self, folder: Path, *, writes: bool = False) -> None:
        self.folder, self.writes = folder, writes
        self.about = read_description(folder)
        self.catalog = self._catalog()
        self._files: Vectors | None = None
        self._seen = -1

    def _catalog(self) -> Catalog:
        if not self.writes and not (self.folder / CATALOG).exists():
            raise DataError(f"{self.folder}: nothing is indexed yet; {self._mend()}")
        try:
            found = Catalog(self.folder, writes=self.writes)
            if self.writes and (wrong := self._wrong_with(found)):
                found.close()
                raise DamagedError(f"{self.folder / CATALOG}: {wrong}")
        except DamagedError as error:
            if not self.writes:
                raise self.told(error) from None
            found = self._made_again(error)
        return found

    def _wrong_with(self, catalog: Catalog) -> str | None:
        """A catalogue counts its rows before the first of them is written: one that counts none
        where there are some is a new one, and the old one is gone."""
        if not catalog.whole():
            return "pages or values that do not agree"
        if catalog.ask("SELECT 1 FROM state LIMIT 1"):
            return None
        if self._generations()[0][0]:
            return "is gone"
        with catalog.change():
            catalog.set_state(rows=0, generation=1)
        return None

    def _generations(self) -> list[tuple[int, int]]:
        """(rows, generation) of the vector files that are there, the longest first."""
        there = {1, *(int(p.stem.partition("-")[2]) for p in self.folder.glob("rows-*.bin"))}
        found = [(_whole_rows(self.folder, each, self.about.dim), each) for each in there]
        return sorted(found, reverse=True)

    def _mend(self) -> str:
        return f"echoic index {self.about.sounds!r} goes on with it"

    def told(self, error: DamagedError) -> DataError:
        """With the way out."""
        return DataError(
            f"{self.folder}: the index is damaged ({error}); to mend it, with what is whole: "
            f"echoic index {self.about.sounds!r}"
        )

    def close(self) -> None:
        self.catalog.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- vectors ----------------------------------------------------------------------------------

    @property
    def vectors(self) -> Vectors:
        """As they stand now. Raises DamagedError where files are missing or cut short."""
        state = self.catalog.state()
        if self._files is None or state.revision != self._seen:
            self._files = self._opened(state.generation, state.rows)
            self._seen = state.revision
        if isinstance(self._files, RowFiles) and not self.writes:
            self._files.require_files()
        return self._files

    def _opened(self, generation: int, rows: int) -> Vectors:
        if self.about.vectors is not None:
            return LanceVectors(self.about.vectors, self.about.dim, rows)
        held = self._files
        if isinstance(held, RowFiles) and (held.generation, held.rows) == (generation, rows):
            return held
        return RowFiles(self.folder, generation, self.about.dim, rows)

    def add(self, heard: Sequence[Heard], infos: Sequence[AudioInfo]) -> list[int]:
        """The vectors first, on the disk; within `catalog.change` of the caller then what counts
        them. Returns the contents' ids."""
        first = self.catalog.state().rows
        ids = []
        for each, info in zip(heard, infos, strict=True):
            ids.append(self.catalog.add_content(each.content, first, len(each.vectors), info))
            first += len(each.vectors)
        self.catalog.set_state(rows=first)
        return ids

    # -- mending ----------------------------------------------------------------------------------

    def prepare(self, *, check: bool = False) -> int:
        """For a writing: cut off what does not count, drop what is damaged. check: compare every
        row with its checksum. Returns how many contents have to be heard again."""
        state = self.catalog.state()
        try:
            files = self.vectors
        except DamagedError as error:
            rows = min(_whole_rows(self.folder, state.generation, self.about.dim), state.rows)
            told = self.catalog.ask("SELECT max(first + count) FROM contents")[0][0] or 0
            return self._drop(np.arange(rows, min(told, state.rows)), str(error), rows)
        files.cut(state.rows)
        remove_other_generations(self.folder, state.generation)
        bad = files.damaged() if check and isinstance(files, RowFiles) else np.empty(0, np.int64)
        if not len(bad):
            return 0
        reason = f"{len(bad)} vectors do not agree with their checksums"
        return self._drop(bad, reason, state.rows)

    def _drop(self, bad: Rows, reason: str, rows: int) -> int:
        """The contents that have these rows; after that `rows` rows count."""
        broken = self._contents_of(bad)
        log.warning(
            "%s: the index is damaged (%s); %d sounds are heard again, the rest is kept",
            self.folder,
            reason,
            len(broken),
        )
        with self.catalog.change():
            self.catalog.drop_contents(broken)
            self.catalog.set_state(rows=rows)
        self.vectors.cut(rows)
        return len(broken)

    def _contents_of(self, rows: Rows) -> list[int]:
        if not len(rows):
            return []
        found = self.catalog.ask("SELECT id, first, count FROM contents ORDER BY first")
        return [
            i for i, first, count in found
            if np.searchsorted(rows, first) < np.searchsorted(rows, first + count)
        ]  # fmt: skip

    def _made_again(self, error: DamagedError) -> Catalog:
        """A catalogue of what the rows say, and of the captions that can still be read; the files
        are found again by their contents."""
        path = self.folder / CATALOG
        aside = path.with_name(f"{CATALOG}.damaged")
        captions = _readable_captions(path)
        with disk(self.folder):
            if captions or not aside.exists():  # else what a kill during this left is not worth it
                path.replace(aside)
            for end in ("", "-wal", "-shm"):
                path.with_name(CATALOG + end).unlink(missing_ok=True)
        captions = captions or _readable_captions(aside)
        rows, generation = self._generations()[0]
        found = Catalog(self.folder, writes=True)
        with found.change():
            found.set_state(rows=rows, generation=generation)
            for digest, first, count, stop_s in self._whole_contents(generation, rows):
                unknown = AudioInfo(stop_s, 0, 0, "")
                content = found.add_content(digest, first, count, unknown)
                for source, said in captions.get(digest, {}).items():
                    found.put_captions(content, said, source=source)
        log.warning(
            "%s: the index is damaged (%s); made again of its %d vectors, the old catalogue is "
            "kept as %s.damaged", self.folder, error, rows, CATALOG,
        )  # fmt: skip
        return found

    def _whole_contents(
        self, generation: int, rows: int
    ) -> Iterator[tuple[bytes, int, int, float]]:
        """(hash, first row, how many, seconds) of each whose rows are all there and whole."""
        files = RowFiles(self.folder, generation, self.about.dim, rows)
        bad, done = set(files.damaged().tolist()), set[bytes]()
        row = 0
        while row < rows:
            told = files.told[row]
            count = int(told["count"])
            span = range(row, row + count)
            if row in bad or told["place"] != 0 or not count or row + count > rows:
                row += 1
                continue
            digest = told["content"].tobytes()
            if bad.isdisjoint(span) and digest not in done:
                done.add(digest)
                yield digest, row, count, float(files.told[span[-1]]["stop_s"])
            row += count

    # -- tidying ----------------------------------------------------------------------------------

    def tidy(self, texts: Callable[[], Tensor | None] = lambda: None) -> None:
        """After a writing: rows that nothing wants go once they are many; lists for many rows.
        texts: vectors (Q, D) of such words as will be asked, where they can be had."""
        gone = self.catalog.ask(f"SELECT id, first, count FROM contents WHERE NOT {_HAS_FILES}")
        dead, rows = sum(count for *_, count in gone), self.catalog.state().rows
        files = self.vectors
        if dead > max(_DEAD_ROWS, _DEAD_SHARE * rows):
            if isinstance(files, RowFiles):
                self._write_anew(files)
                files = self.vectors
            else:
                with self.catalog.change():
                    self.catalog.drop_contents([i for i, *_ in gone])
                files.delete([(first, first + count) for _, first, count in gone])
        if not isinstance(files, RowFiles):
            return
        listed = files.lists.rows if files.lists is not None else 0
        if files.rows >= LEAST_ROWS and files.rows - listed > _NEW_SHARE * files.rows:
            files.build_lists(texts())

    def _write_anew(self, old: RowFiles) -> None:
        """The rows of contents that have files, in the next generation of the files."""
        generation = old.generation + 1
        asked = "SELECT id, first, count FROM contents WHERE {} ORDER BY first"
        kept = self.catalog.ask(asked.format(_HAS_FILES))
        gone = self.catalog.ask(asked.format(f"NOT {_HAS_FILES}"))
        spans = [np.arange(first, first + count) for _, first, count in kept]
        order = np.concatenate(spans) if spans else np.empty(0, np.int64)
        paths = (f"vectors-{generation}.f16", f"rows-{generation}.bin")
        with disk(self.folder):
            for name, held in zip(paths, (old.vectors, old.told), strict=True):
                with (self.folder / name).open("wb") as file:
                    for start in range(0, len(order), _AT_ONCE):
                        file.write(held[order[start : start + _AT_ONCE]].tobytes())
                    file.flush()
                    os.fsync(file.fileno())
        with self.catalog.change():
            self.catalog.drop_contents([i for i, *_ in gone])
            first = 0
            for i, _, count in kept:
                self.catalog.do("UPDATE contents SET first = ? WHERE id = ?", [(first, i)])
                first += count
            self.catalog.set_state(rows=first, generation=generation)
        remove_other_generations(self.folder, generation)


def remove_other_generations(folder: Path, generation: int) -> None:
    """Files that the catalogue does not name; a reader that has them open keeps them."""
    for path in [*folder.glob("vectors-*.f16"), *folder.glob("rows-*.bin")]:
        if path.stem.partition("-")[2] != str(generation):
            path.unlink(missing_ok=True)
    for path in [*folder.glob("lists-*.npz"), *folder.glob("codes-*.i8")]:
        if path.name.split("-")[1] != str(generation):
            path.unlink(missing_ok=True)


def _whole_rows(folder: Path, generation: int, dim: int) -> int:
    """How many both files of a generation hold."""
    sizes = ((f"vectors-{generation}.f16", 2 * dim), (f"rows-{generation}.bin", ROW.itemsize))
    paths = [(folder / name, size) for name, size in sizes]
    return min(path.stat().st_size // size if path.exists() else 0 for path, size in paths)


def _readable_captions(path: Path) -> dict[bytes, dict[str, list[Caption]]]:
    """By content and source, what a damaged catalogue still says."""
    found: dict[bytes, dict[str, list[Caption]]] = {}
    with suppress(*SQLITE_ERRORS), closing(sqlite3.connect(path)) as db:
        asked = (
            "SELECT hash, source, start_s, stop_s, text FROM captions "
            "JOIN contents ON contents.id = captions.content WHERE typeof(hash) = 'blob' "
            "AND typeof(source) = 'text' AND typeof(text) = 'text' "
            "AND typeof(start_s) IN ('real', 'integer') AND typeof(stop_s) IN ('real', 'integer')"
        )
        for digest, source, *said in db.execute(asked):
            found.setdefault(digest, {}).setdefault(source, []).append(Caption(*said))
    return found
