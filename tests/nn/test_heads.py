"""Heads: M2D's for labels, by hand; the softmax of attention pooling."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from echoic.nn.heads import NormedLinear, segment_softmax


@pytest.fixture
def head() -> NormedLinear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NormedLinear(6, 400)


@pytest.fixture
def clips(generator) -> Tensor:
    return 3 * torch.randn(32, 6, generator=generator) + torch.arange(6.0)


def test_it_starts_small_and_without_a_bias(head):
    assert set(head.state_dict()) == {
        "norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "linear.weight",
        "linear.bias",
    }  # fmt: skip
    assert head.linear.weight.shape == (400, 6)
    assert float(head.linear.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert not head.linear.bias.any()


def test_in_training_the_batch_norms_itself(head, clips):
    normed = (clips - clips.mean(0)) / (clips.var(0, unbiased=False) + 1e-5).sqrt()
    wanted = normed @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head.train()(clips), wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head(10 * clips + 5), wanted, rtol=1e-3, atol=1e-5)


def test_in_inference_what_was_met_norms_a_clip_alone(head, clips):
    head.train()
    for _ in range(200):
        head(clips)
    head.eval()
    normed = (clips - clips.mean(0)) / (clips.var(0) + 1e-5).sqrt()
    wanted = normed @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(clips), wanted, rtol=1e-4, atol=1e-5)
    alone = torch.cat([head(clip[None]) for clip in clips])
    torch.testing.assert_close(alone, head(clips), rtol=0, atol=1e-6)
    assert head.norm.num_batches_tracked == 200


def test_inference_changes_nothing(head, clips):
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    head.eval()(clips)
    assert all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())


def test_segment_softmax_equals_softmax_of_each_clip(generator):
    scores = 50 * torch.randn(12, 3, generator=generator)
    segment = torch.tensor([0] * 5 + [1] + [2] * 6)
    ours = segment_softmax(scores, segment, 3)
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        torch.testing.assert_close(ours[part], scores[part].softmax(0))
