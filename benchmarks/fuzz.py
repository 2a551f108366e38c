"""Does anything that a file may hold break a reader: damaged files through all of them.

    python -m benchmarks.fuzz                        # 100,000 inputs, one worker
    python -m benchmarks.fuzz --quick                # 2,000, in a minute or so
    python -m benchmarks.fuzz --only tars --inputs 500 --seed 7
    python -m benchmarks.fuzz --again FOLDER         # a finding once more, with its traceback

Inputs are seeds (`fuzz_targets`) with drawn damage (`fuzz_mutations`). Where our own code parses,
an input that meets lines or jumps between lines that none met before joins the seeds. Input i of a
target follows from the seed and those before it. Each is read in a worker process, which is bound
in processor time (5 s of an input) and address space (1 GiB more than it had at first), and killed
after a minute. What may come of an input: an EchoicError of one line that names a file of it, or
a right result. All else is a finding: another exception, a line that names nothing, a crash, a
hang, more than 512 MiB, or something wrong given out as right. Findings of one kind (the same
exception from the same line of ours) count once; the first input of each is kept below --out, with
finding.json, which says what it did.

worst_s, worst_mib: of one input, processor seconds and growth of resident memory.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.output import finish, show

INPUTS, QUICK = 100_000, 2_000
CPU_S, WALL_S = 5.0, 60.0
ROOM_BYTES = 2**30  # of address space, beside what the worker has when it begins
MOST_MIB = 512
ROOT = Path(__file__).parents[1]
OURS = str(ROOT / "echoic")
SHARED = Path(os.environ.get("ECHOIC_SHARED", ROOT.parent / "shared"))
_KEPT_AT_MOST = 400  # guided seeds


@dataclass
class Tally:
    """Of one target. crashes: signals that ended a worker, of the findings."""

    inputs: int = 0
    errors: int = 0
    right: int = 0
    findings: dict[str, int] = field(default_factory=dict)
    worst_s: float = 0.0
    worst_mib: float = 0.0
    seconds: float = 0.0


# -- the worker ------------------------------------------------------------------------------------


class _TooLongError(BaseException):
    """No `except Exception` may swallow it."""


class Worker:
    """Reads the inputs of one target, and tells of each on a line of stdout."""

    def __init__(self, name: str, seed: int, scratch: Path) -> None:
        from benchmarks.fuzz_targets import TARGETS

        self.target, self.seed, self.scratch = TARGETS[name], seed, scratch
        made = Path(tempfile.mkdtemp(dir=scratch))
        shared = SHARED if SHARED.is_dir() else None
        self.prepared = self.target.prepare(made, shared)
        self.trees = list(self.prepared.trees)
        self.met: set[tuple[str, int, int]] = set()

    def inputs(self, first: int, stop: int) -> Iterator[tuple[int, str, dict[str, bytes]]]:
        """Number, the name of what is damaged, the tree."""
        from benchmarks.fuzz_mutations import damaged

        for i in range(first, stop):
            draw = random.Random(f"{self.seed} {self.target.name} {i}")
            tree = dict(draw.choice(self.trees))
            prey = sorted(filter(self.prepared.prey, tree))
            name = draw.choice(prey)
            others = [raw for other in self.trees[:40] for n, raw in other.items() if n in prey]
            tree[name] = damaged(draw, name, tree[name], others[:40])
            yield i, name, tree

    def read(self, tree: dict[str, bytes], name: str) -> tuple[str, str, bool]:
        """Verdict ("right", "error", else a kind of finding), what was said, whether it was new."""
        place = self.scratch / "input"
        shutil.rmtree(place, ignore_errors=True)
        _write(place, tree)
        arcs: set[tuple[str, int, int]] = set()
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        try:
            with _traced(arcs) if self.target.guided else contextlib.nullcontext():
                verdict, said = _verdict(self.prepared.read, place, name, tree)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        new = not arcs <= self.met
        self.met |= arcs
        return verdict, said, new

    def run(self, first: int, stop: int) -> None:
        for i, name, tree in self.inputs(first, stop):
            before_mib, began_s = _resident_mib(), time.process_time()
            print(json.dumps({"begin": i, "name": name}), flush=True)
            verdict, said, new = self.read(tree, name)
            took_s, grown_mib = time.process_time() - began_s, _peak_mib() - before_mib
            if verdict in ("right", "error") and grown_mib > MOST_MIB:
                verdict, said = "memory", f"{grown_mib:.0f} MiB"
            if verdict not in ("right", "error"):
                _write(self.scratch / f"finding-{i}", tree)
            told = {"end": i, "verdict": verdict, "said": said, "s": took_s, "mib": grown_mib}
            print(json.dumps(told), flush=True)
            room = len(self.trees) < len(self.prepared.trees) + _KEPT_AT_MOST
            if new and room and sum(map(len, tree.values())) < 200_000:
                self.trees.append(tree)


def _write(place: Path, tree: dict[str, bytes]) -> None:
    for file, raw in tree.items():
        path = place / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)


def _verdict(read: Any, place: Path, name: str, tree: dict[str, bytes]) -> tuple[str, str]:
    from benchmarks.fuzz_targets import WrongError
    from echoic.types import EchoicError

    try:
        read(place, name)
    except EchoicError as error:
        said = str(error)
        names = {Path(file).name for file in tree} | {str(place)}
        if len(said.splitlines()) != 1 or any(ord(c) < 32 for c in said):
            return "not one line", _at(error, said)
        if len(said) > 1_500:
            return "a line without end", _at(error, said)
        if not any(each in said for each in names):
            return "names no file", _at(error, said)
        return "error", said
    except WrongError as error:
        return "wrong", str(error)
    except _TooLongError as error:
        return "hang", _at(error, f"{CPU_S:g} s of a processor")
    except MemoryError as error:
        return "memory", _at(error, "")
    except BaseException as error:
        return "exception", _at(error, f"{type(error).__name__}: {error}")
    return "right", ""


def _at(error: BaseException, said: str) -> str:
    """With the last line of ours that it came from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(OURS)]
    where = f"{Path(frames[-1].filename).relative_to(OURS)}:{frames[-1].lineno}" if frames else "?"
    return f"[{where}] {said[:400]}"


@contextlib.contextmanager
def _traced(arcs: set[tuple[str, int, int]]) -> Iterator[None]:
    """Which lines of ours follow on which."""

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(OURS):
            return None
        before = 0

        def line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal before
            arcs.add((file, before, frame.f_lineno))
            before = frame.f_lineno
            return line

        return line

    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(None)


def _status(field_name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_name):
            return int(line.split()[1]) / 1024
    return 0.0


def _resident_mib() -> float:
    """As it is now; from here on the peak is counted anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS:")


def _peak_mib() -> float:
    return _status("VmHWM:")


def worker(name: str, seed: int, first: int, stop: int, scratch: Path) -> None:
    """Limits apply from when the seeds are made."""
    _be_quiet()
    mine = Worker(name, seed, scratch)
    if not mine.trees:
        return
    for tree in mine.prepared.trees[:1]:  # what is imported late is there before the limits
        prey = sorted(filter(mine.prepared.prey, tree))
        mine.read(tree, prey[0])
    _bind()
    mine.run(first, stop)


def one_process(inputs: int, seed: int, scratch: Path) -> None:
    """All targets as a worker tells of them, one after the other: for tests, which have no time to
    start one for each."""
    _be_quiet()
    for name, count in shares(inputs, None).items():
        mine = Worker(name, seed, Path(tempfile.mkdtemp(dir=scratch)))
        if mine.trees:
            print(json.dumps({"target": name}), flush=True)
            signal.signal(signal.SIGPROF, _too_long)
            mine.run(0, count)


def _be_quiet() -> None:
    import logging

    import torch

    torch.set_num_threads(1)
    logging.getLogger("echoic").addHandler(logging.NullHandler())
    logging.getLogger("echoic").propagate = False
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", DeprecationWarning)  # which no user sees


def _too_long(number: int, frame: FrameType | None) -> None:
    raise _TooLongError


def _bind() -> None:
    signal.signal(signal.SIGPROF, _too_long)
    limit = int(_status("VmSize:") * 2**20) + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# -- the run ---------------------------------------------------------------------------------------


def run_target(name: str, count: int, seed: int, out: Path | None) -> Tally:
    """All inputs of a target, by as many workers, one after the other, as it takes."""
    tally, next_, began_s = Tally(), 0, time.monotonic()
    while next_ < count:
        with tempfile.TemporaryDirectory(prefix="echoic-fuzz-", dir=_memory_disk()) as scratch:
            reached = _one_worker(name, seed, next_, count, Path(scratch), tally, out)
        if reached <= next_:
            break  # no seeds here
        next_ = reached
    tally.seconds = time.monotonic() - began_s
    return tally


def _memory_disk() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _one_worker(
    name: str, seed: int, first: int, stop: int, scratch: Path, tally: Tally, out: Path | None
) -> int:
    """The number of the input that comes next."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--worker", name, "--seed", str(seed)]
    command += ["--first", str(first), "--stop", str(stop), "--scratch", str(scratch)]
    log = scratch / "stderr"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT, env=_environment(scratch)
        ) as process,
    ):
        try:
            begun, ended = None, first - 1
            for told in _lines(process):
                if "begin" in told:
                    begun = told
                    continue
                ended = told["end"]
                kept = scratch / f"finding-{ended}"
                _count(tally, told, kept, begun["name"], name, out)
                shutil.rmtree(kept, ignore_errors=True)
        finally:
            process.kill()
            code = process.wait()
        if begun is not None and begun["begin"] > ended:  # it met its end in an input
            kind = "hang" if code == -signal.SIGKILL else "crash"
            why = f"{WALL_S:g} s" if kind == "hang" else _signal(code)
            told = {"end": begun["begin"], "verdict": kind, "said": why, "s": 0.0, "mib": 0.0}
            _count(tally, told, scratch / "input", begun["name"], name, out)
            return int(begun["begin"]) + 1
        if code and ended + 1 < stop:
            raise SystemExit(
                f"{name}: the worker failed\n{log.read_text('utf-8', 'replace')[-2000:]}"
            )
        return int(ended) + 1


def _signal(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _environment(scratch: Path) -> dict[str, str]:
    """Its own cache, no network, one thread, the same hashes in every run."""
    changed = {
        "ECHOIC_CACHE": str(scratch / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0", "TMPDIR": str(scratch), "HF_HOME": str(scratch / "hub"),
    }  # fmt: skip
    return {**os.environ, **changed}


def _lines(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """What the worker tells, until it ends or says nothing for too long."""
    assert process.stdout is not None
    handle, held, patience_s = process.stdout.fileno(), b"", 3 * WALL_S  # it has to begin first
    while True:
        ready, _, _ = select.select([handle], [], [], patience_s)
        patience_s = WALL_S
        block = os.read(handle, 2**16) if ready else b""
        if not block:
            if ready:
                process.wait()
            return
        *lines, held = (held + block).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _count(
    tally: Tally, told: dict[str, Any], tree: Path, damaged: str, target: str, out: Path | None
) -> None:
    tally.inputs += 1
    tally.worst_s = max(tally.worst_s, told["s"])
    tally.worst_mib = max(tally.worst_mib, told["mib"])
    if told["verdict"] == "right":
        tally.right += 1
    elif told["verdict"] == "error":
        tally.errors += 1
    else:
        kind = f"{told['verdict']}: {_plain(told['said'])}"
        tally.findings[kind] = tally.findings.get(kind, 0) + 1
        if tally.findings[kind] == 1 and out is not None and tree.is_dir():
            _keep(out, target, told, damaged, tree)


def _plain(said: str) -> str:
    """Of what differs between findings of a kind only its beginning."""
    where, bracket, rest = said.partition("] ")
    return (
        f"{where}] {rest.partition(':')[0][:60]}"
        if bracket
        else "".join(c for c in said if not c.isdigit())[:80]
    )


def _keep(out: Path, target: str, told: dict[str, Any], damaged: str, tree: Path) -> None:
    digest = hashlib.sha256(f"{told['verdict']}{_plain(told['said'])}".encode()).hexdigest()[:8]
    named = f"{target} {told['verdict']}".replace(",", "").replace(" ", "-")
    place = out / f"{named}-{digest}"
    if place.exists():
        return
    shutil.copytree(tree, place / "files")
    about = {"target": target, "damaged": damaged, "input": told["end"], "what": told["verdict"]}
    (place / "finding.json").write_text(json.dumps({**about, "said": told["said"]}, indent=1))


def again(case: Path) -> tuple[str, str]:
    """The verdict on a kept finding, here and now."""
    from benchmarks.fuzz_targets import TARGETS

    about = json.loads((case / "finding.json").read_text())
    with tempfile.TemporaryDirectory(dir=_memory_disk()) as scratch:
        made, place = Path(scratch) / "made", Path(scratch) / "input"
        made.mkdir()
        prepared = TARGETS[about["target"]].prepare(made, None)
        shutil.copytree(case / "files", place)
        tree = {p.relative_to(place).as_posix(): b"" for p in place.rglob("*") if p.is_file()}
        if os.environ.get("FUZZ_TRACE"):
            prepared.read(place, about["damaged"])
        return _verdict(prepared.read, place, about["damaged"], tree)


def shares(inputs: int, only: str | None) -> dict[str, int]:
    """How many inputs each target gets."""
    from benchmarks.fuzz_targets import TARGETS

    chosen = {n: t for n, t in TARGETS.items() if only is None or only in n}
    whole = sum(t.share for t in chosen.values())
    return {n: max(1, round(inputs * t.share / whole)) for n, t in chosen.items()}


def main() -> None:
    """Fuzz, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--again", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    for name in ("--first", "--stop"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return worker(given.worker, given.seed, given.first, given.stop, given.scratch)
    if given.again:
        print(*again(given.again), sep=": ")
        return None
    began_s = time.monotonic()
    asked = shares(QUICK if given.quick else given.inputs, given.only)
    tallies: dict[str, Tally] = {}
    for name, count in asked.items():
        tallies[name] = run_target(name, count, given.seed, given.out)
        one = tallies[name]
        line = f"{name}: {one.inputs} in {one.seconds:.0f} s"
        print(f"{line}, {len(one.findings)} kinds of findings", file=sys.stderr, flush=True)
        for kind, times in one.findings.items():
            print(f"    {times:5d} x {kind}", file=sys.stderr, flush=True)
    rows = [
        (n, t.inputs, t.right, t.errors, len(t.findings), sum(t.findings.values()), t.worst_s,
         round(t.worst_mib), round(t.seconds))
        for n, t in tallies.items()
    ]  # fmt: skip
    columns = (
        "target",
        "inputs",
        "right",
        "errors",
        "findings",
        "inputs of these",
        "worst s",
        "worst MiB",
        "s",
    )
    show("Damaged files through every reader", columns, rows)
    total = Counter[str]()
    for t in tallies.values():
        total.update(inputs=t.inputs, findings=len(t.findings), found=sum(t.findings.values()))
    finish({
        **total,
        "crashes": sum(k.startswith("crash") for t in tallies.values() for k in t.findings),
        "seconds": time.monotonic() - began_s,
        "worst_s": max(t.worst_s for t in tallies.values()),
        "worst_mib": max(t.worst_mib for t in tallies.values()),
    })  # fmt: skip
    return None


if __name__ == "__main__":
    main()
