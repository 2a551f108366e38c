"""Does each part of SLAP (2601.12594) earn its place? The full model and five without a part of it,
trained from scratch alike, in the manner of the paper's Table 5.

    python -m benchmarks.slap_ablation --out runs/ablation    # about an hour as two processes
    python -m benchmarks.slap_ablation --quick                # a minute: shows that it runs

Give the same command to a second process to share the work: each run (one variant, one seed) is
claimed by a lock in its folder, and what lies finished in --out is only read. A killed run goes on.
The tables come when all is done, in either process, and from --out whenever the command is given
again.

All hear the same clips in the same batches for the same number of steps: scenes of the embedded
corpus with their captions, and the training parts of four real sets of ../shared/data (and two that
are never scored) with captions of their labels. `fixed_10_s` hears each clip followed by silence up
to 10 s (of a longer one a window), in training and at test, as models of fixed length do: the same
clips at three times the work of a step. Held out: scenes whose pairs of sounds, wordings and sound
parameters are new (retrieval, captions), single events, and one fold of each real set (zero-shot,
linear probe). The 11 clips of Clotho there are too few to score.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.held_sound import FilledSource, HeldSource, at_length
from benchmarks.output import finish
from benchmarks.probes import Hear, real_folds, real_probes, shared_folder, synth_probe
from benchmarks.real_sets import RATE_HZ, training_source
from benchmarks.slap_measures import (
    Figures,
    Sets,
    caption_baselines,
    measured,
    scenes_to_find,
)
from benchmarks.slap_tables import Row, summary, tell
from echoic.api import EchoicModel, load
from echoic.convert.native import FILE_NAME, ModelFile
from echoic.data.clips import ConcatSource
from echoic.data.files import write_whole
from echoic.data.synth.corpus import SceneSource, draw_scenes
from echoic.model import build
from echoic.pretrain import pretrain
from echoic.recipes import find_recipe
from echoic.recipes.recipe import Recipe
from echoic.types import ConfigError, EchoicError

SEEDS, STEPS, QUICK_STEPS = 3, 600, 6
FIXED_S = MAX_S = 10.0
SCORES = "scores.json"

# `slap:nano`, smaller still: two local blocks and a global one. The window is 1.9 s of clips that
# last 2.9 s on average; the paper's is 3.8 s, of AudioCaps' 10 s. A step of `full` takes 2.6 times
# the work of `contrastive_only`, one of `fixed_10_s` 3.5 times.
SIZE = (
    "model.audio.depth=3", "model.audio.width=128", "model.audio.heads=4",
    "model.audio.hidden=344", "model.audio.window_columns=12", "model.embed_dim=128",
    "model.text.vocab=2048", "model.text.depth=2", "model.text.width=128", "model.text.heads=4",
    "model.text.hidden=344", "model.decoder.depth=2", "model.decoder.width=128",
    "model.decoder.heads=4", "model.decoder.hidden=344",
    "objectives.distillation.head.prototypes=512", "objectives.distillation.head.hidden=256",
    "objectives.distillation.head.bottleneck=64",
    "data.budget_tokens=null", "data.budget_clips=32", "data.meaning=tags", "data.cache_mb=0",
    "optim.lr=1e-3", "run.log_every=100", "run.save_every=300", "run.keep_last=1",
)  # fmt: skip
NO_DISTILLATION = ("objectives.distillation=null",)
NO_CAPTIONING = ("objectives.captioning=0", "model.decoder=null")


@dataclass(frozen=True)
class Variant:
    """changes: to the full recipe. fixed_s: the one length that its clips have."""

    changes: tuple[str, ...] = ()
    fixed_s: float | None = None

    @property
    def hear(self) -> Hear:
        """What a model of it is given of a wave."""
        if self.fixed_s is None:
            return lambda wave: wave
        return partial(at_length, samples=round(self.fixed_s * RATE_HZ))


VARIANTS = {
    "full": Variant(),
    "no_distillation": Variant(NO_DISTILLATION),
    "no_captioning": Variant(NO_CAPTIONING),
    "contrastive_only": Variant((*NO_DISTILLATION, *NO_CAPTIONING)),
    "no_local_attention": Variant(("model.audio.global_every=1",)),
    "fixed_10_s": Variant((f"model.max_s={FIXED_S}", f"data.max_s={FIXED_S}"), FIXED_S),
}


def recipe_of(variant: Variant, seed: int, steps: int, changes: Sequence[str] = ()) -> Recipe:
    """changes: to the recipe of every variant."""
    common = (
        f"run.seed={seed}", f"optim.steps={steps}", f"optim.warmup_steps={max(1, steps // 15)}",
        f"objectives.distillation.teacher_temperature.warmup_steps={steps // 10}",
    )  # fmt: skip
    return find_recipe("slap:nano").override([*SIZE, *common, *changes, *variant.changes])


@dataclass(frozen=True)
class Study:
    """What all runs have in common."""

    source: HeldSource
    sets: Sets
    out: Path
    steps: int
    changes: tuple[str, ...] = ()

    def scores(self, name: str, seed: int) -> dict[str, Figures]:
        """Train and measure, where that is not done: figures by the row that they belong to, those
        of `full` with what the same network is before its training. Raises ConfigError where its
        folder holds a training of other settings."""
        folder, variant = self.out / f"seed{seed}" / name, VARIANTS[name]
        recipe = recipe_of(variant, seed, self.steps, self.changes)
        self._require_same(folder, recipe)
        file = folder / SCORES
        if file.is_file():
            known = json.loads(file.read_text("utf-8"))
            if known["sets"] == self.sets.described:
                return dict(known["figures"])
        train_s = self._train(folder, recipe, variant)
        model = load(folder / FILE_NAME)
        figures, captions = measured(model, self.sets, variant.hear)
        found = {name: figures | ({} if train_s is None else {"train_s": train_s})}
        if name == "full":
            network = build(model.network.spec.model_copy(update={"decoder": None}), seed=seed)
            untrained = EchoicModel(ModelFile(network, model.tokenizer))
            found["untrained"], _ = measured(untrained, self.sets, variant.hear)
        kept = {"sets": self.sets.described, "figures": found, "captions": captions}
        write_whole(file, json.dumps(kept, indent=1))
        return found

    def _require_same(self, folder: Path, recipe: Recipe) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        note, settings = folder / "settings.json", recipe.model_dump(mode="json")
        settings["sound"] = self.source.digest
        if not note.is_file():
            write_whole(note, json.dumps(settings, indent=1))
        elif json.loads(note.read_text("utf-8")) != settings:
            raise ConfigError(f"{folder}: holds a run of other settings; name another --out")

    def _train(self, folder: Path, recipe: Recipe, variant: Variant) -> float | None:
        """Seconds that it took; None where it was done before."""
        if (folder / FILE_NAME).is_file():
            return None
        print(f"{folder}: training", file=sys.stderr)
        source = FilledSource(self.source, variant.fixed_s) if variant.fixed_s else self.source
        resume = (folder / "checkpoints").is_dir()
        done = pretrain(recipe, source, folder, resume=resume, console=Console(stderr=True))
        if done.model_file is None:
            raise SystemExit(f"{folder}: stopped; the same command goes on")
        return done.result.elapsed_s


@contextmanager
def claimed(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Whether the folder is this process's now; wait: until it is. A process that ends lets go."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".claim").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


Scores = Callable[[str, int], dict[str, Figures]]


def all_scores(
    out: Path, variants: Sequence[str], seeds: Sequence[int], scores: Scores
) -> dict[str, Row]:
    """Figures of each variant by seed. What another process is at is waited for at the end; if that
    dies, it is done here."""
    found: dict[tuple[str, int], dict[str, Figures]] = {}
    for wait in (False, True):
        for seed in seeds:
            for name in variants:
                if (name, seed) in found:
                    continue
                with claimed(out / f"seed{seed}" / name, wait=wait) as mine:
                    if mine:
                        found[name, seed] = scores(name, seed)
    rows: dict[str, Row] = {}
    for seed in seeds:
        for name in variants:
            for row, figures in found[name, seed].items():
                rows.setdefault(row, []).append(figures)
    return rows


def study(args: argparse.Namespace, out: Path) -> Study:
    """The sound that all runs are trained and measured on."""
    folds = real_folds(args.shared, args.fold)
    few = args.quick
    drawn = draw_scenes(60 if few else 3000, split="train", seed=1, max_s=MAX_S)
    sound = ConcatSource(
        {"real": training_source(args.shared, folds), "scenes": SceneSource(drawn)}
    )
    scenes, waves = scenes_to_find(20 if few else 300, MAX_S)
    probes = [*real_probes(folds), synth_probe(40, 20) if few else synth_probe()]
    if few:
        probes = [probe.at_most(20) for probe in probes]
    return Study(
        source=HeldSource(sound, out / "sound", RATE_HZ),
        sets=Sets(scenes, waves, drawn, probes),
        out=out,
        steps=args.steps or (QUICK_STEPS if few else STEPS),
        changes=tuple(args.set),
    )


def arguments() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--shared", type=Path, default=shared_folder(), help="folder that holds data/"
    )
    parser.add_argument("--quick", action="store_true", help="a minute in all")
    parser.add_argument("--seeds", type=int, help=f"how many times each trains (default: {SEEDS})")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="default: %(default)s")
    parser.add_argument("--fold", type=int, default=2, choices=(1, 2, 3, 4), help="held out")
    parser.add_argument("--out", type=Path, help="keep the runs here (default: dropped)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change all recipes"
    )
    return parser


def main() -> None:
    """Parse, train, measure, print."""
    parser = arguments()
    args = parser.parse_args()
    variants = [name.strip() for name in args.variants.split(",")]
    if unknown := set(variants) - set(VARIANTS):
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    count = args.seeds or (1 if args.quick else SEEDS)
    seeds = range(args.first_seed, args.first_seed + count)
    torch.set_num_threads(1)  # two processes share two cores
    with tempfile.TemporaryDirectory() as scratch:
        common = study(args, args.out or Path(scratch))
        try:
            rows = all_scores(common.out, variants, seeds, common.scores)
        except EchoicError as error:
            raise SystemExit(str(error)) from None
    figures = summary(rows) | caption_baselines(common.sets)
    names = [probe.name for probe in common.sets.probes]
    tell(figures, list(rows), names, f"{common.steps} steps, {count} seed(s)")
    finish({**figures, "seeds": count, "steps": common.steps})


if __name__ == "__main__":
    main()
