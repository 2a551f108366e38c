"""A model, and four tones as files."""

from __future__ import annotations

import pytest

from echoic.data.sources import FileSource
from echoic.embeddings import keys
from tests import tiny


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Files of a test are just made: let them count as old."""
    monkeypatch.setattr(keys, "_SETTLED_NS", -(10**12))


@pytest.fixture
def tones(tmp_path):
    source = tiny.tones(tmp_path / "tones")
    return FileSource(source.clips[:4], source.paths[:4])
