"""What a training asks of its process: its random generators, exact kernels, memory, Ctrl-C."""

from __future__ import annotations

import ctypes
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
import torch
import torch.utils.deterministic
from torch import Tensor

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
_ASK_TO_STOP = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Inside, the first SIGINT or SIGTERM sets `asked`; a second one does what it did before.

    Only the main thread may listen to signals; in any other one `asked` stays False.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._ask) or signal.SIG_DFL for s in _ASK_TO_STOP}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listen_no_more()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._listen_no_more()

    def _listen_no_more(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


@contextmanager
def exact_kernels(device: torch.device) -> Iterator[None]:
    """Inside, the same sums are rounded the same way, on CPU.

    By default the gradient of `x[i]` with repeated i is summed by several threads in the order
    they come (20 different results in 20 runs of 2 threads). A GPU is left as it is: many of its
    kernels have no exact form.
    """
    if device.type != "cpu":
        yield
        return
    deterministic: Any = torch.utils.deterministic  # its attributes have no types
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True)
    # filling new tensors with NaN would only find reads of memory never written, and costs time
    deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = before[2]


def keep_memory() -> None:
    """From now on the process gives no memory back to the system before it ends.

    For programs that train on a CPU. glibc maps each large tensor anew and unmaps it again, so a
    step's activations are handed over in pages of 4 KiB, each cleared by the kernel: half of a step
    of `slap:small` was that. Another C library is left as it is.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):
            mallopt(option, value)


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[Callable[[int], None]]:
    """The generators of the process are afterwards as they were. `seed` sets them inside, as does
    what is given there."""

    def begin(seed: int) -> None:
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  (a task's library may draw from it)

    tensors, facts = torch_rng(), other_rng()
    try:
        if seed is not None:
            begin(seed)
        yield begin
    finally:
        set_rng(tensors, facts)


def torch_rng() -> dict[str, Tensor]:
    """States of torch's generators: `cpu`, `cuda.0` ..."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states |= {f"cuda.{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return states


def other_rng() -> dict[str, Any]:
    """States of python's and numpy's generators, as JSON."""
    of_numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    key = of_numpy["state"]["key"].tolist()
    return {
        "python": random.getstate(),
        "numpy": {**of_numpy, "state": {**of_numpy["state"], "key": key}},
    }


def set_rng(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Undo of `torch_rng` and `other_rng`."""
    torch.set_rng_state(tensors["cpu"])
    for i in range(torch.cuda.device_count()):
        if (state := tensors.get(f"cuda.{i}")) is not None:
            torch.cuda.set_rng_state(state, i)
    version, words, spare = facts["python"]
    random.setstate((version, tuple(words), spare))
    of_numpy = facts["numpy"]
    key = np.asarray(of_numpy["state"]["key"], np.uint32)
    np.random.set_state({**of_numpy, "state": {**of_numpy["state"], "key": key}})  # noqa: NPY002
