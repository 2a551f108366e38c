"""Texts to vectors, by the model or from the cache: known by their token ids.

n texts, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from echoic.api import EchoicModel
from echoic.convert.open import reads_tokens
from echoic.embeddings.cache import AT_ONCE, Entry, Part, VectorCache
from echoic.embeddings.keys import of_tokens


def read_texts(
    model: EchoicModel, texts: Sequence[str], cache: VectorCache | None = None
) -> Tensor:
    """(n, D) as `model.embed_text`, from the cache where they are there: known by their token ids.
    A model that reads vectors of sentences computes them each time."""
    ids_known = model.reads == "words" and reads_tokens(model.network.spec)
    space = cache.space(model, "text") if cache is not None and ids_known else None
    if space is None or not texts:
        return model.embed_text(texts)
    ids = model.tokenizer(list(texts))
    contents = [of_tokens(row) for row in ids]
    asked = list(dict.fromkeys(contents))
    known = zip(asked, space.known(asked), strict=True)
    found = {content: next(iter(each.vectors.values()), None) for content, each in known}
    lacking = {c: i for i, c in enumerate(contents) if found[c] is None}
    space.cache.found += len(found) - len(lacking)
    space.cache.made += len(lacking)
    for start in range(0, len(lacking), AT_ONCE):
        some = list(lacking.items())[start : start + AT_ONCE]
        vectors = model.embed_text([texts[i] for _, i in some])
        found.update((content, vector) for (content, _), vector in zip(some, vectors, strict=True))
        entries = [
            Entry(content, Part(0, len(ids[i])), len(ids[i]), vector)
            for (content, i), vector in zip(some, vectors, strict=True)
        ]
        space.cache.write(space, entries, {})
    return torch.stack([vector for c in contents if (vector := found[c]) is not None])
