from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import soundfile

from echoic.data.building import build_shards
from echoic.data.clips import part_of
from echoic.data.parquet import ParquetSource
from echoic.data.sources import open_source
from echoic.types import AudioError, DataError

RATE_HZ = 8000


def sound(i: int) -> np.ndarray:
    return np.random.default_rng(i).uniform(-0.9, 0.9, 800 + 80 * i).astype(np.float32)


def encoded(i: int) -> bytes:
    memory = io.BytesIO()
    soundfile.write(memory, sound(i), RATE_HZ, format="FLAC")
    return memory.getvalue()


def written(path, rows, *, audio: str = "audio", per_group: int = 4):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        audio: pa.array([row[0] for row in rows], kind),
        "caption": pa.array([row[1] for row in rows]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=per_group)
    return path


def rows(*numbers: int):
    return [({"bytes": encoded(i), "path": f"{i}.flac"}, f"caption {i}") for i in numbers]


def test_clips_in_order_and_by_parts(tmp_path):
    written(tmp_path / "data" / "train-0.parquet", rows(*range(10)))
    written(tmp_path / "data" / "train-1.parquet", rows(10, 11, 3))
    source = open_source(tmp_path)
    assert isinstance(source, ParquetSource)
    keys = [f"{i}.flac" for i in range(12)]
    keys[3] = "train-0/3.flac"
    assert [clip.key for clip in source.clips] == [*keys, "train-1/3.flac"]
    numbers = [*range(12), 3]
    for at in (0, 12, 5, 11, 4):
        assert np.abs(source.read(at, RATE_HZ) - sound(numbers[at])).max() <= 2**-15
        assert source.clips[at].captions == (f"caption {numbers[at]}",)
    part = part_of(source, 8, 12)
    assert part.clips == source.clips[8:12]
    assert np.array_equal(part.read(3, RATE_HZ), source.read(11, RATE_HZ))


def test_from_front_to_back_each_row_group_is_read_once(tmp_path, monkeypatch):
    path = written(tmp_path / "x.parquet", rows(*range(10)))
    source = open_source(path)
    import pyarrow.parquet as pq

    groups = []
    read = pq.ParquetFile.read_row_group

    def counted(self, group, **options):
        groups.append((group, options["columns"]))
        return read(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    build_shards(source, tmp_path / "out", rate_hz=RATE_HZ, per_shard=100)
    assert groups == [(group, ["audio"]) for group in range(3)]
    assert [clip.key for clip in open_source(tmp_path / "out").clips][:2] == ["0", "1"]


def test_each_clip_has_a_key_of_its_own(tmp_path):
    def alike(*numbers: int):
        return [({**sound, "path": "audio.wav"}, said) for sound, said in rows(*numbers)]

    written(tmp_path / "one" / "train.parquet", alike(*range(6)))
    keys = [clip.key for clip in ParquetSource(tmp_path / "one").clips]
    assert keys[:2] == ["0-0/train/audio.wav", "0-1/train/audio.wav"]
    assert keys[4] == "1-0/train/audio.wav"
    assert keys == [clip.key for clip in ParquetSource(tmp_path / "one" / "train.parquet").clips]
    written(tmp_path / "two" / "train.parquet", alike(6, 7))
    keys = [clip.key for clip in ParquetSource(tmp_path).clips]
    assert len(set(keys)) == 8
    assert keys[-1] == "two/0-1/train/audio.wav"


def test_a_path_in_place_of_bytes(tmp_path):
    (tmp_path / "a.flac").write_bytes(encoded(1))
    names = [({"bytes": None, "path": "a.flac"}, "a"), ({"bytes": None, "path": None}, "b")]
    source = open_source(written(tmp_path / "x.parquet", names))
    assert [clip.key for clip in source.clips] == ["a.flac", "x-1"]
    assert len(source.read(0, RATE_HZ)) == 880
    with pytest.raises(AudioError, match="row group 0 row 1: neither bytes nor a path"):
        source.read(1, RATE_HZ)


def test_what_is_wrong_is_told(tmp_path):
    path = written(tmp_path / "x.parquet", [*rows(0, 1), ({"bytes": b"no", "path": "c"}, "")])
    with pytest.raises(DataError, match=r"1 of 3 rows have no caption: x\.parquet 'c'"):
        open_source(path)
    source = open_source(path, missing="skip")
    assert len(source.clips) == 2
    with pytest.raises(DataError, match=r"no column 'x'; it has 'caption'"):
        open_source(path, caption_column="x")
    with pytest.raises(DataError, match="column 'caption' holds no audio bytes; audio do"):
        open_source(path, file_column="caption")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read"):
        open_source(path)
    with pytest.raises(AudioError, match=r"x\.parquet row group 0 row 0: cannot be read"):
        source.read(0, RATE_HZ)


def test_fewer_sounds_than_rows(tmp_path):
    """As in a file whose columns disagree, or that was written anew meanwhile."""
    path = written(tmp_path / "x.parquet", rows(0, 1, 2))
    source = open_source(path)
    written(path, rows(0, 1))
    assert len(source.read(1, RATE_HZ)) == len(sound(1))
    with pytest.raises(AudioError, match=r"row 2: is not there: its row group holds 2 sounds"):
        source.read(2, RATE_HZ)


def test_text_that_is_none_is_told(tmp_path):
    path = written(tmp_path / "x.parquet", [({"bytes": b"", "path": "a"}, "ringing bells")])
    raw = path.read_bytes()
    assert raw.count(b"ringing bells") > 1  # the cell, and the least and the most of its column
    path.write_bytes(raw.replace(b"ringing bells", b"ringing \xe1ells"))
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read \('utf-8' codec"):
        open_source(path)


def test_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"needs pyarrow; pip install 'echoic\[parquet\]'"):
        open_source(tmp_path / "x.parquet")
