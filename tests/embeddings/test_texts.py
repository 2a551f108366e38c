"""Texts are known by their tokens."""

from __future__ import annotations

import torch

from echoic.embeddings import VectorCache, read_texts


def test_texts_are_known_by_their_tokens(model, tmp_path):
    texts = ["a dog barks", "rain", "a dog barks"]
    with VectorCache(tmp_path / "c") as cache:
        first = read_texts(model, texts, cache)
        assert (cache.found, cache.made) == (0, 2)
        assert torch.equal(read_texts(model, texts, cache), first)
        assert cache.found == 2
        assert read_texts(model, ["wind"], cache).shape == (1, 16)
        assert cache.made == 3
    torch.testing.assert_close(first, model.embed_text(texts), rtol=0, atol=1e-6)
