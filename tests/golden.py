"""Reading ../shared/golden: the made-up weights and audio, and the comparison within the stated
tolerance."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def golden_tools(shared: Path) -> ModuleType:
    """The generators of weights and audio (golden_weights.py)."""
    return _module(shared / "golden" / "golden_weights.py")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Golden:
    """One folder of expected arrays: `arrays` as stored, `spec`, and `check(name, full_array)`."""

    def __init__(self, shared: Path, name: str) -> None:
        self.folder = shared / "golden" / name
        self.arrays = dict(np.load(self.folder / "expected.npz"))
        self.spec: dict[str, Any] = json.loads((self.folder / "spec.json").read_text())
        self._io = _module(shared / "golden" / "fixture_io.py")

    def check(self, name: str, full: Any) -> None:
        self._io.check(str(self.folder), name, np.asarray(full))
