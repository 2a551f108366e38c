"""Losses in blocks equal the exact ones, gradients too, and hold a block of scores at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from echoic.objectives.chunked import Chunked, Meeting
from echoic.objectives.contrastive import contrastive_loss, unit_contrastive_loss
from echoic.objectives.gather import ALONE
from echoic.objectives.ring import Ring
from echoic.objectives.sigmoid import unit_sigmoid_loss

LOSSES: dict[str, tuple[Callable[..., Tensor], tuple[float, ...]]] = {
    "softmax": (unit_contrastive_loss, (14.3,)),
    "sigmoid": (unit_sigmoid_loss, (9.7, -6.0)),
}
MEANINGS = {
    "none": None,
    "some": torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]),
    "all": torch.full((11,), 7),
}


def learnt(
    name: str, meaning: Tensor | None, ranks: Meeting, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """The loss of 11 pairs, and its gradient by all that it hangs on."""
    loss, factors = LOSSES[name]
    generator = torch.Generator().manual_seed(0)
    rows = [F.normalize(torch.randn(11, 12, generator=generator), dim=1) for _ in range(2)]
    leaves = [x.to(dtype).requires_grad_() for x in (*rows, *map(torch.tensor, factors))]
    value = loss(*leaves, meaning, ranks=ranks)
    assert value.shape == ()
    return [value.detach(), *torch.autograd.grad(value * 3, leaves)]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("meaning", MEANINGS)
@pytest.mark.parametrize("form", [Chunked(side=4), Chunked(side=1), Chunked(), Ring(side=3)])
def test_equal_to_the_exact_form(name, meaning, form) -> None:
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        exact = learnt(name, MEANINGS[meaning], ALONE, dtype)
        for got, wanted in zip(learnt(name, MEANINGS[meaning], form, dtype), exact, strict=True):
            torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def test_the_shape_of_a_factor_does_not_matter() -> None:
    rows = torch.eye(4)
    for shape in ((), (1,)):
        scale = torch.full(shape, 5.0, requires_grad=True)
        contrastive_loss(rows, rows, scale, ranks=Chunked(2)).backward()
        assert scale.grad.shape == shape


def test_at_the_largest_scale_nothing_overflows() -> None:
    rows = torch.eye(6, requires_grad=True)
    for sign in (1, -1):
        loss = unit_contrastive_loss(rows, sign * rows, torch.tensor(1e3), ranks=Chunked(2))
        (grad,) = torch.autograd.grad(loss, rows)
        assert loss.isfinite()
        assert grad.isfinite().all()


class Largest(TorchDispatchMode):
    """How many values the largest tensor has that comes into being inside."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, Tensor):
                self.values = max(self.values, each.numel())
        return made


@pytest.mark.parametrize("name", LOSSES)
def test_all_scores_are_never_held(name) -> None:
    loss, factors = LOSSES[name]
    rows = F.normalize(torch.randn(96, 8, generator=torch.Generator().manual_seed(0)), dim=1)

    def largest(ranks: Meeting) -> int:
        leaves = [x.clone().requires_grad_() for x in (rows, rows, *map(torch.tensor, factors))]
        with Largest() as seen:
            loss(*leaves, ranks=ranks).backward()
        return seen.values

    assert largest(ALONE) == 96 * 96
    assert largest(Chunked(16)) <= max(16 * 16, 96 * 8)
