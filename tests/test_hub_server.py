"""The real client of the Hub against a server of our own: fetching, pinning, the cache, no network,
damage, and the way back. Other processes, since the client reads its environment when imported."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from echoic.api import load
from echoic.convert.native import load_model
from echoic.hub import save_pretrained
from tests import tiny

SHA = {"main": "a" * 40, "v1": "b" * 40}
REPO = "someone/nano"


class FakeHub:
    """One repository with two revisions, each a folder's files; what was asked, and what came."""

    def __init__(self, revisions: dict[str, dict[str, bytes]]) -> None:
        self.revisions, self.asked, self.pushed = revisions, [], {}
        self.damaged = False

    def files(self, revision: str) -> dict[str, bytes] | None:
        names = {SHA[name]: files for name, files in self.revisions.items()} | self.revisions
        return names.get(revision)

    def sha(self, revision: str) -> str:
        return SHA.get(revision, revision)


def handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args) -> None:
            pass

        def answer(self, body: bytes | object = b"", status: int = 200, **headers: str) -> None:
            if not isinstance(body, bytes):
                body = json.dumps(body).encode()
                headers["Content-Type"] = "application/json"
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            hub.asked.append((self.command, self.path))
            path = self.path.partition("?")[0]
            if match := re.fullmatch(rf"/api/models/{REPO}(?:/(revision|tree)/([^/]+))?", path):
                return self.described(match[1], match[2] or "main")
            if match := re.fullmatch(rf"/{REPO}/resolve/([^/]+)/(.+)", path):
                return self.file(match[1], match[2])
            return self.answer(status=404)

        do_HEAD = do_GET  # noqa: N815

        def described(self, what: str | None, revision: str) -> None:
            files = hub.files(revision)
            if files is None:
                return self.answer(status=404, X_Error_Code="RevisionNotFound")
            if what == "tree":
                return self.answer([
                    {"type": "file", "path": name, "size": len(data), "oid": digest(data)}
                    for name, data in files.items()
                ])  # fmt: skip
            siblings = [{"rfilename": name} for name in files]
            return self.answer({"id": REPO, "sha": hub.sha(revision), "siblings": siblings})

        def file(self, revision: str, name: str) -> None:
            data = (hub.files(revision) or {}).get(name)
            if data is None:
                return self.answer(status=404, X_Error_Code="EntryNotFound")
            told = {"ETag": f'"{digest(data)}"', "X_Repo_Commit": hub.sha(revision)}
            if hub.damaged and name.endswith(".safetensors"):
                data = data[:-1] + bytes([data[-1] ^ 1])
            return self.answer(data, **told)

        def do_POST(self) -> None:
            hub.asked.append((self.command, self.path))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/api/repos/create":
                return self.answer({"url": f"{hub.address}/{REPO}", "name": REPO})
            if "/preupload/" in self.path:
                files = json.loads(body)["files"]
                return self.answer({"files": [
                    {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for each in files
                ]})  # fmt: skip
            if "/commit/" in self.path:
                for line in body.splitlines():
                    each = json.loads(line)
                    if each["key"] == "file":
                        content = base64.b64decode(each["value"]["content"])
                        hub.pushed[each["value"]["path"]] = content
                address = f"{hub.address}/{REPO}/commit/{SHA['main']}"
                return self.answer({"commitUrl": address, "commitOid": SHA["main"],
                                    "success": True})  # fmt: skip
            return self.answer({})

    return Handler


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    revisions = {}
    for seed, revision in enumerate(SHA):
        folder = tmp_path_factory.mktemp(revision)
        save_pretrained(tiny.content(seed), folder, name=REPO)
        revisions[revision] = {file.name: file.read_bytes() for file in folder.iterdir()}
    made = FakeHub(revisions)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(made))
    made.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def python(hub, tmp_path):
    """What a program prints, run with that Hub and a cache of its own."""

    def run(program: str, **environment: str) -> tuple[str, str]:
        own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"),
               "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_TELEMETRY": "1",
               "OMP_NUM_THREADS": "1"}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False,
            env=os.environ | own | environment, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr

    return run


TELL = """
import echoic
from echoic.types import CheckpointError
for name in {names}:
    try:
        print(echoic.load(name).space_id)
    except CheckpointError as error:
        print("refused:", error)
"""


def test_names_are_fetched_once_pinned_and_found_offline(hub, python):
    spaces = [tiny.content(seed).model.space_id() for seed in (0, 1)]
    names = [REPO, f"{REPO}@v1", f"{REPO}@{SHA['v1']}", f"{REPO}@v2"]
    out, err = python(TELL.format(names=names))
    first, second, third, refused = out.splitlines()
    assert [first, second, third] == [spaces[0], spaces[1], spaces[1]]
    assert refused.startswith(f"refused: {REPO}@v2: ")
    assert "Fetching" in err  # a bar
    downloads = [path for way, path in hub.asked if way == "GET" and "model.safetensors" in path]
    assert len(downloads) == 2  # of three loads
    hub.asked.clear()
    out, _ = python(TELL.format(names=names[:2]), HF_HUB_OFFLINE="1")
    assert out.splitlines() == spaces
    assert hub.asked == []


def test_damage_on_the_way_is_refused_and_not_kept(hub, python, tmp_path):
    hub.damaged = True
    out, _ = python(TELL.format(names=[REPO]))
    hub.damaged = False
    assert "came damaged from the Hub" in out
    assert len(out.splitlines()) == 1
    out, _ = python(TELL.format(names=[REPO]))
    assert out == tiny.content(0).model.space_id()


def test_a_model_is_pushed_whole(hub, python, tmp_path):
    save_pretrained(tiny.content(3), tmp_path / "mine")
    program = f"""
from pathlib import Path
from echoic.convert.open import open_model
from echoic.hub import push_to_hub
push_to_hub(open_model(Path({str(tmp_path / "mine")!r})), "{REPO}")
"""
    python(program)
    assert set(hub.pushed) == {"model.safetensors", "config.json", "tokenizer.json"}  # a card stays
    (tmp_path / "pushed.safetensors").write_bytes(hub.pushed["model.safetensors"])
    pushed = load_model(tmp_path / "pushed.safetensors")
    assert pushed.model.space_id() == tiny.content(3).model.space_id()


PUSH = """
import sys
from echoic.cli import main
sys.exit(main(["push", {model!r}, {name!r}, *{options!r}]))
"""


def test_a_model_is_pushed_by_the_command(hub, python, tmp_path):
    save_pretrained(tiny.content(3), tmp_path / "mine")
    hub.pushed.clear()
    out, _ = python(PUSH.format(model=str(tmp_path / "mine"), name=REPO, options=["--private"]))
    assert set(hub.pushed) == {"model.safetensors", "config.json", "tokenizer.json"}
    assert out.splitlines() == [f"model: {hub.address}/{REPO}", f'load it:  echoic.load("{REPO}")']


def test_what_would_be_pushed_can_be_looked_at(run, tmp_path):
    save_pretrained(tiny.content(3), tmp_path / "mine")
    code, out, err = run("push", tmp_path / "mine", "me/mine", "--only-to", tmp_path / "look")
    assert (code, out) == (0, f"model: {tmp_path / 'look'}\n"), err
    assert "TODO" in (tmp_path / "look" / "README.md").read_text()
    assert "me/mine" in (tmp_path / "look" / "README.md").read_text()


@pytest.mark.parametrize("name", ["mine", "a/b/c", "me/mine@v1", "../mine"])
def test_a_name_that_is_none_is_refused_before_all_else(run, tmp_path, name):
    code, out, err = run("push", tmp_path / "missing", name)
    assert (code, out) == (2, "")
    assert err == f"error: {name}: a repository on the Hub is named owner/name\n"


def test_a_hub_that_refuses_is_told_in_a_line(tmp_path, run, monkeypatch):
    save_pretrained(tiny.content(3), tmp_path / "mine")

    def refuse(*args, **kwargs):
        raise OSError("401 Unauthorized")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    code, out, err = run("push", tmp_path / "mine", "me/mine")
    assert (code, out) == (2, "")
    assert "error: me/mine: the Hub did not take it" in err
    assert "HF_TOKEN" in err
    assert "401 Unauthorized" in err


def test_a_saved_folder_is_opened_and_its_readme_kept(tmp_path):
    content = tiny.content(card={"recipe": "nano"})
    save_pretrained(content, tmp_path / "model", name=REPO)
    names = {file.name for file in (tmp_path / "model").iterdir()}
    assert names == {"model.safetensors", "config.json", "tokenizer.json", "README.md"}
    assert load(tmp_path / "model").space_id == content.model.space_id()
    readme = tmp_path / "model" / "README.md"
    assert f'echoic.load("{REPO}")' in readme.read_text()
    readme.write_text("mine")
    save_pretrained(content, tmp_path / "model")
    assert readme.read_text() == "mine"
