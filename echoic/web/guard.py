"""Before any answer: who calls, by which name, from which page, how much they send; and what a
browser is told with each answer.

    Host      a name of this machine: a page elsewhere that has its own name lead here (DNS
              rebinding) is refused
    Origin    what changes something, and all of /api, is for our own page, or for no page at all
    token     where there is one: a header, or the cookie that /?token=... sets
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from echoic.web.errors import RefusedError, busy, own_fault, told
from echoic.web.route_pages import entered
from echoic.web.settings import Settings

_BODY_BYTES = 2**20  # of all but an upload, which counts for itself (upload.py)
_PATIENCE_S = 30.0  # for the next bytes of a question
_SAFE = {"GET", "HEAD", "OPTIONS"}
_HEADERS = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
}


class Guard:
    """Around the app. Upload paths in `large` may send more than other questions."""

    def __init__(self, app: ASGIApp, settings: Settings, large: str = "/api/sounds") -> None:
        self._app, self._settings, self._large = app, settings, large
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return  # no sockets here: uvicorn refuses what is not accepted
        sending = _Sending(send)
        self._inside += 1
        try:
            if (first := self._first(scope)) is not None:
                return await first(scope, receive, sending)
            most = None if scope["path"] == self._large else _BODY_BYTES
            await self._app(scope, _Body(receive, most), sending)
        except RefusedError as refusal:  # of the body, before the app knew what is asked
            if sending.begun:
                raise
            await told(refusal)(scope, receive, sending)
        except Exception:
            if not sending.begun:
                await own_fault()(scope, receive, sending)
            raise  # for the server's log
        finally:
            self._inside -= 1

    def _first(self, scope: Scope) -> Response | None:
        """An answer of the guard's own, or None: go on."""
        try:
            if self._inside > self._settings.limits.connections:
                raise busy("too many questions at once; try again")
            return self._admitted(scope)
        except RefusedError as refusal:
            return told(refusal)

    def _admitted(self, scope: Scope) -> Response | None:
        """Raises RefusedError."""
        headers = Headers(scope=scope)
        self._require_host(headers.get("host", ""))
        _require_own_page(scope, headers)
        return self._require_token(scope, headers)

    def _require_host(self, host: str) -> None:
        name = _host_name(host)
        if name in self._settings.hosts or _is_loopback(name):
            return
        if self._settings.any_address and _is_address(name):
            return
        raise RefusedError(
            421, "not a name of this server; echoic web --allow-host NAME allows others"
        )

    def _require_token(self, scope: Scope, headers: Headers) -> Response | None:
        token = self._settings.token
        if token is None:
            return None
        cookie = f"echoic_token_{(scope.get('server') or ('', 0))[1]}"
        if scope["path"] == "/" and scope["method"] == "GET":
            told = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
            if told and _same(told[0], token):
                answer = entered()
                answer.set_cookie(cookie, token, httponly=True, samesite="strict")
                return answer
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip(), token):
            return None
        if _same(_cookies(headers).get(cookie, ""), token):
            return None
        line = "open the address with the token that echoic web printed"
        raise RefusedError(401, line, www_authenticate="Bearer")


def _same(given: str, token: str) -> bool:
    """In a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def _cookies(headers: Headers) -> dict[str, str]:
    held = SimpleCookie()
    try:
        held.load(headers.get("cookie", ""))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in held.items()}


def _host_name(host: str) -> str:
    """Without the port."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if name.count(":") == 1 else name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _require_own_page(scope: Scope, headers: Headers) -> None:
    """Raises RefusedError for what another page sends."""
    if scope["path"].startswith("/api/") or scope["method"] not in _SAFE:
        if headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
            raise RefusedError(403, "this is not for other pages")
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            raise RefusedError(403, "this is not for other pages")


class _Body:
    """A body that is counted as it comes, and has to come. most: bytes; None: any number."""

    def __init__(self, receive: Receive, most: int | None) -> None:
        self._receive, self._most = receive, most
        self._read, self._whole = 0, False

    async def __call__(self) -> Message:
        try:
            # After the whole body this waits for the end of the connection, however long.
            async with asyncio.timeout(None if self._whole else _PATIENCE_S):
                message = await self._receive()
        except TimeoutError:
            raise RefusedError(408, "nothing came for too long", connection="close") from None
        self._read += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._most is not None and self._read > self._most:
            raise RefusedError(413, "the body is too large", connection="close")
        return message


class _Sending:
    """An answer with what a browser is to know. begun: whether its status was sent."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await self._send(message)
