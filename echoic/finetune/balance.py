"""Epochs in which rare labels are heard more often than they occur, as M2D is tuned on AudioSet.

N clips, C classes.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from echoic.config import Spec
from echoic.data.order import Draws

_BLOCK_ROWS = 4096


class BalancedDraws(Spec):
    """An epoch is `clips` clips, drawn without replacement, each with a weight:
    (sum over its labels of 1000 / (n + 0.01)) ** power, with n the clips of a label."""

    clips: Annotated[int, Field(ge=1)] = 200_000
    power: Annotated[float, Field(ge=0)] = 1 / 1.5

    def draws(self, truth: Tensor) -> Draws:
        """truth: (N, C) of 0 and 1, of the training clips."""
        share = 1000 / (truth.sum(0, dtype=torch.float64) + 0.01)
        # by blocks: all of AudioSet's would be 8 GB once more
        sums = torch.cat([block.double() @ share for block in truth.split(_BLOCK_ROWS)])
        return Draws((sums**self.power).numpy(), self.clips)
