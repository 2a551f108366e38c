"""A plan holds together: what is asked for, what fits, what is fastest, what holds it up."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from echoic.plan.machines import GPUS, MEMORY_SHARE, find_gpu
from echoic.plan.planner import Ask, advice, plan_recipe, settings
from echoic.types import ConfigError
from tests.plan.steps import recipe

ASK = Ask(pairs=109e6, mean_s=10.0, gpus=64, gpu=GPUS["h100"])


def test_slap_on_64_gpus():
    plan = plan_recipe(recipe("slap:base"), ASK)
    told = plan.to_json()
    assert (plan.clips, plan.steps) == (2048, 106_400)
    assert told["epochs"] == pytest.approx(2.0, rel=0.01)
    assert told["audio_tokens_per_step"] == 2048 * 252
    by_part = sum(p["forward"] + p["backward"] for p in told["flop_by_part"].values())
    assert told["flop_per_step"] == pytest.approx(by_part)
    # 6 operations a weight and token: two views through 113 M in blocks
    encoder = told["flop_by_part"]["audio encoder"]
    assert sum(encoder.values()) == pytest.approx(6 * 113e6 * 2 * 2048 * 252, rel=0.06)
    assert told["days"] == pytest.approx(plan.steps * plan.chosen.seconds.step / 86_400)
    assert told["cost"] == pytest.approx(told["days"] * 24 * 64 * 2.5)
    assert told["data"]["raw_bytes"] == pytest.approx(109e6 * (10 * 32_000 + 2048))
    json.dumps(told, allow_nan=False)


def test_the_settings_are_keys_of_the_recipe_and_make_the_steps_clips():
    asked = recipe("slap:base")
    for ask in (ASK, replace(ASK, gpus=1, gpu=GPUS["l4"])):
        plan = plan_recipe(asked, ask)
        changed = asked.override(settings(plan))
        clips = changed.data.budget_tokens * changed.optim.accumulate * ask.gpus / 252
        assert clips == plan.clips


def test_epochs_and_batch_go_before_the_recipes():
    plan = plan_recipe(recipe("slap:base"), replace(ASK, epochs=3.0, batch=8192))
    assert (plan.clips, plan.steps) == (8192, round(3 * 109e6 / 8192))


def test_what_fits_is_chosen_and_of_that_the_fastest():
    plan = plan_recipe(recipe("slap:base"), replace(ASK, gpus=1, gpu=GPUS["l4"]))
    assert plan.chosen.fits
    assert plan.chosen.way.passes > 8
    assert plan.chosen.memory.peak <= MEMORY_SHARE * 24e9
    assert plan.chosen.seconds.step == min(o.seconds.step for o in plan.options if o.fits)
    assert any("objectives.negatives=step" in line for line in advice(plan))
    one = plan_recipe(recipe("slap:base"), replace(ASK, gpus=1, gpu=GPUS["h200"], batch=64))
    assert one.chosen.way.passes == 1


def test_what_does_not_fit_is_told():
    tiny = replace(GPUS["l4"], memory=1e9)
    plan = plan_recipe(recipe("slap:base"), replace(ASK, gpu=tiny))
    assert not plan.chosen.fits
    assert "does not fit" in advice(plan)[0]


def test_ways_trade_memory_for_time():
    plan = plan_recipe(recipe("slap:base"), ASK)
    ways = {(o.way.kind, o.way.checkpointed): o for o in plan.options}
    assert len(ways) == 4
    for kind in ("ddp", "fsdp"):
        plain, again = ways[kind, False], ways[kind, True]
        assert again.memory.activations < plain.memory.activations
        assert again.flop > plain.flop
    assert ways["fsdp", False].memory.state < 0.1 * ways["ddp", False].memory.state


@pytest.mark.parametrize(
    ("changes", "bottleneck", "word"),
    [
        ({}, "compute", "products"),
        ({"cores": 0.5}, "loader", "cores per GPU and has 0.5"),
        ({"network_gbit_s": 10.0}, "gradients", "the network"),
    ],
)
def test_the_bottleneck_is_named(changes, bottleneck, word):
    plan = plan_recipe(recipe("slap:base"), replace(ASK, **changes))
    assert plan.to_json()["bottleneck"] == bottleneck
    assert any(word in line for line in advice(plan))


def test_as_many_cores_as_are_needed_are_enough():
    plan = plan_recipe(recipe("slap:base"), replace(ASK, cores=0.5))
    enough = plan_recipe(recipe("slap:base"), replace(ASK, cores=plan.cores_needed * 1.001))
    assert plan.cores_needed > 0.5
    assert enough.chosen.seconds.bottleneck != "loader"


def test_fp32_is_slow_on_a_gpu_and_48_khz_three_times_the_work():
    plan = plan_recipe(recipe("laion_clap:tiny"), ASK)
    assert any("optim.precision=bf16" in line for line in advice(plan))
    low = plan_recipe(recipe("laion_clap:tiny", "optim.precision=bf16"), ASK)
    assert low.chosen.seconds.compute < 0.1 * plan.chosen.seconds.compute
    assert low.chosen.seconds.loader == pytest.approx(plan.chosen.seconds.loader)
    own = plan_recipe(recipe("slap:base"), replace(ASK, batch=2304)).chosen.seconds.loader
    assert plan.chosen.seconds.loader == pytest.approx(3 * own)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"gpus": 3000}, "less than two for each of 3000"), ({"nodes": 7}, "64 GPUs .* 7 nodes"),
     ({"gpus": 9, "nodes": None}, "9 GPUs do not divide among 2 nodes"),
     ({"pairs": 0}, "pairs 0 is not positive"), ({"epochs": 0}, "epochs 0 is not positive"),
     ({"network_gbit_s": 0}, "network_gbit_s 0 is not positive"),
     ({"pairs": float("inf"), "epochs": 1}, "pairs inf is not finite")],
)  # fmt: skip
def test_what_cannot_be_is_one_line(changes, told):
    with pytest.raises(ConfigError, match=told):
        plan_recipe(recipe("slap:base"), replace(ASK, **changes))


def test_an_unknown_gpu_is_one_line():
    with pytest.raises(ConfigError, match="no GPU 'h10'; did you mean h100"):
        find_gpu("h10")
