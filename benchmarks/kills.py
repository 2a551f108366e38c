"""Works that are killed again and again, and end as if nobody had: benchmarks/kill_works.py.

    python -m benchmarks.kills                              # 51 kills of each: about ten minutes
    python -m benchmarks.kills --quick                      # 6 of each
    python -m benchmarks.kills --kills 9 --only "building shards"

Real processes, forked from this one, which is fast; the work is resumed by the same call. A kill
is, in turn,

moment  SIGKILL from outside at a drawn moment; of several ranks, one or all
step    SIGKILL before or after a drawn step that reaches the disk: fsync, rename, unlink, an SQL
        statement of the index
byte    in the middle of a write: the system ends the process at a drawn byte of a file
        (RLIMIT_FSIZE with SIGXFSZ's own action, which no handler sees), those before it written

After at most five kills a work is left to its end, and compared with one that was never disturbed:
training bit for bit (weights, moments, average, generators, log), folders byte for byte, vectors
and captions by content. Moments are drawn by --seed; where they fall hangs on the machine too.

kills: by name, how often a work was killed; ends: how often it was compared.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.kill_works import WORKS, Work, fresh
from benchmarks.output import finish, show
from tests.data.test_building import _gone, _of_session
from tests.index.killing import arm

HOW = ("moment", "step", "byte")
IN_A_ROW = 5
LONGEST_S = 200.0  # a run that takes longer hangs
NEVER = 10**9


class Plan(NamedTuple):
    """What is to happen to a run. at: seconds, steps or bytes."""

    how: str = ""
    at: float = 0.0
    one: bool = False


class Ended(NamedTuple):
    killed: bool
    told: str
    seconds: float


class Undisturbed(NamedTuple):
    """A run that nobody disturbed: where it lies, how long it took, its steps, sizes of files."""

    place: Path
    seconds: float
    steps: int
    sizes: list[int]


def lived(work: Work, place: Path, plan: Plan, draw: random.Random) -> Ended:
    """Run it in a process of its own, by the plan. Raises RuntimeError where it fails by itself."""
    reads, writes = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if not child:
        os.close(reads)
        live(work, place, plan, writes)
    os.close(writes)
    if plan.how == "moment":
        time.sleep(plan.at)
        kill(child, draw if plan.one else None)
    status = waited(child)
    with os.fdopen(reads) as pipe:
        told = pipe.read()
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"{work.name}, {plan}: failed by itself\n{told}")
    return Ended(os.WIFSIGNALED(status), told, time.monotonic() - started)


def live(work: Work, place: Path, plan: Plan, told: int) -> None:
    """In the child; never returns. Tells the number of its steps, or what went wrong."""
    code = 1
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        killer = arm(int(plan.at) if plan.how == "step" else NEVER)
        killer.around(os, "rename")
        if plan.how == "byte":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(plan.at), resource.RLIM_INFINITY))
        work.run(place)
        os.write(told, str(killer.count).encode())
        code = 0
    except BaseException:
        os.write(told, traceback.format_exc()[-4000:].encode())  # less than a pipe holds
    finally:
        os._exit(code)


def kill(child: int, draw: random.Random | None) -> None:
    """The child and all that it started; or, drawn, one of those alone."""
    group = [process for process in _of_session(child) if process != child]
    if draw is not None and group:
        os.kill(draw.choice(group), signal.SIGKILL)
        return
    for process in (child, *group):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    _gone(group)


def waited(child: int) -> int:
    """Its status; raises RuntimeError where it does not end."""
    until_s = time.monotonic() + LONGEST_S
    while time.monotonic() < until_s:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.002)
    kill(child, None)
    os.waitpid(child, 0)
    raise RuntimeError(f"a run did not end within {LONGEST_S:g} s")


def undisturbed(work: Work, begun: Path, place: Path, draw: random.Random) -> Undisturbed:
    fresh(work, begun, place)
    ended = lived(work, place, Plan(), draw)
    sizes = [path.stat().st_size for path in sorted(place.rglob("*")) if path.is_file()]
    steps = int(ended.told) or work.steps
    return Undisturbed(place, ended.seconds, steps, [size for size in sizes if size])


def drawn(turn: int, whole: Undisturbed, draw: random.Random) -> Plan:
    hows = [how for how in HOW if how != "step" or whole.steps]
    how = hows[turn % len(hows)]
    if how == "moment":
        return Plan(how, draw.uniform(0, whole.seconds), one=draw.random() < 0.5)
    if how == "step":
        return Plan(how, draw.randint(1, whole.steps))
    return Plan(how, draw.randrange(draw.choice(whole.sizes)))


def survived(work: Work, folder: Path, kills: int, seed: int) -> dict[str, float]:
    """Kill it so often; the counts. Raises AssertionError where an end is another."""
    draw = random.Random(f"{seed} {work.name}")
    begun, place = folder / "begun", folder / "killed"
    begun.mkdir(parents=True)
    work.begin(begun)
    whole = undisturbed(work, begun, folder / "whole", draw)
    count: Counter[str] = Counter()
    ends = row = 0
    fresh(work, begun, place)
    while count.total() < kills or row:
        let = row == IN_A_ROW or count.total() >= kills
        plan = Plan() if let else drawn(count.total() + ends, whole, draw)
        if lived(work, place, plan, draw).killed:
            count[plan.how] += 1
            row += 1
            continue
        ends += 1
        compare(work, place, whole.place, plan)
        fresh(work, begun, place)
        row = 0
    return {"kills": count.total(), "ends": ends, "whole_s": whole.seconds, **count}


def compare(work: Work, place: Path, whole: Path, plan: Plan) -> None:
    try:
        work.same(place, whole)
    except Exception as error:
        raise AssertionError(f"{work.name}: another end than undisturbed ({plan})") from error


def measure(works: list[Work], kills: int, seed: int) -> dict[str, dict[str, float]]:
    found = {}
    for work in works:
        with tempfile.TemporaryDirectory() as scratch:
            started = time.monotonic()
            found[work.name] = survived(work, Path(scratch), kills, seed)
            found[work.name]["seconds"] = time.monotonic() - started
        print(f"{work.name}: {json.dumps(found[work.name])}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kills", type=int)
    parser.add_argument("--only", nargs="+", choices=[work.name for work in WORKS])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":  # is read when NumPy is loaded
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    kills = given.kills or (6 if given.quick else 51)
    works = [work for work in WORKS if given.only is None or work.name in given.only]
    found = measure(works, kills, given.seed)
    columns = ("kills", *HOW, "ends", "whole_s", "seconds")
    titles = ("work", "kills", *HOW, "ends compared", "one run, s", "all, s")
    rows = [(name, *(each.get(c, 0) for c in columns)) for name, each in found.items()]
    show("Killed, resumed, equal to undisturbed", titles, rows)
    kinds = ("kills", "ends", "seconds")
    finish({kind: {name: each[kind] for name, each in found.items()} for kind in kinds})


if __name__ == "__main__":
    main()
