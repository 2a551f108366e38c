"""Real processes that meet as those of torchrun do, each of which runs the same function.

python -m tests.train.ranks MODULE:FUNCTION WORLD FOLDER [SECONDS]

One program is started, which forks the ranks: torch is imported once.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.distributed import TCPStore

LEFT_S = 30.0
_DOOR = "MASTER_LISTENS"  # the store's socket, bound before the forks: nobody else gets its port
ROOT = Path(__file__).resolve().parents[2]
Work = Callable[[Path], None]


class Ended(NamedTuple):
    """codes: exit codes by rank, negative by a signal. said: of all together."""

    codes: list[int]
    said: str


def in_ranks(
    work: Work, world: int, folder: Path, *, within_s: float = 180, whole: bool = True
) -> Ended:
    """Run `work(folder)`, a function of a module, in so many ranks. whole: all must end well."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{work.__module__}:{work.__qualname__}"
    command = [sys.executable, "-m", "tests.train.ranks", name, str(world), str(folder)]
    done = subprocess.run(
        [*command, str(within_s)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=within_s + 30,
        check=False,
    )
    said, _, codes = done.stdout.rpartition("codes: ")
    ended = Ended([int(code) for code in codes.split()], said)
    if whole:
        assert ended.codes == [0] * world, done.stdout
    return ended


def fork_ranks(work: Work, world: int, folder: Path) -> list[int]:
    """The ids of the processes."""
    door = socket.create_server(("127.0.0.1", 0))
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(door.getsockname()[1]),
        "WORLD_SIZE": str(world),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the starting process keeps the store
        _DOOR: str(door.fileno()),
    }
    children = [_fork(work, rank, folder, door) for rank in range(world)]
    door.detach()
    return children


def make_store() -> TCPStore:
    """After the forks, as it has threads."""
    port, door = int(os.environ["MASTER_PORT"]), int(os.environ[_DOOR])
    return TCPStore(
        "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=door
    )


def _fork(work: Work, rank: int, folder: Path, door: socket.socket) -> int:
    if child := os.fork():
        return child
    door.close()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    code = 1
    try:
        torch.set_num_threads(1)
        work(folder)
        code = 0
    except BaseException as error:
        print(f"<{rank}> {type(error).__name__}: {error}", flush=True)
        if not str(type(error).__module__).startswith("echoic"):
            traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_for(children: list[int], within_s: float) -> list[int]:
    """Their exit codes; whoever takes longer is killed, or outlives one that failed for long, as
    torchrun does."""
    until_s = time.monotonic() + within_s
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        for child in set(children) - codes.keys():
            if time.monotonic() > until_s:
                os.kill(child, signal.SIGKILL)
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                codes[child] = os.waitstatus_to_exitcode(status)
                if codes[child]:
                    until_s = min(until_s, time.monotonic() + LEFT_S)
        time.sleep(0.01)
    return [codes[child] for child in children]


def main() -> None:
    name, world, folder, within_s = sys.argv[1:]
    module, _, function = name.partition(":")
    work = getattr(importlib.import_module(module), function)
    children = fork_ranks(work, int(world), Path(folder))
    store = make_store()
    codes = wait_for(children, float(within_s))
    del store
    print("codes:", *codes, flush=True)


if __name__ == "__main__":
    main()
