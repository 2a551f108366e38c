"""Real steps of recipes, for formulas to be held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from echoic.model import build
from echoic.objective import make_task
from echoic.plan.formulas import CPU_FP32
from echoic.plan.parts import Load, StepCost, step_cost
from echoic.recipes import find_recipe
from echoic.recipes.recipe import Recipe
from echoic.types import Batch, Ragged

TEXTS = (8, 12, 20, 16)


def recipe(name: str, *changes: str) -> Recipe:
    return find_recipe(name).override(list(changes))


def task_of(recipe: Recipe, clips: int) -> nn.Module:
    sentences = None
    if recipe.model.text_kind == "sentence":
        vectors = drawn(clips, recipe.model.text.width)

        def sentences(batch: Batch) -> Tensor:
            return vectors

    return make_task(recipe, build(recipe.model, seed=0), sentences=sentences)


def batch_of(recipe: Recipe, seconds: Sequence[float], texts: Sequence[int] = TEXTS) -> Batch:
    rate, vocab = recipe.model.front_end.rate_hz, getattr(recipe.model.text, "vocab", 100)
    ids = [torch.arange(n) % (vocab - 3) + 3 for n in texts]
    return Batch(
        Ragged.from_rows([0.1 * drawn(round(s * rate)) for s in seconds]),
        Ragged.from_rows(ids),
        torch.arange(len(seconds)),
        tuple(map(str, range(len(seconds)))),
    )


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def planned(recipe: Recipe, seconds: Sequence[float], texts: Sequence[int] = TEXTS) -> StepCost:
    load = Load(np.array(seconds), np.array(texts, float), len(seconds), on_gpu=False)
    return step_cost(recipe, load, CPU_FP32)


def loss_of(task: nn.Module, batch: Batch) -> Tensor:
    return torch.stack(list(task(batch).values())).sum()


def kept_bytes(task: nn.Module, batch: Batch) -> int:
    """What autograd saves of a forward pass, the task's own tensors apart."""
    own = {x.untyped_storage().data_ptr() for x in [*task.parameters(), *task.buffers()]}
    saved: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in own:
            saved[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss_of(task, batch)
    return sum(x.untyped_storage().nbytes() for x in saved.values())
