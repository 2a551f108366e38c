"""The formulas against real steps: weights exactly, operations as torch counts them, bytes as
autograd saves them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.timing import operations
from echoic.model import build
from echoic.objective import heard_s
from echoic.plan import parts
from echoic.plan.formulas import GPU_BF16
from echoic.plan.parts import Load, step_cost, tokens_of
from echoic.recipes import RECIPES, find_stages
from echoic.types import ConfigError
from tests.plan.steps import TEXTS, batch_of, kept_bytes, loss_of, planned, recipe, task_of

SMALL_SLAP = ("model.audio.depth=3", "model.text.depth=2")
CHEAP = ("objectives.distillation.head.prototypes=256", "objectives.distillation.head.hidden=128")
LIKE_BASE = (
    "model.audio={kind: slap, depth: 3, width: 96, heads: 3, hidden: 384}",
    "model.text={kind: small, vocab: 500, depth: 2, width: 96, heads: 3, hidden: 256}",
    "model.embed_dim=64",
)
CASES = {
    "contrastive": (recipe("nano", *SMALL_SLAP), [5.0] * 4),
    "contrastive, 10 s": (recipe("nano", *SMALL_SLAP), [10.0] * 4),
    "three objectives": (recipe("slap:nano", *SMALL_SLAP, *CHEAP), [6.0] * 4),
    "mixed lengths": (recipe("slap:nano", *SMALL_SLAP, *CHEAP), [1.0, 2.0, 4.0, 12.0]),
    "wide": (recipe("nano", *LIKE_BASE), [4.0] * 4),
    "shared view": (
        recipe("slap:nano", *SMALL_SLAP, *CHEAP, "objectives.shared_view=true"), [5.0] * 4
    ),
    "no captioning": (
        recipe("slap:nano", *SMALL_SLAP, *CHEAP, "objectives.captioning=0"), [5.0] * 4
    ),
    "head as teacher, all patches": (
        recipe(
            "slap:nano", *SMALL_SLAP, *CHEAP, "objectives.distillation.loss=all",
            "objectives.distillation.teacher=head", "objectives.distillation.targets=centred",
        ),
        [5.0] * 4,
    ),
    "m2d": (recipe("m2d_clap:nano,m2d"), [2.07] * 4),
    "m2d, 2024": (recipe("m2d_clap:nano,2024"), [2.07] * 4),
    "m2d, stage 1": (recipe("m2d_clap:nano,stage1"), [2.07] * 4),
    "m2d, stage 2": (recipe("m2d_clap:nano,stage2.1"), [4.0] * 4),
    "htsat": (recipe("laion_clap:toy"), [10.0] * 4),
    "htsat, fusion": (recipe("laion_clap:toy,fusion"), [10.0, 12.0, 14.0, 11.0]),
    "pann": (
        recipe(
            "laion_clap:toy", "model.audio={kind: pann, layers: 6}", "model.embed_dim=64"
        ),
        [10.0] * 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_step_costs_what_the_formulas_say(case):
    asked, seconds = CASES[case]
    texts = TEXTS[: len(seconds)]
    task, batch = task_of(asked, len(seconds)), batch_of(asked, seconds, texts)
    step = planned(asked, seconds, texts)
    whole = step.whole

    learning = sum(p.numel() for p in task.parameters() if p.requires_grad)
    assert whole.weights == learning
    assert whole.weights + whole.held == sum(p.numel() for p in task.parameters())

    kept = kept_bytes(task, batch)
    assert whole.kept + step.scores == pytest.approx(kept, rel=0.12)
    counted = operations(lambda: loss_of(task, batch).backward())
    assert whole.flop == pytest.approx(counted, rel=0.015)


@pytest.mark.parametrize(
    "config",
    ["model_type: modernbert, num_hidden_layers: 4", "model_type: bert, num_hidden_layers: 2",
     "model_type: roberta, num_hidden_layers: 1"],
)  # fmt: skip
def test_encoders_of_transformers(config):
    pytest.importorskip("transformers")
    shape = "hidden_size: 96, num_attention_heads: 4, intermediate_size: 160, vocab_size: 200"
    more = "max_position_embeddings: 64" if "modern" not in config else "pad_token_id: 0"
    asked = recipe("nano", f"model.text={{kind: hf, config: {{{config}, {shape}, {more}}}}}")
    text = build(asked.model, seed=0).text
    found = parts.text_cost(asked.model.text, np.array([9.0, 30.0]), 192, GPU_BF16)
    weights = sum(p.numel() for p in text.parameters())
    assert found.weights == pytest.approx(weights, rel=0.01)  # RoBERTa has two places less
    batch = batch_of(asked, [1.0, 1.0], (9, 30))

    def step():
        text(batch.text).clip.sum().backward()

    text.eval()
    assert found.flop == pytest.approx(operations(step), rel=0.02)


def test_a_published_encoder_whose_shape_is_known_needs_no_network():
    asked = recipe("slap:base")
    found = parts.text_cost(asked.model.text, np.array([20.0]), 512, GPU_BF16)
    assert found.weights == pytest.approx(149e6 + 11e6, rel=0.05)  # ModernBERT-base and the head
    unknown = asked.model.text.model_copy(update={"name": "somebody/else"})
    with pytest.raises(ConfigError, match=r"somebody/else.*model\.text\.config"):
        parts.text_cost(unknown, np.array([20.0]), 512, GPU_BF16)


def every_recipe():
    names = [*RECIPES, "laion_clap:tiny,fusion", "laion_clap:cnn14", "m2d_clap:nano",
             "m2d_clap:nano,2024", "m2d_clap:nano,m2d", "m2d_clap:nano,m2d_as", "slap:small",
             "m2d_clap:large", "slap:base,wavcaps", "slap:base,clotho"]  # fmt: skip
    return {
        f"{name} {stage.name}": stage.recipe
        for name in names
        for stage in find_stages(name)
        if stage.recipe is not None
    }


@pytest.mark.parametrize("name", every_recipe())
def test_every_recipe_has_formulas(name):
    asked = every_recipe()[name]
    load = Load(np.full(4, 12.0), np.full(4, 15.0), 4)
    whole = step_cost(asked, load, GPU_BF16).whole
    assert whole.forward < whole.flop
    assert 0 < whole.kept_checkpointed() < whole.kept or asked.objectives.frozen


def test_a_second_task_by_a_teacher_has_no_formula():
    asked = recipe("m2d_clap:nano,m2d", "objectives.masked.second={teacher: a.pth}")
    with pytest.raises(ConfigError, match="frozen teacher"):
        planned(asked, [2.0] * 4)


@pytest.mark.parametrize(
    "name",
    ["nano", "laion_clap:toy", "laion_clap:toy,fusion", "m2d_clap:nano,stage1",
     "m2d_clap:nano,stage2"],
)  # fmt: skip
def test_tokens_and_what_is_heard_are_those_of_the_built_tower(name):
    asked = recipe(name)
    tower = build(asked.model, seed=0).audio
    seconds = np.array([0.005, 0.31, 1.0, 2.07, 9.99, 10.0, 31.0])
    assert tokens_of(asked.model, seconds).tolist() == [tower.tokens_in(s) for s in seconds]
    assert parts.heard_s(asked) == min(asked.data.max_s, heard_s(asked, tower))


def test_more_is_kept_without_checkpoints_and_more_computed_with_them():
    whole = planned(recipe("slap:nano"), [10.0] * 4).whole
    assert whole.kept_checkpointed() < 0.6 * whole.kept
    assert 0.5 * whole.forward < whole.again < whole.forward
