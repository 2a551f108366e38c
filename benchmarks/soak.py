"""Whether half an hour of work leaves a process as it was: its memory, files, threads and speed.

    python -m benchmarks.soak               # training and web server at once: 32 minutes
    python -m benchmarks.soak --quick       # a minute: shows that it runs, no more

training: `echoic train slap:nano`, its three objectives on shards of the embedded corpus in small
    batches (more steps), a checkpoint every 50 steps and a validation every 200, stopped by Ctrl-C
    at the end.
web: `echoic web` of a folder of scenes under two clients that search, upload, tag, compare and
    delete without a pause, and now and then send what is no sound; stopped by Ctrl-C at the end.

The first fifth of each is left out: caches fill and pools grow then.

..._growth: memory (RSS of the process and its children) of the last fifth over that of the second.
..._files: most open files in the last fifth less most in the second; ..._threads: the same.
..._steadiness: work per CPU second in the last two fifths over that in the second and third; of
    the CPU's seconds, as other work on the machine would count otherwise.
..._left: processes and temporary files that were there when it had ended.
web_failures: answers that were neither what was asked for nor the refusal that was due.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean

from benchmarks.output import finish, show
from benchmarks.web_load import Client, address_of

EVERY_S = 2.0
ENDS_S = 60.0  # what a process has to end after Ctrl-C
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """Of a process and its children, at one moment."""

    at_s: float
    cpu_s: float
    memory_bytes: int
    files: int
    threads: int
    work: float


@dataclass
class Watch:
    """Looks at a process every two seconds. work: how much it has done until now."""

    process: subprocess.Popen[str]
    work: Callable[[], float]
    samples: list[Sample] = field(default_factory=list)

    def begin(self, patience_s: float = 120.0) -> None:
        """Wait until it works. Raises RuntimeError where it does not."""
        until = time.monotonic() + patience_s
        while not self.work():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self.process.args!r} does not work")
            time.sleep(0.1)

    def look(self, at_s: float) -> None:
        """Nothing of a process that has ended."""
        pids = family(self.process.pid)
        seen = [one for pid in pids if (one := _of(pid)) is not None]
        if seen:
            cpu_s, memory, files, threads = (sum(column) for column in zip(*seen, strict=True))
            self.samples.append(
                Sample(at_s, cpu_s, int(memory), int(files), int(threads), self.work())
            )

    def fifths_mib(self) -> list[float]:
        """Mean memory of each."""
        return [mean(one.memory_bytes for one in part) / 2**20 for part in parted(self.samples)]

    def figures(self, name: str) -> dict[str, float]:
        """How the last fifth differs from the second."""
        fifths = parted(self.samples)
        early, late = fifths[1], fifths[4]
        per_cpu = [_rate(fifths[1] + fifths[2]), _rate(fifths[3] + fifths[4])]
        memory = [mean(one.memory_bytes for one in part) for part in (early, late)]
        return {
            f"{name}_growth": memory[1] / memory[0] - 1,
            f"{name}_mib": memory[1] / 2**20,
            f"{name}_files": max(one.files for one in late) - max(one.files for one in early),
            f"{name}_threads": max(one.threads for one in late) - max(one.threads for one in early),
            f"{name}_steadiness": per_cpu[1] / per_cpu[0],
            f"{name}_minutes": (self.samples[-1].at_s - self.samples[0].at_s) / 60,
        }


def parted(samples: list[Sample]) -> list[list[Sample]]:
    """Five parts of equal length; ValueError of fewer than ten."""
    if len(samples) < 10:
        raise ValueError(f"{len(samples)} samples are too few: the process ended early")
    edges = [round(i * len(samples) / 5) for i in range(6)]
    return [samples[a:b] for a, b in pairwise(edges)]


def _rate(samples: list[Sample]) -> float:
    first, last = samples[0], samples[-1]
    return (last.work - first.work) / max(last.cpu_s - first.cpu_s, 1e-9)


def family(pid: int) -> list[int]:
    """A process and all below it that live."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (parent := _parent(int(entry))) is not None:
            parents[int(entry)] = parent
    found = [pid] if pid in parents else []
    for known in found:
        found.extend(child for child, parent in parents.items() if parent == known)
    return found


def _parent(pid: int) -> int | None:
    """None of one that has ended, or that only its parent has not yet noticed."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state == "Z" else int(parent)


def _of(pid: int) -> tuple[float, int, int, int] | None:
    """CPU seconds, bytes, open files, threads."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        files = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    return (int(told[11]) + int(told[12])) / _TICKS, int(told[21]) * _PAGE, files, int(told[17])


# -- the two kinds of work -----------------------------------------------------------------------


def echoic(*arguments: object, scratch: Path, log: Path) -> subprocess.Popen[str]:
    """A command of echoic's in a process of its own; what it says goes into `log`."""
    own = {"TMPDIR": str(scratch), "ECHOIC_CACHE": str(scratch.parent / "cache")}
    scratch.mkdir(parents=True, exist_ok=True)
    with log.open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "echoic", *map(str, arguments)],
            stdout=said, stderr=said, env=os.environ | own, text=True,
        )  # fmt: skip


def corpus(folder: Path, clips: int) -> Path:
    """Shards of scenes."""
    order = ["data", "synth", folder, "--clips", clips, "--processes", 2]
    done = echoic(*order, scratch=folder.parent / "tmp", log=folder.parent / "synth.log")
    if done.wait(timeout=600):
        raise RuntimeError((folder.parent / "synth.log").read_text())
    return folder


def training(home: Path, shards: Path) -> Watch:
    """Steps are its work."""
    run = home / "run"
    process = echoic(
        "train", "slap:nano", "--data", shards, "--out", run, "--cpu-threads", 1, "--threads", 1,
        "data.budget_tokens=1024", "optim.steps=1000000",
        "run.save_every=50", "run.eval_every=200", "run.log_every=2",
        scratch=home / "tmp-train", log=home / "train.log",
    )  # fmt: skip
    return Watch(process, lambda: steps_of(run / "log.jsonl"))


def steps_of(log: Path) -> float:
    """The step of the last line of a run's log; 0 before there is one."""
    try:
        with log.open("rb") as lines:
            lines.seek(max(0, log.stat().st_size - 8192))
            told = lines.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return 0.0
    for line in reversed(told):
        try:
            return float(json.loads(line)["step"])
        except (ValueError, KeyError):
            continue
    return 0.0


def web(home: Path, sounds: Path, model: Path, stop: threading.Event) -> tuple[Watch, list[Client]]:
    """Requests answered are its work. The clients work until `stop`."""
    process = echoic(
        "web", sounds, "--model", model, "--port", 0,
        scratch=home / "tmp-web", log=home / "web.log",
    )  # fmt: skip
    address = address_of(process, home / "web.log")
    clients = [Client(address, seed) for seed in range(2)]
    for client in clients:
        threading.Thread(target=client.work, args=(stop,), daemon=True).start()
    return Watch(process, lambda: sum(client.answered for client in clients)), clients


def ended(process: subprocess.Popen[str], scratch: Path) -> int:
    """Ctrl-C; then the number of processes and temporary files that stay. Raises RuntimeError where
    it does not end."""
    below = family(process.pid)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=ENDS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise RuntimeError(f"did not end within {ENDS_S:g} s of Ctrl-C") from None
    living = [pid for pid in below if _parent(pid) is not None]
    return len(living) + sum(1 for file in scratch.rglob("*") if file.is_file())


def put_down(process: subprocess.Popen[str]) -> None:
    """One that has ended stays as it is."""
    process.kill()
    process.wait()


# -- all of it -----------------------------------------------------------------------------------


def measure(minutes: float, clips: int) -> dict[str, float]:
    """Both at once, for so long."""
    with tempfile.TemporaryDirectory(prefix="echoic-soak-") as made, ExitStack() as leaving:
        home, stop = Path(made), threading.Event()
        shards = corpus(home / "corpus", clips)
        sounds, model = prepared(home, shards)
        trained = training(home, shards)
        leaving.callback(put_down, trained.process)
        served, clients = web(home, sounds, model, stop)
        leaving.callback(put_down, served.process)
        for watch in (trained, served):
            watch.begin()
        begun = time.monotonic()
        while (at_s := time.monotonic() - begun) < 60 * minutes:
            for watch in (trained, served):
                watch.look(at_s)
            time.sleep(EVERY_S if minutes > 1 else EVERY_S / 4)
        stop.set()
        left = [
            ended(watch.process, home / scratch)
            for watch, scratch in ((trained, "tmp-train"), (served, "tmp-web"))
        ]
        failures = [told for client in clients for told in client.failures]
        for told in failures[:5]:
            print(told, file=sys.stderr)
        for name, watch in (("training", trained), ("web server", served)):
            print(f"{name}: MiB in each fifth: {', '.join(f'{m:.0f}' for m in watch.fifths_mib())}")
        return {
            **trained.figures("training"), "training_left": left[0],
            "training_steps": trained.samples[-1].work,
            **served.figures("web"), "web_left": left[1],
            "web_answers": served.samples[-1].work, "web_failures": len(failures),
        }  # fmt: skip


def prepared(home: Path, shards: Path) -> tuple[Path, Path]:
    """A folder of sounds with an index, and a model with a decoder that has barely learnt."""
    import soundfile

    from echoic.data.shards import ShardSource

    sounds, source = home / "sounds", ShardSource(shards)
    sounds.mkdir()
    for i in range(min(60, len(source.clips))):
        soundfile.write(sounds / f"{i:03d}.flac", source.read(i, 16_000), 16_000)
    run = home / "model"
    for order in (
        [
            "train",
            "slap:nano",
            "--data",
            shards,
            "--out",
            run,
            "optim.steps=10",
            "optim.warmup_steps=2",
        ],
        ["index", sounds, "--model", run / "model.safetensors"],
    ):
        log = home / "prepared.log"
        if echoic(*order, scratch=home / "tmp", log=log).wait(timeout=600):
            raise RuntimeError(log.read_text())
    return sounds, run / "model.safetensors"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args(argv)
    minutes, clips = (0.5, 120) if arguments.quick else (arguments.minutes, 1000)
    figures = measure(minutes, clips)
    show("Half an hour later", ["figure", ""], [[k, float(v)] for k, v in figures.items()])
    finish(figures)


if __name__ == "__main__":
    main()
