"""Packed attention equals the masked reference in outputs and gradients, for any mix of lengths."""

from __future__ import annotations

import pytest
import torch

from echoic.nn.attention import (
    masked_attention,
    packed_attention,
    rope_angles,
    rotate,
    segment_softmax,
)

MIXED = (5, 5, 40, 200, 200, 13, 97, 1, 300, 290)


@pytest.mark.parametrize("lengths", [MIXED, (1,), (64, 64, 64)])
@pytest.mark.parametrize("reach", [None, 1, 3, 16, 48, 500])
def test_packed_equals_masked(lengths, reach, generator):
    shape = (sum(lengths), 3, 16)
    q, k, v = (torch.randn(shape, generator=generator, requires_grad=True) for _ in range(3))
    upstream = torch.randn(shape, generator=generator)
    ours = packed_attention(q, k, v, lengths, reach)
    reference = masked_attention(q, k, v, lengths, reach)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(ours, (q, k, v), upstream),
        torch.autograd.grad(reference, (q, k, v), upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_clip_does_not_see_its_neighbours(generator):
    q, k, v = (torch.randn(30, 2, 8, generator=generator) for _ in range(3))
    alone = packed_attention(q[10:20], k[10:20], v[10:20], (10,))
    k[:10], v[20:] = 1e4, -1e4
    assert torch.equal(packed_attention(q, k, v, (10, 10, 10))[10:20], alone)


def test_training_after_an_evaluation_of_the_same_lengths(generator):
    """What is kept of an inference (its index tensors) must not end up in a backward pass."""
    lengths = (71, 29)
    q = torch.randn(100, 2, 8, generator=generator)
    with torch.inference_mode():
        packed_attention(q, q, q, lengths)
    q.requires_grad_()
    packed_attention(q, q, q, lengths).sum().backward()


def test_reach_is_the_number_of_tokens_to_each_side(generator):
    """With reach 2 of 400 tokens, token 100 hears 98 to 102 and nothing else."""
    q, k = torch.zeros(2, 400, 1, 4)
    v = torch.zeros(400, 1, 4)
    v[97], v[98], v[102], v[103] = 1.0, 2.0, 4.0, 8.0
    heard = packed_attention(q, k, v, (400,), reach=2)[100]
    torch.testing.assert_close(heard, torch.full((1, 4), (2.0 + 4.0) / 5))


def test_rotary_scores_depend_on_distance_only(generator):
    """A shift of both positions leaves every score as it was, on either axis."""
    q, k = torch.randn(2, 1, 2, 16, generator=generator)

    def score(at_q, at_k):
        turned = [
            rotate(x, rope_angles(torch.tensor([at]), 16)) for x, at in ((q, at_q), (k, at_k))
        ]
        return (turned[0] * turned[1]).sum(-1)

    near = score((3, 1), (7, 2))
    torch.testing.assert_close(near, score((103, 1), (107, 2)), rtol=0, atol=1e-4)
    torch.testing.assert_close(near, score((3, 0), (7, 1)), rtol=0, atol=1e-4)
    assert not torch.allclose(near, score((3, 1), (8, 2)), atol=1e-3)
    assert not torch.allclose(near, score((3, 1), (7, 3)), atol=1e-3)


def test_rope_refuses_a_width_that_does_not_split():
    with pytest.raises(ValueError, match="not a multiple of 4"):
        rope_angles(torch.zeros(1, 2), 10)


def test_segment_softmax_equals_softmax_of_each_clip(generator):
    scores = 50 * torch.randn(12, 3, generator=generator)
    segment = torch.tensor([0] * 5 + [1] + [2] * 6)
    ours = segment_softmax(scores, segment, 3)
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        torch.testing.assert_close(ours[part], scores[part].softmax(0))
