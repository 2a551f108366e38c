"""What starting a training on very many clips takes: their columns and the plan of an epoch.

    python -m benchmarks.planning                      # 109 M clips, a minute; 1 GB of disk
    python -m benchmarks.planning --clips 1e6
    python -m benchmarks.planning --whole              # and plans the whole epoch: minutes

The columns are those of shards of 512 clips each, but without their texts (echoic.data.columns,
opened as a second run finds them). Lengths follow a log-normal law from 0.5 to 30 s.

start_s: seconds from the folder of columns to the first step's clips. own_mb: memory that a rank
so takes for itself; shared_mb: what of the columns it has read, which all ranks of the machine
share. by_shard_...: the same, read shard by shard. window_s: CPU seconds to plan one window of the
epoch, of some 262,000 clips. With --whole, epoch_cpu_s: of all of them, and exactly_once: whether
each clip is in one batch of one rank of 1,024.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.output import finish, show
from echoic.data.clips import Clip
from echoic.data.columns import _TYPES, _VERSION, Columns, Told, kept
from echoic.data.loader import Loader
from echoic.data.order import ByShard
from echoic.data.shards import ShardClips

PER_SHARD, MOST_S, BUDGET, RANKS = 512, 30.0, 8000, 1024


class Wordless(Columns):
    """Columns without their texts."""

    def told(self, i: int) -> Told:
        return Told(Clip(str(i), ("a caption",), (), float(self.durations_s[i])), "", {})


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clips", type=float, default=109e6)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--scratch", help="folder for the columns; the system's by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder = Path(scratch)
        make_columns(folder, int(given.clips))
        found: dict[str, object] = {"clips": int(given.clips), **start(folder, by_shard=True)}
        found |= start(folder, by_shard=False, whole=given.whole)
    show("Starting on many clips", ("figure", ""), list(found.items()))
    finish(found)


def make_columns(folder: Path, clips: int) -> None:
    """In the form of `columns.Writer`; what is not needed is a hole in its file."""
    rng, block = np.random.default_rng(0), 2**20
    for name, kind in _TYPES.items():
        with (folder / f"{name}.bin").open("wb") as file:
            if name == "duration_s":
                for first in range(0, clips, block):
                    seconds = rng.lognormal(2.0, 0.7, min(block, clips - first))
                    file.write(np.clip(seconds, 0.5, MOST_S).round(3).astype(kind).tobytes())
            elif name == "tar_end":
                ends = np.arange(PER_SHARD, clips + PER_SHARD, PER_SHARD)
                file.write(np.minimum(ends, clips).astype(kind).tobytes())
            else:
                file.truncate(kind.itemsize * (clips if name != "text" else 1))
    sizes = [(folder / f"{name}.bin").stat().st_size // _TYPES[name].itemsize for name in _TYPES]
    about = {"version": _VERSION, "stamp": "", "notes": [], "digest": "", "captioned": True}
    (folder / "about.json").write_text(json.dumps({**about, "lengths": sizes}), "utf-8")


def start(folder: Path, *, by_shard: bool, whole: bool = False) -> dict[str, object]:
    """Figures of one rank."""
    before, began_s = memory_mb(), time.perf_counter()
    loader = opened(folder, by_shard=by_shard)
    loader._planned(0)
    start_s, after = time.perf_counter() - began_s, memory_mb()
    began_s = time.process_time()
    loader._schedule.plan(min(1, loader._schedule.windows - 1))
    prefix = "by_shard_" if by_shard else ""
    figures: dict[str, object] = {
        "start_s": start_s,
        "own_mb": after[0] - before[0],
        "shared_mb": after[1] - before[1],
        "window_s": time.process_time() - began_s,
    }
    if whole:
        figures |= epoch(loader)
    return {f"{prefix}{name}": figure for name, figure in figures.items()}


def opened(folder: Path, *, by_shard: bool) -> Loader:
    """A rank's loader."""
    found = kept(folder, (), "")
    assert found is not None
    columns = Wordless(found[0]._columns, (), "", captioned=True)
    at: Sequence[Path] = [Path()] * len(columns._columns["tar_end"])
    return Loader(
        ShardClips(columns, at), rate_hz=16_000, tokenize=lambda texts: [[1] for _ in texts],
        cost=lambda seconds: round(25 * seconds), budget=BUDGET, seed=0, max_s=MOST_S,
        draws=ByShard(columns.tars()) if by_shard else None,
    )  # fmt: skip


def epoch(loader: Loader) -> dict[str, object]:
    """All windows, dealt to the ranks as their loaders deal them."""
    schedule, seen = loader._schedule, np.zeros(len(loader.source.clips), np.uint8)
    by_rank, cpu_s, done = np.zeros(RANKS, np.int64), 0.0, 0
    for window in range(schedule.windows):
        began_s = time.process_time()
        plan = schedule.plan(window)
        cpu_s += time.process_time() - began_s
        for rank in range(RANKS):
            for batch in plan[(rank - done) % RANKS :: RANKS]:
                seen[batch] += 1  # a batch holds no clip twice
                by_rank[rank] += len(batch)
        done += len(plan)
    left_out = int((seen == 0).sum())
    return {
        "epoch_cpu_s": cpu_s,
        "steps": done // RANKS,
        "left_out": left_out,
        "exactly_once": bool(seen.max() == 1 and by_rank.sum() + left_out == len(seen)),
        "own_peak_mb": memory_mb()[0],
    }


def memory_mb() -> tuple[float, float]:
    """Of this process: its own, and that of mapped files."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    told = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return int(told["RssAnon"]) / 1e3, int(told["RssFile"]) / 1e3


if __name__ == "__main__":
    main()
