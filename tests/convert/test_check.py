"""The self-test tells a model that computes something else, and finds a whole one in order."""

from __future__ import annotations

import json

import pytest
import torch

from echoic.api import EchoicModel, load, save_tested
from echoic.convert.check import CARD_KEY, check, fixed_sounds, self_test
from echoic.convert.native import ModelFile, save_model
from tests import m2d, on_disk, tiny


def exported(path):
    """A saved model with its self-test in the card, as `pretrain` writes it."""
    content = tiny.content()
    tested = self_test(EchoicModel(content)).to_json()
    save_model(path, ModelFile(content.model, content.tokenizer, {CARD_KEY: tested}))
    return path


def test_whole_model_is_in_order(tmp_path):
    found = check(load(exported(tmp_path / "model.safetensors")))
    assert found.ok
    assert found.stored
    assert max(f.difference for f in found.findings if f.difference is not None) < 1e-5
    assert found.parameters == sum(p.numel() for p in tiny.content().model.parameters())
    json.dumps(found.to_json())


def test_model_without_self_test_is_checked_as_far_as_it_goes(tmp_path):
    found = check(load(on_disk.save_tiny_model(tmp_path / "model.safetensors")))
    assert found.ok
    assert not found.stored


@pytest.mark.parametrize("part", ["audio", "text"])
def test_changed_weights_are_found(tmp_path, part):
    model = load(exported(tmp_path / "model.safetensors"))
    with torch.no_grad():
        for weight in getattr(model.network, part).parameters():
            weight.add_(0.05)
    found = check(model)
    assert not found.ok
    off = {finding.name.split(":")[0] for finding in found.findings if not finding.ok}
    assert part in off
    assert any("space id" in f.name and not f.ok for f in found.findings)


def test_vector_that_hangs_on_its_neighbours_is_found(monkeypatch):
    model = EchoicModel(tiny.content())
    honest = model.embed_audio
    monkeypatch.setattr(model, "embed_audio", lambda items: honest(items) + 0.01 * len(items))
    off = [finding.name for finding in check(model).findings if not finding.ok]
    assert off == ["alone against in a batch"]


def test_vector_that_changes_between_calls_is_found(monkeypatch):
    model = EchoicModel(tiny.content())
    honest, calls = model.embed_text, iter(range(100))
    monkeypatch.setattr(model, "embed_text", lambda texts: honest(texts) + 1e-6 * next(calls))
    off = [finding.name for finding in check(model).findings if not finding.ok]
    assert off == ["repeated"]


def test_nan_is_found():
    content = tiny.content()
    with torch.no_grad():
        next(content.model.audio.parameters()).fill_(torch.nan)
    found = check(EchoicModel(content))
    assert not found.ok
    assert "weights hold NaN or infinity: audio." in found.findings[0].name
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("text", ["none", "sentence", "small"])
@pytest.mark.parametrize("projector", [None, "mlp", "tokens"])
def test_every_m2d_is_in_order(tmp_path, projector, text):
    save_tested(tmp_path / "model.safetensors", m2d.content(projector, text=text, classes=3))
    model = load(tmp_path)
    found = check(model)
    assert found.ok
    assert found.stored
    compared = [f.name.split(":")[0] for f in found.findings if f.name.endswith("as exported")]
    assert compared == ["audio"] * 2 + ["text"] * (0 if text == "none" else 2)
    assert max(f.difference for f in found.findings if f.difference is not None) < 1e-5
    json.dumps(found.to_json())
    with torch.no_grad():
        model.network.audio.encoder.norm.weight[::2] += 0.5
    off = {finding.name for finding in check(model).findings if not finding.ok}
    assert off == {f"audio: {name}, as exported" for name in ("chirp", "noise")}


def test_texts_are_compared_where_their_encoder_is(tmp_path, monkeypatch):
    """The vectors of a model that was made beside its sentence encoder, and is checked without."""
    save_tested(tmp_path / "model.safetensors", m2d.content("mlp", text="sentence"))
    line = "texts not compared, their sentence encoder is not here"
    assert line not in [finding.name for finding in check(load(tmp_path)).findings]
    monkeypatch.setattr("echoic.text_side.is_local", lambda name: False)
    found = check(load(tmp_path))
    assert found.ok
    names = [finding.name for finding in found.findings]
    assert line in names
    assert not any(name.startswith("text: ") for name in names)
    assert sum(name.startswith("audio: ") for name in names) == 2


def test_a_text_that_a_model_must_read_is_missed(tmp_path):
    """Only a sentence encoder may be absent."""
    save_tested(tmp_path / "model.safetensors", m2d.content("mlp", text="small"))
    whole = load(tmp_path)
    bare = EchoicModel(ModelFile(whole.network, None, whole.card))
    off = [finding.name.split(":")[0] for finding in check(bare).findings if not finding.ok]
    assert off == ["text", "text"]


def test_fixed_sounds_never_change():
    sounds = fixed_sounds(16_000)
    assert {name: len(wave) for name, wave in sounds.items()} == {"chirp": 32_000, "noise": 20_800}
    first = [-0.07301667, -0.0968806, 0.0150017]
    assert sounds["noise"][:3].tolist() == pytest.approx(first, abs=1e-7)
    assert all(0.1 < abs(wave).max() < 1 for wave in sounds.values())
