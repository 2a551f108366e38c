"""What is sent as a sound, and is none, or is too much."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from fastapi import Request

from echoic.web import upload
from echoic.web.errors import RefusedError
from echoic.web.upload import shown_name
from tests import tiny
from tests.web.conftest import brought, wav

BOUNDARY = "xyz"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def head(name="a.wav", field="file"):
    said = f'Content-Disposition: form-data; name="{field}"; filename="{name}"'
    return f"--{BOUNDARY}\r\n{said}\r\n\r\n".encode()


END = f"\r\n--{BOUNDARY}--\r\n".encode()


def held(client):
    """Files on the disk, bytes counted."""
    sounds = client.app.state.parts.sounds
    folder = sounds._folder
    files = [] if folder is None else [p for p in folder.path.iterdir() if p.name != "lock"]
    return len(files), sounds._held_bytes


def refused(answer, status, said):
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert said in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_sound_is_told(client):
    raw = wav(0.5, form="FLAC")
    answer = brought(client, raw, "rain on tin.flac")
    told = answer.json()
    assert answer.status_code == 201
    assert (told["name"], told["duration_s"], told["rate_hz"]) == ("rain on tin.flac", 0.5, 16_000)
    assert held(client) == (1, len(raw))
    assert client.get("/api/sounds").json() == [told]
    peaks = client.get(f"/api/sounds/{told['id']}/peaks?points=20").json()
    assert peaks["duration_s"] == 0.5
    assert len(peaks["peaks"]) == 20
    assert client.delete(f"/api/sounds/{told['id']}").status_code == 204
    assert held(client) == (0, 0)
    assert client.get(f"/api/sounds/{told['id']}/audio").status_code == 404


class Endless:
    """A body that is drawn as it is read. drawn: how much."""

    def __init__(self, most=10**9):
        self.drawn, self.most = 0, most

    def __call__(self):
        yield head()
        while self.drawn < self.most:
            self.drawn += 2**16
            yield bytes(2**16)


def asgi(app, body, headers):
    """(status, parts read) of an upload whose parts are drawn one by one: the test client would
    draw the whole body first."""
    parts, status = body(), []
    read = 0

    async def receive():
        nonlocal read
        read += 1
        part = next(parts, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    async def send(message):
        if message["type"] == "http.response.start":
            status.append(message["status"])

    scope = {
        "type": "http", "method": "POST", "path": "/api/sounds", "query_string": b"",
        "headers": [(k.encode(), v.encode()) for k, v in {"host": "localhost", **headers}.items()],
        "http_version": "1.1", "scheme": "http", "server": ("localhost", 80),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return status[0], read


@pytest.mark.parametrize("length", [None, "10", "1000000000000"])
def test_too_much_is_cut_off_while_it_comes_whatever_its_length_claims(started, length):
    client = started(limits={"upload_bytes": 2**20})
    body = Endless()
    status, _ = asgi(client.app, body, FORM | ({"content-length": length} if length else {}))
    assert status == 413
    assert body.drawn <= 2**20 + 2**18
    assert held(client) == (0, 0)


@pytest.mark.parametrize("around", ["before", "other", "headers"])
def test_too_much_beside_the_file_is_cut_off(started, around):
    client = started(limits={"upload_bytes": 1000})
    drawn = 0

    def body():
        nonlocal drawn
        start = {"before": b"", "other": head(field="x"), "headers": b"--xyz\r\nA: "}[around]
        yield start
        while drawn < 10**8:
            drawn += 2**14
            yield b"x" * 2**14

    status, _ = asgi(client.app, body, FORM)
    assert status in {400, 413}
    assert drawn <= 2**18
    assert held(client) == (0, 0)


def test_who_goes_away_leaves_nothing(client):
    async def run():
        messages = [
            {"type": "http.request", "body": head() + wav()[:500], "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive():
            return messages.pop(0)

        async def send(_):
            pass

        scope = {
            "type": "http", "method": "POST", "path": "/api/sounds", "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", FORM["content-type"].encode())],
            "http_version": "1.1", "scheme": "http", "server": ("localhost", 80),
        }  # fmt: skip
        await client.app(scope, receive, send)

    asyncio.run(run())
    assert held(client) == (0, 0)


def silence(seconds, rate, channels, form):
    """A long silence in few bytes."""
    file = io.BytesIO()
    subtype = "PCM_16" if form == "FLAC" else "VORBIS"
    block = np.zeros((rate * 10, channels), np.int16)
    with sf.SoundFile(file, "w", rate, channels, format=form, subtype=subtype) as opened:
        for _ in range(seconds // 10):
            opened.write(block)
    return file.getvalue()


@pytest.mark.parametrize("form", ["FLAC", "OGG"])
def test_hours_of_silence_in_a_few_bytes_are_decoded_no_further_than_the_limit(
    started, form, monkeypatch
):
    raw = silence(1200, 8000, 1, form)
    assert len(raw) < 400_000
    client = started(limits={"sound_s": 60})
    samples = []
    from echoic.web import peaks

    real = peaks.Outline.add
    monkeypatch.setattr(
        peaks.Outline, "add", lambda self, block: (samples.append(len(block)), real(self, block))
    )
    refused(brought(client, raw), 413, "longer than 60 s")
    assert sum(samples) == 60 * 8000 + 1
    assert held(client) == (0, 0)


def test_a_header_that_lies_about_its_length_is_not_believed(client):
    raw = bytearray(wav(0.5))
    raw[40:44] = (2**31).to_bytes(4, "little")
    assert brought(client, bytes(raw)).json()["duration_s"] == 0.5


@pytest.mark.parametrize(
    "raw",
    [b"", b"<html><script>alert(1)</script>", os.urandom(5000), b"RIFF" + bytes(100),
     b"PK\x03\x04" + bytes(500), wav()[:30], b"#!/bin/sh\necho", b"fLaC" + bytes(64)],
    ids=["empty", "html", "random", "riff", "zip", "cut", "script", "flac"],
)  # fmt: skip
def test_what_is_no_sound_is_refused_and_leaves_nothing(client, raw, tmp_path):
    answer = brought(client, raw, "x.wav")
    refused(answer, 422, "x.wav: ")
    assert str(tmp_path) not in answer.text
    assert "echoic-web-" not in answer.text
    assert held(client) == (0, 0)


def test_no_number_and_infinite_samples_are_refused(client):
    file = io.BytesIO()
    sf.write(file, np.array([0, np.nan, 1.0]), 16_000, format="WAV", subtype="FLOAT")
    refused(brought(client, file.getvalue()), 422, "NaN")


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("../../etc/passwd", "passwd"), ("C:\\Users\\me\\a.wav", "a.wav"), ("", "sound"),
        ("a\r\nX: y.wav", "aX: y.wav"), ("\u202egpj.wav", "gpj.wav"), ("..", ".."), ("/", "sound"),
        ("\x00\x1b[2J", "[2J"), ("x" * 999, "x" * 120), ("  a  b ", "a  b"),
        ("日本 ☂.wav", "日本 ☂.wav"), ("\ud800", "sound"),
    ],
)  # fmt: skip
def test_names_are_shown_and_nothing_else(told, shown):
    assert shown_name(told) == shown


def test_a_name_never_reaches_the_disk(client, tmp_path):
    told = brought(client, name="../../../tmp/evil.wav").json()
    assert told["name"] == "evil.wav"
    path = next(iter(client.app.state.parts.sounds._sessions.values())).sounds[told["id"]].path
    assert path.parent == client.app.state.parts.sounds._folder.path
    assert path.parent.stat().st_mode & 0o077 == 0
    assert len(path.name) == 32


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "audio/wav"}, wav(), 415),
        ({"content-type": "multipart/form-data"}, wav(), 415),
        ({}, wav(), 415),
        (FORM, b"no form at all", 400),
        (FORM, head() + wav(), 400),
        (FORM, head(field="other") + wav() + END, 422),
        (FORM, END, 422),
        (FORM, b"", 400),
        ({"content-type": "multipart/form-data; boundary=" + "x" * 500}, wav(), 400),
    ],
)
def test_what_is_no_form_is_refused(client, headers, body, status):
    answer = client.post("/api/sounds", content=body, headers=headers)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert held(client) == (0, 0)


def test_of_several_files_the_first_counts(client):
    first, second = wav(0.5), wav(0.7)
    body = head("one.wav") + first + b"\r\n" + head("two.wav") + second + END
    told = client.post("/api/sounds", content=body, headers=FORM).json()
    assert (told["name"], told["duration_s"]) == ("one.wav", 0.5)


def test_no_more_sounds_than_allowed(started):
    client = started(limits={"sounds": 2})
    first = brought(client).json()["id"]
    brought(client)
    refused(brought(client), 409, "2 sounds")
    client.delete(f"/api/sounds/{first}")
    assert brought(client).status_code == 201


def test_no_more_bytes_than_there_is_room_for(started):
    raw = wav()
    client = started(limits={"disk_bytes": 2 * len(raw) + 10})
    assert [brought(client, raw).status_code for _ in range(3)] == [201, 201, 507]
    assert held(client) == (2, 2 * len(raw))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="writes to /dev/full")
def test_a_full_disk_is_told():
    async def receive():
        return {"type": "http.request", "body": head() + wav() + END, "more_body": False}

    asked = Request(
        {"type": "http", "headers": [(b"content-type", FORM["content-type"].encode())]}, receive
    )
    with pytest.raises(RefusedError, match="no room") as refusal:
        asyncio.run(upload.receive(asked, Path("/dev/full"), 2**20, lambda count: None))
    assert refusal.value.status_code == 507


def test_a_header_without_end_is_not_gathered():
    form = upload._Form(io.BytesIO(), 2**30, lambda count: None)
    for told in (form.callbacks()["on_header_field"], form.callbacks()["on_header_value"]):
        told(bytes(2**15), 0, 2**15)
        with pytest.raises(RefusedError, match="no whole"):
            told(bytes(2**16), 0, 2**16)


def test_decoding_that_takes_too_long_ends(started, monkeypatch):
    from echoic.web import route_sounds

    def endless(*_, **__):
        while True:
            yield tiny.noise(0.1)

    monkeypatch.setattr(route_sounds, "stream_audio", endless)
    client = started(limits={"work_s": 0.5})
    answer = brought(client)
    refused(answer, 503, "longer than")
    assert answer.headers["retry-after"]
    assert held(client) == (0, 0)
