"""One file of a multipart body, written to the disk as it comes, and cut off where it is too long:
what a header says of its length is not believed."""

from __future__ import annotations

import errno
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import (
    MultipartParser,
    parse_options_header,
)

from echoic.web.errors import RefusedError, no_room

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = "file"
_AROUND_BYTES = 2**16  # of a body, beside its file
_NAME_LENGTH = 120
_FULL = {errno.ENOSPC, errno.EDQUOT}


def shown_name(told: str) -> str:
    """What a browser calls a file, fit to be shown: no folder, nothing that does not print."""
    last = told.replace("\\", "/").rpartition("/")[2]
    printed = "".join(c for c in last if unicodedata.category(c)[0] not in "CZ" or c == " ")
    return printed.strip()[:_NAME_LENGTH].strip() or "sound"


async def receive(
    request: Request, path: Path, most_bytes: int, take: Callable[[int], None]
) -> str:
    """Writes the file to `path`; returns its name. take: told of each part's bytes before they are
    written. Raises RefusedError, and what `take` raises."""
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > most_bytes + _AROUND_BYTES:
        raise too_large(most_bytes)
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise RefusedError(415, f"send the sound as multipart/form-data, in the field {FIELD}")
    try:
        with path.open("wb") as file:
            form = _Form(file, most_bytes, take)
            parser = MultipartParser(boundary, form.callbacks())
            async for part in request.stream():
                form.read(len(part))
                parser.write(part)
    except (FormParserError, UnicodeDecodeError):
        raise not_whole() from None
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise no_room() from None
    if not form.whole:
        raise not_whole()
    if form.name is None:
        raise RefusedError(422, f"no field {FIELD} with a sound")
    return form.name


def not_whole() -> RefusedError:
    return RefusedError(400, "the body is no whole multipart/form-data")


def too_large(most_bytes: int) -> RefusedError:
    megabytes = most_bytes / 2**20
    return RefusedError(413, f"the file is larger than {megabytes:g} MB", connection="close")


class _Form:
    """What the parser finds: of the first file all bytes, of the rest nothing."""

    def __init__(self, file: BinaryIO, most_bytes: int, take: Callable[[int], None]) -> None:
        self.name: str | None = None
        self.whole = False
        self._file, self._most, self._take = file, most_bytes, take
        self._read = self._written = 0
        self._header = [b"", b""]
        self._inside = False

    def read(self, count: int) -> None:
        self._read += count
        if self._read > self._most + _AROUND_BYTES:
            raise too_large(self._most)

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_header_field": self._header_field, "on_header_value": self._header_value,
            "on_header_end": self._header_end, "on_part_data": self._data,
            "on_part_end": self._part_end, "on_end": self._end,
        }  # fmt: skip

    def _header_field(self, data: bytes, start: int, stop: int) -> None:
        self._add_to_header(0, data[start:stop])

    def _header_value(self, data: bytes, start: int, stop: int) -> None:
        self._add_to_header(1, data[start:stop])

    def _add_to_header(self, side: int, some: bytes) -> None:
        self._header[side] += some
        if len(self._header[side]) > _AROUND_BYTES:
            raise not_whole()

    def _header_end(self) -> None:
        name, value = self._header
        self._header = [b"", b""]
        if name.lower() != b"content-disposition" or self.name is not None:
            return
        _, options = parse_options_header(value)
        if options.get(b"name") == FIELD.encode() and b"filename" in options:
            self.name = shown_name(options[b"filename"].decode("utf-8", "replace"))
            self._inside = True

    def _data(self, data: bytes, start: int, stop: int) -> None:
        if not self._inside:
            return
        self._written += stop - start
        if self._written > self._most:
            raise too_large(self._most)
        self._take(stop - start)
        self._file.write(data[start:stop])

    def _part_end(self) -> None:
        self._inside = False

    def _end(self) -> None:
        self.whole = True
