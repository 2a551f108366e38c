"""Losses over two real processes: the goldens of every way to gather, and the sum of what the
processes learn is what one process learns of the whole batch."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from echoic.objectives.contrastive import contrastive_loss, unit_contrastive_loss
from echoic.objectives.four_term import four_term_loss
from echoic.objectives.gather import (
    ALONE,
    AllQueries,
    OwnQueries,
    Ranks,
    constant,
    own_gradient,
    with_gradient,
)
from tests.golden import Golden, golden_tools
from tests.objectives.processes import Results, in_processes

# by LAION's options (local_loss, gather_with_grad)
UPSTREAM: dict[tuple[int, int], Ranks] = {
    (0, 0): AllQueries(own_gradient),
    (0, 1): AllQueries(with_gradient),
    (1, 0): OwnQueries(constant),
    (1, 1): OwnQueries(with_gradient),
}
KINDS = ("audio", "text", "audio_mlp", "text_mlp")
SCALES = (14.3, 9.7)
MEANING = torch.tensor([3, 1, 4, 1, 5, 9, 2, 1])  # one meaning in both processes
UNEVEN = 5  # of 8 rows, those of the first process


def inputs(rows: slice) -> tuple[list[Tensor], list[Tensor]]:
    """Rows (B, 12) of each kind, and both scales, as leaves: the same in every process."""
    generator = torch.Generator().manual_seed(0)
    kinds = [torch.randn(8, 12, generator=generator) for _ in KINDS]
    kinds = [torch.nn.functional.normalize(each, dim=1)[rows].requires_grad_() for each in kinds]
    return kinds, [torch.tensor([value], requires_grad=True) for value in SCALES]


def plain(kinds: list[Tensor], scales: list[Tensor], **options) -> Tensor:
    return unit_contrastive_loss(*kinds[:2], scales[0], **options)


def four(kinds: list[Tensor], scales: list[Tensor], **options) -> Tensor:
    return four_term_loss(*kinds, *scales, **options)


def learnt(name: str, loss: Tensor, kinds: list[Tensor], scales: list[Tensor]) -> Results:
    """The loss and every gradient there is."""
    loss.backward()
    leaves = dict(zip((*KINDS, "scale_a", "scale_t"), (*kinds, *scales), strict=True))
    grads = {f"{name}_grad_{k}": leaf.grad for k, leaf in leaves.items() if leaf.grad is not None}
    return {f"{name}_loss": loss.detach()} | grads


def golden_work(rank: int, folder: Path) -> Results:
    found: Results = {}
    whole = torch.load(folder / "inputs.pt", weights_only=True)
    for (local, grad), (name, loss) in product(UPSTREAM, (("plain", plain), ("mlp", four))):
        kinds = [rows[4 * rank :][:4].clone().requires_grad_() for rows in whole]
        scales = [torch.tensor([value], requires_grad=True) for value in SCALES]
        value = loss(kinds, scales, ranks=UPSTREAM[local, grad])
        found |= learnt(f"two_ranks_local{local}_grad{grad}_{name}", value, kinds, scales)
    return found


CASES = {
    "plain": (plain, {}),
    "meaning": (plain, {"meaning": MEANING}),
    "four": (four, {"meaning": MEANING}),
    "kappa": (four, {"kappa": 0.5}),
}


def whole_work(rank: int, folder: Path) -> Results:
    """Each case by both parts, on an even and on an uneven division of the rows."""
    found: Results = {}
    for first, (part, ranks) in product(
        (4, UNEVEN), (("own", OwnQueries()), ("all", AllQueries()))
    ):
        rows = slice(0, first) if rank == 0 else slice(first, 8)
        for name, (loss, options) in CASES.items():
            own = options | ({"meaning": MEANING[rows]} if "meaning" in options else {})
            kinds, scales = inputs(rows)
            value = loss(kinds, scales, ranks=ranks, **own)
            found |= learnt(f"{part}{first}_{name}", value, kinds, scales)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[Results]:
    return in_processes(whole_work, 2, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def golden(shared: Path, tmp_path_factory) -> list[Results]:
    tools, folder = golden_tools(shared), tmp_path_factory.mktemp("golden")
    audio = tools.unit_rows(8, 512, 10)
    text = tools.unit_rows(8, 512, 20, toward=audio, mix=0.3)
    mlps = (
        tools.unit_rows(8, 512, 30, toward=audio, mix=0.5),
        tools.unit_rows(8, 512, 40, toward=text, mix=0.5),
    )
    torch.save([torch.from_numpy(rows) for rows in (audio, text, *mlps)], folder / "inputs.pt")
    return in_processes(golden_work, 2, folder)


@pytest.mark.parametrize("loss", ["plain", "mlp"])
@pytest.mark.parametrize(("local", "grad"), UPSTREAM)
def test_every_way_to_gather_equals_its_golden(shared, golden, local, grad, loss):
    expected = Golden(shared, "contrastive_loss")
    start = f"two_ranks_local{local}_grad{grad}_{loss}_"
    names = [name for name in expected.arrays if name.startswith(start)]
    assert len(names) == (3 if loss == "plain" else 5)
    for name in names:
        parts = [results[name] for results in golden]
        expected.check(name, torch.stack(parts) if name.endswith("loss") else torch.cat(parts))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("first", [4, UNEVEN])
@pytest.mark.parametrize("part", ["own", "all"])
def test_processes_learn_what_one_learns_of_the_whole_batch(whole, part, first, case):
    """Averaged over the processes, as DDP does; each row's gradient lies where the row does."""
    loss, options = CASES[case]
    kinds, scales = inputs(slice(None))
    alone = learnt("alone", loss(kinds, scales, **options), kinds, scales)
    for name, wanted in alone.items():
        parts = [each[name.replace("alone", f"{part}{first}_{case}")] for each in whole]
        of_rows = name.split("grad_")[-1] in KINDS
        got = torch.cat(parts) / 2 if of_rows else torch.stack(parts).mean(0)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ranks", [OwnQueries(), AllQueries()])
def test_a_world_of_one_gathers_nothing(ranks):
    kinds, scales = inputs(slice(None))
    met = ranks.meet(kinds, None)
    assert all(
        side.queries is side.candidates is rows for side, rows in zip(met.sides, kinds, strict=True)
    )
    assert torch.equal(met.target, torch.eye(8))
    alone = contrastive_loss(*kinds[:2], scales[0], ranks=ALONE)
    assert torch.equal(contrastive_loss(*kinds[:2], scales[0], ranks=ranks), alone)
