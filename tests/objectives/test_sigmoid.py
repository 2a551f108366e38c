"""The sigmoid loss equals its definition pair by pair, rows that say the same are not negatives,
and processes learn what one learns of the whole batch."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from echoic.objectives.gather import ALONE, AllQueries, OwnQueries, Ranks
from echoic.objectives.sigmoid import BIAS_START, SCALE_START, SigmoidContrast, unit_sigmoid_loss
from tests.objectives.processes import Results, in_processes

MEANING = torch.tensor([3, 1, 4, 1, 5, 9, 2, 1])  # one meaning in both processes
DIVISIONS: dict[str, tuple[int, Ranks]] = {  # rows of the first process
    "own": (4, OwnQueries()),
    "own_uneven": (5, OwnQueries()),
    "all_uneven": (5, AllQueries()),
}


def leaves(rows: slice = slice(None)) -> tuple[Tensor, ...]:
    """audio, text (B, 12), scale, bias: the same in every process."""
    generator = torch.Generator().manual_seed(0)
    units = [F.normalize(torch.randn(8, 12, generator=generator), dim=1)[rows] for _ in range(2)]
    return (*(u.requires_grad_() for u in units), leaf(4.0), leaf(-2.0))


def leaf(value: float) -> Tensor:
    return torch.tensor([value], requires_grad=True)


def learnt(name: str, rows: slice, meaning: Tensor | None, ranks: Ranks) -> Results:
    """The loss and its gradients."""
    given = leaves(rows)
    loss = unit_sigmoid_loss(*given, None if meaning is None else meaning[rows], ranks=ranks)
    grads = torch.autograd.grad(loss, given)
    names = ("audio", "text", "scale", "bias")
    return {f"{name}_loss": loss.detach()} | {
        f"{name}_{each}": grad for each, grad in zip(names, grads, strict=True)
    }


CASES = list(product(DIVISIONS, (("none", None), ("meaning", MEANING))))


def work(rank: int, folder: Path) -> Results:
    found: Results = {}
    for division, (said, meaning) in CASES:
        first, ranks = DIVISIONS[division]
        rows = slice(0, first) if rank == 0 else slice(first, 8)
        found |= learnt(f"{division}_{said}", rows, meaning, ranks)
    return found


def naive(audio: Tensor, text: Tensor, scale: float, bias: float, meaning: list[int]) -> float:
    total = 0.0
    for i, j in product(range(len(meaning)), repeat=2):
        z = 1 if meaning[i] == meaning[j] else -1
        score = z * (scale * float(audio[i].detach() @ text[j].detach()) + bias)
        total -= math.log(1 / (1 + math.exp(-score)))
    return total / len(meaning)


@pytest.mark.parametrize("meaning", [None, MEANING])
def test_equal_to_the_definition(meaning) -> None:
    audio, text, scale, bias = leaves()
    ids = list(range(8)) if meaning is None else meaning.tolist()
    found = unit_sigmoid_loss(audio, text, scale, bias, meaning)
    assert found.shape == ()
    assert found.item() == pytest.approx(naive(audio, text, 4.0, -2.0, ids), rel=1e-5)


def test_twins_are_not_pushed_apart() -> None:
    """Two clips of one caption, each on the caption's vector: told so, nothing pushes them."""
    rows = torch.eye(4)[[0, 0, 1]]
    told, plain = (rows.clone().requires_grad_() for _ in range(2))
    scale, bias = torch.tensor(60.0), torch.tensor(-30.0)
    same = unit_sigmoid_loss(told, rows, scale, bias, torch.tensor([5, 5, 9]))
    other = unit_sigmoid_loss(plain, rows, scale, bias)
    assert same.item() < 1e-6
    assert other.item() == pytest.approx(2 * 30 / 3, rel=1e-4)  # two false negatives of three rows
    same.backward()
    other.backward()
    assert told.grad.abs().max() < 1e-5
    assert plain.grad.abs().max() > 1


def test_large_logits_stay_finite() -> None:
    rows = torch.eye(3, requires_grad=True)
    loss = unit_sigmoid_loss(rows, -rows, torch.tensor(1e4), torch.tensor(-1e4))
    loss.backward()
    assert loss.isfinite()
    assert rows.grad.isfinite().all()


def test_start_of_the_paper() -> None:
    """At the start a matchless batch costs next to nothing per negative pair."""
    loss = SigmoidContrast()
    assert loss.bias.item() == BIAS_START == -10
    audio, text = torch.eye(8)[:4], torch.eye(8)[4:]
    found = loss(audio, text, torch.tensor(SCALE_START))
    negatives, positives = 12 * math.log1p(math.exp(-10)), 4 * math.log1p(math.exp(10))
    assert found.item() == pytest.approx((negatives + positives) / 4, rel=1e-5)
    found.backward()
    assert loss.bias.grad.item() < 0  # descent lifts it


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> list[Results]:
    return in_processes(work, 2, tmp_path_factory.mktemp("sigmoid"))


@pytest.mark.parametrize(("division", "case"), CASES)
def test_processes_learn_what_one_learns_of_the_whole_batch(processes, division, case) -> None:
    """Averaged over the processes, as DDP does; each row's gradient lies where the row does."""
    said, meaning = case
    for name, wanted in learnt("alone", slice(None), meaning, ALONE).items():
        parts = [each[name.replace("alone", f"{division}_{said}")] for each in processes]
        of_rows = name.endswith(("audio", "text"))
        got = torch.cat(parts) / 2 if of_rows else torch.stack(parts).mean(0)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)
