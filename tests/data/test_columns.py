from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from echoic.data import columns, files, shards
from echoic.data.clips import Clip, ConcatSource, RetoldSource, SubsetSource, durations_of
from echoic.data.shards import ShardSource, write_shards
from echoic.data.split import hold_out
from echoic.types import DataError

RATE_HZ = 8000


def sound(i: int) -> np.ndarray:
    return np.random.default_rng(i).uniform(-0.9, 0.9, 400 + 8 * i).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Five shards of 4, 4, 4, 4 and 2 clips, and a cache of its own."""
    monkeypatch.setenv("ECHOIC_CACHE", str(tmp_path / "cache"))
    pairs = ((Clip(f"clip é{i}", (f"caption {i}",), ("x",), None), sound(i)) for i in range(18))
    write_shards(pairs, tmp_path / "shards", per_shard=4, rate_hz=RATE_HZ)
    return tmp_path / "shards"


@pytest.fixture
def on_disk(monkeypatch):
    """Even few clips are many."""
    monkeypatch.setattr(columns, "_SPILL_BYTES", 300)


def kept_folders(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "shards").glob("*"))


def assert_same(one: ShardSource, two: ShardSource) -> None:
    assert list(one.clips) == list(two.clips)
    assert (one.clips.digest, one.clips.captioned) == (two.clips.digest, two.clips.captioned)
    assert np.array_equal(one.clips.durations_s, two.clips.durations_s)
    assert np.array_equal(one.clips.places, two.clips.places)
    assert list(one.tars) == list(two.tars)
    assert list(one.rows) == list(two.rows)
    for i in range(len(one.clips)):
        assert one._place(i) == two._place(i)
        assert np.array_equal(one.read(i, RATE_HZ), two.read(i, RATE_HZ))


def test_few_stay_in_memory(folder, tmp_path):
    ShardSource(folder)
    assert not kept_folders(tmp_path)


def test_many_lie_on_the_disk_and_are_the_same(folder, tmp_path, on_disk, monkeypatch):
    made = ShardSource(folder)
    assert len(kept_folders(tmp_path)) == 1
    monkeypatch.setattr(shards, "open_index", lambda tar: pytest.fail("no tar is opened again"))
    found = ShardSource(folder)
    assert isinstance(found.clips.durations_s.base, np.memmap | np.ndarray)
    assert not found.clips.durations_s.flags.writeable
    assert_same(made, found)
    monkeypatch.undo()
    monkeypatch.setenv("ECHOIC_CACHE", str(tmp_path / "cache"))
    assert_same(found, ShardSource(folder))


def test_other_choices_and_other_tars_are_other_columns(folder, tmp_path, on_disk):
    before = ShardSource(folder)
    ShardSource(folder, need_captions=False)
    assert len(kept_folders(tmp_path)) == 2
    last = folder / "shard-000004.tar"
    write_shards([(Clip("new", ("y",), (), None), sound(0))], tmp_path / "one", rate_hz=RATE_HZ)
    last.write_bytes((tmp_path / "one" / "shard-000000.tar").read_bytes())
    after = ShardSource(folder)
    assert len(after.clips) == 17
    assert after.clips.digest != before.clips.digest
    assert len(kept_folders(tmp_path)) == 2
    # whoever holds the old ones goes on
    assert before.clips[17].captions == ("caption 17",)


def test_keys_that_come_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("ECHOIC_CACHE", str(tmp_path / "cache"))
    for number, keys in enumerate((("a", "b"), ("b", "c"), ("a", "d"))):
        pairs = [(Clip(key, ("x",), (), None), sound(0)) for key in keys]
        write_shards(pairs, tmp_path / "w", rate_hz=RATE_HZ)
        (tmp_path / "shards").mkdir(exist_ok=True)
        os.replace(tmp_path / "w/shard-000000.tar", tmp_path / f"shards/{number}.tar")
        (tmp_path / "w/sizes.json").unlink()
    wanted = ["0/a", "0/b", "1/b", "c", "2/a", "d"]
    in_memory = ShardSource(tmp_path / "shards")
    assert [clip.key for clip in in_memory.clips] == wanted
    monkeypatch.setattr(columns, "_SPILL_BYTES", 10)
    assert_same(in_memory, ShardSource(tmp_path / "shards"))
    assert_same(in_memory, ShardSource(tmp_path / "shards"))
    plain = SubsetSource(in_memory, range(6))
    told = RetoldSource(in_memory, list(in_memory.clips))
    assert np.array_equal(plain.clips.places, columns.key_places(c.key for c in told.clips))


def test_what_was_said_of_damage_is_said_again(folder, on_disk, caplog):
    os.truncate(folder / "shard-000002.tar", 3000)
    with caplog.at_level(logging.WARNING, "echoic.data"):
        first = ShardSource(folder, missing="skip")
        said = [record.getMessage() for record in caplog.records]
        caplog.clear()
        assert_same(first, ShardSource(folder, missing="skip"))
    assert said == [record.getMessage() for record in caplog.records]
    assert "shard-000002.tar: damaged" in said[0]
    assert "1 of 1 clips have no caption" in said[1]


def test_a_part_goes_to_another_process(folder, on_disk):
    whole = ShardSource(folder)
    part = pickle.loads(pickle.dumps(whole.part(3, 10)))
    assert part.clips == whole.clips[3:10]
    assert [part._place(i) for i in range(7)] == [whole._place(i) for i in range(3, 10)]
    assert len(whole.part(5, 5).clips) == 0
    assert_same(pickle.loads(pickle.dumps(whole)), whole)


def test_views_are_lists_of_clips(folder):
    whole = ShardSource(folder)
    clips = list(whole.clips)
    assert whole.clips[-1] == clips[-1]
    assert whole.clips[2:9:3] == clips[2:9:3]
    assert clips[4] in whole.clips
    assert whole.clips != clips[:-1]
    for wrong in (18, -19):
        with pytest.raises(IndexError, match=f"clip {wrong} of 18"):
            whole.clips[wrong]
    some = SubsetSource(whole, [9, 2, 5])
    assert list(some.clips) == [clips[9], clips[2], clips[5]]
    both = ConcatSource({"a": some, "b": whole})
    assert [clip.key for clip in both.clips][2:4] == [f"a/{clips[5].key}", f"b/{clips[0].key}"]
    for each in (some, both):
        assert np.array_equal(each.clips.durations_s, durations_of(list(each.clips)))
        assert np.array_equal(each.clips.places, columns.key_places(c.key for c in each.clips))
    digests = {s.clips.digest for s in (whole, some, both, SubsetSource(whole, [9, 5, 2]))}
    assert len(digests) == 4


def test_held_out_as_if_they_were_objects(folder):
    whole = ShardSource(folder)
    kept, held = hold_out(whole, 0.3)
    kept_too, held_too = hold_out(RetoldSource(whole, list(whole.clips)), 0.3)
    assert (kept.clips, held.clips) == (kept_too.clips, held_too.clips)


class TestFaults:
    def test_a_disk_that_refuses_is_one_line(self, folder, tmp_path, on_disk, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("ECHOIC_CACHE", str(tmp_path / "file"))
        with pytest.raises(
            DataError, match=r"index .* \(Not a directory\); set ECHOIC_CACHE"
        ) as told:
            ShardSource(folder)
        assert "\n" not in str(told.value)

    def test_a_disk_that_fills_leaves_nothing(self, folder, tmp_path, on_disk, monkeypatch):
        def full(self):
            spill(self)
            raise DataError("full")

        spill = columns.Writer._spill
        monkeypatch.setattr(columns.Writer, "_spill", full)
        with pytest.raises(DataError, match="full"):
            ShardSource(folder)
        assert not kept_folders(tmp_path)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 0}'])
    def test_what_a_kill_left_is_made_anew(self, folder, tmp_path, on_disk, text):
        made = ShardSource(folder)
        (kept,) = (tmp_path / "cache" / "shards").glob("*")
        (kept / "about.json").write_text(text)
        assert_same(made, ShardSource(folder))
        assert json.loads((kept / "about.json").read_text())["digest"] == made.clips.digest
        (kept / "offset.bin").unlink()
        assert_same(made, ShardSource(folder))
        for held in (b"x", bytes(8)):
            (kept / "size.bin").write_bytes(held)
            assert_same(made, ShardSource(folder))

    def test_another_rank_that_was_quicker(self, folder, tmp_path, on_disk, monkeypatch):
        """What it has put there meanwhile is taken: all processes share one on the disk."""
        last, theirs = columns._tell_apart, []

        def late(*given):
            if not theirs:
                theirs.append(None)  # as it comes by here too
                theirs[:] = [ShardSource(folder), files_there()]
            return last(*given)

        def files_there() -> set[int]:
            shards = tmp_path / "cache" / "shards"
            return {path.stat().st_ino for path in shards.glob("*.columns/*.bin")}

        monkeypatch.setattr(columns, "_tell_apart", late)
        ours = ShardSource(folder)
        assert_same(theirs[0], ours)
        assert files_there() == theirs[1]
        assert len(kept_folders(tmp_path)) == 1

    def test_one_comes_between(self, folder, tmp_path, on_disk, monkeypatch):
        """After this one has looked whether the place is free."""
        rename, theirs = columns.Path.replace, []

        def late(path, to):
            if path.name.endswith(".part") and not theirs:
                theirs.append(None)
                theirs[:] = [ShardSource(folder)]
            return rename(path, to)

        monkeypatch.setattr(columns.Path, "replace", late)
        ours = ShardSource(folder)
        (lies,) = kept_folders(tmp_path)
        assert_same(theirs[0], ours)
        assert not lies.startswith(".")

    def test_what_a_killed_process_of_the_same_number_left(self, folder, tmp_path, on_disk):
        """In a container every run is process 1."""
        made = ShardSource(folder)
        (lies,) = (tmp_path / "cache" / "shards").glob("*")
        lies.rename(lies.with_name(f".{lies.name}.{os.getpid()}.part"))
        assert_same(made, ShardSource(folder))

    def test_ranks_that_start_together(self, folder, tmp_path):
        """All of them build at once; whoever comes later takes what is there."""
        code = (
            "from echoic.data import columns; columns._SPILL_BYTES = 300\n"
            "from echoic.data.shards import ShardSource\n"
            f"s = ShardSource({str(folder)!r})\n"
            "print(s.clips.digest, sum(len(s.read(i, 8000)) for i in range(18)))"
        )
        ranks = [
            subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = {rank.communicate()[0] for rank in ranks}
        assert [rank.returncode for rank in ranks] == [0, 0]
        assert len(said) == 1
        assert len(kept_folders(tmp_path)) == 1


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("ECHOIC_CACHE", str(tmp_path))
    assert columns.kept_place("x").is_relative_to(files.cache_folder())
