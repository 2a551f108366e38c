"""Hostile weights: nothing of a pickle ever runs, and each file ends in one line, in little memory
and time."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from echoic.convert.native import save_model
from echoic.convert.open import open_model
from echoic.convert.torch_file import read_state_dict
from echoic.types import CheckpointError
from tests import tiny

PROTO, STOP = b"\x80\x02", b"."
HUGE = 2**42


def refusal(path: Path, reader=open_model) -> str:
    with pytest.raises(CheckpointError) as caught:
        reader(path)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert path.name in line
    assert len(line) < 1100
    return line


def zipped(path: Path, pickled: bytes, *, more: dict[str, bytes] | None = None) -> Path:
    """A file of torch.save whose content is this pickle, with one storage of 16 bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        entries = {"data.pkl": pickled, "byteorder": b"little", "data/0": bytes(16)}
        for name, raw in {**entries, "version": b"3\n"}.items():
            archive.writestr(f"archive/{name}", raw)
        for name, raw in (more or {}).items():
            archive.writestr(name, raw)
    return path


def old(path: Path, pickled: bytes) -> Path:
    """The same as torch wrote it before 1.6."""
    heads = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    before = b"".join(pickle.dumps(each, 2) for each in heads)
    pickled = pickled.replace(b"tQ", b"NtQ")  # a storage is told by six things, not five
    path.write_bytes(before + pickled + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(16))
    return path


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def whole(value: int) -> bytes:
    if 0 <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def storage(count: int) -> bytes:
    parts = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + whole(count)
    return b"(" + parts + b"tQ"


def tensor(count: int, shape: int, offset: int = 0, stride: int = 1) -> bytes:
    """Of a storage that claims `count` floats."""
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    numbers = whole(offset) + whole(shape) + b"\x85" + whole(stride) + b"\x85"
    return rebuild + storage(count) + numbers + b"\x89ccollections\nOrderedDict\n)RtR"


def state(value: bytes) -> bytes:
    return PROTO + b"}" + text("w") + value + b"s" + STOP


# -- code ------------------------------------------------------------------------------------------


class Runs:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def hidden(call: Runs) -> list[object]:
    """The same call in the places where a reader may look first, last or not at all."""
    around = OrderedDict(w=torch.ones(2))
    around._metadata = OrderedDict(x=call)
    return [
        call, {"state_dict": {"w": call}}, {"w": torch.ones(2), "optimizer": {"state": [call]}},
        OrderedDict([("w", torch.ones(1)), ("x", (1, [{"y": call}]))]), around,
    ]  # fmt: skip


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("name", ["os.system", "eval", "subprocess.call", "torch.load", "open"])
def test_no_call_is_made_wherever_it_is_hidden(tmp_path, name, place, legacy):
    marker = tmp_path / "ran"
    calls = {
        "os.system": Runs(os.system, f"touch {marker}"),
        "eval": Runs(eval, f"open({str(marker)!r}, 'w')"),
        "subprocess.call": Runs(subprocess.call, ["touch", str(marker)]),
        "torch.load": Runs(torch.load, str(marker)),
        "open": Runs(open, str(marker), "w"),
    }
    path = tmp_path / "model.pt"
    torch.save(hidden(calls[name])[place], path, _use_new_zipfile_serialization=not legacy)
    assert "refused: it asks to load" in refusal(path)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("into", ["bare", "zip"])
def test_every_protocol(tmp_path, protocol, into):
    marker = tmp_path / "ran"
    raw = pickle.dumps({"w": Runs(os.system, f"touch {marker}")}, protocol)
    path = tmp_path / "model.pt"
    zipped(path, raw) if into == "zip" else path.write_bytes(raw)
    refusal(path)
    assert not marker.exists()


TRICKS = {
    "a stack global": PROTO + text("os") + text("system") + b"\x93" + text("true") + b"\x85R.",
    "an instance": PROTO + b"(" + text("true") + b"ios\nsystem\n.",
    "an object": PROTO + b"(cos\nsystem\n" + text("true") + b"o.",
    "an extension": PROTO + b"\x82\x01.",
    "a global by a dotted name": PROTO
    + b"ctorch\nserialization.os.system\n"
    + text("x")
    + b"\x85R.",
    "a storage's class": PROTO + b"ctorch\nos.systemStorage\n" + text("x") + b"\x85R.",
    "a persistent id in text": PROTO + b"Pos.system\n.",
    "a call of a tuple in tuples": PROTO + b")" + b"\x85" * 9000 + b")R.",
    "calls in calls": PROTO
    + b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00"
    + b"(h\x00N" * 2000
    + b")"
    + b"Nt" * 2000
    + b"R.",
    "a build on a function": PROTO + b"ccollections\nOrderedDict\n}" + text("__dict__") + b"NsbR.",
    "nothing": b"",
    "no end": PROTO + b"}" * 9,
    "an empty stack": PROTO + b"tR.",
    "a memo that is not there": PROTO + b"h\x07.",
    "a frame": b"\x80\x04\x95" + struct.pack("<Q", HUGE) + b"}.",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_of_the_protocol(tmp_path, trick):
    refusal(zipped(tmp_path / "model.pt", TRICKS[trick]))
    refusal(old(tmp_path / "old.pt", TRICKS[trick]))


def test_a_name_loads_no_module(tmp_path, monkeypatch):
    """torch has parts that it imports when they are asked for."""
    asked = []
    monkeypatch.setattr(torch, "__getattr__", asked.append)
    refusal(zipped(tmp_path / "model.pt", PROTO + b"ctorch\n_lazy\n."), read_state_dict)
    assert "_lazy" not in asked


# -- sizes -----------------------------------------------------------------------------------------


def laughs(depth: int = 64) -> bytes:
    """A few bytes for a tuple of 2**depth, as a key, which is hashed."""
    return PROTO + b"}" + b"K\x01K\x01\x86" + b"q\x00h\x00\x86" * depth + b"K\x01s."


def calls(module: str, name: str, *sizes: int) -> bytes:
    return PROTO + f"c{module}\n{name}\n(".encode() + b"".join(map(whole, sizes)) + b"tR."


def as_parameter(made: bytes) -> bytes:
    """The same tensor by a call of a call."""
    function, _, rest = made.partition(b"(")
    outer = b"ctorch._tensor\n_rebuild_from_type_v2\n("
    kind = b"ctorch.nn.parameter\nParameter\n"
    return outer + function + kind + b"(" + rest.removesuffix(b"R") + b"}tR"


BOMBS = {
    "a shape beyond its storage": state(tensor(4, HUGE)),
    "a storage that could be had": state(tensor(2**29, 2**29)),
    "a shape that could be had": state(tensor(4, 2**29)),
    "a shape in a call of a call": state(as_parameter(tensor(4, 2**29))),
    "a class in a call of a call": PROTO
    + b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nTensor\nctorch\nTensor\n("
    + whole(2**20)
    + whole(2**22)
    + b"t}tR.",
    "a new one of the class": PROTO + b"ctorch\nTensor\n" + whole(HUGE) + b"\x85\x81.",
    "a storage beyond its file": state(tensor(HUGE, HUGE)),
    "an offset beyond its storage": state(tensor(4, 1, offset=HUGE)),
    "a stride beyond its storage": state(tensor(4, 4, stride=HUGE)),
    "a negative shape": state(tensor(4, -5)),
    "a negative offset": state(tensor(4, 2, offset=-4)),
    "a storage of none": state(tensor(-4, 1)),
    "an empty tensor of the class": calls("torch", "Tensor", 2**20, 2**22),
    "an empty tensor of an old class": calls("torch", "FloatTensor", 2**20, 2**22),
    "bytes": calls("__builtin__", "bytearray", HUGE),
    "a storage of the class": calls("torch", "FloatStorage", HUGE),
    "text that is not there": PROTO + b"X" + struct.pack("<I", 2**32 - 1) + b"abc.",
    "tuples in tuples": laughs(),
}
MEASURE = """
import resource, sys
from pathlib import Path
import torch
from echoic.convert.torch_file import read_state_dict
from echoic.types import CheckpointError

def grown(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) // 1024

torch.set_num_threads(1)
torch.save({"w": torch.ones(2)}, sys.argv[1] + "/good.pt")
read_state_dict(Path(sys.argv[1], "good.pt"))
for name in sys.argv[2:]:
    before = grown("VmPeak")
    try:
        read_state_dict(Path(sys.argv[1], name))
    except CheckpointError as error:
        print(name, grown("VmPeak") - before, str(error), sep="|")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(60)
def test_a_lying_file_takes_no_memory_and_no_time(tmp_path):
    """Address space too, so that it does not hang on what the kernel lets be promised."""
    names = []
    for i, raw in enumerate(BOMBS.values()):
        names.append(zipped(tmp_path / f"{i}.pt", raw).name)
        names.append(old(tmp_path / f"{i}-old.pt", raw).name)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), *names],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    told = [line.split("|") for line in done.stdout.splitlines()]
    assert [name for name, *_ in told] == names, done.stderr[-2000:]
    assert {name: mib for name, mib, _ in told if int(mib) > 200} == {}


@pytest.mark.parametrize("bomb", [name for name in BOMBS if "tuples" not in name])
def test_the_same_under_the_name_of_safetensors(tmp_path, bomb):
    """By that name torch reads a zip without mapping it, and would make storages larger."""
    path = zipped(tmp_path / "model.safetensors", BOMBS[bomb])
    refusal(path)
    refusal(path, read_state_dict)


def test_a_shape_that_its_storage_could_be_made_larger_for(tmp_path):
    """Of a size that can be had: what was never in the file must not come out of it."""
    for name in ("model.pt", "model.safetensors"):
        refusal(zipped(tmp_path / name, state(tensor(4, 1000))), read_state_dict)
    refusal(old(tmp_path / "old.pt", state(tensor(4, 1000))), read_state_dict)


def test_two_names_for_one_storage_are_two_views_of_it(tmp_path):
    weights = torch.arange(6.0)
    torch.save({"a": weights[:4], "b": weights[2:].view(2, 2)}, tmp_path / "model.pt")
    found = read_state_dict(tmp_path / "model.pt")
    assert torch.equal(found["a"], weights[:4])
    assert torch.equal(found["b"], weights[2:].view(2, 2))


# -- archives --------------------------------------------------------------------------------------

GOOD = state(tensor(4, 4))


@pytest.mark.parametrize("write", [zipped, old])
def test_the_file_that_the_others_are_made_of(tmp_path, write):
    assert torch.equal(read_state_dict(write(tmp_path / "m.pt", GOOD))["w"], torch.zeros(4))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "more",
    [
        {"archive/data.pkl": state(tensor(4, 2))}, {"other/data.pkl": GOOD}, {"data.pkl": GOOD},
        {"../../x": b""}, {"/abs/data.pkl": GOOD}, {"archive/constants.pkl": b""},
    ],
    ids=str,
)  # fmt: skip
def test_entries_that_no_reader_agrees_on(tmp_path, more):
    refusal(zipped(tmp_path / "model.pt", GOOD, more=more))


def test_a_packed_archive(tmp_path):
    """1 GB of zeros in 1 MB, say."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", GOOD)
        archive.writestr("archive/data/0", bytes(2**24))
    assert "packed as torch.save packs nothing" in refusal(path)


def test_an_entry_that_lies_about_its_length(tmp_path):
    """Python would take that much memory before it finds less."""
    path = zipped(tmp_path / "model.pt", GOOD)
    raw = bytearray(path.read_bytes())
    entry = raw.index(b"PK\x01\x02")  # the first of the central directory: data.pkl
    raw[entry + 20 : entry + 24] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(raw)
    assert "packed as torch.save packs nothing" in refusal(path)


# -- safetensors -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[dict, bytes]:
    """Header and body of a whole model file."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, tiny.content())
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def remade(path: Path, header: object, body: bytes, size: int | None = None) -> Path:
    told = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(told) if size is None else size) + told + body)
    return path


@pytest.mark.parametrize("size", [0, 1, 2**20, 100_000_001, 2**31, 2**40, 2**63, 2**64 - 1])
def test_a_header_that_lies_about_its_length(tmp_path, written, size):
    refusal(remade(tmp_path / "model.safetensors", *written, size=size))


def lie(entry: dict, name: str) -> None:
    start, stop = entry["data_offsets"]
    entry |= {
        "a shape": {"shape": [HUGE]}, "a negative shape": {"shape": [-1]},
        "a product that overflows": {"shape": [2**32, 2**32]},
        "a wide type": {"dtype": "F64"}, "an unknown type": {"dtype": "F7"},
        "no type": {"dtype": None}, "backwards": {"data_offsets": [stop, start]},
        "beyond the end": {"data_offsets": [start, 2**62]},
        "over its neighbour": {"data_offsets": [start + 4, stop + 4]},
        "negative": {"data_offsets": [-4, stop]}, "three": {"data_offsets": [0, 1, 2]},
    }[name]  # fmt: skip


LIES = (
    "a shape", "a negative shape", "a product that overflows", "a wide type", "an unknown type",
    "no type", "backwards", "beyond the end", "over its neighbour", "negative", "three",
)  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_about_a_tensor(tmp_path, written, name):
    header = json.loads(json.dumps(written[0]))
    lie(next(entry for key, entry in header.items() if key != "__metadata__"), name)
    refusal(remade(tmp_path / "model.safetensors", header, written[1]))


@pytest.mark.parametrize("kind", ["F16", "I16", "BOOL"])
def test_values_of_another_type(tmp_path, written, kind):
    """Half the bytes are missing, or, with the right offsets, all the names."""
    header = json.loads(json.dumps(written[0]))
    next(entry for key, entry in header.items() if key != "__metadata__")["dtype"] = kind
    refusal(remade(tmp_path / "model.safetensors", header, written[1]))


@pytest.mark.parametrize(
    "header", [b"[" * 50_000, b"{" * 50_000, b'{"a":' * 50_000, b"[]", b"null", b"{}", b"\xff" * 64]
)
def test_a_header_that_is_none(tmp_path, header):
    refusal(remade(tmp_path / "model.safetensors", header, b""))


def test_names_and_shapes_that_do_not_fit(tmp_path, written):
    header, body = json.loads(json.dumps(written[0])), written[1]
    names = [key for key in header if key != "__metadata__"]
    wide = next(n for n in names if len(header[n]["shape"]) == 2)
    header[wide]["shape"] = [1, *header[wide]["shape"]]
    header["x\n\x1b[31m" * 400] = header.pop(names[-1])
    line = refusal(remade(tmp_path / "model.safetensors", header, body))
    assert "do not fit the model" in line
    assert line.isprintable()


@pytest.mark.parametrize("value", ["nested", "list", "number"])
@pytest.mark.parametrize("part", ["spec", "card", "tokenizer"])
def test_a_description_that_is_none(tmp_path, written, part, value):
    header = json.loads(json.dumps(written[0]))
    bad = {"nested": "[" * 100_000, "list": "[1]", "number": "1e309"}[value]
    header["__metadata__"][part] = bad
    refusal(remade(tmp_path / "model.safetensors", header, written[1]))
