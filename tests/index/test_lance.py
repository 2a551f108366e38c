"""Vectors in LanceDB's local mode: found as in files, through a whole index."""

from __future__ import annotations

import numpy as np
import pytest

from echoic.index import Index, Where, store
from echoic.index.vectors import Heard
from tests.index.test_vectors import filled, unit

pytest.importorskip("lancedb")


@pytest.fixture
def table(tmp_path):
    from echoic.index.lance import LanceVectors

    return lambda rows=0: LanceVectors(str(tmp_path / "lance"), 16, rows)


def test_as_in_files(table, tmp_path, rng):
    rows = unit(rng, 900, 16)
    files, held = filled(tmp_path, rows), table()
    times_s = np.stack([np.arange(900), np.arange(900) + 1.0], axis=1)
    held.add(0, [Heard(b"a" * 32, rows.astype(np.float16), times_s)])
    for only in (None, rng.random(900) < 0.5, np.arange(900) % 200 < 20, np.zeros(900, np.bool_)):
        for query in unit(rng, 3, 16):
            wanted, cosines = files.top_k(query, 7, only)
            found, told = held.top_k(query, 7, only)
            assert found.tolist() == wanted.tolist()
            np.testing.assert_allclose(told, cosines, atol=2e-3)
    np.testing.assert_array_equal(held.times(np.array([5, 3])), [[5, 6], [3, 4]])


def test_what_does_not_count_is_not_found(table, rng):
    rows = unit(rng, 10, 16).astype(np.float16)
    held = table()
    held.add(0, [Heard(b"a" * 32, rows, np.zeros((10, 2)))])
    query = rows[8].astype(np.float32)
    assert table(4).top_k(query, 10)[0].max() < 4  # a reader
    again = table(4)
    again.cut(4)
    again.add(4, [Heard(b"b" * 32, rows[:2], np.zeros((2, 2)))])
    assert sorted(again.top_k(query, 10)[0].tolist()) == list(range(6))
    again.delete([(0, 2), (5, 6)])
    assert sorted(again.top_k(query, 10)[0].tolist()) == [2, 3, 4]


def test_an_index_of_it(sounds, model, tmp_path, monkeypatch):
    with Index.open(sounds, model=model) as index:
        index.update()
        wanted = [(hit.path, pytest.approx(hit.cosine, abs=2e-3)) for hit in index.search("rain")]
    place = str(tmp_path / "vectors")
    with Index.open(sounds, out=tmp_path / "index", model=model) as index:
        index.update(vectors=place)
        assert [(hit.path, hit.cosine) for hit in index.search("rain")] == wanted
        assert len(index.search("rain", where=Where(folder="deep"))) == 3
        assert not list((tmp_path / "index").glob("vectors-*"))
        monkeypatch.setattr(store, "_DEAD_ROWS", 0)
        for name in ("a.wav", "b.WAV", "deep/er/c.flac"):
            (sounds / name).unlink()
        index.update()
        assert len(index.search("rain")) == 2


def test_a_place_is_found_from_any_folder(sounds, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Index.open(sounds, model=model) as index:
        index.update(vectors="lance")
        index.update(vectors="lance")
    monkeypatch.chdir(sounds)
    with Index.open(sounds, model=model) as index:
        assert len(index.search("rain")) == 5


def test_another_table_is_refused(table, tmp_path):
    from echoic.index.lance import LanceVectors
    from echoic.types import DataError

    table()
    with pytest.raises(DataError, match=r"cannot be used by LanceDB .*chema"):
        LanceVectors(str(tmp_path / "lance"), 24, 0)
