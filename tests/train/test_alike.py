"""Ranks that would train different things are told so, all alike, before any waits for another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from echoic.objectives.gather import alone, mean_over_all
from echoic.train import alike
from echoic.train.world import World, joined
from echoic.types import ConfigError
from tests.train.ranks import in_ranks
from tests.train.test_ranks import OPTIM, RUN, Deep, evaluate, weights
from tests.train.toy import ToyLoader, run_toy


class Known(ToyLoader):
    fingerprint = "a1"


def begin(folder: Path, world: World, **changes: Any) -> None:
    arguments: dict[str, Any] = {
        "task": Deep(), "world": world, "optim": OPTIM, "evaluate": evaluate,
        "loader": Known(rank=world.rank, ranks=world.size), "run": RUN,
    }  # fmt: skip
    run_toy(folder / "run", **arguments | changes)


def other_recipe(folder: Path, world: World) -> None:
    """Of rank 1 of three, and 2."""
    optim = OPTIM.model_copy(update={"lr": 1e-2 if world.first else 2e-2})
    begin(folder, world, optim=optim)


def other_data(folder: Path, world: World) -> None:
    loader = Known(rank=world.rank, ranks=world.size)
    if world.rank == 2:
        loader.fingerprint = "b2"
    begin(folder, world, loader=loader)


def other_model(folder: Path, world: World) -> None:
    task = Deep()
    if world.rank == 1:
        task.leave = nn.Linear(24, 15)
    begin(folder, world, task=task)


def other_program(folder: Path, world: World) -> None:
    kept = alike._source
    alike._source = (lambda: "changed") if world.rank == 1 else kept
    try:
        begin(folder, world)
    finally:
        alike._source = kept


def evaluation_on_the_first(folder: Path, world: World) -> None:
    begin(folder, world, evaluate=evaluate if world.first else None)


def evaluated_on_the_first(folder: Path, world: World) -> None:
    """Where all must, as weights are cut."""
    cut = RUN.model_copy(update={"parallel": "fsdp"})
    begin(folder, world, run=cut, evaluate=evaluate if world.first else lambda task: {"heard": 0.0})


CASES: dict[Callable[[Path, World], None], str] = {
    other_recipe: "rank 1 of 3 would train something else than rank 0 (as do ranks 2): "
    "optim.lr is 0.02, not 0.01; start all",
    other_data: "rank 2 of 3 would train something else than rank 0: data is b2, not a1; start all",
    other_model: "rank 1 of 3 would train something else than rank 0: task is ",
    other_program: "rank 1 of 3 would train something else than rank 0: source is changed, not ",
    evaluation_on_the_first: "rank 1 of 3 would train something else than rank 0 (as do ranks 2): "
    "evaluates is False, not True",
    evaluated_on_the_first: "evaluation: rank 1, 2 of 3 had done while others still asked",
}


def three(folder: Path) -> None:
    with joined(timeout_s=60) as world:
        for case in CASES:
            try:
                case(folder / case.__name__, world)
            except ConfigError as error:
                told = folder / f"{case.__name__} {world.rank}"
                told.write_text(str(error))


@pytest.mark.timeout(400)
def test_what_differs_is_told_on_all_ranks_alike(tmp_path):
    in_ranks(three, 3, tmp_path, within_s=240)
    for case, wanted in CASES.items():
        told = {(tmp_path / f"{case.__name__} {rank}").read_text() for rank in range(3)}
        assert len(told) == 1, told
        assert told.pop().startswith(wanted), told
        assert not (tmp_path / case.__name__ / "run" / "checkpoints" / "step-00000006").exists()


def test_the_program_is_known_by_its_source():
    known = alike.program()
    assert known.keys() == {"source", "torch"}
    assert known["source"] == alike._source.__wrapped__()


# -- what else ranks do together ------------------------------------------------------------------


def gloo_threads() -> list[str]:
    names = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            names.append((task / "comm").read_text().strip())
    return [name for name in names if "gloo" in name]


def losses_on_the_first(task: nn.Module) -> dict[str, float]:
    """Over all ranks it would wait for those who do not evaluate."""
    with alone():
        return {"mean": float(mean_over_all(torch.arange(4.0)))}


def begin_apart(folder: Path, world: World) -> None:
    """Replicas, then shards of weights that each rank drew for itself; then an error."""
    begin(folder / "ddp", world, evaluate=losses_on_the_first)
    task = Deep()
    if not world.first:
        nn.init.zeros_(task.enter.weight)
    begin(folder / "fsdp", world, run=RUN.model_copy(update={"parallel": "fsdp"}), task=task)
    assert gloo_threads()
    raise ConfigError("after it all")


def began_apart(folder: Path) -> None:
    with suppress(ConfigError), joined(timeout_s=60) as world:
        begin_apart(folder, world)
    (folder / f"left {os.environ['RANK']}").write_text(json.dumps(gloo_threads()))


@pytest.mark.timeout(400)
def test_ranks_begin_with_the_weights_of_the_first_and_leave_no_thread_behind(tmp_path):
    """A thread of gloo's that lives on may abort the process when python ends."""
    in_ranks(began_apart, 2, tmp_path, within_s=240)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"left {rank}").read_text()) == []
    mine, wanted = weights(tmp_path / "fsdp"), weights(tmp_path / "ddp")
    for name, tensor in wanted.items():
        torch.testing.assert_close(mine[name], tensor, rtol=0, atol=1e-6, msg=name)
    rows = (tmp_path / "ddp" / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["metrics"] == {"mean": 1.5}
