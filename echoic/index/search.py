"""Finding recordings in an index: by words, by sounds, by both, away from others, among some.

A query is one direction, the weighted sum of unit vectors: of the words, of the example, and less
that of what is not wanted. Its cosines with the windows rank these; a recording stands where its
best window does, and shows its best moments.

D width, n rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echoic.index.catalog import Caption, Catalog
from echoic.index.store import Store
from echoic.index.vectors import DamagedError, Floats, Mask, Rows
from echoic.types import EchoicError

MOMENTS = 3
_DAYS = date(1678, 1, 1), date(2262, 1, 1)  # that 64 bits of nanoseconds hold
_ROWS_PER_FILE = 8  # how many windows are looked for at first, for each recording wanted


@dataclass(frozen=True)
class Where:
    """Which recordings count. folder: below the indexed one. min_s, max_s: their length. since,
    until: days of the file's time, both included. formats: such as wav, flac. tags: all of them.
    caption: words that one of their captions holds."""

    folder: str | None = None
    min_s: float | None = None
    max_s: float | None = None
    since: date | None = None
    until: date | None = None
    formats: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    caption: str | None = None

    def conditions(self, catalog: Catalog) -> tuple[str, list[object]]:
        """SQL on files joined with contents, and its values. Raises EchoicError."""
        parts: list[tuple[str, list[object]]] = [("files.content IS NOT NULL", [])]
        if self.folder is not None and (below := os.path.normpath(self.folder)) != ".":
            start = os.fsencode(below + os.sep)
            parts.append(("substr(files.path, 1, ?) = ?", [len(start), start]))
        if self.min_s is not None:
            parts.append(("duration_s >= ?", [self.min_s]))
        if self.max_s is not None:
            parts.append(("duration_s <= ?", [self.max_s]))
        if self.since is not None:
            parts.append(("mtime_ns >= ?", [_midnight_ns(self.since)]))
        if self.until is not None:
            parts.append(("mtime_ns < ?", [_midnight_ns(self.until, days_later=1)]))
        if self.formats:
            marks = " OR ".join("format LIKE ? || '/%'" for _ in self.formats)
            parts.append((f"({marks})", [f.lower().lstrip(".") for f in self.formats]))
        for tag in self.tags:
            which = "EXISTS (SELECT 1 FROM tags WHERE tags.content = contents.id AND tag = ?)"
            parts.append((which, [tag]))
        if self.caption is not None:
            which = f"contents.id IN (SELECT content FROM captions WHERE {catalog.saying()})"
            parts.append((which, [catalog.said(self.caption)]))
        return " AND ".join(text for text, _ in parts), [v for _, held in parts for v in held]


def _midnight_ns(day: date, *, days_later: int = 0) -> int:
    within = min(max(day, _DAYS[0]), _DAYS[1]) + timedelta(days_later)
    return int(datetime.combine(within, time()).timestamp() * 1e9)


@dataclass(frozen=True)
class Moment:
    """From `start_s` to `stop_s` of a recording. cosine: None where only captions were asked for.
    caption: what is said of it, if anything."""

    start_s: float
    stop_s: float
    cosine: float | None
    caption: str | None = None


@dataclass(frozen=True)
class Hit:
    """A recording. path: with the indexed folder before it. cosine: of its best moment, which
    `moments` begins with. copies: other files that hold the same."""

    path: str
    cosine: float | None
    moments: tuple[Moment, ...]
    duration_s: float
    tags: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        moments = [
            {"start_s": m.start_s, "end_s": m.stop_s, "cosine": m.cosine, "caption": m.caption}
            for m in self.moments
        ]
        return {
            "file": self.path,
            "cosine": self.cosine,
            "duration_s": self.duration_s,
            "tags": list(self.tags),
            "copies": list(self.copies),
            "moments": moments,
        }


def direction(parts: Iterable[tuple[float, Tensor]]) -> Floats:
    """(D,) the unit vector of a weighted sum of unit vectors (D,). Raises EchoicError where nothing
    is asked for, or it cancels out."""
    weighted = [weight * vector.double() for weight, vector in parts]
    if not weighted:
        raise EchoicError("search: give words, an example or both")
    total = torch.stack(weighted).sum(0)
    length = float(total.norm())
    if not length > 1e-6:
        raise EchoicError("search: what is wanted and what is not cancel each other out")
    return (total / length).float().numpy()


class Finder:
    """Searches in a store; what a filter lets through is kept for the next search."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: tuple[tuple[int, Where], _Allowed] | None = None

    def find(
        self, query: Floats | None, *, top: int, where: Where | None = None, moments: int = MOMENTS
    ) -> list[Hit]:
        """The recordings with the best windows, best first. query: (D,) a unit vector; None: all
        that `where` lets through, by path. Raises DataError where the index is damaged."""
        with self._store.catalog.snapshot():
            allowed = self._allowed(where or Where())
            if query is None:
                return [allowed.hit(i, [], moments) for i in allowed.by_path(top)]
            found = self._best(allowed, query, top)
            return [allowed.hit(i, rows, moments) for i, rows in list(found.items())[:top]]

    def _allowed(self, where: Where) -> _Allowed:
        key = self._store.catalog.state().revision, where
        if self._kept is None or self._kept[0] != key:
            self._kept = key, _Allowed(self._store, where)
        return self._kept[1]

    def _best(
        self, allowed: _Allowed, query: Floats, top: int
    ) -> dict[int, list[tuple[int, float]]]:
        """(row, cosine) of the best windows by content, of `top` contents where there are so
        many."""
        wanted, count = min(top, len(allowed.ids)), top * _ROWS_PER_FILE
        while wanted:
            rows, cosines = self._store.vectors.top_k(query, count, allowed.mask)
            found: dict[int, list[tuple[int, float]]] = {}
            for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True):
                found.setdefault(allowed.content_of(row), []).append((row, cosine))
            if len(found) >= wanted or len(rows) < count:
                return found
            count *= 4
        return {}


class _Allowed:
    """The contents that count: ids, and which rows are theirs."""

    def __init__(self, store: Store, where: Where) -> None:
        self._store = store
        condition, self._values = where.conditions(store.catalog)
        self._which = f"FROM files JOIN contents ON contents.id = files.content WHERE {condition}"
        asked = f"SELECT DISTINCT contents.id, first, count {self._which} ORDER BY first"
        store.vectors  # noqa: B018 (raises where there are fewer rows than the catalogue counts)
        found, rows = store.catalog.ask(asked, *self._values), store.catalog.state().rows
        if not all(type(n) is int and 0 <= n < 2**62 for row in found for n in row):
            raise DamagedError(f"{store.catalog.path}: rows that are no numbers")
        held = np.array(found, np.int64).reshape(-1, 3)
        self.ids, self._firsts, counts = held.T
        if (self._firsts + counts > rows).any():
            raise DamagedError(f"{store.catalog.path}: sounds beyond its {rows} rows")
        self.mask = _mask(rows, self._firsts, counts)

    def content_of(self, row: int) -> int:
        return int(self.ids[np.searchsorted(self._firsts, row, "right") - 1])

    def by_path(self, top: int) -> list[int]:
        asked = f"SELECT contents.id {self._which} GROUP BY contents.id ORDER BY min(path) LIMIT ?"
        return [i for (i,) in self._store.catalog.ask(asked, *self._values, top)]

    def hit(self, content: int, rows: Sequence[tuple[int, float]], most: int) -> Hit:
        catalog = self._store.catalog
        asked = f"SELECT path, duration_s {self._which} AND contents.id = ? ORDER BY path"
        files = catalog.ask(asked, *self._values, content)
        duration_s, said = files[0][1], catalog.captions(content)
        if not isinstance(duration_s, int | float):
            raise DamagedError(f"{catalog.path}: a sound of {duration_s!r} s")
        if rows:
            moments = tuple(_apart(self._moments(rows, said), most))
        else:
            moments = tuple(
                Moment(c.start_s, min(c.stop_s, duration_s), None, c.text) for c in said[:most]
            )
        tags = catalog.ask("SELECT tag FROM tags WHERE content = ? ORDER BY tag", content)
        first, *copies = (self._name(path) for path, _ in files)
        best = moments[0].cosine if moments else None
        return Hit(first, best, moments, duration_s, tuple(t for (t,) in tags), tuple(copies))

    def _moments(
        self, rows: Sequence[tuple[int, float]], said: Sequence[Caption]
    ) -> tuple[Moment, ...]:
        times_s = self._store.vectors.times(np.array([row for row, _ in rows], np.int64))
        return tuple(
            Moment(start_s, stop_s, cosine, _said_in(said, start_s, stop_s))
            for (start_s, stop_s), (_, cosine) in zip(times_s.tolist(), rows, strict=True)
        )

    def _name(self, path: object) -> str:
        if not isinstance(path, bytes):
            raise DamagedError(f"{self._store.catalog.path}: a path that is {path!r}")
        return os.path.join(self._store.about.sounds, os.fsdecode(path))


def _mask(rows: int, firsts: Rows, counts: Rows) -> Mask | None:
    """(n,) the rows that count; None where all do."""
    if int(counts.sum()) == rows:
        return None
    steps = np.zeros(rows + 1, np.int8)
    np.add.at(steps, firsts, 1)
    np.add.at(steps, firsts + counts, -1)
    return np.cumsum(steps[:rows], dtype=np.int8).astype(np.bool_)


def _apart(moments: Sequence[Moment], most: int) -> list[Moment]:
    """The best of them that do not share more than half of their time, best first."""
    kept: list[Moment] = []
    for each in moments:
        shared = (min(k.stop_s, each.stop_s) - max(k.start_s, each.start_s) for k in kept)
        if len(kept) < most and max(shared, default=0.0) <= (each.stop_s - each.start_s) / 2:
            kept.append(each)
    return kept


def _said_in(captions: Sequence[Caption], start_s: float, stop_s: float) -> str | None:
    """The caption that says most of that time."""

    def shared(each: Caption) -> float:
        return min(each.stop_s, stop_s) - max(each.start_s, start_s)

    best = max(captions, key=shared, default=None)
    return best.text if best is not None and shared(best) > 0 else None
