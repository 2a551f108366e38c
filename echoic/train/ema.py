"""A running average of a task's weights (Polyak averaging), for evaluation and export.

An objective's teacher is another thing: it belongs to its objective and is updated by `after_step`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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
        averages: list[Tensor] = list(self.tensors.values())
        torch._foreach_lerp_(averages, list(self._weights.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the task's weights are the average; afterwards, bit for bit their own."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, weight in self._weights.items():
            weight.data, self.tensors[name] = self.tensors[name], weight.data
