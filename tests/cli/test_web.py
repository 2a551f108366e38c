"""echoic web: what it says before it begins; tests/web/test_server.py shows that it serves."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from echoic.cli import web
from echoic.convert.native import save_model
from echoic.index import Index
from echoic.types import ConfigError
from echoic.web import server
from echoic.web.settings import Limits, read_limits
from tests import tiny

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def served(monkeypatch):
    """What would be served: (app, limits)."""
    found = []
    monkeypatch.setattr(server, "serve", lambda app, held, limits: found.append((app, limits)))
    return found


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, tiny.content())
    return path


def folder(tmp_path, seed=0):
    sounds = tmp_path / "sounds"
    tiny.tones(sounds)
    with Index.open(sounds, model=tiny.EchoicModel(tiny.content(seed))) as index:
        index.update(named=str(tmp_path / "model.safetensors"))
    return sounds


def test_the_address_is_the_result(run, model, served):
    code, out, err = run("web", "--model", model, "--port", 0)
    assert (code, out.startswith("http://127.0.0.1:")) == (0, True)
    assert "?token" not in out
    assert f"model {model.parent.name}; no folder given: no search" in err
    settings = served[0][0].state.parts.settings
    assert (settings.token, settings.any_address) == (None, False)


def test_an_index_knows_its_model(run, tmp_path, model, served):
    code, _, err = run("web", folder(tmp_path), "--port", 0)
    assert code == 0, err
    assert "index of" in err


def test_a_folder_without_an_index_is_told(run, tmp_path, model, served):
    (tmp_path / "bare").mkdir()
    code, _, err = run("web", "bare", "--model", model, "--port", 0)
    assert code == 0
    assert "bare has no index" in err
    assert "index bare" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["--token", "short"], "16 plain characters"),
        (["--limits", "upload=big"], "upload=big: not 200MB"),
        (["--limits", "size=3"], "size=3: give NAME=VALUE of upload"),
        (["--model", "nothing.pt"], "nothing.pt"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(run, model, served, arguments, said):
    code, out, err = run("web", "--port", 0, "--model", model, *arguments)
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert served == []


def test_an_index_of_another_model_is_refused(run, tmp_path, model, served):
    code, _, err = run("web", folder(tmp_path, seed=1), "--port", 0, "--model", model)
    assert code == 2
    assert "give the model that made it" in err


def test_a_port_that_is_taken_is_told_before_the_model_is_read(run):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        code, _, err = run("web", "--model", "nothing.pt", "--port", port)
    assert (code, err.count("\n")) == (2, 1)
    assert f"port {port}" in err


def test_a_token_that_is_given_is_the_token(run, model, served):
    token = "correct-horse battery&staple"
    code, out, _ = run("web", "--model", model, "--port", 0, "--token", token)
    assert code == 0
    assert out.strip().endswith("?token=correct-horse%20battery%26staple")
    assert served[0][0].state.parts.settings.token == token


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback_needs_no_token(host):
    assert web._token(None, host) is None
    assert web._names(host, []) == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "my.machine"])
def test_elsewhere_a_token_is_made(host):
    made = {web._token(None, host) for _ in range(3)}
    assert len(made) == 3
    assert min(map(len, made)) >= 32


def test_limits():
    told = read_limits("upload=10MB, sound=90s,work=5m,idle=2h,sounds=3,disk=1.5GB")
    assert told == Limits(
        upload_bytes=10 * 2**20, sound_s=90, work_s=300, idle_s=7200, sounds=3,
        disk_bytes=3 * 2**29,
    )  # fmt: skip
    assert read_limits(None) == Limits()


@pytest.mark.parametrize(
    "told", ["upload", "upload=", "upload=-1", "sounds=2s", "sound=3MB", "work=0", "sounds=0.5"]
)
def test_limits_that_are_none(told):
    with pytest.raises(ConfigError, match="--limits"):
        read_limits(told)


def test_without_the_extra_that_is_told(tmp_path):
    code = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from echoic.cli import main; sys.exit(main(['web', '--port', '0']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 2
    assert done.stderr.strip() == 'error: web: the server needs pip install "echoic[web]"'


def test_help_does_not_wait_for_the_server():
    code = (
        "import sys; from echoic.cli import main; main(['web', '--help'])\n"
        "sys.exit(bool({'fastapi', 'uvicorn', 'torch'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0
