"""The one training loop. Models, objectives, data and evaluation arrive as values and callables.

A task is a module whose `forward(batch)` returns named losses, already weighted. It may have
    task.metrics                     set by each forward: numbers by name, floats or scalars on
                                     the device; logged as means, `tokens` as a rate
    task.after_step(step)            called after each update of the weights, step from 0
Nothing here draws at random, and all that changes lies in `TrainState`: a training that was killed
and resumed equals one that was not, bit for bit on CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from rich.console import Console
from torch import Tensor, nn

from echoic.config import Spec
from echoic.train.checkpoint import Checkpoints
from echoic.train.ema import Average
from echoic.train.log import RunLog
from echoic.train.optim import OptimSpec, make_optimizer
from echoic.train.process import StopRequest, exact_kernels, isolated_rng
from echoic.train.state import Loader, TrainState, begin, plain
from echoic.types import Batch, EchoicError

Every = Annotated[int, Field(ge=1)]
Evaluate = Callable[[nn.Module], Mapping[str, float]]


class RunSpec(Spec):
    """How a run is watched and kept; the intervals are in steps.

    eval_every: None evaluates after the last step only. seed: of the process's generators, from
    which a task's plain nn.Dropout draws (the loader has its own).
    """

    log_every: Every = 10
    eval_every: Every | None = None
    save_every: Every = 100
    keep_last: Every = 3
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


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
) -> TrainResult:
    """Train `task` for `optim.steps` steps in `folder`, or go on there from its checkpoint.

    evaluate: called in eval mode without gradients, on the average of the weights where one is
    kept.
    sample_rate_hz: of batch.audio, to tell seconds of audio.
    config: whatever else must be the same on resume, such as the recipe.
    Raises ConfigError (another training lies there; something changed), CheckpointError (no room;
    none is whole), NonFiniteError, and what the loader raises. Every checkpoint already written
    outlives all of them.
    """
    optimizer = make_optimizer(task, optim)
    average = Average(task, optim.ema) if optim.ema is not None else None
    log = RunLog(folder / "log.jsonl", console, optim.steps, sample_rate_hz)
    state = TrainState(task, optimizer, average, loader, log)
    store = Checkpoints(folder / "checkpoints", run.keep_last)
    whole_config = {"optim": plain(optim), "run": plain(run), **plain(config or {})}

    with isolated_rng(run.seed), exact_kernels(device_of(task)), StopRequest() as stop, log:
        step = begin(state, store, whole_config, resume)
        batches = loader.batches(step * optim.accumulate)
        task.train()
        while step < optim.steps:
            train_step(state, batches, optim, step)
            step += 1  # steps made
            last = step == optim.steps
            ending = last or stop.asked
            if last or step % run.log_every == 0:
                log.interval(step, lr=optim.lr_at(step - 1), bad=len(loader.bad))
            if evaluate and (last or (run.eval_every and step % run.eval_every == 0)):
                run_evaluation(state, evaluate, step)
            if ending or step % run.save_every == 0:
                log.sync()
                store.save(step, state.tensors(), state.facts(whole_config))
            if ending:
                break
        log.end(step)
    newest = store.steps()[step]
    finished = step == optim.steps
    return TrainResult(step, finished, newest, log.losses, log.metrics, log.elapsed_s)


def train_step(state: TrainState, batches: Iterator[Batch], optim: OptimSpec, step: int) -> None:
    """Update the weights once, from `optim.accumulate` batches. `step` counts from 0."""
    task, optimizer, meter = state.task, state.optimizer, state.log.meter
    device = device_of(task)
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=optim.precision == "bf16")
    passes: list[Pass] = []
    began_s = time.perf_counter()

    for _ in range(optim.accumulate):
        asked_s = time.perf_counter()
        batch = next(batches)
        meter.add("wait_s", time.perf_counter() - asked_s)
        with bf16:
            losses: dict[str, Tensor] = task(batch.to(device))
        loss = torch.stack([loss.float() for loss in losses.values()]).sum()
        (loss / optim.accumulate).backward()
        passes.append(Pass(batch, losses, dict(getattr(task, "metrics", {}))))

    weights = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(weights, optim.clip_norm or math.inf)
    measure(state, passes, norm, step)  # raises on a loss or a gradient that is not finite
    for group in optimizer.param_groups:
        group["lr"] = optim.lr_at(step)
    optimizer.step()
    optimizer.zero_grad()

    if callable(after_step := getattr(task, "after_step", None)):
        after_step(step)
    if state.average is not None:
        state.average.update(step)
    meter.add("step_s", time.perf_counter() - began_s)
    state.log.advance(step + 1)


@dataclass(frozen=True)
class Pass:
    """One forward pass: what went in and what came out."""

    batch: Batch
    losses: dict[str, Tensor]
    metrics: dict[str, float | Tensor]

    def on_device(self) -> dict[str, Tensor]:
        """Its losses, and those of its metrics that no one has waited for yet."""
        waiting = {f"metric/{n}": v for n, v in self.metrics.items() if isinstance(v, Tensor)}
        return self.losses | waiting


def measure(state: TrainState, passes: list[Pass], norm: Tensor, step: int) -> None:
    """Bring the numbers of one step to the meter, by one transfer. Raises NonFiniteError."""
    on_device = [value for each in passes for value in each.on_device().values()]
    scalars = [value.detach().float().reshape(()) for value in [*on_device, norm]]
    *values, grad_norm = torch.stack(scalars).tolist()
    rest = iter(values)
    for each in passes:
        told = {name: next(rest) for name in each.on_device()}
        losses = {name: told[name] for name in each.losses}
        for name, value in losses.items():
            if not math.isfinite(value):
                raise NonFiniteError(_not_finite(step, f"loss {name} is {value}", [each]))
        metrics = {n: float(told.get(f"metric/{n}", value)) for n, value in each.metrics.items()}
        state.log.meter.add_batch(each.batch, losses, metrics)
    if not math.isfinite(grad_norm):
        raise NonFiniteError(_not_finite(step, f"the gradient's norm is {grad_norm}", passes))
    state.log.meter.add("grad_norm", grad_norm)


def run_evaluation(state: TrainState, evaluate: Evaluate, step: int) -> None:
    """Evaluate, tell it, and leave the task and every generator as they were."""
    began_s = time.perf_counter()
    averaged = state.average.applied() if state.average else nullcontext()
    state.task.eval()
    with torch.no_grad(), isolated_rng(), averaged:
        metrics = {name: float(value) for name, value in evaluate(state.task).items()}
    state.task.train()
    state.log.evaluation(step, metrics, took_s=time.perf_counter() - began_s)


def device_of(task: nn.Module) -> torch.device:
    return next(task.parameters()).device


def _not_finite(step: int, what: str, passes: list[Pass], most: int = 16) -> str:
    keys = [key for each in passes for key in each.batch.keys]
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    clips = ", ".join(keys[:most]) + more
    return f"step {step + 1}: {what}; stopped, nothing was saved after it; clips: {clips}"
