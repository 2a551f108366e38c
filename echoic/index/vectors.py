"""The vectors of an index on disk: files that only grow.

    vectors-G.f16   (n, D) float16 unit vectors, row after row
    rows-G.bin      (n,) of 64 bytes each: which content, which window of it, a checksum of both

A row is whole or not at all: both files are written and on the disk before the catalogue counts it
(catalog.py), and what lies beyond its count, left by a kill, is cut off. So the files alone tell
again all that was heard, should the catalogue be lost. G counts how often they were written anew
without the rows that are no longer wanted; whoever reads the old ones goes on reading them.

n rows, D width, k hits.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from echoic.index.lists import Lists, forget_beyond
from echoic.types import DataError

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

ROW = np.dtype([
    ("content", "u1", 32), ("start_s", "<f8"), ("stop_s", "<f8"),
    ("place", "<u4"), ("count", "<u4"), ("spare", "<u4"), ("crc", "<u4"),
])  # fmt: skip
_TOLD = ROW.itemsize - 4  # bytes of a row that its checksum covers
_BLOCK = 65_536
_CHECKED = 4096  # rows at once
# Of unit vectors: a query in float16 and a product rounded to float16, 2**-11 each.
_ROUNDING = 2.0**-10


@dataclass(frozen=True)
class Heard:
    """What was heard in one content: vectors (w, D) of its windows, and their times (w, 2) in s."""

    content: bytes
    vectors: npt.NDArray[np.float16]
    times_s: npt.NDArray[np.float64]


class Vectors(Protocol):
    """Where the vectors of an index lie. Rows are numbered from 0, by the catalogue."""

    def add(self, first: int, heard: Sequence[Heard]) -> None:
        """Row `first` and those after it. On the disk when this returns; again is no harm."""
        ...

    def cut(self, rows: int) -> None:
        """Forget the rows from `rows` on: what a kill left, that the catalogue doesn't count."""
        ...

    def delete(self, spans: Sequence[tuple[int, int]]) -> None:
        """Rows from, up to, that nothing wants any more; their numbers stay empty."""
        ...

    def top_k(self, query: Floats, k: int, only: Mask | None = None) -> tuple[Rows, Floats]:
        """The k rows with the largest cosines, best first, and these. only: (n,) which count."""
        ...

    def times(self, rows: Rows) -> npt.NDArray[np.float64]:
        """(len(rows), 2) start and stop in s. Raises DataError where a row is damaged."""
        ...


class RowFiles:
    """Vectors in the two files of a generation. rows: how many of them count. Raises DamagedError
    where they are shorter than that, DataError where the disk refuses."""

    def __init__(self, folder: Path, generation: int, dim: int, rows: int) -> None:
        self.folder, self.generation, self.dim, self.rows = folder, generation, dim, rows
        self.vectors_path = folder / f"vectors-{generation}.f16"
        self.rows_path = folder / f"rows-{generation}.bin"
        self._map(rows)
        self._lists: Lists | None = None
        self._looked_for_lists = False

    def require_files(self) -> None:
        """Raises DamagedError where the files became shorter than what is mapped of them: to read
        there would end the process (SIGBUS)."""
        _require(self.vectors_path, self.vectors.nbytes)
        _require(self.rows_path, self.told.nbytes)

    def _map(self, rows: int) -> None:
        self.vectors = _mapped(self.vectors_path, np.dtype("<f2"), (rows, self.dim))
        self.told = _mapped(self.rows_path, ROW, (rows,))
        self.rows = rows

    # -- writing ----------------------------------------------------------------------------------

    def add(self, first: int, heard: Sequence[Heard]) -> None:
        vectors = np.concatenate([each.vectors for each in heard]).astype("<f2")
        told = _rows(heard, vectors)
        with disk(self.folder):
            _write_at(self.vectors_path, first * self.dim * 2, vectors.tobytes())
            _write_at(self.rows_path, first * ROW.itemsize, told.tobytes())
        self._map(first + len(told))

    def cut(self, rows: int) -> None:
        sizes = ((self.vectors_path, rows * self.dim * 2), (self.rows_path, rows * ROW.itemsize))
        with disk(self.folder):
            for path, size in sizes:
                if not path.exists():
                    path.touch()
                if path.stat().st_size > size:
                    os.truncate(path, size)
            forget_beyond(self.folder, self.generation, rows)
        self._map(rows)
        self._lists, self._looked_for_lists = None, False

    def delete(self, spans: Sequence[tuple[int, int]]) -> None:
        """They go when the files are written anew (store.py)."""

    # -- checking ---------------------------------------------------------------------------------

    def damaged(self) -> Rows:
        """Of all: the rows whose checksum disagrees."""
        bad: list[int] = []
        for start in range(0, self.rows, _CHECKED):
            stop = min(start + _CHECKED, self.rows)
            bad += self._damaged(np.arange(start, stop))
        return np.array(bad, np.int64)

    def _damaged(self, rows: Rows) -> list[int]:
        told, vectors = self.told[rows], np.ascontiguousarray(self.vectors[rows])
        found = _checksums(told, vectors)
        return [int(row) for row in rows[found != told["crc"]]]

    def times(self, rows: Rows) -> npt.NDArray[np.float64]:
        if self._damaged(rows):
            raise DataError(
                f"{self.folder}: the index is damaged (a vector does not agree with its checksum); "
                "echoic index with --check finds what is, and hears it again"
            )
        told = self.told[rows]
        return np.stack([told["start_s"], told["stop_s"]], axis=1)

    # -- finding ----------------------------------------------------------------------------------

    @property
    def lists(self) -> Lists | None:
        """The short way to the largest cosines, where it was built."""
        if not self._looked_for_lists:
            self._lists = Lists.open(self.folder, self.generation, self.dim, self.rows)
            self._looked_for_lists = True
        return self._lists

    def build_lists(self, texts: torch.Tensor | None = None) -> None:
        """texts: (Q, D) vectors such as will be asked. Raises DataError where the disk refuses."""
        with disk(self.folder):
            self._lists = Lists.build(self.folder, self.generation, self.vectors, texts)
        self._looked_for_lists = True

    def top_k(
        self, query: Floats, k: int, only: Mask | None = None, *, exact: bool = False
    ) -> tuple[Rows, Floats]:
        """By way of the lists where there are some, most rows count and enough are met there; else,
        or where `exact`, of all rows that count."""
        few = only is not None and int(only.sum()) < len(only) / 2
        lists = None if exact or few else self.lists
        if lists is not None:
            rows = np.concatenate([
                lists.candidates(query, k, only), self._likely(query, k, lists.rows, only)
            ])  # fmt: skip
            if len(rows) >= k:
                return self._best(query, k, rows)
        return self._best(query, k, self._likely(query, k, 0, only))

    def _best(self, query: Floats, k: int, rows: Rows) -> tuple[Rows, Floats]:
        """Of `rows`, by cosines summed in float64; of equal ones the first."""
        rows, asked = np.sort(rows), torch.from_numpy(query)
        if not len(rows):
            return rows, np.empty(0, np.float32)
        cosines = (torch.from_numpy(self.vectors[rows]).double() @ asked.double()).numpy()
        best = np.argsort(-cosines, kind="stable")[:k]
        return rows[best], cosines[best].astype(np.float32)

    def _likely(self, query: Floats, k: int, first: int, only: Mask | None) -> Rows:
        """From row `first` on, all that can be among the k best, by products in float16 (summed in
        float32) and what rounding can hide."""
        half = torch.from_numpy(query).half()
        found = [
            (rows, (torch.from_numpy(block) @ half).float())
            for rows, block in self._blocks(first, only)
        ]
        if not found:
            return np.empty(0, np.int64)
        rows = np.concatenate([rows for rows, _ in found])
        scores = torch.cat([products for _, products in found])
        if len(rows) <= k:
            return rows
        least = float(scores.topk(k, sorted=True).values[-1]) - 2 * _ROUNDING
        return rows[(scores >= least).numpy()]

    def _blocks(self, first: int, only: Mask | None) -> Iterator[tuple[Rows, Any]]:
        for start in range(first, self.rows, _BLOCK):
            stop = min(start + _BLOCK, self.rows)
            if only is None:
                yield np.arange(start, stop), self.vectors[start:stop]
                continue
            rows = np.flatnonzero(only[start:stop]) + start
            if len(rows):
                yield rows, self.vectors[rows]


def _rows(heard: Sequence[Heard], vectors: npt.NDArray[np.float16]) -> npt.NDArray[Any]:
    told = np.zeros(len(vectors), ROW)
    at = 0
    for each in heard:
        some = told[at : at + len(each.vectors)]
        some["content"] = np.frombuffer(each.content, np.uint8)
        some["start_s"], some["stop_s"] = each.times_s.T
        some["place"], some["count"] = np.arange(len(some)), len(some)
        at += len(some)
    told["crc"] = _checksums(told, vectors)
    return told


def _checksums(told: npt.NDArray[Any], vectors: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """(n,), each of what a row is told and its vector."""
    raw = told.tobytes()
    size = ROW.itemsize
    sums = (
        zlib.crc32(raw[i * size : i * size + _TOLD], zlib.crc32(vector.data))
        for i, vector in enumerate(vectors)
    )
    return np.fromiter(sums, np.uint32, len(vectors))


def _mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The beginning of a file, read as it is asked for. Raises DamagedError where it is shorter."""
    wanted = math.prod(shape) * dtype.itemsize
    if not wanted:
        return np.empty(shape, dtype)
    _require(path, wanted)
    # "c": never written to the file, but torch takes only what could be written to
    return np.memmap(path, dtype, "c", shape=shape)


def _require(path: Path, wanted: int) -> None:
    """Raises DamagedError where a file is shorter."""
    held = path.stat().st_size if path.exists() else 0
    if held < wanted:
        raise DamagedError(f"{path} holds {held} bytes of {wanted}")


def _write_at(path: Path, offset: int, raw: bytes) -> None:
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(offset)
        file.write(raw)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


class DamagedError(DataError):
    """A part of an index that is not what it was written as."""


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """Raises DataError where the disk refuses."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror}); what was done before is kept, the "
            "same command goes on from there"
        ) from None
