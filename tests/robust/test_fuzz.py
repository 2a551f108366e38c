"""Damaged files through every reader: a small run of `benchmarks.fuzz`, and all that it ever found.

A case (cases/NAME) holds the files, and in finding.json what they did before they were mended.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import fuzz
from benchmarks.fuzz_mutations import damaged
from benchmarks.fuzz_targets import TARGETS, WrongError, heard
from echoic.audio.io import load_audio
from echoic.types import AudioError, EchoicError

ROOT = Path(__file__).parents[2]
CASES = sorted((ROOT / "tests/robust/cases").iterdir())
RUN = "import sys; from pathlib import Path; from benchmarks.fuzz import one_process as run; "
RUN += "run(int(sys.argv[1]), 11, Path(sys.argv[2]))"


@pytest.mark.skipif(sys.platform != "linux", reason="measures by /proc")
@pytest.mark.timeout(100)
def test_a_few_of_each(tmp_path):
    """In a process of its own, which a decoder may take with it."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, "150", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (told[-1:], done.stderr[-2000:])
    met = [line["target"] for line in told if "target" in line]
    assert set(TARGETS) - set(met) <= {"parquet", "sound, FFmpeg"}  # which need extras
    found = [line for line in told if line.get("verdict", "right") not in ("right", "error")]
    assert found == []
    assert {line["verdict"] for line in told if "verdict" in line} == {"right", "error"}


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_what_was_found_once(case):
    verdict, said = fuzz.again(case)
    assert verdict in ("right", "error"), said


# -- that it can find ------------------------------------------------------------------------------


def verdict(read, tmp_path) -> tuple[str, str]:
    return fuzz._verdict(read, tmp_path, "a.csv", {"a.csv": b""})


def raises(error):
    def read(folder, name):
        raise error

    return read


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EchoicError("a.csv: no table"), "error"), (EchoicError("no table"), "names no file"),
        (ValueError("x"), "exception"), (WrongError("x"), "wrong"), (MemoryError(), "memory"),
        (fuzz._TooLongError(), "hang"), (SystemExit(1), "exception"),
    ],
)  # fmt: skip
def test_what_counts_as_a_finding(tmp_path, error, kind):
    assert verdict(raises(error), tmp_path)[0] == kind


def test_a_right_result(tmp_path):
    assert verdict(lambda folder, name: None, tmp_path) == ("right", "")


def test_an_error_is_one_line_whatever_it_names():
    """Of a name in a hostile table: no line of its own, no command to the terminal, no flood."""
    line = str(EchoicError("a\x1b[2J\n\u2028b\ud800" + "x" * 9000))
    assert line.startswith(r"a\x1b[2J\n\u2028b\ud800xx")
    assert line.isprintable()
    assert len(line) < 1100
    assert str(AudioError("gründe.wav", "ist leer – 音")) == "gründe.wav: ist leer – 音"


@pytest.mark.parametrize("name", ["a.wav", "b.csv", "c.json", "d.tar", "e.safetensors", "f.ogg"])
def test_damage_follows_from_the_seed(name):
    raw = bytes(range(256)) * 8

    def made() -> list[bytes]:
        return [damaged(random.Random(f"{i}"), name, raw, [raw]) for i in range(30)]

    assert made() == made()
    assert len(set(made())) > 10


# -- all of shared/data/robust ---------------------------------------------------------------------


def robust() -> list[Path]:
    table = fuzz.SHARED / "data/robust/expected.csv"
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return [table.parent / "files" / row["file"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("path", robust(), ids=lambda path: path.name)
def test_the_policy_holds_by_path_by_bytes_and_by_part(path):
    """Beside what tests/audio/test_io.py compares with the table: right samples of the length that
    the header tells, or one line; from bytes the same as from the path, and the same of a part."""
    try:
        heard(path, whole=True)
    except AudioError as error:
        line = str(error)
        assert len(line.splitlines()) == 1
        assert line.startswith(f"{path}: ")
        with pytest.raises(AudioError) as of_bytes:
            load_audio(path.read_bytes(), rate_hz=16_000, name=str(path), duration_s=20.0)
        assert str(of_bytes.value) == line
        return
    whole = load_audio(path, rate_hz=16_000, duration_s=2.0)
    of_bytes_ = load_audio(path.read_bytes(), rate_hz=16_000, duration_s=2.0)
    assert (whole == of_bytes_).all()
