from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echoic.data import building
from echoic.data.building import PLAN, RECORDS, build_shards
from echoic.data.clips import Clip, ConcatSource, RecaptionedSource, SubsetSource, part_of
from echoic.data.shard_writing import SIZES, SUMS
from echoic.data.sources import FileSource, open_source
from echoic.types import AudioError, DataError

RATE_HZ = 8000
OPTIONS = {"rate_hz": RATE_HZ, "per_shard": 4}


def source_in(folder: Path, count: int = 30, *, bad: tuple[int, ...] = ()) -> FileSource:
    clips, paths = [], []
    folder.mkdir(exist_ok=True)
    for i in range(count):
        wave = np.random.default_rng(i).uniform(-0.9, 0.9, 800 + 80 * i)
        path = folder / f"{i}.wav"
        soundfile.write(path, wave * (i not in bad), RATE_HZ)
        clips.append(Clip(f"set/{i}.wav", (f"caption {i}",), ("x",), None))
        paths.append(path)
    return FileSource(clips, paths)


@pytest.fixture
def source(tmp_path):
    """30 clips of which two are silent."""
    return source_in(tmp_path / "sound", bad=(3, 17))


def refused(*args, **options) -> str:
    with pytest.raises(DataError) as caught:
        build_shards(*args, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


def content(folder: Path) -> dict[str, bytes]:
    """All but the indices, which hold the time of their tars."""
    files = [p for p in folder.iterdir() if not p.name.endswith(".index.json")]
    return {path.name: path.read_bytes() for path in files}


class StopError(Exception):
    pass


def stops_after(shards: int):
    def progress(now) -> None:
        if now.shards == shards:
            raise StopError

    return progress


def test_what_is_built_is_what_the_source_has(source, tmp_path, caplog):
    seen = []
    with caplog.at_level(logging.WARNING):
        summary = build_shards(source, tmp_path / "out", progress=seen.append, **OPTIONS)
    assert (summary.shards, summary.clips) == (8, 28)
    assert summary.bad == {"set/3.wav": "silent", "set/17.wav": "silent"}
    assert "clip set/3.wav left out: silent" in caplog.text
    made = open_source(tmp_path / "out")
    whole = [i for i in range(30) if i not in (3, 17)]
    assert [clip.key for clip in made.clips] == [f"set_{i}" for i in whole]
    for at, i in enumerate(whole):
        expected = source.read(i, RATE_HZ)
        np.testing.assert_allclose(made.read(at, RATE_HZ), expected, atol=2**-15)
    sizes = json.loads((tmp_path / "out" / SIZES).read_text())
    assert list(sizes.values()) == [3, 4, 4, 4, 3, 4, 4, 2]
    assert [now.shards for now in seen] == list(range(1, 9))
    assert (seen[-1].clips, seen[-1].of_clips, seen[-1].kept) == (30, 30, 0)
    assert seen[-1].audio_s == pytest.approx(summary.audio_s)
    left = {p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith("shard-")}
    assert left == {SIZES, SUMS, PLAN}


def test_stopped_anywhere_it_goes_on_to_the_same_bytes(source, tmp_path):
    whole = build_shards(source, tmp_path / "whole", **OPTIONS)
    for shards in (1, 3, 8):
        out = tmp_path / f"{shards}"
        with pytest.raises(StopError):
            build_shards(source, out, progress=stops_after(shards), **OPTIONS)
        before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.tar")}
        seen = []
        again = build_shards(source, out, progress=seen.append, **OPTIONS)
        assert vars(again) == {**vars(whole), "folder": out}
        assert content(out) == content(tmp_path / "whole")
        assert seen[-1].kept == min(30, 4 * shards)
        assert all((out / name).stat().st_mtime_ns == time for name, time in before.items())


def test_a_finished_shard_that_is_damaged_is_made_anew(source, tmp_path):
    build_shards(source, tmp_path / "whole", **OPTIONS)
    out = tmp_path / "out"
    with pytest.raises(StopError):
        build_shards(source, out, progress=stops_after(4), **OPTIONS)
    flipped = bytearray((out / "shard-000001.tar").read_bytes())
    flipped[len(flipped) // 3] ^= 1
    (out / "shard-000001.tar").write_bytes(flipped)
    (out / "shard-000002.tar").unlink()
    os.truncate(out / "shard-000003.tar", 1000)
    (out / RECORDS / "shard-000000.tar.json").write_text("{")
    (out / ".shard-000005.tar.0badf00d.part").write_bytes(b"left by a kill")
    seen = []
    build_shards(source, out, progress=seen.append, **OPTIONS)
    assert content(out) == content(tmp_path / "whole")
    assert seen[-1].kept == 0


def test_a_complete_folder_is_left_as_it_is(source, tmp_path):
    first = build_shards(source, tmp_path / "out", **OPTIONS)
    again = build_shards(source, tmp_path / "out", run=None, **OPTIONS)
    assert again == first
    (tmp_path / "out" / "shard-000002.tar").unlink()
    assert build_shards(source, tmp_path / "out", **OPTIONS) == first


def test_other_settings_and_clips_are_refused(source, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(StopError):
        build_shards(source, out, progress=stops_after(1), **OPTIONS)
    line = refused(source, out, rate_hz=4000, per_shard=4)
    assert "already holds shards of others (rate_hz 8000, now 4000)" in line
    told = RecaptionedSource(source, lambda clip: ("something else",))
    assert "of other clips or captions" in refused(told, out, **OPTIONS)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").write_text("")
    assert "holds something else" in refused(source, tmp_path / "x", **OPTIONS)
    assert "wanted one of flac, wav" in refused(source, tmp_path / "y", format="mp3", **OPTIONS)


def test_no_usable_clip_and_no_caption(tmp_path):
    mute = source_in(tmp_path / "mute", 5, bad=(0, 1, 2, 3, 4))
    line = refused(mute, tmp_path / "out", **OPTIONS)
    assert "no usable clip to write (set/0.wav: silent)" in line
    bare = RecaptionedSource(mute, lambda clip: ())
    assert "clip set/0.wav has no caption" in refused(bare, tmp_path / "out2", **OPTIONS)


def test_a_full_disk_is_told_and_the_run_goes_on_later(source, tmp_path, monkeypatch):
    build_shards(source, tmp_path / "whole", **OPTIONS)
    out, close = tmp_path / "out", building.TarWriter.close

    def full(self):
        if self.path.name == "shard-000002.tar":
            raise OSError(28, "No space left on device")
        return close(self)

    monkeypatch.setattr(building.TarWriter, "close", full)
    line = refused(source, out, **OPTIONS)
    assert line == (
        f"{out}: no free disk space; shard-000002.tar is not written; the same call goes on"
    )
    assert not list(out.glob(".*.part"))
    monkeypatch.setattr(building.TarWriter, "close", close)
    build_shards(source, out, **OPTIONS)
    assert content(out) == content(tmp_path / "whole")


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.data.test_building import OPTIONS, Slow, source_in
from echoic.data.building import build_shards
from echoic.data.runners import Processes
def progress(now):
    print(now.shards, flush=True)
place, count = Path(sys.argv[1]), int(sys.argv[3])
source = source_in(place / "sound", bad=(3, 17))
source = Slow(source.clips, source.paths)
build_shards(source, place / "out", run=Processes(count) if count else map, progress=progress,
             **OPTIONS)
"""


def test_a_kill_at_the_very_end_leaves_nothing(source, tmp_path):
    """All is there but the tidying: the next call, which has nothing to do, does it."""
    out = tmp_path / "out"
    build_shards(source, out, **OPTIONS)
    before = content(out)
    (out / RECORDS).mkdir()
    (out / ".building.json.part").write_text("{")
    build_shards(source, out, **OPTIONS)
    assert content(out) == before


class Slow(FileSource):
    """A shard of it takes 0.1 s."""

    def part(self, first, stop):
        return Slow(self.clips[first:stop], self.paths[first:stop])

    def read(self, i, rate_hz):
        time.sleep(0.025)
        return super().read(i, rate_hz)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
@pytest.mark.timeout(300)
def test_kill_9_at_any_moment(source, tmp_path):
    build_shards(source, tmp_path / "whole", **OPTIONS)
    root = str(Path(__file__).parents[2])
    rng = np.random.default_rng(int.from_bytes(os.urandom(4)))
    for run, count in enumerate((0, 2)):
        command = [sys.executable, "-c", CHILD, str(tmp_path), root, str(count)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            told = [process.stdout.readline().strip() for _ in range(run + 1)]
            assert told[-1] == str(run + 1), "nothing was built"
            time.sleep(rng.uniform(0, 0.1))
            group = [p for p in _of_session(process.pid) if p != process.pid]
            process.kill()
            assert process.wait() == -signal.SIGKILL
            assert len(group) >= count
            _gone(group)
    seen = []
    build_shards(source, tmp_path / "out", progress=seen.append, **OPTIONS)
    assert seen[-1].kept >= 4
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def _of_session(leader: int) -> list[int]:
    """The processes that a process of its own session has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after_name[3]) == leader and after_name[0] != "Z":
            found.append(int(folder.name))
    return found


def _gone(processes: list[int]) -> None:
    end = time.monotonic() + 20
    while any(Path(f"/proc/{p}").exists() and _state(p) != "Z" for p in processes):
        assert time.monotonic() < end, "children outlive a parent that was killed"
        time.sleep(0.05)


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


class TestParts:
    """What goes to a process is small, and is the same clips."""

    def same(self, source, first, stop):
        part = part_of(source, first, stop)
        assert part.clips == source.clips[first:stop]
        for i in range(stop - first):
            try:
                expected = source.read(first + i, RATE_HZ)
            except AudioError:
                continue
            assert np.array_equal(part.read(i, RATE_HZ), expected)
        return part

    def test_of_every_kind_of_source(self, source, tmp_path):
        build_shards(source, tmp_path / "out", **OPTIONS)
        shards = open_source(tmp_path / "out")
        subset = SubsetSource(source, [5, 4, 9, 20, 21, 22])
        both = ConcatSource({"a": shards, "b": subset})
        told = RecaptionedSource(both, lambda clip: (clip.key,))
        self.same(source, 3, 9)
        self.same(subset, 1, 5)
        assert len(self.same(shards, 3, 9).clips) == 6
        self.same(both, 26, 31)
        self.same(both, 0, 3)
        self.same(told, 27, 34)
        self.same(SubsetSource(told, range(26, 30)), 1, 3)

    def test_holds_no_more_than_its_clips(self, source):
        part = part_of(SubsetSource(source, range(30)), 8, 12)
        inner = part.source.source
        assert isinstance(inner, FileSource)
        assert len(inner.clips) == 4
