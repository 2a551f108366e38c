"""Losses in blocks over real processes, gathered and by the ring: the sum of what the processes
learn is what one learns of the whole batch, in exact form."""

from __future__ import annotations

import warnings
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from echoic.objectives.chunked import Chunked, Meeting
from echoic.objectives.contrastive import unit_contrastive_loss
from echoic.objectives.gather import ALONE, OwnQueries
from echoic.objectives.ring import Ring
from echoic.objectives.sigmoid import unit_sigmoid_loss
from tests.objectives.processes import Results, in_processes

ROWS = 13
FORMS: dict[str, Meeting] = {
    "chunked": Chunked(), "chunked3": Chunked(side=3), "ring": Ring(), "ring2": Ring(side=2),
    "exact": OwnQueries(),
}  # fmt: skip
DIVISIONS = {  # how many rows each process has
    2: ((6, 7), (12, 1), (13, 0)),
    4: ((4, 3, 3, 3), (1, 7, 2, 3), (5, 0, 8, 0)),
}
MEANING = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9])  # some in several processes
LOSSES = {"softmax": (unit_contrastive_loss, (14.3,)), "sigmoid": (unit_sigmoid_loss, (9.7, -6.0))}
CASES = list(product(FORMS, LOSSES, ("none", "meaning")))


def learnt(loss: str, said: str, ranks: Meeting, rows: slice) -> dict[str, Tensor]:
    """The loss and its gradients, of encoders as well: autograd goes on through the rows."""
    function, values = LOSSES[loss]
    generator = torch.Generator().manual_seed(0)
    heard, read = (torch.randn(ROWS, 10, generator=generator)[rows] for _ in range(2))
    encoder = torch.randn(10, 8, generator=generator).requires_grad_()
    kinds = [F.normalize(x @ encoder, dim=1) for x in (heard, read)]
    factors = [torch.tensor([value], requires_grad=True) for value in values]
    meaning = MEANING[rows] if said == "meaning" else None
    value = function(*kinds, *factors, meaning, ranks=ranks)
    found = torch.autograd.grad(value, [*kinds, encoder, *factors])
    names = ("audio", "text", "encoder", "scale", "bias")
    return {"loss": value.detach()} | dict(zip(names, found, strict=False))


def work(rank: int, folder: Path) -> Results:
    warnings.filterwarnings("error", category=FutureWarning)  # of deprecated collectives
    found: Results = {}
    for sizes in DIVISIONS[dist.get_world_size()]:
        first = sum(sizes[:rank])
        rows = slice(first, first + sizes[rank])
        for form, loss, said in CASES:
            got = learnt(loss, said, FORMS[form], rows)
            found |= {f"{sizes} {form} {loss} {said} {name}": each for name, each in got.items()}
    return found


@pytest.fixture(scope="module", params=DIVISIONS)
def processes(request, tmp_path_factory) -> tuple[int, list[Results]]:
    folder = tmp_path_factory.mktemp(f"world{request.param}")
    return request.param, in_processes(work, request.param, folder)


@pytest.mark.timeout(300)  # four more processes on a busy machine
@pytest.mark.parametrize("case", CASES)
def test_processes_learn_what_one_learns_of_the_whole_batch(processes, case) -> None:
    """Averaged over the processes, as DDP does; each row's gradient lies where the row does."""
    world, found = processes
    form, loss, said = case
    alone = learnt(loss, said, ALONE, slice(None))
    for sizes, (name, wanted) in product(DIVISIONS[world], alone.items()):
        parts = [each[f"{sizes} {form} {loss} {said} {name}"] for each in found]
        of_rows = name in ("audio", "text")
        got = torch.cat(parts) / world if of_rows else torch.stack(parts).mean(0)
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
