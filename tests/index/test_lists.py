"""The short way finds what the long way finds; what is not whole is not used."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from echoic.index.lists import Lists, forget
from echoic.index.vectors import Heard
from tests.index.test_vectors import filled, unit

DIM = 32


@pytest.fixture
def files(tmp_path, rng):
    centres = unit(rng, 40, DIM)
    rows = centres[rng.integers(40, size=4000)] + 0.12 * rng.standard_normal((4000, DIM))
    found = filled(tmp_path, (rows / np.linalg.norm(rows, axis=1, keepdims=True)))
    found.build_lists()
    return found


def recall(files, queries, only=None):
    shares = []
    for query in queries:
        exact = files.top_k(query, 10, only, exact=True)[0]
        shares.append(len(np.intersect1d(exact, files.top_k(query, 10, only)[0])) / 10)
    return float(np.mean(shares))


def test_recall(files, rng):
    near = files.vectors[rng.integers(4000, size=50)].astype(np.float32)
    near += 0.05 * rng.standard_normal(near.shape).astype(np.float32)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    assert recall(files, near) >= 0.99
    only = rng.random(4000) < 0.8
    assert recall(files, near, only) >= 0.99
    found = files.top_k(near[0], 50, only)[0]
    assert only[found].all()


def test_not_all_is_looked_at(files):
    """Of clusters; where there are none, as many as it takes."""
    assert files.lists.rows == 4000
    assert files.lists.share < 1 / 4


def test_recall_without_clusters(tmp_path, rng):
    held = filled(tmp_path, unit(rng, 4000, DIM))
    held.build_lists()
    assert held.lists.share > 1 / 2
    assert recall(held, unit(rng, 60, DIM)) >= 0.98


def test_as_many_as_there_are(files, rng):
    """More than in the lists that are looked at; and where a filter leaves none of these."""
    query = files.vectors[7].astype(np.float32)
    assert len(files.top_k(query, 3000)[0]) == 3000
    only = np.ones(4000, np.bool_)
    only[files.top_k(query, 1900, exact=True)[0]] = False
    assert (
        files.top_k(query, 5, only)[0].tolist()
        == files.top_k(query, 5, only, exact=True)[0].tolist()
    )


def test_after_a_cut_no_lists_tell_of_what_came_instead(files, rng):
    new = unit(rng, 1000, DIM)
    files.cut(3000)
    files.add(3000, [Heard(b"n" * 32, new.astype(np.float16), np.zeros((1000, 2)))])
    assert [files.top_k(query, 1)[0][0] for query in new[:50]] == list(range(3000, 3050))
    assert files.lists is None


def test_rows_added_since_are_found(files, rng):
    new = unit(rng, 3, DIM)
    files.add(4000, [Heard(b"n" * 32, new.astype(np.float16), np.zeros((3, 2)))])
    assert [files.top_k(query, 1)[0][0] for query in new] == [4000, 4001, 4002]


def test_lists_that_are_not_whole_are_left_alone(files, caplog, rng):
    folder = files.folder
    assert Lists.open(folder, 1, DIM, 3999) is None  # of rows that no longer count
    codes = next(folder.glob("codes-*"))
    codes.write_bytes(codes.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING, "echoic.index"):
        assert Lists.open(folder, 1, DIM, 4000) is None
    assert "slower without it" in caplog.text
    forget(folder)
    assert not [*folder.glob("codes-*"), *folder.glob("lists-*")]
