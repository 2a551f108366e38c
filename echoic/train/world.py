"""The processes of one training: who they are, what they agree on, who is missing.

torchrun's environment says how many there are. They meet by gloo (CPU) and, on GPUs, by NCCL too;
what they agree on travels as small CPU tensors, long waits go by torchrun's store. Nothing is
pickled. A rank is one process, W their number.

Gloo's threads live as long as their group. One that still lets go of a tensor while python ends
wants python's lock, and the process aborts ("terminate called without an active exception"): so
`joined` lets nothing hold the group when it leaves.
"""

from __future__ import annotations

import gc
import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # first loaded while there is a group, it holds it for good
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from echoic.types import ConfigError, EchoicError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

TIMEOUT_S = 600.0  # until a rank that does not come counts as hanging
BEAT_S = 2.0
SILENCE_S = 120.0  # after which the first rank, for which the others wait, has ended
GRACE_S = 10.0  # for the other ranks to say that they miss one, too

_POLL_S = 0.05

T = TypeVar("T")
CPU = torch.device("cpu")


class LostError(EchoicError):
    """Other ranks hang or have ended, so that the training cannot go on. missing: which. told:
    whether one of them has said itself why it ended."""

    def __init__(self, missing: Sequence[int], size: int, how: str, *, told: bool = False) -> None:
        named = f"rank{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
        super().__init__(
            f"{named} of {size} {how}; what the last checkpoint holds is kept: start again with "
            "--resume"
        )
        self.missing, self.told = tuple(missing), told


@dataclass(frozen=True)
class World:
    """This process among all. store: None in a world of one, where nothing is sent or awaited."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    timeout_s: float = TIMEOUT_S
    store: Store | None = None
    _turns: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    @property
    def first(self) -> bool:
        """Whether this process writes the files and talks to people."""
        return self.rank == 0

    def agree(self, *flags: bool) -> list[bool]:
        """Which of the flags are set on any rank. Raises LostError."""
        if self.store is None:
            return list(flags)
        told = torch.tensor(flags, dtype=torch.int32)
        with self.waiting():
            dist.all_reduce(told, dist.ReduceOp.MAX)
        return [bool(flag) for flag in told.tolist()]

    def gather(self, value: T) -> list[T]:
        """What every rank has, by rank: anything that JSON can say. Raises LostError."""
        if self.store is None:
            return [value]
        body = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with self.waiting():
            dist.all_gather(sizes, torch.tensor([len(body)]))
            longest = max(int(size) for size in sizes)
            bodies = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
            dist.all_gather(bodies, torch.nn.functional.pad(body, (0, longest - len(body))))
        told = zip(bodies, sizes, strict=True)
        return [json.loads(bytes(body[: int(size)].tolist())) for body, size in told]

    def of_first(self, act: Callable[[], T]) -> T:
        """What `act` gives on the first rank, on all of them; JSON. The others wait, as long
        as it lives. Raises what it raises there, and LostError elsewhere."""
        if self.store is None:
            return act()
        key = f"turn/{next(self._turns)}"
        if self.first:
            value = act()
            self.store.set(key, json.dumps(value))
            return value
        self._await(key)
        told: T = json.loads(self.store.get(key))
        return told

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first rank does what stands inside before the others do: it makes files, they read
        them."""
        if not self.first:
            self.of_first(lambda: None)
        yield
        if self.first:
            self.of_first(lambda: None)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Where ranks wait for each other: raises LostError with the ranks that did not come."""
        try:
            yield
        except RuntimeError as error:
            if self.store is None or not _of_network(error):
                raise
            raise self._lost(error) from error

    def mesh(self) -> DeviceMesh:
        """Of all ranks, on their devices."""
        # a second to import, which most trainings need not spend
        from torch.distributed.device_mesh import init_device_mesh

        _meshes.append(init_device_mesh(self.device.type, (self.size,)))
        return _meshes[-1]

    def failed(self, error: BaseException) -> None:
        """Let the others know that an error ends this process."""
        if self.store is None or isinstance(error, LostError):
            return
        with suppress(RuntimeError):  # the store may be gone, with the process that kept it
            self.store.set(f"failed/{self.rank}", str(error))

    def tells(self, error: Exception) -> bool:
        """Whether it is this process that should tell people of an error which ends it: of those
        that fail alike the lowest rank does."""
        if self.store is None:
            return True
        if isinstance(error, LostError):
            left = (rank for rank in range(self.size) if rank not in error.missing)
            return not error.told and self.rank == next(left, self.rank)
        self.failed(error)
        try:
            return not self._reported("failed", range(self.rank), wait_for=1)
        except RuntimeError:
            return True

    def _await(self, key: str) -> None:
        """Until the first rank sets it, or fails."""
        assert self.store is not None
        heard, heard_s = "", time.monotonic()
        while time.monotonic() < heard_s + SILENCE_S:
            try:
                if self.store.check([key]):
                    return
                if self.store.check(["failed/0"]):
                    raise LostError([0], self.size, "ended with an error", told=True)
                if (beat := self._beat_of(0)) != heard:
                    heard, heard_s = beat, time.monotonic()
            except RuntimeError:
                break  # the store is gone, with the process that kept it
            time.sleep(_POLL_S)
        raise LostError([0], self.size, "has ended")

    def _beat_of(self, rank: int) -> str:
        """Another one as long as that rank lives."""
        assert self.store is not None
        key = f"beat/{rank}"
        return self.store.get(key).decode() if self.store.check([key]) else ""

    def _lost(self, error: RuntimeError) -> LostError:
        """Who is missing: all who wait in vain report it, each at its own time-out; of those who
        have not yet, whoever's heart beats has not ended."""
        assert self.store is not None
        others = [rank for rank in range(self.size) if rank != self.rank]
        hangs = any(word in str(error) for word in _TIME_OUTS)
        try:
            self.store.set(f"waited/{self.rank}", "")
            _leave(at_once=True)
            before = [self._beat_of(rank) for rank in others]
            waited = self._reported("waited", others, wait_for=len(others))
            failed = self._reported("failed", others)
            now = [self._beat_of(rank) for rank in others]
        except RuntimeError:  # the store is gone, with the process that kept it
            return LostError([0], self.size, "has ended")
        if failed:
            return LostError(failed, self.size, "ended with an error", told=True)
        silent = [r for r, then, last in zip(others, before, now, strict=True) if then == last]
        missing = [rank for rank in (others if hangs else silent) if rank not in waited]
        how = f"did not come for {self.timeout_s:g} s: it hangs" if hangs else "has ended"
        return LostError(missing or others, self.size, how)

    def _reported(self, what: str, ranks: Sequence[int], wait_for: int = 0) -> list[int]:
        """Who of the ranks has reported; up to GRACE_S are given until so many have."""
        assert self.store is not None
        until_s = time.monotonic() + GRACE_S
        while True:
            found = [rank for rank in ranks if self.store.check([f"{what}/{rank}"])]
            if len(found) >= min(wait_for, len(ranks)) or time.monotonic() > until_s:
                return found
            time.sleep(_POLL_S)


ALONE = World()
_current = [ALONE]
_meshes: list[DeviceMesh] = []  # of the world that is joined


def current() -> World:
    """The one that `joined` has joined; ALONE outside of it."""
    return _current[-1]


@contextmanager
def joined(timeout_s: float = TIMEOUT_S) -> Iterator[World]:
    """Join the processes that torchrun started; in one alone, nothing is joined.

    timeout_s: until a rank that does not come counts as hanging. Raises ConfigError where they do
    not meet, or are more than there are GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = _device(local_rank)
    world = _meet(device, timeout_s) if size > 1 else World(device=device)
    _current.append(world)
    try:
        with _beating(world):
            yield world
            world.agree(True)  # nobody leaves while another still talks to it
    except BaseException as error:
        world.failed(error)
        if size > 1:
            _drop_locals(error)
        raise
    finally:
        _current.pop()
        if size > 1:
            _leave()
            gc.collect()  # DDP and FSDP lie in cycles, and hold the group


@contextmanager
def _beating(world: World) -> Iterator[None]:
    """Inside, a thread tells the others that this process lives."""
    done, store = threading.Event(), world.store
    if store is None:
        yield
        return

    def beat() -> None:
        for number in count(1):
            if done.wait(BEAT_S):
                return
            try:
                store.set(f"beat/{world.rank}", str(number))
            except RuntimeError:  # the store is gone; whoever waits meets that too
                return

    store.set(f"beat/{world.rank}", "0")
    thread = threading.Thread(target=beat, name="echoic-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _device(local_rank: int) -> torch.device:
    """Of that process of this machine. Raises ConfigError."""
    if not torch.cuda.is_available():
        return CPU
    gpus = torch.cuda.device_count()
    if local_rank >= gpus:
        raise ConfigError(
            f"process {local_rank + 1} of this machine, which has {gpus} GPUs: start one process "
            f"for each (torchrun --nproc_per_node {gpus}), or all on the CPU "
            "(CUDA_VISIBLE_DEVICES=)"
        )
    return torch.device("cuda", local_rank)


def _meet(device: torch.device, timeout_s: float) -> World:
    timeout = timedelta(seconds=timeout_s)
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.set_device(device)
    try:
        met, rank, size = next(rendezvous("env://", timeout=timeout))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=PrefixStore("groups", met),
            rank=rank,
            world_size=size,
            timeout=timeout,
        )
    except (RuntimeError, ValueError) as error:
        known = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
        told = ", ".join(f"{name} {value}" for name, value in known.items())
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"the processes of the training do not meet ({told}): {reason}") from None
    return World(rank, size, device, timeout_s, PrefixStore("echoic", met))


def _leave(*, at_once: bool = False) -> None:
    """at_once: whoever waits for this rank is told so, instead of waiting for the time-out."""
    if not dist.is_initialized():
        return
    if at_once and dist.group.WORLD is not None:
        dist.group.WORLD.abort()
    for mesh in _meshes:  # torch's caches of sharded operations keep meshes for good
        getattr(mesh, "_pg_registry", {}).clear()
    _meshes.clear()
    dist.destroy_process_group()


def _drop_locals(error: BaseException | None) -> None:
    """Of the frames that an error has ended, which would hold what they trained."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


# What torch says through plain RuntimeErrors; gloo names itself in most of its own.
_TIME_OUTS = ("imed out", "timeout caused pair closure")
_NETWORK = ("gloo", "NCCL", "Connection closed", "Connection reset", *_TIME_OUTS)


def _of_network(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in _NETWORK)
