"""What the loader costs, and what logging and checkpoints cost beside a step.

    python -m benchmarks.loader             # three minutes on two quiet cores
    python -m benchmarks.loader --quick     # under a minute
    python -m benchmarks.loader --profile   # where a clip's and a step's time go; a minute

loader_overhead: CPU seconds of an epoch by the training loader, of FLAC shards of 5 s clips, over
    bare decoding and resampling of the same bytes in memory by the same libraries, to the same
    mono float32: the larger of shards at 16 kHz, where nothing is resampled, and at 44.1 kHz (as
    benchmarks.audio_in). Ours also reads the tar, checks each clip's checksum and samples, and
    packs batches. Both in turns, the least of all runs: a busy machine can only add.
hours_per_core_s: hours of audio that a core so loads in a second, by the rate of the shards.
gpu_cores: what one H100 would need of them, by rate, for SLAP's base size at the planner's
    utilisation, 32 clips of 10 s at once.
wait_share: of a training's time spent waiting for data: `nano` on such shards, one thread of the
    loader beside the step, which is what a CPU can feed; the first lines of the log are left out.
logging_share, checkpoint_share: of a step's time, at the recipe's intervals. A checkpoint counts
    whole, as if none of it were written beside the training.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from torch.profiler import record_function

from benchmarks.audio_in import (
    CLIP_S,
    RATE_HZ,
    bare,
    epoch,
    measure_loader,
    noise_shards,
    sound,
)
from benchmarks.clip_lengths import quantiles
from benchmarks.output import finish, show
from echoic.audio.io import load_audio
from echoic.data.clips import Clip
from echoic.data.loader import Loader
from echoic.data.shards import ShardSource, write_shards
from echoic.encoders.text import SmallTextSpec
from echoic.encoders.tokenizer import TextTokenizer
from echoic.model import LanguageAudioModel, build
from echoic.objective import make_task
from echoic.plan.machines import find_gpu
from echoic.plan.planner import Ask, plan_recipe
from echoic.pretrain import make_loader
from echoic.recipes import find_recipe
from echoic.recipes.recipe import Recipe
from echoic.train import loop
from echoic.train.process import keep_memory
from echoic.train.saving import Saver

RATES_HZ = (RATE_HZ, 44_100)
WORDS = ("rain", "dog", "bell", "wind", "engine", "siren", "door", "clock", "waves", "bird")


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    quick = given.quick
    torch.set_num_threads(1)
    keep_memory()  # as echoic train does
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if given.profile:
            profile(folder, clips=40 if quick else 200, steps=3 if quick else 12)
            return
        found = overheads(folder, clips=40 if quick else 200, runs=3 if quick else 9)
        found |= training(folder, clips=40 if quick else 400, steps=12 if quick else 120)
    for rate_hz in RATES_HZ:
        found[f"gpu_cores_{rate_hz}"] = gpu_cores(found[f"hours_per_core_s_{rate_hz}"])
    show("The loader, and what else is not the step", ("figure", ""), list(found.items()))
    finish(found)


def overheads(folder: Path, *, clips: int, runs: int) -> dict[str, float]:
    """Of shards at 16 and 44.1 kHz."""
    found = {}
    for rate_hz in RATES_HZ:
        ours_s, bare_s = measure_loader(folder / f"at_{rate_hz}", rate_hz, clips, runs)
        found[f"overhead_{rate_hz}"] = ours_s / bare_s
        found[f"hours_per_core_s_{rate_hz}"] = clips * CLIP_S / 3600 / ours_s
    worst = max(found[f"overhead_{rate_hz}"] for rate_hz in RATES_HZ)
    return {"loader_overhead": worst, **found}


def gpu_cores(hours_per_core_s: float) -> float:
    """By the planner."""
    ask = Ask(
        pairs=1e6, mean_s=10.0, gpus=1, gpu=find_gpu("h100"), batch=32,
        hours_per_core_s=hours_per_core_s,
    )  # fmt: skip
    return plan_recipe(find_recipe("slap:base"), ask).cores_needed


# -- a training ------------------------------------------------------------------------------------


def training(folder: Path, *, clips: int, steps: int) -> dict[str, float]:
    """Shares of `nano`'s step."""
    recipe, model, loader = prepared(folder, clips)
    return shares(recipe, model, make_task(recipe, model), loader, folder / "run", steps)


def prepared(folder: Path, clips: int) -> tuple[Recipe, LanguageAudioModel, Loader]:
    """`nano` with a tokenizer of its own, and the loader of shards of so many clips."""
    recipe = find_recipe("nano")
    source = make_shards(folder / "shards", clips)
    texts = [text for clip in source.clips for text in clip.captions]
    tokenizer = TextTokenizer.train(texts, vocab=500, max_tokens=32)
    text = recipe.model.text
    assert isinstance(text, SmallTextSpec)
    text = text.model_copy(update={"vocab": tokenizer.vocab, "max_tokens": 32})
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"text": text})})
    model = build(recipe.model, seed=0)
    return recipe, model, make_loader(recipe, source, model, tokenizer)


def make_shards(folder: Path, clips: int) -> ShardSource:
    """Noise of lengths like those of AudioCaps, Clotho and WavCaps."""
    rng = np.random.default_rng(0)
    whole = sound(30.0, RATE_HZ, 1, rng)[:, 0]
    lengths = rng.permutation(quantiles(clips))
    write_shards(
        (
            (Clip(f"{i}", (" ".join(rng.choice(WORDS, 6)),), (), float(s)),
             whole[: round(s * RATE_HZ)])
            for i, s in enumerate(lengths)
        ),
        folder, rate_hz=RATE_HZ,
    )  # fmt: skip
    return ShardSource(folder)


def shares(
    recipe: Recipe,
    model: LanguageAudioModel,
    task: nn.Module,
    loader: Loader,
    folder: Path,
    steps: int,
) -> dict[str, float]:
    """What of a step's time goes to waiting, logging and saving."""
    every = max(2, steps // 6)
    run = recipe.run.model_copy(
        update={"log_every": every, "save_every": every, "save_in_background": False}
    )
    optim = recipe.optim.model_copy(update={"steps": steps, "warmup_steps": 1})
    log_s, save_s = Timer(loop.tell_interval), Timer(Saver.save)
    with (
        patch.object(loop, "tell_interval", log_s),
        patch.object(Saver, "save", lambda *given: save_s(*given)),
    ):
        loop.train(
            task, loader, optim=optim, run=run, folder=folder, sample_rate_hz=model.audio.rate_hz
        )
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    told = [row for row in rows if row["kind"] == "train"][1:]  # the first has filled the caches
    step_s = median(row["clips"] / every / row["time"]["clips_per_s"] for row in told)
    return {
        "wait_share": median(row["time"]["wait_share"] for row in told),
        "step_s": step_s,
        "logging_share": median(log_s.laps) / (recipe.run.log_every * step_s),
        "checkpoint_share": median(save_s.laps) / (recipe.run.save_every * step_s),
    }


class Timer:
    """A function that knows how long its calls took."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function, self.laps = function, list[float]()

    def __call__(self, *given: object) -> object:
        began_s = time.perf_counter()
        try:
            return self.function(*given)
        finally:
            self.laps.append(time.perf_counter() - began_s)


# -- where the time goes ---------------------------------------------------------------------------


def profile(folder: Path, *, clips: int, steps: int) -> None:
    """Print two tables."""
    found: dict[str, float] = {}
    columns = [f"{rate_hz} Hz" for rate_hz in RATES_HZ]
    parts = [of_clip(folder / f"at_{rate_hz}", rate_hz, clips) for rate_hz in RATES_HZ]
    show(
        "A clip of 5 s through the loader, CPU microseconds",
        ("part", *columns),
        [(name, *(f"{1e6 * part[name]:.0f}" for part in parts)) for name in parts[0]],
    )
    for rate_hz, part in zip(RATES_HZ, parts, strict=True):
        found |= {f"clip_{name}_{rate_hz}_us": 1e6 * s for name, s in part.items()}
    ranges, operations = of_step(folder, clips, steps)
    whole = sum(ranges.values())
    show(
        "A step of nano on one core, share of its time",
        ("part", "share"),
        [(name, f"{100 * s / whole:.1f} %") for name, s in ranges.items()],
    )
    show(
        "and the operations that take most of it",
        ("operation", "share"),
        [(name, f"{100 * s / whole:.1f} %") for name, s in operations.items()],
    )
    finish(found | {f"step_{name}_share": s / whole for name, s in ranges.items()})


def of_clip(folder: Path, rate_hz: int, clips: int) -> dict[str, float]:
    """CPU seconds of each part of a clip's way, the least of some runs in turns."""
    source, loader = noise_shards(folder, rate_hz, clips)
    raws = [source._bytes(i)[1] for i in range(clips)]
    some = [loader._draw(0, i) for i in range(16)]
    sums: dict[str, tuple[Callable[[], object], int]] = {
        "bare": (lambda: [bare(io.BytesIO(raw)) for raw in raws], clips),
        "read": (lambda: [source._bytes(i) for i in range(clips)], clips),
        "heard": (lambda: [load_audio(raw, rate_hz=RATE_HZ) for raw in raws], clips),
        "drawn": (lambda: [loader._draw(0, i) for i in range(clips)], clips),
        "packed": (lambda: [loader._batch(0, some) for _ in range(10)], 160),
        "whole": (partial(epoch, loader), clips),
    }
    laps: dict[str, list[float]] = {name: [] for name in sums}
    for _ in range(8):
        for name, (work, count) in sums.items():
            began_s = time.process_time()
            work()
            laps[name].append((time.process_time() - began_s) / count)
    least = {name: min(some_s[1:]) for name, some_s in laps.items()}
    checked = least["drawn"] - least["heard"] - least["read"]
    return {
        "decoder and resampler alone": least["bare"],
        "around them: any format, NaN, cut files": least["heard"] - least["bare"],
        "reading the tar, checksum": least["read"],
        "silence, window, cache": checked,
        "batch: captions, meaning, one tensor": least["packed"],
        "handing over between threads, plan": least["whole"] - least["drawn"] - least["packed"],
        "all": least["whole"],
    }


def of_step(folder: Path, clips: int, steps: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of the parts of `nano`'s steps, and of the operations that take most."""
    recipe, model, loader = prepared(folder, clips)
    task = make_task(recipe, model)
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-4)
    batches = loader.batches()

    def step() -> None:
        with record_function("wait for data"):
            batch = next(batches)
        with record_function("forward"):
            loss = torch.stack(list(task(batch).values())).sum()
        with record_function("backward"):
            loss.backward()
        with record_function("optimizer"):
            optimizer.step()
            optimizer.zero_grad()

    for _ in range(2):
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            step()
    batches.close()  # type: ignore[attr-defined]
    events = {event.key: event for event in found.key_averages()}
    parts = ("wait for data", "forward", "backward", "optimizer")
    most = sorted(
        (e for name, e in events.items() if name.startswith(("aten::", "echoic"))),
        key=lambda event: -event.self_cpu_time_total,
    )[:8]
    return (
        {name: events[name].cpu_time_total / 1e6 for name in parts},
        {event.key: event.self_cpu_time_total / 1e6 for event in most},
    )


if __name__ == "__main__":
    main()
