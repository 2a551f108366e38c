"""Files of torch.save: read without running anything, whatever they say and however they are
damaged."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from echoic.convert.torch_file import is_pickled, read_state_dict
from echoic.types import CheckpointError

FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Runs:
    """Unpickling it calls `function(*args)`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


def state(generator) -> OrderedDict:
    layers = nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.normal_(generator=generator)
    return OrderedDict(layers.state_dict())


def trainers(inner: dict) -> dict:
    """What a trainer writes around a state dict, as LAION's and PANN's do."""
    return {
        "epoch": np.float64(3),
        "name": "run",
        "best": [np.float32(0.5), np.int64(2), np.bool_(True), np.dtype("f4")],
        "sampler": {"indexes": np.arange(5), "pointer": 2},
        "state_dict": OrderedDict((f"module.{name}", t) for name, t in inner.items()),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(500)}}, "param_groups": [{"lr": 1e-4}]},
    }


def write(path: Path, content, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert "\n" not in told
    assert "\033" not in told
    return told


@FORMS
def test_the_state_dict_is_taken_and_nothing_else(tmp_path, generator, zipped):
    made = state(generator)
    read = read_state_dict(write(tmp_path / "a.pt", trainers(made), zipped=zipped))
    assert read.keys() == made.keys()
    for name, tensor in made.items():
        assert torch.equal(read[name], tensor)
        assert read[name].dtype == tensor.dtype
        assert not read[name].requires_grad


@FORMS
@pytest.mark.parametrize("inside", ["state_dict", "model", None])
def test_it_may_lie_in_a_container(tmp_path, generator, zipped, inside):
    made = state(generator)
    content = made if inside is None else {inside: made, "epoch": 3}
    assert read_state_dict(write(tmp_path / "a", content, zipped=zipped)).keys() == made.keys()


def test_parameters_are_plain_tensors(tmp_path):
    made = {"weight": nn.Parameter(torch.ones(2))}
    read = read_state_dict(write(tmp_path / "a", made))
    assert type(read["weight"]) is torch.Tensor


def test_a_prefix_of_some_names_only_stays(tmp_path):
    made = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert read_state_dict(write(tmp_path / "a", made)).keys() == made.keys()


def test_values_are_mapped_not_read(tmp_path):
    path = write(tmp_path / "a.pt", {"state_dict": {"a": torch.ones(3)}, "o": torch.ones(4)})
    tensor = read_state_dict(path)["a"]
    with Path("/proc/self/maps").open() as maps:
        mapped = [line.split()[0] for line in maps if str(path) in line]
    ranges = [tuple(int(end, 16) for end in line.split("-")) for line in mapped]
    assert any(start <= tensor.data_ptr() < stop for start, stop in ranges)


@FORMS
@pytest.mark.parametrize(
    ("function", "args", "named"),
    [
        (os.system, ("touch sprung",), "posix.system"),
        (eval, ("__import__('os').system('touch sprung')",), "eval"),
        (exec, ("open('sprung', 'w')",), "exec"),
        (open, ("sprung", "w"), "io.open"),
        (getattr, ("abc", "upper"), "getattr"),
        (torch.hub.load, ("a/b", "c"), "torch.hub.load"),
        (np.load, ("sprung", None, True), "numpy.load"),
    ],
)
def test_a_malicious_pickle_is_refused_by_name(
    tmp_path, monkeypatch, generator, zipped, function, args, named
):
    monkeypatch.chdir(tmp_path)
    made = state(generator)
    nested = trainers(made)
    nested["optimizer"]["state"][0]["exp_avg"] = [Runs(function, *args)]
    for content in ({"a": Runs(function, *args)}, nested, Runs(function, *args)):
        told = refusal(write(tmp_path / "evil.pt", content, zipped=zipped))
        assert f"it asks to load {named}, which" in told
        assert not (tmp_path / "sprung").exists()


@FORMS
def test_a_trap_does_not_spring(tmp_path, generator, zipped):
    marker = tmp_path / "sprung"
    nested = trainers(state(generator))
    nested["scaler"] = {"x": (1, [Trap(str(marker))])}
    path = write(tmp_path / "evil.pt", nested, zipped=zipped)
    told = refusal(path)
    assert not marker.exists()
    assert "nothing was run" in told
    torch.load(path, weights_only=False)  # it is a trap
    assert marker.exists()


@FORMS
def test_the_options_of_a_training_are_read_as_nothing(tmp_path, generator, zipped):
    """As MAE's and M2D's trainer writes them, beside the model."""
    made, marker = state(generator), tmp_path / "sprung"
    options = Namespace(lr=2.4e-3, input_size=[80, 608], accum_iter=1, resume="", device="cuda")
    content = {"model": made, "optimizer": {"state": {}}, "epoch": 300, "scaler": {"scale": 2.0}}
    path = write(tmp_path / "a.pth", content | {"args": options}, zipped=zipped)
    assert read_state_dict(path).keys() == made.keys()
    assert "holds no state dict" in refusal(write(tmp_path / "b.pth", options, zipped=zipped))
    options.output_dir = Trap(str(marker))
    path = write(tmp_path / "evil.pth", content | {"args": options}, zipped=zipped)
    assert "nothing was run" in refusal(path)
    assert not marker.exists()


@FORMS
def test_odd_things_beside_the_weights_stay_readable(tmp_path, generator, zipped):
    """What older and other trainers keep there; none of it needs code."""
    made = state(generator)
    beside = {
        "rng": (np.random.RandomState(0).get_state(), random.Random(0).getstate()),
        "order": tuple(range(20_000)),
        "pairs": tuple((i, str(i)) for i in range(4_000)),
        "kinds": [torch.float32, torch.bfloat16, torch.strided, torch.device("cuda:0")],
        "quantised": torch.per_tensor_affine,
        "options": Namespace(inner=Namespace(lr=np.float32(1)), betas=(0.9, 0.95)),
    }
    path = write(tmp_path / "a.pt", {"model": made} | beside, zipped=zipped)
    assert read_state_dict(path).keys() == made.keys()


@FORMS
def test_a_tensor_with_attributes_is_a_tensor(tmp_path, zipped):
    weights = torch.arange(3.0)
    weights.note = "of whom"
    read = read_state_dict(write(tmp_path / "a.pt", {"w": weights}, zipped=zipped))
    assert torch.equal(read["w"], weights)


def test_a_protocol_that_torch_does_not_read_is_told(tmp_path, generator):
    path = tmp_path / "a.pt"
    torch.save(state(generator), path, pickle_protocol=4)
    assert "a pickle of protocol 4, and torch reads only those up to 3" in refusal(path)


def test_what_the_environment_asks_for_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = write(tmp_path / "evil.pt", {"a": Trap(str(tmp_path / "sprung"))})
    refusal(path)
    assert not (tmp_path / "sprung").exists()


def test_a_bare_pickle_is_not_opened(tmp_path):
    path = tmp_path / "bare.pt"
    path.write_bytes(pickle.dumps({"a": Trap(str(tmp_path / "sprung"))}))
    assert "not a file of torch.save, but a bare pickle" in refusal(path)
    assert is_pickled(path)
    assert not (tmp_path / "sprung").exists()


def test_a_program_is_refused(tmp_path):
    path = tmp_path / "program.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"program/{name}", b"\x80\x02}.")
    assert "a TorchScript program" in refusal(path)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"epoch": 3, "lr": 0.1}, "holds no state dict, but a dict of 'epoch', 'lr'"),
        ({}, "holds no state dict, but a dict of nothing"),
        ({"state_dict": {}}, "holds no state dict, but a dict of 'state_dict'"),
        ([torch.ones(2)], "holds no state dict, but a list"),
        (torch.ones(2), "holds no state dict, but a Tensor"),
        ({"a": torch.ones(1), "b": 3}, "b is a int, not a tensor"),
        ({"a": torch.ones(1, dtype=torch.complex64)}, "a is not a plain tensor of numbers"),
        ({"a": torch.eye(2).to_sparse()}, "a is not a plain tensor of numbers"),
        ({"a": torch.ones(10**6, device="meta")}, "a is not a plain tensor of numbers"),
        ({"a": torch.ones(1).expand(10**12)}, "a claims (1000000000000,) values"),
    ],
)
def test_what_is_no_state_dict_is_told(tmp_path, content, wanted):
    assert wanted in refusal(write(tmp_path / "a.pt", content))


def test_what_is_no_file_of_torch_is_told(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("weights")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a.txt", "text")
    assert "an empty file" in refusal(tmp_path / "empty")
    assert "not a file of torch.save" in refusal(tmp_path / "text")
    assert "a zip file, but not one of torch.save" in refusal(tmp_path / "zip")
    assert "a folder, not a file" in refusal(tmp_path)
    assert "cannot be read (No such file or directory)" in refusal(tmp_path / "none")


def test_an_encrypted_archive_is_refused(tmp_path, generator):
    path = write(tmp_path / "a.pt", state(generator))
    whole = bytearray(path.read_bytes())
    place = whole.find(b"PK\x01\x02")
    while place >= 0:
        whole[place + 8] |= 1  # as the table of contents tells it
        place = whole.find(b"PK\x01\x02", place + 1)
    path.write_bytes(whole)
    assert "packed" in refusal(path)


def test_a_packed_archive_is_refused(tmp_path, generator):
    path = write(tmp_path / "a.pt", state(generator))
    bomb = tmp_path / "bomb.pt"
    with (
        zipfile.ZipFile(path) as old,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert "packed" in refusal(bomb)


@FORMS
def test_a_truncated_file_is_refused(tmp_path, generator, zipped):
    whole = write(tmp_path / "a.pt", trainers(state(generator)), zipped=zipped).read_bytes()
    for share in (0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.99, 0.999):
        path = tmp_path / "cut.pt"
        path.write_bytes(whole[: int(len(whole) * share)])
        assert any(word in refusal(path) for word in ("truncated", "not a file", "empty"))


def with_a_flipped_bit(whole: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(whole)
    damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def test_a_flipped_bit_never_changes_a_weight(tmp_path, generator):
    made = state(generator)
    whole = write(tmp_path / "a.pt", trainers(made)).read_bytes()
    draw = random.Random(0)
    path = tmp_path / "flipped.pt"
    told = []
    for _ in range(150):
        path.write_bytes(with_a_flipped_bit(whole, draw))
        try:
            read = read_state_dict(path)
        except CheckpointError as error:
            told.append(str(error))
        else:
            assert all(torch.equal(read[name], tensor) for name, tensor in made.items())
    assert len(told) > 30
    assert not any("\n" in line for line in told)


def test_a_flipped_bit_of_an_old_file_is_one_line_at_most(tmp_path, generator):
    whole = write(tmp_path / "a.pt", trainers(state(generator)), zipped=False).read_bytes()
    draw = random.Random(0)
    path = tmp_path / "flipped.pt"
    told = []
    for _ in range(150):
        path.write_bytes(with_a_flipped_bit(whole, draw))
        try:
            read_state_dict(path)
        except CheckpointError as error:
            told.append(str(error))
    assert told
    assert not any("\n" in line for line in told)


def test_an_archive_without_check_sums_is_read(tmp_path, generator):
    made = state(generator)
    torch.serialization.set_crc32_options(False)
    try:
        path = write(tmp_path / "a.pt", made)
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_state_dict(path).keys() == made.keys()
