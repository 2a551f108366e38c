from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile

from echoic.data.clips import Clip, ConcatSource, RecaptionedSource, RetoldSource, SubsetSource
from echoic.data.contamination import (
    OVERLAPS,
    ids_of_clip,
    ids_of_name,
    known_overlaps,
    leave_out,
    read_ids,
)
from echoic.data.shards import ShardSource, write_shards
from echoic.data.sources import open_source
from echoic.types import DataError


class Keys:
    """A source of these keys, with what a table says of each."""

    def __init__(self, *keys, rows=()):
        self.clips = [Clip(key, ("x",), (), 1.0) for key in keys]
        self.rows = rows

    def read(self, i, rate_hz):
        return np.full(10, i, np.float32)


def written(path, text):
    path.write_text(text)
    return path


@pytest.fixture
def left(tmp_path):
    """The keys that a list of this text leaves out."""

    def call(source, text, suffix=".txt", **options):
        wanted = read_ids(written(tmp_path / f"list{suffix}", text), **options)
        return list(leave_out(source, [wanted])[1].keys)

    return call


@pytest.mark.parametrize(
    ("name", "freesound"),
    [
        ("1-100032-A-0.wav", "100032"),
        ("audio/fold3/100032-3-0-0.wav", "100032"),
        ("100032.flac", "100032"),
        ("FreeSound/100032", "100032"),
        ("100032__nfrae__rose-bark.wav", "100032"),
        ("freesound_100032.ogg", "100032"),
        ("https://freesound.org/s/100032/", "100032"),
        ("http://www.freesound.org/people/nfrae/sounds/100032/", "100032"),
        ("rain_100032.wav", None),
        ("100032_rain.wav", None),
        ("1-100032-A.wav", None),
        ("https://freesound.org/people/100032/", None),
    ],
)
def test_freesound_ids(name, freesound):
    assert ids_of_name(name)["freesound"] == (frozenset({freesound} if freesound else ()))


@pytest.mark.parametrize(
    ("name", "youtube"),
    [
        ("r1nicOVtvkQ.wav", "r1nicOVtvkQ"),
        ("Yr1nicOVtvkQ.wav", "r1nicOVtvkQ"),
        ("train/r1nicOVtvkQ_130.flac", "r1nicOVtvkQ"),
        ("r1nicOVtvkQ_30.000_40.000.wav", "r1nicOVtvkQ"),
        ("Y--4gqARaEJE.wav", "--4gqARaEJE"),
        ("Yabcdefghij.wav", "Yabcdefghij"),
        ("Yabcdefghij_30000.wav", "Yabcdefghij"),
        ("https://www.youtube.com/watch?v=r1nicOVtvkQ&t=130", "r1nicOVtvkQ"),
        ("https://youtu.be/r1nicOVtvkQ", "r1nicOVtvkQ"),
        ("r1nicOVtvk.wav", None),
        ("a_longer_name_of_a_file.wav", None),
    ],
)
def test_youtube_ids(name, youtube):
    assert ids_of_name(name)["youtube"] == (frozenset({youtube} if youtube else ()))


class TestLeaveOut:
    def test_by_ids_names_and_addresses(self, left):
        source = Keys(
            "1-100032-A-0.wav", "Yr1nicOVtvkQ.wav", "far/my dog.wav", "other.wav", "77.wav"
        )
        text = "# a comment\n100032\nhttps://youtu.be/r1nicOVtvkQ\nmy_dog.flac\n\n"
        assert left(source, text) == ["1-100032-A-0.wav", "Yr1nicOVtvkQ.wav", "far/my dog.wav"]

    def test_an_audio_stays_with_its_clip(self, tmp_path):
        wanted = read_ids(written(tmp_path / "x.txt", "a.wav\nc.wav"))
        source, report = leave_out(Keys("a.wav", "b.wav", "c.wav", "d.wav"), [wanted])
        assert [clip.key for clip in source.clips] == ["b.wav", "d.wav"]
        assert [source.read(i, 8000)[0] for i in range(2)] == [1, 3]
        assert str(report) == (f"2 of 4 clips left out: {tmp_path / 'x.txt'} (2 entries) names 2")

    def test_several_lists_are_told_apart(self, tmp_path):
        lists = [read_ids(written(tmp_path / f"{i}.txt", t)) for i, t in enumerate(("1", "1\n2"))]
        _, report = leave_out(Keys("1.wav", "2.wav", "3.wav"), lists)
        assert list(report.by_list.values()) == [(1, 1), (2, 2)]
        assert report.keys == ("1.wav", "2.wav")

    def test_none_named(self, tmp_path):
        source = Keys("a.wav")
        wanted = read_ids(written(tmp_path / "x.txt", "b"))
        assert leave_out(source, [wanted])[0] is source
        assert leave_out(source, [])[1].keys == ()

    def test_nothing_remains(self, tmp_path):
        wanted = read_ids(written(tmp_path / "x.txt", "a"))
        with pytest.raises(DataError, match=r"nothing to hear remains: 1 of 1 clips left out"):
            leave_out(Keys("a.wav"), [wanted])

    def test_bare_digits_are_no_file_name(self, left):
        """The third row's recording is another; the file only happens to have this number."""
        rows = [{"freesound_id": 5}, {"freesound_id": "100032"}, {"freesound_id": "7"}]
        source = Keys("a.wav", "b.wav", "100032.wav", "keep.wav", rows=[*rows, {}])
        assert left(source, "100032") == ["b.wav"]
        assert left(source, "100032.wav") == ["b.wav", "100032.wav"]

    def test_what_a_table_says_counts_through_views(self, left):
        rows = [{"url": "https://freesound.org/s/5/"}, {"YTID": "r1nicOVtvkQ"}, {}]
        source = Keys("a.wav", "b.wav", "c.wav", rows=rows)
        assert left(source, "5\nr1nicOVtvkQ") == ["a.wav", "b.wav"]
        view = SubsetSource(RecaptionedSource(source, lambda clip: ("y",)), [2, 1])
        assert left(view, "5\nr1nicOVtvkQ") == ["b.wav"]
        assert left(RetoldSource(source, source.clips), "5\nr1nicOVtvkQ") == ["a.wav", "b.wav"]
        both = ConcatSource({"x": view, "y": source})
        assert left(both, "5\nr1nicOVtvkQ") == ["x/b.wav", "y/a.wav", "y/b.wav"]

    def test_renumbered_shards_say_where_they_are_from(self, left, tmp_path):
        memory = io.BytesIO()
        soundfile.write(memory, np.full(800, 0.1), 8000, format="FLAC")
        origins = [
            {"id": 100032, "download_url": "https://freesound.org/people/a/sounds/100032/"},
            {"key": "far/1-9-A-3.wav", "description": "long"},
            {"freesound_id": 4},
        ]
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for i, origin in enumerate(origins, start=1):
                about = json.dumps({"text": "x", "original_data": origin}).encode()
                for name, raw in ((f"{i}.flac", memory.getvalue()), (f"{i}.json", about)):
                    info = tarfile.TarInfo(name)
                    info.size = len(raw)
                    tar.addfile(info, io.BytesIO(raw))
        for source in (ShardSource(tmp_path / "x.tar"), ShardSource(tmp_path / "x.tar")):
            assert left(source, "100032\n9") == ["1", "2"]  # made, then read from its index
            assert left(source, "1\n3") == []
            assert "description" not in source.rows[1]


class TestLists:
    def test_wavcaps(self, left):
        source = Keys("100032.flac", "Yb0RFKhbpFJA.flac", "b0RFKhbpFJB.wav", "x.wav")
        text = json.dumps({"AudioSet": ["Yb0RFKhbpFJA.wav"], "FreeSound": ["100032"]})
        assert left(source, text, ".json") == ["100032.flac", "Yb0RFKhbpFJA.flac"]
        assert left(source, '["b0RFKhbpFJB", "x"]', ".json") == ["b0RFKhbpFJB.wav", "x.wav"]

    def test_exact_keys(self, left, tmp_path):
        """Digits, folders, suffixes and letters like an id's: a key names itself alone."""
        keys = ["17", "17.wav", "a/17", "dog/1.wav", "cat/1.wav", "1-5-A-0.wav", "5.wav", "Ä b.wav"]
        for wanted in (["17"], ["17.wav"], ["dog/1.wav"], ["1-5-A-0.wav"], ["Ä b.wav"], keys[1:4]):
            assert left(Keys(*keys), json.dumps({"keys": wanted}), ".json") == wanted
        source = Keys("17.wav", "b.wav", rows=[{"freesound_id": "5"}, {"freesound_id": "17"}])
        assert left(source, '{"keys": ["17.wav"], "FreeSound": ["5"]}', ".json") == ["17.wav"]
        assert left(source, '{"keys": []}', ".json") == []

    def test_keys_of_other_data_are_told(self, tmp_path):
        path = written(tmp_path / "x.json", '{"keys": ["a.wav", "far/b.wav", "c.wav"]}')
        _, report = leave_out(Keys("a.wav", "b.wav"), [read_ids(path)])
        assert report.keys == ("a.wav",)
        assert report.unknown == {str(path): ("c.wav", "far/b.wav")}
        told = f"{path} (3 entries) names 1, and no clip has 2 of its keys ('c.wav', ...)"
        assert str(report) == f"1 of 2 clips left out: {told}"

    def test_shards_know_the_keys_that_were_packed(self, left, tmp_path):
        clips = [(Clip(key, ("x",), (), 0.1), np.full(1600, 0.1)) for key in ("dog/1.wav", "2.wav")]
        write_shards(iter(clips), tmp_path, rate_hz=16_000)
        source = ShardSource(tmp_path)
        assert left(source, '{"keys": ["dog/1.wav"]}', ".json") == [source.clips[0].key]
        assert source.clips[0].key != "dog/1.wav"

    def test_metadata_of_a_set(self, left):
        source = Keys("100032.wav", "9.wav", "7.wav", "r1nicOVtvkQ.wav", "dog.wav")
        esc = "filename,category\n1-100032-A-0.wav,dog\ndog.wav,dog\n"
        assert left(source, esc, ".csv") == ["100032.wav", "dog.wav"]
        clotho = "file_name,freesound_id\n100032.wav,9\n"
        assert left(source, clotho, ".csv") == ["100032.wav", "9.wav"]
        assert left(source, clotho, ".csv", kind="freesound") == ["9.wav"]
        assert left(source, "audiocap_id,youtube_id\n7,r1nicOVtvkQ\n", ".csv") == [
            "r1nicOVtvkQ.wav"
        ]

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("gone.txt", None, "no such file"),
            ("x.txt", "# nothing\n", "holds no ids"),
            ("x.csv", "caption\nx\n", "no column of ids; it has 'caption'; wanted freesound_id"),
            ("x.json", "{", "not readable as JSON"),
            ("x.json", '{"a": 3}', "wanted a list of ids, or lists by name; 'a' is none"),
            ("x.json", '[{"id": 3}]', "wanted a list of ids"),
        ],
    )
    def test_refused_in_one_line(self, tmp_path, name, text, said):
        if text is not None:
            written(tmp_path / name, text)
        with pytest.raises(DataError) as caught:
            read_ids(tmp_path / name)
        assert said in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_of_another_kind(self, tmp_path):
        with pytest.raises(DataError, match="holds no ids of kind youtube"):
            read_ids(written(tmp_path / "x.txt", "100032"), kind="youtube")


def test_published_overlaps():
    assert len(OVERLAPS) == 24
    found = {known.trained: known.entries for known in known_overlaps("esc50", ["fsd50k"])}
    assert found == {"fsd50k/train": 399, "fsd50k/valid": 60, "fsd50k/test": 171}
    assert known_overlaps("audiocaps", ["audioset/unbalanced_train"])[0].entries == 4875
    assert known_overlaps("esc50", ["clotho/train"])[0].entries == 94
    assert known_overlaps("esc50", ["esc"]) == ()


def test_real_lists(shared):
    """ESC-50's clips by the published black list; those that Clotho captions, by Clotho's ids."""
    esc = open_source(shared / "data/esc", caption_column="category")
    text = shared / "data/text"
    black = read_ids(text / "wavcaps_blacklist_esc50_us8k_freesound.json")
    assert black.size == 2219
    assert len(leave_out(esc, [black])[1].keys) == 283
    splits = [read_ids(text / f"clotho_v2.1_{split}.csv") for split in ("train", "val", "test")]
    named = set(leave_out(esc, splits)[1].keys)
    both = {
        clip.key
        for clip, row in zip(esc.clips, esc.rows, strict=True)
        if row["clotho_captions_same_recording"]
    }
    assert both <= named
    assert ids_of_clip(esc.clips[0], esc.rows[0])["freesound"] == {"100032"}
