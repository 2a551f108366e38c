"""A training killed for real, many times, and resumed equals one left alone, bit for bit."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from echoic.train.checkpoint import Checkpoints, read
from tests.train.toy import OPTIM, ToyTask, run_toy

HIDDEN = 2000  # some megabytes, so that a kill may well fall into the writing of a checkpoint
ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.train.toy", str(folder), *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a checkpoint of at least that step lies there; the process must still be at work."""
    store = Checkpoints(folder / "checkpoints", 1)
    while max(store.steps(), default=0) < step:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.001)


def newest_step(folder: Path) -> int:
    return max(Checkpoints(folder / "checkpoints", 1).steps(), default=0)


def rows(folder: Path) -> list[dict[str, object]]:
    """The log without its clocks."""
    parsed = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "time"} for row in parsed]


def assert_same_end(folder: Path, undisturbed: Path, step: int = OPTIM.steps) -> None:
    """Weights, buffers, moments, average, generators, the log and the rest, bitwise."""
    ours, theirs = (read(f / "checkpoints" / f"step-{step:08d}") for f in (folder, undisturbed))
    for section in ("task", "optimizer", "average", "rng"):
        mine, other = ours.tensors(section), theirs.tensors(section)
        assert mine.keys() == other.keys()
        assert mine
        different = [name for name in mine if not torch.equal(mine[name], other[name])]
        assert not different, f"{section}: {different}"
    assert rows(folder) == rows(undisturbed)
    for key in ("loader", "rng", "config"):
        assert ours.facts[key] == theirs.facts[key], key


def test_killed_at_any_time_and_while_saving_it_ends_bit_for_bit_the_same(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    points = [
        "any time",
        "half the tensors",
        "before the rename",
        "any time",
        "before the oldest is dropped",
        "half a row",
        "any time",
    ]
    process = start(killed, "--resume", "--hidden", str(HIDDEN), "--killed-at", *points)
    run_toy(undisturbed, ToyTask(HIDDEN))
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert output.count("killed ") == len(points), output
    assert "resumed at step" in output
    assert_same_end(killed, undisturbed)
    assert not list((killed / "checkpoints").glob("*.tmp"))


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_resume(tmp_path):
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    process = start(stopped)
    wait_for_step(stopped, 3, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    run_toy(undisturbed, ToyTask(32))
    if newest_step(stopped) < OPTIM.steps:  # unless the signal came too late
        assert f"stopped as asked after step {newest_step(stopped)} of {OPTIM.steps}" in output
        assert "--resume" in output
        run_toy(stopped, ToyTask(32), resume=True)
    assert_same_end(stopped, undisturbed)


class StopsItself(ToyTask):
    """Asks to stop, as Ctrl-C does, in the middle of a step."""

    def forward(self, batch):
        if (
            batch.seed == 25
        ):  # second batch of step 12, which is no multiple of save_every or log_every
            signal.raise_signal(signal.SIGINT)
        return super().forward(batch)


def test_a_stop_between_two_log_lines_and_saves_goes_on_exactly(tmp_path):
    before = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background
    result = run_toy(tmp_path / "stopped", StopsItself())
    assert (result.step, result.finished) == (13, False)
    assert result.checkpoint.name == "step-00000013"
    assert signal.getsignal(signal.SIGINT) is before
    result = run_toy(tmp_path / "stopped", resume=True)
    assert (result.step, result.finished) == (60, True)
    run_toy(tmp_path / "undisturbed")
    assert_same_end(tmp_path / "stopped", tmp_path / "undisturbed")


def test_a_damaged_newest_checkpoint_is_passed_over_and_made_again(tmp_path):
    run_toy(tmp_path / "undisturbed")
    folder = tmp_path / "damaged"
    run_toy(folder)
    newest = folder / "checkpoints" / "step-00000060" / "state.safetensors"
    body = bytearray(newest.read_bytes())
    body[len(body) // 2] ^= 1
    newest.write_bytes(body)
    run_toy(folder, resume=True, console=Console(file=(told := io.StringIO())))
    said = told.getvalue()
    assert f"passed over: {newest.parent}: damaged" in said
    assert "resumed at step 57" in said
    assert_same_end(folder, tmp_path / "undisturbed")


def test_what_a_kill_left_of_the_last_checkpoint_goes_although_nothing_more_is_saved(tmp_path):
    run_toy(tmp_path)
    left = tmp_path / "checkpoints" / "step-00000054.old.tmp"  # half removed
    left.mkdir()
    (left / "state.safetensors").write_bytes(b"half")
    assert run_toy(tmp_path, resume=True).finished
    assert not left.exists()
