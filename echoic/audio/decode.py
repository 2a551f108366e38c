"""Decoding: the bytes of a file -> mono blocks (T,) float32 at the file's own rate.

libsndfile reads what it can open (wav, flac, ogg, opus, mp3, aiff, ...); FFmpeg, by the optional
PyAV, is asked for the rest (m4a, webm, video, ...). docs/audio.md states what becomes of every odd
kind of file.

Shapes: T samples.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, TypeVar

import numpy as np
import soundfile

from echoic.audio.blocks import Samples, drop, regroup, to_mono
from echoic.types import AudioError

BLOCK_SAMPLES = 65_536  # of one read: fits the cache, and bounds what a lying header can allocate
MAX_CHANNELS = 64
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 3_000_000  # from slow loggers to DSD512

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class AudioInfo:
    """What a header says. duration_s is None where it does not say, or says what cannot be."""

    duration_s: float | None
    rate_hz: int
    channels: int
    format: str


class ByteSource:
    """A file object as both decoders want it: read from 0, seekable, never raising in their C code.

    What goes wrong while reading is kept in `failure`: neither decoder carries an exception through
    its callbacks, so to them it is the end of the file, and to us a silent loss.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file: Any = file
        self._position = 0
        self._moved = True
        self.failure: Exception | None = None
        self.size = file.seek(0, io.SEEK_END)

    def readinto(self, buffer: Any) -> int:
        try:
            if self._moved:
                self._file.seek(self._position)
                self._moved = False
            count: int = self._fill(buffer)
            self._position += count
        except Exception as error:
            self.failure = error
            return 0
        return count

    def _fill(self, buffer: Any) -> Any:
        if hasattr(self._file, "readinto"):
            return self._file.readinto(buffer)
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, count: int) -> bytes:
        # A lying header makes FFmpeg ask for gigabytes.
        buffer = bytearray(min(count, max(0, self.size - self._position)))
        return bytes(memoryview(buffer)[: self.readinto(buffer)])

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        target = offset + (0, self._position, self.size)[whence]
        if target < 0:
            return -1
        self._moved = self._moved or target != self._position
        self._position = target
        return target

    def tell(self) -> int:
        return self._position

    def raise_failure(self, name: str) -> None:
        if self.failure is not None:
            raise AudioError(name, f"reading failed ({self.failure})") from self.failure


class _RefusedError(Exception):
    """One decoder cannot read the file; the reason in its words."""


@dataclass(frozen=True)
class _Stream:
    """An opened file that holds samples. `blocks_from(start)` decodes from that sample on, once."""

    info: AudioInfo
    announced_s: float | None  # the length that the header claims
    slack_s: float  # by how much a sound file may stay below the claim
    blocks_from: Callable[[int], Iterator[Samples]]


def probe(source: ByteSource, name: str) -> AudioInfo:
    """The header alone. Raises AudioError."""
    with _opened(source, name, lambda stream: stream.info) as info:
        return info


@contextmanager
def decoded(
    source: ByteSource, name: str, start_s: float = 0.0
) -> Iterator[tuple[int, Iterator[Samples]]]:
    """The file's rate in Hz and its mono blocks (T,) from `start_s` on.

    Raises AudioError where no decoder opens the file, and, as the blocks are drawn, where the
    decoder meets an error.
    """

    def begin(stream: _Stream) -> tuple[_Stream, Iterator[Samples]]:
        return stream, stream.blocks_from(round(start_s * stream.info.rate_hz))

    with _opened(source, name, begin) as (stream, blocks):
        yield stream.info.rate_hz, _watched(blocks, stream, source, name, start_s)


def check_rate(rate_hz: int, name: str) -> None:
    """Raise AudioError on a rate that no recording has: resampled, it would flood the memory."""
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        allowed = f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz"
        raise AudioError(name, f"a rate of {rate_hz} Hz is not supported, only {allowed}")


@contextmanager
def _opened(source: ByteSource, name: str, use: Callable[[_Stream], _T]) -> Iterator[_T]:
    """`use` of the file, opened by the first decoder that finds samples in it."""
    refusals = []
    for title, decoder in (("libsndfile", _libsndfile), ("FFmpeg", _ffmpeg)):
        with ExitStack() as stack:
            source.seek(0)
            try:
                stream = stack.enter_context(decoder(source))
            except _RefusedError as refusal:
                source.raise_failure(name)
                refusals.append(f"{title}: {refusal}")
                continue
            check_rate(stream.info.rate_hz, name)
            if stream.info.channels > MAX_CHANNELS:
                found = f"{stream.info.channels} channels"
                raise AudioError(name, f"{found} are not supported, only up to {MAX_CHANNELS}")
            yield use(stream)
            return
    raise AudioError(name, f"cannot be decoded ({'; '.join(refusals)})")


def _watched(
    blocks: Iterator[Samples], stream: _Stream, source: ByteSource, name: str, start_s: float
) -> Iterator[Samples]:
    """The blocks as they are; every way of ending early becomes an AudioError or a warning."""
    heard_s = start_s
    empty = True
    try:
        for block in blocks:
            source.raise_failure(name)
            heard_s += len(block) / stream.info.rate_hz
            empty = False
            yield block
    except _RefusedError as refusal:
        source.raise_failure(name)
        raise AudioError(name, f"is damaged after {heard_s:.2f} s ({refusal})") from None
    source.raise_failure(name)
    if empty:
        raise AudioError(name, f"ends before {start_s:g} s" if start_s else "holds no samples")
    if stream.announced_s is not None and heard_s < stream.announced_s - stream.slack_s:
        message = "%s: cut short? its header announces %.2f s, it holds %.2f s; using these"
        _logger.warning(message, name, stream.announced_s, heard_s)


# libsndfile ---------------------------------------------------------------------------------------


class _ForwardSoundFile(soundfile.SoundFile):
    """After every read soundfile seeks to where it is: inexact in mp3, fatal in some flac files."""

    def seekable(self) -> bool:
        return False


_UNKNOWN_FRAMES = 2**62  # libsndfile says 2**63 - 1
UNKNOWN_BYTES = 0x7FFF_0000  # who writes to a pipe puts about the largest size the field can hold
_FEWEST_BYTES_PER_S = 1  # silence in the best of codecs needs some
_MP3_FEWEST_BYTES_PER_S = 1_000  # 8 kbit/s, the lowest bit rate of the standard
_MENDED_SIZE = re.compile(r"(\d+) \(should be (\d+)\)")


@contextmanager
def _libsndfile(source: ByteSource) -> Iterator[_Stream]:
    try:
        file = _ForwardSoundFile(source)
    except soundfile.SoundFileError as error:
        raise _RefusedError(_reason(error)) from None
    with file:
        if file.frames == 0:
            raise _RefusedError("no samples in it")
        is_mp3 = file.format == "MP3"
        held_s = file.frames / file.samplerate if file.frames < _UNKNOWN_FRAMES else None
        announced_s = held_s and held_s * _cut_factor(file.extra_info)
        fewest = _MP3_FEWEST_BYTES_PER_S if is_mp3 else _FEWEST_BYTES_PER_S
        if held_s and held_s * fewest > source.size:
            held_s = None
        form = f"{file.format}/{file.subtype}".lower()
        yield _Stream(
            AudioInfo(held_s, file.samplerate, file.channels, form),
            announced_s,
            # Without a table of its frames an mp3's length is an estimate.
            slack_s=0.1 + (0.02 * (announced_s or 0.0) if is_mp3 else 0.0),
            blocks_from=lambda start: _libsndfile_blocks(file, start, exact_seek=not is_mp3),
        )


def _cut_factor(log: str) -> float:
    """How many times longer than they are the header says the samples are (wav, aiff, au, w64).

    libsndfile mends the size and tells it in its log alone.
    """
    mended = _MENDED_SIZE.findall(log)
    if not mended:
        return 1.0
    said, held = map(int, mended[-1])  # the chunk of the samples comes after the ones around it
    return said / held if 0 < held < said < UNKNOWN_BYTES else 1.0


def _libsndfile_blocks(
    file: _ForwardSoundFile, start: int, *, exact_seek: bool
) -> Iterator[Samples]:
    try:
        if start and exact_seek:
            if start >= file.frames:
                return
            file.seek(start)
            start = 0
        yield from drop(_libsndfile_reads(file), start)
    except soundfile.SoundFileError as error:
        raise _RefusedError(_reason(error)) from None


def _libsndfile_reads(file: _ForwardSoundFile) -> Iterator[Samples]:
    """A short file in one block. Each has a buffer of its own: mono is handed on as it was read."""
    size = file.frames if 0 < file.frames <= 2 * BLOCK_SAMPLES else BLOCK_SAMPLES
    mono = file.channels == 1
    while len(frames := file.read(out=np.empty((size, file.channels), np.float32))):
        yield frames[:, 0] if mono else to_mono(frames)


def _reason(error: soundfile.SoundFileError) -> str:
    text: str = getattr(error, "error_string", None) or str(error)
    return text.removeprefix("Error : ").rstrip(".")


# FFmpeg -------------------------------------------------------------------------------------------


@contextmanager
def _ffmpeg(source: ByteSource) -> Iterator[_Stream]:
    try:
        import av
    except ImportError:
        raise _RefusedError('to read m4a, webm and more: pip install "echoic[av]"') from None
    # A playlist inside the file shall reach neither the network nor other files.
    sealed = {"protocol_whitelist": "none"}
    try:
        container = av.open(source, metadata_errors="ignore", options=sealed)
    except av.FFmpegError as error:
        raise _RefusedError(error.strerror) from None
    with container:
        if not container.streams.audio:
            raise _RefusedError("no audio in it")
        stream = container.streams.audio[0]
        announced_s = _ffmpeg_duration_s(container, stream)
        possible = announced_s is not None and 0 < announced_s * _FEWEST_BYTES_PER_S <= source.size
        if container.format.name == "ape" and not possible:
            # one packet may be all of that, and PyAV holds what a packet gives
            raise _RefusedError(f"claims {announced_s or 0:.0f} s in {source.size} bytes")
        frames = _ffmpeg_frames(container, stream)
        first = next(frames, None)
        if first is None:
            raise _RefusedError("no samples in it")
        form = f"{container.format.name.split(',')[0]}/{stream.codec_context.name}".lower()
        yield _Stream(
            # The first frame knows better than the header: HE-AAC doubles the rate.
            AudioInfo(
                announced_s if possible else None, first.sample_rate, first.layout.nb_channels, form
            ),
            announced_s,
            slack_s=0.1 + 0.02 * (announced_s or 0.0),
            blocks_from=lambda start: drop(_ffmpeg_blocks(chain([first], frames)), start),
        )


def _ffmpeg_frames(container: Any, stream: Any) -> Iterator[Any]:
    import av

    try:
        yield from container.decode(stream)
    except av.FFmpegError as error:
        raise _RefusedError(error.strerror) from None
    except IndexError:  # of PyAV's, which knows the streams of the beginning
        raise _RefusedError("another stream begins in it") from None


def _ffmpeg_blocks(frames: Iterable[Any]) -> Iterator[Samples]:
    return regroup(_ffmpeg_mono(frames), BLOCK_SAMPLES)


def _ffmpeg_mono(frames: Iterable[Any]) -> Iterator[Samples]:
    rate_hz = 0
    for frame in frames:
        rate_hz = rate_hz or frame.sample_rate
        if frame.sample_rate != rate_hz:
            raise _RefusedError(f"its rate changes from {rate_hz} to {frame.sample_rate} Hz")
        samples = frame.to_ndarray()
        channels = frame.layout.nb_channels
        yield to_mono(samples.T if frame.format.is_planar else samples.reshape(-1, channels))


def _ffmpeg_duration_s(container: Any, stream: Any) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # The container's is that of its longest stream, so the audio's where that is alone.
    if container.duration and len(container.streams) == 1:
        return float(container.duration) / 1e6
    return None
