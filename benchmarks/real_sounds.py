"""Real sound, from scratch, on two cores: train on the real audio of ../shared/data, score a
held-out fold.

Four sets (environmental sounds, instruments, spoken commands, spoken digits) and a folder of named
effects are trained on together, by captions made of their labels. One fold of each set is held out:
recordings (esc), near-duplicate groups (instruments), speakers (commands, digits). Beside the
model's zero-shot and linear-probe accuracy stands a plain baseline: log-mel statistics and ridge
regression, trained on the same clips.

    python -m benchmarks.real_sounds             # about 13 minutes
    # one minute: shows that it runs, not what it can do
    python -m benchmarks.real_sounds --quick
    python -m benchmarks.real_sounds --seeds 3   # mean and spread, three times as long
    python -m benchmarks.real_sounds --recipe laion_clap:toy   # LAION-CLAP's recipe, small
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.output import finish, show
from benchmarks.probes import accuracy, probe_vector, real_folds, shared_folder
from benchmarks.real_sets import Fold, training_source
from echoic.api import EchoicModel, load
from echoic.audio.augment import FrameAugment, WaveAugment
from echoic.eval.baseline import PENALTY, baseline_features
from echoic.eval.probe import ridge_probe
from echoic.eval.zeroshot import class_scores, class_vectors
from echoic.pretrain import pretrain
from echoic.recipes import find_recipe
from echoic.recipes.recipe import Recipe

Waves = Sequence[np.ndarray]
Features = Callable[[np.ndarray], np.ndarray]

STEPS = {"nano": 2400, "laion_clap:toy": 800}
QUICK_STEPS = {"nano": 120, "laion_clap:toy": 120}
NANO = [
    "model.audio.patch_frames=4", "model.audio.patch_bins=64", "data.budget_tokens=2000",
    "data.max_s=2.5", "optim.warmup_steps=60",
]  # fmt: skip


def recipe_for(name: str, seed: int, steps: int) -> Recipe:
    """Nano, with patches of all bins by 4 frames (speech is fast) and short windows; or another
    recipe as it is. Strong augmentation of the waveform for both."""
    common = [
        f"name=real-sounds-{name}", f"run.seed={seed}", f"optim.steps={steps}",
        "optim.precision=bf16", "data.meaning=tags", "run.log_every=100",
        "run.save_every=500",
    ]  # fmt: skip
    own = NANO if name == "nano" else []
    recipe = find_recipe(name).override([*common, *own])
    changed: dict[str, object] = {"wave_augment": WaveAugment(speed=0.15, gain_db=6, shift_s=0.1)}
    if name == "nano":
        changed["frame_augment"] = FrameAugment(time_share=0.15, freq_bins=12, warp=0.15, eq=0.25)
    return recipe.model_copy(update=changed)


def score(model: EchoicModel, fold: Fold) -> dict[str, float]:
    """Accuracy on the held-out clips of one set: zero-shot, probe, and the baseline's."""
    (train_waves, train_y), (test_waves, test_y) = fold.part(fold.train), fold.part(fold.test)
    own_train, own_test = (fold.part(part, model.rate_hz)[0] for part in (fold.train, fold.test))
    targets = train_y[:, None] == np.arange(len(fold.classes))
    segments = fold.real.segments

    def probe(features: Features, train: Waves, test: Waves) -> float:
        train_x, test_x = (np.stack([*map(features, w)]) for w in (train, test))
        return accuracy(ridge_probe(train_x, targets, test_x, penalty=PENALTY), test_y)

    prompts = class_vectors(model.embed_text, fold.classes, fold.real.prompts)
    return {
        "zero_shot": accuracy(class_scores(model.embed_audio(own_test), prompts), test_y),
        "probe": probe(lambda wave: heard(model, wave, segments), own_train, own_test),
        "baseline": probe(
            lambda wave: baseline_features(wave, segments=segments), train_waves, test_waves
        ),
    }


def heard(model: EchoicModel, wave: np.ndarray, segments: int) -> np.ndarray:
    """What the probe sees of a clip: its unit vector, as embed_audio gives it, and its tokens
    pooled over time as the baseline pools frames."""
    return probe_vector(model.audio_features([wave]), segments)


def run(
    recipe: str,
    shared: Path,
    folds: dict[str, Fold],
    *,
    seed: int,
    steps: int,
    out: Path,
) -> dict[str, float]:
    """One training and its scores, by the name `set_measure`."""
    started = time.perf_counter()
    source = training_source(shared, folds)
    trained = pretrain(recipe_for(recipe, seed, steps), source, out, console=Console(stderr=True))
    took_s = time.perf_counter() - started
    assert trained.model_file is not None
    model = load(trained.model_file)
    scores = {name: score(model, fold) for name, fold in folds.items()}
    flat = {f"{s}_{measure}": v for s, row in scores.items() for measure, v in row.items()}
    return {**flat, "train_s": took_s}


def main() -> None:
    """Parse, train, score, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--shared", type=Path, default=shared_folder(), help="folder that holds data/"
    )
    parser.add_argument("--quick", action="store_true", help="a minute of training")
    parser.add_argument("--recipe", choices=tuple(STEPS), default="nano")
    parser.add_argument("--seeds", type=int, default=1, help="how many trainings")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--fold", type=int, default=2, choices=(1, 2, 3, 4), help="held out")
    parser.add_argument("--steps", type=int, help="default: what the recipe needs")
    parser.add_argument("--out", type=Path, help="keep the runs here (default: dropped)")
    args = parser.parse_args()
    steps = args.steps or (QUICK_STEPS if args.quick else STEPS)[args.recipe]
    folds = real_folds(args.shared, args.fold)
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out or Path(scratch)
        runs = [
            run(args.recipe, args.shared, folds, seed=seed, steps=steps, out=out / f"seed{seed}")
            for seed in range(args.first_seed, args.first_seed + args.seeds)
        ]
    mean = {name: float(np.mean([r[name] for r in runs])) for name in runs[0]}
    spread = {f"{name}_std": float(np.std([r[name] for r in runs])) for name in runs[0]}

    def cell(set_name: str, measure: str) -> str:
        name = f"{set_name}_{measure}"
        return f"{mean[name]:.3f}" + (f" ± {spread[name + '_std']:.3f}" if len(runs) > 1 else "")

    show(
        f"Real sounds: {args.recipe}, {steps} steps, {len(runs)} seed(s); accuracy on held-out "
        f"fold {args.fold}",
        ("set", "held out", "classes", "zero-shot", "probe", "baseline", "chance"),
        [
            (
                name, f"{len(fold.test)} clips", len(fold.classes), cell(name, "zero_shot"),
                cell(name, "probe"), cell(name, "baseline"), 1 / len(fold.classes),
            )
            for name, fold in folds.items()
        ],
    )  # fmt: skip
    about = {"seeds": len(runs), "steps": steps, "fold": args.fold}
    finish({**mean, **(spread if len(runs) > 1 else {}), **about})


if __name__ == "__main__":
    main()
