"""Do two processes train twice as fast as one, is a plan right, and what would 1,024 ranks get?

    python -m benchmarks.scaling             # a quarter of an hour at most on two quiet cores
    python -m benchmarks.scaling --quick     # a minute

two_process_efficiency: clips per second of two processes of one thread each, DDP over gloo, over
    twice those of one such process alone on half of the machine; the step of SLAP (size small;
    quick: nano) from frames to moved weights, the same batches. Median over rounds, in turns.
    machine_efficiency: the same of two processes that know nothing of each other: what the machine
    itself takes (caches, memory, clock).
planner_error: the largest of what follows, over sizes and lengths.
    flop_error: the plan's operations against those counted while a step runs.
    memory_error: its peak against the growth of a process that makes two steps, and gives back what
    it frees (an allocator that keeps it, as echoic train's on the CPU, held up to a third more).
    time_error: CPU seconds of a step on one thread, by a rate of operations and one of bytes kept,
    fitted to some cases and compared on the others.
simulated_...: an epoch of clips like AudioCaps, Clotho and WavCaps by the real plan, dealt to 1,024
    ranks of 32 mean clips each: is every clip seen once, what the slowest rank costs. plan_s_per_m,
    plan_bytes: seconds for a million clips and bytes for one; for_109m_...: on each rank.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from statistics import median

import numpy as np
import torch

from benchmarks.clip_lengths import quantiles
from benchmarks.output import finish, show
from benchmarks.slap import Clips, contrastive_only
from benchmarks.timing import operations, resident_mib
from echoic.data.pack import plan_epoch
from echoic.model import build
from echoic.objective import make_task
from echoic.plan.formulas import CPU_FP32, Memory, memory
from echoic.plan.parts import Load, StepCost, step_cost, tokens_of
from echoic.plan.simulation import simulate
from echoic.recipes import find_recipe
from echoic.recipes.recipe import Recipe
from echoic.train.optim import make_optimizer
from echoic.train.parallel import spread
from echoic.train.process import keep_memory
from echoic.train.world import World, joined
from echoic.types import Batch

_CHILD, _LIMIT_S = "--child", 300
RANKS, PAIRS = 1024, 109e6
# recipe, seconds of each clip, clips; the first of them fit the two rates
FITTED = (
    ("nano", 10.0, 8), ("laion_clap:toy", 10.0, 8), ("slap:nano", 3.0, 8), ("slap:small", 5.0, 4),
)  # fmt: skip
COMPARED = (
    ("nano", 3.0, 24), ("slap:nano", 10.0, 8), ("slap:small", 10.0, 4), ("laion_clap:toy", 10.0, 4),
)  # fmt: skip
QUICK_COMPARED = COMPARED[:2]
# What is freed goes back to the system at once, so that the peak is that of what is in use.
FREED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
# What is warmed up with: its memory is given to what is measured, and must be little.
TINY = (
    "model.audio.depth=1", "model.audio.width=32", "model.audio.heads=2", "model.audio.hidden=48",
    "model.text.depth=1", "model.text.vocab=64", "model.embed_dim=16",
)  # fmt: skip
Case = tuple[str, float, int]


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(_CHILD, nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        what, *given = args.child
        if what != "memory":
            keep_memory()
        print(CHILDREN[what](*given))
        return
    keep_memory()  # as echoic train does
    quick = args.quick
    found = efficiency(
        "nano" if quick else "slap:small", steps=6 if quick else 8, rounds=1 if quick else 3
    )
    fitted = FITTED[:2] if quick else FITTED
    found |= planner_errors(fitted, QUICK_COMPARED if quick else COMPARED, rounds=2 if quick else 5)
    found |= simulated(200_000 if quick else 2_000_000, (100_000,) if quick else (10**6, 10**7))
    show("Scaling", ("figure", ""), list(found.items()))
    finish(found)


# -- two processes ---------------------------------------------------------------------------------


def efficiency(size: str, *, steps: int, rounds: int) -> dict[str, float]:
    """Of DDP, and of two processes that are strangers."""
    laps: dict[str, list[float]] = {"alone": [], "strangers": [], "ddp": []}
    for _ in range(rounds):
        laps["alone"] += together(1, size, steps, meet=False)
        laps["strangers"].append(sum(together(2, size, steps, meet=False)))
        laps["ddp"].append(sum(together(2, size, steps, meet=True)))
    alone = median(laps["alone"])
    return {
        "two_process_efficiency": median(laps["ddp"]) / (2 * alone),
        "machine_efficiency": median(laps["strangers"]) / (2 * alone),
        "clips_per_s_alone": alone,
        "clips_per_s_ddp": median(laps["ddp"]),
    }


def together(processes: int, size: str, steps: int, *, meet: bool) -> list[float]:
    """Clips per second of each of so many processes at work at once. Raises RuntimeError where one
    fails or hangs; none outlives the call."""
    command = [sys.executable, "-m", "benchmarks.scaling", _CHILD, "train", size, str(steps)]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(processes if meet else 1)}
    children = [
        subprocess.Popen(
            command, env=shared | {"RANK": str(i if meet else 0), "LOCAL_RANK": "0"},
            stdout=subprocess.PIPE, text=True,
        )
        for i in range(processes)
    ]  # fmt: skip
    try:
        told = [child.communicate(timeout=_LIMIT_S)[0] for child in children]
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"a process took longer than {_LIMIT_S} s") from None
    finally:
        for child in children:
            with suppress(ProcessLookupError):
                child.kill()
            child.wait()
    if any(child.returncode for child in children):
        raise RuntimeError("a process failed")
    return [float(each.split()[-1]) for each in told]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def clips_per_s(size: str, steps: str) -> float:
    """Of this process, one of the world that its environment describes; the median step."""
    with joined(timeout_s=_LIMIT_S / 2) as world:
        return _rate(contrastive_only(find_recipe(size)), int(steps), world)


def _rate(recipe: Recipe, steps: int, world: World) -> float:
    """What trains is gone when it returns, as `joined` asks."""
    step, batch = _training(recipe, 10.0, 8, world)
    laps = []
    for _ in range(steps + 2):
        began_s = time.perf_counter()
        step()
        laps.append(time.perf_counter() - began_s)
    return len(batch.keys) / median(laps[2:])


def _training(
    recipe: Recipe, seconds: float, clips: int, world: World | None = None
) -> tuple[partial[None], Batch]:
    """A step in float32 on clips of that length, and its batch. What draws is the same on every
    rank: so is their work."""
    text = recipe.model.text
    vocab = int(getattr(text, "vocab", 100))
    batch = Clips([seconds] * clips, recipe.model.front_end.rate_hz, vocab).batch(range(clips))
    task = make_task(recipe, build(recipe.model, seed=0))
    spreads = spread(task, "ddp", world or World())
    optimizer = make_optimizer(task, recipe.optim)

    def step() -> None:
        with spreads.accumulating(True):
            loss = torch.stack(list(spreads(batch).values())).sum()
            loss.backward()
        spreads.clip([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        after_step = getattr(task, "after_step", None)
        if callable(after_step):
            after_step(0)

    return partial(step), batch


# -- is the plan right -----------------------------------------------------------------------------


def planned(recipe: Recipe, batch: Batch) -> tuple[StepCost, Memory]:
    """Of a step in float32 on the CPU."""
    rate_hz = recipe.model.front_end.rate_hz
    load = Load(
        np.array(batch.audio.lengths) / rate_hz, np.array(batch.text.lengths, dtype=float),
        negatives=len(batch.keys), on_gpu=False,
    )  # fmt: skip
    cost = step_cost(recipe, load, CPU_FP32)
    held = memory(
        cost.whole, CPU_FP32, moments=2, average=False, scores=cost.scores, working=cost.working
    )
    return cost, held


def planner_errors(
    fitted: Sequence[Case], compared: Sequence[Case], *, rounds: int
) -> dict[str, float]:
    """Shares by which the plan errs, and the largest."""
    found: dict[str, float] = {}
    cases = [*fitted, *compared]
    costs, seconds = [], []
    for case in cases:
        name, clip_s, clips = case
        recipe = find_recipe(name)
        step, batch = _training(recipe, clip_s, clips)
        cost, held = planned(recipe, batch)
        counted = operations(step)
        seconds.append(cpu_s(step, rounds))
        costs.append((cost.whole.flop, cost.whole.kept))
        label = f"{name}_{clip_s:g}s"
        found[f"flop_error_{label}"] = cost.whole.flop / counted - 1
        grown = float(_own_words("memory", name, str(clip_s), str(clips), **FREED))
        found[f"memory_error_{label}"] = held.peak_alone / 2**20 / grown - 1
        del step, batch
        gc.collect()
    rates = fit_rates(costs[: len(fitted)], seconds[: len(fitted)])
    for case, cost_of, spent in zip(compared, costs[len(fitted) :], seconds[len(fitted) :],
                                    strict=True):  # fmt: skip
        found[f"time_error_{case[0]}_{case[1]:g}s"] = float(np.dot(rates, cost_of)) / spent - 1
    worst = {
        kind: max(abs(v) for n, v in found.items() if n.startswith(kind))
        for kind in ("flop_error", "memory_error", "time_error")
    }
    return {"planner_error": max(worst.values()), **worst, **found}


def cpu_s(step: Callable[[], object], rounds: int) -> float:
    """The least of so many, after one to warm up."""
    laps = []
    for _ in range(rounds + 1):
        began_s = time.process_time()
        step()
        laps.append(time.process_time() - began_s)
    return min(laps[1:])


def fit_rates(costs: Sequence[tuple[float, float]], seconds: Sequence[float]) -> np.ndarray:
    """(2,): seconds per operation and per byte kept, neither negative, by least squares of relative
    errors."""
    table = np.array(costs) / np.array(seconds)[:, None]
    rates = np.linalg.lstsq(table, np.ones(len(table)), rcond=None)[0]
    if rates.min() >= 0:
        return rates
    single = table.sum(0) / (table**2).sum(0)  # by one of them alone: the better
    misses = ((table * single - 1) ** 2).sum(0)
    return np.where(misses == misses.min(), single, 0.0)


def grown_mib(name: str, seconds: str, clips: str) -> float:
    """By how much building the task and two steps raise this process's peak, over what a tiny step
    of the same code needs."""
    _training(find_recipe("nano").override(TINY), 0.5, 2)[0]()
    gc.collect()
    before = resident_mib("VmRSS")
    step, _ = _training(find_recipe(name), float(seconds), int(clips))
    step()
    step()
    return resident_mib("VmHWM") - before


# -- 1,024 ranks -----------------------------------------------------------------------------------


def simulated(clips: int, planned_clips: Sequence[int]) -> dict[str, float]:
    """What an epoch of so many clips is to 1,024 ranks; what planning those others takes."""
    recipe = find_recipe("slap:base")
    costs, work = drawn_costs(recipe, clips)
    budget = round(32 * float(costs.mean()))
    dealt = simulate(costs, budget=budget, ranks=RANKS, work=work)
    own = [json.loads(_own_words("plan", str(count), str(budget))) for count in planned_clips]
    seconds = [
        each["seconds"] / count * 1e6 for each, count in zip(own, planned_clips, strict=True)
    ]
    size = [each["bytes"] / count for each, count in zip(own, planned_clips, strict=True)]
    return {
        "simulated_exactly_once": float(dealt.exactly_once),
        "simulated_clips": dealt.clips,
        "simulated_steps": dealt.steps,
        "simulated_filled": dealt.filled,
        "simulated_busiest_over_mean": dealt.busiest_over_mean,
        "simulated_worst": dealt.worst,
        "simulated_lost": dealt.lost,
        **{f"plan_s_per_m_at_{n}": s for n, s in zip(planned_clips, seconds, strict=True)},
        **{f"plan_bytes_at_{n}": b for n, b in zip(planned_clips, size, strict=True)},
        "for_109m_plan_s": seconds[-1] * PAIRS / 1e6,
        "for_109m_plan_gb": size[-1] * PAIRS / 1e9,
    }


def drawn_costs(recipe: Recipe, clips: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) tokens, and operations, of clips of such lengths."""
    grid = np.array(quantiles(250))
    tokens = tokens_of(recipe.model, grid)
    flop = [
        step_cost(recipe, Load(np.array([s]), np.array([20.0]), 1024), CPU_FP32).whole.flop
        for s in grid
    ]
    drawn = np.random.default_rng(0).integers(len(grid), size=clips)
    return tokens[drawn], np.array(flop)[drawn]


def plan_alone(clips: str, budget: str) -> str:
    """Seconds and bytes of one epoch's plan, as JSON."""
    costs, _ = drawn_costs(find_recipe("nano"), int(clips))
    listed = costs.tolist()
    gc.collect()
    before, began_s = resident_mib("VmRSS"), time.perf_counter()
    plan = plan_epoch(listed, budget=int(budget), epoch=0, seed=0, min_clips=2)
    seconds = time.perf_counter() - began_s
    grown = resident_mib("VmHWM") - before
    return json.dumps({"seconds": seconds, "bytes": grown * 2**20, "batches": len(plan)})


def _own_words(*given: str, **changes: str) -> str:
    """What a child prints last. changes: to its environment."""
    command = [sys.executable, "-m", "benchmarks.scaling", _CHILD, *given]
    environment = {**os.environ, **changes}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout.splitlines()[-1]


CHILDREN: dict[str, Callable[..., object]] = {
    "train": clips_per_s, "memory": grown_mib, "plan": plan_alone,
}  # fmt: skip


if __name__ == "__main__":
    main()
