"""The server as it is: a socket, many at once, Ctrl-C."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from echoic.convert.native import save_model
from echoic.types import EchoicError
from echoic.web import server
from echoic.web.app import create_app
from echoic.web.settings import Limits, Settings
from tests import tiny
from tests.web.conftest import wav
from tests.web.serving import serving


def ask(address, method="GET", path="/api/info", body=None, headers=None):
    """(status, headers, body); status None where the connection was cut."""
    where = urlsplit(address)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    except (ConnectionError, http.client.HTTPException):
        return None, {}, b""
    finally:
        connection.close()


def form(raw):
    head = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return head + raw + b"\r\n--xyz--\r\n", {"Content-Type": "multipart/form-data; boundary=xyz"}


@pytest.fixture
def address(model, indexed):
    limits = Limits(connections=20, at_once=4, work_s=60)
    with serving(create_app(model, indexed, Settings(limits=limits)), limits) as address:
        yield address


def test_a_sound_comes_and_goes(address):
    status, headers, raw = ask(address, "POST", "/api/sounds", *form(wav()))
    assert status == 201
    cookie = {"Cookie": headers["set-cookie"].partition(";")[0]}
    place = f"/api/sounds/{json.loads(raw)['id']}"
    status, headers, raw = ask(
        address, path=f"{place}/audio", headers=cookie | {"Range": "bytes=0-3"}
    )
    assert (status, raw) == (206, b"RIFF")
    assert "server" not in headers
    assert ask(address, "DELETE", place, headers=cookie)[0] == 204


def threads_and_memory():
    with open("/proc/self/status") as file:
        told = file.read()
    held = int(re.search(r"VmRSS:\s+(\d+)", told)[1]) / 1024
    return int(re.search(r"Threads:\s+(\d+)", told)[1]), held


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_a_thousand_questions_at_once_are_answered_or_told_to_come_again(address):
    question = json.dumps({"text": "a dog"}).encode()
    kind = {"Content-Type": "application/json"}
    ask(address, "POST", "/api/search", question, kind)
    threads, megabytes = threads_and_memory()
    most = []

    def one(number):
        if number % 50 == 0:
            most.append(threads_and_memory())
        if number % 3 == 0:
            return ask(address, "POST", "/api/sounds", *form(wav()))[0]
        return ask(address, "POST", "/api/search", question, kind)[0]

    callers = 60
    with ThreadPoolExecutor(callers) as pool:
        statuses = list(pool.map(one, range(1000)))
    # None: cut off, as more connections were open than the server takes
    assert set(statuses) <= {200, 201, 503, None}
    assert statuses.count(200) > 0
    assert statuses.count(503) > 0
    assert max(t for t, _ in most) <= threads + callers + 50
    assert max(m for _, m in most) < megabytes + 300
    assert ask(address)[0] == 200


def test_connections_that_ask_nothing_do_not_shut_others_out_for_ever(model, monkeypatch):
    monkeypatch.setattr(server, "_PATIENCE_S", 0.3)
    limits = Limits(connections=2)
    with serving(create_app(model, None, Settings(limits=limits)), limits) as address:
        where = urlsplit(address)
        idle = [socket.create_connection((where.hostname, where.port)) for _ in range(30)]
        for each in idle:
            each.settimeout(30)
        ends = []
        for each in idle:
            try:
                ends.append(each.recv(1))
            except ConnectionResetError:
                ends.append(b"")
            each.close()
        assert ends == [b""] * 30
        assert ask(address)[0] == 200


QUESTION = b"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "said", [[QUESTION * 800], [QUESTION, b"GET /api/info HTTP/1.1\r\nHo"]],
    ids=["takes nothing", "asks half a question"],
)  # fmt: skip
def test_who_takes_or_asks_nothing_more_does_not_shut_others_out_for_ever(model, monkeypatch, said):
    monkeypatch.setattr(server, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(server, "_STALL_S", 0.5)
    with serving(create_app(model), Limits(connections=1)) as address:
        where, held = urlsplit(address), []
        for _ in range(4):  # as many as there may be
            held.append(socket.socket())
            held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            held[-1].connect((where.hostname, where.port))
        for part in said:
            for each in held:
                each.sendall(part)
        deadline = time.monotonic() + 60
        while ask(address)[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for each in held:
            each.close()


def test_a_caller_who_goes_away_frees_the_model(address, model):
    where = urlsplit(address)
    _, headers, raw = ask(address, "POST", "/api/sounds", *form(wav(120, form="FLAC")))
    cookie = headers["set-cookie"].partition(";")[0]
    body = json.dumps({"sound": json.loads(raw)["id"]}).encode()
    for _ in range(4):
        gone = socket.create_connection((where.hostname, where.port))
        gone.sendall(
            b"POST /api/caption HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + f"Cookie: {cookie}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        gone.close()
    deadline = time.monotonic() + 60
    question = b'{"text": "a"}'
    while (
        ask(address, "POST", "/api/search", question, {"Content-Type": "application/json"})[0]
        != 200
    ):
        assert time.monotonic() < deadline


def test_a_port_that_is_taken():
    with server.bound("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(EchoicError, match=f"port {port} .*; --port 0"):
            server.bound("127.0.0.1", port)


def test_an_address_that_is_none():
    with pytest.raises(EchoicError, match="cannot listen at 203"):
        server.bound("203.0.113.1", 0)


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def started(tmp_path):
    """echoic web with these arguments, until its address is printed; ended at the end."""
    model = tmp_path / "model.safetensors"
    save_model(model, tiny.content())
    running = []

    def start(*arguments):
        command = [sys.executable, "-m", "echoic", "web", "--model", model, "--port", "0"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
        process = subprocess.Popen(
            [str(word) for word in (*command, *arguments)], cwd=tmp_path, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        running.append(process)
        assert select.select([process.stdout], [], [], 100)[0], "no address was printed"
        return process, process.stdout.readline().strip()

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process, how):
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_ctrl_c_ends_it_in_the_midst_of_an_answer_and_leaves_nothing(started, tmp_path):
    process, address = started()
    assert address.startswith("http://127.0.0.1:")
    here = address.rstrip("/")
    status, _, raw = ask(here)
    assert (status, json.loads(raw)["index"]) == (200, None)
    status, headers, raw = ask(here, "POST", "/api/sounds", *form(wav(600, form="FLAC")))
    assert status == 201
    assert list(tmp_path.glob("echoic-web-*"))
    question = json.dumps({"sound": json.loads(raw)["id"], "labels": ["a"]}).encode()
    kind = {"Content-Type": "application/json", "Cookie": headers["set-cookie"].split(";")[0]}
    asking = threading.Thread(target=ask, args=(here, "POST", "/api/tag", question, kind))
    asking.start()
    code, _, err = ended(process, signal.SIGINT)
    asking.join(60)
    assert code == 0, err
    assert "Traceback" not in err
    assert "stopped" in err
    assert list(tmp_path.glob("echoic-web-*")) == []


def test_beyond_loopback_a_token_is_made_and_needed(started, tmp_path):
    process, address = started("--host", "0.0.0.0")
    where = urlsplit(address)
    token = where.query.removeprefix("token=")
    assert len(token) >= 32
    here = f"http://127.0.0.1:{where.port}"
    assert ask(here)[0] == 401
    shown = {"Authorization": f"Bearer {token}"}
    assert ask(here, headers=shown)[0] == 200
    body, kind = form(wav())
    assert ask(here, "POST", "/api/sounds", body, kind | shown)[0] == 201
    ended(process, signal.SIGTERM)
    assert list(tmp_path.glob("echoic-web-*")) == []
