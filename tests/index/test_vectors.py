"""Rows on disk: what is found among them, what is cut off, what is damaged."""

from __future__ import annotations

import numpy as np
import pytest

from echoic.index import vectors
from echoic.index.vectors import DamagedError, Heard, RowFiles
from echoic.types import DataError


def unit(rng, count, dim):
    drawn = rng.standard_normal((count, dim))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def filled(folder, rows, name=b"a"):
    files = RowFiles(folder, 1, rows.shape[1], 0)
    times_s = np.stack([np.arange(len(rows)), np.arange(len(rows)) + 1], axis=1).astype(float)
    files.add(0, [Heard(name * 32, rows.astype(np.float16), times_s)])
    return files


@pytest.mark.parametrize("block", [7, 10_000])
def test_top_k_is_exact(tmp_path, rng, monkeypatch, block):
    monkeypatch.setattr(vectors, "_BLOCK", block)
    rows = unit(rng, 500, 24)
    files = filled(tmp_path, rows)
    held = rows.astype(np.float16).astype(np.float64)
    for query in unit(rng, 20, 24):
        cosines = held @ query
        wanted = np.argsort(-cosines, kind="stable")[:9]
        found, told = files.top_k(query, 9)
        assert found.tolist() == wanted.tolist()
        np.testing.assert_allclose(told, cosines[wanted], atol=1e-6)


def test_rows_that_round_alike_keep_their_order(tmp_path, rng):
    """In float16 these cosines are the same number; their order is found all the same."""
    base = unit(rng, 1, 64)[0]
    rows = np.repeat(base[None], 300, axis=0).astype(np.float16)
    for i in range(300):  # each less alike by one step of one value
        rows[i, i % 64] = np.nextafter(rows[i, i % 64], np.float16(0))
    files = filled(tmp_path, rows)
    exact = rows.astype(np.float64) @ base.astype(np.float64)
    assert len(np.unique(exact.astype(np.float16))) < 5
    found, _ = files.top_k(base, 5)
    assert sorted(exact[found], reverse=True) == sorted(exact, reverse=True)[:5]


def test_only_some_rows(tmp_path, rng):
    rows = unit(rng, 300, 16)
    files = filled(tmp_path, rows)
    only = rng.random(300) < 0.2
    found, _ = files.top_k(rows[0], 400, only)
    assert set(found.tolist()) == set(np.flatnonzero(only).tolist())
    assert len(files.top_k(rows[0], 5, np.zeros(300, np.bool_))[0]) == 0


def test_what_does_not_count_is_cut_off(tmp_path, rng):
    rows = unit(rng, 10, 8)
    filled(tmp_path, rows)
    again = RowFiles(tmp_path, 1, 8, 4)
    again.cut(4)
    assert again.vectors_path.stat().st_size == 4 * 8 * 2
    assert again.rows_path.stat().st_size == 4 * 64
    np.testing.assert_array_equal(again.vectors, rows[:4].astype(np.float16))


def test_a_flipped_bit_is_found(tmp_path, rng):
    files = filled(tmp_path, unit(rng, 10, 8))
    assert not len(files.damaged())
    with files.vectors_path.open("r+b") as file:
        file.seek(7 * 16 + 3)
        file.write(b"\x55")
    again = RowFiles(tmp_path, 1, 8, 10)
    assert again.damaged().tolist() == [7]
    assert again.times(np.array([1])).tolist() == [[1.0, 2.0]]
    with pytest.raises(DataError, match=r"damaged.*--check"):
        again.times(np.array([1, 7]))


def test_short_files_are_told(tmp_path, rng):
    filled(tmp_path, unit(rng, 10, 8))
    with pytest.raises(DamagedError, match="holds 160 bytes of 176"):
        RowFiles(tmp_path, 1, 8, 11)


def test_full_disk_is_one_line(tmp_path, monkeypatch, rng):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vectors, "_write_at", full)
    with pytest.raises(DataError, match=r"No space left.*goes on from there"):
        filled(tmp_path, unit(rng, 2, 8))
