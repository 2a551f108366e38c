"""The page, its files, /docs, /api/info."""

from __future__ import annotations

from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

import echoic
from echoic.types import DataError
from echoic.web import answers
from echoic.web.errors import unknown, without_places
from echoic.web.parts import Asking

router = APIRouter()

STATIC = Path(__file__).with_name("static")
# not left to the machine's own table, which on some says that scripts are plain text
TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml", ".png": "image/png",
    ".ico": "image/x-icon", ".woff2": "font/woff2", ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}  # fmt: skip


def static_file(request: Request, name: str) -> Response:
    """One of the files that are there, and nothing else. Raises RefusedError."""
    known = {p.relative_to(STATIC).as_posix(): p for p in STATIC.rglob("*") if p.suffix in TYPES}
    if name not in known:
        raise unknown("page")
    raw = known[name].read_bytes()
    tag = f'"{sha256(raw).hexdigest()[:20]}"'
    headers = {"etag": tag, "cache-control": "no-cache"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    return Response(raw, 200, headers | {"content-type": TYPES[known[name].suffix]})


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    return static_file(request, "index.html")


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    return static_file(request, "docs.html")


@router.get("/favicon.ico", include_in_schema=False)
async def icon(request: Request) -> Response:
    return static_file(request, "icon.svg")


@router.get("/static/{name:path}", include_in_schema=False)
async def static(request: Request, name: str) -> Response:
    return static_file(request, name)


@router.get("/api/info")
async def info(asked: Asking) -> answers.Info:
    """What there is: model, index, limits."""
    parts, index, problem = asked.parts, None, None
    if parts.folder is not None:
        try:
            index = await asked.decode(parts.folder.told)
        except DataError as error:  # a damaged index takes nothing but search away
            problem = without_places(str(error), parts.folder.named())
    return answers.Info(
        version=echoic.__version__,
        model=parts.about,
        index=None if index is None else answers.IndexInfo(**index),
        index_problem=problem,
        limits=answers.LimitsInfo(**asdict(parts.settings.limits)),
    )


def entered() -> HTMLResponse:
    """In answer to the address with the token: a page of our own that goes on to /, as a redirect
    from another site's link would not take the cookie along."""
    head = '<meta http-equiv="refresh" content="0;url=/"><title>echoic</title>'
    return HTMLResponse(f'<!doctype html><html lang="en"><head>{head}</head><body></body></html>')
