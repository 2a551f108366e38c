"""Rotary positions: scores hang on distances only."""

from __future__ import annotations

import pytest
import torch

from echoic.nn.rope import rope_angles, rotate


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
