"""Blocks of samples: raw PCM to mono float32, and cutting a run of blocks anew.

Shapes: T samples, C channels. A run of blocks (T_i,) stands for the samples laid end to end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Samples: TypeAlias = npt.NDArray[np.float32]

_SIGNED = (np.int8, np.int16, np.int32)


def is_pcm(dtype: np.dtype[Any]) -> bool:
    """Whether samples of this type have a known scale."""
    return dtype.kind == "f" or dtype in (np.uint8, *_SIGNED)


def to_mono(frames: npt.NDArray[Any]) -> Samples:
    """(T, C) PCM -> (T,), a new array: integers scaled to [-1, 1], floats kept, channels averaged.

    Column by column: numpy's mean over a short last axis is 20 times slower. Raises TypeError on
    what is not PCM.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # whoever asked looks for inf and NaN
        samples = _scaled(frames)
        channels = samples.shape[1]
        if channels == 1:
            return samples[:, 0].copy()
        mix: Samples = samples[:, 0] + samples[:, 1]
        for channel in range(2, channels):
            mix += samples[:, channel]
        mix *= np.float32(1 / channels)
        return mix


def _scaled(samples: npt.NDArray[Any]) -> Samples:
    dtype = samples.dtype
    if dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    if dtype == np.uint8:
        return (samples.astype(np.float32) - np.float32(128)) * np.float32(1 / 128)
    if dtype in _SIGNED:
        return samples.astype(np.float32) * np.float32(2.0 ** (1 - 8 * dtype.itemsize))
    raise TypeError(f"samples of type {dtype} have no known scale")


def drop(blocks: Iterable[Samples], count: int) -> Iterator[Samples]:
    """The run without its first `count` samples."""
    for block in blocks:
        if count < len(block):
            yield block[count:]
        count = max(0, count - len(block))


def take(blocks: Iterable[Samples], count: int) -> Iterator[Samples]:
    """The first `count` samples of the run; no block beyond them is drawn."""
    for block in blocks:
        yield block[:count]
        count -= len(block)
        if count <= 0:
            return


def regroup(blocks: Iterable[Samples], size: int) -> Iterator[Samples]:
    """The same run in blocks of exactly `size` samples, the last one shorter."""
    held: list[Samples] = []
    count = 0
    for block in blocks:
        rest = block
        while count + len(rest) >= size:
            cut = size - count
            yield np.concatenate([*held, rest[:cut]])
            held, count, rest = [], 0, rest[cut:]
        if len(rest):
            held.append(rest)
            count += len(rest)
    if held:
        yield np.concatenate(held)
