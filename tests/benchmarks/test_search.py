"""The made-up index of the benchmark is one, and its queries find something in it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.search import WINDOWS, Clusters, Spread, laps, make_index, recall
from echoic.index.search import Finder
from echoic.index.store import Store


@pytest.mark.parametrize("vectors", [Clusters(1000), Spread()], ids=["clusters", "spread"])
def test_a_small_one(tmp_path, vectors):
    make_index(tmp_path, vectors, 1000)
    queries = [*vectors.sounds(3).numpy(), *vectors.texts(3).numpy()]
    with Store(tmp_path, writes=True) as store:
        store.vectors.build_lists(vectors.texts(10))
        hits = [Finder(store).find(query, top=10) for query in queries]
        assert all(len(found) == 10 for found in hits)
        assert hits[0][0].duration_s == 10.0 * WINDOWS
        assert recall(store.vectors, queries) >= 0.9
        assert len(laps(lambda query: None, queries)) == 6
        cosines = [hit.cosine for hit in hits[0]]
        assert np.all(np.diff(cosines) <= 0)
