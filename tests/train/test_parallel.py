"""What the blocks of a task are made to do changes what it costs, not what it computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from echoic.train.parallel import Single, blocks, changed_blocks, mean_statistics
from echoic.train.world import ALONE
from tests.train.test_ranks import Deep
from tests.train.toy import ToyLoader


def gradients(task: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    task.zero_grad()
    torch.manual_seed(seed)
    sum(task(ToyLoader().batch(3)).values()).backward()
    return {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}


def test_blocks_are_the_innermost_of_lists():
    nested = nn.ModuleList([nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2)])}), nn.ReLU()])
    assert blocks(nested) == [nested[0]["layers"][0]]
    task = Deep()
    assert blocks(task) == [*task.blocks, *task.teacher]


def test_activations_made_anew_give_the_same_gradient_and_are_not_kept():
    """Dropout draws the same again."""
    task, calls = Deep(), []
    task.blocks[0].line.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    plain = gradients(task)
    assert len(calls) == 1
    with changed_blocks(task, checkpointed=True, compiled=False):
        assert list(task.state_dict()) == list(Deep().state_dict())
        anew = gradients(task)
        assert len(calls) == 3
        with torch.no_grad():
            task(ToyLoader().batch(3))
        assert len(calls) == 4
    assert plain.keys() == anew.keys()
    assert all(torch.equal(plain[name], anew[name]) for name in plain)
    gradients(task)
    assert len(calls) == 5
    assert "forward" not in vars(task.blocks[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's compiler has warnings of its own
def test_compiled_blocks_give_the_same_gradient():
    task = Deep().eval()
    plain = gradients(task)
    with changed_blocks(task, checkpointed=False, compiled=True):
        compiled = gradients(task)
        assert list(task.state_dict()) == list(Deep().state_dict())
    for name, grad in plain.items():
        torch.testing.assert_close(compiled[name], grad, rtol=0, atol=1e-6)
    assert task.blocks[0]._compiled_call_impl is None


def test_one_process_keeps_its_own_statistics_and_clips_as_torch_does():
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(3.0)
    mean_statistics(norm, ALONE)
    assert norm.running_mean.tolist() == [3.0, 3.0]
    weight = nn.Parameter(torch.zeros(4))
    weight.grad = torch.full((4,), 2.0)
    assert Single(norm).clip([weight], 1.0) == 4.0
    torch.testing.assert_close(weight.grad.norm(), torch.tensor(1.0))
