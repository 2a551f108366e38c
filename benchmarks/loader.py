"""What the loader costs, and what logging and checkpoints cost beside a step.

    python -m benchmarks.loader             # some minutes on two quiet cores
    python -m benchmarks.loader --quick     # under a minute

loader_overhead: CPU seconds of an epoch by the training loader, of FLAC shards of 5 s clips, over
    bare decoding and resampling of the same bytes: the larger of shards at 16 kHz, where nothing is
    resampled, and at 44.1 kHz (as benchmarks.audio_in).
hours_per_core_s: hours of audio that a core so loads in a second, by the rate of the shards.
gpu_cores: what one H100 would need of them for SLAP's base size at the planner's utilisation, 32
    clips of 10 s at once.
wait_share: of a training's time spent waiting for data: `nano` on such shards, one thread of the
    loader beside the step, which is what a CPU can feed; the first lines of the log are left out.
logging_share, checkpoint_share: of a step's time, at the recipe's intervals. A checkpoint counts
    whole, as if none of it were written beside the training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from benchmarks.audio_in import RATE_HZ, measure_loader, sound
from benchmarks.clip_lengths import quantiles
from benchmarks.output import finish, show
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

CLIP_S = 5.0  # of the clips that benchmarks.audio_in writes
WORDS = ("rain", "dog", "bell", "wind", "engine", "siren", "door", "clock", "waves", "bird")


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    keep_memory()  # as echoic train does
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found = overheads(folder, clips=40 if quick else 200, runs=3 if quick else 5)
        found |= training(folder, clips=40 if quick else 400, steps=12 if quick else 120)
    found["gpu_cores"] = gpu_cores(found["hours_per_core_s_16000"])
    show("The loader, and what else is not the step", ("figure", ""), list(found.items()))
    finish(found)


def overheads(folder: Path, *, clips: int, runs: int) -> dict[str, float]:
    """Of shards at 16 and 44.1 kHz."""
    found = {}
    for rate_hz in (RATE_HZ, 44_100):
        ours_s, bare_s = measure_loader(folder / f"at_{rate_hz}", rate_hz, clips, runs)
        found[f"overhead_{rate_hz}"] = ours_s / bare_s
        found[f"hours_per_core_s_{rate_hz}"] = clips * CLIP_S / 3600 / ours_s
    worst = max(found[f"overhead_{rate_hz}"] for rate_hz in (RATE_HZ, 44_100))
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
    recipe = find_recipe("nano")
    source = make_shards(folder / "shards", clips)
    texts = [text for clip in source.clips for text in clip.captions]
    tokenizer = TextTokenizer.train(texts, vocab=500, max_tokens=32)
    text = recipe.model.text
    assert isinstance(text, SmallTextSpec)
    text = text.model_copy(update={"vocab": tokenizer.vocab, "max_tokens": 32})
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"text": text})})
    model = build(recipe.model, seed=0)
    loader = make_loader(recipe, source, model, tokenizer)
    return shares(recipe, model, make_task(recipe, model), loader, folder / "run", steps)


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
    log_s, save_s = Timer(loop.tell_interval), Timer(loop.Saver.save)
    with (
        patch.object(loop, "tell_interval", log_s),
        patch.object(loop.Saver, "save", lambda *given: save_s(*given)),
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


if __name__ == "__main__":
    main()
