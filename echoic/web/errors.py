"""How what goes wrong is told to the page: one line, without a place on this machine; what is
echoic's own fault without detail, which the server's log has."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteError
from starlette.requests import ClientDisconnect

from echoic.types import AudioError, CheckpointError, ConfigError, DataError, EchoicError
from echoic.web.work import BusyError, GoneError, OverdueError

log = logging.getLogger("echoic.web")

RETRY_S = 2
_LONGEST = 500  # characters of a line, which may repeat what was sent
_STATUS: tuple[tuple[type[EchoicError], int], ...] = (
    (AudioError, 422), (DataError, 409), (ConfigError, 409), (CheckpointError, 409),
)  # fmt: skip
_ABSOLUTE = re.compile(r"(?<![\w.~-])(?:[A-Za-z]:)?[/\\](?:[^\s/\\:'\"]+[/\\])+")


class RefusedError(HTTPException):
    """An answer other than that asked for. headers: with _ for -."""

    def __init__(self, status: int, line: str, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(status, line, named)


def unknown(what: str) -> RefusedError:
    return RefusedError(404, f"no such {what}")


def busy(line: str) -> RefusedError:
    return RefusedError(503, line, Retry_After=str(RETRY_S))


def no_room() -> RefusedError:
    return RefusedError(507, "the server has no room for more sounds; try again later")


def said(status: int, line: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": " ".join(line.split())[:_LONGEST]}, status, headers)


def without_places(line: str, places: Sequence[str]) -> str:
    """A line without the folders `places`, and without any other absolute folder."""
    for place in sorted(filter(None, places), key=len, reverse=True):
        line = line.replace(f"{place}/", "").replace(f"{place}\\", "").replace(place, "the folder")
    return _ABSOLUTE.sub("", line)


def add_to(app: FastAPI, places: Callable[[], Sequence[str]]) -> None:
    """places: folders of this machine that no line shall name."""

    def echoic_error(_: Request, error: Exception) -> JSONResponse:
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 422)
        return said(status, without_places(str(error), places()))

    app.add_exception_handler(EchoicError, echoic_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteError, _http)
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(OverdueError, _overdue)
    app.add_exception_handler(GoneError, _gone)
    app.add_exception_handler(ClientDisconnect, _gone)


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    what = str(first["msg"]).removeprefix("Value error, ")
    return said(422, f"{where}: {what[:1].lower()}{what[1:]}")


def told(error: StarletteError) -> JSONResponse:
    return said(error.status_code, str(error.detail), dict(error.headers or {}))


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteError)
    answer = told(error)
    if error.status_code == 405:  # each route knows its own method alone
        answer.headers["allow"] = ", ".join(_methods(request)) or answer.headers.get("allow", "")
    return answer


def _methods(request: Request) -> list[str]:
    """That a path takes."""
    for template, operations in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), request.url.path):
            return [method.upper() for method in operations]
    return []


def _busy(_: Request, error: Exception) -> JSONResponse:
    return told(busy("the server has as much to do as it takes on; try again"))


def _overdue(_: Request, error: Exception) -> JSONResponse:
    return told(busy("this took longer than the server allows (--limits work=...)"))


def _gone(_: Request, error: Exception) -> JSONResponse:
    return said(499, "nobody waits for this any more")


def own_fault() -> JSONResponse:
    return said(500, "something went wrong here; the server's log says what")
