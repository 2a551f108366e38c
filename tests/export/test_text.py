"""Text graphs compute what the model does, padded or not, in torch and through torch.export."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from echoic.encoders.clap_text import ClapTextSpec
from echoic.encoders.text import HfTextSpec
from echoic.export.text import text_graph
from echoic.export.torch_export import capture
from echoic.model import build
from echoic.types import CheckpointError, Ragged
from tests import m2d, tiny

SIZES = {"vocab": 50, "positions": 64, "width": 32, "depth": 2, "heads": 2, "hidden": 48,
         "pad_id": 1, "types": 0, "max_tokens": 20}  # fmt: skip
BERT = {"model_type": "bert", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 48}  # fmt: skip
TEXTS = {
    "roberta": {"kind": "roberta"},
    "bert": {"kind": "bert", "types": 2},
    "bart": {"kind": "bart"},
    "clip": {"kind": "clip"},
    "cls": {"kind": "bert", "types": 2, "pool": "cls"},
    "mean": {"kind": "bert", "types": 2, "pool": "mean"},
}


def model(name: str):
    if name == "small":
        return tiny.content().model.eval()
    if name == "hf":
        pytest.importorskip("transformers")
        return build(tiny.spec(text=HfTextSpec(config=BERT)), seed=0).eval()
    return build(tiny.spec(text=ClapTextSpec(**SIZES | TEXTS[name])), seed=0).eval()


@pytest.fixture
def rows(generator):
    return [torch.randint(3, 49, (n,), generator=generator) for n in (3, 9, 14, 2)]


def padded(rows, length: int, fill: int = 0):
    ids = torch.full((len(rows), length), fill)
    mask = torch.zeros(len(rows), length, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return ids, mask


@torch.no_grad()
def vectors(made, rows):
    return F.normalize(made.text(Ragged.from_rows(rows)).clip, dim=-1)


@pytest.mark.parametrize("name", ["small", "hf", *TEXTS])
def test_padding_changes_nothing(name, rows):
    made = model(name)
    graph, wanted = text_graph(made), vectors(made, rows)
    for length, fill in ((14, 0), (17, 1), (20, 49)):
        with torch.no_grad():
            found = graph(*padded(rows, length, fill))
        torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["small", "bart", "roberta"])
def test_a_program_takes_any_number_of_texts_of_any_length(name, rows):
    made = model(name)
    run = capture(text_graph(made)).module()
    with torch.no_grad():
        for some, length in ((rows, 16), (rows[:1], 3), (rows[3:], 2)):
            found = run(*padded(some, length))
            torch.testing.assert_close(found, vectors(made, some), atol=2e-6, rtol=0)


def test_vectors_of_sentences_are_projected():
    made = m2d.network("mlp", text="sentence")
    given = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    graph = text_graph(made)
    assert graph.inputs == ("vectors",)
    with torch.no_grad():
        wanted = F.normalize(made.project_sentence(given), dim=-1)
        torch.testing.assert_close(capture(graph).module()(given), wanted, atol=1e-6, rtol=0)


def test_a_model_of_sound_alone_has_no_text_side():
    with pytest.raises(CheckpointError, match="sound alone"):
        text_graph(m2d.network())
