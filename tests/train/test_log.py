"""The log: what a line says, what a row holds, and how it is cut back."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from echoic.train.log import Meter, RunLog
from echoic.types import CheckpointError
from tests.train.toy import ToyLoader


def open_log(tmp_path, console=None) -> RunLog:
    return RunLog(tmp_path / "log.jsonl", console, total_steps=100, sample_rate_hz=4)


def fill(meter: Meter) -> None:
    batch = ToyLoader().batch(0)  # 8 clips of 16 samples
    meter.add_batch(batch, {"clip": 1.0, "cap": 0.5}, {"tokens": 30, "scale": 10.0})
    meter.add_batch(batch, {"clip": 2.0, "cap": 0.5}, {"tokens": 50, "scale": 20.0})
    meter.add("grad_norm", 3.0)
    meter.add("wait_s", 0.5)
    meter.add("step_s", 2.0)


def test_an_interval_is_told_to_people_and_to_programs(tmp_path):
    console = Console(file=(told := io.StringIO()))
    with open_log(tmp_path, console) as log:
        log.cut_back(0)
        fill(log.meter)
        log.interval(20, lr=1e-3, bad=2)
    row = json.loads((tmp_path / "log.jsonl").read_text())
    clocks = row.pop("time")
    assert row == {
        "kind": "train",
        "step": 20,
        "loss": 2.0,
        "losses": {"clip": 1.5, "cap": 0.5},
        "lr": 1e-3,
        "grad_norm": 3.0,
        "metrics": {"scale": 15.0},
        "clips": 16,
        "audio_s": 64.0,
        "tokens": 80,
        "bad": 2,
        "skipped": 0,
    }
    clocks.pop("elapsed_s")
    assert clocks == {
        "eta_s": 160.0,
        "wait_share": 0.25,
        "clips_per_s": 8.0,
        "audio_s_per_s": 32.0,
        "tokens_per_s": 40.0,
    }
    assert told.getvalue() == (
        "step  20/100 | loss 2.0000 = clip 1.5000 + cap 0.5000 | lr 1.00e-03 | grad 3 | scale 15 | "
        "8 clips/s  32 audio-s/s  40 tokens/s | wait 25% | 0:02:40 left | 2 bad clips\n"
    )  # one line, however narrow the pipe, and no bar
    assert log.meter.state_dict() == Meter().state_dict()


def test_an_evaluation_is_told_and_json_stays_json(tmp_path):
    console = Console(file=(told := io.StringIO()))
    with open_log(tmp_path, console) as log:
        log.cut_back(0)
        log.evaluation(20, {"R@1": 0.25, "mAP": math.nan}, took_s=61)
    row = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)
    assert (row["kind"], row["metrics"]) == ("eval", {"R@1": 0.25, "mAP": None})
    assert told.getvalue() == "eval 20/100 | R@1 0.25  mAP nan | took 0:01:01\n"


def test_a_terminal_gets_a_bar_and_a_pipe_or_ci_does_not(tmp_path, monkeypatch):
    monkeypatch.delenv("CI", raising=False)

    def said(**options) -> str:
        console = Console(file=(told := io.StringIO()), **options)
        with open_log(tmp_path, console) as log:
            log.cut_back(0)
            log.advance(50)
            log.note("[50] a line")
        return told.getvalue()

    assert said(force_terminal=False) == "[50] a line\n"
    assert "50/100" in said(force_terminal=True)
    monkeypatch.setenv("CI", "1")
    assert "50/100" not in said(force_terminal=True)


def test_the_sums_survive_json_to_the_last_bit():
    meter, again = Meter(), Meter()
    for i in range(1, 50):
        meter.add("loss/a", 1 / i)
    again.load_state_dict(json.loads(json.dumps(meter.state_dict())))
    assert again.mean("loss/a") == meter.mean("loss/a")
    again.add("loss/a", 1.0)
    meter.add("loss/a", 1.0)
    assert again.state_dict() == meter.state_dict()


def test_later_rows_and_a_half_written_one_are_cut(tmp_path):
    rows = [json.dumps({"kind": "train", "step": step}) for step in (10, 20, 20, 30)]
    (tmp_path / "log.jsonl").write_text("\n".join(rows) + '\n{"kind": "train", "st')
    log = open_log(tmp_path)
    log.cut_back(20)
    log.row({"step": 25})
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 20, 25]


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    log = open_log(tmp_path)
    with pytest.raises(CheckpointError, match=r"log\.jsonl: cannot be written"):
        log.row({"step": 1})


def test_a_line_has_the_first_metrics_and_the_file_all(tmp_path):
    metrics = {f"m{i}": float(i) for i in range(9)}
    console = Console(file=(told := io.StringIO()))
    with open_log(tmp_path, console) as log:
        log.cut_back(0)
        log.meter.add_batch(ToyLoader().batch(0), {"clip": 1.0}, metrics)
        log.meter.add("grad_norm", 1.0)
        log.meter.add("step_s", 1.0)
        log.meter.add("wait_s", 0.1)
        log.interval(1, lr=0.1, bad=0)
    assert "| m5 5 |" in told.getvalue()
    assert "m6" not in told.getvalue()
    assert json.loads((tmp_path / "log.jsonl").read_text())["metrics"] == metrics
