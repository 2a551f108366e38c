"""Where a model comes from: paths never reach the network, names are fetched and checked."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from echoic.convert.native import FILE_NAME
from echoic.hub import find_model, looks_like_hub_name
from echoic.types import CheckpointError

BYTES = b"the bytes of a model"
DIGEST = hashlib.sha256(BYTES).hexdigest()


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Whoever opens a socket or asks the Hub fails the test. Works in an empty folder."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "runs" / "demo" / FILE_NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(BYTES)
    return path


def hub(monkeypatch, answer):
    """A Hub that gives `answer`, a path or an error; returns what it was asked."""
    asked = []

    def download(repo, name, revision=None):
        asked.append((repo, name, revision))
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_paths_and_folders_stay_here(file):
    assert find_model(file) == file
    assert find_model(str(file)) == file
    assert find_model(file.parent) == file
    assert find_model("runs/demo") == Path("runs/demo") / FILE_NAME  # looks like owner/name


@pytest.mark.parametrize(
    "missing",
    ["none.safetensors", "runs/none", "runs/none.safetensors", "other/model.safetensors",
     "./other/name", "/other/name", "~/name", "a/b/c", "C:/name", "a\\b/c", "", "a/", "/a",
     "owner/na me", Path("owner/name")],
)  # fmt: skip
def test_a_missing_path_is_named_and_not_looked_up(file, missing):
    with pytest.raises(CheckpointError) as caught:
        find_model(missing)
    assert str(missing) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for sha256 in (None, DIGEST):
        with pytest.raises(CheckpointError, match=f"{FILE_NAME}: no such model file"):
            find_model("empty", sha256=sha256)


@pytest.mark.parametrize(
    ("name", "repo", "revision"),
    [
        ("owner/name", "owner/name", None),
        ("owner/name@v1.0", "owner/name", "v1.0"),
        ("owner/name@refs/pr/1", "owner/name", "refs/pr/1"),
        ("Own-er.x/na_me-2.0", "Own-er.x/na_me-2.0", None),
    ],
)
def test_a_name_is_fetched(monkeypatch, file, name, repo, revision):
    asked = hub(monkeypatch, file)
    assert looks_like_hub_name(name)
    assert find_model(name, sha256=DIGEST) == file
    assert asked == [(repo, FILE_NAME, revision)]


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("cannot find it.\nCheck your connection.\nMore."),
        HFValidationError("not a name"),
        ConnectionError(""),
    ],
    ids=lambda e: type(e).__name__,
)
def test_what_the_hub_says_is_one_line(monkeypatch, error):
    hub(monkeypatch, error)
    with pytest.raises(CheckpointError) as caught:
        find_model("owner/name")
    told = str(caught.value)
    assert told.startswith("owner/name: no such file or folder here, and the Hub did not give it")
    assert "\n" not in told
    assert "()" not in told


def test_the_real_client_offline_is_one_line(monkeypatch, tmp_path):
    from huggingface_hub import constants
    from huggingface_hub.file_download import hf_hub_download

    def download(*args, **kwargs):
        return hf_hub_download(*args, cache_dir=tmp_path / "cache", **kwargs)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"^owner/name: no such file or folder") as caught:
        find_model("owner/name")
    assert "\n" not in str(caught.value)


def test_another_digest_is_refused(file):
    assert find_model(file, sha256=DIGEST.upper()) == file
    with pytest.raises(CheckpointError) as caught:
        find_model(file, sha256="0" * 64)
    assert str(file) in str(caught.value)
    assert DIGEST in str(caught.value)
