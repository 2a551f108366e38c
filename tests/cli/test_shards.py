from __future__ import annotations

import numpy as np
import pytest
import soundfile

from echoic.cli import shards as module
from echoic.data.building import Progress
from echoic.data.clips import Clip
from echoic.data.shards import write_shards


@pytest.fixture
def sounds(elsewhere, tmp_path):
    """Five recordings of half a second, with captions."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for i in range(5):
        wave = np.random.default_rng(i).uniform(-0.5, 0.5, 4000)
        soundfile.write(folder / f"{i}.wav", wave, 8000)
        (folder / f"{i}.txt").write_text(f"caption {i}\n")
    return folder


def test_the_same_command_goes_on(sounds, documented, run, tmp_path):
    command = ["data", "shards", sounds, "packed", "--rate", 8000, "--per-shard", 2]
    made = documented(*command)
    assert (made["clips"], made["shards"], made["bad"]) == (5, 3, {})
    assert documented(*command) == made
    (tmp_path / "packed" / "sizes.json").unlink()
    assert documented(*command) == made
    code, _, err = run("data", "shards", sounds, "packed", "--rate", 16000, "--per-shard", 2)
    assert code == 2
    assert "already holds shards of others (rate_hz 8000, now 16000)" in err


def test_check_tells_damaged_shards(sounds, run, tmp_path):
    run("data", "shards", sounds, "packed", "--rate", 8000)
    assert run("data", "check", "packed")[0] == 0
    tar = tmp_path / "packed" / "shard-000000.tar"
    raw = bytearray(tar.read_bytes())
    raw[raw.index(b"fLaC") + 300] ^= 1
    tar.write_bytes(raw)
    code, out, err = run("data", "check", "packed")
    assert code == 2
    assert "packed: 4 of 5 clips are good" in out
    assert "bad       0: damaged: not the bytes that were written (checksum)" in out
    assert "shard-000000.tar: not the bytes that were written (checksum)" in err


def test_no_ray(sounds, run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    code, _, err = run("data", "shards", sounds, "packed", "--ray", "auto")
    assert code == 2
    assert "Ray is not installed; pip install 'echoic[ray]'" in err


def test_a_process_for_each_shard_at_most():
    assert module._runner(8, None, 1) is map
    assert module._runner(8, None, 3).count == 3
    assert module._runner(2, None, 30).count == 2
    assert module._runner(2, "auto", 30).address == "auto"


def test_progress_and_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    told = module.told_now_and_then()
    for shards, at in ((3, 5.0), (4, 20.0), (5, 25.0), (10, 40.0)):
        now[0] = at
        told(Progress(shards, 10, shards * 100, 1000, 200, shards * 900.0))
    line = "4 of 10 shards, 400 of 1000 clips, 1.00 hours; 1 min 00 s left\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.4, "12 s"), (60, "1 min 00 s"), (200, "3 min 20 s"), (7530, "2 h 05 min")],
)
def test_durations(seconds, text):
    assert module.duration(seconds) == text


def test_an_address_goes_through_the_command_line(elsewhere, documented, run, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 4000).astype(np.float32)
    write_shards([(Clip("a", ("x",), (), None), wave)], tmp_path / "made", rate_hz=8000)
    for path in (tmp_path / "made").iterdir():
        memory.pipe(f"/cli/{path.name}", path.read_bytes())
    assert documented("data", "check", "memory://cli")["clips"] == 1
    packed = documented("data", "shards", "memory://cli", "packed", "--rate", 8000)
    assert packed["clips"] == 1


def test_only_clean_captions(sounds, documented, run):
    (sounds / "0.txt").write_text("<b>rain on a roof</b>\nrain\n")
    (sounds / "1.txt").write_text("wind\n")
    command = ["data", "shards", sounds, "packed", "--rate", 8000, "--clean"]
    assert documented(*command)["clips"] == 4
    refused = ["data", "shards", sounds, "other", "--most-clips", 3]
    assert "--most-clips goes with --clean" in run(*refused)[2]


def test_only_captions_that_fit(sounds, documented, run, tmp_path):
    class Score:
        name, rate_hz = "x", 8000

        def __call__(self, waves, captions):
            return [[0.1 * float(texts[0][-1])] for texts in captions]

    from echoic.data.scores import write_scores
    from echoic.data.sources import open_source

    write_scores(open_source(sounds), Score(), tmp_path / "scores")
    command = ["data", "shards", sounds, "packed", "--rate", 8000, "--scores", "scores"]
    assert documented(*command, "--least-score", 0.25)["clips"] == 2
