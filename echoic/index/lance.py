"""Vectors in a table of LanceDB (the extra `index`): for more than one machine holds.

The same interface as the files of vectors.py, on a folder or an object store (s3://, gs://, az://),
read by as many machines as like. A version of the table is whole or not there; the catalogue beside
it, on the machine that indexes, says which rows count.

n rows, D width, k hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from echoic.index.vectors import Floats, Heard, Mask, Rows
from echoic.types import ConfigError, DataError, first_line

_TABLE = "windows"
_SPANS = 200  # of a filter in words; with more of them more is asked for, and filtered here


class LanceVectors:
    """place: as `lancedb.connect` takes it. rows: how many count. Raises ConfigError where LanceDB
    is not installed, DataError where the place cannot be used or holds rows of another width."""

    def __init__(self, place: str, dim: int, rows: int) -> None:
        try:
            import lancedb
            import pyarrow as pa
        except ImportError:
            raise ConfigError(
                f'{place}: vectors in LanceDB need pip install "echoic[index]"'
            ) from None
        self.place, self.dim, self.rows = place, dim, rows
        self._schema = pa.schema([
            ("row", pa.int64()), ("vector", pa.list_(pa.float16(), dim)),
            ("start_s", pa.float64()), ("stop_s", pa.float64()), ("content", pa.binary(32)),
        ])  # fmt: skip
        try:
            self._table = lancedb.connect(place).create_table(
                _TABLE, schema=self._schema, exist_ok=True
            )
        except (ValueError, RuntimeError, OSError) as error:  # another width, no such bucket, ...
            raise DataError(f"{place}: cannot be used by LanceDB ({first_line(error)})") from None

    def add(self, first: int, heard: Sequence[Heard]) -> None:
        import pyarrow as pa

        self.cut(first)
        vectors = np.concatenate([each.vectors for each in heard]).astype(np.float16)
        times_s = np.concatenate([each.times_s for each in heard])
        contents = [each.content for each in heard for _ in each.vectors]
        held = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.dim)
        rows = pa.array(np.arange(first, first + len(vectors)))
        columns = [rows, held, pa.array(times_s[:, 0]), pa.array(times_s[:, 1])]
        columns.append(pa.array(contents, pa.binary(32)))
        self._table.add(pa.Table.from_arrays(columns, schema=self._schema))
        self.rows = first + len(vectors)

    def cut(self, rows: int) -> None:
        if self._table.count_rows(f"row >= {rows}"):
            self._table.delete(f"row >= {rows}")
        self.rows = rows

    def delete(self, spans: Sequence[tuple[int, int]]) -> None:
        for start in range(0, len(spans), _SPANS):
            self._table.delete(_within(spans[start : start + _SPANS]))

    def build_index(self) -> None:
        """An approximate index for millions of rows; until then all are looked at."""
        self._table.create_index(metric="dot", vector_column_name="vector", replace=True)

    def top_k(self, query: Floats, k: int, only: Mask | None = None) -> tuple[Rows, Floats]:
        spans = [(0, self.rows)] if only is None else _spans(only)
        if not spans:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        filtered = len(spans) <= _SPANS
        condition = _within(spans if filtered else [(0, self.rows)])
        count = k
        while True:
            rows, cosines = self._nearest(query, count, condition)
            good = np.ones(len(rows), np.bool_) if filtered or only is None else only[rows]
            if good.sum() >= k or len(rows) < count:
                return rows[good][:k], cosines[good][:k]
            count *= 4

    def _nearest(self, query: Floats, count: int, condition: str) -> tuple[Rows, Floats]:
        asked: Any = self._table.search(query, vector_column_name="vector")
        asked = asked.distance_type("dot").where(condition, prefilter=True).limit(count)
        found = asked.select(["row", "_distance"]).to_arrow()
        distances = found["_distance"].to_numpy()  # 1 - product
        return found["row"].to_numpy(), (1 - distances).astype(np.float32)

    def times(self, rows: Rows) -> npt.NDArray[np.float64]:
        if not len(rows):
            return np.empty((0, 2))
        condition = f"row IN ({', '.join(str(int(row)) for row in rows)})"
        asked = self._table.search().where(condition).limit(len(rows))
        found = asked.select(["row", "start_s", "stop_s"]).to_arrow()
        held = zip(*(found[name].to_pylist() for name in ("row", "start_s", "stop_s")), strict=True)
        times = {row: times_s for row, *times_s in held}
        return np.array([times[int(row)] for row in rows])


def _spans(only: Mask) -> list[tuple[int, int]]:
    """Where a mask (n,) is true: from, up to."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], only.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _within(spans: Sequence[tuple[int, int]]) -> str:
    return " OR ".join(f"(row >= {start} AND row < {stop})" for start, stop in spans)
