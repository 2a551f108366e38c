"""What a training tells: a line per interval, the same as JSON lines, a bar on a terminal.

`log.jsonl` holds a `train` row per interval and an `eval` row per evaluation. All that depends on
the clock stands under `time`; the rest of a row is the same whether or not the training was
interrupted.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from echoic.config import parse_json
from echoic.types import Batch, CheckpointError

_EVERYWHERE = {"step_s", "wait_s", "grad_norm"}  # all ranks measure the same thing
SHOWN = 6  # of a task's metrics in a line; the file has all


class Meter:
    """Sums over the steps since the last line of the log; a checkpoint between two holds them."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._sum: defaultdict[str, float] = defaultdict(float)
        self._count: defaultdict[str, int] = defaultdict(int)

    def add(self, name: str, value: float) -> None:
        self._sum[name] += value
        self._count[name] += 1

    def add_batch(
        self, batch: Batch, losses: Mapping[str, float], metrics: Mapping[str, float]
    ) -> None:
        """Of one forward pass. The metric `tokens` is a count; every other one is averaged."""
        self.add("clips", len(batch))
        self.add("samples", sum(batch.audio.lengths))
        for name, value in losses.items():
            self.add(f"loss/{name}", value)
        for name, value in metrics.items():
            self.add("tokens" if name == "tokens" else f"metric/{name}", float(value))

    def total(self, name: str) -> float:
        return self._sum.get(name, 0.0)

    def mean(self, name: str) -> float:
        return self._sum[name] / self._count[name] if self._count[name] else math.nan

    def means(self, section: str) -> dict[str, float]:
        start = f"{section}/"
        return {n.removeprefix(start): self.mean(n) for n in self._sum if n.startswith(start)}

    def state_dict(self, *, everywhere_only: bool = False) -> dict[str, Any]:
        kept = _EVERYWHERE if everywhere_only else self._sum.keys()
        return {
            "sum": {name: value for name, value in self._sum.items() if name in kept},
            "count": {name: n for name, n in self._count.items() if name in kept},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.clear()
        self._sum.update(state["sum"])
        self._count.update(state["count"])

    @classmethod
    def of_ranks(cls, states: Sequence[Mapping[str, Any]]) -> Meter:
        """What they have measured together."""
        whole = cls()
        for state in states:
            for name, value in state["sum"].items():
                whole._sum[name] += value / (len(states) if name in _EVERYWHERE else 1)
                whole._count[name] += state["count"][name]
        for name in _EVERYWHERE & whole._count.keys():
            whole._count[name] //= len(states)
        return whole


class RunLog:
    """Writes `path` (JSON lines) and the console; None as console writes the file alone.

    sample_rate_hz: of batch.audio; None leaves seconds of audio out. losses, metrics: last told.
    """

    def __init__(
        self, path: Path, console: Console | None, total_steps: int, sample_rate_hz: int | None
    ) -> None:
        self.path, self.console = path, console or Console(quiet=True)
        self.total_steps, self.sample_rate_hz = total_steps, sample_rate_hz
        self.meter = Meter()
        self.losses: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self._began_s = time.perf_counter()
        self._progress = Progress(
            TextColumn("[bold]step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            refresh_per_second=4,
            disable=not self.console.is_terminal or self.console.quiet or "CI" in os.environ,
        )
        self._bar = self._progress.add_task("", total=total_steps)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def cut_back(self, step: int) -> None:
        """Drop rows later than `step`, which will be made again, and a half-written last one."""
        kept = [
            line for line in _lines(self.path) if (at := _step_of(line)) is not None and at <= step
        ]
        whole = self.path.with_name(self.path.name + ".tmp")
        with _writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            whole.write_bytes(b"".join(line + b"\n" for line in kept))
            whole.replace(self.path)
        self.advance(step)

    def advance(self, step: int) -> None:
        self._progress.update(self._bar, completed=step)

    def note(self, text: str) -> None:
        """A line for people only."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def row(self, row: Mapping[str, Any]) -> None:
        """One JSON line, in one write. Raises CheckpointError if it cannot be written."""
        line = json.dumps(_plain(row), allow_nan=False).encode() + b"\n"
        with _writing(self.path), self.path.open("ab", buffering=0) as file:
            file.write(line)

    def sync(self) -> None:
        """On the disk before the checkpoint that counts on it."""
        with _writing(self.path), self.path.open("rb+") as file:
            os.fsync(file.fileno())

    @property
    def elapsed_s(self) -> float:
        """Since the run began, the time between an interruption and its resume left out."""
        return time.perf_counter() - self._began_s

    def interval(
        self, step: int, lr: float, bad: int, *, skipped: int = 0, meter: Meter | None = None
    ) -> None:
        """Tell the steps since the last interval, up to `step` made, and begin a new one. meter: of
        all ranks, where there are several."""
        row = self._interval_row(step, lr, bad, skipped, meter or self.meter)
        self.row(row)
        self.note(interval_line(row, self.total_steps))
        self.losses = row["losses"]
        self.meter.clear()

    def evaluation(self, step: int, metrics: dict[str, float], took_s: float) -> None:
        clocks = {"elapsed_s": self.elapsed_s, "eval_s": took_s}
        self.row({"kind": "eval", "step": step, "metrics": metrics, "time": clocks})
        found = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self.note(f"eval {step}/{self.total_steps} | {found} | took {_clock(took_s)}")
        self.metrics = metrics

    def end(self, step: int) -> None:
        if step == self.total_steps:
            self.note(f"all {step} steps made in {_clock(self.elapsed_s)}; {self.path.parent}")
        else:
            self.note(
                f"stopped as asked after step {step} of {self.total_steps}; all is saved in "
                f"{self.path.parent}; the same command with --resume goes on from here"
            )

    def state_dict(self) -> dict[str, Any]:
        return {
            "meter": self.meter.state_dict(),
            "losses": self.losses,
            "metrics": self.metrics,
            "elapsed_s": self.elapsed_s,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.meter.load_state_dict(state["meter"])
        self.losses, self.metrics = state["losses"], state["metrics"]
        self._began_s = time.perf_counter() - state["elapsed_s"]

    def _interval_row(
        self, step: int, lr: float, bad: int, skipped: int, meter: Meter
    ) -> dict[str, Any]:
        """docs/training.md says what each key means."""
        losses = meter.means("loss")
        counts: dict[str, float] = {"clips": round(meter.total("clips"))}
        if self.sample_rate_hz:
            counts["audio_s"] = meter.total("samples") / self.sample_rate_hz
        if tokens := meter.total("tokens"):
            counts["tokens"] = round(tokens)
        seconds = max(meter.total("step_s"), 1e-9)
        return {
            "kind": "train",
            "step": step,
            "loss": sum(losses.values()),
            "losses": losses,
            "lr": lr,
            "grad_norm": meter.mean("grad_norm"),
            "metrics": meter.means("metric"),
            **counts,
            "bad": bad,
            "skipped": skipped,
            "time": {
                "elapsed_s": self.elapsed_s,
                "eta_s": (self.total_steps - step) * meter.mean("step_s"),
                "wait_share": meter.total("wait_s") / seconds,
                **{f"{name}_per_s": count / seconds for name, count in counts.items()},
            },
        }


class SilentLog(RunLog):
    """Of a rank that only counts: the first one writes and tells."""

    def __init__(self, path: Path, total_steps: int, sample_rate_hz: int | None) -> None:
        super().__init__(path, None, total_steps, sample_rate_hz)

    def row(self, row: Mapping[str, Any]) -> None: ...

    def sync(self) -> None: ...

    def cut_back(self, step: int) -> None: ...


def interval_line(row: Mapping[str, Any], total_steps: int) -> str:
    """A `train` row for people."""
    clocks = row["time"]
    losses = " + ".join(f"{name} {value:.4f}" for name, value in row["losses"].items())
    rates = [
        f"{_short(clocks[key])} {unit}"
        for key, unit in (
            ("clips_per_s", "clips/s"),
            ("audio_s_per_s", "audio-s/s"),
            ("tokens_per_s", "tokens/s"),
        )
        if key in clocks
    ]
    parts = [
        f"step {row['step']:>{len(str(total_steps))}}/{total_steps}",
        f"loss {row['loss']:.4f}" + (f" = {losses}" if len(row["losses"]) > 1 else ""),
        f"lr {row['lr']:.2e}",
        f"grad {row['grad_norm']:.3g}",
        *(f"{name} {value:.4g}" for name, value in islice(row["metrics"].items(), SHOWN)),
        "  ".join(rates),
        f"wait {clocks['wait_share']:.0%}",
        f"{_clock(clocks['eta_s'])} left",
        f"{row['bad']} bad clips",
        *([f"{row['skipped']} steps skipped"] if row["skipped"] else []),
    ]
    return " | ".join(parts)


def _short(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for both."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); make room and resume"
        ) from error


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n") if path.exists() else []


def _step_of(line: bytes) -> int | None:
    try:
        return int(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None  # half written when the run was killed, or empty
