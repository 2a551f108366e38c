"""From a recipe and a source of captioned sound to a model file: what `echoic train` does.

run folder
  recipe.yaml         the resolved recipe
  tokenizer.json      learnt on the captions (unless the text encoder brings its own)
  log.jsonl           losses and evaluations
  checkpoints/        everything needed to go on
  model.safetensors   the result: weights, description, tokenizer, card
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from echoic.api import EchoicModel
from echoic.convert.check import CARD_KEY, self_test
from echoic.convert.native import FILE_NAME, ModelFile, load_strictly, save_model
from echoic.data.clips import Source, check_audio, read_window
from echoic.data.loader import Loader
from echoic.encoders.text import HfTextEncoder, HfTextSpec, SmallTextSpec, published_text
from echoic.encoders.tokenizer import TextTokenizer
from echoic.eval.retrieval import retrieval_metrics
from echoic.model import LanguageAudioModel, ModelSpec, build
from echoic.objectives.task import ContrastiveTask
from echoic.recipes.recipe import Recipe
from echoic.train.checkpoint import Checkpoints, load_weights
from echoic.train.loop import TrainResult, train
from echoic.types import AudioError, ConfigError, DataError

log = logging.getLogger("echoic.pretrain")

# Evaluations inside a training hear at most this many clips, and of each what the model hears at
# once, as they are kept in memory; `echoic eval` hears them all, in full.
VALID_CLIPS = 300

Evaluate = Callable[[nn.Module], Mapping[str, float]]


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

    Raises ConfigError, DataError, CheckpointError and what decoding raises, each one line.
    """
    fresh = not Checkpoints(folder / "checkpoints", recipe.run.keep_last).steps()
    start = _start(recipe.model, source, folder / "tokenizer.json", fresh=fresh)
    tokenizer = start.tokenizer
    resolved = recipe.model_copy(update={"model": start.spec})
    if fresh:  # what belongs to a training that lies here stays as it is
        _write(folder / "recipe.yaml", resolved.to_yaml())
    model = build(start.spec, seed=recipe.run.seed)
    if console is not None:
        console.print(_told(model, start.spec), markup=False, highlight=False, soft_wrap=True)
    if start.text_weights is not None:
        assert isinstance(model.text, HfTextEncoder)
        load_strictly(model.text.encoder, start.text_weights, start.text_name)
    task = make_task(resolved, model)
    result = train(
        task,
        make_loader(resolved, source, model, tokenizer, threads=threads),
        optim=recipe.optim,
        run=recipe.run,
        folder=folder,
        evaluate=retrieval_on(valid, tokenizer) if valid is not None else None,
        resume=resume,
        console=console,
        sample_rate_hz=model.audio.rate_hz,
        config=resolved,
    )
    if not result.finished:
        return Pretrained(result, None)
    load_weights(task, folder, averaged=recipe.optim.ema is not None)
    file = folder / FILE_NAME
    card = _card(resolved, source, result)
    tested = self_test(EchoicModel(ModelFile(model, tokenizer))).to_json()
    save_model(file, ModelFile(model, tokenizer, card | {CARD_KEY: tested}))
    return Pretrained(result, file)


def make_task(recipe: Recipe, model: LanguageAudioModel) -> ContrastiveTask:
    """Model and objectives as the one module that is trained."""
    return ContrastiveTask(
        model,
        weight=recipe.objectives.contrastive,
        augment=recipe.frame_augment.seeded,
    )


def make_loader(
    recipe: Recipe,
    source: Source,
    model: LanguageAudioModel,
    tokenizer: TextTokenizer,
    *,
    threads: int = 1,
) -> Loader:
    """The recipe's batches of `source`."""
    data = recipe.data
    return Loader(
        source,
        rate_hz=model.audio.rate_hz,
        tokenize=tokenizer,
        cost=model.audio.tokens_in,
        budget=data.budget_tokens,
        seed=recipe.run.seed,
        augment=recipe.wave_augment,
        max_s=min(data.max_s, recipe.model.max_s),
        meaning=data.meaning,
        threads=threads,
        max_bad_share=data.max_bad_share,
        cache_bytes=data.cache_mb * 2**20,
    )


def retrieval_on(valid: Source, tokenizer: TextTokenizer) -> Evaluate:
    """An evaluation for the training loop: retrieval both ways on the first clips of `valid`, heard
    once.

    Raises DataError on a source without clips.
    """
    if not valid.clips:
        raise DataError("the held-out data has no clips")
    chosen = range(min(VALID_CLIPS, len(valid.clips)))
    heard: dict[int, np.ndarray] = {}

    def evaluate(task: nn.Module) -> dict[str, float]:
        assert isinstance(task, ContrastiveTask)
        assert isinstance(task.model, LanguageAudioModel)
        listener = EchoicModel(ModelFile(task.model, tokenizer))
        if not heard:
            heard.update(hear(valid, chosen, listener.rate_hz, task.model.audio.max_s))
        captions = [valid.clips[i].captions for i in heard]
        audio = listener.embed_audio(heard.values())
        text = listener.embed_text([caption for row in captions for caption in row])
        owner = np.repeat(np.arange(len(captions)), [len(row) for row in captions])
        metrics = retrieval_metrics(audio.numpy(), text.numpy(), owner)
        return {name: float(value) for name, value in metrics.items()}

    return evaluate


def hear(
    source: Source, chosen: Sequence[int], rate_hz: int, longest_s: float
) -> dict[int, np.ndarray]:
    """The first `longest_s` of some clips by index: (T,) each; one that cannot be heard is named in
    the log and left out.

    Raises DataError where none is left.
    """
    heard: dict[int, np.ndarray] = {}
    for i in chosen:
        key = source.clips[i].key
        try:
            wave = read_window(source, i, rate_hz, 0.0, longest_s)
            check_audio(key, wave)
        except AudioError as error:
            log.warning("held-out clip %s left out: %s", key, error.reason)
        else:
            heard[i] = wave
    if not heard:
        raise DataError(f"none of the {len(chosen)} held-out clips can be heard")
    return heard


@dataclass(frozen=True)
class _Start:
    """Where a training starts: the description filled in, the tokenizer, and text weights if they
    are published."""

    spec: ModelSpec
    tokenizer: TextTokenizer
    text_weights: dict[str, Tensor] | None = None
    text_name: str = ""


def _start(spec: ModelSpec, source: Source, tokenizer_file: Path, *, fresh: bool) -> _Start:
    text = spec.text
    if isinstance(text, HfTextSpec):
        if text.name is None:
            raise ConfigError("model.text.name: a training needs the encoder's folder or Hub name")
        published = published_text(text)
        filled = spec.model_copy(update={"text": published.spec})
        return _Start(filled, published.tokenizer, published.weights, f"text.name {text.name}")
    tokenizer = _own_tokenizer(text, source, tokenizer_file, fresh=fresh)
    text = text.model_copy(update={"vocab": tokenizer.vocab})
    return _Start(spec.model_copy(update={"text": text}), tokenizer)


def _own_tokenizer(
    spec: SmallTextSpec, source: Source, file: Path, *, fresh: bool
) -> TextTokenizer:
    """Learnt on the captions once, and read again when a run goes on."""
    if not fresh and file.exists():
        return TextTokenizer.from_json(file.read_text("utf-8"), max_tokens=spec.max_tokens)
    captions = (caption for clip in source.clips for caption in clip.captions)
    tokenizer = TextTokenizer.train(captions, vocab=spec.vocab, max_tokens=spec.max_tokens)
    if fresh:
        _write(file, tokenizer.to_json())
    return tokenizer


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror})") from None


def _told(model: LanguageAudioModel, spec: ModelSpec) -> str:
    sizes = [
        sum(p.numel() for p in part.parameters()) / 1e6 for part in (model, model.audio, model.text)
    ]
    hears = f"{spec.front_end.rate_hz} Hz, up to {spec.max_s:g} s at once"
    return (
        "model: {:.2f} M parameters (audio {:.2f} M, text {:.2f} M); hears ".format(*sizes) + hears
    )


def _card(recipe: Recipe, source: Source, result: TrainResult) -> dict[str, Any]:
    known_s = [clip.duration_s or 0.0 for clip in source.clips]
    return {
        "recipe": recipe.name,
        "paper": recipe.paper,
        "clips": len(source.clips),
        "hours": round(sum(known_s) / 3600, 3),
        "steps": result.step,
        "losses": result.losses,
        "metrics": result.metrics,
        "torch": torch.__version__,
    }
