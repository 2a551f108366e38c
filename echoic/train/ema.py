"""A running average of a task's weights (Polyak averaging), for evaluation and export.

An objective's teacher is another thing: it belongs to its objective and is updated by `after_step`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that is cut over the ranks (FSDP); any other one itself."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


class Average:
    """After each step: average <- decay * average + (1 - decay) * weights, of what is trained.

    While fewer than about 10 / (1 - decay) steps were made, the decay is (1 + step) / (10 + step):
    a short run would otherwise still be averaging its random start.
    """

    def __init__(self, task: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = {name: p for name, p in task.named_parameters() if p.requires_grad}
        self.tensors = {name: p.detach().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """`step`: number of the step just made, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [local(average) for average in self.tensors.values()]
        torch._foreach_lerp_(averages, [local(w) for w in self._weights.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the task's weights are the average; afterwards, bit for bit their own."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._weights.items():
            average = self.tensors[name]
            if local(weight) is weight:
                weight.data, self.tensors[name] = average, weight.data
            else:  # FSDP keeps hold of its part of a weight
                kept = local(average).clone()
                local(average).copy_(local(weight))
                local(weight).copy_(kept)
