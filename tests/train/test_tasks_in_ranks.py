"""The losses and gradients of real tasks over two ranks are those of one process: SLAP whole (its
contrast, captions and self-distillation), masked modelling, labels; spread in each way, in bf16 and
with activations made anew; on clips and batches of uneven length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from echoic.model import build
from echoic.nn.masking import Mask
from echoic.objective import make_task
from echoic.objectives.self_distillation import DistillationSpec
from echoic.objectives.tagging import ClassifyTask, many_labels
from echoic.recipes.recipe import MaskedSpec, ObjectiveSpec
from echoic.train.parallel import Kind, changed_blocks, spread
from echoic.train.world import ALONE, World, joined
from echoic.types import Batch, Ragged
from tests import m2d, tiny
from tests.train.ranks import in_ranks

SECONDS = (0.31, 0.9, 0.55, 1.2, 0.4)
FIRST = 3  # clips of rank 0; the other has the rest, as in the last batch of an epoch
HEAD = {"layers": 2, "hidden": 16, "bottleneck": 8, "prototypes": 12}
BIN = 0.02  # of the largest gradient: what bf16 may move, as sums are rounded apart


class EveryOther:
    """A mask that hangs on the clip alone, so that it is the same on whichever rank."""

    def draw(self, lengths: Sequence[int], rows: int, generator: torch.Generator) -> Mask:
        places = [torch.arange(n) + sum(lengths[:i]) for i, n in enumerate(lengths)]
        visible, masked = ([each[i::2] for each in places] for i in (0, 1))
        return Mask(Ragged.from_rows(visible), Ragged.from_rows(masked))


def slap() -> nn.Module:
    objectives = ObjectiveSpec(
        captioning=0.5, distillation=DistillationSpec.model_validate({"head": HEAD})
    )
    spec = tiny.spec(decoder=tiny.decoder())
    recipe = tiny.recipe().model_copy(update={"objectives": objectives, "model": spec})
    task = make_task(recipe, build(spec, seed=0))
    task.distillation.spec = task.distillation.spec.model_copy(update={"mask": EveryOther()})
    return task


def masked() -> nn.Module:
    masked = MaskedSpec.model_validate({"predictor": {"width": 16, "depth": 1, "heads": 2}})
    spec = m2d.spec()
    changes = {"objectives": ObjectiveSpec(contrastive=0, masked=masked), "model": spec}
    task = make_task(tiny.recipe().model_copy(update=changes), build(spec, seed=0))
    task.masking = EveryOther()
    return task


def labels() -> nn.Module:
    def truth(keys: Sequence[str]) -> Tensor:
        return torch.tensor([[float(int(key) % 2), float(int(key) > 2), 1.0] for key in keys])

    model, head = build(tiny.spec(), seed=0), nn.Linear(16, 3)
    nn.init.constant_(head.weight, 0.1)
    nn.init.zeros_(head.bias)
    return ClassifyTask(model.audio, head, truth=truth, loss=many_labels)


TASKS: dict[str, Callable[[], nn.Module]] = {"slap": slap, "masked": masked, "labels": labels}
# how it is spread, whether in bf16, whether activations are made anew
WAYS: dict[str, tuple[Kind, bool, bool]] = {
    "ddp": ("ddp", False, False), "ddp_bf16": ("ddp", True, False),
    "ddp_anew": ("ddp", False, True), "fsdp": ("fsdp", False, False),
    "fsdp_bf16_anew": ("fsdp", True, True),
}  # fmt: skip


def batch(first: int, last: int) -> Batch:
    rows = [torch.from_numpy(tiny.noise(SECONDS[i], seed=i)) for i in range(first, last)]
    text = [torch.arange(3, 6 + i) for i in range(first, last)]
    keys = tuple(str(i) for i in range(first, last))
    return Batch(
        Ragged.from_rows(rows), Ragged.from_rows(text), torch.arange(first, last), keys, seed=1
    )


def learnt(name: str, way: str, of: Batch, world: World) -> dict[str, Tensor]:
    """Losses of this rank, and whole gradients."""
    kind, bf16, anew = WAYS[way]
    task = TASKS[name]().train()
    parallel = spread(task, kind, world)
    with changed_blocks(task, checkpointed=anew, compiled=False), parallel.accumulating(True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses = dict(parallel(of))
        sum(losses.values()).backward()
    parallel.clip([p for p in task.parameters() if p.requires_grad], float("inf"))
    told = {f"loss {each}": loss.detach().float() for each, loss in losses.items()}
    for each, weight in task.named_parameters():
        if weight.grad is not None:
            grad = weight.grad
            told[f"grad {each}"] = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
    return {each: tensor.clone() for each, tensor in told.items()}


def two(folder: Path) -> None:
    with joined(timeout_s=60) as world:
        own = batch(0, FIRST) if world.first else batch(FIRST, len(SECONDS))
        for name in TASKS:
            for way in WAYS:
                save_file(learnt(name, way, own, world), folder / f"{name} {way} {world.rank}")


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("both")
    in_ranks(two, 2, folder, within_s=240)
    return folder


@pytest.mark.timeout(400)  # on a busy machine
@pytest.mark.parametrize("name", TASKS)
def test_two_ranks_learn_what_one_process_learns_of_all_clips(both, name):
    alone = learnt(name, "ddp", batch(0, len(SECONDS)), ALONE)
    largest = max(float(g.abs().max()) for n, g in alone.items() if n.startswith("grad"))
    for way, (_, bf16, _) in WAYS.items():
        found = [load_file(both / f"{name} {way} {rank}") for rank in (0, 1)]
        assert found[0].keys() == found[1].keys() == alone.keys(), way
        for each, wanted in alone.items():
            mean = (found[0][each] + found[1][each]) / 2
            size = largest if each.startswith("grad") else max(1.0, float(wanted))
            near = BIN * size if bf16 else 1e-5 + 1e-6 * size
            torch.testing.assert_close(
                mean, wanted, rtol=0, atol=near, msg=lambda m, e=each, w=way: f"{w} {e}: {m}"
            )
