"""Sessions and their sounds."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from echoic.web import private
from echoic.web.errors import RefusedError
from echoic.web.settings import Limits
from echoic.web.sounds import Sounds
from tests.web.conftest import HOST, brought

ASKS = (
    ("GET", "/api/sounds/{}/audio", None), ("GET", "/api/sounds/{}/peaks", None),
    ("DELETE", "/api/sounds/{}", None), ("POST", "/api/caption", {"sound": "{}"}),
    ("POST", "/api/tag", {"sound": "{}", "labels": ["a"]}),
    ("POST", "/api/search", {"sound": "{}"}),
    ("POST", "/api/compare", {"a": {"sound": "{}"}, "b": {"sound": "{}"}}),
)  # fmt: skip


def filled(told, value):
    if isinstance(told, dict):
        return {key: filled(each, value) for key, each in told.items()}
    return told.format(value) if isinstance(told, str) else told


@pytest.mark.parametrize("cookie", [None, "own", "guessed"])
@pytest.mark.parametrize(("method", "path", "body"), ASKS)
def test_no_session_knows_the_sounds_of_another(client, sound, method, path, body, cookie):
    other = TestClient(client.app, base_url=HOST)
    if cookie == "own":
        brought(other)
    if cookie == "guessed":
        other.cookies.set("echoic_session_80", "x" * 43)
    answer = other.request(method, path.format(sound), json=filled(body, sound))
    assert (answer.status_code, answer.json()) == (404, {"error": "no such sound"})
    assert sound not in str(other.get("/api/sounds").json())
    assert client.get(f"/api/sounds/{sound}/audio").status_code == 200


def test_the_cookie_is_of_no_use_to_scripts_and_other_sites(client):
    told = brought(client).headers["set-cookie"]
    assert "HttpOnly" in told
    assert "SameSite=strict" in told
    assert client.get("/api/info").headers.get("set-cookie") is None


def test_a_session_is_not_begun_by_a_cookie_of_ones_own_making(client):
    client.cookies.set("echoic_session_80", "mine")
    assert "echoic_session_80=mine" not in brought(client).headers["set-cookie"]


def test_who_asked_for_the_sounds_has_one_session_for_all_that_is_sent_at_once(client):
    assert client.get("/api/sounds").json() == []
    held = client.app.state.parts.sounds
    assert held._sessions == {}  # nothing is kept of who only looks
    first, second = (TestClient(client.app, base_url=HOST) for _ in range(2))
    for one in (first, second):  # as of one browser: the second goes before the first is answered
        one.cookies.update(client.cookies)
    ids = {brought(one).json()["id"] for one in (first, second)}
    assert {sound["id"] for sound in client.get("/api/sounds").json()} == ids


def test_a_session_that_ended_begins_again_by_its_cookie(clock):
    held = Sounds(Limits(idle_s=60), now=clock)
    key = held.begin(None).key
    clock.now_s += 100
    assert held.session(key) is None
    assert [held.begin(key).key, held.begin(key).key] == [key, key]


@pytest.mark.parametrize("told", ["", ".", "mine", "mine.", "mine.0123", "☂.☂", "a.b.c"])
def test_a_cookie_that_is_not_ours_is_replaced(told):
    held = Sounds(Limits())
    made = held.key(told)
    assert made != told
    assert held.key(made) == made
    assert Sounds(Limits()).key(made) != made


def test_a_session_is_in_use_while_something_is_on_its_way(started):
    client = started(limits={"idle_s": 60})
    held = client.app.state.parts.sounds
    first, now_s = brought(client).json()["id"], held._now()
    begin = held.begin

    def late(key):
        session = begin(key)
        held._now = lambda: now_s + 100
        return session

    held.begin = late
    second = brought(client).json()["id"]
    assert {sound["id"] for sound in client.get("/api/sounds").json()} == {first, second}


def test_each_server_on_this_machine_has_cookies_of_its_own(client):
    answer = client.post("http://localhost:8123/api/sounds", files={"file": ("a.wav", b"")})
    assert answer.status_code == 422  # reached it; the name hangs on the port
    assert brought(client).headers["set-cookie"].startswith("echoic_session_80=")


@pytest.fixture
def clock():
    class Clock:
        now_s = 100.0

        def __call__(self):
            return self.now_s

    return Clock()


def test_a_session_ends_when_nothing_comes_from_it(clock):
    held = Sounds(Limits(idle_s=60), now=clock)
    one, other = held.begin(None), held.begin(None)
    path = held.new_path()
    path.write_bytes(b"abc")
    held.take(3)
    one.sounds["a"] = sound = sound_at(path)
    clock.now_s += 50
    assert held.session(other.key) is other
    clock.now_s += 20
    assert held.session(other.key) is other
    assert held.session(one.key) is None
    assert (path.exists(), held._held_bytes) == (False, 0)
    with pytest.raises(RefusedError, match="no such sound"):
        sound.open()
    held.close()


def sound_at(path):
    import numpy as np

    from echoic.web.sounds import Sound

    return Sound("a", "a.wav", path, 3, 1.0, 16_000, 1, np.zeros((0, 2), np.int8))


def test_a_session_that_still_sends_does_not_end(clock):
    held = Sounds(Limits(idle_s=60), now=clock)
    session = held.begin(None)
    session.coming = 1
    clock.now_s += 100
    assert held.session(session.key) is session


def test_no_more_sessions_than_allowed(started):
    client = started(limits={"sessions": 2})
    for expected in (201, 201, 503):
        assert brought(TestClient(client.app, base_url=HOST)).status_code == expected


def test_all_goes_with_the_server(model):
    from echoic.web.app import create_app

    with TestClient(create_app(model), base_url=HOST) as client:
        brought(client)
        place = client.app.state.parts.sounds._folder.path
        assert place.exists()
    assert not place.exists()


def test_what_a_killed_server_left_goes_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    alive = private.PrivateFolder()
    code = (
        "import os, tempfile; tempfile.tempdir = {!r}\n"
        "from echoic.web.private import PrivateFolder\n"
        "held = PrivateFolder(); (held.path / 'x').write_text('x'); os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", code.format(str(tmp_path))], timeout=60)
    assert run.returncode == -9
    left = [p for p in Path(tmp_path).iterdir() if p != alive.path]
    assert len(left) == 1
    private.remove_left()
    assert list(tmp_path.iterdir()) == [alive.path]
    alive.close()
    assert list(tmp_path.iterdir()) == []
