"""The outline of a recording for a wave form: lowest and highest sample of each stretch, in memory
that does not grow with its length.

Stretches are short at first; when there are more than `MOST`, each two become one of twice the
length.
T samples, n stretches.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from echoic.audio.blocks import Samples
from echoic.web.work import go_on

MOST = 8192
_FIRST_SAMPLES = 64


class Outline:
    """Of blocks (T,) as they come (`add`). samples: how many came."""

    def __init__(self) -> None:
        self.samples = 0
        self._length = _FIRST_SAMPLES
        self._whole: list[npt.NDArray[np.float32]] = []  # (n, 2) of stretches that are full
        self._count = 0
        self._rest = np.empty(0, np.float32)  # what fills no stretch yet

    def add(self, block: Samples) -> None:
        self.samples += len(block)
        held = np.concatenate([self._rest, block])
        full = len(held) // self._length
        cut = held[: full * self._length].reshape(full, self._length)
        self._rest = held[full * self._length :]
        if full:
            self._whole.append(np.stack([cut.min(1), cut.max(1)], axis=1))
            self._count += full
        while self._count > MOST:
            self._merge()

    def _merge(self) -> None:
        """Of an odd number the last stretch becomes the start of the rest again: its two extremes,
        in as many samples as it had."""
        rows = np.concatenate(self._whole)
        if len(rows) % 2:
            again = np.full(self._length, rows[-1, 1], np.float32)
            again[0] = rows[-1, 0]
            self._rest, rows = np.concatenate([again, self._rest]), rows[:-1]
        pairs = rows.reshape(-1, 2, 2)
        self._whole = [np.stack([pairs[:, :, 0].min(1), pairs[:, :, 1].max(1)], axis=1)]
        self._count, self._length = len(pairs), self._length * 2

    def rows(self) -> npt.NDArray[np.int8]:
        """(n, 2) lowest and highest of each stretch, in 127ths."""
        rest = [np.array([[self._rest.min(), self._rest.max()]])] if len(self._rest) else []
        rows = np.concatenate([*self._whole, *rest]) if self._whole or rest else np.zeros((0, 2))
        return np.round(rows.clip(-1, 1) * 127).astype(np.int8)


def outlined(blocks: Iterable[Samples]) -> Outline:
    """All of the blocks. Raises what they raise, and OverdueError."""
    outline = Outline()
    for block in blocks:
        go_on()
        outline.add(block)
    return outline


def drawn(rows: npt.NDArray[np.int8], points: int) -> list[list[float]]:
    """[lowest, highest] of `points` stretches of the same length, or of as many as there are."""
    count = min(points, len(rows))
    if not count:
        return []
    starts = np.arange(count) * len(rows) // count
    low, high = np.minimum.reduceat(rows[:, 0], starts), np.maximum.reduceat(rows[:, 1], starts)
    both = np.stack([low, high], axis=1) / 127
    return [[round(a, 3), round(b, 3)] for a, b in both.tolist()]
