"""The indexed folder as the page sees it: hits, files by the digest of their bytes, a map.

No path comes from the page: a file is known by its content's SHA-256, and is served only while it
is the one that was indexed (size and time as then). So a link is followed where it was followed
when it was indexed, to what it led to then; led elsewhere since, it is refused.

What `echoic index` writes meanwhile is seen by the next question. D width, n contents.
"""

from __future__ import annotations

import os
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from echoic.api import EchoicModel
from echoic.index import Hit, Index, Where
from echoic.index.catalog import FILE_NAME, Catalog
from echoic.index.store import Store, index_folder, is_index, read_description
from echoic.index.vectors import DamagedError, RowFiles
from echoic.types import DataError, EchoicError
from echoic.web.errors import RefusedError, unknown
from echoic.web.play import Playable

_WINDOWS = 8  # of a recording, that its place on the map is the middle of
_KEPT = 8
# what became a pipe since is not waited for
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class IndexedFile:
    """digest: of its bytes, in hex. path: below the folder, in bytes."""

    digest: str
    path: bytes
    size: int
    mtime_ns: int
    duration_s: float
    format: str

    @property
    def shown(self) -> str:
        return shown(self.path)

    @property
    def name(self) -> str:
        return self.shown.rpartition("/")[2]


def shown(path: bytes) -> str:
    """With / between its parts; what is no text as U+FFFD."""
    return path.replace(os.fsencode(os.sep), b"/").decode("utf-8", "replace")


@dataclass(frozen=True)
class Point:
    file: IndexedFile
    x: float
    y: float


@dataclass(frozen=True)
class Map:
    """explained: the share of the variance along x and y. points: (n,)."""

    explained: tuple[float, float]
    points: tuple[Point, ...]


class Folder:
    """place: a folder of sounds, or an index. `search` and `map` belong to one thread."""

    def __init__(self, place: str | os.PathLike[str], model: EchoicModel) -> None:
        self.index = index_folder(place)
        self._place, self._model = Path(place), model
        self._opened: tuple[object, Index] | None = None
        self._maps: OrderedDict[object, Map] = OrderedDict()

    @property
    def there(self) -> bool:
        return is_index(self.index)

    @property
    def sounds(self) -> Path:
        """Raises DataError."""
        return Path(read_description(self.index).sounds)

    def named(self) -> list[str]:
        """The folders that no answer may name."""
        held = {self._place, self._place.absolute(), self._place.resolve(), self.index.absolute()}
        with suppress(DataError):
            held.add(self.sounds)
        return [str(place) for place in held if place.name]

    # -- what is there ----------------------------------------------------------------------------

    def told(self) -> dict[str, Any] | None:
        """Of /api/info; None where there is no index. Raises DataError."""
        if not self.there:
            return None
        with self._readable() as catalog, catalog.snapshot():
            asked = (
                "SELECT count(*), coalesce(sum(duration_s), 0) FROM files "
                "JOIN contents ON contents.id = files.content"
            )
            files, seconds = catalog.ask(asked)[0]
            captions = bool(catalog.ask("SELECT 1 FROM captions LIMIT 1"))
        name = self.sounds.name or "sounds"
        return {"name": name, "files": files, "hours": seconds / 3600, "captions": captions}

    def find(self, digest: str) -> IndexedFile:
        """Raises RefusedError where the index has no such file, or none that is as it was."""
        if not self.there:
            raise unknown("file")
        with self._readable() as catalog:
            known = _files(catalog, "contents.hash = ?", bytes.fromhex(digest))
        if not known:
            raise unknown("file")
        for file in known:
            if self._as_indexed(file):
                return file
        raise changed(known[0])

    def _as_indexed(self, file: IndexedFile) -> bool:
        try:
            self.open(file).close()
        except RefusedError:
            return False
        return True

    def open(self, file: IndexedFile) -> BinaryIO:
        """Raises RefusedError where it is no longer what was indexed."""
        path = os.path.join(os.fsencode(self.sounds), file.path)
        try:
            held = os.open(path, _READ)
        except OSError:
            raise changed(file) from None
        told = os.fstat(held)  # before fdopen, which refuses a folder and leaves it open
        if (told.st_size, told.st_mtime_ns) != (file.size, file.mtime_ns):
            os.close(held)
            raise changed(file)
        return os.fdopen(held, "rb")

    def playable(self, file: IndexedFile) -> Playable:
        return Playable(lambda: self.open(file), file.shown, file.duration_s)

    @contextmanager
    def _readable(self) -> Iterator[Catalog]:
        """Anew for each question, so that it is that of now. Raises DataError."""
        if not (self.index / FILE_NAME).exists():
            raise DataError("the index is empty; echoic index goes on with it")
        with _whole(), closing(Catalog(self.index, writes=False)) as catalog:
            yield catalog

    # -- questions --------------------------------------------------------------------------------

    def search(self, where: Where, **asked: Any) -> list[tuple[Hit, IndexedFile]]:
        """As Index.search; hits with their files. Raises DataError, EchoicError."""
        root = os.fsencode(self.sounds)
        with _whole():
            hits = self._fresh().search(where=where, **asked)
        found = []
        with self._readable() as catalog:
            for hit in hits:
                path = os.path.relpath(os.fsencode(hit.path), root)
                if known := _files(catalog, "files.path = ?", path):
                    found.append((hit, known[0]))
        return found

    def map(self, count: int) -> Map:
        """The place of up to `count` recordings, evenly drawn from all, along the first two
        principal components of their vectors. Raises DataError."""
        with _whole(), Store(self.index) as store, store.catalog.snapshot():
            key = (self._stamp(), store.catalog.state().revision, count)
            if key not in self._maps:
                self._maps[key] = _mapped(store, count)
                while len(self._maps) > _KEPT:
                    self._maps.popitem(last=False)
            return self._maps[key]

    def _fresh(self) -> Index:
        """Opened anew where the files of the index were put in place of others."""
        stamp = self._stamp()
        if self._opened is None or self._opened[0] != stamp:
            self.close()
            self._opened = stamp, Index.open(self.index, model=self._model)
        return self._opened[1]

    def _stamp(self) -> object:
        if not self.there:
            raise DataError("this folder has no index; make one: echoic index FOLDER")
        described = os.stat(self.index / "index.json")
        try:
            catalog = os.stat(self.index / FILE_NAME).st_ino
        except FileNotFoundError:
            catalog = 0
        return described.st_ino, described.st_mtime_ns, catalog

    def close(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None


def changed(file: IndexedFile) -> RefusedError:
    return RefusedError(
        410, f"{file.shown}: is not what was indexed any more; echoic index brings it up to date"
    )


@contextmanager
def _whole() -> Iterator[None]:
    """Raises DataError where the index is not."""
    try:
        yield
    except (DamagedError, sqlite3.DatabaseError) as error:
        raise DataError(
            f"the index is damaged ({error}); to mend it: echoic index FOLDER"
        ) from None


def _files(catalog: Catalog, condition: str, value: object) -> list[IndexedFile]:
    asked = (
        "SELECT hash, path, size, mtime_ns, duration_s, format FROM files "
        f"JOIN contents ON contents.id = files.content WHERE {condition} ORDER BY path"
    )
    return [
        IndexedFile(bytes(digest).hex(), bytes(path), *rest)
        for digest, path, *rest in catalog.ask(asked, value)
    ]


def _mapped(store: Store, count: int) -> Map:
    vectors = store.vectors
    if not isinstance(vectors, RowFiles):
        raise EchoicError("the map needs an index that keeps its vectors in files of its own")
    held = store.catalog.ask(
        "SELECT contents.id, min(first), min(count) FROM files "
        "JOIN contents ON contents.id = files.content WHERE count > 0 GROUP BY contents.id"
    )
    drawn = [held[i] for i in _spread(0, len(held), count)]
    if not drawn:
        return Map((0.0, 0.0), ())
    rows = [_spread(first, n, _WINDOWS) for _, first, n in drawn]
    vectors.times(np.concatenate(rows))  # raises on one that is not what was written
    middles = np.stack([vectors.vectors[each].astype(np.float32).mean(0) for each in rows])
    places, explained = principal(torch.from_numpy(middles))
    points = []
    for (content, _, _), (x, y) in zip(drawn, places.tolist(), strict=True):
        points.append(Point(_files(store.catalog, "contents.id = ?", content)[0], x, y))
    return Map(explained, tuple(points))


def _spread(first: int, count: int, most: int) -> npt.NDArray[np.int64]:
    """Up to `most` of `count` numbers from `first` on, evenly."""
    some = min(count, most)
    return first + np.arange(some) * count // max(some, 1)


def principal(vectors: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """(n, D) -> (n, 2) along the first two principal components, each turned so that its largest
    part is positive; and their shares of the variance."""
    centred = vectors.double() - vectors.double().mean(0)
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    axes, lengths = axes[:2], lengths.square()
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    places = centred @ (axes * signs).T
    total = float(lengths.sum()) or 1.0
    places = torch.nn.functional.pad(places, (0, 2 - places.shape[1]))
    shares = [float(x) / total for x in lengths[:2]] + [0.0, 0.0]
    return places, (shares[0], shares[1])
