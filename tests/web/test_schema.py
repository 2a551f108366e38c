"""The API against its own description, with questions that schemathesis makes up: right ones, wrong
ones, and those at the edges of what is allowed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
from fastapi.testclient import TestClient

from echoic.web.app import create_app
from echoic.web.settings import Limits, Settings
from tests.web.conftest import HOST, file_id
from tests.web.serving import serving


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not find_spec("schemathesis"), reason="needs pip install schemathesis")
def test_every_answer_is_one_that_is_described(model, indexed, tmp_path):
    limits = Limits(sounds=20, sessions=100_000)
    app = create_app(model, indexed, Settings(limits=limits))
    with serving(app, limits) as address:
        parameters = {"file_id": file_id(TestClient(app, base_url=HOST))}
        lines = ["[parameters]", *(f'{name} = "{value}"' for name, value in parameters.items())]
        (tmp_path / "schemathesis.toml").write_text("\n".join(lines))
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json",
            "--seed", "1", "--max-examples", "60", "--no-color", "--max-failures", "20",
            # bytes of the right form that are no sound are refused, and so are opposite weights
            "--exclude-checks", "positive_data_acceptance",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
