"""Gradient caching through the loop: a step in parts moves the weights as one big batch does."""

from __future__ import annotations

import pytest
import torch

from echoic.model import build
from echoic.objectives.task import ContrastiveTask
from echoic.train.loop import RunSpec, train
from echoic.train.optim import OptimSpec
from echoic.types import Batch, Ragged
from tests import tiny


class Stream:
    """Batch t is a function of t; `parts` of them are one batch of a stream of larger ones."""

    def __init__(self, rate_hz: int, parts: int) -> None:
        self.rate_hz, self.parts, self.bad = rate_hz, parts, dict[str, str]()

    def batches(self, first_step: int = 0):
        t = first_step
        while True:
            yield (
                self.whole(t)
                if self.parts == 1
                else joined([self.whole(t * self.parts + i) for i in range(self.parts)])
            )
            t += 1

    def whole(self, t: int) -> Batch:
        generator = torch.Generator().manual_seed(t)
        counts = [3 + t % 2, 2][t % 2 :]  # uneven
        rows = [
            0.1 * torch.randn(self.rate_hz + 400 * i, generator=generator)
            for i in range(sum(counts))
        ]
        text = [torch.randint(3, 12, (4 + i,), generator=generator) for i in range(len(rows))]
        meaning = torch.arange(len(rows)) + 100 * t
        keys = tuple(f"{t}-{i}" for i in range(len(rows)))
        return Batch(Ragged.from_rows(rows), Ragged.from_rows(text), meaning, keys, t)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def joined(batches: list[Batch]) -> Batch:
    return Batch(
        Ragged.from_rows([row for batch in batches for row in batch.audio]),
        Ragged.from_rows([row for batch in batches for row in batch.text]),
        torch.cat([batch.meaning for batch in batches]),
        tuple(key for batch in batches for key in batch.keys),
        batches[0].seed,
    )


def trained(folder, *, parts: int, accumulate: int, whole_step: bool):
    model = build(tiny.spec(), seed=0)
    task = ContrastiveTask(model, whole_step=whole_step)
    optim = OptimSpec(steps=3, lr=1e-3, warmup_steps=0, accumulate=accumulate, eps=1e-3)
    loader = Stream(model.audio.rate_hz, parts)
    train(task, loader, optim=optim, run=RunSpec(save_every=3), folder=folder)
    return {name: value.clone() for name, value in task.state_dict().items()}


def test_a_step_in_parts_is_one_of_all_its_clips(tmp_path):
    whole = trained(tmp_path / "whole", parts=3, accumulate=1, whole_step=False)
    cached = trained(tmp_path / "cached", parts=1, accumulate=3, whole_step=True)
    for name, value in whole.items():
        torch.testing.assert_close(cached[name], value, rtol=0, atol=2e-6, msg=name)
    apart = trained(tmp_path / "apart", parts=1, accumulate=3, whole_step=False)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(apart, whole, rtol=0, atol=2e-6)
