"""Rotary positions: scores hang on distances only."""

from __future__ import annotations

import pytest
import torch

from echoic.nn.rope import rope_turns, rotate


def test_rotary_scores_depend_on_distance_only(generator):
    """A shift of both positions leaves every score as it was, on either axis."""
    q, k = torch.randn(2, 1, 2, 16, generator=generator)

    def score(at_q, at_k):
        turned = [rotate(x, rope_turns(torch.tensor([at]), 16)) for x, at in ((q, at_q), (k, at_k))]
        return (turned[0] * turned[1]).sum(-1)

    near = score((3, 1), (7, 2))
    torch.testing.assert_close(near, score((103, 1), (107, 2)), rtol=0, atol=1e-4)
    torch.testing.assert_close(near, score((3, 0), (7, 1)), rtol=0, atol=1e-4)
    assert not torch.allclose(near, score((3, 1), (8, 2)), atol=1e-3)
    assert not torch.allclose(near, score((3, 1), (7, 3)), atol=1e-3)


def test_rope_refuses_a_width_that_does_not_split():
    with pytest.raises(ValueError, match="not a multiple of 4"):
        rope_turns(torch.zeros(1, 2), 10)


def test_rotate_is_a_rotation_of_pairs_and_so_is_its_gradient(generator):
    x = torch.randn(5, 3, 8, generator=generator, requires_grad=True)
    turns = rope_turns(torch.arange(5)[:, None], 8)
    pairs = torch.complex(*x.chunk(2, -1)) * torch.complex(*turns.unbind(1))[:, None]
    want = torch.cat([pairs.real, pairs.imag], -1)
    torch.testing.assert_close(rotate(x, turns), want)
    upstream = torch.randn(x.shape, generator=generator)
    got, wanted = (
        torch.autograd.grad((y * upstream).sum(), x)[0] for y in (rotate(x, turns), want)
    )
    torch.testing.assert_close(got, wanted)


def test_rotate_in_bfloat16_stays_there(generator):
    x = torch.randn(5, 3, 8, generator=generator)
    turns = rope_turns(torch.arange(5)[:, None], 8)
    turned = rotate(x.bfloat16(), turns)
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.float(), rotate(x, turns), rtol=2e-2, atol=2e-2)
