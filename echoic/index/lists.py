"""A short way to the largest cosines among many vectors: an inverted file (Jégou et al.,
"Product Quantization for Nearest Neighbor Search", 2011, section IV), in eight bits.

k-means parts the vectors into C lists. A query looks into the lists whose centres lie nearest,
where each vector is held as the difference to its centre in int8 with a scale of its own; the best
of these are only candidates, ranked by whoever asks with the float16 vectors.
differs from the paper: eight bits per value, no product quantiser, as candidates are re-ranked by
vectors that are there anyway. How many lists are looked into is not chosen but measured, when they
are built: as many as hold the true ten best of some rows and of usual words, but for two in 1000.
In clusters that is a few in a hundred vectors, where there are none up to all; so speed hangs on
the data, and recall hardly.

Two files, made whole or not at all, and named after the rows that they were made of; without them
nothing is lost but speed.

    codes-G-N.i8    (N, D) int8, list after list
    lists-G-N.npz   centres (C, D), offsets (C + 1,) of the lists, rows (N,), scales (N,), share

Measured by `python -m benchmarks.search`. n rows, D width, C lists, Q drawn queries, k hits.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from echoic.types import first_line

log = logging.getLogger("echoic.index")

LEAST_ROWS = 100_000  # below that all are looked at in 10 ms
_LEAST_SHARE = 1 / 64  # of the rows, that is looked at
_DRAWN, _BEST = 256, 10  # queries, of each of which the ten best are to be met
_MET = 0.998  # drawn ones lie in lists themselves, and meet more than new ones do
_CANDIDATES = 400
_ROUNDS, _SAMPLES_PER_LIST = 5, 32
_LISTS = 4  # times the root of the rows: more than there are clusters, as a rule
_BLOCK = 8_192
_PARTS = ("centres", "offsets", "rows", "scales", "share")
_NAME = re.compile(r"lists-(\d+)-(\d+)\.npz")


@dataclass(frozen=True)
class Lists:
    """centres: (C, D) float32. offsets: (C + 1,) on the codes. order: (n,) the row of each code.
    scales: (n,) of the codes. codes: (n, D) int8. share: of the rows, that a query looks at."""

    centres: Tensor
    offsets: npt.NDArray[np.int64]
    order: npt.NDArray[np.uint32]
    scales: Tensor
    codes: Tensor
    share: float

    @property
    def rows(self) -> int:
        """How many: rows from this one on are in no list."""
        return len(self.order)

    def candidates(
        self, query: npt.NDArray[np.float32], k: int, only: npt.NDArray[np.bool_] | None
    ) -> npt.NDArray[np.int64]:
        """Rows of which, nearly always, the k best of all are some. query: (D,)."""
        asked = torch.from_numpy(query)
        near = self.centres @ asked
        chosen = self._nearest(near)
        step = float(asked.abs().max()) / 127 or 1.0
        column = (asked / step).round().to(torch.int8)[:, None]
        spans = [(int(self.offsets[i]), int(self.offsets[i + 1])) for i in chosen]
        scores = torch.cat([
            torch._int_mm(self.codes[a:b], column)[:, 0] * self.scales[a:b] * step + near[i]
            for i, (a, b) in zip(chosen, spans, strict=True)
        ])  # fmt: skip
        rows = np.concatenate([self.order[a:b] for a, b in spans]).astype(np.int64)
        if only is not None:
            scores[torch.from_numpy(~only[rows])] = -math.inf
        best = scores.topk(min(len(rows), max(_CANDIDATES, 4 * k)), sorted=False)
        return rows[best.indices[best.values > -math.inf].numpy()]

    def _nearest(self, near: Tensor) -> list[int]:
        """The lists to look into, none of them empty, for a share of all rows."""
        order = near.argsort(descending=True).numpy()
        sizes = np.diff(self.offsets)[order]
        enough = int(np.searchsorted(np.cumsum(sizes), self.share * self.rows)) + 1
        return [int(i) for i in order[:enough] if self.offsets[i + 1] > self.offsets[i]]

    # -- on disk ----------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: Path, generation: int, dim: int, rows: int) -> Self | None:
        """Those of a generation; None where there are none, or none that are whole."""
        for path, count in sorted(_found(folder, generation), key=lambda each: -each[1]):
            if count > rows:
                continue
            codes = _codes_path(folder, generation, count)
            try:
                with np.load(path, allow_pickle=False) as held:
                    parts = {name: held[name] for name in _PARTS}
                if codes.stat().st_size != count * dim:
                    raise ValueError("codes of another size")
                _require_whole(parts, count, dim)
                mapped = np.memmap(codes, np.int8, "c", shape=(count, dim))
            except Exception as error:  # damaged bytes make numpy's reader raise anything
                told = first_line(error)
                log.warning("%s: not whole (%s); search is slower without it", path, told)
                continue
            return cls(
                torch.from_numpy(parts["centres"]),
                parts["offsets"],
                parts["rows"],
                torch.from_numpy(parts["scales"]),
                torch.from_numpy(mapped),
                float(parts["share"]),
            )
        return None

    @classmethod
    def build(
        cls,
        folder: Path,
        generation: int,
        vectors: npt.NDArray[Any],
        texts: Tensor | None = None,
    ) -> Self | None:
        """Of all vectors (n, D), in place of older ones. texts: (Q, D) such as will be asked; they
        lie elsewhere than sounds, and need more. Raises OSError where the disk refuses."""
        count, dim = vectors.shape
        centres = _centres(vectors, min(count, round(_LISTS * math.sqrt(count))))
        nearest = _by_blocks(vectors, lambda block: _assigned(block, centres)).numpy()
        order = np.argsort(nearest, kind="stable")
        offsets = np.searchsorted(nearest[order], np.arange(len(centres) + 1)).astype(np.int64)
        codes = _codes_path(folder, generation, count)
        scales = _write_codes(codes, vectors, centres, order, nearest)
        lists = folder / f"lists-{generation}-{count}.npz"
        scratch = lists.with_name(f".{lists.name}.part")
        with scratch.open("wb") as file:
            np.savez(
                file,
                centres=centres.numpy(),
                offsets=offsets,
                rows=order.astype(np.uint32),
                scales=scales,
                share=_share(vectors, centres, nearest, np.diff(offsets), texts),
            )
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(lists)
        forget(folder, but=(generation, count))
        return cls.open(folder, generation, dim, count)


def forget(folder: Path, *, but: tuple[int, int] | None = None) -> None:
    """Remove the lists of other rows, and codes without lists."""
    kept = "" if but is None else f"-{but[0]}-{but[1]}."
    for path in [*folder.glob("lists-*.npz"), *folder.glob("codes-*.i8")]:
        if not kept or kept not in path.name:
            path.unlink(missing_ok=True)


def forget_beyond(folder: Path, generation: int, rows: int) -> None:
    """Remove the lists of more rows: what takes their places is not what they were made of."""
    for path, count in _found(folder, generation):
        if count > rows:
            path.unlink(missing_ok=True)
            _codes_path(folder, generation, count).unlink(missing_ok=True)


def _found(folder: Path, generation: int) -> list[tuple[Path, int]]:
    named = [(path, _NAME.fullmatch(path.name)) for path in folder.glob("lists-*.npz")]
    return [(path, int(m[2])) for path, m in named if m and int(m[1]) == generation]


def _codes_path(folder: Path, generation: int, count: int) -> Path:
    return folder / f"codes-{generation}-{count}.i8"


# -- k-means --------------------------------------------------------------------------------------


def _centres(vectors: npt.NDArray[Any], count: int) -> Tensor:
    """(count, D), of a drawn part; always the same of the same vectors."""
    rng = np.random.default_rng(0)
    size = min(len(vectors), count * _SAMPLES_PER_LIST)
    drawn = np.sort(rng.choice(len(vectors), size, replace=False))
    sample = torch.from_numpy(vectors[drawn]).float()
    centres = sample[torch.from_numpy(rng.choice(size, count, replace=False))]
    for _ in range(_ROUNDS):
        nearest = torch.cat([_assigned(block, centres) for block in sample.split(_BLOCK)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, sample)
        held = torch.bincount(nearest, minlength=count)
        lonely = held == 0
        centres = sums / held.clamp(min=1)[:, None]
        if lonely.any():
            other = torch.from_numpy(rng.choice(size, int(lonely.sum()), replace=False))
            centres[lonely] = sample[other]
    return centres


def _require_whole(parts: dict[str, npt.NDArray[Any]], count: int, dim: int) -> None:
    """Raises ValueError on arrays that cannot be told of `count` rows."""
    centres, offsets, rows, scales, share = (parts[name] for name in _PARTS)
    kinds = (centres.dtype, offsets.dtype, rows.dtype, scales.dtype)
    shapes = centres.shape == (len(offsets) - 1, dim) and rows.shape == scales.shape == (count,)
    whole = (
        kinds == (np.float32, np.int64, np.uint32, np.float32)
        and shapes
        and offsets[0] == 0
        and offsets[-1] == count
        and bool((np.diff(offsets) >= 0).all())
        and int(rows.max(initial=0)) < max(count, 1)
        and bool(np.isfinite(centres).all() and np.isfinite(scales).all())
        and 0 < float(share) <= 1
    )
    if not whole:
        raise ValueError("its arrays do not fit each other")


def _assigned(block: Tensor, centres: Tensor) -> Tensor:
    """(n,) of the nearest centre, by products in bfloat16: of two as near either will do."""
    products = (block.bfloat16() @ centres.bfloat16().T).float()
    return (products - centres.square().sum(1) / 2).argmax(1)


def _share(
    vectors: npt.NDArray[Any],
    centres: Tensor,
    nearest: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    texts: Tensor | None,
) -> float:
    """Of the rows, those that queries have to look at to meet their best."""
    rng = np.random.default_rng(1)
    drawn = np.sort(rng.choice(len(vectors), min(_DRAWN, len(vectors)), replace=False))
    queries = torch.from_numpy(vectors[drawn]).float()
    shares = []
    for some, own in ((queries, drawn), (texts, None)):
        if some is None or not len(some):
            continue
        best = _exact(vectors, some).numpy()
        near = (some @ centres.T).argsort(descending=True, dim=1).numpy()
        needed = []
        for i, (rows, order) in enumerate(zip(best, near, strict=True)):
            looked = np.empty(len(sizes), np.int64)
            looked[order] = np.cumsum(sizes[order])  # at how many, when a list was looked into
            others = rows if own is None else rows[rows != own[i]]
            needed.append(looked[nearest[others[:_BEST]]])
        shares.append(float(np.quantile(np.concatenate(needed), _MET)) / len(vectors))
    return min(1.0, max(_LEAST_SHARE, *shares))


def _exact(vectors: npt.NDArray[Any], queries: Tensor) -> Tensor:
    """(Q, 11 or fewer) the best rows of each query, best first."""
    scores, rows = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(vectors), _BLOCK):
        found = queries @ torch.from_numpy(vectors[start : start + _BLOCK]).float().T
        scores = torch.cat([scores, found], dim=1)
        these = torch.arange(start, start + found.shape[1]).expand(len(queries), -1)
        rows = torch.cat([rows, these], dim=1)
        scores, places = scores.topk(min(_BEST + 1, scores.shape[1]), dim=1)
        rows = rows.gather(1, places)
    return rows


def _by_blocks(vectors: npt.NDArray[Any], of: Callable[[Tensor], Tensor]) -> Tensor:
    starts = range(0, len(vectors), _BLOCK)
    return torch.cat([of(torch.from_numpy(vectors[a : a + _BLOCK]).float()) for a in starts])


def _write_codes(
    path: Path,
    vectors: npt.NDArray[Any],
    centres: Tensor,
    order: npt.NDArray[np.int64],
    nearest: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """The codes in order; returns their scales (n,)."""
    scales = np.empty(len(order), np.float32)
    with path.open("wb") as file:
        for start in range(0, len(order), _BLOCK):
            rows = order[start : start + _BLOCK]
            rest = torch.from_numpy(vectors[rows]).float() - centres[nearest[rows]]
            scale = rest.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            file.write((rest / scale).round().to(torch.int8).numpy().tobytes())
            scales[start : start + len(rows)] = scale[:, 0].numpy()
        file.flush()
        os.fsync(file.fileno())
    return scales
