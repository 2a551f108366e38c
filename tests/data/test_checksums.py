from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest

from echoic.data.checksums import damaged_tars
from echoic.data.clips import Clip
from echoic.data.shards import ShardSource, write_shards
from echoic.types import AudioError, DataError

RATE_HZ = 8000


@pytest.fixture
def folder(tmp_path):
    """Three shards of 4, 4 and 2 clips."""
    made = (
        (
            Clip(f"clip{i}", (f"caption {i}",), (), None),
            np.random.default_rng(i).uniform(-0.9, 0.9, 4000).astype(np.float32),
        )
        for i in range(10)
    )
    write_shards(made, tmp_path / "shards", per_shard=4, rate_hz=RATE_HZ)
    return tmp_path / "shards"


def flip(path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 16
    path.write_bytes(raw)


def test_whole_and_then_not(folder):
    assert damaged_tars(folder) == {}
    flip(folder / "shard-000001.tar", 5000)
    (folder / "shard-000002.tar").unlink()
    assert damaged_tars(folder) == {
        "shard-000001.tar": "not the bytes that were written (checksum)",
        "shard-000002.tar": "not there",
    }


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs sha256sum")
def test_the_list_is_one_that_others_read(folder):
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True)


def test_without_a_list(folder, tmp_path):
    (folder / "SHA256SUMS").unlink()
    assert damaged_tars(folder) == {}
    assert damaged_tars(folder / "shard-000000.tar") == {}
    assert damaged_tars(tmp_path / "none") == {}


@pytest.mark.parametrize("text", ["<html>", f"{'0' * 64}  ../x.tar\n"])
def test_what_is_no_list(folder, text):
    (folder / "SHA256SUMS").write_text(text)
    with pytest.raises(DataError, match="SHA256SUMS: not a list of SHA-256 and names"):
        damaged_tars(folder)


def test_any_flipped_bit_of_a_clip_is_told_when_it_is_read(folder, rng):
    """Without the checksum, a decoder hears something else, or nothing, and says so or not."""
    source = ShardSource(folder)
    for i in range(10):
        place = source._place(i)
        flip(place.tar, place.offset + int(rng.integers(place.size)))
        with pytest.raises(AudioError, match=rf"clip{i}\.flac: damaged: not the bytes"):
            source.read(i, RATE_HZ)
        with pytest.raises(AudioError, match="checksum"):
            source.read_window(i, RATE_HZ, 0.1, 0.1)


def test_the_checksum_of_a_clip_goes_with_its_tar(folder, tmp_path):
    """Copied alone, with another time, and without its index."""
    ShardSource(folder)
    copy = tmp_path / "elsewhere.tar"
    shutil.copyfile(folder / "shard-000000.tar", copy)
    os.utime(copy, (1, 1))
    place = ShardSource(copy)._place(2)
    flip(copy, place.offset + 100)
    with pytest.raises(AudioError, match="checksum"):
        ShardSource(copy).read(2, RATE_HZ)
