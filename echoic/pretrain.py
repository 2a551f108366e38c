"""From a recipe and a source of captioned sound to a model file: what `echoic train` does.

run folder
  recipe.yaml         the resolved recipe
  tokenizer.json      learnt on the captions (unless the text encoder brings its own)
  statistics.json     mean and deviation of the log-mel, where the recipe has them measured
  sentences/          vectors of the captions, where the model reads those and none were given
  log.jsonl           losses and evaluations
  checkpoints/        everything needed to go on
  model.safetensors   the result: weights, description, tokenizer, card
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from echoic.api import save_tested
from echoic.convert.native import FILE_NAME, ModelFile
from echoic.data.clips import Source, durations_of
from echoic.data.loader import Loader, Tokenize
from echoic.model import LanguageAudioModel, ModelSpec, build
from echoic.objective import heard_s, make_task
from echoic.reading import Reading, made_by, sentence_store
from echoic.recipes.recipe import Recipe
from echoic.start import Weights, measured_front_end, start, write_text
from echoic.train.checkpoint import Checkpoints, load_weights
from echoic.train.loop import TrainResult, train
from echoic.train.world import ALONE, World, current
from echoic.validation import evaluation

RECIPE_FILE = "recipe.yaml"


@dataclass(frozen=True)
class Pretrained:
    """model_file is None where the training was asked to stop before its end."""

    result: TrainResult
    model_file: Path | None


def pretrain(
    recipe: Recipe,
    source: Source,
    folder: Path,
    *,
    valid: Source | None = None,
    resume: bool = False,
    threads: int = 1,
    console: Console | None = None,
) -> Pretrained:
    """Train `recipe` on `source` in `folder`. valid: held-out clips for the evaluations inside the
    training.

    Where torchrun started several processes, all call it; the first writes the files and tells.
    Raises ConfigError, DataError, CheckpointError, LostError and what decoding raises, each one
    line.
    """
    world = current()
    there = Checkpoints(folder / "checkpoints", recipe.run.keep_last)
    if not resume:
        there.require_none()  # before anything is made for a training that may not begin
    console = console if world.first else None
    fresh = world.of_first(lambda: not there.steps())
    with world.first_alone():
        begun = _begun(recipe, source, valid, folder, console, fresh=fresh and world.first)
        resolved, reading = begun.recipe, begun.reading
        if fresh and world.first:  # what belongs to a training that lies here stays as it is
            write_text(folder / RECIPE_FILE, resolved.to_yaml())
    model, task = _made(begun, source)
    if console is not None:
        told = _told(model, resolved.model, world)
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    result = train(
        task,
        make_loader(resolved, source, model, reading.tokenize, threads=threads, world=world),
        optim=recipe.optim,
        run=recipe.run,
        folder=folder,
        evaluate=evaluation(valid, reading, model) if valid is not None else None,
        resume=resume,
        console=console,
        sample_rate_hz=model.audio.rate_hz,
        config=resolved,
        world=world,
    )
    if not result.finished:
        return Pretrained(result, None)
    file = folder / FILE_NAME
    if world.first:
        if world.store is not None and recipe.run.parallel == "fsdp":
            model, task = _made(begun, source)  # this one's weights are cut up
        load_weights(task, folder, averaged=recipe.optim.ema is not None)
        content = ModelFile(model.cpu(), reading.tokenizer, _card(resolved, source, result))
        save_tested(file, content)
    world.of_first(lambda: None)  # so that the file is there for all
    return Pretrained(result, file)


@dataclass(frozen=True)
class _Begun:
    """The recipe with what the data decide, what is read of captions, and published weights."""

    recipe: Recipe
    reading: Reading
    weights: tuple[Weights, ...]


def _begun(
    recipe: Recipe,
    source: Source,
    valid: Source | None,
    folder: Path,
    console: Console | None,
    *,
    fresh: bool,
) -> _Begun:
    """fresh: what is learnt or measured of the data is written to `folder`; else it is read there.

    Raises ConfigError, DataError, CheckpointError.
    """
    begun = start(recipe, source, folder / "tokenizer.json", fresh=fresh)
    spec = begun.spec
    store = sentence_store(recipe, source, valid, folder, console)
    if store is not None and spec.text is not None:
        spec = spec.model_copy(update={"text": spec.text.model_copy(update=made_by(store))})
    if recipe.data.measured_clips and not begun.weights:
        front_end = measured_front_end(recipe, source, folder / "statistics.json", fresh=fresh)
        spec = spec.model_copy(update={"front_end": front_end})
    reading = Reading(begun.tokenizer, store)
    return _Begun(recipe.model_copy(update={"model": spec}), reading, begun.weights)


def _made(begun: _Begun, source: Source) -> tuple[LanguageAudioModel, nn.Module]:
    """The model as the training begins with it, and the task that it learns by."""
    model = build(begun.recipe.model, seed=begun.recipe.run.seed)
    for weights in begun.weights:
        weights.load_into(model)
    device = current().device
    model.to(device)
    sentences = begun.reading.sentences
    task = make_task(begun.recipe, model, source=source, sentences=sentences)
    return model, task.to(device)


def make_loader(
    recipe: Recipe,
    source: Source,
    model: LanguageAudioModel,
    tokenize: Tokenize | None,
    *,
    threads: int = 1,
    world: World = ALONE,
) -> Loader:
    """The recipe's batches of `source`, of several ranks this one's. tokenize: None for sound
    alone."""
    data = recipe.data
    longest_s = min(data.max_s, heard_s(recipe, model.audio))
    return Loader(
        source,
        rate_hz=model.audio.rate_hz,
        tokenize=tokenize,
        cost=model.audio.tokens_in,
        budget=data.tokens(of_a_clip=model.audio.tokens_in(longest_s)),
        seed=recipe.run.seed,
        augment=recipe.wave_augment,
        max_s=longest_s,
        max_clips=data.budget_clips,
        meaning=data.meaning,
        threads=threads,
        max_bad_share=data.max_bad_share,
        cache_bytes=data.cache_mb * 2**20,
        rank=world.rank,
        ranks=world.size,
    )


def _told(model: LanguageAudioModel, spec: ModelSpec, world: World) -> str:
    sizes = [
        sum(p.numel() for p in part.parameters()) / 1e6 for part in (model, model.audio, model.text)
    ]
    hears = f"{spec.front_end.rate_hz} Hz, up to {spec.max_s:g} s at once"
    told = (
        "model: {:.2f} M parameters (audio {:.2f} M, text {:.2f} M); hears ".format(*sizes) + hears
    )
    return told if world.size == 1 else f"{told}; {world.size} processes"


def _card(recipe: Recipe, source: Source, result: TrainResult) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "paper": recipe.paper,
        "clips": len(source.clips),
        "hours": round(float(np.nansum(durations_of(source.clips))) / 3600, 3),
        "steps": result.step,
        "losses": result.losses,
        "metrics": result.metrics,
        "torch": torch.__version__,
    }
