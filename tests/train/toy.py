"""A task and a loader with every kind of state there is; as a program, a training to kill.

python -m tests.train.toy FOLDER [--resume] [--hidden N] [--killed-at POINT ...]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from echoic.train import checkpoint, log
from echoic.train.loop import RunSpec, TrainResult, train
from echoic.train.optim import OptimSpec
from echoic.types import Batch, Ragged

WIDTH = 16
OPTIM = OptimSpec(lr=1e-2, weight_decay=0.1, warmup_steps=5, steps=60, accumulate=2, ema=0.9)
RUN = RunSpec(log_every=4, eval_every=10, save_every=3, keep_last=2, seed=7)


class ToyTask(nn.Module):
    """Copies its input through noise of the batch's seed and of every generator of the process."""

    teacher: Tensor

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.enter, self.leave = nn.Linear(WIDTH, hidden), nn.Linear(hidden, WIDTH)
        self.norm = nn.BatchNorm1d(hidden)  # has buffers
        self.register_buffer("teacher", torch.zeros(WIDTH, hidden))
        with torch.no_grad():
            for parameter in (*self.enter.parameters(), *self.leave.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clips = batch.audio.values.view(-1, WIDTH)  # (B, T)
        generator = torch.Generator().manual_seed(batch.seed)
        noisy = clips + 0.1 * torch.randn(clips.shape, generator=generator)
        hidden = nn.functional.dropout(torch.relu(self.norm(self.enter(noisy))), 0.1, self.training)
        hidden = hidden * (1 + 0.01 * random.random()) + 0.01 * np.random.random()  # noqa: NPY002
        out = self.leave(hidden)
        self.metrics = {"tokens": len(clips) * 10, "size": float(out.detach().abs().mean())}
        return {
            "copy": (out - clips).square().mean(),
            "teacher": 0.1 * (out - hidden @ self.teacher.T).square().mean(),
        }

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        self.teacher.lerp_(self.leave.weight, 1 / (2 + step))


class ToyLoader:
    """Batch t is a function of (seed, t); every seventh has a bad clip, and where they are uneven
    every fifth has fewer clips. As one of `ranks` it gives its share."""

    def __init__(
        self,
        seed: int = 0,
        spoil: Callable[[int, Tensor], Tensor] | None = None,
        *,
        rank: int = 0,
        ranks: int = 1,
        uneven: bool = False,
    ) -> None:
        self.seed, self.spoil, self.uneven = seed, spoil, uneven
        self.rank, self.ranks = rank, ranks
        self.bad: dict[str, str] = {}

    def batches(self, first_step: int) -> Iterator[Batch]:
        t = first_step + self.rank
        while True:
            if t % 7 == 0:
                self.bad[f"bad{t}"] = "silent"
            yield self.batch(t)
            t += self.ranks

    def batch(self, t: int) -> Batch:
        generator = torch.Generator().manual_seed(self.seed * 1000 + t)
        count = 3 if self.uneven and t % 5 == 0 else 8
        clips = torch.randn(count, WIDTH, generator=generator)
        if self.spoil:
            clips = self.spoil(t, clips)
        text = Ragged.from_lengths(torch.zeros(count, dtype=torch.int64), [1] * count)
        keys = tuple(f"clip{t}_{i}" for i in range(count))
        rows, seed = Ragged.from_rows(list(clips)), self.seed + t
        return Batch(rows, text, torch.arange(count), keys, seed)

    def state_dict(self) -> dict[str, Any]:
        return {"bad": dict(self.bad)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.bad = dict(state["bad"])


def evaluate(task: nn.Module) -> dict[str, float]:
    """Draws from the generators, as an evaluation may, and must not disturb the training by it."""
    noise = float(torch.rand(()) + random.random())
    weights = torch.cat([p.flatten() for p in task.parameters()])
    return {"weights": float(weights.double().sum()), "noise": noise}


def run_toy(folder: Path, task: nn.Module | None = None, **changes: Any) -> TrainResult:
    """A small training; `changes` replace arguments of `train`."""
    arguments: dict[str, Any] = {
        "optim": OPTIM,
        "run": RUN,
        "folder": folder,
        "evaluate": evaluate,
        "sample_rate_hz": WIDTH,
        "config": {"recipe": {"name": "toy"}},
    }
    arguments |= changes
    loader = arguments.pop("loader", None) or ToyLoader()
    return train(task if task is not None else ToyTask(), loader, **arguments)


def die_at(point: str, count: int) -> None:
    """Arrange for a real SIGKILL of this process at the `count`-th time that it reaches `point`."""
    left = count

    def dying(act: Callable[..., Any], before: bool) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = act(*args, **kwargs)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    def half_save(tensors: Any, path: Path) -> None:
        nonlocal left
        save(tensors, path)
        left -= 1
        if left == 0:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def half_row(this: log.RunLog, row: Any) -> None:
        nonlocal left
        write(this, row)
        left -= 1
        if left == 0:
            os.truncate(this.path, this.path.stat().st_size - 20)
            os.kill(os.getpid(), signal.SIGKILL)

    save, write = checkpoint.save_file, log.RunLog.row
    if point == "half the tensors":
        checkpoint.save_file = half_save
    elif point == "before the rename":
        checkpoint._sync = dying(checkpoint._sync, before=False)
    elif point == "before the oldest is dropped":
        checkpoint.Checkpoints._drop_old = dying(checkpoint.Checkpoints._drop_old, before=True)
    elif point == "half a row":
        log.RunLog.row = half_row
    else:
        raise ValueError(point)


def live_and_be_killed(folder: Path, hidden: int, point: str) -> None:
    """A process of its own resumes the training and is killed at `point`: one that `die_at` knows,
    or "any time", up to 50 ms after its next checkpoint.
    """
    chance = random.SystemRandom()
    store = checkpoint.Checkpoints(folder / "checkpoints", 1)
    before = max(store.steps(), default=0)
    child = os.fork()
    if child == 0:
        if point != "any time":
            die_at(point, chance.randint(2, 3))
        run_toy(folder, task=ToyTask(hidden=hidden), resume=True)
        os._exit(0)
    if point == "any time":
        while max(store.steps(), default=0) <= before:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
        raise SystemExit(f"{point}: the training outlived its kill (status {status})")
    print(f"killed {point}; the newest checkpoint is {max(store.steps(), default=0)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--killed-at", nargs="*", default=[], metavar="POINT")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for point in given.killed_at:
        live_and_be_killed(given.folder, given.hidden, point)
    task = ToyTask(hidden=given.hidden)
    run_toy(given.folder, task=task, resume=given.resume, console=Console())


if __name__ == "__main__":
    main()
