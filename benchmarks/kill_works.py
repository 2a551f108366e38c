"""The works that benchmarks/kills.py kills, each with its small input and the look at its end.

They are those of the tests' own kill tests, so that there is one of each.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echoic.data.building import build_shards
from echoic.data.keyword_captions import write_captions
from echoic.data.sentences import SentenceStore, embed_captions
from echoic.embeddings import FILE_NAME, hearing, keys
from echoic.index import Index
from echoic.train.world import joined
from tests import tiny
from tests.data import test_building, test_keyword_captions, test_sentences
from tests.embeddings.counting import heard
from tests.index import killing
from tests.train.ranks import fork_ranks, make_store, wait_for
from tests.train.test_ranks import run as run_rank
from tests.train.test_resume import assert_same_end
from tests.train.toy import ToyTask, run_toy

HIDDEN = 500  # so that a checkpoint is no single write
SHARDED_STEPS = 16
CAPTIONS = 120


@dataclass(frozen=True)
class Work:
    """begin: what lies in a folder before. run: the command that begins or goes on. same: raises
    AssertionError where a folder's end is not that of another, which nobody disturbed. steps: about
    how many reach the disk, where processes that the work starts make them."""

    name: str
    begin: Callable[[Path], None]
    run: Callable[[Path], None]
    same: Callable[[Path, Path], None]
    steps: int = 0


def _nothing(place: Path) -> None:
    pass


# -- training ------------------------------------------------------------------------------------


def _train(place: Path) -> None:
    run_toy(place, ToyTask(HIDDEN), resume=True)


def _begin_sharded(place: Path) -> None:
    """What each rank would load anew for seconds, the forks find here."""
    for name in ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor"):
        importlib.import_module(name)


def _train_sharded(place: Path) -> None:
    """Two ranks, each with its part of the weights. Dies of the signal that any of them died of."""
    children = fork_ranks(_rank, 2, place)
    store = make_store()
    codes = wait_for(children, 120)
    del store
    if any(code in (-signal.SIGKILL, -signal.SIGXFSZ) for code in codes):
        os.kill(os.getpid(), signal.SIGKILL)
    assert codes == [0, 0], codes


def _rank(place: Path) -> None:
    with joined(timeout_s=20) as world:
        run_rank(place, world, accumulate=2, resume=True, whole=SHARDED_STEPS, parallel="fsdp")


def _same_sharded(place: Path, other: Path) -> None:
    assert_same_end(place / "run", other / "run", SHARDED_STEPS)


# -- data ----------------------------------------------------------------------------------------


def _begin_shards(place: Path) -> None:
    test_building.source_in(place / "sound", bad=(3, 17))


def _shards(place: Path) -> None:
    source = test_building.source_in(place / "sound", bad=(3, 17))
    build_shards(source, place / "out", rate_hz=test_building.RATE_HZ, per_shard=4)


def _same_shards(place: Path, other: Path) -> None:
    _equal(test_building.content(place / "out"), test_building.content(other / "out"))


def _sentences(place: Path) -> None:
    clips = test_sentences.many(CAPTIONS)
    embed_captions(clips, test_sentences.Letters(), place / "out", per_write=2)


def _same_sentences(place: Path, other: Path) -> None:
    _equal(test_sentences.contents(place / "out"), test_sentences.contents(other / "out"))
    SentenceStore.open(place / "out").verify()


def _keywords(place: Path) -> None:
    clips = test_keyword_captions.many()
    write_captions(clips, test_keyword_captions.Counting(), place / "out", batch=1, per_file=2)


def _same_keywords(place: Path, other: Path) -> None:
    contents = test_keyword_captions.contents
    _equal(contents(place / "out"), contents(other / "out"))


def _equal(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    differ = [name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)]
    assert not differ, f"these differ: {sorted(differ)}"


# -- vectors and the index -----------------------------------------------------------------------


def _begin_cache(place: Path) -> None:
    keys._code()  # kept by this process and its forks: an edit meanwhile is none of theirs
    tiny.tones(place / "tones")


def _cache(place: Path) -> None:
    keys._SETTLED_NS = -(10**12)  # files that were just made count as old
    vars(hearing)["AT_ONCE"] = 1  # a clip a write, and heard alone: bit for bit the same
    heard(tiny.model(), tiny.tones(place / "tones"), place / "cache")


def _same_cache(place: Path, other: Path) -> None:
    """All vectors, by the content that they are of, and that nothing has to be heard again."""
    asked = "SELECT content, start, length, vector FROM vectors ORDER BY 1, 2, 3"
    rows = []
    for each in (place, other):
        with sqlite3.connect(each / "cache" / FILE_NAME) as database:
            rows.append(database.execute(asked).fetchall())
        database.close()
    assert len(rows[0]) == 12, len(rows[0])
    assert rows[0] == rows[1], "other vectors"


def _begin_index(place: Path) -> None:
    killing.small()
    killing.begin(place / "sounds", tiny.captioner())


def _index(place: Path) -> None:
    killing.small()
    model = tiny.captioner()
    with Index.open(place / "sounds", model=model) as index:
        index.update(captions=model)


def _same_index(place: Path, other: Path) -> None:
    """What is found, by which sound, what is said of each; and nothing is left to do or lying
    about."""
    killing.small()
    found = [_index_state(each / "sounds") for each in (place, other)]
    assert found[0] == found[1], found
    left = sorted(path.name.partition("-")[0] for path in (place / "sounds/.echoic").iterdir())
    assert left.count("vectors") == 1, left


def _index_state(sounds: Path) -> tuple[object, ...]:
    with Index.open(sounds, model=tiny.captioner()) as index:
        report = index.update(check=True)
        assert (report.mended, report.heard) == (0, 0), report
        hits = [(Path(name).name, score) for name, score in killing.state(index)]
    database = sqlite3.connect(sounds / ".echoic" / "catalog.sqlite")
    asked = (
        "SELECT hex(hash), start_s, stop_s, text, source FROM captions "
        "JOIN contents ON contents.id = content ORDER BY 1, 2, 3, 4"
    )
    said = database.execute(asked).fetchall()
    database.close()
    assert len(said) >= 7, said
    return hits, said


WORKS = (
    Work("training", _nothing, _train, assert_same_end),
    Work("training, sharded", _begin_sharded, _train_sharded, _same_sharded, steps=60),
    Work("building shards", _begin_shards, _shards, _same_shards),
    Work("vectors of captions", _nothing, _sentences, _same_sentences),
    Work("captions of tags", _nothing, _keywords, _same_keywords),
    Work("cache of vectors", _begin_cache, _cache, _same_cache),
    Work("index with captions", _begin_index, _index, _same_index),
)


def fresh(work: Work, begun: Path, place: Path) -> None:
    """`place` as it was before the work: a copy, with its times."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(begun, place)
