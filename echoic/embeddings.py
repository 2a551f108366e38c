"""Vectors that were computed before: a cache on disk, so that a second evaluation does not listen
again.

A vector is known by what was heard (the SHA-256 of a file's bytes, or of samples), by which part of
it, and by all that made the vector: `_made_by`. It is one SQLite file for all models, because a
kill, several processes at once and deletion are what SQLite is good at. Beside it nothing is
trusted: each vector carries a checksum of itself and of what it is the vector of.

What is not kept: captions of a decoder, silence (so that it is told each time), what cannot be
heard, and what a model hears at random places.

N clips, T samples, D width.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache as cached_once
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeAlias, TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor

from echoic.api import EchoicModel
from echoic.convert.open import reads_tokens
from echoic.data.clips import SILENCE_PEAK, ConcatSource, RecaptionedSource, Source, SubsetSource
from echoic.data.files import made_folder
from echoic.data.shards import ShardSource
from echoic.data.sources import FileSource
from echoic.data.synth.corpus import SceneSource
from echoic.types import DataError

log = logging.getLogger("echoic.embeddings")

FILE_NAME = "vectors-1.sqlite"  # another number: another layout, which leaves this file alone
LIMIT_BYTES = 4 * 2**30
_AT_ONCE = 256  # vectors between two writes: what a kill loses at most
_PATIENCE_S = 60.0  # for another process that writes
_SETTLED_NS = 2 * 10**9  # a file changed later than this may change again within one tick of time

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REFUSED = {
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL,
}  # fmt: skip

_LAYOUT = (
    "CREATE TABLE IF NOT EXISTS spaces (space BLOB PRIMARY KEY, made_by TEXT, used_s REAL)",
    "CREATE TABLE IF NOT EXISTS vectors (space BLOB, content BLOB, start INTEGER, length INTEGER, "
    "samples INTEGER, vector BLOB, checksum BLOB, PRIMARY KEY (space, content, start, length))",
    "CREATE TABLE IF NOT EXISTS files (place TEXT PRIMARY KEY, state TEXT, content BLOB)",
)

# What computes a vector from a sound or a text: files of this package, and packages.
_CODE = (
    "audio", "nn", "encoders", "towers", "data/synth", "types.py", "model.py", "listening.py",
    "items.py", "api.py", "embeddings.py",
)  # fmt: skip
_PACKAGES = ("numpy", "soundfile", "soxr", "torch", "transformers", "av")

Kind: TypeAlias = Literal["clip", "probe", "text"]


class Part(NamedTuple):
    """Samples [start, start + length) of a sound; zeros where it ends earlier."""

    start: int
    length: int


def cut(wave: np.ndarray, part: Part) -> np.ndarray:
    """(T,) -> (part.length,)."""
    piece = wave[part.start : part.start + part.length]
    lacking = part.length - len(piece)
    return np.pad(piece, (0, lacking)) if lacking else piece


def default_folder() -> Path:
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


# -- the file ------------------------------------------------------------------------------------


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
        self.folder, _ = made_folder(default_folder() if folder is None else folder)
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
        space = Space(self, _made_by(model, kind))
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
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _DAMAGED:
                self.tell_once(f"the cache is damaged ({error}) and is begun anew")
                self._begin_anew()
            elif code in _REFUSED:
                self.close()
                if opening:
                    raise DataError(f"{self.path}: cannot be opened ({error})") from None
                self.tell_once(f"the cache cannot be used ({error}); all is computed")
            else:
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


class Space:
    """The vectors of one kind that one model makes under one set of circumstances."""

    def __init__(self, cache: VectorCache, made_by: str) -> None:
        self.cache, self.made_by = cache, made_by
        self.name = hashlib.sha256(made_by.encode()).digest()

    def known(self, content: bytes) -> tuple[int | None, dict[Part, Tensor]]:
        """How many samples it has, if any part of it was heard; and the vectors (D,) of these."""
        length: int | None = None
        found: dict[Part, Tensor] = {}
        for start, size, samples, raw, checksum in self.cache.ask(
            "SELECT start, length, samples, vector, checksum FROM vectors "
            "WHERE space = ? AND content = ?",
            self.name,
            content,
        ):
            whole_row = all(isinstance(n, int) for n in (start, size, samples))
            part = Part(start, size)
            if (
                whole_row
                and isinstance(raw, bytes)
                and checksum == self._checksum(content, part, samples, raw)
            ):
                length = samples
                found[part] = torch.from_numpy(np.frombuffer(raw, "<f4").astype(np.float32))
            else:
                self.cache.tell_once("damaged vectors in the cache are computed anew")
        return length, found

    def row(self, entry: Entry) -> tuple[object, ...]:
        raw = entry.vector.numpy().astype("<f4").tobytes()
        checksum = self._checksum(entry.content, entry.part, entry.samples, raw)
        return self.name, entry.content, *entry.part, entry.samples, raw, checksum

    def _checksum(self, content: bytes, part: Part, samples: int, raw: bytes) -> bytes:
        numbers = np.array([*part, samples], "<i8").tobytes()
        return hashlib.blake2b(self.name + content + numbers + raw, digest_size=16).digest()


def _made_by(model: EchoicModel, kind: Kind) -> str:
    """All that a vector hangs on beside what is heard, as JSON."""
    return json.dumps(
        {
            "kind": kind,
            "space": model.space_id,
            "long": model.listening.name,
            "precision": model.precision,
            "device": model.device.type,
            "code": _code(),
            "packages": _packages(),
        },
        sort_keys=True,
    )


@cached_once
def _code() -> str:
    """Of the sources that compute vectors: whoever changes them must not meet the old ones."""
    root, digest = Path(__file__).parent, hashlib.sha256()
    for name in _CODE:
        place = root / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0")
            digest.update(file.read_bytes())
    return digest.hexdigest()


@cached_once
def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


# -- what is heard -------------------------------------------------------------------------------

Parts: TypeAlias = Callable[[int, int], Sequence[Part]]
Read: TypeAlias = Callable[[int], np.ndarray | None]


def whole(i: int, samples: int) -> Sequence[Part]:
    """All of a clip, as the only part."""
    return (Part(0, samples),)


def hear_parts(
    model: EchoicModel,
    source: Source,
    indices: Iterable[int],
    read: Read,
    *,
    parts: Parts = whole,
    kind: Literal["clip", "probe"] = "clip",
    cache: VectorCache | None = None,
) -> tuple[list[tuple[int, Part]], Tensor]:
    """(clip, part) of each row, in order, and the vectors (rows, D): by `embed_audio` ("clip") or
    `probe_vectors` ("probe"), or from the cache.

    read: clip i at the model's rate, (T,), or None where it cannot be heard and is left out; not
    called for a clip whose vectors are there. parts: clip i and its T samples -> which parts of it;
    called once for each clip, in order.
    """
    listen = model.embed_audio if kind == "clip" else model.probe_vectors
    space = None if cache is None else cache.space(model, kind)
    run = _Hearing(source, model.rate_hz, read, parts, space)
    waves, at_once = run.waves(indices), None if space is None else _AT_ONCE
    while run.took(listen(islice(waves, at_once))) == at_once:
        pass
    return run.rows, run.stacked()


def unheard(model: EchoicModel, source: Source, cache: VectorCache | None) -> list[int]:
    """The clips that `hear_parts` would have to read to hear them whole."""
    space = None if cache is None else cache.space(model, "clip")
    run = _Hearing(source, model.rate_hz, lambda i: None, whole, space)
    return [i for i in range(len(source.clips)) if not run.knows(i)]


@dataclass(frozen=True)
class _Name:
    """What a clip is known by before it is read. path, state: of its file. place: what the cache
    has the content under. content: None where only the samples can tell."""

    content: bytes | None = None
    place: str | None = None
    path: Path | None = None
    state: str | None = None


@dataclass
class _Sound:
    """A clip in its turn. known: the parts of it whose vectors are there. wave: (T,), once read."""

    name: _Name
    content: bytes | None
    samples: int
    known: Mapping[Part, Tensor]
    wave: np.ndarray | None = None


class _Hearing:
    """One pass over a source: what is known of it, and what the model is asked for."""

    def __init__(
        self, source: Source, rate_hz: int, read: Read, parts: Parts, space: Space | None
    ) -> None:
        self.rows: list[tuple[int, Part]] = []
        self._source, self._rate_hz, self._space = source, rate_hz, space
        self._read, self._parts = read, parts
        self._vectors: dict[int, Tensor] = {}  # by row
        self._asked: list[tuple[int, bytes | None, int]] = []  # row, content to keep it by, samples
        self._files: dict[str, tuple[str, bytes]] = {}

    def waves(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Of the parts that the model has to hear."""
        for i in indices:
            sound = self._sound(i)
            if sound is None:
                continue
            parts = self._parts(i, sound.samples)
            if not all(part in sound.known for part in parts) and sound.wave is None:
                sound.wave = self._read(i)
                if sound.wave is None:
                    continue
            yield from self._lacking(i, sound, parts)

    def took(self, vectors: Tensor) -> int:
        """What the model made of the waves asked for since the last call: is kept. How many."""
        entries = []
        for (row, content, samples), vector in zip(self._asked, vectors, strict=True):
            self._vectors[row] = vector
            if content is not None:
                entries.append(Entry(content, self.rows[row][1], samples, vector))
        if self._space is not None:
            cache = self._space.cache
            cache.made += len(self._asked)
            if entries or self._files:
                cache.write(self._space, entries, self._files)
        count = len(self._asked)
        self._asked, self._files = [], {}
        return count

    def stacked(self) -> Tensor:
        """(rows, D); (0,) of none."""
        rows = [self._vectors[row] for row in range(len(self.rows))]
        return torch.stack(rows) if rows else torch.empty(0)

    def knows(self, i: int) -> bool:
        """Whether clip i, whole, need not be read."""
        content = self._name(i).content
        if self._space is None or content is None:
            return False
        samples, known = self._space.known(content)
        return samples is not None and Part(0, samples) in known

    def _lacking(self, i: int, sound: _Sound, parts: Sequence[Part]) -> Iterator[np.ndarray]:
        changed = sound.wave is not None and sound.name.state != _state(sound.name.path)
        for part in parts:
            row = len(self.rows)
            self.rows.append((i, part))
            if part in sound.known:
                self._vectors[row] = sound.known[part]
                if self._space is not None:
                    self._space.cache.found += 1
                continue
            assert sound.wave is not None
            wave = cut(sound.wave, part)
            keep = not changed and not _is_silent(wave)
            self._asked.append((row, sound.content if keep else None, sound.samples))
            yield wave

    def _sound(self, i: int) -> _Sound | None:
        """None of a clip that cannot be heard."""
        name = self._name(i)
        content, known = name.content, dict[Part, Tensor]()
        if self._space is not None and content is not None:
            samples, known = self._space.known(content)
            if samples is not None:
                return _Sound(name, content, samples, known)
        wave = self._read(i)
        if wave is None:
            return None
        if self._space is not None and content is None:
            content = hashlib.sha256(np.ascontiguousarray(wave, "<f4").data).digest()
            _, known = self._space.known(content)
            self._note(name, content)
        return _Sound(name, content, len(wave), known, wave)

    def _name(self, i: int) -> _Name:
        if self._space is None:
            return _Name()
        source, i = _located(self._source, i)
        if _is(source, SceneSource):
            return _Name(hashlib.sha256(repr(source.scenes[i]).encode()).digest())
        if _is(source, FileSource):
            path = Path(os.path.abspath(source.paths[i]))
            name = self._placed(path, str(path))
            return name if name.content or not name.state else self._hashed(name)
        if _is(source, ShardSource):
            tar = Path(os.path.abspath(source.tars[i]))
            return self._placed(tar, json.dumps([str(tar), source.clips[i].key, self._rate_hz]))
        return _Name()

    def _placed(self, path: Path, place: str) -> _Name:
        """Known by its file, and by what was found there before, if the file is still the same."""
        state = _state(path)
        if state is None or self._space is None:
            return _Name()
        return _Name(self._space.cache.content_of(place, state), place, path, state)

    def _hashed(self, name: _Name) -> _Name:
        assert name.path is not None
        try:
            with name.path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return _Name()  # reading it as sound says why
        self._note(name, content)
        return replace(name, content=content)

    def _note(self, name: _Name, content: bytes) -> None:
        if name.place is not None and name.state is not None and _has_settled(name.state):
            self._files[name.place] = (name.state, content)


Of = TypeVar("Of", bound=Source)


def _is(source: Source, kind: type[Of]) -> TypeGuard[Of]:
    """One that reads in a way of its own is something else."""
    return isinstance(source, kind) and type(source).read is kind.read


def _located(source: Source, i: int) -> tuple[Source, int]:
    """A clip of a view in the source that it comes from."""
    while True:
        if _is(source, SubsetSource):
            i = source.indices[i]
            source = source.source
        elif _is(source, RecaptionedSource):
            source = source.source
        elif _is(source, ConcatSource):
            for part in source.sources:
                if i < len(part.clips):
                    break
                i -= len(part.clips)
            source = part
        else:
            return source, i


def _state(path: Path | None) -> str | None:
    """Changes with the content of a file: which it is, its size, and its times in ns."""
    if path is None:
        return None
    try:
        told = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(told.st_mode):
        return None
    return json.dumps([told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns])


def _has_settled(state: str) -> bool:
    return time.time_ns() - max(json.loads(state)[-2:]) > _SETTLED_NS


def _is_silent(wave: np.ndarray) -> bool:
    return not np.any(np.abs(wave) >= SILENCE_PEAK)


# -- what is read --------------------------------------------------------------------------------


def read_texts(
    model: EchoicModel, texts: Sequence[str], cache: VectorCache | None = None
) -> Tensor:
    """(n, D) as `model.embed_text`, from the cache where they are there: known by their token ids.
    A model that reads vectors of sentences computes them each time."""
    ids_known = model.reads == "words" and reads_tokens(model.network.spec)
    space = cache.space(model, "text") if cache is not None and ids_known else None
    if space is None or not texts:
        return model.embed_text(texts)
    ids = [np.array(row, "<i8") for row in model.tokenizer(list(texts))]
    contents = [hashlib.sha256(row.data).digest() for row in ids]
    found = {content: _text_vector(space, content) for content in dict.fromkeys(contents)}
    lacking = {c: i for i, c in enumerate(contents) if found[c] is None}
    space.cache.found += len(found) - len(lacking)
    space.cache.made += len(lacking)
    for start in range(0, len(lacking), _AT_ONCE):
        some = list(lacking.items())[start : start + _AT_ONCE]
        vectors = model.embed_text([texts[i] for _, i in some])
        found.update((content, vector) for (content, _), vector in zip(some, vectors, strict=True))
        entries = [
            Entry(content, Part(0, len(ids[i])), len(ids[i]), vector)
            for (content, i), vector in zip(some, vectors, strict=True)
        ]
        space.cache.write(space, entries, {})
    return torch.stack([vector for c in contents if (vector := found[c]) is not None])


def _text_vector(space: Space, content: bytes) -> Tensor | None:
    return next(iter(space.known(content)[1].values()), None)
