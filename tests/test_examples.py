"""The programs in examples/ run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests import on_disk, tiny

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_live_tags_by_a_pipe(tmp_path):
    model = on_disk.save_tiny_model(tmp_path / "model.safetensors")
    samples = (tiny.noise(2.5) * 32767).astype("<i2").tobytes()
    done = subprocess.run(
        [sys.executable, EXAMPLES / "live_tags.py", "rain,a dog barks", "--model", model,
         "--window", "0.4"],
        input=samples, capture_output=True, timeout=110, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert len(lines) == int(np.ceil(2.5 / 0.08))
    assert {line.split("  ")[-1].strip() for line in lines} <= {"rain", "a dog barks"}
    assert lines[1].split()[0] == "0.1"
