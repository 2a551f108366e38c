"""SLAP's padded twin computes what ours does, both get the same clips, and the figures are what
they say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import slap, timing
from benchmarks.clip_lengths import ORIGINS, log_normal, quantiles
from benchmarks.slap import QUICK, WHOLE, Amount, Clips, contrastive_only
from benchmarks.slap_plain import PaddedTask
from echoic.encoders.slap import SlapSpec
from echoic.encoders.text import SmallTextSpec
from echoic.model import LanguageAudioModel, build
from echoic.nn.linear import linear
from echoic.objectives.task import ContrastiveTask
from echoic.recipes import find_recipe
from echoic.recipes.recipe import Recipe

# The shortest is one frame's worth; the longest is cut into bands by our local attention.
DURATIONS_S = (0.02, 0.31, 1.0, 2.5, 9.0)


def tiny_recipe(name: str) -> Recipe:
    """`slap:nano` at a width that a test can wait for."""
    recipe = find_recipe(name)
    model = recipe.model.model_copy(
        update={
            "audio": SlapSpec(depth=3, width=32, heads=2, hidden=48),
            "text": SmallTextSpec(vocab=64, depth=1, width=32, heads=2, hidden=48),
            "decoder": recipe.model.decoder
            and recipe.model.decoder.model_copy(
                update={"vocab": 64, "depth": 1, "width": 32, "heads": 2, "hidden": 48}
            ),
            "embed_dim": 16,
        }
    )
    return recipe.model_copy(update={"model": model})


@pytest.fixture(scope="module")
def model() -> LanguageAudioModel:
    return build(contrastive_only(tiny_recipe("slap:nano")).model, seed=0)


@pytest.fixture(scope="module")
def clips() -> Clips:
    return Clips(DURATIONS_S, 16_000, vocab=64)


@pytest.mark.parametrize("frames", [None, 3001], ids=["longest", "30_s"])
def test_the_padded_twin_computes_the_same_vectors_and_gradients(model, clips, frames):
    ours, plain = ContrastiveTask(model), PaddedTask(model, frames)
    batch = clips.batch(range(5))
    heard, read = model.audio(batch.audio).clip, model.text(batch.text).clip
    torch.testing.assert_close(plain.hear(batch.audio), heard, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain.read(batch.text), read, rtol=1e-4, atol=1e-4)
    grads = []
    for task in (ours, plain):
        loss = task(batch)["contrastive"]
        grads.append(torch.autograd.grad(loss, list(model.parameters())))
    for name, one, other in zip(dict(model.named_parameters()), *grads, strict=True):
        size = float(one.abs().max())
        assert size > 1e-7, name
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3 * size, msg=name)


@pytest.mark.parametrize("amount", [WHOLE, QUICK], ids=["whole", "quick"])
def test_both_sides_get_every_clip_once_and_ours_keep_to_the_budget(amount, model):
    clips = Clips(quantiles(amount.clips), 1000, vocab=64)  # at a rate that costs little
    costs = [model.audio.tokens_in(s) for s in clips.durations_s]
    drawn, packed = (
        [[int(key) for key in batch.keys] for batch in batches]
        for batches in (
            clips.drawn(amount.together),
            clips.packed(amount.together, model.audio.tokens_in),
        )
    )
    for batches in (drawn, packed):
        assert sorted(i for batch in batches for i in batch) == list(range(amount.clips))
    assert {len(batch) for batch in drawn} == {amount.together}
    budget = amount.together * sum(costs) / amount.clips
    assert max(sum(costs[i] for i in batch) for batch in packed) <= budget + 1


def test_few_clips_stand_for_the_three_sets():
    few, many = quantiles(48), quantiles(20_000)
    for found in (few, many):
        assert found == sorted(found)
        assert (found[0], found[-1]) == (1.0, 30.0)
    assert sum(few) / 48 == pytest.approx(sum(many) / 20_000, rel=0.01)
    assert max(set(many), key=many.count) == 10.0
    tens = ORIGINS["audiocaps"].clips + ORIGINS["wavcaps_audioset"].clips
    share = tens / sum(origin.clips for origin in ORIGINS.values())
    assert sum(s == 10.0 for s in many) / 20_000 == pytest.approx(share, abs=0.01)


def test_log_normal_lengths_have_their_median_and_freesounds_those_of_fsd50k():
    assert log_normal(8.0, 20.0)(0.5) == pytest.approx(8.0)
    drawn = [ORIGINS["wavcaps_freesound"].seconds((i + 0.5) / 20_000) for i in range(20_000)]
    kept = [s for s in drawn if 0.3 < s < 30]
    assert sum(kept) / len(kept) == pytest.approx(108.3 * 3600 / 51_197, rel=0.01)


def test_the_counter_sees_the_products_of_every_kernel():
    x, w = torch.randn(6, 8, requires_grad=True), torch.randn(10, 8, requires_grad=True)
    forward = 2 * 6 * 8 * 10
    for product in (F.linear, linear):  # MKL's and oneDNN's
        assert timing.operations(lambda product=product: product(x, w)) == forward
        both = timing.operations(lambda product=product: product(x, w).sum().backward())
        assert both == 3 * forward
    q = torch.randn(2, 3, 4, 8, requires_grad=True)
    scores = 2 * 2 * 3 * 4 * 4 * 8
    assert timing.operations(lambda: F.scaled_dot_product_attention(q, q, q)) == 2 * scores
    both = timing.operations(lambda: F.scaled_dot_product_attention(q, q, q).sum().backward())
    assert both == 2 * scores + 5 * scores  # backward makes the scores anew


def test_a_spread_is_most_over_least():
    assert slap.spread([2.0, 3.0, 2.5]) == pytest.approx(0.5)


def test_the_ratios_are_those_of_what_is_timed(monkeypatch):
    monkeypatch.setattr(slap, "find_recipe", tiny_recipe)
    asked = {}

    def laps(things, rounds):
        asked.update(things)
        seconds = {"ours": 2.0, "longest": 3.0, "30_s": 8.0, "front_end": 0.5}
        return {name: [seconds.get(name, 1.0)] * rounds for name in things}

    monkeypatch.setattr(slap, "in_turns", laps)
    amount = Amount(clips=4, together=2, rounds=1, tokens=300)
    found = slap.packing("nano", amount, torch.float32)
    assert (found["packed_vs_longest"], found["packed_vs_30s"]) == (1.5, 4.0)
    assert (found["clips_per_s"], found["front_end_share"]) == (2.0, 0.25)
    assert 0 < found["outside_products"] < 1
    found = slap.lengths_cost("nano", amount, torch.bfloat16)
    # all laps alike: 10 clips of a second, or one of 30 for want of room
    assert found["cost_per_second_spread"] == pytest.approx(30 / 10 - 1)
    assert 0.05 < found["operations_spread"] < 2  # so narrow a model is mostly attention
    for thing in asked.values():
        thing()


def test_the_three_objectives_are_weighed_by_their_operations(monkeypatch):
    monkeypatch.setattr(slap, "find_recipe", tiny_recipe)
    amount = Amount(clips=4, together=3, rounds=1, tokens=300)
    found = slap.auxiliary("nano", amount, torch.float32)
    assert found["auxiliary_flops"] > 2  # clean, masked and a teacher's forward pass
    assert found["auxiliary_cost_vs_flops"] == pytest.approx(
        found["auxiliary_cost"] / found["auxiliary_flops"]
    )


def test_memory_is_counted_per_token(monkeypatch):
    monkeypatch.setattr(slap, "find_recipe", tiny_recipe)
    assert slap.kib_per_token("nano", 8000) > 0
    monkeypatch.setattr(
        slap, "in_own_process", lambda *asked: {"4096": 10.0, "8192": 11.0}[asked[-1]]
    )
    found = slap.attention_memory("nano", (4096, 8192))
    assert found["attention_memory_growth"] == pytest.approx(1.1)
    assert found["kib_per_token_at_8k"] == 11.0


def test_a_step_moves_every_weight(model, clips):
    step = slap.Step(ContrastiveTask(model), find_recipe("slap:nano").optim, torch.bfloat16)
    before = [p.clone() for p in model.parameters()]
    step(clips.batch(range(5)))
    moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)]
    assert all(moved)
    assert all(p.grad is None for p in nn.Module.parameters(model))
