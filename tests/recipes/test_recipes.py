"""Recipes are found by name, hold the paper's values, and describe models that can be built."""

from __future__ import annotations

import pytest

from echoic.encoders.text import HfTextSpec
from echoic.model import build
from echoic.recipes import RECIPES, find_recipe
from echoic.recipes.slap import slap
from echoic.types import ConfigError


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("nanno", "no recipe 'nanno'; did you mean nano?"),
        ("zzz", "no recipe 'zzz'; there are nano, slap"),
        ("", "no recipe ''"),
        ("slap:huge", "recipe slap has no size 'huge'; it has nano, small, base"),
        ("nano:small", "recipe nano has no sizes"),
    ],
)
def test_an_unknown_recipe_is_one_clear_line(name, wanted):
    with pytest.raises(ConfigError) as caught:
        find_recipe(name)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_follow_a_colon():
    assert find_recipe("slap") == slap("base")
    assert find_recipe("slap:small") == slap("small")
    assert {find_recipe(name).name for name in RECIPES} == {
        "nano",
        "slap-base",
        "laion-clap-tiny-stage3",
    }


def test_slap_holds_the_values_of_the_paper():
    recipe = slap()
    audio, front = recipe.model.audio, recipe.model.front_end
    assert (audio.depth, audio.heads, audio.width, audio.hidden) == (12, 12, 768, 3072)
    assert (audio.patch_frames, audio.patch_bins) == (16, 16)
    assert (front.rate_hz, front.mel_bins, front.hop_samples) == (16_000, 64, 160)
    assert isinstance(recipe.model.text, HfTextSpec)
    assert recipe.reported["audiocaps/zero_shot/text_to_audio/R@1"] == 35.1


@pytest.mark.parametrize("recipe", [find_recipe("nano"), slap("small")], ids=lambda r: r.name)
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
        ("model.audio.heads=5", "audio.width 192 is not 5 heads"),
        ("model.audio.heads=0", "audio.width 192 is not 0 heads"),
        ("model.text.width=190", "text.width 190 is not 3 heads"),
        ("model.audio.patch_bins=24", "64 mel bins are not whole patches of 24 bins"),
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
