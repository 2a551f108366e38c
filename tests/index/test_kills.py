"""An index survives kill -9 at any step and any moment, and two writers at once. What is done to it
is in killing.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def killed(folder, *how):
    """How often, with everything in order each time."""
    command = [sys.executable, "-m", "tests.index.killing", str(folder), *map(str, how)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_some_steps_and_two_writers(tmp_path):
    assert killed(tmp_path, "steps", 25) >= 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_step(tmp_path):
    assert killed(tmp_path, "steps", 1) >= 80


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_moments(tmp_path):
    assert killed(tmp_path, "moments", 60) >= 20
