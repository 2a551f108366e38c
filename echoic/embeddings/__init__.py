"""Vectors that were computed before: a cache on disk, so that a second evaluation does not listen
again.

A vector is known by what was heard, by which part of it, and by all that made it (keys.py); it lies
in one SQLite file (cache.py). `hear_parts` (hearing.py) and `read_texts` (texts.py) ask the model
only for what is not there.
"""

from echoic.embeddings.cache import (
    FILE_NAME,
    LIMIT_BYTES,
    Entry,
    Part,
    Space,
    VectorCache,
    open_cache,
)
from echoic.embeddings.hearing import cut, hear_parts, unheard, whole
from echoic.embeddings.texts import read_texts

__all__ = [
    "FILE_NAME",
    "LIMIT_BYTES",
    "Entry",
    "Part",
    "Space",
    "VectorCache",
    "cut",
    "hear_parts",
    "open_cache",
    "read_texts",
    "unheard",
    "whole",
]
