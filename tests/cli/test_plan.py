"""echoic plan, as typed."""

from __future__ import annotations

import inspect
import json

from echoic.cli import main, plan
from echoic.plan import machines


def test_the_defaults_are_those_that_the_plan_states():
    told = {name: p.default for name, p in inspect.signature(plan.plan).parameters.items()}
    assert told["utilisation"] == machines.UTILISATION
    assert told["price"] == machines.PRICE
    assert told["cores"] == machines.CORES_PER_GPU
    assert told["network_gbit_s"] == machines.NETWORK_GBIT_S


def test_a_plan_is_told_in_words(capsys):
    given = ["--pairs", "109e6", "--mean-s", "10", "--gpus", "64", "--gpu", "h100"]
    assert main(["plan", "slap:base", *given]) == 0
    told = capsys.readouterr().out
    for word in ("memory", "operations", "days", "cost", "shards", "needed per GPU", "> ddp"):
        assert word in told
    assert "the GPUs' products" in told


def test_stages_are_planned_each_and_tuning_is_left_out(capsys):
    assert main(["plan", "m2d_clap:nano", "--gpus", "1", "--json"]) == 0
    heard = capsys.readouterr()
    assert [each["recipe"].rpartition("-")[2] for each in json.loads(heard.out)] == [
        "stage1", "stage2", "stage2.1",
    ]  # fmt: skip
    assert "stage1.1: tuning on labels, not planned" in heard.err


def test_a_recipe_is_changed_as_for_train(capsys):
    assert main(["plan", "nano", "data.budget_tokens=8192", "--gpus", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips_per_step"] == 8192 // 252


def test_size_and_stage_are_those_of_train(capsys):
    def told(*words: str) -> object:
        assert main(["plan", *words, "--gpus", "1", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert told("slap", "--size", "small") == told("slap:small") != told("slap:base")
    assert told("m2d_clap", "--size", "nano", "--stage", "stage2") == told("m2d_clap:nano,stage2")
    assert main(["plan", "slap:base", "--size", "small"]) == 2
    assert "--size and --stage go with a bare name" in capsys.readouterr().err


def test_mistakes_are_one_line(capsys):
    assert main(["plan", "nano", "--gpu", "abacus"]) == 2
    assert "no GPU 'abacus'" in capsys.readouterr().err
    assert main(["plan", "m2d_clap:nano,stage1.1"]) == 2
    assert "not planned" in capsys.readouterr().err
