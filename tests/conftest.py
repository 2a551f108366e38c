"""Fixtures that every test may use: the shared folder of goldens and real audio, generators, and
commands with what they print."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from echoic.cli import main

torch.set_num_threads(1)  # xdist runs one worker per core; results must not hang on who else runs
settings.register_profile("echoic", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("echoic")


def _shared_folder() -> Path:
    named = os.environ.get("ECHOIC_SHARED")
    return Path(named) if named else Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of goldens and real audio; a test that asks for it is skipped where it is
    absent."""
    folder = _shared_folder()
    if not folder.is_dir():
        pytest.skip(f"needs {folder} (goldens and real audio); set ECHOIC_SHARED to its path")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test finds vectors in the cache of whoever runs it, or leaves some there."""
    monkeypatch.setenv("ECHOIC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def one_thread():
    """Of torch, as it was before a command in this process took all of them."""
    yield
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """For tests of commands: an empty folder, and no model named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ECHOIC_MODEL", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("echoic.cli.common.available_cpus", lambda: 1)


@pytest.fixture
def run(capsys):
    """Run a command: exit code, what it printed to stdout, and to stderr."""

    def call(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def documented(run):
    """The one JSON document of a command that succeeds."""

    def call(*arguments):
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call
