"""The app on a socket, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from echoic.types import EchoicError
from echoic.web.settings import Limits

_PATIENCE_S = 20.0  # for a question of a connection, and for its end
_STALL_S = 60.0  # for a reader to take some of the answer; a player that paused asks anew
_SOCKETS = 4  # for each question at once that is answered; of the rest some are told, in words
_GRACE_S = 1.0  # for answers on their way, at the end


def bound(host: str, port: int) -> socket.socket:
    """Raises EchoicError where that address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two listen at one port
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, port))
        held.listen(socket.SOMAXCONN)
    except (OSError, OverflowError) as error:
        held.close()
        reason = getattr(error, "strerror", None) or error
        instead = "; --port 0 takes any that is free" if port else ""
        raise EchoicError(f"web: cannot listen at {host} port {port} ({reason}){instead}") from None
    return held


class _Connection(H11Protocol):
    """Who connects and asks nothing, or takes nothing of an answer, is cut off, and of too many the
    last: uvicorn itself waits for ever, and takes all, until the process has no file left to
    open."""

    most = 0
    _seen: tuple[object, bool] = (None, False)  # at the last look: what was asked, whether it ends
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
        else:
            self.loop.call_later(_PATIENCE_S, self._look)

    def _look(self) -> None:
        """Cuts off what has waited for its caller alone since the last look: for a question, which
        may have come in part, or for the rest of a last answer to be taken."""
        if self not in self.connections:
            return
        seen = self.cycle, self.transport.is_closing()
        waits = self.cycle is None or self.cycle.response_complete or self.transport.is_closing()
        if waits and seen == self._seen:
            self.transport.abort()
            return
        self._seen = seen
        self.loop.call_later(_PATIENCE_S, self._look)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(_STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()


def configured(app: FastAPI, limits: Limits) -> uvicorn.Config:
    most = _SOCKETS * limits.connections
    return uvicorn.Config(
        app,
        http=type("Connection", (_Connection,), {"most": most}),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=2,
    )


class Server(uvicorn.Server):
    """ending: called when it is to end, so that answers which would take long are given up."""

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        ends_s = time.monotonic() + _GRACE_S
        while self.server_state.tasks and time.monotonic() < ends_s:
            await asyncio.sleep(0.05)
        for connection in list(self.server_state.connections):  # such as a player's that paused
            cast(H11Protocol, connection).transport.abort()
        await super().shutdown(sockets)


def serve(app: FastAPI, held: socket.socket, limits: Limits) -> None:
    """Returns after Ctrl-C, when all is put away."""
    try:
        Server(configured(app, limits), app.state.parts.end_work).run(sockets=[held])
    except KeyboardInterrupt:  # which uvicorn hands on after it has ended
        pass
    finally:
        held.close()
