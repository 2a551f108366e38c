"""Who does pure work on many tasks: processes of this machine, or a Ray cluster.

Both are called as `map` is, give results as they come, in any order, and draw few tasks at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from echoic.types import DataError, first_line

T = TypeVar("T")
R = TypeVar("R")

_WAITING_PER_PROCESS = 2


@dataclass(frozen=True)
class Processes:
    """So many processes of this machine. A script that uses them must guard its main (`if __name__
    == "__main__":`)."""

    count: int

    def __call__(self, work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        # spawn: a forked child would inherit the locks of torch's threads without the threads
        context = multiprocessing.get_context("spawn")
        others = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(self.count, mp_context=context, initializer=_end_with_parent)
        try:
            yield from _few_at_once(lambda task: pool.submit(work, task), tasks, self.count)
        except BrokenProcessPool:
            raise DataError(
                "a process that was at work has died (out of memory?); the same call goes on"
            ) from None
        except BaseException:
            # what they are at is thrown away by the next run: no need to wait for it
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _few_at_once(submit: Callable[[T], Future[R]], tasks: Iterable[T], at_once: int) -> Iterator[R]:
    """Tasks are drawn only as the work goes on: each may hold much."""
    waiting: set[Future[R]] = set()
    left = iter(tasks)
    while True:
        room = at_once * _WAITING_PER_PROCESS - len(waiting)
        waiting |= {submit(task) for task in islice(left, room)}
        if not waiting:
            return
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def _end_with_parent() -> None:
    """Ctrl-C is the parent's business; and where it is killed, its children go too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True, name="echoic-parent").start()


@dataclass(frozen=True)
class RayTasks:
    """Tasks of Ray (extra `ray`): on the cluster at `address`, else on the one that this process
    has joined, else on this machine. at_once: by default one per processor of the cluster."""

    address: str | None = None
    at_once: int | None = None

    def __call__(self, work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        try:
            import ray
        except ImportError:
            raise DataError("Ray is not installed; pip install 'echoic[ray]'") from None
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False)
        # as the tasks are pure, one whose machine dies is done anew elsewhere
        remote = ray.remote(max_retries=3)(work)
        at_once = self.at_once or max(1, int(ray.cluster_resources().get("CPU", 1)))
        left = iter(tasks)
        waiting: list[Any] = []
        while True:
            room = at_once * _WAITING_PER_PROCESS - len(waiting)
            waiting += [remote.remote(task) for task in islice(left, room)]
            if not waiting:
                return
            done, waiting = ray.wait(waiting)
            try:
                yield from ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                raise DataError(
                    f"a task of Ray has failed ({first_line(error)}); the same call goes on"
                ) from None
