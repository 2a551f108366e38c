"""`encode` has the arguments and the results of sentence-transformers, for sounds too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from echoic.compat.sentence_transformers import SentenceTransformer
from echoic.types import DataError
from tests import tiny


@pytest.fixture(scope="module")
def model():
    return SentenceTransformer(tiny.model())


@pytest.fixture
def wav(tmp_path) -> Path:
    soundfile.write(tmp_path / "a.wav", tiny.noise(0.5), tiny.RATE, subtype="FLOAT")
    return tmp_path / "a.wav"


def test_texts_and_sounds_stand_in_the_order_given(model, wav):
    wave = tiny.noise(0.5)
    items = ["a dog", wav, "rain", wave, {"array": wave, "sampling_rate": tiny.RATE}]
    for size in (1, 2, 32):
        vectors = model.encode(items, batch_size=size)
        assert isinstance(vectors, np.ndarray)
        assert vectors.dtype == np.float32
        read = model.model.embed_text(["a dog", "rain"]).numpy()
        np.testing.assert_allclose(vectors[[0, 2]], read, atol=1e-6)
        heard = model.model.embed_audio([wave]).numpy()
        np.testing.assert_allclose(vectors[[1, 3, 4]], heard.repeat(3, 0), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_one_item_is_one_vector_and_none_are_none(model, wav):
    assert model.encode("a dog").shape == (16,)
    assert model.encode(wav).shape == (16,)
    assert model.encode(tiny.noise(0.5)).shape == (16,)
    assert model.encode((tiny.noise(0.5), tiny.RATE)).shape == (16,)
    assert model.encode(["a dog"]).shape == (1, 16)
    assert model.encode([]).shape == (0, 16)
    assert model.encode(("a dog", "rain")).shape == (2, 16)
    assert model.encode(np.array(["a dog", "rain"])).shape == (2, 16)
    assert model.encode({"array": tiny.noise(0.5), "sampling_rate": tiny.RATE}).shape == (16,)


def test_the_forms_of_the_result(model):
    as_tensor = model.encode(["a dog"], convert_to_tensor=True, normalize_embeddings=True)
    assert torch.is_tensor(as_tensor)
    several = model.encode(["a dog", "rain"], convert_to_numpy=False)
    assert [row.shape for row in several] == [(16,), (16,)]
    assert model.similarity(several[0], model.encode(["a dog", "rain"])).shape == (1, 2)
    assert model.get_sentence_embedding_dimension() == 16
    assert model.max_seq_length == 32


def test_the_bar_is_drawn_only_if_asked_for_and_on_stderr(model, capsys):
    model.encode(["a dog", "rain"], batch_size=1)
    assert capsys.readouterr() == ("", "")
    model.encode(["a dog", "rain"], batch_size=1, show_progress_bar=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Batches" in err


def test_a_file_given_as_text_is_told(model, wav):
    with pytest.raises(DataError, match="a str is read as text; for the sound give a Path"):
        model.encode([str(wav)])
    with pytest.raises(DataError, match='"array"'):
        model.encode([{"array": tiny.noise(0.1)}])
    with pytest.raises(DataError, match="batch_size 0"):
        model.encode(["a dog"], batch_size=0)
