"""Windows: cuts of fixed length, by which fixed-input encoders hear audio of any length.

All encoders use these, so that all cut alike: a window starts every `hop_samples`; where the last
of them stops short of the end, one more lies flush with the end. Nothing is padded or left out.

Shapes: T samples. A plan is a list of (start, stop) in samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Plan = list[tuple[int, int]]


def plan_windows(total_samples: int, *, window_samples: int, hop_samples: int) -> Plan:
    """The windows that cover `total_samples`: each `window_samples` long, or one shorter alone.

    Raises ValueError unless 1 <= hop_samples <= window_samples: beyond, samples would go unheard.
    """
    _check(window_samples, hop_samples)
    if total_samples <= window_samples:
        return [(0, total_samples)] if total_samples > 0 else []
    last = total_samples - window_samples
    starts = [*range(0, last, hop_samples), last]
    return [(start, start + window_samples) for start in starts]


def stream_windows(
    blocks: Iterable[npt.NDArray[Any]], *, window_samples: int, hop_samples: int
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """(start, samples) of exactly the windows of `plan_windows`, from blocks (T,) of any length.

    Holds window + hop samples. Each window is a new array, handed out once its last sample came.
    """
    _check(window_samples, hop_samples)
    held: npt.NDArray[Any] = np.empty(0)
    # held[:count] are the samples from `start` on: the last window handed out and what came since.
    start, count, wanted = 0, 0, window_samples
    for block in blocks:
        if not count:
            held = np.empty(window_samples + hop_samples, block.dtype)
        while len(block):
            taken = block[: wanted - count]
            held[count : count + len(taken)] = taken
            count += len(taken)
            block = block[len(taken) :]
            if count < wanted:
                continue
            if wanted > window_samples:  # not the first: forget what only the last one needed
                held[:window_samples] = held[hop_samples:]
                start, count = start + hop_samples, window_samples
            yield start, held[:window_samples].copy()
            wanted = window_samples + hop_samples
    if 0 < count != window_samples:
        tail = max(0, count - window_samples)
        yield start + tail, held[tail:count].copy()


def window_weights(plan: Sequence[tuple[int, int]]) -> npt.NDArray[np.float64]:
    """(W,) weights, sum 1, to pool the vectors of W windows so that every sample counts once.

    A sample that k windows cover gives 1/k of itself to each of them. Raises ValueError on an empty
    plan, and where the windows leave a gap.
    """
    starts, stops = np.asarray(plan, dtype=np.int64).reshape(-1, 2).T
    edges = np.unique([starts, stops])
    opened = np.searchsorted(np.sort(starts), edges[:-1], "right")
    closed = np.searchsorted(np.sort(stops), edges[:-1], "right")
    cover = opened - closed  # how many windows lie over each stretch between two edges
    if not len(cover) or not cover.all():
        raise ValueError("a plan must hold windows, without a gap between them")
    share = np.concatenate([[0.0], np.cumsum(np.diff(edges) / cover)])
    weights = share[np.searchsorted(edges, stops)] - share[np.searchsorted(edges, starts)]
    return np.asarray(weights / (edges[-1] - edges[0]))


def _check(window_samples: int, hop_samples: int) -> None:
    if not 1 <= hop_samples <= window_samples:
        raise ValueError(
            f"windows need 1 <= hop <= window, got hop {hop_samples}, window {window_samples}"
        )
