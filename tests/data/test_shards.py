from __future__ import annotations

import io
import json
import os
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from echoic.data import shards, tar_index
from echoic.data.clips import Clip
from echoic.data.loader import Loader
from echoic.data.shards import ShardSource, write_shards
from echoic.data.sources import open_source
from echoic.types import AudioError, DataError

RATE_HZ = 8000


def sound(i: int, seconds: float = 0.1) -> np.ndarray:
    return np.random.default_rng(i).uniform(-0.9, 0.9, round(seconds * RATE_HZ)).astype(np.float32)


def pairs(count: int):
    for i in range(count):
        clip = Clip(f"set/clip {i}.wav", (f"caption {i}", "é\u2028"), ("x", "y z"), None)
        yield clip, sound(i, 0.1 + 0.01 * i)


def encoded(audio: np.ndarray, format: str = "WAV", rate_hz: int = RATE_HZ) -> bytes:
    memory = io.BytesIO()
    soundfile.write(memory, audio, rate_hz, format=format)
    return memory.getvalue()


def tar_of(path, members: dict[str, bytes]):
    with tarfile.open(path, "w") as tar:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path


def about(**fields) -> bytes:
    return json.dumps(fields).encode()


def refused(make, *args, **options) -> str:
    with pytest.raises(DataError) as caught:
        make(*args, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.fixture
def folder(tmp_path):
    """Three shards of 4, 4 and 2 clips."""
    write_shards(pairs(10), tmp_path / "shards", per_shard=4, rate_hz=RATE_HZ)
    return tmp_path / "shards"


class TestRoundTrip:
    @pytest.mark.parametrize("format", ["flac", "wav"])
    def test_audio_captions_tags_and_durations(self, tmp_path, format):
        write_shards(pairs(10), tmp_path / "x", per_shard=4, rate_hz=RATE_HZ, format=format)
        source = open_source(tmp_path / "x")
        assert isinstance(source, ShardSource)
        assert len(source.clips) == 10
        for i, clip in enumerate(source.clips):
            assert clip.key == f"set_clip_{i}"
            assert clip.captions == (f"caption {i}", "é")
            assert clip.tags == ("x", "y z")
            audio = source.read(i, RATE_HZ)
            assert np.abs(audio - sound(i, 0.1 + 0.01 * i)).max() <= 2**-15
            assert clip.duration_s == len(audio) / RATE_HZ
            assert np.array_equal(source.read_window(i, RATE_HZ, 0.05, 0.02), audio[400:560])

    def test_upstreams_form(self, folder):
        sizes = json.loads((folder / "sizes.json").read_text())
        assert sizes == {f"shard-{i:06d}.tar": n for i, n in enumerate((4, 4, 2))}
        with tarfile.open(folder / "shard-000000.tar") as tar:
            assert tar.getnames()[:2] == ["set_clip_0.flac", "set_clip_0.json"]
            tree = json.load(tar.extractfile("set_clip_0.json"))
        assert tree["text"] == ["caption 0", "é\u2028"]
        assert tree["tag"] == ["x", "y z"]
        assert tree["original_data"] == {"key": "set/clip 0.wav"}

    def test_summary(self, tmp_path):
        summary = write_shards(pairs(10), tmp_path / "x", per_shard=4, rate_hz=RATE_HZ)
        assert (summary.shards, summary.clips, summary.bad) == (3, 10, {})
        assert summary.audio_s == pytest.approx(sum(0.1 + 0.01 * i for i in range(10)))
        assert summary.bytes == sum(p.stat().st_size for p in (tmp_path / "x").glob("*.tar"))

    def test_from_a_source_with_other_rate(self, folder, tmp_path):
        write_shards(open_source(folder), tmp_path / "half", rate_hz=4000)
        half = open_source(tmp_path / "half" / "shard-000000.tar")
        assert len(half.clips) == 10
        assert len(half.read(0, 4000)) == 400

    def test_the_same_bytes_each_time(self, folder, tmp_path):
        write_shards(pairs(10), tmp_path / "again", per_shard=4, rate_hz=RATE_HZ)
        for path in folder.glob("*.tar"):
            assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()

    def test_keys_that_would_meet(self, tmp_path):
        keys = ["a.b", "a/b", "a b.wav", "..", "é" * 300]
        write_shards(
            ((Clip(key, ("x",), (), None), sound(0)) for key in keys), tmp_path, rate_hz=RATE_HZ
        )
        found = [clip.key for clip in open_source(tmp_path).clips]
        assert found == ["a_b", "a_b_2", "a_b_3", "clip", "é" * 120]

    def test_threads_read_at_once(self, folder):
        source = open_source(folder)
        order = list(range(10)) * 10
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda i: source.read(i, RATE_HZ), order))
        for i, audio in zip(order, found, strict=True):
            assert len(audio) == round((0.1 + 0.01 * i) * RATE_HZ)


class TestReading:
    def test_what_other_writers_put_in(self, tmp_path):
        members = {
            "a.wav": encoded(sound(0)),
            "a.json": about(text="one string"),
            "dir/b.c.ogg": encoded(sound(1), "OGG"),
            "dir/b.c.json": about(text=["two"], tag=["t"], original_data={"x": [1]}),
            "._a.json": b"\x00\x05\x16\x07",
            "m.mp3": encoded(sound(2, 0.5), "MP3"),
            "m.txt": b"three\nfour\n",
            "class.cls": b"7",
        }
        source = ShardSource(tar_of(tmp_path / "other.tar", members))
        assert [clip.key for clip in source.clips] == ["a", "dir/b.c", "m"]
        assert [c.captions for c in source.clips] == [("one string",), ("two",), ("three", "four")]
        assert [c.tags for c in source.clips] == [(), ("t",), ()]
        assert [c.duration_s for c in source.clips] == pytest.approx([0.1, 0.1, 0.5], abs=0.15)
        for i in range(3):
            assert len(source.read(i, RATE_HZ)) >= 800

    def test_tars_in_the_order_of_their_numbers_and_keys_told_apart(self, tmp_path):
        for i in (10, 9, 1):
            members = {"0.wav": encoded(sound(i)), "0.json": about(text=[f"from {i}"])}
            tar_of(tmp_path / f"NAME{i}.tar", members)
        clips = ShardSource(tmp_path).clips
        assert [clip.captions[0] for clip in clips] == ["from 1", "from 9", "from 10"]
        assert [clip.key for clip in clips] == ["NAME1/0", "NAME9/0", "NAME10/0"]

    def test_a_clip_that_cannot_be_decoded_is_named(self, tmp_path):
        members = {"bad.flac": b"fLaC and no more", "bad.json": about(text="x")}
        source = ShardSource(tar_of(tmp_path / "t.tar", members))
        assert source.clips[0].duration_s is None
        with pytest.raises(AudioError, match=r"t\.tar/bad\.flac"):
            source.read(0, RATE_HZ)

    def test_a_tar_that_shrinks_or_goes_later(self, folder):
        source = ShardSource(folder)
        path = folder / "shard-000002.tar"
        os.truncate(path, 700)
        with pytest.raises(AudioError, match=r"shard-000002.tar/set_clip_9.flac: .* shorter"):
            source.read(9, RATE_HZ)
        path.unlink()
        with pytest.raises(AudioError, match=r"cannot be read \(No such file"):
            source.read(9, RATE_HZ)


class TestIndex:
    def test_is_kept_used_and_made_anew(self, folder, monkeypatch):
        first = ShardSource(folder)
        built: list[str] = []
        build = tar_index._build

        def counted(path, *rest):
            built.append(path.name)
            return build(path, *rest)

        monkeypatch.setattr(tar_index, "_build", counted)
        assert ShardSource(folder).clips == first.clips
        assert [ShardSource(folder)._place(i) for i in range(10)] == [
            first._place(i) for i in range(10)
        ]
        assert not built
        tar = folder / "shard-000001.tar"
        tar_of(tar, {"new.wav": encoded(sound(0)), "new.json": about(text="new")})
        assert len(ShardSource(folder).clips) == 4 + 1 + 2
        assert built == [tar.name]

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 99}'])
    def test_a_damaged_one_is_made_anew(self, folder, text):
        expected = ShardSource(folder).clips
        (folder / "shard-000000.tar.index.json").write_text(text)
        assert ShardSource(folder).clips == expected

    def test_a_folder_that_cannot_be_written(self, folder, monkeypatch):
        def read_only(*_args, **_options):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(tar_index.Path, "write_bytes", read_only)
        assert len(ShardSource(folder).clips) == 10
        assert not list(folder.glob("*.index.json"))
        assert not list(folder.glob(".*"))


class TestDamage:
    def test_cut_anywhere_it_is_noticed_and_the_whole_clips_stay(self, tmp_path):
        whole = tar_of(
            tmp_path / "whole.tar",
            {
                name: raw
                for i in range(3)
                for name, raw in (
                    (f"{i}.wav", encoded(sound(i))),
                    (f"{i}.json", about(text=f"{i}")),
                )
            },
        ).read_bytes()
        with tarfile.open(tmp_path / "whole.tar") as tar:
            ends = [info.offset_data + info.size for info in tar][1::2]
        last_block = -(-ends[-1] // 512) * 512
        path = tmp_path / "cut" / "cut.tar"
        path.parent.mkdir()
        for size in [0, 1, 511, 512, 600, *range(1000, last_block + 1, 331), last_block]:
            path.write_bytes(whole[:size])
            line = refused(ShardSource, path.parent)
            clips = sum(end <= size for end in ends)
            assert "cut.tar: damaged or cut off (" in line
            assert f"of {size}); {clips} whole clips before that" in line
            if clips:
                assert len(ShardSource(path.parent, missing="skip").clips) == clips

    def test_a_header_broken_in_the_middle(self, folder, caplog):
        path = folder / "shard-000000.tar"
        with tarfile.open(path) as tar:
            third = tar.getmembers()[4].offset
        raw = bytearray(path.read_bytes())
        raw[third : third + 100] = bytes(range(100, 200))
        path.write_bytes(raw)
        assert f"at byte {third} of" in refused(ShardSource, folder)
        source = open_source(folder, missing="skip")
        assert len(source.clips) == 10 - 2
        lines = [r.getMessage() for r in caplog.records]
        assert len(lines) == 1
        assert "2 whole clips before that are used" in lines[0]

    @pytest.mark.parametrize("raw", [b"<html>not found</html>", bytes(range(1, 255)) * 16])
    def test_what_is_no_tar(self, tmp_path, raw):
        (tmp_path / "x.tar").write_bytes(raw)
        assert "x.tar: damaged or cut off" in refused(open_source, tmp_path / "x.tar")
        assert "no clip" in refused(open_source, tmp_path, missing="skip")

    def test_compressed(self, tmp_path):
        with tarfile.open(tmp_path / "x.tar", "w:gz"):
            pass
        assert "compressed with gzip" in refused(open_source, tmp_path)

    def test_members_without_their_partner(self, tmp_path, caplog):
        members = {
            "a.wav": encoded(sound(0)),
            "a.json": about(text="a"),
            "b.wav": encoded(sound(1)),
            "c.json": about(text="c"),
            "d.wav": encoded(sound(2)),
            "d.json": about(text=[]),
            "e.wav": encoded(sound(3)),
            "e.json": b"{",
        }
        path = tar_of(tmp_path / "x.tar", members)
        line = refused(ShardSource, path)
        assert "3 of 5 clips have no caption" in line
        assert "no caption: b.wav, d.wav, e.json: not readable as JSON" in line
        assert [c.key for c in ShardSource(path, missing="skip").clips] == ["a"]
        assert "x.tar: 1 of 5 captions have no audio: c.json" in caplog.text

    def test_a_shard_that_sizes_json_lists_and_is_gone(self, folder):
        (folder / "shard-000001.tar").unlink()
        line = refused(ShardSource, folder)
        assert "1 of 3 tars of sizes.json are not there: shard-000001.tar" in line
        assert len(ShardSource(folder, missing="skip").clips) == 6

    def test_nothing_there(self, tmp_path):
        assert "no .tar in it" in refused(ShardSource, tmp_path)
        assert "cannot be read" in refused(ShardSource, tmp_path / "none.tar")


class TestMidRun:
    """What becomes of a training when the shards change under it."""

    @pytest.fixture
    def folder(self, tmp_path):
        """Fifty shards of 4 clips."""
        pairs = ((Clip(f"{i}", ("x",), (), None), sound(i)) for i in range(200))
        write_shards(pairs, tmp_path / "shards", per_shard=4, rate_hz=RATE_HZ)
        return tmp_path / "shards"

    def loader(self, folder, **options) -> Loader:
        return Loader(
            ShardSource(folder), rate_hz=RATE_HZ, tokenize=lambda texts: [[1] for _ in texts],
            cost=lambda s: 1, budget=4, seed=1, prefetch=0, **options,
        )  # fmt: skip

    def epoch(self, made: Loader, first: int, spoil=lambda: None) -> list[str]:
        """The keys of one epoch, in whose middle something happens."""
        batches, steps, keys = made.batches(first), made.steps_in(1), []
        for step in range(steps):
            if step == steps // 2:
                spoil()
            keys += next(batches).keys
        batches.close()
        return keys

    def test_a_shard_that_goes_and_comes_back(self, folder, caplog, monkeypatch):
        clock = [0.0]
        monkeypatch.setattr(shards.time, "monotonic", lambda: clock[0])
        whole, tar = self.epoch(self.loader(folder), 0), folder / "shard-000007.tar"
        made = self.loader(folder)
        kept = self.epoch(made, 0, lambda: tar.rename(folder / "away"))
        lost = set(whole) - set(kept)
        assert lost <= {"28", "29", "30", "31"}
        assert set(made.bad) == lost != set()
        assert [key for key in whole if key not in lost] == kept
        told = [r.getMessage() for r in caplog.records if "4 clips count as bad" in r.getMessage()]
        assert len(told) == 1
        (folder / "away").rename(tar)
        clock[0] += 61
        assert sorted(self.epoch(made, made.steps_in(1)), key=int) == sorted(whole, key=int)

    def test_a_shard_that_is_damaged_by_its_checksum(self, folder):
        whole, made = self.epoch(self.loader(folder), 0), self.loader(folder)
        tar = folder / "shard-000007.tar"

        def spoil() -> None:
            raw = bytearray(tar.read_bytes())
            with tarfile.open(tar) as members:
                told = [member for member in members if member.name.endswith(".flac")]
            for member in told:
                raw[member.offset_data + member.size // 2] ^= 1
            tar.write_bytes(raw)

        kept = self.epoch(made, 0, spoil)
        assert [key for key in whole if key not in made.bad] == kept
        assert set(made.bad) <= {"28", "29", "30", "31"}
        assert set(made.bad.values()) == {"damaged: not the bytes that were written (checksum)"}

    def test_too_many_that_go_stop_the_run_with_their_names(self, folder):
        def spoil() -> None:
            for number in range(20):
                (folder / f"shard-{number:06d}.tar").unlink()

        line = refused(self.epoch, self.loader(folder), 0, spoil)
        assert "more than the allowed 0.05 of all" in line
        assert "the tar cannot be read (No such file or directory)" in line

    def test_a_clock_that_jumps_changes_nothing(self, folder, monkeypatch):
        whole = self.epoch(self.loader(folder), 0)
        jumps = iter(range(0, -(10**9), -(10**6)))
        made = self.loader(folder)
        monkeypatch.setattr(time, "time", lambda: next(jumps))
        assert self.epoch(made, 0) == whole
