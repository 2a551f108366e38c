"""Vectors from the cache are those that were computed, of the same sound by the same means only;
whatever is killed, shared or damaged."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch

from echoic import embeddings
from echoic.api import EchoicModel
from echoic.data.clips import ConcatSource, RecaptionedSource, SubsetSource
from echoic.data.shards import ShardSource, write_shards
from echoic.data.sources import FileSource
from echoic.data.synth.corpus import SceneSource, draw_scenes
from echoic.embeddings import (
    FILE_NAME,
    Entry,
    Part,
    Space,
    VectorCache,
    cut,
    default_folder,
    hear_parts,
    open_cache,
    read_texts,
    unheard,
)
from echoic.evaluate import hear
from echoic.types import DataError
from tests import tiny


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Files of a test are just made: let them count as old."""
    monkeypatch.setattr(embeddings, "_SETTLED_NS", -(10**12))


@pytest.fixture
def tones(tmp_path):
    source = tiny.tones(tmp_path / "tones")
    return FileSource(source.clips[:4], source.paths[:4])


def heard(model, source, folder, **options):
    """Vectors; how many were found, and made."""
    with VectorCache(folder) as cache:
        return hear(model, source, cache=cache).vectors, (cache.found, cache.made)


def counted(source):
    """Clips that are read, in order."""
    seen = []

    def read(i):
        seen.append(i)
        return source.read(i, tiny.RATE)

    return seen, read


def test_the_second_run_is_equal_bit_for_bit_and_reads_nothing(model, tones, tmp_path):
    first, counts = heard(model, tones, tmp_path / "c")
    assert counts == (0, 4)
    torch.testing.assert_close(first, hear(model, tones).vectors, rtol=0, atol=1e-6)
    seen, read = counted(tones)
    with VectorCache(tmp_path / "c") as cache:
        rows, again = hear_parts(model, tones, range(4), read, cache=cache)
    assert torch.equal(again, first)
    assert seen == []
    assert [i for i, _ in rows] == [0, 1, 2, 3]
    assert all(part.length == len(tones.read(i, tiny.RATE)) for i, part in rows)


def test_a_file_is_not_read_again_while_it_stays_the_same(model, tones, tmp_path, monkeypatch):
    heard(model, tones, tmp_path / "c")
    hashed = []
    digest = embeddings.hashlib.file_digest
    monkeypatch.setattr(
        embeddings.hashlib, "file_digest", lambda f, kind: hashed.append(1) or digest(f, kind)
    )
    assert heard(model, tones, tmp_path / "c")[1] == (4, 0)
    assert hashed == []
    copy = tones.paths[0].with_name("copy.wav")
    copy.write_bytes(tones.paths[0].read_bytes())
    assert heard(model, FileSource(tones.clips[:1], [copy]), tmp_path / "c")[1] == (1, 0)
    assert hashed == [1]


def test_a_file_that_may_still_change_is_hashed_each_time(model, tones, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "_SETTLED_NS", 10**12)
    heard(model, tones, tmp_path / "c")
    with VectorCache(tmp_path / "c") as cache:
        assert cache.ask("SELECT count(*) FROM files") == [(0,)]
    assert heard(model, tones, tmp_path / "c")[1] == (4, 0)


def test_a_changed_file_is_heard(model, tones, tmp_path):
    """Of the same size and the same time of change too."""
    before, _ = heard(model, tones, tmp_path / "c")
    path, told = tones.paths[1], tones.paths[1].stat()
    wave, rate = soundfile.read(path)
    soundfile.write(path, wave[::-1], rate, subtype="PCM_16")
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert path.stat().st_size == told.st_size
    after, counts = heard(model, tones, tmp_path / "c")
    assert counts == (3, 1)
    assert not torch.allclose(after[1], before[1], rtol=0, atol=1e-4)
    assert torch.equal(after[[0, 2, 3]], before[[0, 2, 3]])


def test_a_file_that_changes_while_it_is_heard_is_not_kept(model, tones, tmp_path):
    def read(i):
        wave = tones.read(i, tiny.RATE)
        tones.paths[i].write_bytes(tones.paths[i].read_bytes())
        return wave

    with VectorCache(tmp_path / "c") as cache:
        hear_parts(model, tones, range(4), read, cache=cache)
    assert heard(model, tones, tmp_path / "c")[1] == (0, 4)


OTHERS = {
    "weights": lambda: EchoicModel(tiny.content(seed=1)),
    "precision": lambda: EchoicModel(tiny.content(), precision="bf16"),
    "windowing": lambda: EchoicModel(tiny.content(), long="centred"),
    "window": lambda: EchoicModel(tiny.content(max_s=1.5)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_precision_or_windowing_finds_nothing(name, model, tones, tmp_path):
    other = OTHERS[name]()
    heard(model, tones, tmp_path / "c")
    vectors, counts = heard(other, tones, tmp_path / "c")
    assert counts == (0, 4)
    assert torch.equal(vectors, heard(other, tones, tmp_path / "c")[0])
    assert heard(model, tones, tmp_path / "c")[1] == (4, 0)


@pytest.mark.parametrize("what", ["_code", "_packages"])
def test_other_code_or_packages_find_nothing(what, model, tones, tmp_path, monkeypatch):
    heard(model, tones, tmp_path / "c")
    monkeypatch.setattr(embeddings, what, lambda: "other")
    assert heard(model, tones, tmp_path / "c")[1] == (0, 4)


def test_what_hangs_on_chance_is_not_kept(tones, tmp_path, rng):
    drawn = EchoicModel(tiny.content(max_s=0.2), long="laion", generator=rng)
    for _ in range(2):
        assert heard(drawn, tones, tmp_path / "c")[1] == (0, 0)


def test_parts_and_kinds_are_told_apart(model, tones, tmp_path):
    def run(kind, *parts):
        with VectorCache(tmp_path / "c") as cache:
            read = counted(tones)[1]
            _, vectors = hear_parts(
                model, tones, [0], read, parts=lambda i, n: parts, kind=kind, cache=cache
            )
            return vectors, (cache.found, cache.made)

    one, two = Part(0, 3000), Part(1000, 3000)
    assert run("clip", one)[1] == (0, 1)
    mixed, counts = run("clip", two, one)
    assert counts == (1, 1)
    assert run("probe", one)[1] == (0, 1)
    wave = tones.read(0, tiny.RATE)
    wanted = model.embed_audio([wave[1000:4000], wave[:3000]])
    torch.testing.assert_close(mixed, wanted, rtol=0, atol=1e-6)
    assert torch.equal(run("clip", two, one)[0], mixed)


def test_silence_and_what_cannot_be_heard_are_told_each_time(model, tones, tmp_path, caplog):
    soundfile.write(tones.paths[0], np.zeros(4000), tiny.RATE)
    tones.paths[1].write_bytes(b"no sound")
    with VectorCache(tmp_path / "c") as cache:  # a task takes silence for a clip
        read = counted(tones)[1]
        hear_parts(model, tones, [0], read, parts=lambda i, n: [Part(0, n)], cache=cache)
    for _ in range(2):
        with VectorCache(tmp_path / "c") as cache:
            found = hear(model, tones, cache=cache)
        assert found.kept == [2, 3]
        assert found.bad.keys() == {"zero.wav", "one.wav"}


def test_views_shards_and_scenes(model, tones, tmp_path):
    write_shards(tones, tmp_path / "tars", rate_hz=tiny.RATE)
    scenes = SceneSource(draw_scenes(2, split="test", max_s=2.0))
    for source, count in ((ShardSource(tmp_path / "tars"), 4), (scenes, 2)):
        assert heard(model, source, tmp_path / "c")[1] == (0, count)
        seen, read = counted(source)
        with VectorCache(tmp_path / "c") as cache:
            assert unheard(model, source, cache) == []
            hear_parts(model, source, range(count), read, cache=cache)
        assert seen == []
    assert heard(model, tones, tmp_path / "c")[1] == (0, 4)
    view = ConcatSource({"a": scenes, "b": RecaptionedSource(tones, lambda clip: ["x"])})
    view = SubsetSource(view, [5, 0, 3])
    assert heard(model, view, tmp_path / "c")[1] == (3, 0)


def test_a_source_of_its_own_is_known_by_its_samples(model, tones, tmp_path):
    class Louder(FileSource):
        def read(self, i, rate_hz):
            return 2 * super().read(i, rate_hz)

    louder = Louder(tones.clips, tones.paths)
    assert heard(model, tones, tmp_path / "c")[1] == (0, 4)
    first, counts = heard(model, louder, tmp_path / "c")
    assert counts == (0, 4)
    again, counts = heard(model, louder, tmp_path / "c")
    assert counts == (4, 0)
    assert torch.equal(first, again)


def test_texts_are_known_by_their_tokens(model, tmp_path):
    texts = ["a dog barks", "rain", "a dog barks"]
    with VectorCache(tmp_path / "c") as cache:
        first = read_texts(model, texts, cache)
        assert (cache.found, cache.made) == (0, 2)
        assert torch.equal(read_texts(model, texts, cache), first)
        assert cache.found == 2
        assert read_texts(model, ["wind"], cache).shape == (1, 16)
        assert cache.made == 3
    torch.testing.assert_close(first, model.embed_text(texts), rtol=0, atol=1e-6)


# -- the file ------------------------------------------------------------------------------------


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


def test_what_was_heard_before_a_stop_is_there(model, tones, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "_AT_ONCE", 2)

    def read(i):
        if i == 3:
            raise KeyboardInterrupt
        return tones.read(i, tiny.RATE)

    with pytest.raises(KeyboardInterrupt), VectorCache(tmp_path / "c") as cache:
        hear_parts(model, tones, range(4), read, cache=cache)
    assert heard(model, tones, tmp_path / "c")[1] == (2, 2)


def test_two_processes_at_once(model, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "_AT_ONCE", 1)
    source = tiny.tones(tmp_path / "tones")
    context = multiprocessing.get_context("fork")  # a fresh process would load torch for seconds
    running = [context.Process(target=heard, args=(model, source, tmp_path / "c")) for _ in "ab"]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
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


@pytest.mark.parametrize("how", ["nonsense", "cut", "scribbled"])
def test_a_damaged_cache_is_told_in_one_line_and_begun_anew(how, model, tones, tmp_path, caplog):
    first, _ = heard(model, tones, tmp_path / "c")
    path = tmp_path / "c" / FILE_NAME
    raw = bytearray(path.read_bytes())
    if how == "scribbled":
        raw[4096:] = b"\x55" * (len(raw) - 4096)
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
    assert default_folder() == tmp_path / "own"
    monkeypatch.delenv("ECHOIC_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg/echoic"
    (tmp_path / "xdg").write_text("a file")
    with open_cache() as cache:
        assert cache is None
    assert "cannot be made a folder" in caplog.text
    with pytest.raises(DataError, match="cannot be made a folder"), open_cache(tmp_path / "xdg/a"):
        pass
    with open_cache(tmp_path / "b", wanted=False) as cache:
        assert cache is None
    assert not (tmp_path / "b").exists()


def test_cut():
    wave = np.arange(10, dtype=np.float32)
    np.testing.assert_array_equal(cut(wave, Part(3, 4)), wave[3:7])
    np.testing.assert_array_equal(cut(wave, Part(0, 12)), np.append(wave, [0, 0]))
