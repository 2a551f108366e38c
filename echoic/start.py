"""Where a training starts: the description filled in, a tokenizer, and published weights if the
recipe names some."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from echoic.audio.frontend import FrontEnd, FrontEndSpec
from echoic.audio.views import crop_start
from echoic.config import parse_json
from echoic.convert.laion import architecture, audio_init, in_words
from echoic.convert.native import load_strictly
from echoic.convert.open import open_model, with_tokenizer
from echoic.convert.text import published_weights
from echoic.data.clips import LONG_S, Source, heard_or_noted
from echoic.encoders.clap_text import ClapTextSpec
from echoic.encoders.m2d import M2dSpec, for_window
from echoic.encoders.slap import SlapSpec
from echoic.encoders.text import HfTextSpec, SmallTextSpec, published_text
from echoic.encoders.tokenizer import TextTokenizer
from echoic.hub import find_model
from echoic.model import LanguageAudioModel, ModelSpec
from echoic.recipes.recipe import Recipe, StartSpec
from echoic.towers import M2dTower, SentenceTextSpec
from echoic.types import CheckpointError, ConfigError, DataError

# What a checkpoint trained on AudioSet has not, or a model that starts from it need not have.
_OF_FUSION = (
    "mel_conv1d.",
    "fusion_model.",
    "patch_embed.mel_conv2d.",
    "patch_embed.fusion_model.",
)
# What to train a model of each kind on by.
_FITTING = {"slap": "slap:small", "m2d": "m2d_clap:base,m2d or m2d_clap:base,stage2.1"}
_FITTING_LAION = "laion_clap:base or laion_clap:tiny,fusion"
_OF_TAGGING = ("tscam_conv.", "fc_audioset.", "audio.tagger.")


@dataclass(frozen=True)
class Weights:
    """Published weights of one part of a model ("text.encoder"), and what they may lack: that keeps
    its fresh values. name: where they come from."""

    part: str
    tensors: dict[str, Tensor]
    name: str
    may_lack: tuple[str, ...] = ()

    def load_into(self, model: LanguageAudioModel) -> None:
        """Raises CheckpointError with the names that do not fit."""
        module = model.get_submodule(self.part)
        fresh = {n: t for n, t in module.state_dict().items() if n.startswith(self.may_lack)}
        load_strictly(module, fresh | self.tensors, self.name)


@dataclass(frozen=True)
class Start:
    """spec: with what the data and the published encoders decide. tokenizer: None where the model
    reads no words."""

    spec: ModelSpec
    tokenizer: TextTokenizer | None
    weights: tuple[Weights, ...] = ()


def start(recipe: Recipe, source: Source, tokenizer_file: Path, *, fresh: bool) -> Start:
    """What a training of `recipe` begins with. fresh: nothing was trained yet, so a tokenizer that
    is learnt on the captions of `source` is written to `tokenizer_file`; else it is read there.

    Raises ConfigError, CheckpointError.
    """
    begun = _start(recipe, source, tokenizer_file, fresh=fresh)
    decoder = begun.spec.decoder
    if decoder is None or begun.tokenizer is None:
        return begun
    if recipe.start.model is None and not recipe.objectives.captioning:
        # one that never learns would babble
        return replace(begun, spec=begun.spec.model_copy(update={"decoder": None}))
    decoder = decoder.model_copy(update=_words_of(begun.tokenizer))
    return replace(begun, spec=begun.spec.model_copy(update={"decoder": decoder}))


def _words_of(tokenizer: TextTokenizer) -> dict[str, object]:
    """What a decoder must know of the tokenizer whose ids it writes. Raises ConfigError where that
    frames no text."""
    frame = tokenizer([""])[0]
    if len(frame) != 2 or frame[0] == frame[1]:
        raise ConfigError(
            "model.decoder: its tokenizer does not put a begin and an end around a text, so no "
            "caption would end"
        )
    begin, end = frame
    unsaid = tuple(sorted(tokenizer.special_ids - {begin, end}))
    return {"vocab": tokenizer.vocab, "begin_id": begin, "end_id": end, "unsaid_ids": unsaid}


def _start(recipe: Recipe, source: Source, tokenizer_file: Path, *, fresh: bool) -> Start:
    spec, given = recipe.model, recipe.start
    if given.model is not None:
        return _of_model(spec, given.model, given.text)
    spec, audio = _audio(spec, given)
    if given.text is not None:
        return _of_published_text(spec, given.text, audio)
    if isinstance(spec.text, HfTextSpec):
        return _of_transformers(spec, spec.text, audio)
    text = spec.text
    if not isinstance(text, SmallTextSpec | ClapTextSpec):
        return Start(spec, None, audio)
    tokenizer = own_tokenizer(text, source, tokenizer_file, fresh=fresh)
    text = text.model_copy(update={"vocab": tokenizer.vocab})
    return Start(spec.model_copy(update={"text": text}), tokenizer, audio)


def _of_model(spec: ModelSpec, name: str, text: str | None) -> Start:
    """A whole model, trained on. text: where a checkpoint without a tokenizer gets one."""
    content = open_model(find_model(name))
    found = content.model.spec
    if _kind(found) != _kind(spec):
        raise ConfigError(
            f"start.model {name}: is {_kind(found)}; the recipe is {_kind(spec)}: take the one "
            f"that fits, such as {_FITTING.get(found.audio.kind, _FITTING_LAION)}"
        )
    if content.tokenizer is None and text is not None:
        content = with_tokenizer(content, text)
    if content.tokenizer is None and not isinstance(found.text, SentenceTextSpec | None):
        raise ConfigError(f"start.model {name}: brings no tokenizer; start.text names one")
    tensors = {
        n: t
        for n, t in content.model.state_dict().items()
        if not n.removeprefix("audio.encoder.").startswith(_OF_TAGGING)
    }
    lacks_decoder = spec.decoder is not None and found.decoder is None
    if lacks_decoder:  # one is begun on it
        found = found.model_copy(update={"decoder": spec.decoder})
    may_lack = ("decoder.",) if lacks_decoder else ()
    weights = Weights("", tensors, f"start.model {name}", may_lack=may_lack)
    return Start(_headless(found), content.tokenizer, (weights,))


def _headless(spec: ModelSpec) -> ModelSpec:
    """Without a head for labels, which no loss of a training reaches."""
    if isinstance(spec.audio, SlapSpec):
        return spec
    audio = spec.audio.model_copy(update={"classes": None})
    return spec.model_copy(update={"audio": audio})


def _kind(spec: ModelSpec) -> str:
    """What must be the same of a recipe's model and of one that it starts from."""
    audio, text = spec.audio, spec.text_kind
    if isinstance(audio, SlapSpec):
        return f"slap of {audio.depth} x {audio.width}, text {text}"
    if isinstance(audio, M2dSpec):
        return f"m2d of {audio.depth} x {audio.width}, projector {audio.projector}, text {text}"
    return in_words(architecture(audio), audio.fusion, text)


def _of_transformers(spec: ModelSpec, text: HfTextSpec, audio: tuple[Weights, ...]) -> Start:
    if text.name is None:
        raise ConfigError("model.text.name: a training needs the encoder's folder or Hub name")
    published = published_text(text)
    filled = spec.model_copy(update={"text": published.spec})
    weights = Weights("text.encoder", published.weights, f"model.text.name {text.name}")
    return Start(filled, published.tokenizer, (*audio, weights))


def _of_published_text(spec: ModelSpec, name: str, audio: tuple[Weights, ...]) -> Start:
    text = spec.text
    if not isinstance(text, ClapTextSpec):
        raise ConfigError(
            f"start.text {name}: this model's text encoder is of kind {spec.text_kind}"
        )
    try:
        published = published_weights(name, max_tokens=text.max_tokens, pool=text.pool)
        tokenizer = TextTokenizer.published(name, max_tokens=text.max_tokens)
    except CheckpointError as error:
        raise ConfigError(f"start.text: {error}") from None
    read = published.spec.model_copy(update={"projection": text.projection})
    filled = spec.model_copy(update={"text": read})
    weights = Weights(
        "text.encoder", published.weights, f"start.text {name}", may_lack=published.lacking
    )
    return Start(filled, tokenizer, (*audio, weights))


def _audio(spec: ModelSpec, given: StartSpec) -> tuple[ModelSpec, tuple[Weights, ...]]:
    """The description as the audio encoder that training starts from fills it in, and its
    weights."""
    if given.encoder is not None:
        return _of_encoder(spec, given.encoder)
    if given.audio is None:
        return spec, ()
    found, tensors = audio_init(Path(given.audio))
    told = ("kind", "width", "depths", "heads", "layers")
    if any(getattr(found, x, None) != getattr(spec.audio, x, None) for x in told):
        known = ", ".join(f"{x} {getattr(found, x)}" for x in told if hasattr(found, x))
        raise ConfigError(f"start.audio {given.audio}: is another encoder ({known})")
    tags = getattr(spec.audio, "classes", None) is not None
    kept = {n: t for n, t in tensors.items() if tags or not n.startswith(_OF_TAGGING)}
    name = f"start.audio {given.audio}"
    return spec, (Weights("audio.encoder", kept, name, may_lack=_OF_FUSION),)


def _of_encoder(spec: ModelSpec, name: str) -> tuple[ModelSpec, tuple[Weights, ...]]:
    """The audio encoder of an M2D, with its front end; the head of the recipe is put on it, and
    the space without one is as wide as the encoder's columns. Where the recipe's window is longer,
    its positions are resampled along time."""
    network = open_model(find_model(name)).model
    tower, where = network.audio, f"start.encoder {name}"
    if not isinstance(tower, M2dTower) or not isinstance(spec.audio, M2dSpec):
        kinds = f"is {_kind(network.spec)}; the recipe is {_kind(spec)}"
        raise ConfigError(f"{where}: {kinds}: both must be M2D")
    found, tensors = tower.spec, dict(tower.encoder.state_dict())
    if longer := for_window(tower.encoder, spec.audio.frames):
        found, tensors["pos_embed"] = longer
    head = spec.audio.model_dump(include={"projector", "projector_depth", "projector_mlp_ratio"})
    audio = found.model_copy(update={**head, "classes": None})
    parts: dict[str, object] = {
        "audio": audio.model_dump(),
        "front_end": network.spec.front_end.model_dump(),
    }
    if audio.projector is None:
        parts["embed_dim"] = tower.encoder.rows * audio.width
    whole = ModelSpec.parse(spec.model_dump() | parts, where=where)
    return whole, (Weights("audio.encoder", tensors, where),)


def measured_front_end(recipe: Recipe, source: Source, file: Path, *, fresh: bool) -> FrontEndSpec:
    """The recipe's front end with mean and deviation of its log-mel over clips of `source`, drawn
    by the run's seed. fresh: measured, and written to `file`; else read there.

    Raises ConfigError, and DataError where no clip can be heard.
    """
    spec = recipe.model.front_end
    if not fresh and file.exists():
        try:
            kept = {**spec.model_dump(), **parse_json(file.read_text("utf-8"))}
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{file}: cannot be read ({error}); begin anew") from None
        return FrontEndSpec.parse(kept, where=str(file))
    found = _statistics(recipe, source)
    write_text(file, json.dumps(found))
    return spec.model_copy(update=found)


def _statistics(recipe: Recipe, source: Source) -> dict[str, float]:
    """Mean and deviation over a random crop of each clip."""
    spec = recipe.model.front_end
    plain = FrontEnd(spec.model_copy(update={"mean": 0.0, "std": 1.0}))
    length = round(recipe.data.max_s * spec.rate_hz)
    draw = np.random.default_rng(recipe.run.seed)
    wanted = min(recipe.data.measured_clips or 1, len(source.clips))
    count, total, squares = 0, 0.0, 0.0
    for i in draw.choice(len(source.clips), wanted, replace=False).tolist():
        duration_s, window_s = source.clips[i].duration_s or 0.0, None
        if duration_s > max(LONG_S, recipe.data.max_s):
            window_s = (draw.uniform(0, duration_s - recipe.data.max_s), recipe.data.max_s)
        wave = heard_or_noted(source, i, spec.rate_hz, {}, window_s=window_s)
        if wave is None:
            continue
        first = crop_start(len(wave), length, draw)
        frames = plain.of_clips([torch.from_numpy(wave[first : first + length])]).values.double()
        count += frames.numel()
        total += float(frames.sum())
        squares += float(frames.square().sum())
    if not count:
        raise DataError(f"none of {wanted} clips can be heard")
    mean = total / count
    std = math.sqrt(max(squares / count - mean**2, 0.0)) + 1e-6  # silence has none
    return {"mean": mean, "std": std}


def own_tokenizer(
    spec: SmallTextSpec | ClapTextSpec, source: Source, file: Path, *, fresh: bool
) -> TextTokenizer:
    """Learnt on the captions once, and read again when a run goes on."""
    if not fresh and file.exists():
        return TextTokenizer.from_json(file.read_text("utf-8"), max_tokens=spec.max_tokens)
    captions = (caption for clip in source.clips for caption in clip.captions)
    tokenizer = TextTokenizer.train(captions, vocab=spec.vocab, max_tokens=spec.max_tokens)
    if fresh:
        write_text(file, tokenizer.to_json())
    return tokenizer


def write_text(file: Path, text: str) -> None:
    """Raises ConfigError where the disk refuses."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror})") from None
