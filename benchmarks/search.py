"""How fast an index finds, and how much of what there is to find.

    python -m benchmarks.search            # a million vectors: some minutes, 2 GB of disk
    python -m benchmarks.search --quick    # a hundred thousand
    python -m benchmarks.search --spread   # vectors without clusters, as hard as can be

Made-up unit vectors of 512 values in clusters of about 250, written into a real index (float16,
five windows to a recording). Asked by sounds, new members of clusters, and by texts, which lie
apart from all sounds as they do in language-audio models: a cluster's centre, twice as much of a
direction that all texts share, and noise. `--spread`: the same without clusters, values of variance
1 / k along the k-th direction. Two threads, files in the page cache; a query at a time.

p50_ms: the rows of the ten best windows, by the index's lists; search_p50_ms: a whole
`Index.search` by vector, with files, times and captions looked up, ten recordings. exact_p50_ms: of
all vectors, one by one. looked_at: which share of the vectors a query looks at. recall_at_10: which
share of the exact ten best windows is among those found; recall_at_10_texts: of the queries by text
alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.output import finish, show
from echoic.audio.io import AudioInfo
from echoic.index.catalog import File
from echoic.index.search import Finder
from echoic.index.store import Description, Store, write_description
from echoic.index.vectors import Heard, RowFiles

DIM, WINDOWS, CLUSTER = 512, 5, 250
QUERIES, EXACT_QUERIES = 400, 100
_AT_ONCE = 50_000
_SPREAD = 0.7  # of a member around its centre: cosines of 0.67 within a cluster


class Clusters:
    """Draws vectors around the same centres."""

    def __init__(self, count: int) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.centres = self._noise(max(20, count // CLUSTER))
        self.apart = self._noise(1)

    def _noise(self, count: int) -> Tensor:
        return F.normalize(torch.randn(count, DIM, generator=self.generator), dim=1)

    def _near(self, count: int) -> Tensor:
        which = torch.randint(len(self.centres), (count,), generator=self.generator)
        return self.centres[which]

    def sounds(self, count: int) -> Tensor:
        return F.normalize(self._near(count) + _SPREAD * self._noise(count), dim=1)

    def texts(self, count: int) -> Tensor:
        return F.normalize(self._near(count) + 2 * self.apart + self._noise(count), dim=1)


class Spread:
    """Draws vectors without clusters, within a cone."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.deviations = torch.arange(1, DIM + 1).float() ** -0.5
        middles = F.normalize(torch.randn(2, DIM, generator=self.generator), dim=1)
        self.sounds_middle, self.texts_middle = self.deviations.norm() * middles

    def _around(self, middle: Tensor, count: int) -> Tensor:
        drawn = torch.randn(count, DIM, generator=self.generator) * self.deviations
        return F.normalize(drawn + middle, dim=1)

    def sounds(self, count: int) -> Tensor:
        return self._around(0.8 * self.sounds_middle, count)

    def texts(self, count: int) -> Tensor:
        return self._around(self.texts_middle, count)


def make_index(folder: Path, vectors: Clusters | Spread, count: int) -> None:
    """As `echoic index` leaves it."""
    write_description(folder, Description("made-up", DIM, 10.0, 10.0, str(folder)))
    times_s = np.arange(WINDOWS)[:, None] * 10.0 + np.array([0.0, 10.0])
    info = AudioInfo(10.0 * WINDOWS, 48_000, 1, "wav/pcm_16")
    with Store(folder, writes=True) as store:
        for first in range(0, count, _AT_ONCE):
            rows = vectors.sounds(min(_AT_ONCE, count - first)).half().numpy()
            heard = [
                Heard((first + i).to_bytes(32, "big"), rows[i : i + WINDOWS], times_s)
                for i in range(0, len(rows), WINDOWS)
            ]
            store.vectors.add(first, heard)
            with store.catalog.change():
                ids = store.add(heard, [info] * len(heard))
                names = (f"{i % 97}/{first}-{i}.wav".encode() for i in ids)
                files = (File(name, 1, 1, i) for name, i in zip(names, ids, strict=True))
                store.catalog.put_files(files)


def laps(ask: Callable[[np.ndarray], object], queries: Sequence[np.ndarray]) -> list[float]:
    """Milliseconds of each, after a few to warm up."""
    for query in queries[:20]:
        ask(query)
    found = []
    for query in queries:
        started = time.perf_counter()
        ask(query)
        found.append(1e3 * (time.perf_counter() - started))
    return found


def recall(files: RowFiles, queries: Sequence[np.ndarray]) -> float:
    shares = []
    for query in queries:
        exact = files.top_k(query, 10, exact=True)[0]
        shares.append(len(np.intersect1d(exact, files.top_k(query, 10)[0])) / 10)
    return float(np.mean(shares))


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--spread", action="store_true")
    given = parser.parse_args()
    count = 100_000 if given.quick else 1_000_000
    torch.set_num_threads(2)
    vectors = Spread() if given.spread else Clusters(count)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_index(folder, vectors, count)
        started = time.perf_counter()
        with Store(folder, writes=True) as store:
            store.tidy(lambda: vectors.texts(50))
        lists_s = time.perf_counter() - started
        sounds = list(vectors.sounds(QUERIES // 2).numpy())
        texts = list(vectors.texts(QUERIES // 2).numpy())
        mixed = [query for pair in zip(sounds, texts, strict=True) for query in pair]
        with Store(folder) as store:
            files, finder = store.vectors, Finder(store)
            assert isinstance(files, RowFiles)
            assert files.lists is not None
            quick = laps(lambda query: files.top_k(query, 10), mixed)
            whole = laps(lambda query: finder.find(query, top=10), mixed)
            exact = laps(lambda query: files.top_k(query, 10, exact=True), mixed[:EXACT_QUERIES])
            share = files.lists.share
            by_sounds, by_texts = recall(files, sounds), recall(files, texts)
    rows = [
        ("lists", median(quick), float(np.percentile(quick, 95)), (by_sounds + by_texts) / 2),
        ("lists, whole search", median(whole), float(np.percentile(whole, 95)), "as above"),
        ("exact", median(exact), float(np.percentile(exact, 95)), 1.0),
    ]
    title = f"{count} vectors of {DIM}, two threads: milliseconds for the ten best"
    show(title, ("way", "p50", "p95", "recall@10"), rows)
    finish({
        "vectors": count,
        "p50_ms": median(quick),
        "p95_ms": float(np.percentile(quick, 95)),
        "search_p50_ms": median(whole),
        "exact_p50_ms": median(exact),
        "recall_at_10": (by_sounds + by_texts) / 2,
        "recall_at_10_texts": by_texts,
        "looked_at": share,
        "build_lists_s": lists_s,
        "load_average": os.getloadavg()[0],
    })  # fmt: skip


if __name__ == "__main__":
    main()
