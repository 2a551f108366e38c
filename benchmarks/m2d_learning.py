"""Does it learn? M2D, M2D-CLAP and CLAP alone from scratch, then a linear probe on each, beside the
same network untrained and a log-mel baseline.

    python -m benchmarks.m2d_learning             # about 13 minutes on two cores: one seed
    python -m benchmarks.m2d_learning --seeds 3   # mean and spread, three times as long
    python -m benchmarks.m2d_learning --quick     # a minute: shows that it runs

All three train for the same steps on the same sound: real recordings of ../shared/data (the
training parts of four labelled sets, and two that are never scored) and scenes of the embedded
corpus. M2D sees no caption. The captions of the other two are made of labels; their vectors are
those of a sentence encoder without weights (words:256), so that nothing learnt elsewhere comes in.
The probe is ridge regression on the clip's stacked columns, pooled over time as the baseline pools
its log-mel; one fold of each real set, and test scenes of one event, are held out.

T samples, C classes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.output import finish, show
from benchmarks.probes import Probe, real_folds, real_probes, shared_folder, synth_probe
from benchmarks.real_sets import training_source
from echoic.api import EchoicModel, load
from echoic.convert.native import ModelFile
from echoic.data.clips import ConcatSource, Source
from echoic.data.synth.corpus import SceneSource, draw_scenes
from echoic.eval.baseline import baseline_features
from echoic.eval.probe import pooled_tokens
from echoic.model import build
from echoic.pretrain import pretrain
from echoic.recipes import find_recipe
from echoic.recipes.recipe import Recipe

STEPS, QUICK_STEPS = 1500, 40
SCENES = 4000


def recipes(steps: int, seed: int) -> dict[str, Recipe]:
    """The three trainings, alike but for their objective. CLAP alone hears the same visible
    patches."""
    common = [
        f"run.seed={seed}", f"optim.steps={steps}", f"optim.warmup_steps={max(1, steps // 15)}",
        "data.meaning=tags", "data.cache_mb=4096",
        "run.log_every=250", "run.save_every=1000", "run.keep_last=1",
    ]  # fmt: skip
    clap = find_recipe("m2d_clap:nano,2024").override(common)
    assert clap.objectives.masked
    alone = clap.objectives.model_copy(
        update={"masked": None, "visible": clap.objectives.masked.mask, "contrastive": 1.0}
    )
    return {
        "m2d": find_recipe("m2d_clap:nano,m2d").override(common),
        "m2d_clap": clap,
        "clap_only": clap.model_copy(update={"objectives": alone}),
    }


def heard(model: EchoicModel, wave: np.ndarray, segments: int) -> np.ndarray:
    """What the probe sees: stacked columns, pooled over time as the baseline pools frames."""
    features = model.features([wave], "stacked")
    tokens, time_s = features.tokens.float().numpy(), features.time_s.numpy()
    return pooled_tokens(tokens, time_s, segments=segments)


def scored(model: EchoicModel, probes: Sequence[Probe]) -> dict[str, float]:
    """Probe accuracy, and zero-shot where the model reads text, by `set_measure`."""
    found: dict[str, float] = {}
    for probe in probes:
        found[f"{probe.name}_probe"] = probe.accuracy_of(
            lambda wave, probe=probe: heard(model, wave, probe.segments)
        )
        if model.reads_text:
            found[f"{probe.name}_zero_shot"] = probe.zero_shot(model)
    return found


def run(
    probes: Sequence[Probe], source: Source, *, seed: int, steps: int, out: Path
) -> dict[str, float]:
    """All trainings of one seed and their scores, by name."""
    found: dict[str, float] = {}
    scores: dict[str, dict[str, float]] = {}
    for name, recipe in recipes(steps, seed).items():
        began_s = time.perf_counter()
        made = pretrain(recipe, source, out / name, console=Console(stderr=True))
        found[f"{name}_train_s"] = time.perf_counter() - began_s
        assert made.model_file is not None
        model = load(made.model_file)
        scores[name] = scored(model, probes)
        if name == "m2d":  # the same network, front end and all, as its training began
            untrained = build(model.network.spec, seed=seed)
            scores["untrained"] = scored(EchoicModel(ModelFile(untrained)), probes)
    for name, values in scores.items():
        for measure in ("probe", "zero_shot"):
            own = {k: v for k, v in values.items() if k.endswith(f"_{measure}")}
            if own:
                found[f"{measure}_{name}"] = float(np.mean(list(own.values())))
                found |= {f"{k}_{name}": v for k, v in own.items()}
    return found


def figures(
    shared: Path, *, seeds: Sequence[int], steps: int, scenes: int, fold: int, out: Path | None
) -> dict[str, object]:
    """Train, score, show; means and, of several seeds, deviations by name."""
    folds = real_folds(shared, fold)
    probes, real = [*real_probes(folds), synth_probe()], training_source(shared, folds)
    drawn = SceneSource(draw_scenes(scenes, split="train", seed=1, max_s=6.0))
    source = ConcatSource({"real": real, "scenes": drawn})
    baseline = {
        f"{p.name}_probe_baseline": p.accuracy_of(
            lambda wave, p=p: baseline_features(wave, segments=p.segments)
        )
        for p in probes
    }
    with tempfile.TemporaryDirectory() as scratch:
        runs = [
            run(probes, source, seed=seed, steps=steps, out=(out or Path(scratch)) / f"seed{seed}")
            for seed in seeds
        ]
    mean = {name: float(np.mean([r[name] for r in runs])) for name in runs[0]}
    spread = {f"{name}_std": float(np.std([r[name] for r in runs])) for name in runs[0]}
    chance = float(np.mean([1 / len(p.classes) for p in probes]))
    mean |= {**baseline, "probe_baseline": float(np.mean(list(baseline.values())))}
    mean["chance"] = chance
    _show(probes, mean, spread if len(runs) > 1 else {}, steps, len(runs))
    return {**mean, **(spread if len(runs) > 1 else {}), "seeds": len(runs), "steps": steps}


def _show(
    probes: Sequence[Probe],
    mean: dict[str, float],
    spread: dict[str, float],
    steps: int,
    runs: int,
) -> None:
    def cell(name: str) -> str:
        if name not in mean:
            return ""
        return f"{mean[name]:.3f}" + (
            f" ± {spread[f'{name}_std']:.3f}" if f"{name}_std" in spread else ""
        )

    columns = (
        "probe_untrained", "probe_baseline", "probe_m2d", "probe_m2d_clap", "probe_clap_only",
        "zero_shot_m2d_clap", "zero_shot_clap_only",
    )  # fmt: skip
    rows = [
        (p.name, f"{len(p.test[1])}", *(cell(f"{p.name}_{c}") for c in columns), 1 / len(p.classes))
        for p in probes
    ]
    rows.append(("mean", "", *map(cell, columns), mean["chance"]))
    show(
        f"M2D and M2D-CLAP, {steps} steps, {runs} seed(s): accuracy on held-out clips",
        ("set", "clips", *(c.replace("_", " ") for c in columns), "chance"),
        rows,
    )


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """What this benchmark and benchmarks.m2d take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--shared", type=Path, default=shared_folder(), help="folder that holds data/"
    )
    parser.add_argument("--quick", action="store_true", help="a minute in all")
    parser.add_argument("--seeds", type=int, default=1, help="how many times each trains")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--fold", type=int, default=2, choices=(1, 2, 3, 4), help="held out")
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}")
    parser.add_argument("--out", type=Path, help="keep the runs here (default: dropped)")
    return parser


def asked(args: argparse.Namespace) -> dict[str, object]:
    """`figures` as the command line asks."""
    return figures(
        args.shared,
        seeds=range(args.first_seed, args.first_seed + args.seeds),
        steps=args.steps or (QUICK_STEPS if args.quick else STEPS),
        scenes=100 if args.quick else SCENES,
        fold=args.fold,
        out=args.out,
    )


def main() -> None:
    """Parse, train, score, print."""
    finish(asked(arguments(__doc__).parse_args()))


if __name__ == "__main__":
    main()
