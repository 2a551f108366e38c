"""The running average: its formula, and that lending it to the task leaves no trace."""

from __future__ import annotations

import torch
from torch import nn

from echoic.train.ema import Average


def test_the_average_follows_its_formula_and_warms_up():
    task = nn.Linear(1, 1, bias=False)
    task.weight.data.fill_(1.0)
    average = Average(task, decay=0.5)
    expected = 1.0
    for step in range(20):
        task.weight.data.fill_(float(step))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(average.tensors["weight"], torch.tensor([[expected]]))


def test_inside_the_task_holds_the_average_and_afterwards_its_own_bits(generator):
    task = nn.Linear(5, 3)
    task.bias.requires_grad_(False)
    average = Average(task, decay=0.9)
    task.weight.data = torch.randn(3, 5, generator=generator)
    own, bias = task.weight.detach().clone(), task.bias.detach().clone()
    mean = average.tensors["weight"].clone()
    assert "bias" not in average.tensors
    try:
        with average.applied():
            assert torch.equal(task.weight, mean)
            assert torch.equal(task.bias, bias)
            raise RuntimeError("an evaluation may fail")
    except RuntimeError:
        pass
    assert torch.equal(task.weight, own)
    assert torch.equal(average.tensors["weight"], mean)
    average.update(1000)
    torch.testing.assert_close(average.tensors["weight"], 0.9 * mean + 0.1 * own)
