"""Fixtures that every test may use: the shared folder of goldens and real audio, and generators."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

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


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
