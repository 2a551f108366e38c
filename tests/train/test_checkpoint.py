"""Checkpoints: exact, whole or not at all, and clear about what is wrong."""

from __future__ import annotations

import json
import resource
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn

from echoic.train.checkpoint import FACTS, TENSORS, Checkpoints, load_weights, read
from echoic.types import CheckpointError
from tests.train.toy import ToyTask, run_toy


def some_tensors() -> dict[str, torch.Tensor]:
    tied = torch.arange(6.0).view(2, 3)
    return {
        "task/a": tied,
        "task/b": tied,  # shares memory
        "task/c": tied.T,  # not contiguous
        "task/part": tied[1],
        "task/half": torch.randn(4, generator=torch.Generator().manual_seed(0)).bfloat16(),
        "task/scalar": torch.tensor(3),
        "task/none": torch.zeros(0, 2),
        "rng/cpu": torch.get_rng_state(),
    }


@pytest.fixture
def store(tmp_path):
    return Checkpoints(tmp_path / "run" / "checkpoints", keep_last=2)


def test_what_is_saved_comes_back_exactly(store):
    tensors = some_tensors()
    facts = {
        "loader": {"bad": {"a.wav": "é"}},
        "loss": 0.1 + 0.2,
        "words": [2**40, None, float("inf")],
    }
    folder = store.save(7, tensors, facts)
    assert folder.name == "step-00000007"
    assert sorted(path.name for path in folder.iterdir()) == [FACTS, TENSORS]
    saved = store.latest(note=pytest.fail)
    assert (saved.step, saved.folder) == (7, folder)
    assert {key: saved.facts[key] for key in facts} == facts
    back = saved.tensors("task")
    assert "cpu" not in back
    for name, tensor in back.items():
        assert tensor.dtype == tensors[f"task/{name}"].dtype
        assert torch.equal(tensor, tensors[f"task/{name}"])
    assert torch.equal(saved.tensors("rng")["cpu"], tensors["rng/cpu"])


def test_only_the_last_few_are_kept_and_leftovers_are_cleared(store):
    (store.folder / "step-00000001.tmp").mkdir(parents=True)
    (store.folder / "notes").mkdir()
    for step in (1, 2, 3):
        store.save(step, some_tensors(), {})
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "notes", "step-00000002", "step-00000003",
    ]  # fmt: skip


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def truncate(folder: Path) -> None:
    body = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(body[:-100])


def flip(folder: Path) -> None:
    body = bytearray((folder / TENSORS).read_bytes())
    body[-1] ^= 1
    (folder / TENSORS).write_bytes(body)


def drop_tensors(folder: Path) -> None:
    (folder / TENSORS).unlink()


def truncate_facts(folder: Path) -> None:
    (folder / FACTS).write_text((folder / FACTS).read_text()[:-10])


def change_facts(folder: Path) -> None:
    (folder / FACTS).write_text((folder / FACTS).read_text().replace('"step": ', '"step": 1'))


def no_facts(folder: Path) -> None:
    (folder / FACTS).write_text("[]")


DAMAGES = [empty, truncate, flip, drop_tensors, truncate_facts, change_facts, no_facts]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over_with_a_line(store, damage):
    store.save(1, some_tensors(), {})
    damage(store.save(2, some_tensors(), {}))
    lines: list[str] = []
    assert store.latest(lines.append).step == 1
    assert len(lines) == 1
    assert "step-00000002" in lines[0]
    damage(store.folder / "step-00000001")
    with pytest.raises(CheckpointError, match="none of its 2 checkpoints is whole"):
        store.latest(lines.append)


def test_a_damaged_one_is_replaced_when_its_step_comes_again(store):
    store.save(1, some_tensors(), {})
    truncate(store.save(2, some_tensors(), {}))
    store.save(2, some_tensors(), {"again": True})
    assert store.latest(pytest.fail).facts["again"]


def test_another_format_is_named(store):
    folder = store.save(1, some_tensors(), {"format": 99})
    with pytest.raises(CheckpointError, match="format 99, this echoic reads 1"):
        read(folder)


def test_no_room_is_said_with_path_and_bytes_before_a_byte_is_written(store, monkeypatch):
    store.save(1, some_tensors(), {})
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(CheckpointError, match=r"step-00000002: needs \d+ bytes and .* 1000 free"):
        store.save(2, some_tensors(), {})
    assert [path.name for path in store.folder.iterdir()] == ["step-00000001"]


def test_a_write_that_fails_midway_harms_nothing(store):
    """A real one: the system refuses files beyond a megabyte."""
    store.save(1, some_tensors(), {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(CheckpointError, match="step-00000002: cannot be written"):
            store.save(2, {"task/big": torch.zeros(2**19)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in store.folder.iterdir()] == ["step-00000001"]
    assert store.latest(pytest.fail).step == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file"):
        Checkpoints(tmp_path / "file" / "checkpoints", 1).save(1, some_tensors(), {})


def test_state_that_would_need_a_pickle_is_named(store):
    with pytest.raises(CheckpointError, match="task/_extra_state: state of type dict"):
        store.save(1, {"task/_extra_state": {"a": 1}}, {})
    assert not store.steps()


def test_nothing_in_a_checkpoint_is_a_pickle(store):
    folder = store.save(1, some_tensors(), {"a": 1})
    json.loads((folder / FACTS).read_text())
    assert not (folder / TENSORS).read_bytes().startswith((b"PK", b"\x80"))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.Linear(3, 3)
        self.b.weight = self.a.weight


def test_weights_and_their_average_can_be_loaded_for_use(tmp_path):
    trained = ToyTask()
    result = run_toy(tmp_path / "run", trained)
    last, averaged = ToyTask(), ToyTask()
    assert load_weights(last, tmp_path / "run") == result.step
    assert load_weights(averaged, result.checkpoint, averaged=True) == result.step
    for name, weight in trained.named_parameters():
        assert torch.equal(weight, last.get_parameter(name))
        assert not torch.equal(weight, averaged.get_parameter(name))
    told = result.metrics["weights"]  # the evaluation saw the average
    seen = torch.cat([p.detach().flatten() for p in averaged.parameters()]).double().sum()
    assert float(seen) == pytest.approx(told, rel=1e-6)


def test_tied_weights_take_the_average_once(tmp_path, store):
    task = Tied()
    weights = {f"task/{name}": tensor for name, tensor in task.state_dict().items()}
    mean = {f"average/{name}": torch.full_like(p, 0.5) for name, p in task.named_parameters()}
    store.save(1, weights | mean, {})
    load_weights(task, store.folder.parent, averaged=True)
    assert torch.equal(task.b.weight.detach(), torch.full((3, 3), 0.5))


def test_a_load_is_strict_and_names_what_does_not_fit(store, tmp_path):
    weights = {f"task/{name}": tensor for name, tensor in nn.Linear(3, 4).state_dict().items()}
    folder = store.save(1, weights | {"task/more": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError) as caught:
        load_weights(nn.Linear(5, 4, bias=False), folder)
    assert "bias is unknown" in str(caught.value)
    assert "more is unknown" in str(caught.value)
    assert "weight is (4, 3), not (4, 5)" in str(caught.value)
    task = nn.Linear(3, 4)
    task.register_parameter("gain", nn.Parameter(torch.zeros(1)))
    with pytest.raises(CheckpointError, match="gain is missing"):
        load_weights(task, folder)
    with pytest.raises(CheckpointError, match="holds no average"):
        load_weights(nn.Linear(3, 4), folder, averaged=True)
    with pytest.raises(CheckpointError, match="neither a checkpoint nor a run with one"):
        load_weights(nn.Linear(3, 4), tmp_path / "nowhere")
