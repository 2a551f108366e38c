"""A tiny model with words for everything, a folder that it has indexed, and the app on both."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace

import pytest
import soundfile as sf
from fastapi.testclient import TestClient

from echoic.index import Index
from echoic.index.store import read_description, write_description
from echoic.web.app import create_app
from echoic.web.settings import Limits, Settings
from tests import tiny

HOST = "http://localhost"


@pytest.fixture(scope="session")
def model():
    return tiny.captioner()


@pytest.fixture(scope="session")
def indexed(tmp_path_factory, model):
    """Five tones in two folders, indexed; not to be changed."""
    root = tmp_path_factory.mktemp("web") / "my sounds"
    for i, name in enumerate(("a.wav", "b.flac", "deep/c.ogg", "deep/lång ☂.wav", "deep/d.aiff")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(root / name, tiny.tone(200 * 1.5**i, 0.5 + i), tiny.RATE)
    with Index.open(root, model=model) as index:
        index.update()
    return root


@pytest.fixture
def folder(tmp_path, indexed):
    """A copy of it, to be changed."""
    root = shutil.copytree(indexed, tmp_path / "my sounds")
    about = read_description(root / ".echoic")
    write_description(root / ".echoic", replace(about, sounds=str(root)))
    return root


@pytest.fixture
def started(model, indexed):
    """Makes a client of the app: of these limits and settings, on the folder or on another."""
    clients = []

    def start(index=indexed, limits=None, *, raises=True, base=HOST, **settings):
        chosen = Settings(limits=Limits(**limits or {}), **settings)
        app = create_app(model, index, chosen)
        client = TestClient(app, base_url=base, raise_server_exceptions=raises)
        clients.append(client.__enter__())
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(started):
    return started()


def wav(seconds=0.5, seed=0, rate=tiny.RATE, form="WAV", subtype=None):
    """The bytes of a file of noise."""
    held = io.BytesIO()
    sf.write(held, tiny.noise(seconds, seed), rate, format=form, subtype=subtype)
    return held.getvalue()


def brought(client, raw=None, name="rain.wav"):
    """The answer to an upload."""
    return client.post("/api/sounds", files={"file": (name, wav() if raw is None else raw)})


def file_id(client, name="a.wav"):
    """Of a file of the index."""
    hits = client.post("/api/search", json={"text": "a", "top": 100}).json()["hits"]
    return next(hit["id"] for hit in hits if hit["path"].endswith(name))


@pytest.fixture
def sound(client):
    """The id of a sound of the client's session."""
    return brought(client).json()["id"]
