"""Optional extras are optional: in an environment of the required packages alone every module is
imported, plain work is done, and what needs an extra says so in one line.

The environment is real: a folder of links to the packages that pyproject.toml requires, and what
those require, used by a Python that looks nowhere else.
"""

from __future__ import annotations

import importlib.metadata as metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile as sf

from echoic.convert.native import save_model
from tests import tiny
from tests.robust.supply import required

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    for name in required():
        there = metadata.distribution(name)
        for top in {file.parts[0] for file in there.files or ()} - {"..", "__pycache__"}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(there.locate_file(top))))
    return folder


def python(bare: Path, place: Path, code: str, *given: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "ECHOIC_CACHE", "TMPDIR")
            if name in os.environ}  # fmt: skip
    environment = {
        **kept, "PYTHONPATH": f"{bare}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", code, *given],
        cwd=place, env=environment, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


IMPORTS = """
import importlib, json, sys
from pathlib import Path
import echoic
base = Path(echoic.__file__).parent
lacking = {}
for file in sorted(base.rglob("*.py")):
    parts = ("echoic", *file.relative_to(base).with_suffix("").parts)
    if parts[-1] != "__main__":
        name = ".".join(part for part in parts if part != "__init__")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            lacking[name] = error.name
print(json.dumps([lacking, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_every_module_is_imported(bare, tmp_path):
    """Those of the web server apart, which only `echoic web` imports and which need its extra."""
    done = python(bare, tmp_path, IMPORTS)
    assert done.returncode == 0, done.stderr
    lacking, loaded = json.loads(done.stdout)
    assert [name for name in lacking if not name.startswith("echoic.web")] == []
    assert {need.partition(".")[0] for need in lacking.values()} <= {
        "fastapi", "starlette", "uvicorn", "python_multipart",
    }  # fmt: skip
    assert "pytest" not in loaded, "the environment is not bare"


COMMANDS = """
import contextlib, io, json, sys
from echoic.cli import main
told = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
    told.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""
NEEDS = {  # the extra, and a command that needs it
    "av": "embed film.m4a",
    "parquet": "data embed-captions table.parquet --encoder words:8 --out vectors",
    "hf": "data embed-captions table.csv --encoder some/encoder --out vectors",
    "onnx": "export tiny.safetensors exported",
    "index": "index sounds --out other --vectors lance",
    "ray": "data shards table.csv shards --ray auto",
    "remote": "train nano --data http://127.0.0.1:9/{0..3}.tar --out run",
    "web": "web",
}
WORKS = (
    "embed sounds", "index sounds", "search rain --index sounds",
    "data shards table.csv packed --processes 1 --rate 16000",
    "data embed-captions table.csv --encoder words:8 --out words", "recipes", "models",
)  # fmt: skip


def test_commands_do_without_or_say_what_they_need(bare, tmp_path):
    save_model(tmp_path / "tiny.safetensors", tiny.content())
    (tmp_path / "sounds").mkdir()
    for i in range(3):
        sf.write(tmp_path / f"sounds/{i}.wav", tiny.tone(200 * (i + 1), 0.5), tiny.RATE)
    rows = [f"sounds/{i}.wav,sound number {i}" for i in range(3)]
    (tmp_path / "table.csv").write_text("\n".join(["file,caption", *rows]))
    (tmp_path / "table.parquet").write_bytes(b"PAR1PAR1")
    (tmp_path / "film.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    commands = [each.split() for each in (*WORKS, *NEEDS.values())]
    for command in commands:
        if command[0] in ("embed", "index", "search", "web"):
            command += ["--model", "tiny.safetensors"]
    done = python(bare, tmp_path, COMMANDS, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for command, (code, _, err) in zip(WORKS, told, strict=False):
        assert code == 0, (command, err)
    for (extra, command), (code, out, err) in zip(NEEDS.items(), told[len(WORKS) :], strict=True):
        assert code not in (0, None), (command, out)
        lines = [line for line in err.splitlines() if f"echoic[{extra}]" in line]
        assert len(lines) == 1, (command, err)
        assert "Traceback" not in err, (command, err)
