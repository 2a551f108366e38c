"""Recipes are found by name, hold the paper's values, and describe models that can be built."""

from __future__ import annotations

import pytest

from echoic.encoders.m2d import M2dSpec
from echoic.encoders.text import HfTextSpec
from echoic.finetune import find_preset
from echoic.model import build
from echoic.nn.masking import RandomMask, StructuredMask
from echoic.objectives.masked_duo import DecaySpec, PredictorSpec
from echoic.recipes import RECIPES, default_size, find_recipe, find_stages
from echoic.recipes.m2d_clap import m2d_clap
from echoic.recipes.recipe import Recipe, Stage, TuningSpec
from echoic.recipes.slap import ABLATION, slap
from echoic.types import ConfigError


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("nanno", "no recipe 'nanno'; did you mean nano?"),
        ("zzz", "no recipe 'zzz'; there are nano, slap"),
        ("", "no recipe ''"),
        ("slap:huge", "recipe slap has no size 'huge'; it has nano, small, base"),
        ("slap:base,stage2", "recipe slap has no stage 'stage2'; it has pretrain, wavcaps"),
        ("slap:base,clotho,x", "takes a size and a stage, so not 'base,clotho,x'"),
        ("nano:small", "recipe nano has no sizes"),
        ("m2d_clap:huge", "recipe m2d_clap has no size 'huge'; it has nano, small, base, large"),
        ("m2d_clap:base,stage3", "recipe m2d_clap has no stage 'stage3'; it has m2d, m2d_as, 2024"),
        ("m2d_clap:base,stage1,stage2", "takes a size and a stage, so not 'base,stage1,stage2'"),
        ("m2d_clap", "but the stages stage1, stage1.1, stage2, stage2.1: name one"),
        ("m2d_clap:base,stage1.1", "is not one recipe but the stages stage1.1: name one"),
    ],
)
def test_an_unknown_recipe_is_one_clear_line(name, wanted):
    with pytest.raises(ConfigError) as caught:
        find_recipe(name)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_follow_a_colon():
    assert find_stages("slap") == slap("base")
    assert find_recipe("slap:small").name == "slap-small"
    assert {stage.name for name in RECIPES for stage in find_stages(name)} == {
        "nano",
        "slap-base",
        "laion-clap-tiny-stage3",
        *("stage1", "stage1.1", "stage2", "stage2.1"),
    }
    assert [default_size(name) for name in RECIPES] == [None, "base", "tiny", "base"]
    assert default_size("nanoo") is None


def test_slap_holds_the_values_of_the_paper():
    recipe = find_recipe("slap")
    audio, front = recipe.model.audio, recipe.model.front_end
    assert (audio.depth, audio.heads, audio.width, audio.hidden) == (12, 12, 768, 3072)
    assert (audio.patch_frames, audio.patch_bins) == (16, 16)
    assert (front.rate_hz, front.mel_bins, front.hop_samples) == (16_000, 64, 160)
    assert isinstance(recipe.model.text, HfTextSpec)
    assert recipe.reported["audiocaps/zero_shot/text_to_audio/R@1"] == 35.1
    decoder, objectives = recipe.model.decoder, recipe.objectives
    assert (decoder.depth, decoder.heads, decoder.width) == (8, 8, 512)
    distillation = objectives.distillation
    assert (objectives.contrastive, distillation.weight, objectives.captioning) == (1.0, 1.0, 0.5)
    assert distillation.mask == RandomMask(ratio=0.5)
    assert (distillation.decay.first, distillation.decay.last) == (0.994, 1.0)
    assert (recipe.optim.lr, recipe.optim.warmup_steps) == (1e-4, 2000)


def test_slap_goes_on_from_its_pretraining():
    names = ("wavcaps", "audiocaps", "clotho", "audioset", "esc50", "spcv2")
    stages = {name: find_stages(f"slap:base,{name}")[0] for name in names}
    assert {stage.takes for stage in stages.values()} == {"model"}
    for name in ("wavcaps", "audiocaps", "clotho"):
        recipe = stages[name].recipe
        assert recipe.objectives.captioning == 0.5
        assert (recipe.objectives.distillation is not None) == (name == "wavcaps")
        assert recipe.optim.lr < find_recipe("slap").optim.lr
    for name in ("audioset", "esc50", "spcv2"):
        find_preset(stages[name].tuning.preset)
    assert stages["esc50"].tuning.reported == {"esc50/fine_tuned": 98.2}
    assert ABLATION["full"] == (35.1, 44.8)


@pytest.mark.parametrize(
    "recipe", [find_recipe("nano"), find_recipe("slap:small")], ids=lambda r: r.name
)
def test_a_recipe_builds_and_fits_its_own_budget(recipe):
    model = build(recipe.model, seed=0)
    assert recipe.data.budget_tokens >= 2 * model.audio.tokens_in(recipe.model.max_s)
    assert recipe.optim.warmup_steps < recipe.optim.steps


def test_any_value_can_be_overridden_by_its_path():
    recipe = find_recipe("nano").override(
        ["optim.lr=3e-4", "model.audio.depth=1", "data.meaning=tags", "frame_augment.eq=0.5"]
    )
    assert recipe.optim.lr == 3e-4
    assert recipe.model.audio.depth == 1
    assert (recipe.data.meaning, recipe.frame_augment.eq) == ("tags", 0.5)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("model.audio.window_columns=0", "audio.window_columns: input should be greater"),
        ("model.audio.global_every=0", "audio.global_every: input should be greater"),
        ("model.audio.heads=5", "audio.width 192 is not 5 heads"),
        ("model.audio.heads=0", "audio.heads: input should be greater"),
        ("model.text.width=190", "text.width 190 is not 3 heads"),
        ("model.audio.patch_bins=24", "64 mel bins are not whole patches of 24 bins"),
        ("model.front_end.hop_samples=0", "front_end.hop_samples: input should be greater"),
        ("model.front_end.win_samples=600", "front_end: win_samples 600 exceeds n_fft 512"),
        ("model.front_end.fmin_hz=8000", "no frequency of the transform lies between fmin_hz 8000"),
        ("model.front_end.fmax_hz=31.25", "lies between fmin_hz 0 and fmax_hz 31.25"),
        ("model.front_end.std=0", "front_end.std: input should be greater"),
        ("model.max_s=0", "model.max_s: input should be greater than 0"),
        ("model.embed_dim=0", "model.embed_dim: input should be greater"),
        ("frame_augment.time_share=2", "frame_augment.time_share: input should be less"),
        ("wave_augment.speed=-0.1", "wave_augment.speed: input should be greater"),
        ("data.meaning=none", "data.meaning: input should be 'text' or 'tags'"),
    ],
)
def test_values_that_cannot_be_built_are_config_errors(change, wanted):
    with pytest.raises(ConfigError) as caught:
        find_recipe("nano").override([change])
    assert wanted in str(caught.value)


# -- M2D-CLAP --------------------------------------------------------------------------------------

MASKED, FROZEN = ("m2d", "m2d_as", "2024", "stage1"), ("stage2", "stage2.1")


def stage(step: str, size: str = "base") -> Recipe:
    (found,) = m2d_clap(size, step)
    assert found.recipe is not None
    return found.recipe


def test_the_stages_of_2025_follow_each_other():
    stages = m2d_clap()
    assert stages == find_stages("m2d_clap") == find_stages("m2d_clap:base")
    assert [(each.name, each.takes) for each in stages] == [
        ("stage1", None), ("stage1.1", "model"), ("stage2", "encoder"), ("stage2.1", "model"),
    ]  # fmt: skip
    for each in stages:
        assert find_stages(f"m2d_clap:base,{each.name}") == (each,)


def test_m2d_clap_is_of_the_papers():
    papers = {step: stage(step).paper.removeprefix("arXiv ") for step in (*MASKED, *FROZEN)}
    assert papers == {
        "m2d": "2210.14648", "m2d_as": "2404.06095", "2024": "2406.02032",
        "stage1": "2503.22104", "stage2": "2503.22104", "stage2.1": "2503.22104",
    }  # fmt: skip


@pytest.mark.parametrize("step", MASKED)
def test_masked_stages_hold_the_values_of_the_paper(step):
    recipe = stage(step)
    front, audio = recipe.model.front_end, recipe.model.audio
    assert (front.rate_hz, front.n_fft, front.hop_samples, front.mel_bins) == (16_000, 400, 160, 80)
    assert (front.fmin_hz, front.fmax_hz) == (50, 8000)
    assert (audio.width, audio.depth, audio.heads, audio.mlp_ratio) == (768, 12, 12, 4)
    assert (audio.frames, audio.patch_frames, audio.patch_bins) == (608, 16, 16)
    assert front.frames(round(recipe.data.max_s * front.rate_hz)) == 608
    masked = recipe.objectives.masked
    assert masked.mask == RandomMask(ratio=0.7)
    assert masked.weight == 1
    assert masked.predictor == PredictorSpec(width=512, depth=8, heads=16, mlp_ratio=4)
    assert masked.decay == DecaySpec(first=0.99995, last=0.99999)
    assert (masked.target_layers, masked.noise) == (None, None)
    optim = recipe.optim
    assert (optim.kind, optim.betas, optim.weight_decay, optim.clip_norm) == (
        "adamw", (0.9, 0.95), 0.05, 3.0,
    )  # fmt: skip
    assert optim.lr == pytest.approx(3e-4 * 2048 / 256)
    assert (optim.warmup_from_zero, optim.final_lr_share) == (True, 0)
    per_epoch = {"stage1": 1236}.get(step, 979)  # batches of 2048 clips, the rest dropped
    assert (optim.warmup_steps, optim.steps) == (20 * per_epoch, 300 * per_epoch)
    assert (recipe.data.budget_clips, recipe.data.measured_clips) == (2048, 5000)
    assert recipe.objectives.logit_scale is None  # 1 / 0.07, as models begin
    assert not recipe.objectives.frozen


@pytest.mark.parametrize(
    ("step", "projector", "text", "weight"),
    [
        ("m2d", None, None, 0.0),
        ("m2d_as", None, None, 0.0),
        ("2024", "mlp", ("thenlper/gte-base", 768, "none"), 0.01),
        ("stage1", "tokens", ("st:nvidia/NV-Embed-v2", 4096, "linear"), 0.01),
    ],
)
def test_what_is_learnt_beside_masked_modelling(step, projector, text, weight):
    recipe = stage(step)
    model, second = recipe.model, recipe.objectives.masked.second
    assert model.audio.projector == projector
    assert (model.audio.projector_depth, model.audio.projector_mlp_ratio) == (1, 1)
    assert recipe.objectives.contrastive == weight
    assert model.embed_dim == (768 if projector else 3840)
    read = model.text and (model.text.encoder, model.text.width, model.text.projection)
    assert read == text
    # M2D-AS: tags, weighed as the objective itself
    assert (second and (second.teacher, second.weight)) == (
        (None, 1.0) if step == "m2d_as" else None
    )


@pytest.mark.parametrize(
    ("step", "mask", "per_epoch", "scale"),
    [("stage2", 0.3, 1262, 100), ("stage2.1", 0.0, 214, None)],
)
def test_frozen_stages_hold_the_values_of_the_paper(step, mask, per_epoch, scale):
    recipe = stage(step)
    objectives, optim, text = recipe.objectives, recipe.optim, recipe.model.text
    assert objectives.masked is None
    assert objectives.frozen
    assert objectives.visible == StructuredMask(ratio=mask)
    assert (objectives.contrastive, objectives.logit_scale) == (1, scale)
    assert optim.lr == pytest.approx(3e-6 * 2048 / 256)
    assert (optim.betas, optim.weight_decay, optim.clip_norm) == ((0.9, 0.95), 0.05, 3.0)
    assert (optim.warmup_steps, optim.steps) == (5 * per_epoch, 30 * per_epoch)
    assert (recipe.data.budget_clips, recipe.data.measured_clips) == (2048, None)
    front = recipe.model.front_end
    assert front.frames(round(recipe.data.max_s * front.rate_hz)) == 1001
    assert (recipe.model.audio.frames, recipe.model.audio.projector) == (1001, "tokens")
    assert (text.kind, text.pool, text.projection, text.has_pooler) == (
        "bert",
        "cls",
        "none",
        False,
    )
    assert (text.width, text.depth, text.heads, text.hidden) == (768, 12, 12, 3072)
    published = "google-bert/bert-base-uncased"
    assert recipe.start.text == (published if step == "stage2" else None)


def test_tuning_is_on_ten_seconds():
    (found,) = m2d_clap("base", "stage1.1")
    assert found.tuning == TuningSpec(preset="m2d_as2m", reported={"as/finetune": 49.0})
    spec = find_preset(found.tuning.preset)
    assert (spec.m2d.frames, spec.m2d.mask, spec.epochs) == (1001, StructuredMask(ratio=0.5), 70)
    assert (spec.optimizer.kind, spec.lr) == ("lars", 2.0)


def test_the_corpora_and_the_reported_figures():
    assert stage("m2d").data.corpora == stage("2024").data.corpora == ("AudioSet",)
    assert stage("stage1").data.corpora == ("AudioSet", "VGGSound", "WavCaps")
    assert stage("stage2").data.corpora == (*stage("stage1").data.corpora, "AudioCaps", "Clotho")
    assert stage("stage2.1").data.corpora == ("WavCaps (part)", "AudioCaps", "Clotho")
    assert stage("m2d").reported["average/linear"] == 80.2
    assert stage("m2d_as").reported["us8k/linear"] == 89.8
    assert stage("2024").reported["esc50/zero_shot"] == 75.45
    assert stage("stage2.1").reported == {"esc50/zero_shot": 94.3}


@pytest.mark.parametrize("size", ["nano", "small", "large"])
@pytest.mark.parametrize("step", [*MASKED, *FROZEN])
def test_other_sizes_keep_the_papers_method(step, size):
    recipe, base = stage(step, size), stage(step)
    ours, theirs = recipe.objectives, base.objectives
    if ours.masked is not None:
        if size != "nano":
            assert ours.masked.decay == theirs.masked.decay
        same = ("predictor", "decay")
        update = {name: getattr(theirs.masked, name) for name in same}
        ours = ours.model_copy(update={"masked": ours.masked.model_copy(update=update)})
    if size == "nano" and ours.masked is not None and theirs.contrastive:
        assert (ours.contrastive, theirs.contrastive) == (0.05, 0.01)
        ours = ours.model_copy(update={"contrastive": 0.01})
    assert ours == theirs
    assert recipe.model.front_end == base.model.front_end
    assert recipe.model.audio.projector == base.model.audio.projector
    assert isinstance(recipe.model.audio, M2dSpec)
    if size == "large":
        audio = recipe.model.audio
        assert (audio.width, audio.depth, audio.heads) == (1024, 24, 16)
        kinds = {each.model.text and each.model.text.kind for each in (recipe, base)}
        assert len(kinds) == 1
    else:
        assert recipe.start.text is None  # nothing is fetched
        text = recipe.model.text
        assert getattr(text, "encoder", "words:256") == "words:256"


@pytest.mark.parametrize("step", [*MASKED, *FROZEN])
def test_the_nano_builds_and_fits_its_own_budget(step):
    recipe = stage(step, "nano")
    model = build(recipe.model, seed=0)
    per_clip = model.audio.tokens_in(recipe.data.max_s)
    assert per_clip == recipe.model.audio.columns * 5 + 5 * (step in FROZEN)  # 401 frames: a rest
    assert recipe.data.tokens(per_clip) == 32 * per_clip
    assert recipe.optim.warmup_steps < recipe.optim.steps <= 1500
    assert not recipe.reported


def test_a_stage_has_one_kind():
    with pytest.raises(ValueError, match="a recipe or a tuning"):
        Stage(name="none")
    with pytest.raises(ValueError, match="a recipe or a tuning"):
        Stage(name="both", recipe=stage("m2d"), tuning=TuningSpec(preset="linear"))
