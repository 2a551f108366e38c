"""The plain step that ours is timed against computes the same: both losses, every gradient, and the
weights that a step leaves."""

from __future__ import annotations

import pytest
import torch

from benchmarks.m2d_speed import (
    OurStep,
    PlainStep,
    Size,
    encoder_operations,
    plain_names,
    visible_cost,
)
from benchmarks.timing import in_turns, shares
from echoic.encoders.m2d import M2dSpec
from echoic.objectives.masked_duo import PredictorSpec

TINY = Size(
    M2dSpec(width=32, depth=2, heads=2, frames=64, projector="mlp"),
    PredictorSpec(width=16, depth=2, heads=2),
    clips=3,
)


@pytest.fixture(scope="module")
def steps() -> tuple[OurStep, PlainStep]:
    return OurStep(TINY), PlainStep(TINY)


def test_both_steps_have_the_same_loss_and_gradients(steps):
    ours, plain = steps
    torch.testing.assert_close(ours.backward(), plain.backward(), rtol=1e-5, atol=1e-6)
    wanted = {name: p.grad for name, p in plain.plain.named_parameters() if p.requires_grad}
    found = plain_names(ours.task, gradients=True)
    assert found.keys() == wanted.keys()
    for name, grad in found.items():
        size = wanted[name].abs().max().item()
        assert size > 1e-7, name
        torch.testing.assert_close(grad, wanted[name], rtol=1e-3, atol=1e-4 * size, msg=name)
    ours.optimizer.zero_grad()
    plain.optimizer.zero_grad()


def test_both_move_the_weights_alike(steps):
    ours, plain = steps
    before = {name: p.clone() for name, p in plain_names(ours.task).items()}
    ours()
    plain()
    after = dict(plain.plain.named_parameters())
    for name, p in plain_names(ours.task).items():
        moved, apart = (p - before[name]).abs(), (p - after[name]).abs()
        if name.endswith("qkv.bias") and not name.startswith("target"):
            # a key's bias has no gradient: AdamW makes steps of what rounding leaves
            moved, apart = (x.view(3, -1)[[0, 2]] for x in (moved, apart))
        assert apart.mean() < 0.1 * moved.mean(), name


def test_bfloat16_is_near_both():
    fine, ours, plain = OurStep(TINY), *(S(TINY, torch.bfloat16) for S in (OurStep, PlainStep))
    for coarse in (ours, plain):
        assert coarse.backward() == pytest.approx(float(fine.backward()), rel=0.01)


def test_shares_and_costs_are_shares_and_costs(steps):
    outside, attention = shares(steps[0])
    assert 0 < attention < 1
    assert 0 < outside < 1
    assert visible_cost(steps[0], 1) > 0
    # 58 of 191 tokens: a little less than their share, for attention's square
    few, many = (encoder_operations(768, (n,)) for n in (57, 190))
    assert 0.95 * 58 / 191 < few / many < 58 / 191


def test_all_take_their_turn_in_each_round():
    turns = []
    laps = in_turns({name: lambda name=name: turns.append(name) for name in "ab"}, 2)
    assert turns == list("ababab")
    assert [len(seconds) for seconds in laps.values()] == [2, 2]
