"""An app on a real socket, in a thread of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI

from echoic.web.server import Server, bound, configured
from echoic.web.settings import Limits


@contextmanager
def serving(app: FastAPI, limits: Limits | None = None) -> Iterator[str]:
    """Its address, http://127.0.0.1:PORT."""
    held = bound("127.0.0.1", 0)
    server = Server(configured(app, limits or Limits()), app.state.parts.end_work)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [held]}, daemon=True)
    thread.start()
    try:
        # the socket listens already: who comes before the server is ready waits
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        held.close()
        assert not thread.is_alive()
