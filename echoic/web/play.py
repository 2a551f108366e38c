"""A recording as a browser plays it: its bytes where it can, else a WAV that is made as it is asked
for; in parts, by HTTP's Range (RFC 9110, section 14).

The type that is told is that of what was decoded, never of a name. T samples.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from echoic.audio.io import AudioInfo, probe_audio, stream_audio
from echoic.web.errors import said

_PART_BYTES = 2**18
_HEADER_BYTES = 44
_BLOCK_S = 2.0
_MOST_HZ, _LEAST_HZ, _MOST_CHANNELS = 96_000, 8_000, 8
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_WAV = {"pcm_16", "pcm_u8", "pcm_24", "float"}
_TYPES = {
    "flac": ("audio/flac", None),
    "ogg": ("audio/ogg", {"vorbis", "opus"}),
    "mp3": ("audio/mpeg", None),
    "mov": ("audio/mp4", {"aac"}),
    "matroska": ("audio/webm", {"opus", "vorbis"}),
    "wav": ("audio/wav", _WAV),
    "wavex": ("audio/wav", _WAV),
}


class Bytes(Protocol):
    """Something of a known size that can be read in parts."""

    @property
    def size(self) -> int: ...
    @property
    def kind(self) -> str: ...
    def read(self, start: int, stop: int) -> Iterator[bytes]: ...


Open = Callable[[], BinaryIO]


@dataclass(frozen=True)
class Playable:
    """A recording. open: its file, anew. name: for errors. duration_s: measured."""

    open: Open
    name: str
    duration_s: float


def playable(sound: Playable, *, as_wav: bool = False) -> Bytes:
    """How it goes to the browser. Raises AudioError where no decoder opens it."""
    with sound.open() as file:
        info = probe_audio(file, name=sound.name)
        size = os.fstat(file.fileno()).st_size
    kind = None if as_wav else content_type(info)
    return AsWav(sound, info) if kind is None else AsItIs(sound, kind, size)


def content_type(info: AudioInfo) -> str | None:
    """None where browsers play no such thing."""
    container, _, codec = info.format.partition("/")
    kind, codecs = _TYPES.get(container, (None, None))
    odd = info.rate_hz > _MOST_HZ or info.channels > _MOST_CHANNELS
    return None if odd or (codecs is not None and codec not in codecs) else kind


@dataclass(frozen=True)
class AsItIs:
    sound: Playable
    kind: str
    size: int

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        with self.sound.open() as file:
            file.seek(start)
            while start < stop and (part := file.read(min(_PART_BYTES, stop - start))):
                start += len(part)
                yield part


class AsWav:
    """Mono, 16 bits. Of its bytes only those asked for are made; where a recording turns out to be
    shorter than was measured, silence fills it."""

    kind = "audio/wav"

    def __init__(self, sound: Playable, info: AudioInfo) -> None:
        self._sound = sound
        self._rate_hz = min(max(info.rate_hz, _LEAST_HZ), 48_000)
        self._samples = math.ceil(sound.duration_s * self._rate_hz)
        self.size = _HEADER_BYTES + 2 * self._samples

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        if start < _HEADER_BYTES:
            yield self._header()[start : min(stop, _HEADER_BYTES)]
            start = _HEADER_BYTES
        if start < stop:
            yield from self._data(start - _HEADER_BYTES, stop - _HEADER_BYTES)

    def _data(self, start: int, stop: int) -> Iterator[bytes]:
        first, drop = divmod(start, 2)
        count = stop - start
        with self._sound.open() as file:
            blocks = stream_audio(
                file, rate_hz=self._rate_hz, block_s=_BLOCK_S, start_s=first / self._rate_hz,
                name=self._sound.name,
            )  # fmt: skip
            for block in blocks:
                raw = (block.clip(-1, 1) * 32767).astype("<i2").tobytes()[drop:][:count]
                drop, count = 0, count - len(raw)
                yield raw
                if not count:
                    return
        while count:
            yield bytes(part := min(count, _PART_BYTES))
            count -= part

    def _header(self) -> bytes:
        data, rate = 2 * self._samples, self._rate_hz
        riff = b"RIFF" + struct.pack("<I", min(data + 36, 2**32 - 1)) + b"WAVE"
        form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
        return riff + form + b"data" + struct.pack("<I", min(data, 2**32 - 1))


def answered(request: Request, content: Bytes) -> Response:
    """The whole, or the part that is asked for. More parts than one are answered by the whole."""
    headers = {"accept-ranges": "bytes", "content-type": content.kind}
    told = request.headers.get("range")
    found = _RANGE.fullmatch(told.strip()) if told else None
    if found is None or "if-range" in request.headers or _meaningless(found[1], found[2]):
        return _streamed(content, 0, content.size, 200, headers)
    start, stop = _part(found[1], found[2], content.size)
    if start >= stop:
        beyond = {"content-range": f"bytes */{content.size}"}
        return said(416, f"there are {content.size} bytes", beyond)
    headers["content-range"] = f"bytes {start}-{stop - 1}/{content.size}"
    return _streamed(content, start, stop, 206, headers)


def _meaningless(first: str, last: str) -> bool:
    """Which is to be passed over."""
    return not (first or last) or bool(first and last and int(last) < int(first))


def _part(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _streamed(
    content: Bytes, start: int, stop: int, status: int, headers: dict[str, str]
) -> Response:
    headers["content-length"] = str(stop - start)
    return StreamingResponse(content.read(start, stop), status, headers)
