"""`echoic export`: what it writes runs without echoic, as its README says; ONNX where its packages
are installed, torch.export everywhere."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from echoic.api import load
from echoic.export import folder as exporting
from echoic.export.folder import export
from echoic.types import CheckpointError, ConfigError
from tests import m2d, tiny
from tests.on_disk import save_tiny_model

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)


@pytest.fixture
def file(tmp_path):
    return save_tiny_model(tmp_path / "model.safetensors", {"recipe": "tiny"})


def as_the_readme_says(place, monkeypatch) -> dict[str, np.ndarray]:
    """Runs its examples in the folder, and returns their variables."""
    monkeypatch.chdir(place)
    soundfile.write("sound.wav", tiny.noise(0.8), tiny.RATE, subtype="FLOAT")
    found: dict[str, np.ndarray] = {}
    for code in re.findall(r"```python\n(.*?)```", (place / "README.md").read_text(), re.DOTALL):
        assert "echoic" not in code
        assert len(code.splitlines()) <= 5
        exec(code, found)
    return found


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_the_readme_runs_and_gives_the_models_vectors(form, file, run, tmp_path, monkeypatch,
                                                      request):  # fmt: skip
    if form == "onnx":
        request.getfixturevalue("onnx")
    code, out, err = run("export", file, tmp_path / "out", "--to", form)
    assert code == 0, err
    assert "how to run it:" in out
    found = as_the_readme_says(tmp_path / "out", monkeypatch)
    model = load(file)
    heard, read = model.embed_audio(["sound.wav"]), model.embed_text(["a dog barks"])
    np.testing.assert_allclose(found["audio"], heard, atol=1e-5)
    np.testing.assert_allclose(found["text"], read, atol=1e-5)
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert facts["space_id"] == model.space_id
    assert (facts["rate_hz"], facts["longest_samples"]) == (16_000, 32_000)


def test_eight_bits_are_smaller_and_close(onnx, documented, file, tmp_path):
    told = documented("export", file, tmp_path / "out", "--int8", "--part", "audio")
    whole, small = told["files"]
    assert whole["difference"] < 1e-5 < small["difference"] < 0.05
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"audio.onnx", "audio.int8.onnx", "export.json", "README.md"}
    assert 'audio.onnx"' in (tmp_path / "out" / "README.md").read_text()
    from echoic.export.onnx import open_session

    model, wave = load(file), tiny.noise(1.1)
    found = open_session(tmp_path / "out" / "audio.int8.onnx", threads=1).run(
        None, {"samples": wave[None]}
    )[0]
    assert float((model.embed_audio([wave]).numpy() * found).sum()) > 0.99


def test_onnx_takes_any_rows_and_lengths_and_refuses_what_is_not_heard(onnx, tmp_path):
    from echoic.export.audio import audio_graph
    from echoic.export.onnx import open_session, save_onnx

    made = m2d.network("tokens", max_s=2.0)
    graph = audio_graph(made)
    save_onnx(tmp_path / "audio.onnx", graph)
    session = open_session(tmp_path / "audio.onnx", threads=1)
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == ("samples", ["rows", "samples"])
    for rows, samples in ((1, 201), (1, 4000), (3, 11_000), (2, 32_000)):
        wave = 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(samples))
        with torch.no_grad():
            wanted = graph(wave).numpy()
        found = session.run(None, {"samples": wave.numpy()})[0]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    for samples in (200, 32_001):
        with pytest.raises(Exception, match=r"out of data bounds|pre-pad"):
            session.run(None, {"samples": np.zeros((1, samples), np.float32)})


def test_a_graph_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "PARITY", -1.0)
    with pytest.raises(CheckpointError, match=r"text\.pt2: does not compute what the model does"):
        export(m2d.content("mlp", text="sentence"), tmp_path / "out", parts=("text",), form="torch")
    assert list((tmp_path / "out").iterdir()) == []


def test_numbers_that_are_none_are_not_kept(tmp_path, monkeypatch):
    real = exporting._vectors
    monkeypatch.setattr(exporting, "_vectors", lambda *given: real(*given) * torch.nan)
    with pytest.raises(CheckpointError, match="cosine nan"):
        export(m2d.content("mlp", text="sentence"), tmp_path / "out", parts=("text",), form="torch")


def test_without_a_tokenizer_none_of_another_model_is_left(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}", "utf-8")
    export(replace(tiny.content(), tokenizer=None), tmp_path, parts=("text",), form="torch")
    assert not (tmp_path / "tokenizer.json").exists()
    assert "brought no tokenizer" in (tmp_path / "README.md").read_text("utf-8")


def test_what_an_earlier_export_left_of_a_side_goes(tmp_path):
    content = m2d.content("mlp", text="sentence")
    for stale in ("text.int8.onnx", "audio.onnx"):
        (tmp_path / stale).touch()
    export(content, tmp_path, parts=("text",), form="torch")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"text.pt2", "audio.onnx", "export.json", "README.md"}


def test_missing_packages_and_wrong_options_are_one_line(monkeypatch, run, file, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, out, err = run("export", file, tmp_path / "out")
    assert (code, out) == (2, "")
    assert 'error: ONNX needs onnx: pip install "echoic[onnx]"' in err
    code, _, err = run("export", file, tmp_path / "out", "--to", "torch", "--int8")
    assert (code, "int8 is a form of ONNX" in err) == (2, True)
    code, _, err = run("export", file, file)
    assert (code, "is a file" in err) == (2, True)
    with pytest.raises(ConfigError, match="int8"):
        export(tiny.content(), tmp_path / "x", form="torch", int8=True)
