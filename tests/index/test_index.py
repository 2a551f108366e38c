"""An index through its life: made, brought up to date, damaged, mended, searched."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import threading
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from echoic.index import Index, Where, catalog, store, update, vectors
from echoic.index.store import Store, sole_writer
from echoic.types import ConfigError, DataError, EchoicError
from tests import tiny


@pytest.fixture
def index(sounds, model):
    with Index.open(sounds, model=model) as opened:
        opened.update()
        yield opened


@pytest.fixture
def heard(monkeypatch):
    """The names of files that a model is handed."""
    names = []
    real = update.hear_items

    def listening(items, *rest, **options):
        def noted():
            for name in items:
                names.append(os.path.basename(name))
                yield name

        return real(noted(), *rest, **options)

    monkeypatch.setattr(update, "hear_items", listening)
    return names


def names(hits):
    return [os.path.basename(hit.path) for hit in hits]


def add(sounds, name, seed=9, seconds=0.4):
    (sounds / name).parent.mkdir(parents=True, exist_ok=True)
    sf.write(sounds / name, tiny.noise(seconds, seed), tiny.RATE)
    return sounds / name


def damage(path, at=None):
    raw = bytearray(path.read_bytes())
    at = len(raw) // 2 if at is None else at
    raw[at : at + 600] = b"\xaa" * len(raw[at : at + 600])
    path.write_bytes(raw)


# -- up to date ------------------------------------------------------------------------------------


def test_a_second_update_hears_nothing(index, heard):
    report = index.update()
    assert (report.same, report.heard, report.files, report.windows) == (5, 0, 5, 5)
    assert heard == []


def test_new_changed_moved_copied_deleted(index, sounds, heard):
    add(sounds, "new.wav")
    add(sounds, "a.wav", seed=3)
    shutil.copy(sounds / "b.WAV", sounds / "copy.wav")
    (sounds / "deep/er/c.flac").rename(sounds / "moved.flac")
    (sounds / "deep/-e\n.wav").unlink()
    report = index.update()
    told = (report.new, report.changed, report.moved, report.copied, report.deleted, report.same)
    assert told == (1, 1, 1, 1, 1, 2)
    assert heard == ["a.wav", "new.wav"]
    found = {os.path.basename(p) for h in index.search("rain", top=99) for p in (h.path, *h.copies)}
    assert found == {"a.wav", "b.WAV", "copy.wav", "moved.flac", "new.wav", "lång ☂ [x] 'q\".ogg"}


def test_touched_is_not_heard(index, sounds, heard):
    os.utime(sounds / "a.wav", (1, 1))
    report = index.update()
    assert (report.same, report.changed, heard) == (5, 0, [])
    assert index.update().same == 5


def test_what_comes_back_is_not_heard_again(index, sounds, heard):
    (sounds / "a.wav").rename(sounds.parent / "a.wav")
    assert index.update().deleted == 1
    assert "a.wav" not in names(index.search("rain", top=99))
    (sounds.parent / "a.wav").rename(sounds / "a.wav")
    index.update()
    assert heard == []
    assert "a.wav" in names(index.search("rain", top=99))


def test_twice_the_same_sound_is_heard_once(sounds, model, heard):
    shutil.copy(sounds / "a.wav", sounds / "a2.wav")
    with Index.open(sounds, model=model) as index:
        report = index.update()
    assert (report.files, report.windows, len(heard)) == (6, 5, 5)


def test_unreadable_is_not_tried_again_until_it_changes(index, sounds, heard):
    (sounds / "bad.wav").write_bytes(b"RIFF no sound")
    report = index.update()
    assert list(report.unreadable) == [str(sounds / "bad.wav")]
    assert "cannot be decoded" in report.unreadable[str(sounds / "bad.wav")]
    assert index.update().known_unreadable == 1
    assert heard == ["bad.wav"]
    assert list(index.update(retry=True).unreadable) == [str(sounds / "bad.wav")]
    add(sounds, "bad.wav")
    report = index.update()
    assert (report.heard, report.unreadable, report.known_unreadable) == (1, {}, 0)


def test_a_file_that_cannot_be_opened_is_tried_again(index, sounds, monkeypatch):
    add(sounds, "locked.wav")
    real = update.digest_of

    def refuse(path):
        if path.endswith(b"locked.wav"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(update, "digest_of", refuse)
        assert list(index.update().unreadable.values()) == ["cannot be opened (Permission denied)"]
        assert len(index.update().unreadable) == 1
    assert index.update().heard == 1


def test_a_file_that_changes_while_it_is_heard(index, sounds, model, monkeypatch):
    add(sounds, "moving.wav")
    real = update.Update._found

    def changing(self, each, *rest):
        add(sounds, "moving.wav", seed=10)
        real(self, each, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(update.Update, "_found", changing)
        index.update()
    assert "moving.wav" not in names(index.search("rain", top=99))
    assert index.update().heard == 1
    best = index.search(like=(tiny.noise(0.4, 10), tiny.RATE), top=1)[0]
    assert (names([best]), best.cosine > 0.999) == (["moving.wav"], True)


def test_an_emptied_folder_loses_nothing(index, sounds, heard):
    """As when its disk is not mounted."""
    sounds.rename(sounds.parent / "away")
    (sounds / ".echoic").parent.mkdir()
    shutil.copytree(sounds.parent / "away/.echoic", sounds / ".echoic")
    with pytest.raises(DataError, match="no sound is there any more, and 5 are in the index"):
        index.update()
    with pytest.raises(DataError, match="no audio file"):
        Index.open(sounds, out=sounds.parent / "other", model=index.model).update()
    with pytest.raises(DataError, match="nowhere: no such folder"):
        Index.open(sounds.parent / "nowhere", model=index.model).update()


def test_a_folder_that_was_moved_with_its_index(index, sounds, heard):
    index.close()
    moved = sounds.rename(sounds.parent / "other place")
    with Index.open(moved, model=index.model) as again:
        again.update()
        assert Path(again.search("rain")[0].path).parent.is_relative_to(moved)
    assert heard == []


def test_what_nothing_wants_goes_once_it_is_much(sounds, model, monkeypatch):
    monkeypatch.setattr(store, "_DEAD_ROWS", 0)
    with Index.open(sounds, model=model) as index:
        index.update()
        before = {names([h])[0]: h.cosine for h in index.search("rain", top=9)}
        for name in ("a.wav", "deep/er/c.flac", "deep/-e\n.wav"):
            (sounds / name).unlink()
        assert index.update().windows == 2
        after = {names([h])[0]: h.cosine for h in index.search("rain", top=9)}
    assert after == {name: before[name] for name in ("b.WAV", "lång ☂ [x] 'q\".ogg")}
    held = [path.name for path in (sounds / ".echoic").iterdir()]
    assert "vectors-2.f16" in held
    assert "vectors-1.f16" not in held


def test_of_what_moved_the_second_is_a_copy(index, sounds):
    (sounds / "a.wav").rename(sounds / "moved.wav")
    shutil.copy(sounds / "moved.wav", sounds / "copy.wav")
    report = index.update()
    assert (report.moved, report.copied, report.deleted, report.files) == (1, 1, 0, 6)


def test_of_what_changed_while_it_was_heard_no_copy_gets_the_vectors(index, sounds, monkeypatch):
    add(sounds, "first.wav", seed=10)
    shutil.copy(sounds / "first.wav", sounds / "second.wav")
    real = update.Update._found

    def changing(self, each, *rest):
        add(sounds, "first.wav", seed=11, seconds=0.5)
        real(self, each, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(update.Update, "_found", changing)
        assert index.update().heard == 0
    assert index.update().heard == 2
    for name, seed, seconds in (("first.wav", 11, 0.5), ("second.wav", 10, 0.4)):
        best = index.search(like=(tiny.noise(seconds, seed), tiny.RATE), top=1)[0]
        assert (names([best]), best.cosine > 0.999) == ([name], True)


def test_copies_of_what_has_no_finite_vector_are_not_tried_again(index, sounds, heard, monkeypatch):
    add(sounds, "one.wav")
    shutil.copy(sounds / "one.wav", sounds / "two.wav")
    nan = [torch.full((16,), torch.nan)]
    monkeypatch.setattr(update.Update, "_vectors", lambda self, pieces: nan * len(pieces))
    told = index.update().unreadable
    assert set(told) == {str(sounds / "one.wav"), str(sounds / "two.wav")}
    assert index.update().known_unreadable == 2
    assert heard == ["one.wav"]


def test_an_index_json_of_another_program(sounds, model):
    (sounds / "index.json").write_text("{}", "utf-8")
    with Index.open(sounds, model=model) as index:
        assert index.folder == sounds / ".echoic"
        assert index.update().files == 5


# -- one space, one writer -------------------------------------------------------------------------


def test_another_space_is_refused(index, sounds):
    other = tiny.model(seed=5)
    with pytest.raises(DataError, match=r"space .* this model's is .* another --out"):
        index.update(other)
    with (
        Index.open(sounds, model=other) as stranger,
        pytest.raises(DataError, match="give the model that made it"),
    ):
        stranger.search("rain")
    with pytest.raises(DataError, match="windows of 2 s; for 1 s"):
        index.update(window_s=1.0)


def test_windows_the_model_cannot_hear(sounds, model):
    with pytest.raises(EchoicError, match="windows of up to 2 s"):
        Index.open(sounds, model=model).update(window_s=3.0)


def test_a_second_writer_waits(index, sounds, model):
    add(sounds, "new.wav")
    told, done = threading.Event(), []

    def second():
        with Index.open(sounds, model=model) as other:
            done.append(other.update(waiting=told.set))

    with sole_writer(index.folder, lambda: None):
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(30)
        assert not done
        assert len(index.search("rain", top=99)) == 5  # a reader need not wait
    thread.join(30)
    assert done[0].heard == 1
    assert len(index.search("rain", top=99)) == 6


def test_where_nothing_can_be_written(sounds, model, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"file/x: cannot be made a folder .* --out"):
        Index.open(sounds, out=tmp_path / "file/x", model=model).update()


def test_a_full_disk_keeps_what_was_done(sounds, model, monkeypatch, heard):
    monkeypatch.setattr(update, "_BATCH_ROWS", 1)
    real, left = vectors._write_at, [4]

    def fills(path, offset, raw):
        left[0] -= 1
        if left[0] < 0:
            real(path, offset, raw[: len(raw) // 2])
            raise OSError(28, "No space left on device")
        real(path, offset, raw)

    with Index.open(sounds, model=model) as index:
        with monkeypatch.context() as patched:
            patched.setattr(vectors, "_write_at", fills)
            with pytest.raises(DataError, match="No space left on device"):
                index.update()
        assert len(index.search("rain", top=99)) == 2
        heard.clear()
        assert index.update(check=True).files == 5
        assert len(heard) == 3


def test_a_full_disk_of_the_catalogue(sounds, model, monkeypatch):
    real = catalog._lay_out

    def small(db):
        real(db)
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")

    for i in range(300):
        shutil.copy(sounds / "a.wav", sounds / f"{'long name ' * 20}{i}.wav")
    with Index.open(sounds, model=model) as index:
        with monkeypatch.context() as patched:
            patched.setattr(catalog, "_lay_out", small)
            with pytest.raises(DataError, match="full"):
                index.update()
        assert index.update(check=True).files == 305


# -- damage ----------------------------------------------------------------------------------------


def same_as(hits):
    return [(hit.path, pytest.approx(hit.cosine, abs=2e-3)) for hit in hits]


def found(hits):
    return [(hit.path, hit.cosine) for hit in hits]


def test_a_damaged_catalogue(index, heard, caplog):
    before = index.search("rain", top=99)
    index.close()
    damage(index.folder / "catalog.sqlite", at=0)
    with pytest.raises(DataError, match=r"is damaged .*to mend it.*echoic index"):
        index.search("rain")
    with caplog.at_level(logging.WARNING, "echoic.index"):
        report = index.update()
    assert "made again of its 5 vectors" in caplog.text
    assert (report.files, heard) == (5, [])
    assert found(index.search("rain", top=99)) == same_as(before)
    assert names(index.search(where=Where(formats=("flac",)))) == ["c.flac"]


def test_a_catalogue_whose_error_is_no_text(index, heard):
    """SQLite quotes its names in errors, which Python cannot always read."""
    index.close()
    path = index.folder / "catalog.sqlite"
    path.write_bytes(path.read_bytes().replace(b"sqlite_autoindex_", b"sqlite_auto\xffndex_"))
    with pytest.raises(DataError, match=r"is damaged .*to mend it.*echoic index"):
        index.search("rain")
    assert index.update().files == 5
    assert heard == []


def test_pages_of_a_catalogue(index, heard):
    index.close()
    path = index.folder / "catalog.sqlite"
    for at in range(4096, path.stat().st_size, 4096):
        damage(path, at=at)
    assert index.update().files == 5
    assert heard == []


@pytest.mark.parametrize("name", ["rows", "generation", "revision"])
def test_a_count_that_nothing_can_be_added_to(index, heard, name):
    index.close()
    with sqlite3.connect(index.folder / "catalog.sqlite") as db:
        changed = db.execute("UPDATE state SET value = ? WHERE name = ?", (2**63 - 1, name))
        assert changed.rowcount == 1
    db.close()
    (index.folder / "vectors-1.f16").unlink()
    assert index.update().files == 5
    assert {"a.wav", "c.flac"} <= set(names(index.search("rain", top=99)))


def test_a_catalogue_that_is_gone(index, heard):
    index.close()
    (index.folder / "catalog.sqlite").unlink()
    with pytest.raises(DataError, match="nothing is indexed yet"):
        index.search("rain")
    assert index.update().files == 5
    assert heard == []


def test_a_kill_while_a_catalogue_is_made_again(index, heard, monkeypatch):
    index.close()
    damage(index.folder / "catalog.sqlite", at=0)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "_whole_contents", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index.update()
    assert index.update().files == 5
    assert heard == []


def test_a_damaged_vector(index, heard, caplog):
    before = index.search("rain", top=99)
    index.close()
    damage(index.folder / "vectors-1.f16", at=2 * 32)
    with pytest.raises(DataError, match=r"damaged.*--check"):
        index.search("rain", top=99)
    with caplog.at_level(logging.WARNING, "echoic.index"):
        report = index.update(check=True)
    assert report.mended == len(heard) == 3
    assert found(index.search("rain", top=99)) == same_as(before)


@pytest.mark.parametrize("name", ["vectors-1.f16", "rows-1.bin"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_files_that_are_cut_short(index, heard, name, share):
    before = index.search("rain", top=99)
    index.close()
    path = index.folder / name
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(DataError, match="damaged"):
        index.search("rain")
    report = index.update()
    assert (report.mended, len(heard)) == ((5, 5) if share == 0 else (3, 3))
    assert found(index.search("rain", top=99)) == same_as(before)
    assert index.update(check=True).mended == 0


def test_a_damaged_description(index):
    (index.folder / "index.json").write_text("{")
    with pytest.raises(DataError, match=r"damaged .*index again"):
        index.search("rain")


def test_a_description_of_other_vectors(index):
    path = index.folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dim": 10}))
    for work in (index.update, lambda: index.search("rain")):
        with pytest.raises(DataError, match=r"damaged \(vectors of 10 .*have 16\); .*index again"):
            work()


def test_a_description_of_no_path(index):
    path = index.folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sounds": "/\ud800"}))
    with pytest.raises(DataError, match=r"damaged .*index again"):
        index.search("rain")


def test_captions_outlive_a_damaged_catalogue(index, sounds):
    table = sounds.parent / "said.csv"
    table.write_text("file,caption,tags\na.wav,a low hum,hum;low\n", "utf-8")
    index.update(tables=[table])
    index.close()
    with Store(index.folder, writes=True) as opened:
        error = vectors.DamagedError("a test")
        opened.catalog.close()
        opened.catalog = opened._made_again(error)
    index.update()
    assert names(index.search(where=Where(caption="hum"))) == ["a.wav"]


# -- finding ---------------------------------------------------------------------------------------


def test_by_example(index, sounds):
    for name in ("a.wav", "b.WAV", "deep/er/c.flac"):
        best = index.search(like=sounds / name, top=1)[0]
        assert best.path == str(sounds / name)
        assert best.cosine == pytest.approx(1.0, abs=2e-3)


def test_by_words_as_the_vectors_say(index, sounds, model):
    files = [str(path) for path in sorted(sounds.rglob("*")) if path.is_file()]
    files = [path for path in files if ".echoic" not in path]
    cosines = model.embed_audio(files) @ model.embed_text("rain")[0]
    order = [files[i] for i in cosines.argsort(descending=True).tolist()]
    hits = index.search("rain", top=99)
    assert [hit.path for hit in hits] == order
    assert [hit.cosine for hit in hits] == pytest.approx(sorted(cosines.tolist())[::-1], abs=2e-3)


def test_both_and_without(index, sounds, model):
    a, b = (model.embed_audio(sounds / name)[0] for name in ("a.wav", "b.WAV"))
    rain, wind = model.embed_text(["rain", "wind"])
    asked = rain + 2.0 * a - 0.5 * wind
    wanted = float(b @ asked / asked.norm())
    hits = index.search("rain", like=sounds / "a.wav", like_weight=2.0, without="wind", top=99)
    assert {hit.path: hit.cosine for hit in hits}[str(sounds / "b.WAV")] == pytest.approx(
        wanted, abs=2e-3
    )


def test_questions_without_sense(index):
    for options, words in (
        ({}, "give words"), ({"text": " "}, "empty"), ({"without": "wind"}, "also what is wanted"),
        ({"text": "rain", "without": "rain", "without_weight": 1.0}, "cancel"),
        ({"like_vector": torch.ones(3)}, r"like_vector is \(3,\), not \(16,\)"),
        ({"where": Where(caption=" \0")}, "captions are empty"),
    ):  # fmt: skip
        with pytest.raises(EchoicError, match=words):
            index.search(**options)


def test_moments_of_a_long_recording(index, sounds, model):
    wave = np.concatenate([tiny.noise(8.0, 1), tiny.tone(330.0, 2.0), tiny.noise(5.5, 2)])
    sf.write(sounds / "long.flac", wave, tiny.RATE)
    assert index.update().windows == 5 + 8
    hit = index.search(like=(tiny.tone(330.0, 2.0), tiny.RATE), top=99)[0]
    hits = index.search(like=(tiny.tone(330.0, 2.0), tiny.RATE), where=Where(min_s=10))
    assert names(hits) == ["long.flac"]
    best = hits[0].moments[0]
    assert (best.start_s, best.stop_s) == (8.0, 10.0)
    assert hits[0].duration_s == 15.5
    assert len(hits[0].moments) == 3
    assert hit.cosine >= hits[0].cosine


def test_filters(index, sounds):
    day = date(2020, 5, 17)
    noon = 1589716800  # of that day, in UTC
    os.utime(sounds / "a.wav", (noon, noon))
    add(sounds, "long.wav", seconds=1.0)
    index.update()

    def which(**options):
        return set(names(index.search("rain", where=Where(**options), top=99)))

    assert which(since=day, until=day) == {"a.wav"}
    assert "a.wav" not in which(since=date(2020, 5, 19))
    assert which(since=date.min, until=date.max) == which(since=date.min) == which()
    assert which(until=date.min) == which(since=date.max) == set()
    assert which(min_s=0.9) == {"long.wav"}
    assert which(max_s=0.9) >= {"a.wav", "b.WAV"}
    assert which(formats=("flac",)) == {"c.flac"}
    assert which(formats=(".OGG", "flac")) == {"c.flac", "lång ☂ [x] 'q\".ogg"}
    assert which(folder="deep") == {"c.flac", "lång ☂ [x] 'q\".ogg", "-e\n.wav"}
    assert which(folder="deep/er/") == {"c.flac"}
    assert which(folder=str(sounds / "deep/er")) == {"c.flac"}
    assert which(folder="dee") == which(folder="..") == set()
    assert which(folder="deep", formats=("wav",)) == {"-e\n.wav"}


def test_tags_and_captions_of_tables(index, sounds, caplog):
    table = sounds / "notes.csv"
    table.write_text(
        'file,caption,tags\na.wav,a low hum in a hall,hum;low\nc.flac,"it\'s 100% high",high\n'
        "nowhere.wav,nothing,none\n",
        "utf-8",
    )
    with caplog.at_level(logging.WARNING, "echoic.index"):
        index.update(tables=[table])
    assert "1 of 3 rows name no file" in caplog.text
    assert names(index.search("rain", where=Where(tags=("HUM",)))) == ["a.wav"]
    assert index.search("rain", where=Where(tags=("hum", "high"))) == []
    for words in ("hall low", "Hum", '"a', "low"):
        assert names(index.search(where=Where(caption=words))) == ["a.wav"], words
    assert names(index.search(where=Where(caption="100%"))) == ["c.flac"]
    hit = index.search("rain", where=Where(tags=("low",)))[0]
    assert (hit.tags, hit.moments[0].caption) == (("hum", "low"), "a low hum in a hall")
    index.update(tables=[table])  # again: not twice
    assert len(index.search(where=Where(caption="hall"))[0].moments) == 1
    json.dumps(hit.to_json(), allow_nan=False)


def test_rows_of_a_table_that_name_one_file(index, sounds):
    table = sounds / "notes.jsonl"
    rows = [
        ("a.wav", "a low hum"),
        ("a.wav", "a hall"),
        ("\ud800.wav", "none"),
        ("b.WAV", "\ud800"),
    ]
    lines = [json.dumps({"file": file, "caption": said}) for file, said in rows]
    table.write_text("\n".join(lines), "utf-8")
    index.update(tables=[table])
    for words in ("hum", "hall"):
        assert names(index.search(where=Where(caption=words))) == ["a.wav"]
    (hit,) = index.search(where=Where(caption="hall"))
    assert [moment.caption for moment in hit.moments] == ["a low hum", "a hall"]


def test_captions_without_fts5(sounds, model, monkeypatch):
    monkeypatch.setattr(catalog, "_WORDS", "CREATE VIRTUAL TABLE words USING no_fts5(text)")
    table = sounds / "notes.csv"
    table.write_text("file,caption\na.wav,a low hum\nb.WAV,100 per cent\n", "utf-8")
    with Index.open(sounds, model=model) as index:
        index.update(tables=[table])
        assert names(index.search(where=Where(caption="low h"))) == ["a.wav"]
        assert index.search(where=Where(caption="%")) == []


def test_captions_of_a_model(sounds, model):
    writer = tiny.captioner()
    with Index.open(sounds, model=model) as index:
        with pytest.raises(ConfigError, match="no decoder"):
            index.update(captions=model)
        done = []
        report = index.update(captions=writer, captioned=lambda *step: done.append(step))
        assert (report.captioned, done[-1]) == (5, (5, 5))
        (said,) = {writer.caption(sounds / "a.wav")[0]}
        hits = {names([hit])[0]: hit for hit in index.search("rain", top=99)}
        assert hits["a.wav"].moments[0].caption == (said or None)
        assert index.update(captions=writer).captioned == 0
