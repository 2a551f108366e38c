"""Vectors of a source, and what had to be heard for them."""

from __future__ import annotations

from echoic.embeddings import VectorCache
from echoic.evaluate import hear
from tests import tiny


def heard(model, source, folder, **options):
    """Vectors; how many were found, and made."""
    with VectorCache(folder) as cache:
        return hear(model, source, cache=cache).vectors, (cache.found, cache.made)


def counted(source):
    """Clips that are read, in order."""
    seen = []

    def read(i):
        seen.append(i)
        return source.read(i, tiny.RATE)

    return seen, read
