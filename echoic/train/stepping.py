"""One step of a training: passes over its batches, and the update of the weights or none.

What is not finite moves nothing: the step is skipped and counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from echoic.train.log import Meter
from echoic.train.optim import OptimSpec
from echoic.train.parallel import Losses, Parallel, mean_statistics
from echoic.train.process import StopRequest
from echoic.train.state import TrainState
from echoic.types import Batch, EchoicError


class NonFiniteError(EchoicError):
    """A loss or the gradient is NaN or infinite. The weights are still those of the step before."""


class Stepper:
    """Makes the steps. batches: of one, over all ranks; accumulate: of them, of each rank.
    draw_from: sets the process's generators by a seed. seed, max_skipped: as in `RunSpec`."""

    def __init__(
        self,
        state: TrainState,
        parallel: Parallel,
        optim: OptimSpec,
        accumulate: int,
        draw_from: Callable[[int], None],
        *,
        seed: int,
        max_skipped: int,
    ) -> None:
        self.draw_from, self.seeds = draw_from, dict[int, int]()
        self.state, self.parallel, self.optim = state, parallel, optim
        self.seed, self.max_skipped = seed, max_skipped
        self.accumulate, self.batches = accumulate, accumulate * state.world.size
        self.weights = [p for group in state.optimizer.param_groups for p in group["params"]]
        self.changing = changing_buffers(state.task)
        self.kept = [getattr(module, name).clone() for module, name in self.changing]

    def step(self, batches: Iterator[Batch], step: int, stop: StopRequest) -> bool:
        """Update the weights once, from the next batches, or skip what is not finite. `step` counts
        from 0. Returns whether any rank was asked to stop.

        Raises NonFiniteError after too many skipped in a row.
        """
        state, optim, meter = self.state, self.optim, self.state.log.meter
        self._keep_buffers()
        self.seeds.clear()
        began_s = time.perf_counter()
        passes = list(self._passes(batches, step))
        norm = self.parallel.clip(self.weights, optim.clip_norm or math.inf)
        measured = measured_of(passes, norm)
        wrong = not_finite(measured)
        bad, asked = state.world.agree(bool(wrong), stop.asked)
        if bad:
            self._skip(step, wrong)
        else:
            measured.tell(meter)
            self._update(step)
        meter.add("step_s", time.perf_counter() - began_s)
        state.log.advance(step + 1)
        return asked

    def _passes(self, batches: Iterator[Batch], step: int) -> Iterator[Pass]:
        """Of each batch of the step, as soon as its gradient is made."""
        task: Any = self.state.task
        first = step * self.batches + self.state.world.rank
        places = (first + i * self.state.world.size for i in range(self.accumulate))
        drawn: Iterable[Batch] = (self._drawn(batches, place) for place in places)
        losses_of: Callable[[Batch], Losses] = self._forward
        if getattr(task, "whole_step", False):  # gradient caching hears all of them first
            drawn = list(drawn)
            cached = task.losses_of_step(self._forward, drawn)
            losses_of = lambda batch: next(cached)  # noqa: E731
        for i, batch in enumerate(drawn):
            with self.parallel.accumulating(i == self.accumulate - 1):
                losses = losses_of(batch)
                loss = torch.stack([loss.float() for loss in losses.values()]).sum()
                (loss / self.accumulate).backward()
            yield Pass(batch, losses, dict(getattr(task, "metrics", {})))

    def _drawn(self, batches: Iterator[Batch], place: int) -> Batch:
        asked_s = time.perf_counter()
        batch = next(batches)
        self.state.log.meter.add("wait_s", time.perf_counter() - asked_s)
        self.seeds[id(batch)] = _seed(self.seed, place)
        return batch

    def _forward(self, batch: Batch, *more: Any) -> Losses:
        """The same each time that it is called for a batch of the step."""
        self.draw_from(self.seeds[id(batch)])
        device = device_of(self.state.task)
        bf16 = self.optim.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return self.parallel(batch.to(device), *more)

    def _update(self, step: int) -> None:
        state, optimizer = self.state, self.state.optimizer
        for group in optimizer.param_groups:
            group["lr"] = self.optim.lr_at(step)
        optimizer.step()
        optimizer.zero_grad()
        mean_statistics(state.task, state.world)
        if callable(after_step := getattr(state.task, "after_step", None)):
            after_step(step)
        if state.average is not None:
            state.average.update(step)
        state.skipped.row = 0

    def _skip(self, step: int, wrong: str) -> None:
        """Leave all as it was before the step. Raises NonFiniteError."""
        state, skipped = self.state, self.state.skipped
        state.optimizer.zero_grad()
        for (module, name), kept in zip(self.changing, self.kept, strict=True):
            getattr(module, name).copy_(kept)
        skipped.all, skipped.row = skipped.all + 1, skipped.row + 1
        found = filter(None, state.world.gather(wrong))
        told = max(found, key=lambda each: each.startswith("loss"))  # where it comes from
        if skipped.row > self.max_skipped:
            count = f" ({skipped.row} steps in a row)" if skipped.row > 1 else ""
            what, _, clips = told.partition("; ")
            raise NonFiniteError(
                f"step {step + 1}: {what}{count}; stopped, nothing was saved after it; {clips}"
            )
        state.log.note(f"step {step + 1} skipped: {told}")

    @torch.no_grad()
    def _keep_buffers(self) -> None:
        """A pass on what is not finite would spoil running statistics for good."""
        if self.kept:
            now = [getattr(module, name) for module, name in self.changing]
            torch._foreach_copy_(self.kept, now)


@dataclass(frozen=True)
class Pass:
    """One forward pass: what went in and what came out."""

    batch: Batch
    losses: Mapping[str, Tensor]
    metrics: dict[str, float | Tensor]

    def on_device(self) -> dict[str, Tensor]:
        """Its losses, and those of its metrics that no one has waited for yet."""
        waiting = {f"metric/{n}": v for n, v in self.metrics.items() if isinstance(v, Tensor)}
        return {**self.losses, **waiting}


@dataclass(frozen=True)
class Measured:
    """The numbers of a step: of each pass its losses and metrics, and the gradient's norm."""

    passes: list[tuple[Batch, dict[str, float], dict[str, float]]]
    grad_norm: float

    def tell(self, meter: Meter) -> None:
        for batch, losses, metrics in self.passes:
            meter.add_batch(batch, losses, metrics)
        meter.add("grad_norm", self.grad_norm)


def measured_of(passes: list[Pass], norm: Tensor) -> Measured:
    """By one transfer from the device."""
    on_device = [value for each in passes for value in each.on_device().values()]
    scalars = [  # a metric may lie on the CPU
        value.detach().to(norm.device, torch.float32).reshape(()) for value in [*on_device, norm]
    ]
    *values, grad_norm = torch.stack(scalars).tolist()
    rest = iter(values)
    found = []
    for each in passes:
        told = {name: next(rest) for name in each.on_device()}
        losses = {name: told[name] for name in each.losses}
        metrics = {n: float(told.get(f"metric/{n}", value)) for n, value in each.metrics.items()}
        found.append((each.batch, losses, metrics))
    return Measured(found, grad_norm)


def not_finite(measured: Measured) -> str:
    """What is not finite, and the clips that it was met in; empty if all is."""
    for batch, losses, _ in measured.passes:
        for name, value in losses.items():
            if not math.isfinite(value):
                return f"loss {name} is {value}; clips: {_named(batch.keys)}"
    if not math.isfinite(measured.grad_norm):
        keys = [key for batch, _, _ in measured.passes for key in batch.keys]
        return f"the gradient's norm is {measured.grad_norm}; clips: {_named(keys)}"
    return ""


def changing_buffers(task: nn.Module) -> list[tuple[nn.Module, str]]:
    """Those that a pass may change, each by its module and name there: what a checkpoint holds. The
    others (windows, positions, masks) follow from the module's description."""
    return [
        (module, name)
        for module in task.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if buffer is not None and name not in module._non_persistent_buffers_set
    ]


def device_of(task: nn.Module) -> torch.device:
    return next(task.parameters()).device


def _named(keys: Sequence[str], most: int = 16) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def _seed(seed: int, place: int) -> int:
    """For the forward pass on the batch at that place of the stream, whichever rank makes it."""
    return int(np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0] >> 1)
