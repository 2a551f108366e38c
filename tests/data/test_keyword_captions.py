from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from echoic.data.clips import Clip
from echoic.data.keyword_captions import (
    MANIFEST,
    TemplateGenerator,
    debiased,
    epidemic,
    read_captions,
    sounds_of,
    with_captions,
    write_captions,
)
from echoic.data.shards import ShardSource, write_shards
from echoic.types import ConfigError, DataError

TAGS = (("dog", "bark"), ("rain",), (), ("dog", "bark"), ("man", "church_bell", "wind"), ("bird",))
CLIPS = [Clip(f"{i}.wav", (), tags, 5.0) for i, tags in enumerate(TAGS)]
SENTENCES = {
    "0.wav": "The sounds of dog and bark",
    "1.wav": "The sound of rain",
    "3.wav": "The sounds of dog and bark",
    "4.wav": "The sounds of person, church bell and wind",
    "5.wav": "The sound of bird",
}


class Counting:
    """A generator that notes what it is asked, and may stop in the middle."""

    name = "counting"

    def __init__(self, stop_after: int | None = None, **settings):
        self.settings, self.asked, self.stop_after = settings, [], stop_after

    def __call__(self, tags):
        if self.stop_after is not None and len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(list(tags))
        return [f"heard: {' + '.join(names)}" for names in tags]


def refused(*args, **options) -> str:
    with pytest.raises(DataError) as caught:
        write_captions(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class TestTemplates:
    @pytest.mark.parametrize(
        ("tags", "said", "of_epidemic"),
        [
            (["a"], "The sound of a", "the sounds of a."),
            (["a", "b"], "The sounds of a and b", "the sounds of a, and b."),
            (["a", "b", "c"], "The sounds of a, b and c", "the sounds of a, b, and c."),
        ],
    )
    def test_forms(self, tags, said, of_epidemic):
        assert TemplateGenerator()([tags]) == [sounds_of(tags)] == [said]
        assert TemplateGenerator("template:epidemic")([tags]) == [epidemic(tags)] == [of_epidemic]

    def test_another_name(self):
        with pytest.raises(ConfigError, match="wanted one of template and template:epidemic"):
            TemplateGenerator("template:freesound")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A woman and a man", "A person and a person"),
        ("Man speaking, WOMAN singing", "Person speaking, PERSON singing"),
        ("her dog and His cat", "their dog and Their cat"),
        ("women talk, Men laugh", "people talk, People laugh"),
        ("a woman's voice", "a person's voice"),
        ("a policeman, a herd, this manor, human", "a policeman, a herd, this manor, human"),
    ],
)
def test_debiased(text, said):
    assert debiased(text) == said
    assert debiased(text, {}) == text


class TestWriting:
    def test_one_line_per_clip_with_tags(self, tmp_path):
        summary = write_captions(CLIPS, TemplateGenerator(), tmp_path)
        assert (summary.captions, summary.untagged, summary.short, summary.kept) == (5, 1, 0, 0)
        lines = (tmp_path / "part-000000.jsonl").read_text().splitlines()
        assert json.loads(lines[3]) == {
            "key": "4.wav",
            "tags": ["man", "church bell", "wind"],
            "caption": SENTENCES["4.wav"],
        }
        assert read_captions(tmp_path) == SENTENCES

    def test_debias_may_be_left_out(self, tmp_path):
        write_captions(CLIPS, TemplateGenerator(), tmp_path, debias={})
        assert read_captions(tmp_path)["4.wav"] == "The sounds of man, church bell and wind"

    @pytest.mark.parametrize(("shortest_s", "keys"), [(2.0, "bc"), (0.0, "abc"), (2.5, "c")])
    def test_short_clips(self, tmp_path, shortest_s, keys):
        clips = [Clip(key, (), ("x",), s) for key, s in (("a", 1.99), ("b", 2.0), ("c", None))]
        write_captions(clips, TemplateGenerator(), tmp_path, shortest_s=shortest_s)
        assert "".join(read_captions(tmp_path)) == keys

    def test_equal_tags_are_asked_once_in_batches(self, tmp_path):
        generator = Counting()
        write_captions(CLIPS, generator, tmp_path, batch=2, per_file=3)
        assert generator.asked == [
            [("dog", "bark"), ("rain",)],
            [("man", "church bell", "wind"), ("bird",)],
        ]
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            MANIFEST,
            "part-000000.jsonl",
            "part-000001.jsonl",
        ]

    def test_where_the_generator_says_nothing_the_template_does(self, tmp_path):
        generator = Counting()
        generator.__class__ = type("Mute", (Counting,), {"__call__": lambda _, t: [" \n"] * len(t)})
        write_captions(CLIPS, generator, tmp_path)
        assert read_captions(tmp_path) == SENTENCES

    def test_a_generator_that_loses_count_is_an_error_of_its_own(self, tmp_path):
        class Short(Counting):
            def __call__(self, tags):
                return ["one"]

        with pytest.raises(ValueError, match="1 sentences of 4 tag lists"):
            write_captions(CLIPS, Short(), tmp_path)

    def test_progress(self, tmp_path):
        told = []
        write_captions(
            CLIPS,
            Counting(),
            tmp_path,
            batch=2,
            per_file=3,
            progress=lambda *counts: told.append(counts),
        )
        assert told == [(0, 5), (3, 5), (3, 5), (5, 5)]


class TestGoingOn:
    @pytest.mark.parametrize("stop_after", range(5))
    def test_the_same_as_if_never_stopped(self, tmp_path, stop_after):
        options = {"batch": 1, "per_file": 2}
        write_captions(CLIPS, Counting(), tmp_path / "whole", **options)
        stopped, after = Counting(stop_after), Counting()
        if stop_after < 4:  # there are four different sets of tags
            with pytest.raises(KeyboardInterrupt):
                write_captions(CLIPS, stopped, tmp_path / "out", **options)
            with pytest.raises(DataError, match=r"unfinished, .* run echoic data keywords again"):
                read_captions(tmp_path / "out")
        else:
            write_captions(CLIPS, stopped, tmp_path / "out", **options)
        summary = write_captions(CLIPS, after, tmp_path / "out", **options)
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")
        assert len(after.asked) == 4 - {0: 0, 1: 0, 2: 2, 3: 3, 4: 4}[stop_after]
        assert summary.kept == {0: 0, 1: 0, 2: 2, 3: 4, 4: 5}[stop_after]

    def test_killed(self, tmp_path):
        """A process killed by SIGKILL between files, then in them, loses nothing that was whole."""
        code = (
            "import sys, time; sys.path.insert(0, sys.argv[2])\n"
            "from tests.data.test_keyword_captions import *\n"
            "class Slow(Counting):\n"
            "    def __call__(self, tags):\n"
            "        time.sleep(0.03); return super().__call__(tags)\n"
            "write_captions(many(), Slow(), sys.argv[1], batch=1, per_file=2)\n"
        )
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        out = tmp_path / "out"
        for files in (2, 5):
            process = subprocess.Popen([sys.executable, "-c", code, str(out), root])
            deadline = time.monotonic() + 60
            while len(list(out.glob("part-*.jsonl"))) < files and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
        kept = len(list(out.glob("part-*.jsonl")))
        assert 5 <= kept < 20
        after = Counting()
        summary = write_captions(many(), after, out, batch=1, per_file=2)
        assert summary.kept == 2 * kept
        assert len(after.asked) == 40 - 2 * kept
        write_captions(many(), Counting(), tmp_path / "whole", batch=1, per_file=2)
        assert contents(out) == contents(tmp_path / "whole")

    def test_what_was_being_written_does_not_count(self, tmp_path):
        (tmp_path / ".part-000000.jsonl.part").write_text('{"key": "0.wav"')
        write_captions(CLIPS, TemplateGenerator(), tmp_path)
        assert read_captions(tmp_path) == SENTENCES


def many() -> list[Clip]:
    return [Clip(str(i), (), ("x", str(i)), None) for i in range(40)]


class TestRefused:
    @pytest.fixture
    def folder(self, tmp_path):
        write_captions(CLIPS, Counting(beams=4), tmp_path)
        return tmp_path

    @pytest.mark.parametrize(
        ("clips", "generator", "options", "said"),
        [
            (CLIPS, TemplateGenerator(), {}, "another generator (counting, now template)"),
            (CLIPS, Counting(beams=2), {}, "other settings (beams 4, now 2)"),
            (CLIPS, Counting(beams=4), {"shortest_s": 1.0}, "(shortest_s 2.0, now 1.0)"),
            (CLIPS, Counting(beams=4), {"debias": {}}, '(debias {"woman"'),
            (CLIPS, Counting(beams=4), {"per_file": 2}, "(per_file 4096, now 2)"),
            (CLIPS[1:], Counting(beams=4), {}, "other clips or tags than the source has now"),
            ([*CLIPS[:-1], Clip("5.wav", (), ("owl",), 5)], Counting(beams=4), {}, "other clips"),
        ],
    )
    def test_another_run_is_not_mixed_in(self, folder, clips, generator, options, said):
        before = contents(folder)
        line = refused(clips, generator, folder, **options)
        assert line.startswith(f"{folder}: holds captions made of ")
        assert said in line
        assert "name another folder, or remove this one" in line
        assert contents(folder) == before

    def test_settings_are_compared_as_json_has_them(self, tmp_path):
        write_captions(CLIPS, Counting(sizes=(1, 2)), tmp_path)
        assert write_captions(CLIPS, Counting(sizes=(1, 2)), tmp_path).kept == 5

    def test_captions_of_clips_do_not_matter(self, folder):
        from dataclasses import replace

        clips = [replace(clip, captions=("new",)) for clip in CLIPS]
        assert write_captions(clips, Counting(beams=4), folder).kept == 5

    def test_places(self, tmp_path):
        (tmp_path / "file").write_text("x")
        assert "cannot be made a folder" in refused(CLIPS, Counting(), tmp_path / "file")
        assert f"holds no {MANIFEST}" in refused(CLIPS, Counting(), tmp_path)

    def test_nothing_to_do(self, tmp_path):
        assert "of 1, none has tags" in refused([Clip("a", (), (), 9.0)], Counting(), tmp_path)
        short = [Clip("a", (), ("x",), 1.0)]
        assert "of 1, none is 2 s or longer" in refused(short, Counting(), tmp_path)

    @pytest.mark.parametrize(
        "text", ['{"key": "0.wav"}\n', "", '{"key": "a", "tags": [], "caption": "x"}\n', "{"]
    )
    def test_a_damaged_file(self, folder, text):
        (folder / "part-000000.jsonl").write_text(text)
        for attempt in (
            lambda: read_captions(folder),
            lambda: write_captions(CLIPS, Counting(beams=4), folder),
        ):
            with pytest.raises(DataError, match="not the 5 captions written there; remove it"):
                attempt()

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": []}'])
    def test_a_damaged_manifest(self, folder, text):
        (folder / MANIFEST).write_text(text)
        with pytest.raises(DataError, match=MANIFEST):
            read_captions(folder)

    def test_no_folder(self, tmp_path):
        with pytest.raises(DataError, match="no such folder of captions"):
            read_captions(tmp_path / "x")


class Silent:
    """A source that only has clips."""

    def __init__(self, clips):
        self.clips = clips

    def read(self, i, rate_hz):
        return np.full(10, i, np.float32)


class TestJoining:
    SOURCE = Silent(
        [Clip("a", ("own",), (), 1.0), Clip("b", (), ("x",), 1.0), Clip("c", (), (), 1.0)]
    )

    def captions(self, sentences, keep_own=False):
        source = with_captions(self.SOURCE, sentences, keep_own=keep_own, where="here")
        return {clip.key: clip.captions for clip in source.clips}, source

    def test_in_place_of_its_own_or_after_them(self, caplog):
        made = {"a": "A", "b": "B"}
        assert self.captions(made)[0] == {"a": ("A",), "b": ("B",)}
        assert "here: 1 of 3 clips have no caption; left out" in caplog.text
        assert self.captions(made, keep_own=True)[0] == {"a": ("own", "A"), "b": ("B",)}

    def test_a_clip_without_keeps_its_own_and_audio_stays_with_its_clip(self):
        captions, source = self.captions({"c": "C"})
        assert captions == {"a": ("own",), "c": ("C",)}
        assert source.read(1, 8000)[0] == 2

    def test_no_key_fits(self):
        with pytest.raises(DataError, match="no clip has a caption there: keys 'a', 'z'"):
            self.captions({"z": "Z"})


def test_one_file_per_shard(tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    rng = np.random.default_rng(0)
    pairs = [
        (Clip(f"c{i}", ("x",), tags, None), rng.uniform(-1, 1, 800).astype(np.float32))
        for i, tags in enumerate(TAGS)
    ]
    write_shards(iter(pairs), tmp_path / "shards", per_shard=4, rate_hz=8000)
    source = ShardSource(tmp_path / "shards")
    summary = write_captions(source, TemplateGenerator(), tmp_path / "out", shortest_s=0)
    assert summary.files == 2
    files = json.loads((tmp_path / "out" / MANIFEST).read_text())["files"]
    assert files == {"shard-000000.jsonl": 3, "shard-000001.jsonl": 2}
    assert read_captions(tmp_path / "out")["c4"] == SENTENCES["4.wav"]
