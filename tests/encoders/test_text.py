"""Text encoders: a text's vector depends on that text alone; the wrapped encoder equals
transformers."""

from __future__ import annotations

import sys

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models

from echoic.encoders.text import HfTextEncoder, HfTextSpec, SmallTextEncoder, SmallTextSpec
from echoic.encoders.tokenizer import TextTokenizer
from echoic.types import CheckpointError, ConfigError, Ragged

BERT = {
    "model_type": "bert", "vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
TEXTS = ["rain on a roof", "a dog barks twice", "a dog barks, then rain falls on a tin roof"]


def small() -> SmallTextEncoder:
    spec = SmallTextSpec(vocab=90, depth=2, width=32, heads=2, hidden=64)
    return SmallTextEncoder(spec, embed_dim=16)


def wrapped() -> HfTextEncoder:
    return HfTextEncoder(HfTextSpec(config=BERT), embed_dim=16).eval()


def ids(*lengths: int) -> Ragged:
    draw = torch.Generator().manual_seed(0)
    return Ragged.from_rows([torch.randint(3, 90, (n,), generator=draw) for n in lengths])


@pytest.mark.parametrize("make", [small, wrapped])
def test_text_vectors_do_not_depend_on_neighbours(make):
    encoder, batch = make(), ids(2, 30, 7)
    together = encoder(batch)
    assert together.tokens.shape == (39, 32)
    for i, row in enumerate(batch):
        alone = encoder(Ragged.from_rows([row]))
        torch.testing.assert_close(together.clip[i], alone.clip[0], rtol=0, atol=1e-5)


def test_wrapped_tokens_equal_transformers():
    encoder, batch = wrapped(), ids(5, 9)
    for row, tokens in zip(batch, encoder(batch).tokens.split([5, 9]), strict=True):
        hidden = encoder.encoder(row[None]).last_hidden_state[0]
        torch.testing.assert_close(tokens, hidden, rtol=0, atol=1e-5)


def test_word_order_changes_the_vector():
    encoder, batch = small(), ids(8)
    turned = Ragged.from_rows([batch[0].flip(0)])
    assert not torch.allclose(encoder(batch).clip, encoder(turned).clip, atol=1e-4)


def test_unknown_model_type_is_one_clear_line():
    with pytest.raises(ConfigError, match=r"text\.config: .*nonsense"):
        HfTextEncoder(HfTextSpec(config={"model_type": "nonsense"}), embed_dim=8)
    with pytest.raises(ConfigError, match="has no model_type"):
        HfTextEncoder(HfTextSpec(config={}), embed_dim=8)


def test_absent_transformers_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'pip install "echoic\[hf\]"'):
        HfTextEncoder(HfTextSpec(config=BERT), embed_dim=8)


def test_tokenizer_round_trips_and_frames():
    tokenizer = TextTokenizer.train(TEXTS, vocab=400, max_tokens=77)
    again = TextTokenizer.from_json(tokenizer.to_json(), max_tokens=77)
    for text in [*TEXTS, "Café 🌧️ never seen", ""]:
        row = tokenizer([text])[0]
        assert row == again([text])[0]
        assert row[0] == 1
        assert row[-1] == 2
    assert tokenizer.decode(tokenizer(["A Dog BARKS"])[0][1:-1]) == "a dog barks"
    assert tokenizer.vocab <= 400


def test_tokenizer_cuts_long_texts_but_keeps_the_end_token():
    row = TextTokenizer.train(TEXTS, vocab=300, max_tokens=10)(["rain " * 500])[0]
    assert len(row) == 10
    assert row[-1] == 2


def test_a_vocabulary_with_gaps_reaches_to_its_highest_id():
    backend = Backend(models.WordLevel({"rain": 0, "wind": 7}, unk_token="rain"))
    assert TextTokenizer(backend, max_tokens=8).vocab == 8


def test_damaged_tokenizer_is_a_checkpoint_error():
    with pytest.raises(CheckpointError, match="tokenizer in the checkpoint is damaged"):
        TextTokenizer.from_json("{", max_tokens=8)
