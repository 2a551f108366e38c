"""Audio in: whatever a person has -> mono float32 samples at the rate that a model wants.

`load_audio` and `stream_audio` run the same code, so they give the same samples, bit for bit.
Channels are averaged, then resampled by soxr at its HQ setting. Both are fixed: they are part of
the promise that the same file gives the same vector. docs/audio.md states what becomes of odd and
damaged files.

Shapes: T samples, C channels.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, BinaryIO, TypeAlias, TypeGuard, cast

import numpy as np
import numpy.typing as npt
import soxr
from torch import Tensor

from echoic.audio.blocks import Samples, is_pcm, regroup, take, to_mono
from echoic.audio.decode import (
    BLOCK_SAMPLES,
    MAX_CHANNELS,
    AudioInfo,
    ByteSource,
    check_rate,
    decoded,
    probe,
)
from echoic.types import AudioError

__all__ = [
    "Array", "AudioInfo", "AudioLike", "Samples", "live_audio", "load_audio", "probe_audio",
    "stream_audio",
]  # fmt: skip

Array: TypeAlias = npt.NDArray[Any] | Tensor
Bytes: TypeAlias = bytes | bytearray | memoryview
AudioLike: TypeAlias = str | os.PathLike[str] | Bytes | BinaryIO | Array | tuple[Array, int]
"""A path, the bytes of a file, a binary file object (read from its start, left open),
`(array, rate_hz)`, or a bare array, which is taken to be at the wanted rate.

An array is (T,), (C, T) or (T, C). Its channels are the axis of length 1, or else the only axis of
at most 64; where both axes are that short it is refused. Integers are scaled, floats kept."""

_READ_BYTES = 2**17  # libsndfile asks for 8 kB and less at a time
_SPOOL_BYTES = 64 * 2**20  # what of a pipe is held in memory; more goes to a temporary file


def load_audio(
    source: AudioLike,
    *,
    rate_hz: int,
    start_s: float = 0.0,
    duration_s: float | None = None,
    name: str | None = None,
) -> Samples:
    """`source` as (T,) float32 mono at `rate_hz`, always a new array.

    start_s, duration_s: only this part, cut out at the file's own rate, then resampled; it is
    shorter where the file ends earlier. name: what errors call it, by default the path.
    Raises AudioError.
    """
    blocks = list(_samples(source, rate_hz, start_s, duration_s, name))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def stream_audio(
    source: AudioLike,
    *,
    rate_hz: int,
    block_s: float = 10.0,
    start_s: float = 0.0,
    duration_s: float | None = None,
    name: str | None = None,
) -> Iterator[Samples]:
    """The samples of `load_audio` in blocks (T,) of `block_s`, the last one shorter.

    The memory does not grow with the length. Raises AudioError as the block where it happens is
    drawn.
    """
    block_samples = max(1, round(block_s * rate_hz))
    return regroup(_samples(source, rate_hz, start_s, duration_s, name), block_samples)


def live_audio(
    blocks: Iterable[Array], *, from_hz: int, rate_hz: int, name: str = "stream"
) -> Iterator[Samples]:
    """Blocks (T,) or (T, C) at `from_hz`, of any lengths, as a recorder hands them out -> blocks
    (T,) at `rate_hz` as soon as they are certain, laid end to end the samples of `load_audio`.

    Nothing is held but what the resampler needs, and no sound at all is no error. Raises AudioError
    on a rate that none has, and, as the block is drawn, on what is no PCM, or NaN.
    """
    check_rate(from_hz, name)
    check_rate(rate_hz, f"{name}, wanted rate")
    return _resampled(_finite(_live_mono(blocks, name), from_hz, 0.0, name), from_hz, rate_hz)


def probe_audio(source: AudioLike, *, name: str | None = None) -> AudioInfo:
    """Length, rate, channels and format by the header alone: cheap, and as true as the header.

    Raises AudioError on what no decoder opens.
    """
    name = name or _name_of(source)
    if _is_array(source):
        raise AudioError(name, "a bare array doesn't know its rate: give (array, rate_hz)")
    if isinstance(source, tuple):
        array, rate_hz = _array_and_rate(source, name)
        return AudioInfo(len(array) / rate_hz, rate_hz, array.shape[1], f"array/{array.dtype}")
    with _opened(source, name) as file:
        return probe(file, name)


def _samples(
    source: AudioLike, rate_hz: int, start_s: float, duration_s: float | None, name: str | None
) -> Iterator[Samples]:
    name = name or _name_of(source)
    check_rate(rate_hz, f"{name}, wanted rate")
    if not 0 <= start_s < float("inf"):
        raise AudioError(name, f"cannot start at {start_s} s")
    if duration_s is not None and not 0 < duration_s < float("inf"):
        raise AudioError(name, f"cannot be cut to {duration_s} s")
    empty = True
    with _own_rate_blocks(source, name, rate_hz, start_s) as (own_rate_hz, blocks):
        if duration_s is not None:
            blocks = take(blocks, max(1, round(duration_s * own_rate_hz)))
        finite = _finite(blocks, own_rate_hz, start_s, name)
        for block in _resampled(finite, own_rate_hz, rate_hz):
            empty = False
            yield block
    if empty:
        raise AudioError(name, f"is shorter than one sample at {rate_hz} Hz")


@contextmanager
def _own_rate_blocks(
    source: AudioLike, name: str, rate_hz: int, start_s: float
) -> Iterator[tuple[int, Iterator[Samples]]]:
    """The source's own rate and its mono blocks from `start_s` on."""
    pair = (source, rate_hz) if _is_array(source) else source
    if isinstance(pair, tuple):
        array, own_rate_hz = _array_and_rate(pair, name)
        start = round(start_s * own_rate_hz)
        if start >= len(array):
            raise AudioError(name, f"ends before {start_s:g} s" if start else "holds no samples")
        yield own_rate_hz, _array_blocks(array[start:])
    else:
        with _opened(source, name) as file, decoded(file, name, start_s) as rate_and_blocks:
            yield rate_and_blocks


def _finite(
    blocks: Iterable[Samples], rate_hz: int, start_s: float, name: str
) -> Iterator[Samples]:
    """The blocks as they are. Raises AudioError at the first NaN or infinity."""
    done = 0
    for block in blocks:
        finite = np.isfinite(block)
        if not finite.all():
            at_s = start_s + (done + int(finite.argmin())) / rate_hz
            raise AudioError(name, f"holds NaN or infinite samples, the first at {at_s:.3f} s")
        done += len(block)
        yield block


def _resampled(blocks: Iterable[Samples], from_hz: int, to_hz: int) -> Iterator[Samples]:
    """Blocks at `from_hz` -> blocks at `to_hz`; where they are cut does not change the samples."""
    if from_hz == to_hz:
        yield from blocks
        return
    resampler = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")
    for block in blocks:
        for first in range(0, len(block), BLOCK_SAMPLES):  # more at once is slower
            if len(out := resampler.resample_chunk(block[first : first + BLOCK_SAMPLES])):
                yield out
    if len(out := resampler.resample_chunk(np.empty(0, np.float32), last=True)):
        yield out


# arrays -------------------------------------------------------------------------------------------


def _is_array(source: object) -> TypeGuard[Array]:
    return isinstance(source, np.ndarray | Tensor)


def _array_and_rate(pair: tuple[Any, ...], name: str) -> tuple[npt.NDArray[Any], int]:
    """(array, rate_hz) -> ((T, C) view, rate). Raises AudioError."""
    if len(pair) != 2 or not _is_array(pair[0]):
        raise AudioError(name, "a pair must be (array, rate_hz)")
    array, rate_hz = pair
    if not isinstance(rate_hz, int | float | np.number) or not float(rate_hz).is_integer():
        raise AudioError(name, f"the rate in (array, rate_hz) is {rate_hz!r}, not a number of Hz")
    check_rate(int(rate_hz), name)
    return _channels_last(_to_numpy(array), name), int(rate_hz)


def _to_numpy(array: Array) -> npt.NDArray[Any]:
    if not isinstance(array, Tensor):
        return array
    array = array.detach().cpu()
    # numpy has no bfloat16.
    return (array.float() if array.is_floating_point() else array).numpy()


def _channels_last(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """(T,), (C, T) or (T, C) -> (T, C). Raises AudioError where it is not clear which."""
    _require_pcm(array, name)
    if array.ndim == 1:
        return array[:, None]
    if array.ndim != 2:
        raise AudioError(name, f"has the shape {array.shape}: give (T,), (C, T) or (T, C)")
    lengths = list(enumerate(array.shape))
    axes = [axis for axis, length in lengths if length == 1]
    axes = axes or [axis for axis, length in lengths if length <= MAX_CHANNELS]
    if len(axes) != 1 and array.size != 1:
        clear = f"one axis must be at most {MAX_CHANNELS} long and the other longer"
        raise AudioError(name, f"has the shape {array.shape}: which are the channels? {clear}")
    return np.moveaxis(array, axes[0], 1)


def _require_pcm(array: npt.NDArray[Any], name: str) -> None:
    if not is_pcm(array.dtype):
        allowed = "floats, int8, int16, int32 or uint8"
        raise AudioError(name, f"samples of type {array.dtype} have no known scale: give {allowed}")


def _live_mono(blocks: Iterable[Array], name: str) -> Iterator[Samples]:
    """A block may be shorter than it has channels, so that these are the last axis for certain."""
    channels = None
    for block in blocks:
        if not _is_array(block):
            raise AudioError(name, f"a block is {type(block).__name__}: give arrays of samples")
        array = _to_numpy(block)
        _require_pcm(array, name)
        frames = array[:, None] if array.ndim == 1 else array
        if frames.ndim != 2 or not 1 <= frames.shape[1] <= MAX_CHANNELS:
            raise AudioError(name, f"a block has the shape {array.shape}: give (T,) or (T, C)")
        if channels not in (None, frames.shape[1]):
            found = f"{frames.shape[1]} channels, those before it {channels}"
            raise AudioError(name, f"a block has {found}")
        channels = frames.shape[1]
        if len(frames):
            yield to_mono(frames)


def _array_blocks(array: npt.NDArray[Any]) -> Iterator[Samples]:
    for start in range(0, len(array), BLOCK_SAMPLES):
        yield to_mono(array[start : start + BLOCK_SAMPLES])


# files --------------------------------------------------------------------------------------------


def _name_of(source: object) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(named := getattr(source, "name", None), str):
        return named
    return f"<{type(source).__name__}>"


@contextmanager
def _opened(source: object, name: str) -> Iterator[ByteSource]:
    """The bytes of a path, of bytes or of a file object. Raises AudioError where there are none."""
    opening: AbstractContextManager[BinaryIO]
    if isinstance(source, str | os.PathLike):
        opening = _open_path(source, name)
    elif isinstance(source, Bytes):
        opening = io.BytesIO(source)
    elif hasattr(source, "read"):
        opening = _seekable(cast(BinaryIO, source), name)
    else:
        raise AudioError(name, "is not audio: give a path, bytes, a binary file or an array")
    with opening as file:
        opened = ByteSource(file)
        if opened.size == 0:
            raise AudioError(name, "is empty (0 bytes)")
        yield opened


def _open_path(path: str | os.PathLike[str], name: str) -> BinaryIO:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(name, "is a folder, not a file")
        if not stat.S_ISREG(mode):
            # To open a pipe without a writer is to wait for ever.
            raise AudioError(name, "is not a regular file")
        return open(path, "rb", buffering=_READ_BYTES)
    except FileNotFoundError:
        raise AudioError(name, "no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(name, f"cannot be opened ({reason})") from None


def _seekable(file: BinaryIO, name: str) -> AbstractContextManager[BinaryIO]:
    """`file` itself, left open; of a pipe a temporary copy."""
    try:
        if not isinstance(file.read(0), bytes):
            raise AudioError(name, "is open as text: open it with mode 'rb'")
        if file.seekable():
            return nullcontext(file)
        return _copied(file)
    except (OSError, ValueError) as error:
        raise AudioError(name, f"cannot be read ({error})") from None


def _copied(file: BinaryIO) -> AbstractContextManager[BinaryIO]:
    copy = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115 (the caller closes it)
    try:
        shutil.copyfileobj(file, copy)
    except BaseException:
        copy.close()
        raise
    return cast(BinaryIO, copy)
