"""Audio graphs compute what the model does, for any length, in torch and through torch.export."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from echoic.audio.views import fill_window
from echoic.encoders.pann import PannSpec
from echoic.export.audio import audio_graph, filled
from echoic.export.torch_export import capture, save_program
from echoic.model import build
from echoic.types import Ragged
from tests import clap, m2d, tiny

CLOSE = 2e-6  # promised are 1e-4


def models():
    yield "slap", tiny.content().model
    for projector in (None, "mlp", "tokens"):
        yield f"m2d-{projector}", m2d.network(projector, max_s=3.0)
    yield "htsat", clap.model()
    yield "htsat-fused", clap.model(fusion=True)


MODELS = {name: model.eval() for name, model in models()}
# m2d: within a window (0.64 s), a column more, more than half of one more, three windows
SECONDS = (0.02, 0.3, 0.64, 0.65, 0.7, 0.97, 1.3, 2.0, 2.9)


def vectors(model, rows) -> torch.Tensor:
    with torch.no_grad():
        return F.normalize(model.audio(Ragged.from_rows(list(rows))).clip, dim=-1)


def noise(rows: int, samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(samples))


def lengths(graph) -> list[int]:
    wanted = [round(s * graph.rate_hz) for s in SECONDS]
    ends = [graph.shortest, graph.shortest + 1, graph.longest - 1, graph.longest]
    return sorted({n for n in [*wanted, *ends] if graph.shortest <= n <= graph.longest})


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_gives_the_models_vectors(name):
    graph = audio_graph(MODELS[name])
    some = lengths(graph)
    for samples in some if graph.rate_hz < 48_000 else some[::3]:
        given = noise(2, samples)
        with torch.no_grad():
            found = graph(given)
        torch.testing.assert_close(found, vectors(MODELS[name], given), atol=CLOSE, rtol=0)


@pytest.mark.parametrize("name", ["slap", "m2d-tokens"])
def test_lengths_that_are_not_heard_are_refused(name):
    graph = audio_graph(MODELS[name])
    for samples in (graph.shortest - 1, graph.longest + 1):
        with pytest.raises((IndexError, RuntimeError), match=r"index out of range|Padding size"):
            graph(noise(1, samples))


@pytest.mark.parametrize("name", ["m2d-tokens", "htsat"])  # slap: tests/export/test_folder.py
def test_a_program_takes_any_number_of_rows_of_any_length(name, tmp_path):
    graph = audio_graph(MODELS[name])
    save_program(tmp_path / "audio.pt2", capture(graph))
    assert [file.name for file in tmp_path.iterdir()] == ["audio.pt2"]
    run = torch.export.load(tmp_path / "audio.pt2").module()
    seconds = (0.3, 1.3, 2.0) if graph.rate_hz < 48_000 else (0.3,)
    for rows, samples in [(1, graph.shortest), *((3, round(s * graph.rate_hz)) for s in seconds)]:
        given = noise(rows, samples)
        with torch.no_grad():
            found = run(given)
        torch.testing.assert_close(found, vectors(MODELS[name], given), atol=CLOSE, rtol=0)


def test_pann_too():
    made = clap.spec()
    spec = made.model_copy(update={"audio": PannSpec(layers=6)})
    model = build(spec, seed=0).eval()
    given = noise(2, 48_000)
    with torch.no_grad():
        found = audio_graph(model)(given)
    torch.testing.assert_close(found, vectors(model, given), atol=CLOSE, rtol=0)


def test_the_models_wrapper_and_the_graph_agree_on_long_recordings():
    """As the README of an export says: windows, the last flush with the end, weighted."""
    model = tiny.model()
    graph = audio_graph(model.network)
    wave = tiny.noise(5.0)
    whole = model.embed_audio([wave])[0]
    size = graph.longest
    cuts = [(0, size), (size, 2 * size), (len(wave) - size, len(wave))]
    with torch.no_grad():
        found = torch.stack([graph(torch.from_numpy(wave[None, a:b]))[0] for a, b in cuts])
    overlap = (3 * size - len(wave)) / 2
    weights = torch.tensor([size, size - overlap, size - overlap])
    torch.testing.assert_close(F.normalize(weights @ found, dim=0), whole, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("fill", ["repeatpad", "repeat", "pad"])
@pytest.mark.parametrize("samples", [1, 3, 5, 7, 10])
def test_filling_is_the_towers(fill, samples):
    wave = torch.from_numpy(np.arange(1.0, samples + 1, dtype=np.float32))
    assert torch.equal(filled(wave[None], 10, fill)[0], fill_window(wave, 10, fill))
