"""The one training loop. Models, objectives, data and evaluation arrive as values and callables.

A task is a module whose `forward(batch)` returns named losses, already weighted. It may have
    task.metrics                     set by each forward: numbers by name, floats or scalars on
                                     the device; logged as means, `tokens` as a rate
    task.after_step(step)            called after each update of the weights, step from 0
The draws of a forward pass from the process's generators follow from `run.seed` and the batch's
place in the stream of batches, and all that changes lies in `TrainState`: a training that was
killed and resumed equals one that was not, bit for bit on CPU. W ranks with A batches each make the
steps that one process makes with A * W; rank r takes the batches whose place is r modulo W.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from rich.console import Console
from torch import Tensor, nn

from echoic.config import Spec
from echoic.train.checkpoint import Background, Checkpoints, copies
from echoic.train.ema import Average, local
from echoic.train.log import Meter, RunLog, SilentLog
from echoic.train.optim import OptimSpec, make_optimizer
from echoic.train.parallel import Losses, Parallel, changed_blocks, mean_statistics, spread
from echoic.train.process import StopRequest, exact_kernels, isolated_rng
from echoic.train.state import Loader, TrainState, begin, plain
from echoic.train.world import ALONE, LostError, World
from echoic.types import Batch, EchoicError

Every = Annotated[int, Field(ge=1)]
Evaluate = Callable[[nn.Module], Mapping[str, float]]


class RunSpec(Spec):
    """How a run is watched, kept and computed; the intervals are in steps.

    eval_every: None evaluates after the last step only. seed: of the process's generators, from
    which a task's plain nn.Dropout draws (the loader has its own).
    max_skipped: so many steps in a row may be skipped as a loss or the gradient is not finite.
    save_in_background: a thread writes a copy while the training goes on.
    parallel: over several ranks all hold all weights (ddp) or a part of each (fsdp).
    checkpoint_activations: those of the blocks are made again in the backward pass, which saves
    memory for a third more work. compile: the blocks, by torch.compile.
    """

    log_every: Every = 10
    eval_every: Every | None = None
    save_every: Every = 100
    keep_last: Every = 3
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    max_skipped: Annotated[int, Field(ge=0)] = 10
    save_in_background: bool = True
    parallel: Literal["ddp", "fsdp"] = "ddp"
    checkpoint_activations: bool = False
    compile: bool = False


class NonFiniteError(EchoicError):
    """A loss or the gradient is NaN or infinite. The weights are still those of the step before."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended; `finished` is False if it was asked to stop and can be resumed.

    step: steps made. checkpoint: the newest. losses: of the last log interval. metrics: of the
    last evaluation.
    """

    step: int
    finished: bool
    checkpoint: Path
    losses: dict[str, float]
    metrics: dict[str, float]
    elapsed_s: float


def train(
    task: nn.Module,
    loader: Loader,
    *,
    optim: OptimSpec,
    run: RunSpec,
    folder: Path,
    evaluate: Evaluate | None = None,
    resume: bool = False,
    console: Console | None = None,
    sample_rate_hz: int | None = None,
    config: Spec | Mapping[str, Any] | None = None,
    world: World = ALONE,
) -> TrainResult:
    """Train `task` for `optim.steps` steps in `folder`, or go on there from its checkpoint.

    evaluate: called in eval mode without gradients, on the average of the weights where one is
    kept; by the first rank.
    sample_rate_hz: of batch.audio, to tell seconds of audio.
    config: whatever else must be the same on resume, such as the recipe.
    world: whose ranks all call this, on one file system, each with its own loader. With
    `run.parallel` fsdp the task is cut up for good: load the checkpoint into another.
    Raises ConfigError (another training lies there; something changed), CheckpointError (no room;
    none is whole), NonFiniteError, LostError, and what the loader raises. Every checkpoint already
    written outlives all of them.
    """
    parallel = spread(task, run.parallel, world)
    optimizer = make_optimizer(task, optim)
    average = Average(task, optim.ema) if optim.ema is not None else None
    log = _log(folder / "log.jsonl", console, optim.steps, sample_rate_hz, world)
    state = TrainState(task, optimizer, average, loader, log, world)
    store = Checkpoints(folder / "checkpoints", run.keep_last)
    whole_config = {"optim": plain(optim), "run": plain(run), **plain(config or {})}
    changed = changed_blocks(task, checkpointed=run.checkpoint_activations, compiled=run.compile)

    with (
        isolated_rng(run.seed) as draw_from,
        exact_kernels(device_of(task)),
        StopRequest() as stop,
        log,
        changed,
        Saver(state, store, run) as saver,
    ):
        step, accumulate = begin(state, store, whole_config, resume, optim.accumulate)
        stepper = Stepper(state, parallel, optim, run, accumulate, draw_from)
        batches = loader.batches(step * stepper.batches)
        task.train()
        while step < optim.steps:
            with world.waiting():
                asked = stepper.step(batches, step, stop)
            step += 1  # steps made
            last = step == optim.steps
            ending = last or asked
            if last or step % run.log_every == 0:
                tell_interval(state, step, optim.lr_at(step - 1))
            if evaluate and (last or (run.eval_every and step % run.eval_every == 0)):
                run_evaluation(state, parallel, evaluate, step)
            if ending or step % run.save_every == 0:
                saver.save(step, state.facts(whole_config, stepper.batches))
            if ending:
                break
        saver.wait()
        log.end(step)
    finished = step == optim.steps
    newest = store.of_step(step)
    return TrainResult(step, finished, newest, log.losses, log.metrics, log.elapsed_s)


class Saver(Background):
    """Checkpoints of a run, by the first rank; by all, each its parts, where weights are cut."""

    def __init__(self, state: TrainState, store: Checkpoints, run: RunSpec) -> None:
        super().__init__()
        self.state, self.store, self.beside = state, store, run.save_in_background
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


class Stepper:
    """Makes the steps. batches: of one, over all ranks; accumulate: of them, of each rank.
    draw_from: sets the process's generators by a seed."""

    def __init__(
        self,
        state: TrainState,
        parallel: Parallel,
        optim: OptimSpec,
        run: RunSpec,
        accumulate: int,
        draw_from: Callable[[int], None],
    ) -> None:
        self.draw_from, self.seeds = draw_from, dict[int, int]()
        self.state, self.parallel, self.optim, self.run = state, parallel, optim, run
        self.accumulate, self.batches = accumulate, accumulate * state.world.size
        self.weights = [p for group in state.optimizer.param_groups for p in group["params"]]
        self.kept = [buffer.clone() for buffer in state.task.buffers()]

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
        self.seeds[id(batch)] = _seed(self.run.seed, place)
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
        for buffer, kept in zip(state.task.buffers(), self.kept, strict=True):
            buffer.copy_(kept)
        skipped.all, skipped.row = skipped.all + 1, skipped.row + 1
        found = filter(None, state.world.gather(wrong))
        told = max(found, key=lambda each: each.startswith("loss"))  # where it comes from
        if skipped.row > self.run.max_skipped:
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
            torch._foreach_copy_(self.kept, list(self.state.task.buffers()))


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
    scalars = [value.detach().float().reshape(()) for value in [*on_device, norm]]
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


def tell_interval(state: TrainState, step: int, lr: float) -> None:
    """The log's line, of what all ranks did."""
    world, log, loader = state.world, state.log, state.loader
    meter = Meter.of_ranks(world.gather(log.meter.state_dict()))
    bad = {key for keys in world.gather(list(loader.bad)) for key in keys}
    log.interval(step, lr=lr, bad=len(bad), skipped=state.skipped.all, meter=meter)


def run_evaluation(state: TrainState, parallel: Parallel, evaluate: Evaluate, step: int) -> None:
    """Evaluate, where that can be on the first rank alone, and tell it. The task and every
    generator are afterwards as they were."""
    began_s = time.perf_counter()
    averaged = state.average.applied() if state.average else nullcontext()

    def measure() -> dict[str, float]:
        return {name: float(value) for name, value in evaluate(state.task).items()}

    state.task.eval()
    with torch.no_grad(), isolated_rng(), averaged, parallel.evaluating() as together:
        if together:
            found = measure()
            metrics = state.world.of_first(lambda: found)
        else:
            metrics = state.world.of_first(measure)
    state.task.train()
    state.log.evaluation(step, metrics, took_s=time.perf_counter() - began_s)


def device_of(task: nn.Module) -> torch.device:
    return next(task.parameters()).device


def _named(keys: Sequence[str], most: int = 16) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def _seed(seed: int, place: int) -> int:
    """For the forward pass on the batch at that place of the stream, whichever rank makes it."""
    return int(np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0] >> 1)


def _log(
    path: Path, console: Console | None, steps: int, sample_rate_hz: int | None, world: World
) -> RunLog:
    if world.first:
        return RunLog(path, console, steps, sample_rate_hz)
    return SilentLog(path, steps, sample_rate_hz)
