"""When a training's checkpoints are written: at once, or by a thread from copies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch.distributed as dist
from torch import Tensor

from echoic.train.checkpoint import Checkpoints
from echoic.train.ema import local
from echoic.train.state import TrainState
from echoic.train.world import LostError


class Background:
    """One save at a time in a thread, while the training goes on; it is handed copies."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, save: Callable[[], object]) -> None:
        """Once the one before is done. Raises what that one raised."""
        self.wait()

        def work() -> None:
            try:
                save()
            except BaseException as error:  # told by the next `wait`
                self._error = error

        self._thread = threading.Thread(target=work, name="echoic-checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until it is done. Raises what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.wait()
        elif self._thread is not None:
            self._thread.join()  # what is on its way is finished; the first error is the one told


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, for a save that goes on beside the training."""
    return {
        name: tensor.detach().clone() if tensor.device.type == "cpu" else tensor.detach().cpu()
        for name, tensor in tensors.items()
    }


class Saver(Background):
    """Checkpoints of a run, by the first rank; by all, each its parts, where weights are cut.
    beside: in a thread, while the training goes on."""

    def __init__(self, state: TrainState, store: Checkpoints, *, beside: bool) -> None:
        super().__init__()
        self.state, self.store, self.beside = state, store, beside
        self.cut = any(local(weight) is not weight for weight in state.task.parameters())
        # its own, as the thread and the training each send in their own order
        self.group = dist.new_group(backend="gloo") if self.cut else None

    def save(self, step: int, facts: dict[str, Any]) -> None:
        """Raises CheckpointError, also of the save before."""
        if not self.cut and not self.state.world.first:
            return
        self.wait()
        self.state.log.sync()
        tensors = copies(self.state.tensors()) if self.beside else self.state.tensors()
        if self.group is not None:
            self.start(partial(self.store.save_parts, step, tensors, facts, self.group))
        else:
            self.start(partial(self.store.save, step, tensors, facts))
        if not self.beside:
            self.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, LostError) and self.group is not None:
            self.group.abort()  # its thread would wait for the lost ones, too
        super().__exit__(kind, error, trace)
