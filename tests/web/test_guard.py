"""Who may ask, and what a browser is told."""

from __future__ import annotations

import asyncio

import pytest
from fastapi.testclient import TestClient

from echoic.web import guard
from tests.web.conftest import brought, wav

TOKEN = "correct-horse-battery"


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("LOCALHOST:8765", 200), ("127.0.0.1:1", 200), ("127.9.9.9", 200),
     ("[::1]:8765", 200), ("[::1]", 200), ("evil.example", 421), ("localhost.evil.example", 421),
     ("127.0.0.1.evil.example:80", 421), ("10.0.0.7", 421), ("", 421), ("evil@localhost", 421),
     ("[::1", 200), ("2130706433", 421)],
)  # fmt: skip
def test_a_name_that_leads_here_is_not_enough(client, host, status):
    answer = client.get("/api/info", headers={"host": host})
    assert answer.status_code == status


def test_other_names_are_allowed_by_name(started):
    client = started(hosts=("sounds.example",), any_address=True)
    for host, status in (("sounds.example:80", 200), ("10.0.0.7", 200), ("evil.example", 421)):
        assert client.get("/api/info", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 201), ({"origin": "http://localhost"}, 201), ({"sec-fetch-site": "same-origin"}, 201),
     ({"origin": "http://evil.example"}, 403), ({"origin": "null"}, 403),
     ({"origin": "http://localhost:9999"}, 403), ({"origin": "http://localhost.evil"}, 403),
     ({"sec-fetch-site": "cross-site"}, 403), ({"sec-fetch-site": "same-site"}, 403),
     ({"origin": "http://["}, 403), ({"origin": "http://localhost@evil.example"}, 403)],
)  # fmt: skip
def test_what_another_page_sends_is_refused(client, headers, status):
    files = {"file": ("a.wav", wav())}
    assert client.post("/api/sounds", files=files, headers=headers).status_code == status


def test_another_page_may_not_remove(client, sound):
    place = f"/api/sounds/{sound}"
    assert client.delete(place, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.delete(place).status_code == 204


def test_another_page_may_not_listen(client, sound):
    headers = {"sec-fetch-site": "cross-site"}
    assert client.get(f"/api/sounds/{sound}/audio", headers=headers).status_code == 403
    assert client.get("/docs", headers=headers).status_code == 200  # a link to it is fine


ALL = [
    ("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/static/docs.js"),
    ("GET", "/api/info"), ("GET", "/api/sounds"), ("POST", "/api/sounds"), ("GET", "/api/map"),
    ("POST", "/api/search"), ("POST", "/api/tag"), ("POST", "/api/caption"),
    ("POST", "/api/compare"), ("GET", "/api/files/" + "0" * 64 + "/audio"), ("GET", "/nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ALL)
@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"},
     {"authorization": f"Bearer {TOKEN}x"}, {"authorization": f"Bearer {TOKEN[:-1]}"},
     {"authorization": "Bearer ☂".encode()}, {"cookie": "echoic_token_80=wrong"},
     {"cookie": "\x00;;=;"}],
)  # fmt: skip
def test_nothing_is_answered_without_the_token(started, method, path, headers):
    client = started(None, token=TOKEN)
    answer = client.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in answer.text


def test_the_token_in_a_header(started):
    client = started(token=TOKEN)
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/api/info", headers=headers).status_code == 200
    assert client.get("/api/info").status_code == 401


def test_the_address_with_the_token_sets_a_cookie_and_goes_on(started):
    client = started(token=TOKEN)
    assert client.get("/?token=wrong").status_code == 401
    answer = client.get(f"/?token={TOKEN}")
    assert answer.status_code == 200
    assert "url=/" in answer.text
    assert TOKEN not in answer.text
    told = answer.headers["set-cookie"]
    assert "HttpOnly" in told
    assert "SameSite=strict" in told
    assert client.get("/api/info").status_code == 200
    assert brought(client).status_code == 201
    assert TestClient(client.app, base_url="http://localhost").get("/api/info").status_code == 401


def test_the_token_is_compared_in_constant_time(started, monkeypatch):
    compared = []
    real = guard.hmac.compare_digest

    def noted(a, b):
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(guard.hmac, "compare_digest", noted)
    client = started(None, token=TOKEN)
    client.get("/api/info", headers={"authorization": "Bearer guess"})
    assert (b"guess", TOKEN.encode()) in compared


@pytest.mark.parametrize("path", ["/", "/docs", "/api/info", "/nothing", "/api/map?points=x"])
def test_every_answer_tells_the_browser_what_it_may(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    assert headers["cache-control"] in {"no-store", "no-cache"}


def test_a_long_body_is_cut_off(client):
    answer = client.post("/api/search", content=b'{"text": "' + b"x" * 2**21)
    assert (answer.status_code, answer.json()) == (413, {"error": "the body is too large"})


def test_deep_nesting_is_no_way_in(client):
    answer = client.post(
        "/api/search", content=b"[" * 100_000, headers={"content-type": "application/json"}
    )
    assert answer.status_code in {400, 422}


def scope(path="/api/info", method="GET"):
    return {
        "type": "http", "method": method, "path": path, "query_string": b"",
        "headers": [(b"host", b"localhost")], "http_version": "1.1", "scheme": "http",
        "server": ("localhost", 80),
    }  # fmt: skip


def test_more_questions_at_once_than_allowed_are_told_so(started):
    client = started(None, limits={"connections": 3})

    async def run():
        going, statuses, seen = asyncio.Event(), [], []

        async def receive():
            await going.wait()
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
                seen.append(dict(message["headers"]).get(b"retry-after"))

        asked = scope("/api/search", "POST")
        slow = [asyncio.create_task(client.app(asked, receive, send)) for _ in range(3)]
        await asyncio.sleep(0)
        await client.app(scope(), receive, send)
        assert (statuses, seen) == ([503], [b"2"])
        going.set()
        await asyncio.gather(*slow)

    asyncio.run(run())


def test_a_body_that_does_not_come_is_not_waited_for(started, monkeypatch):
    monkeypatch.setattr(guard, "_PATIENCE_S", 0.05)
    client = started(None)

    async def run():
        statuses = []

        async def receive():
            await asyncio.sleep(1000)

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await client.app(scope("/api/search", "POST"), receive, send)
        await client.app(scope("/api/tag", "POST"), receive, send)
        assert statuses == [408, 408]

    asyncio.run(run())
