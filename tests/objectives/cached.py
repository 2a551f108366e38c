"""Steps with gradient caching on the smallest model, in one process or several; little is imported,
as each process does that anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from echoic.objectives.chunked import Chunked, Meeting
from echoic.objectives.gather import OwnQueries
from echoic.objectives.grad_cache import PairsTask
from echoic.objectives.ring import Ring
from echoic.objectives.task import ContrastiveTask
from echoic.types import AudioFeatures, Batch, Ragged, TextFeatures
from tests.objectives.processes import Results

SIZES = (3, 1, 4, 2)  # clips of each batch of a step
MEANING = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])  # some in several batches


class Model(nn.Module):
    """Two towers of one layer, with all that could go wrong twice: dropout, a batch norm."""

    def __init__(self, *, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.heard, self.read = nn.Linear(1, 8), nn.Embedding(40, 8)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.out, self.dropout = nn.Linear(8, 8), nn.Dropout(dropout)
        self.logit_scale = nn.Parameter(torch.tensor([math.log(5.0)]))
        generator = torch.Generator().manual_seed(0)
        for each in self.parameters():
            if each is not self.logit_scale:
                each.data = torch.randn(each.shape, generator=generator)

    def audio(self, audio: Ragged, augment: object = None, draw: object = None) -> AudioFeatures:
        tokens = self.dropout(self.heard(audio.values[:, None]).tanh())
        clip = self.out(self.norm(means(tokens, audio)))
        return AudioFeatures(tokens, audio.offsets, torch.zeros(len(tokens)), clip)

    def text(self, text: Ragged) -> TextFeatures:
        tokens = self.read(text.values)
        return TextFeatures(tokens, text.offsets, self.dropout(means(tokens, text)))


def means(tokens: Tensor, of: Ragged) -> Tensor:
    return torch.stack([row.mean(0) for row in Ragged(tokens, of.offsets)])


def batch(first: int, last: int) -> Batch:
    """Of clips and texts of uneven lengths, the same wherever they are asked for."""
    generator = torch.Generator().manual_seed(1)
    waves = [torch.randn(3 + 2 * i % 7, generator=generator) for i in range(10)][first:last]
    texts = [torch.arange(i, 2 * i + 3) for i in range(first, last)]
    keys = tuple(map(str, range(first, last)))
    meaning = MEANING[first:last]
    return Batch(Ragged.from_rows(waves), Ragged.from_rows(texts), meaning, keys, seed=first)


def batches(sizes: Sequence[int] = SIZES) -> list[Batch]:
    ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return [batch(*span) for span in pairwise(ends)]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        yield


def step(task: PairsTask, of: Sequence[Batch], module: nn.Module | None = None) -> Results:
    """As the training loop makes it: mean losses and every gradient. module: the task as DDP or
    FSDP has it."""
    call = task if module is None else module
    told: dict[str, float] = {}

    def forward(each: Batch, *score: Any) -> dict[str, Tensor]:
        with seeded(each.seed):
            return call(each, *score)

    losses_of = task.losses_of_step(forward, of)
    for i in range(len(of)):
        last = i == len(of) - 1
        quiet = isinstance(call, DistributedDataParallel) and not last
        with call.no_sync() if quiet else nullcontext():
            losses = next(losses_of)
            (sum(losses.values()) / len(of)).backward()
        told = {n: told.get(n, 0.0) + float(v.detach()) / len(of) for n, v in losses.items()}
    assert next(losses_of, None) is None
    return {f"loss {n}": torch.tensor(v) for n, v in told.items()} | {
        n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None
    }


def toy(*, dropout: float = 0.0, norm: bool = False, **options: Any) -> ContrastiveTask:
    model = Model(dropout=dropout, norm=norm)
    return ContrastiveTask(model, weight=0.7, whole_step=True, **options)


STREAM = (1, 2, 1, 1, 2, 1, 1, 1)  # clips of the batches of a step; rank r has every W-th


def replicas(task: PairsTask) -> nn.Module:
    return DistributedDataParallel(task, find_unused_parameters=True, gradient_as_bucket_view=True)


def shards(task: PairsTask) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(task.model.out, mesh=mesh)
    return fully_shard(task, mesh=mesh)


WAYS: dict[str, tuple[Meeting, Callable[[PairsTask], nn.Module]]] = {
    "own": (OwnQueries(), replicas),
    "chunked": (Chunked(4), replicas),
    "ring": (Ring(3), replicas),
    "shards": (Ring(3), shards),
}


def of_a_rank(rank: int, _folder: Path) -> Results:
    found: Results = {}
    for name, (ranks, spread) in WAYS.items():
        task = toy(ranks=ranks)
        own = batches(STREAM)[rank :: dist.get_world_size()]
        for what, value in step(task, own, spread(task)).items():
            found[f"{name} {what}"] = value.full_tensor() if isinstance(value, DTensor) else value
    return found
