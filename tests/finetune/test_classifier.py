"""The classifier's file: what it holds, and what is refused."""

from __future__ import annotations

import pytest
import torch

from echoic.convert.open import open_model
from echoic.finetune.classifier import Classifier, ClassifierSpec, load_classifier
from echoic.hub import find_model
from echoic.objectives.tagging import make_head
from echoic.types import CheckpointError
from tests import on_disk, tiny

LABELS = ("bell", "dog", "rain")


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def classifier(model, *, tuned: bool = False, per_clip: str = "one") -> Classifier:
    spec = ClassifierSpec(
        labels=LABELS, per_clip=per_clip, head="mlp", width=16, space_id=model.space_id,
        model=model.network.spec if tuned else None,
    )  # fmt: skip
    return Classifier(spec, model.network.audio, make_head("mlp", 16, 3), {"made": "by hand"})


@pytest.mark.parametrize("tuned", [False, True])
def test_a_file_gives_back_what_was_saved(model, tmp_path, tuned):
    made = classifier(model, tuned=tuned)
    made.save(tmp_path / "classifier.safetensors")
    read = load_classifier(tmp_path, None if tuned else model)
    assert (read.spec, read.card) == (made.spec, made.card)
    waves = [tiny.noise(0.5, seed=i) for i in range(3)]
    assert torch.equal(read.logits(waves), made.logits(waves))
    assert {path.name for path in tmp_path.iterdir()} == {"classifier.safetensors"}


@pytest.mark.parametrize("tuned", [False, True])
def test_reading_moves_no_global_generator(model, tmp_path, tuned):
    classifier(model, tuned=tuned).save(tmp_path / "classifier.safetensors")
    before = torch.random.get_rng_state()
    load_classifier(tmp_path, model)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_items_are_whatever_can_be_heard(model, tmp_path):
    made = classifier(model, per_clip="many")
    path = on_disk.write_tone(tmp_path / "a.wav", 300)
    found = made.probabilities([path, tiny.tone(300, 1.0)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(found[1:], made.logits([tiny.tone(300, 1.0)]).sigmoid())
    assert made.probabilities([]).shape == (0, 3)


def test_what_is_no_classifier_is_refused(model, tmp_path):
    with pytest.raises(CheckpointError, match="no such classifier file"):
        load_classifier(tmp_path / "none")
    (tmp_path / "short.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(CheckpointError, match="not a whole safetensors"):
        load_classifier(tmp_path / "short.safetensors")
    on_disk.save_tiny_model(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a classifier of echoic's"):
        load_classifier(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [({"width": 0}, "spec: width: .* greater than or equal to 1"),
     ({"labels": ()}, "spec: labels: .* at least 1 item")],
)  # fmt: skip
def test_a_head_without_rows_or_columns_is_refused(model, tmp_path, change, wanted):
    made = classifier(model)
    spec = made.spec.model_copy(update=change)
    Classifier(spec, made.audio, made.head).save(tmp_path / "classifier.safetensors")
    with pytest.raises(CheckpointError, match=wanted):
        load_classifier(tmp_path, model)


@pytest.mark.parametrize("tuned", [False, True])
def test_where_a_model_is_wanted_it_says_how_it_is_used(model, tmp_path, tuned):
    file = tmp_path / "classifier.safetensors"
    classifier(model, tuned=tuned).save(file)
    for opened in (open_model, find_model):
        with pytest.raises(CheckpointError) as caught:
            opened(tmp_path)
        line = str(caught.value)
        assert line.startswith(f"{tmp_path}: a classifier of echoic finetune, not a model; ")
        assert f"load_classifier('{tmp_path}', echoic.load(MODEL))" in line
    with pytest.raises(CheckpointError, match=r"not a model; .*load_classifier"):
        open_model(file)
    assert load_classifier(tmp_path, model).labels == LABELS  # as the line says, tuned or not


def test_a_place_that_cannot_be_written_is_named(model, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "c.safetensors", tmp_path / "folder"):
        with pytest.raises(CheckpointError, match="cannot be written"):
            classifier(model).save(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_others_may_read_the_file_where_the_umask_allows(model, tmp_path):
    classifier(model).save(tmp_path / "c.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "c.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
