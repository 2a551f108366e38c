"""Work that takes a while, away from the loop that answers: a few threads, a bounded queue, a time
limit.

Python cannot end a thread from outside. So whatever works asks, between two of its steps, whether
it still should (`go_on`): the model before each of its layers (`watch`), decoding between blocks.
What is overdue, or what nobody waits for any more, ends there, and the next in the queue begins.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

T = TypeVar("T")

LOOK_S = 0.5  # how often is looked whether the one who asked is still there


class BusyError(Exception):
    """The queue is full."""


class OverdueError(Exception):
    """It took longer than it may."""


class GoneError(Exception):
    """Nobody waits for it any more."""


class _Job:
    def __init__(self, limit_s: float) -> None:
        self.ends_s = time.monotonic() + limit_s
        self.gone = False

    def go_on(self) -> None:
        if self.gone:
            raise GoneError
        if time.monotonic() > self.ends_s:
            raise OverdueError


_here = threading.local()


def go_on() -> None:
    """Raises OverdueError or GoneError in work that should end; does nothing elsewhere."""
    job = getattr(_here, "job", None)
    if job is not None:
        job.go_on()


@contextmanager
def watch(network: nn.Module) -> Iterator[None]:
    """Within, the network asks `go_on` before each of its modules."""
    hooks = [module.register_forward_pre_hook(lambda *_: go_on()) for module in network.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Work:
    """threads: that work. at_once: how many pieces of work are done or wait. limit_s: of each, with
    its waiting."""

    def __init__(self, name: str, *, threads: int, at_once: int, limit_s: float) -> None:
        self.at_once, self.limit_s = at_once, limit_s
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"echoic-{name}")
        self._jobs: set[_Job] = set()
        self._closed = False

    @property
    def held(self) -> int:
        return len(self._jobs)

    async def do(
        self, work: Callable[[], T], gone: Callable[[], Awaitable[bool]] | None = None
    ) -> T:
        """What `work` returns, done in a thread. gone: whether nobody waits for it any more.

        Raises BusyError where too much waits, OverdueError, GoneError."""
        if self._closed:
            raise GoneError
        if len(self._jobs) >= self.at_once:
            raise BusyError
        job = _Job(self.limit_s)
        self._jobs.add(job)
        loop = asyncio.get_running_loop()
        try:
            held = self._threads.submit(_done, job, work)
        except BaseException:
            self._jobs.discard(job)
            raise
        held.add_done_callback(lambda _: _call(loop, self._jobs.discard, job))
        waiting = asyncio.wrap_future(held)
        try:
            return await _awaited(waiting, job, gone)
        finally:
            job.gone = True  # where this was cancelled
            waiting.cancel()  # and with it what has not begun; how the rest ends is not asked

    def close(self) -> None:
        """Ends what is being done at its next step; does not wait."""
        self._closed = True
        for job in list(self._jobs):
            job.gone = True
        self._threads.shutdown(wait=False, cancel_futures=True)


def _call(loop: asyncio.AbstractEventLoop, done: Callable[[_Job], None], job: _Job) -> None:
    try:
        loop.call_soon_threadsafe(done, job)
    except RuntimeError:  # the loop has ended
        done(job)


def _done(job: _Job, work: Callable[[], T]) -> T:
    _here.job = job
    try:
        job.go_on()
        return work()
    finally:
        _here.job = None


async def _awaited(
    waiting: asyncio.Future[T], job: _Job, gone: Callable[[], Awaitable[bool]] | None
) -> T:
    while True:
        rest_s = job.ends_s - time.monotonic()
        done, _ = await asyncio.wait({waiting}, timeout=min(LOOK_S, max(0.0, rest_s)))
        if waiting.cancelled():  # the server ends
            raise GoneError
        if done:
            return waiting.result()
        if rest_s <= 0:
            raise OverdueError
        if gone is not None and await gone():
            raise GoneError
