"""Model files: nothing is lost on the way, half a file never takes the place of a whole one, and
what does not fit is named."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from echoic.convert import native
from echoic.convert.native import (
    FILE_NAME,
    ModelFile,
    load_model,
    load_strictly,
    save_model,
    unfilled,
)
from echoic.model import build
from echoic.types import CheckpointError
from tests import m2d
from tests.convert.published import TINY, model
from tests.tiny import SENTENCES, content

CARD = {"recipe": "tiny", "figures": {"R@1": 0.5, "lr": 1e-4}, "note": "naïve 🌧️", "none": None}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("native") / "deep" / FILE_NAME
    save_model(path, content(card=CARD))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    told = str(caught.value)
    assert str(path) in told
    assert "\n" not in told
    return told


def rewritten(file: Path, to: Path, tensors: dict | None = None, **header: str | None) -> Path:
    """`file` with other tensors (None: left out) and another header (None: left out)."""
    with safe_open(file, framework="pt") as opened:
        old = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        meta = opened.metadata()
    new = {name: t for name, t in (old | (tensors or {})).items() if t is not None}
    save_file(new, to, metadata={k: v for k, v in (meta | header).items() if v is not None})
    return to


def test_round_trip_loses_nothing(file):
    made, again = content(), load_model(file)
    assert again.model.spec == made.model.spec
    assert again.card == CARD
    assert not again.model.training
    before, after = made.model.state_dict(), again.model.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
        assert tensor.dtype == after[name].dtype
    texts = [*SENTENCES, "never seen 🌧️", ""]
    assert again.tokenizer(texts) == made.tokenizer(texts)
    assert again.tokenizer.max_tokens == made.model.spec.text.max_tokens


@pytest.mark.parametrize("text", ["none", "sentence", "small"])
@pytest.mark.parametrize("projector", [None, "mlp", "tokens"])
def test_every_m2d_comes_back_bit_for_bit(tmp_path, projector, text):
    made = m2d.content(projector, text=text, classes=3, positions="stored")
    save_model(tmp_path / "m", made)
    again = load_model(tmp_path / "m")
    assert again.model.spec == made.model.spec
    assert (again.tokenizer is None) == (text != "small")
    before, after = made.model.state_dict(), again.model.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
        assert tensor.dtype == after[name].dtype
    for name, tensor in made.model.named_buffers():  # positions, statistics
        assert torch.equal(dict(again.model.named_buffers())[name], tensor), name


@pytest.mark.parametrize("positions", ["sin_cos", "stored"])
@pytest.mark.parametrize("projector", [None, "mlp", "tokens"])
def test_an_unfilled_m2d_is_a_built_one_without_its_weights(projector, positions):
    described = m2d.spec(projector, text="sentence", classes=3, positions=positions)
    before = torch.random.get_rng_state()
    empty, built = unfilled(described), build(described, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    held = {name for name, parameter in empty.named_parameters() if not parameter.is_meta}
    assert held <= {"logit_scale", "audio.projection.sem_token"}  # a few values each
    for name, tensor in built.state_dict().items():
        assert empty.state_dict()[name].shape == tensor.shape, name
        assert empty.state_dict()[name].dtype == tensor.dtype, name


def test_a_folder_stands_for_its_file(file):
    assert load_model(file.parent).card == CARD


def test_what_a_card_cannot_hold_is_written_as_text(tmp_path):
    save_model(tmp_path / "m", content(card={"at": Path("a/b"), "steps": (1, 2)}))
    assert load_model(tmp_path / "m").card == {"at": "a/b", "steps": [1, 2]}


def test_a_model_without_a_tokenizer_is_one(tmp_path):
    made = content()
    save_model(tmp_path / "m", ModelFile(made.model, card=CARD))
    again = load_model(tmp_path / "m")
    assert again.tokenizer is None
    assert again.card == CARD


def test_tied_weights_are_written_twice(tmp_path):
    made = content()
    blocks = made.model.audio.encoder.blocks
    blocks[1].mlp.down.weight = blocks[0].mlp.down.weight
    save_model(tmp_path / "m", made)
    again = load_model(tmp_path / "m").model
    assert again.space_id() == made.model.space_id()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / FILE_NAME
    save_model(path, content(seed=1))
    before = path.read_bytes()

    def half(tensors, where, metadata):
        Path(where).write_bytes(b"half")
        raise error

    monkeypatch.setattr(native, "save_file", half)
    wanted = CheckpointError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(wanted) as caught:
        save_model(path, content(seed=2))
    if wanted is CheckpointError:
        assert str(path) in str(caught.value)
        assert "No space left" in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("here")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / FILE_NAME, tmp_path / "folder"):
        with pytest.raises(CheckpointError, match="cannot be written") as caught:
            save_model(path, content())
        assert str(path) in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.999])
def test_a_truncated_file_is_refused(file, tmp_path, share):
    whole = file.read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "not a whole safetensors file" in refusal(path)


def test_a_missing_file_is_named(tmp_path):
    assert "no such model file" in refusal(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=f"{FILE_NAME}: no such model file"):
        load_model(tmp_path)


def test_no_pickle_is_ever_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "plain").write_bytes(pickle.dumps(Trap()))
    with zipfile.ZipFile(tmp_path / "zipped", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap()))
        archive.writestr("archive/version", "3")
    for name in ("plain", "zipped"):
        assert "not a whole safetensors file" in refusal(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_a_foreign_safetensors_file_is_told_from_ours(tmp_path):
    path = tmp_path / "foreign"
    save_file({"weight": torch.zeros(2)}, path)
    assert "not a model of echoic's" in refusal(path)
    save_file({"weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    assert "not a model of echoic's" in refusal(path)


def test_tensors_that_do_not_fit_are_named(file, tmp_path):
    changed = {
        "logit_scale": None,
        "audio.encoder.norm.weight": torch.zeros(5),
        "audio.extra": torch.zeros(1),
    }
    told = refusal(rewritten(file, tmp_path / "m", changed))
    assert "logit_scale is missing" in told
    assert "audio.encoder.norm.weight is (5,), wanted (32,)" in told
    assert "audio.extra is unknown" in told


def test_many_wrong_tensors_are_counted(file, tmp_path):
    extra = {f"extra.{i}": torch.zeros(1) for i in range(9)}
    told = refusal(rewritten(file, tmp_path / "m", extra))
    assert "extra.0 is unknown" in told
    assert told.endswith("; and 4 more")


def test_load_strictly_changes_nothing_where_something_does_not_fit():
    module = torch.nn.Linear(2, 3)
    before = module.weight.detach().clone()
    with pytest.raises(CheckpointError, match=r"^here: .*bias is missing"):
        load_strictly(module, {"weight": torch.zeros(3, 2)}, "here")
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ({"spec": "{"}, "its header cannot be read"),
        ({"spec": "[]"}, "its header cannot be read (spec: input should be a valid"),
        ({"spec": None}, "its header has no 'spec'"),
        ({"card": None}, "its header has no 'card'"),
        ({"tokenizer": "{}"}, "tokenizer in the checkpoint is damaged"),
        ({"card": "{"}, "its header cannot be read"),
        ({"format": "echoic-9"}, "not a model of echoic's (no echoic-1 header)"),
    ],
)
def test_a_wrong_header_is_one_line(file, tmp_path, header, wanted):
    assert wanted in refusal(rewritten(file, tmp_path / "m", **header))


def test_a_description_of_another_model_is_refused(file, tmp_path):
    described = json.loads(content().model.spec.model_dump_json())
    for change, wanted in (
        ({"embed_dim": 8}, "audio.encoder.head.projection.weight is (16, 32), wanted (8, 32)"),
        ({"embed_dim": "many"}, "spec: embed_dim: input should be a valid integer"),
        ({"colour": 3}, "spec: colour: no such key"),
    ):
        other = json.dumps(described | change)
        assert wanted in refusal(rewritten(file, tmp_path / "m", spec=other))


def test_a_model_file_in_half_precision_is_heard_in_full(file, tmp_path):
    with safe_open(file, framework="pt") as opened:
        halves = {name: opened.get_tensor(name).half() for name in opened.keys()}  # noqa: SIM118
    again = load_model(rewritten(file, tmp_path / "m", halves))
    assert {p.dtype for p in again.model.parameters()} == {torch.float32}
    assert isinstance(again, ModelFile)


def test_a_loaded_model_learns_what_a_built_one_does(tmp_path):
    made = model(TINY.model_copy(update={"fusion": "iaff_2d"}))
    save_model(tmp_path / "m.safetensors", ModelFile(made))
    before = torch.random.get_rng_state()
    again = load_model(tmp_path / "m.safetensors").model
    assert torch.equal(torch.random.get_rng_state(), before)  # HTSAT's bias tables have memory
    wanted = {name: p.requires_grad for name, p in made.named_parameters()}
    assert {name: p.requires_grad for name, p in again.named_parameters()} == wanted
    assert not all(wanted.values())  # iAFF's unused part stands still


def test_others_may_read_the_file_where_the_umask_allows(tmp_path):
    save_model(tmp_path / "m.safetensors", content())
    (tmp_path / "plain").touch()
    mode = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "m.safetensors").stat().st_mode == mode


def test_an_unfilled_model_is_a_built_one_without_its_weights(generator):
    before = torch.random.get_rng_state()
    described = content().model.spec
    empty, built = unfilled(described), build(described, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, tensor in built.state_dict().items():
        assert empty.state_dict()[name].shape == tensor.shape
        assert empty.state_dict()[name].dtype == tensor.dtype
    for name, tensor in built.named_buffers():  # those that no file holds
        assert torch.equal(dict(empty.named_buffers())[name], tensor), name
    assert torch.rand(3, generator=generator).unique().numel() == 3  # and drawing goes on
