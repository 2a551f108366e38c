"""PCM from a pipe: bytes as they come -> blocks of samples, without waiting for their end.

What a recorder writes (`arecord`, `ffmpeg`, `sox`) is raw samples, or WAV whose header does not
know yet how long the recording will be. A file that is there whole is for `audio.io`.

Shapes: T samples, C channels.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from echoic.audio.decode import MAX_CHANNELS, UNKNOWN_BYTES, check_rate
from echoic.types import AudioError

_READ_BYTES = 65_536  # at most; a pipe hands out what there is
_HEADER_BYTES = 2**20  # of chunks before the samples
_FORMAT = re.compile(r"(u8|s8|[sf]\d\d[lb]e):(\d{1,9})(?::(\d{1,9}))?")
_KINDS = {
    "u8": "u1", "s8": "i1", "s16": "i2", "s24": "s24", "s32": "i4", "f32": "f4", "f64": "f8",
}  # fmt: skip
_WAV_INTEGERS = {8: "u8", 16: "s16le", 24: "s24le", 32: "s32le"}
_WAV_FLOATS = {32: "f32le", 64: "f64le"}
_INTEGER, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE

Read = Callable[[int], bytes]


@dataclass(frozen=True)
class PcmFormat:
    """kind: u8, s8, s16le, s24le, s32le, f32le, f64le, or those with be, as FFmpeg names them."""

    kind: str
    rate_hz: int
    channels: int = 1

    def __str__(self) -> str:
        return f"{self.kind}:{self.rate_hz}" + (f":{self.channels}" if self.channels > 1 else "")

    @classmethod
    def parse(cls, told: str) -> PcmFormat:
        """KIND:RATE or KIND:RATE:CHANNELS, as s16le:16000 or f32le:48000:2. Raises AudioError."""
        found = _FORMAT.fullmatch(told.strip().lower())
        if not found or found[1].removesuffix("le").removesuffix("be") not in _KINDS:
            raise AudioError(
                f"PCM {told!r}", "give KIND:RATE or KIND:RATE:CHANNELS, as s16le:16000; kinds are "
                "u8, s8, s16le, s24le, s32le, f32le, f64le, and those with be"
            )  # fmt: skip
        return cls(found[1], int(found[2]), int(found[3] or 1)).checked(f"PCM {told!r}")

    def checked(self, name: str) -> PcmFormat:
        """Raises AudioError on a rate or channels that none has."""
        check_rate(self.rate_hz, name)
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise AudioError(name, f"{self.channels} channels: 1 to {MAX_CHANNELS} are supported")
        return self

    @property
    def sample_bytes(self) -> int:
        return int(re.sub(r"\D", "", self.kind)) // 8

    def samples(self, raw: bytes) -> npt.NDArray[Any]:
        """Whole frames -> (T, C) of this machine's byte order."""
        order = ">" if self.kind.endswith("be") else "<"
        kind = _KINDS[self.kind.removesuffix("le").removesuffix("be")]
        if kind == "s24":  # into the upper three bytes of four
            wide = np.zeros((len(raw) // 3, 4), np.uint8)
            first = 0 if order == ">" else 1
            wide[:, first : first + 3] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
            flat = wide.view(f"{order}i4")[:, 0]
        else:
            flat = np.frombuffer(raw, f"{order}{kind}")
        return flat.astype(flat.dtype.newbyteorder("="), copy=False).reshape(-1, self.channels)


def open_pcm(
    file: BinaryIO, told: PcmFormat | None, *, name: str
) -> tuple[PcmFormat, Iterator[npt.NDArray[Any]]]:
    """Raw samples of the format told, or WAV where none is -> its format, and its blocks (T, C) as
    they come. A frame that the end cuts is left out. Raises AudioError."""
    # of a pipe `read` waits until it has all that was asked for
    read: Read = getattr(file, "read1", file.read)
    if told is not None:
        return told, _blocks(read, told, None)
    form, size = _wav_header(file.read, name)
    return form, _blocks(read, form, size)


def _blocks(read: Read, form: PcmFormat, size: int | None) -> Iterator[npt.NDArray[Any]]:
    frame, rest = form.sample_bytes * form.channels, b""
    while size is None or size > 0:
        raw = read(_READ_BYTES if size is None else min(size, _READ_BYTES))
        if not raw:
            return
        size = None if size is None else size - len(raw)
        rest += raw
        whole = len(rest) - len(rest) % frame
        if whole:
            yield form.samples(rest[:whole])
            rest = rest[whole:]


def _wav_header(read: Read, name: str) -> tuple[PcmFormat, int | None]:
    """Up to the first sample: the format, and how many bytes follow where the header knows."""
    mark = read(12)
    if not mark:
        raise AudioError(name, "is empty (0 bytes)")
    if mark[:4] not in (b"RIFF", b"RF64") or mark[8:] != b"WAVE":
        raise AudioError(
            name, "has no WAV header: say what the samples are (--pcm s16le:16000); compressed "
            "sound is given as a file"
        )  # fmt: skip
    form, passed = None, 0
    while len(head := read(8)) == 8 and passed < _HEADER_BYTES:
        kind, size = struct.unpack("<4sI", head)
        if kind == b"data":
            if form is None:
                break
            known = mark[:4] == b"RIFF" and 0 < size < UNKNOWN_BYTES
            return form, size if known else None
        content = read(min(size + size % 2, _HEADER_BYTES))
        passed += 8 + len(content)
        if kind == b"fmt ":
            form = _wav_format(content, name)
    raise AudioError(name, "its WAV header is damaged")


def _wav_format(content: bytes, name: str) -> PcmFormat:
    if len(content) < 16:
        raise AudioError(name, "its WAV header is damaged")
    tag, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", content[:16])
    if tag == _EXTENSIBLE and len(content) >= 26:
        (tag,) = struct.unpack("<H", content[24:26])
    kind = {_INTEGER: _WAV_INTEGERS, _FLOAT: _WAV_FLOATS}.get(tag, {}).get(bits)
    if kind is None:
        raise AudioError(
            name, f"is WAV of kind {tag} with {bits} bits, which cannot be heard live: convert it"
        )
    return PcmFormat(kind, rate_hz, channels).checked(name)
