from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from echoic.data.clips import Clip, SubsetSource
from echoic.data.contamination import leave_out, read_ids
from echoic.data.leaks import find_leaks, find_listed, write_leak_list
from echoic.data.sources import open_source
from echoic.types import AudioError
from tests.data.test_fingerprint import scene

RATE = 16_000


class Held:
    """A source of these samples by key; None cannot be decoded."""

    def __init__(self, audio, rows=()):
        self.clips = [Clip(key, (), (), 1.0) for key in audio]
        self.rows = rows
        self._audio = list(audio.values())

    def read(self, i, rate_hz):
        if self._audio[i] is None:
            raise AudioError(self.clips[i].key, "damaged")
        return self._audio[i]


def keys(*names, rows=()):
    """A source of clips that are never heard."""
    return Held(dict.fromkeys(names), rows)


def told(report):
    return [(leak.kind, leak.train, leak.eval) for leak in report.leaks]


class TestIds:
    def test_freesound_and_youtube_ids_are_shared(self):
        train = keys("100032.flac", "Yr1nicOVtvkQ.wav", "rain.wav", "a.wav", rows=[{}] * 3 + [
            {"url": "https://freesound.org/s/77/"}])  # fmt: skip
        held = keys("1-100032-A-0.wav", "r1nicOVtvkQ_30.wav", "rain.wav", "2-77-A-3.wav")
        report = find_leaks(train, held, kinds=["id"])
        assert told(report) == [
            ("id", "100032.flac", "1-100032-A-0.wav"),
            ("id", "Yr1nicOVtvkQ.wav", "r1nicOVtvkQ_30.wav"),
            ("id", "a.wav", "2-77-A-3.wav"),
        ]
        assert [leak.what for leak in report.leaks] == [
            "freesound 100032", "youtube r1nicOVtvkQ", "freesound 77",
        ]  # fmt: skip
        assert not report.bad_train  # nothing was heard

    def test_all_pairs_of_one_recording(self):
        train = keys("5-9-A-1.wav", "5-9-B-1.wav")
        report = find_leaks(train, keys("9__x__y.wav", "9.wav"), kinds=["id"])
        assert len(report.leaks) == 4
        assert report.train_keys == ("5-9-A-1.wav", "5-9-B-1.wav")
        assert report.eval_keys == ("9__x__y.wav", "9.wav")

    def test_numbered_clips_have_no_ids(self):
        numbered = keys("1.wav", "2.wav", "sub/3.wav")
        report = find_leaks(numbered, keys("0.wav", "1.wav", "2.wav", "9.wav"), kinds=["id"])
        assert (told(report), report.numbered) == ([], ("train",))
        report = find_leaks(numbered, numbered, kinds=["id"])
        assert (told(report), report.numbered) == ([], ("train", "eval"))
        # ids do not begin at 1, and what a table says is no number of a file
        report = find_leaks(keys("63.wav", "64.wav"), keys("64.wav", "65.wav"), kinds=["id"])
        assert told(report) == [("id", "64.wav", "64.wav")]
        stated = keys("1.wav", "2.wav", rows=[{"freesound_id": 64}, {"freesound_id": 70}])
        report = find_leaks(stated, keys("64.wav", "65.wav"), kinds=["id"])
        assert told(report) == [("id", "1.wav", "64.wav")]

    def test_rows_count_through_views(self):
        train = keys("a.wav", "b.wav", rows=[{"ytid": "r1nicOVtvkQ"}, {}])
        report = find_leaks(SubsetSource(train, [1, 0]), keys("Yr1nicOVtvkQ.wav"), kinds=["id"])
        assert told(report) == [("id", "a.wav", "Yr1nicOVtvkQ.wav")]

    def test_a_black_list(self, tmp_path):
        """As WavCaps', whose lists are by origin."""
        file = tmp_path / "blacklist.json"
        file.write_text(
            json.dumps({"FreeSound": ["100032", "5"], "AudioSet": ["Yr1nicOVtvkQ.wav"]})
        )
        report = find_listed(keys("5.flac", "r1nicOVtvkQ.flac", "x.wav"), [read_ids(file)])
        assert told(report) == [
            ("id", "5.flac", "freesound 5"),
            ("id", "r1nicOVtvkQ.flac", "youtube r1nicOVtvkQ"),
        ]
        assert {leak.what for leak in report.leaks} == {str(file)}
        assert (report.train_clips, report.eval_clips) == (3, 3)


class TestAudio:
    def test_equal_samples_in_another_container(self, tmp_path):
        for folder, suffix in (("train", "wav"), ("eval", "flac")):
            (tmp_path / folder).mkdir()
            for name, seed in (("a", 1), ("b", 2 if folder == "train" else 3)):
                path = tmp_path / folder / f"{name}_{folder}.{suffix}"
                soundfile.write(path, (scene(seed, 1.5) * 32000).astype(np.int16), 22_050)
        train, held = (
            open_source(tmp_path / folder, need_captions=False) for folder in ("train", "eval")
        )
        report = find_leaks(train, held)
        assert told(report) == [("audio", "a_train.wav", "a_eval.flac")]
        assert report.leaks[0].score == 1.0

    def test_near_is_told_once_and_only_where_samples_differ(self):
        train = Held({"a": scene(1), "b": scene(2), "c": scene(3)})
        held = Held({"x": scene(1), "y": 0.3 * scene(2)[7000:50_000], "z": scene(4)})
        report = find_leaks(train, held)
        assert told(report) == [("audio", "a", "x"), ("near", "b", "y")]
        assert 0.95 < report.leaks[1].score <= 1.0
        assert report.by_kind() == {"id": 0, "audio": 1, "near": 1}
        near_only = find_leaks(train, held, kinds=["near"])
        assert told(near_only) == [("near", "a", "x"), ("near", "b", "y")]
        assert told(find_leaks(train, held, kinds=["audio"])) == [("audio", "a", "x")]

    def test_threshold(self):
        audio = scene(5)
        noise = 0.02 * np.random.default_rng(0).standard_normal(len(audio)).astype(np.float32)
        train, held = Held({"a": audio}), Held({"x": audio + noise})
        [leak] = find_leaks(train, held).leaks
        assert 0.6 < leak.score < 0.99
        assert find_leaks(train, held, near=leak.score + 0.01).leaks == ()

    def test_blocks_and_threads_change_nothing(self, monkeypatch):
        train = Held({f"t{i}": scene(i, 1.5) for i in range(7)})
        held = Held({f"e{i}": 0.5 * scene(i, 1.5) for i in range(3, 10)})
        counted = []
        whole = find_leaks(train, held, progress=lambda *at: counted.append(at))
        assert told(whole) == [("near", f"t{i}", f"e{i}") for i in range(3, 7)]
        assert counted == [(7, 14), (14, 14)]
        monkeypatch.setattr("echoic.data.leaks._BLOCK_CLIPS", 2)
        assert find_leaks(train, held, threads=3) == whole

    def test_what_cannot_be_heard_is_named_and_compared_by_ids(self):
        silent = np.zeros(RATE, np.float32)
        train = Held({"7.wav": None, "s.wav": silent, "a.wav": scene(1)})
        held = Held({"1-7-A-2.wav": scene(1), "t.wav": silent})
        report = find_leaks(train, held)
        assert told(report) == [("id", "7.wav", "1-7-A-2.wav"), ("audio", "a.wav", "1-7-A-2.wav")]
        assert report.bad_train == {"7.wav": "damaged", "s.wav": "silent"}
        assert report.bad_eval == {"t.wav": "silent"}

    def test_an_evaluation_set_that_is_all_damaged(self):
        report = find_leaks(Held({"a": scene(1, 1.0)}), Held({"x": None}))
        assert (report.leaks, report.bad_eval) == ((), {"x": "damaged"})

    def test_json_is_whole(self):
        train, held = Held({"a": scene(1, 1.0), "b": scene(2, 1.0)}), Held({"x": scene(1, 1.0)})
        found = json.loads(json.dumps(find_leaks(train, held).to_json()))
        assert found["pairs"] == [
            {"kind": "audio", "train": "a", "eval": "x", "score": 1.0, "what": ""}
        ]
        assert (found["leaked_train_clips"], found["remaining_train_clips"]) == (1, 1)


class TestList:
    def test_leaves_just_those_out(self, tmp_path):
        """A name of digits alone, one with a folder, one that may be read as an id; clips of the
        same name in other folders stay."""
        names = ["17", "far/my dog.wav", "1-5-A-0.wav", "dog/1.wav"]
        others = ["18", "my dog.wav", "1-6-A-0.wav", "5.wav", "17.wav", "cat/1.wav", "1-5-B-0.wav"]
        write_leak_list(names, tmp_path / "leaks.json")
        _, left = leave_out(keys(*names, *others), [read_ids(tmp_path / "leaks.json")])
        assert left.keys == tuple(names)

    def test_an_empty_one(self, tmp_path):
        write_leak_list([], tmp_path / "leaks.json")
        train = keys("a.wav")
        assert leave_out(train, [read_ids(tmp_path / "leaks.json")])[0] is train


@pytest.mark.timeout(300)
def test_real_sounds(shared):
    """Twenty clips of ESC-50, and every other one of them cut and at half the level."""
    esc = open_source(shared / "data/esc/audio", need_captions=False)
    train = SubsetSource(esc, range(0, 60, 3))
    cut = {f"{i}": 0.5 * train.read(i, RATE)[9000:60_000] for i in range(0, 20, 2)}
    report = find_leaks(train, Held(cut), kinds=["near"])
    found = {(leak.train, leak.eval) for leak in report.leaks}
    wanted = {(train.clips[int(i)].key, i) for i in cut if np.abs(cut[i]).max() > 0.02}
    assert wanted <= found
    assert len(found) <= len(cut) + 1
