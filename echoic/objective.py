"""The objective of a recipe: its model, with what is learnt, as the one module that is trained.

`make_task` picks by what the recipe's `objectives` name: masked modelling (M2D), the contrastive
loss on visible patches (M2D-CLAP's second stage), or losses on whole clips: the contrastive one
alone, or with captioning and self-distillation beside it (SLAP).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from echoic.audio.frontend import FrontEnd
from echoic.data.clips import Source
from echoic.data.labels import labels_of
from echoic.data.noise import Noise
from echoic.data.sources import open_source
from echoic.encoders.m2d import M2dSpec
from echoic.encoders.slap import SlapSpec
from echoic.listening import AudioTower
from echoic.model import LanguageAudioModel
from echoic.nn.masking import RandomMask
from echoic.nn.vit import Vit
from echoic.objectives.chunked import Chunked, Meeting
from echoic.objectives.contrastive import unit_contrastive_loss
from echoic.objectives.gather import OwnQueries
from echoic.objectives.masked_duo import (
    ColumnPredictor,
    MaskedDuo,
    Predictor,
)
from echoic.objectives.masked_duo_task import (
    M2dModel,
    M2dTask,
    SentenceContrast,
    VisibleContrastTask,
)
from echoic.objectives.ring import Ring
from echoic.objectives.second_task import (
    LabelSecond,
    NoisyFrames,
    TeacherSecond,
    noise_level,
)
from echoic.objectives.self_distillation import SelfDistillation
from echoic.objectives.sigmoid import SigmoidContrast
from echoic.objectives.slap_task import SlapTask
from echoic.objectives.task import ContrastiveTask
from echoic.recipes.recipe import MaskedSpec, NoiseSpec, ObjectiveSpec, Recipe, SecondSpec
from echoic.teachers import open_teacher
from echoic.towers import M2dTower, PackedTower, SentenceTextSpec
from echoic.train.process import isolated_rng
from echoic.train.world import current
from echoic.types import Batch, ConfigError, Ragged

Sentences = Callable[[Batch], Tensor]


def make_task(
    recipe: Recipe,
    model: LanguageAudioModel,
    *,
    source: Source | None = None,
    sentences: Sentences | None = None,
) -> nn.Module:
    """source: of the training, whose tags are the labels of a second task. sentences: vectors of a
    batch's captions, for a model that reads those.

    Raises ConfigError where the objectives do not fit the model.
    """
    objectives, tower = recipe.objectives, model.audio
    _check(recipe)
    if not objectives.captioning:
        _without_gradient(model.decoder)
    if objectives.logit_scale is not None:
        model.logit_scale.data.fill_(objectives.logit_scale).log_()
    if isinstance(tower, M2dTower):
        if objectives.masked is not None:
            return _masked(recipe, objectives.masked, model, tower, source, sentences)
        if sentences or objectives.visible or objectives.frozen:
            return _visible(objectives, model, tower, sentences)
    if objectives.captioning or objectives.distillation or objectives.pairs != "softmax":
        return _slap(recipe, model)
    return ContrastiveTask(
        _synchronised(model),
        weight=objectives.contrastive,
        augment=recipe.frame_augment.seeded,
        ranks=_meeting(objectives),
        whole_step=objectives.negatives == "step",
    )


def heard_s(recipe: Recipe, tower: AudioTower) -> float:
    """How long a stretch of a clip the objective of `make_task` hears: on an M2D's patches that is
    the first window; else all that the tower hears at once."""
    objectives, text = recipe.objectives, recipe.model.text
    parts = objectives.masked or objectives.visible or objectives.frozen
    if not isinstance(tower, M2dTower) or not (parts or isinstance(text, SentenceTextSpec)):
        return tower.longest_s
    front_end = tower.front_end.spec
    window_s = (tower.spec.frames - 1) * front_end.hop_samples / front_end.rate_hz
    return min(window_s, tower.longest_s)


def _check(recipe: Recipe) -> None:
    """Raises ConfigError where the objectives do not fit the model."""
    objectives, audio, text = recipe.objectives, recipe.model.audio, recipe.model.text
    asked = [name for name in ("masked", "visible", "frozen") if getattr(objectives, name)]
    if not isinstance(audio, M2dSpec):
        if asked:
            raise ConfigError(f"objectives.{asked[0]}: for M2D, not for {audio.kind}")
        if isinstance(text, SentenceTextSpec):
            raise ConfigError(
                f"model.text: M2D alone learns from sentence vectors, not {audio.kind}"
            )
    if objectives.distillation and not isinstance(audio, SlapSpec):
        raise ConfigError(f"objectives.distillation: for SLAP's encoder, not for {audio.kind}")
    if objectives.captioning and recipe.model.decoder is None:
        raise ConfigError("objectives.captioning: needs a decoder (model.decoder)")
    for name, wanted in (
        ("captioning", objectives.captioning),
        ("pairs", objectives.pairs != "softmax"),
    ):
        if wanted and asked:
            raise ConfigError(f"objectives.{name}: not beside objectives.{asked[0]}")
        if wanted and isinstance(text, SentenceTextSpec):
            raise ConfigError(f"objectives.{name}: not with a model that reads sentence vectors")
    if objectives.masked is None:
        if text is None:
            raise ConfigError("objectives.masked: a model of sound alone learns by nothing else")
    elif objectives.contrastive and not isinstance(text, SentenceTextSpec):
        raise ConfigError(
            "objectives.contrastive: beside masked modelling the model reads vectors of sentences "
            f"(model.text of kind sentence, not {recipe.model.text_kind})"
        )


def _synchronised(model: LanguageAudioModel) -> LanguageAudioModel:
    """Over several GPUs batch norms share their statistics, as LAION-CLAP trained (SyncBN; torch
    has none for processes on a CPU)."""
    world = current()
    if world.store is not None and world.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def _meeting(objectives: ObjectiveSpec) -> Meeting:
    """How the rows of all processes meet."""
    forms = {"whole": OwnQueries, "chunked": Chunked, "ring": Ring}
    meeting: Meeting = forms[objectives.scores]()
    return meeting


def _without_gradient(*parts: nn.Module | None) -> None:
    """Of parts that no loss reaches."""
    for part in filter(None, parts):
        part.requires_grad_(False)


# -- several losses on whole clips -----------------------------------------------------------------


def _slap(recipe: Recipe, model: LanguageAudioModel) -> SlapTask:
    objectives, spec = recipe.objectives, recipe.objectives.distillation
    distillation = None
    if spec is not None:
        tower = model.audio
        assert isinstance(tower, PackedTower)  # as _check saw to
        with isolated_rng(recipe.run.seed):
            distillation = SelfDistillation(tower.encoder, spec, width=tower.token_width)
    return SlapTask(
        _synchronised(model),
        steps=recipe.optim.steps,
        contrast=SigmoidContrast() if objectives.pairs == "sigmoid" else unit_contrastive_loss,
        weight=objectives.contrastive,
        distillation=distillation,
        captioning=objectives.captioning,
        parallel_captions=objectives.parallel_captions,
        shared_view=objectives.shared_view,
        augment=recipe.frame_augment.seeded,
        ranks=_meeting(objectives),
        whole_step=objectives.negatives == "step",
    )


# -- the contrastive loss on part of the patches ---------------------------------------------------


def _visible(
    objectives: ObjectiveSpec,
    model: LanguageAudioModel,
    tower: M2dTower,
    sentences: Sentences | None,
) -> VisibleContrastTask:
    if objectives.frozen:
        tower.encoder.requires_grad_(False)
    return VisibleContrastTask(
        cast(M2dModel, model),  # its tower is an M2D's
        masking=objectives.visible or RandomMask(ratio=0.0),
        sentences=sentences,
        frozen=objectives.frozen,
        weight=objectives.contrastive,
        ranks=_meeting(objectives),
        whole_step=objectives.negatives == "step",
    )


# -- masked modelling ------------------------------------------------------------------------------


def _masked(
    recipe: Recipe,
    masked: MaskedSpec,
    model: LanguageAudioModel,
    tower: M2dTower,
    source: Source | None,
    sentences: Sentences | None,
) -> M2dTask:
    objectives, weight = recipe.objectives, recipe.objectives.contrastive
    contrast = None
    if weight and sentences:
        contrast = SentenceContrast(sentences, weight, ranks=_meeting(objectives))
    with isolated_rng(recipe.run.seed):
        duo = _duo(masked, tower)
        second = _second(masked.second, tower, source) if masked.second else None
    if not weight:  # nothing reaches what is of texts
        model.logit_scale.requires_grad_(False)
        _without_gradient(model.text, tower.projection)
    cache_bytes = recipe.data.cache_mb * 2**20
    return M2dTask(
        cast(M2dModel, model),
        duo,
        masking=masked.mask,
        decay=masked.decay,
        steps=recipe.optim.steps,
        weight=masked.weight,
        contrast=contrast,
        second=second,
        second_weight=masked.second.weight if masked.second else 0.0,
        disturb=_noise(masked.noise, tower, cache_bytes) if masked.noise else None,
        whole_step=contrast is not None and objectives.negatives == "step",
    )


def _duo(masked: MaskedSpec, tower: M2dTower) -> MaskedDuo:
    spec: M2dSpec = tower.spec
    if set(layers := masked.target_layers or ()) - set(range(spec.depth)):
        raise ConfigError(
            f"objectives.masked.target_layers {list(layers)}: the blocks are 0 to {spec.depth - 1}"
        )
    target = Vit(
        width=spec.width,
        depth=spec.depth,
        heads=spec.heads,
        mlp_ratio=spec.mlp_ratio,
        eps=spec.norm_eps,
    )
    predictor = Predictor(
        masked.predictor, width=spec.width, rows=tower.encoder.rows, columns=spec.columns
    )
    duo = MaskedDuo(target, predictor, target_layers=masked.target_layers)
    duo.start(tower.encoder)
    return duo


def _second(second: SecondSpec, tower: M2dTower, source: Source | None) -> nn.Module:
    def predictor(width: int) -> ColumnPredictor:
        rows = tower.encoder.rows
        return ColumnPredictor(width=tower.spec.width, rows=rows, out_width=width)

    if second.teacher is None:
        if source is None:
            raise ConfigError("objectives.masked.second: needs clips with tags, or a teacher")
        labels = labels_of({"train": source}, "many")
        clips = {clip.key: clip for clip in source.clips}

        def truth(keys: Sequence[str]) -> Tensor:
            return labels.truth([clips[key] for key in keys])  # of all, gigabytes for AudioSet

        return LabelSecond(predictor(len(labels.names)), truth)
    teacher = open_teacher(second.teacher, tower)
    return TeacherSecond(predictor(teacher.width), teacher)


def _noise(spec: NoiseSpec, tower: M2dTower, cache_bytes: int) -> NoisyFrames:
    source = open_source(spec.data, need_captions=False)
    noise = Noise(source, tower.rate_hz, cache_bytes=cache_bytes)
    front_end: FrontEnd = tower.front_end

    def frames(seed: int, lengths: Sequence[int]) -> Ragged:
        hop = front_end.spec.hop_samples
        waves = noise.crop(seed, [(n - 1) * hop for n in lengths])
        device = front_end.window.device
        return front_end.of_clips(torch.from_numpy(wave).to(device) for wave in waves)

    return NoisyFrames(frames, spec.share, front_end.spec.std, level=noise_level(frames))
