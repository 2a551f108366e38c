from __future__ import annotations

import logging
import os
import tarfile
from collections import namedtuple

import numpy as np
import pytest

from echoic.data import shard_writing
from echoic.data.clips import Clip
from echoic.data.shards import write_shards
from echoic.data.sources import open_source
from tests.data.test_shards import RATE_HZ, pairs, refused, sound


@pytest.fixture
def folder(tmp_path):
    """Three shards of 4, 4 and 2 clips."""
    write_shards(pairs(10), tmp_path / "shards", per_shard=4, rate_hz=RATE_HZ)
    return tmp_path / "shards"


class TestWriting:
    def test_bad_clips_are_counted_and_named(self, tmp_path, caplog):
        def some():
            yield Clip("good", ("x",), (), None), sound(0)
            yield Clip("quiet", ("x",), (), None), np.zeros(800, np.float32)
            yield Clip("nan", ("x",), (), None), np.full(800, np.nan, np.float32)

        with caplog.at_level(logging.WARNING):
            summary = write_shards(some(), tmp_path, rate_hz=RATE_HZ)
        assert summary.clips == 1
        assert list(summary.bad) == ["quiet", "nan"]
        assert "clip quiet left out: silent" in caplog.text

    def test_no_usable_clip(self, tmp_path):
        mute = [(Clip("quiet", ("x",), (), None), np.zeros(800, np.float32))]
        assert "no usable clip to write (quiet: silent)" in refused(
            write_shards, mute, tmp_path, rate_hz=RATE_HZ
        )
        assert "no usable clip" in refused(write_shards, [], tmp_path, rate_hz=RATE_HZ)

    def test_no_caption(self, tmp_path):
        clips = [(Clip("a", (), (), None), sound(0))]
        assert "clip a has no caption" in refused(write_shards, clips, tmp_path, rate_hz=RATE_HZ)

    def test_nothing_is_overwritten(self, folder):
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        line = refused(write_shards, pairs(1), folder, rate_hz=RATE_HZ)
        assert "already holds shards; remove it" in line
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before

    @pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()])
    def test_stopped_midway_leaves_whole_shards_alone(self, tmp_path, error):
        def stopped():
            yield from pairs(6)
            raise error

        with pytest.raises(type(error)):
            write_shards(stopped(), tmp_path, per_shard=4, rate_hz=RATE_HZ)
        assert [p.name for p in tmp_path.iterdir()] == ["shard-000000.tar"]
        assert len(open_source(tmp_path).clips) == 4
        assert "unfinished run" in refused(write_shards, pairs(1), tmp_path, rate_hz=RATE_HZ)

    def test_a_full_disk_is_told_before_it_is_full(self, tmp_path, monkeypatch):
        usage = namedtuple("usage", "total used free")
        rooms = iter([10**9] * 9 + [10**6] * 9)
        monkeypatch.setattr(shard_writing.shutil, "disk_usage", lambda _: usage(0, 0, next(rooms)))
        line = refused(write_shards, pairs(9), tmp_path, per_shard=4, rate_hz=RATE_HZ)
        assert f"{tmp_path}: no free disk space; 1 whole shards (4 clips) are written" in line
        assert [p.name for p in tmp_path.iterdir()] == ["shard-000000.tar"]

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
    def test_a_disk_that_is_full_in_truth(self, tmp_path, monkeypatch):
        tar = tarfile.open
        monkeypatch.setattr(
            shard_writing.tarfile, "open", lambda _path, mode: tar("/dev/full", mode)
        )
        line = refused(write_shards, pairs(3), tmp_path, rate_hz=RATE_HZ)
        assert "no free disk space; 0 whole shards" in line
        assert not list(tmp_path.iterdir())

    def test_wrong_places_and_formats(self, tmp_path):
        (tmp_path / "file").write_text("")
        assert "folder" in refused(write_shards, pairs(1), tmp_path / "file", rate_hz=RATE_HZ)
        line = refused(write_shards, pairs(1), tmp_path / "x", rate_hz=RATE_HZ, format="mp3")
        assert "wanted one of flac, wav" in line
