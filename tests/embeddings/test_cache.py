"""The file: whatever is killed, shared, damaged, full or refused."""

from __future__ import annotations

import multiprocessing
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from echoic.api import EchoicModel
from echoic.data.clips import SubsetSource
from echoic.data.files import cache_folder
from echoic.embeddings import (
    FILE_NAME,
    Entry,
    Part,
    Space,
    VectorCache,
    hearing,
    open_cache,
)
from echoic.evaluate import hear
from echoic.types import DataError
from tests import tiny
from tests.embeddings.counting import heard


def test_a_kill_in_the_middle_of_writing(model, tones, tmp_path):
    """Half of a transaction is on the disk, not committed: what was there before stays, and the
    rest is computed."""
    first, _ = heard(model, SubsetSource(tones, [0, 1]), tmp_path / "c")
    script = (
        "import os, signal, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1])\n"
        "db.execute('PRAGMA cache_size = 1')\n"  # spills what is not committed to the file
        "db.execute('BEGIN IMMEDIATE')\n"
        "db.execute('UPDATE vectors SET vector = zeroblob(64)')\n"
        "for i in range(2000):\n"
        "    db.execute('INSERT INTO files VALUES (?, ?, zeroblob(500))', (str(i), ''))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "c" / FILE_NAME
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.with_name(f"{FILE_NAME}-journal").exists()
    vectors, counts = heard(model, tones, tmp_path / "c")
    assert counts == (2, 2)
    assert torch.equal(vectors[:2], first)


def heard_by_one_thread(model, source, folder):
    """In a fork: threads that torch had before are not there, and it would wait for them."""
    torch.set_num_threads(1)
    heard(model, source, folder)


def test_two_processes_at_once(model, tmp_path, monkeypatch):
    monkeypatch.setattr(hearing, "AT_ONCE", 1)
    source = tiny.tones(tmp_path / "tones")
    context = multiprocessing.get_context("fork")  # a fresh process would load torch for seconds
    given = (model, source, tmp_path / "c")
    running = [context.Process(target=heard_by_one_thread, args=given) for _ in "ab"]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
        process.kill()
        assert process.exitcode == 0
    vectors, counts = heard(model, source, tmp_path / "c")
    assert counts == (12, 0)
    torch.testing.assert_close(vectors, hear(model, source).vectors, rtol=0, atol=1e-6)


def test_many_open_it_at_once(tmp_path):
    def opened(_):
        with VectorCache(tmp_path / "c") as cache:
            return cache.ask("SELECT count(*) FROM vectors")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(opened, range(16))) == [[(0,)]] * 16


@pytest.mark.parametrize("how", ["nonsense", "cut", "scribbled", "schema"])
def test_a_damaged_cache_is_told_in_one_line_and_begun_anew(how, model, tones, tmp_path, caplog):
    first, _ = heard(model, tones, tmp_path / "c")
    path = tmp_path / "c" / FILE_NAME
    raw = bytearray(path.read_bytes())
    if how == "scribbled":
        raw[4096:] = b"\x55" * (len(raw) - 4096)
    if how == "schema":  # SQLite's error quotes it, and Python cannot read that
        raw = raw.replace(b"sqlite_autoindex_", b"sqlite_auto\xffndex_")
    path.write_bytes({"nonsense": b"no database" * 99, "cut": raw[:5000]}.get(how, raw))
    again, counts = heard(model, tones, tmp_path / "c")
    assert counts == (0, 4)
    torch.testing.assert_close(again, first, rtol=0, atol=1e-6)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"{path}: the cache is damaged")
    assert heard(model, tones, tmp_path / "c")[1] == (4, 0)


def test_a_damaged_vector_is_computed_anew(model, tones, tmp_path, caplog):
    first, _ = heard(model, tones, tmp_path / "c")
    with sqlite3.connect(tmp_path / "c" / FILE_NAME) as db:
        db.execute("UPDATE vectors SET vector = zeroblob(64) WHERE rowid = 1")
        db.execute("UPDATE vectors SET vector = NULL, start = 'x' WHERE rowid = 3")
    db.close()
    again, counts = heard(model, tones, tmp_path / "c")
    assert counts == (2, 2)
    torch.testing.assert_close(again, first, rtol=0, atol=1e-6)
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path / 'c' / FILE_NAME}: damaged vectors in the cache are computed anew"
    ]


def test_damage_that_a_write_finds_costs_nothing_that_is_written(tmp_path, caplog):
    with VectorCache(tmp_path) as cache:
        cache.write(Space(cache, "a"), [Entry(b"x", Part(0, 1), 1, torch.ones(4))], {})
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("DROP TABLE vectors")
        db.execute("CREATE TABLE vectors (other)")
    db.close()
    with VectorCache(tmp_path) as cache:
        space = Space(cache, "a")
        cache.write(space, [Entry(b"y", Part(0, 1), 1, torch.zeros(4))], {})
        assert [len(each.vectors) for each in space.known([b"x", b"y"])] == [0, 1]
    (told,) = [record.getMessage() for record in caplog.records]
    assert "the cache is damaged" in told


def test_it_is_bounded(tmp_path, caplog):
    """Other spaces go, the one used longest ago first; of its own nothing does."""
    limit = 300_000

    def write(cache, name, count):
        space = Space(cache, name)
        for i in range(count):
            vector = torch.full((10_000,), float(i))
            cache.write(space, [Entry(bytes([i]), Part(0, 1), 1, vector)], {})

    def left(cache):
        asked = "SELECT made_by, count(*) FROM vectors JOIN spaces USING (space) GROUP BY space"
        return dict(cache.ask(asked))

    with VectorCache(tmp_path / "c", limit_bytes=limit) as cache:
        for name in ("a", "b", "c"):
            write(cache, name, 3)
        assert left(cache).keys() == {"b", "c"}
        write(cache, "b", 3)
        write(cache, "d", 3)
        assert left(cache).keys() == {"b", "d"}
        assert not caplog.records
        write(cache, "e", 30)
        assert left(cache).keys() == {"e"}
        assert 5 <= left(cache)["e"] <= 8
        assert cache.path.stat().st_size < limit + 50_000
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.endswith("takes no more")


def test_finding_is_using(model, tones, tmp_path):
    other = EchoicModel(tiny.content(seed=1))
    for each in (model, other, model):
        heard(each, tones, tmp_path / "c")
    with VectorCache(tmp_path / "c") as cache:
        (latest, *_) = cache.ask("SELECT made_by FROM spaces ORDER BY used_s DESC")
    assert model.space_id in latest[0]


def test_a_disk_that_refuses_stops_nobody(model, tones, tmp_path, caplog):
    VectorCache(tmp_path / "c").close()
    with VectorCache(tmp_path / "c") as cache:
        cache.ask("PRAGMA query_only = 1")
        for _ in range(2):
            assert hear(model, tones, cache=cache).kept == [0, 1, 2, 3]
    (told,) = [record.getMessage() for record in caplog.records]
    assert "the cache cannot be used (attempt to write a readonly database)" in told


def test_where_it_lies(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("ECHOIC_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("ECHOIC_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/echoic"
    (tmp_path / "xdg").write_text("a file")
    with open_cache() as cache:
        assert cache is None
    assert "cannot be made a folder" in caplog.text
    with pytest.raises(DataError, match="cannot be made a folder"), open_cache(tmp_path / "xdg/a"):
        pass
    with open_cache(tmp_path / "b", wanted=False) as cache:
        assert cache is None
    assert not (tmp_path / "b").exists()
