from __future__ import annotations

import json
import logging
import threading

import numpy as np
import pytest
import soundfile

from echoic.data.captions import (
    LABEL_TEMPLATES,
    captions_from_label,
    captions_from_tags,
    joined,
)
from echoic.data.clips import ConcatSource, RecaptionedSource, SubsetSource, read_window
from echoic.data.sources import TableSource, open_source
from echoic.types import AudioError, ConfigError, DataError

RATE_HZ = 8000


def tone(path, seconds=0.25, hz=440.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hz * t), RATE_HZ)


@pytest.fixture
def folder(tmp_path):
    """a.wav, b.wav (0.25 s) and c.wav (0.5 s)."""
    tone(tmp_path / "a.wav")
    tone(tmp_path / "b.wav", hz=550)
    tone(tmp_path / "c.wav", seconds=0.5, hz=660)
    return tmp_path


def captions(source) -> dict[str, tuple[str, ...]]:
    return {clip.key: clip.captions for clip in source.clips}


def refused(*args, **options) -> str:
    with pytest.raises(DataError) as caught:
        open_source(*args, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


class TestTables:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    def test_delimiters_encodings_and_line_ends(self, folder, delimiter, encoding, newline):
        rows = (
            ("file", "caption"),
            ("a.wav", '"a café, a bar; a street"'),
            ("b.wav", '"two\tdogs"'),
        )
        text = newline.join(delimiter.join(row) for row in rows) + newline
        table = folder / "my.csv"
        table.write_bytes(text.encode(encoding))
        expected = {"a.wav": ("a café, a bar; a street",), "b.wav": ("two dogs",)}
        assert captions(open_source(table)) == expected

    def test_an_old_encoding_is_noted(self, folder, caplog):
        (folder / "my.csv").write_bytes("file,caption\na.wav,the bird’s song\n".encode("cp1252"))
        assert captions(open_source(folder / "my.csv"))["a.wav"] == ("the bird’s song",)
        assert "not UTF-8; read as Windows-1252" in caplog.text

    @pytest.mark.parametrize("file", ["file", "Filename", "file_name", "path", "audio", " wav "])
    @pytest.mark.parametrize("caption", ["caption", "Text", "description", "captions"])
    def test_column_names(self, folder, file, caption):
        (folder / "my.csv").write_text(f"id,{file},{caption}\n7,a.wav,a tone\n")
        assert captions(open_source(folder / "my.csv")) == {"a.wav": ("a tone",)}

    def test_several_captions_tags_and_duration(self, folder):
        head = "file,duration,caption_2,caption_10,caption_1,tags\n"
        (folder / "my.csv").write_text(head + "a.wav,0.25,two,,one,loud_tone; 440 Hz\n")
        clip = open_source(folder / "my.csv").clips[0]
        assert clip.captions == ("one", "two")
        assert clip.tags == ("loud tone", "440 Hz")
        assert clip.duration_s == 0.25

    def test_rows_of_one_file_are_one_clip(self, folder):
        rows = "file,caption,fold\na.wav,one,1\nb.wav,other,2\n./a.wav,two,3\na.wav,one,4\n"
        (folder / "my.csv").write_text(rows)
        source = open_source(folder / "my.csv")
        assert captions(source) == {"a.wav": ("one", "two"), "b.wav": ("other",)}
        assert isinstance(source, TableSource)
        assert [row["fold"] for row in source.rows] == ["1", "2"]

    def test_labels_become_words(self, folder):
        (folder / "my.csv").write_text("file,category\na.wav,door_wood_knock\n")
        clip = open_source(folder / "my.csv").clips[0]
        assert clip.captions == clip.tags == ("door wood knock",)

    def test_lists_in_cells(self, folder):
        row = "file\tcaptions\ttags\na.wav\t[\"one\", \"two\"]\t['x', 'y, z']\n"
        (folder / "my.tsv").write_text(row.replace('["one", "two"]', '"[""one"", ""two""]"'))
        clip = open_source(folder / "my.tsv").clips[0]
        assert clip.captions == ("one", "two")
        assert clip.tags == ("x", "y, z")

    def test_jsonl(self, folder):
        rows = [
            {"audio_path": "a.wav", "text": ["one", "two"], "tag": ["x", "y"], "duration_s": 0.25},
            {"audio_path": "b.wav", "text": "line\u2028separator"},
        ]
        lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / "my.jsonl").write_text(lines, "utf-8")
        source = open_source(folder / "my.jsonl")
        assert captions(source) == {"a.wav": ("one", "two"), "b.wav": ("line separator",)}
        assert source.clips[0].tags == ("x", "y")

    def test_named_columns(self, folder):
        (folder / "my.csv").write_text("wav2,transcript,file\na.wav,HELLO,x\n")
        source = open_source(folder / "my.csv", file_column="wav2", caption_column="transcript")
        assert captions(source) == {"a.wav": ("HELLO",)}

    def test_where_files_are_looked_for(self, tmp_path):
        tone(tmp_path / "audio" / "a.wav")
        tone(tmp_path / "far" / "b.wav")
        tone(tmp_path / "far" / "a.wav", seconds=0.5)
        tone(tmp_path / "sub" / "c.wav")
        rows = ["file,caption", "a.wav,a", f"{tmp_path / 'far' / 'b.wav'},b", "sub\\c.wav,c"]
        (tmp_path / "my.csv").write_text("\n".join(rows))
        assert [c.duration_s for c in open_source(tmp_path / "my.csv").clips] == [0.25] * 3
        far = open_source(tmp_path / "my.csv", audio_dir=tmp_path / "far")
        assert [c.duration_s for c in far.clips] == [0.5, 0.25, 0.25]

    def test_durations_are_measured_and_what_cannot_be_is_left_to_the_reader(self, folder):
        (folder / "a.wav").write_bytes(b"not audio at all")
        (folder / "my.csv").write_text("file,caption\na.wav,a\nc.wav,c\n")
        source = open_source(folder / "my.csv")
        assert [clip.duration_s for clip in source.clips] == [None, 0.5]
        assert len(source.read(1, 4000)) == 2000
        with pytest.raises(AudioError, match=r"a\.wav"):
            source.read(0, RATE_HZ)
        assert not [t for t in threading.enumerate() if t.name.startswith("echoic-probe")]

    def test_very_long_captions_are_kept_and_noted_once(self, folder, caplog):
        (folder / "my.csv").write_text(
            f"file,caption\na.wav,{'long ' * 9000}\nb.wav,{'x' * 2000}\n"
        )
        source = open_source(folder / "my.csv")
        assert len(source.clips[0].captions[0]) == 5 * 9000 - 1
        assert [r.getMessage() for r in caplog.records] == [
            f"{folder / 'my.csv'}: 2 clips have captions of more than 1000 characters "
            "(first: a.wav); the tokenizer will cut them"
        ]


class TestBadTables:
    def line(self, folder, text: str | bytes, name="my.csv", **options) -> str:
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return refused(folder / name, **options)

    def test_wrong_columns_list_what_was_seen_and_wanted(self, folder):
        line = self.line(folder, "sound;words\na.wav;hello\n")
        assert (
            "my.csv: no column of audio files; it has 'sound', 'words'; wanted one of file" in line
        )
        assert "file_column" in line
        line = self.line(folder, "file,words\na.wav,hello\n")
        assert "no column of captions; it has 'file', 'words'; wanted one of caption" in line
        assert "no column 'txt'" in self.line(folder, "file,words\nx,y\n", caption_column="txt")

    def test_missing_files(self, folder, caplog):
        rows = "file,caption\na.wav,a\n" + "".join(f"no{i}.wav,x\n" for i in range(5))
        line = self.line(folder, rows)
        assert "my.csv: 5 of 6 rows name no file in" in line
        assert "row 3 'no0.wav', row 4 'no1.wav', row 5 'no2.wav', ..." in line
        assert f"the table's folder ({folder}) or {folder / 'audio'}: row 3" in line
        assert str(folder / "audio") in line
        source = open_source(folder / "my.csv", missing="skip")
        assert captions(source) == {"a.wav": ("a",)}
        assert "5 of 6 rows" in caplog.text

    def test_empty_captions(self, folder):
        rows = "file,caption\na.wav,a\nb.wav,\nc.wav,  \n"
        line = self.line(folder, rows)
        assert "2 of 3 rows have no caption: row 3 'b.wav', row 4 'c.wav'" in line
        assert len(open_source(folder / "my.csv", missing="skip").clips) == 1

    def test_nothing_left(self, folder):
        line = self.line(folder, "file,caption\nno.wav,a\n", missing="skip")
        assert "no row has both" in line

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "empty"),
            ("\n \n", "empty"),
            ("file,caption\n", "a header and no rows"),
            ("file,caption\na.wav,a, b and c\n", "row 2: 3 fields, but the header has 2"),
            ("file,caption,caption\na.wav,a,b\n", "'caption' stands twice"),
            ('file,caption\na.wav,a\n\nb.wav,"' + "x" * 140_000, "row 4: not readable as CSV"),
            ("file,caption,duration\na.wav,a,long\n", "row 2: duration 'long' is not a number"),
            ("file,caption,duration\na.wav,a,-1\n", "row 2: duration '-1'"),
            (b"PK\x03\x04\0\0\0\0", "not a text table"),
            (b"\xff\xfef\0i\0l", "damaged UTF-16"),
        ],
    )
    def test_damaged_csv(self, folder, text, reason):
        line = self.line(folder, text)
        assert "my.csv" in line
        assert reason in line

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ('{"file": "a.wav", "caption": "a"}\n{"file": ', "row 2: not readable as JSON"),
            ('["a.wav", "a"]\n', "row 1: wanted an object"),
            ('{"file": "a.wav"}\n', "no column of captions; it has 'file'"),
            ('{"file": "a.wav", "text": null}\n', "1 of 1 rows have no caption: row 1"),
            ('{"file": null, "text": "a"}\n', "1 of 1 rows name no file"),
        ],
    )
    def test_damaged_jsonl(self, folder, text, reason):
        line = self.line(folder, text, name="my.jsonl")
        assert "my.jsonl" in line
        assert reason in line

    def test_paths(self, folder, tmp_path):
        assert "no such file or folder" in refused(tmp_path / "none.csv")
        assert "wanted a table" in refused(folder / "a.wav")
        (folder / "my.csv").write_text("file,caption\na.wav,a\n")
        assert "given as audio_dir" in refused(folder / "my.csv", audio_dir=tmp_path / "none")


class TestFolders:
    @pytest.mark.parametrize("name", ["captions.csv", "metadata.csv", "meta.csv"])
    def test_a_table_inside(self, folder, name):
        (folder / name).write_text("file_name,text\na.wav,a tone\n")
        assert captions(open_source(folder)) == {"a.wav": ("a tone",)}

    def test_sidecars(self, folder):
        (folder / "a.txt").write_text("one\n\ntwo\n")
        (folder / "b.json").write_text('{"caption": "three", "tags": "x, y"}')
        (folder / "c.txt").write_text("four")
        source = open_source(folder)
        assert captions(source) == {
            "a.wav": ("one", "two"),
            "b.wav": ("three",),
            "c.wav": ("four",),
        }
        assert source.clips[1].tags == ("x", "y")
        assert source.clips[2].duration_s == 0.5

    def test_some_without_sidecar(self, folder):
        (folder / "a.txt").write_text("one")
        (folder / "b.txt").write_text(" \n")
        assert "2 of 3 audio files have no caption: b.wav, c.wav;" in refused(folder)
        assert captions(open_source(folder, missing="skip")) == {"a.wav": ("one",)}

    def test_names_as_words(self, tmp_path, caplog):
        for name in ("dog_bark/1-100032-A-0.wav", "rain/Rain on_a_tin-roof_03.flac", "bell2.ogg"):
            tone(tmp_path / name)
        tone(tmp_path / ".trash" / "old.wav")
        source = open_source(tmp_path)
        assert captions(source) == {
            "bell2.ogg": ("bell",),
            "dog_bark/1-100032-A-0.wav": ("dog bark",),
            "rain/Rain on_a_tin-roof_03.flac": ("rain, Rain on a tin roof",),
        }
        assert source.clips[1].tags == ("dog bark",)
        assert "captions made of folder and file names, as 'bell'" in caplog.text

    def test_names_without_words(self, tmp_path, caplog):
        tone(tmp_path / "001.wav")
        assert "1 of 1 audio files have no caption: 001.wav" in refused(tmp_path)
        assert not caplog.text

    def test_where_captions_are_not_needed(self, tmp_path, caplog):
        """Sound alone, or with tags: names are no captions worth a note."""
        for name in ("001.wav", "002.wav", "rain/3.wav"):
            tone(tmp_path / name)
        source = open_source(tmp_path, need_captions=False)
        assert captions(source) == {"001.wav": (), "002.wav": (), "rain/3.wav": ("rain",)}
        assert [clip.tags for clip in source.clips] == [(), (), ("rain",)]
        assert all(clip.duration_s == 0.25 for clip in source.clips)
        (tmp_path / "001.txt").write_text("one")
        again = open_source(tmp_path, need_captions=False)
        assert captions(again) == {"001.wav": ("one",), "002.wav": (), "rain/3.wav": ()}
        assert not caplog.text

    def test_nothing_in_it(self, tmp_path):
        assert "there are none" in refused(tmp_path)

    def test_a_damaged_sidecar_is_named(self, folder):
        (folder / "a.json").write_text("{")
        assert "a.json: not readable as JSON" in refused(folder)


class TestViews:
    @pytest.fixture
    def source(self, folder):
        (folder / "my.csv").write_text("file,label\na.wav,a_a\nb.wav,b\nc.wav,c\n")
        return open_source(folder / "my.csv")

    def test_subset(self, source):
        part = SubsetSource(source, [2, 0])
        assert [clip.key for clip in part.clips] == ["c.wav", "a.wav"]
        assert np.array_equal(part.read(0, RATE_HZ), source.read(2, RATE_HZ))

    def test_concat(self, source):
        both = ConcatSource({"x": SubsetSource(source, [0]), "y": SubsetSource(source, [1, 2])})
        assert [clip.key for clip in both.clips] == ["x/a.wav", "y/b.wav", "y/c.wav"]
        for i in range(3):
            assert np.array_equal(both.read(i, RATE_HZ), source.read(i, RATE_HZ))
            assert np.array_equal(
                both.read_window(i, RATE_HZ, 0.1, 0.1), source.read(i, RATE_HZ)[800:1600]
            )

    def test_other_captions(self, source):
        told = RecaptionedSource(source, lambda clip: captions_from_label(clip.tags[0], ["a {}"]))
        assert [clip.captions for clip in told.clips] == [("a a a",), ("a b",), ("a c",)]

    def test_a_window_of_a_source_that_reads_whole_clips(self, source):
        class Whole:
            clips = source.clips
            read = staticmethod(source.read)

        part = read_window(Whole(), 0, RATE_HZ, 0.1, 0.1)
        assert np.array_equal(part, source.read(0, RATE_HZ)[800:1600])


class TestCaptions:
    def test_of_a_label(self):
        made = captions_from_label("church_bells")
        assert made[:2] == ("church bells", "the sound of church bells")
        assert len(set(made)) == len(LABEL_TEMPLATES)
        assert captions_from_label("{odd}", ["a {}"]) == ("a {odd}",)
        assert captions_from_label("_") == ()

    def test_of_tags(self):
        assert captions_from_tags(["dog"]) == ("The sound of dog",)
        assert captions_from_tags(["a_b", "c"]) == ("The sounds of a b and c",)
        assert captions_from_tags(["a", "b", "", "a", "c"]) == ("The sounds of a, b and c",)
        assert captions_from_tags([]) == ()

    def test_joined(self):
        assert [joined(x) for x in ([], ["a"], ["a", "b"])] == ["", "a", "a and b"]

    @pytest.mark.parametrize("template", ["no place", "{} and {}"])
    def test_wrong_templates(self, template):
        with pytest.raises(ConfigError, match=r"must hold \{\} once"):
            captions_from_label("x", [template])


@pytest.mark.parametrize(
    ("name", "clips", "example"),
    [
        ("esc", 343, "dog"),
        ("tags", 278, "airplane prop"),
        ("clotho", 11, "The children were playing at the beach as the waves roared."),
        ("digits", 800, "0"),
        ("instruments", 201, "acoustic guitar"),
    ],
)
def test_real_tables(shared, name, clips, example, caplog):
    with caplog.at_level(logging.WARNING):
        source = open_source(shared / "data" / name)
    assert not caplog.records
    assert len(source.clips) == clips
    assert source.clips[0].captions[0] == example
    assert all(clip.duration_s for clip in source.clips)
    assert len(source.clips[0].captions) == (5 if name == "clotho" else 1)


def test_a_real_table_with_gaps(shared):
    assert "5 of 11 rows have no caption: row 7" in refused(shared / "data" / "long")
    assert len(open_source(shared / "data" / "long", missing="skip").clips) == 6


def test_captions_of_the_same_recording_in_one_cell(shared):
    column = "clotho_captions_same_recording"
    source = open_source(shared / "data" / "esc", caption_column=column, missing="skip")
    assert source.clips
    assert {len(clip.captions) for clip in source.clips} == {5}
