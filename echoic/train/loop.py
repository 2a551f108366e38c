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

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from rich.console import Console
from torch import nn

from echoic.config import Spec
from echoic.train.alike import data_of, program, require_alike, shapes
from echoic.train.checkpoint import Checkpoints
from echoic.train.ema import Average
from echoic.train.log import Meter, RunLog, SilentLog
from echoic.train.optim import OptimSpec, make_optimizer
from echoic.train.parallel import Parallel, changed_blocks, spread
from echoic.train.process import StopRequest, exact_kernels, isolated_rng
from echoic.train.saving import Saver
from echoic.train.state import Loader, TrainState, begin, plain
from echoic.train.stepping import Stepper, device_of
from echoic.train.world import ALONE, World

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
    kept; by the first rank alone, or where the weights are cut over the ranks (fsdp) by all of
    them, which must then ask the same of the task. A loss that meets the rows of other ranks stands
    inside `objectives.gather.alone` there.
    sample_rate_hz: of batch.audio, to tell seconds of audio.
    config: whatever else must be the same on resume, such as the recipe.
    world: whose ranks all call this, on one file system, each with its own loader. With
    `run.parallel` fsdp the task is cut up for good: load the checkpoint into another.
    Raises ConfigError (another training lies there; something changed; the ranks are to train
    different things), CheckpointError (no room; none is whole), NonFiniteError, LostError, and what
    the loader raises. Every checkpoint already written outlives all of them.
    """
    whole_config = {"optim": plain(optim), "run": plain(run), **plain(config or {})}
    require_alike(
        world,
        lambda: {
            **program(), **whole_config, "task": shapes(task), "data": data_of(loader),
            "folder": str(folder), "resume": resume, "evaluates": evaluate is not None,
        },
    )  # fmt: skip
    parallel = spread(task, run.parallel, world)
    optimizer = make_optimizer(task, optim)
    average = Average(task, optim.ema) if optim.ema is not None else None
    log = _log(folder / "log.jsonl", console, optim.steps, sample_rate_hz, world)
    state = TrainState(task, optimizer, average, loader, log, world)
    store = Checkpoints(folder / "checkpoints", run.keep_last)
    changed = changed_blocks(task, checkpointed=run.checkpoint_activations, compiled=run.compile)

    with (
        isolated_rng(run.seed) as draw_from,
        exact_kernels(device_of(task)),
        StopRequest() as stop,
        log,
        changed,
        Saver(state, store, beside=run.save_in_background) as saver,
    ):
        step, accumulate = begin(state, store, whole_config, resume, optim.accumulate)
        require_alike(world, lambda: {"step": step, "accumulate": accumulate})
        stepper = Stepper(
            state, parallel, optim, accumulate, draw_from,
            seed=run.seed, max_skipped=run.max_skipped,
        )  # fmt: skip
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
                with world.waiting():
                    saver.save(step, state.facts(whole_config, stepper.batches))
            if ending:
                break
        with world.waiting():
            saver.wait()
        log.end(step)
    finished = step == optim.steps
    newest = store.of_step(step)
    return TrainResult(step, finished, newest, log.losses, log.metrics, log.elapsed_s)


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
            with state.world.waiting():
                found = measure()
        else:
            found = state.world.of_first(measure)
    metrics = state.world.of_first(lambda: found) if together else found
    state.task.train()
    state.log.evaluation(step, metrics, took_s=time.perf_counter() - began_s)


def _log(
    path: Path, console: Console | None, steps: int, sample_rate_hz: int | None, world: World
) -> RunLog:
    if world.first:
        return RunLog(path, console, steps, sample_rate_hz)
    return SilentLog(path, steps, sample_rate_hz)
