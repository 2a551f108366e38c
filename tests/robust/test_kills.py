"""Works killed at drawn moments, steps and bytes end as if undisturbed (benchmarks/kills.py)."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import kills
from benchmarks.kill_works import WORKS, Work

ROOT = Path(__file__).resolve().parents[2]
QUICK = [work.name for work in WORKS if not work.name.startswith("training")]
TRAINING = [work.name for work in WORKS if work.name.startswith("training")]


def survived(names: list[str], count: int) -> dict[str, dict[str, int]]:
    """In a process of its own: pytest's has threads, which no fork takes along."""
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", str(count), "--only", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_data_and_index():
    told = survived(QUICK, 2)
    assert told["kills"] == dict.fromkeys(QUICK, 2)
    assert all(ends >= 1 for ends in told["ends"].values())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training():
    told = survived(TRAINING, 6)
    assert told["kills"] == dict.fromkeys(TRAINING, 6)


# -- the tests of this test ----------------------------------------------------------------------


def work(run) -> Work:
    def same(place: Path, other: Path) -> None:
        assert (place / "count").read_text() == (other / "count").read_text()

    return Work("counting", lambda place: None, run, same)


def counting(place: Path) -> None:
    """Loses nothing: each line has its name when it is whole."""
    for i in range(5):
        scratch, kept = place / "scratch", place / "count"
        before = kept.read_text() if kept.exists() else ""
        if len(before) // 100 <= i:
            with scratch.open("w") as file:
                file.write(before + str(i) * 100)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(kept)


def careless(place: Path) -> None:
    """Writes in place, and takes what is there for whole."""
    if not (place / "count").exists():
        with (place / "count").open("w", buffering=1) as file:
            for i in range(100):
                file.write(f"{i}\n")
                os.fsync(file.fileno())


@pytest.fixture
def forks():
    """Forks of this process with its threads are what CPython warns of; these do nothing else."""
    if sys.version_info >= (3, 12):
        pytest.skip("a process with threads is not forked in tests")


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_a_work_that_loses_nothing_passes(tmp_path):
    found = kills.survived(work(counting), tmp_path, 9, seed=0)
    assert found["kills"] == 9
    assert found["ends"] >= 2
    assert found["step"] >= 1
    assert found["byte"] >= 1


@pytest.mark.usefixtures("forks")
def test_one_that_takes_half_for_whole_is_found(tmp_path):
    with pytest.raises(AssertionError, match="counting: another end than undisturbed"):
        kills.survived(work(careless), tmp_path, 9, seed=0)


@pytest.mark.usefixtures("forks")
def test_a_failure_of_its_own_is_no_kill(tmp_path):
    def fails(place: Path) -> None:
        raise OSError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        kills.lived(work(fails), tmp_path, kills.Plan(), random.Random(0))


@pytest.mark.usefixtures("forks")
def test_a_kill_in_the_middle_of_a_write_leaves_its_beginning(tmp_path):
    def writes(place: Path) -> None:
        (place / "file").write_bytes(bytes(10_000))

    plan = kills.Plan("byte", 1234)
    assert kills.lived(work(writes), tmp_path, plan, random.Random(0)).killed
    assert (tmp_path / "file").stat().st_size == 1234


@pytest.mark.usefixtures("forks")
def test_what_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "LONGEST_S", 0.2)
    with pytest.raises(RuntimeError, match="did not end within"):
        kills.lived(work(lambda place: time.sleep(60)), tmp_path, kills.Plan(), random.Random(0))
