"""A client of `echoic web` that never rests: what people do, and what nobody should.

Each request says what its answer must be: anything else is a failure, kept as a line.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soundfile

WORDS = ("rain on a roof", "a dog barks", "a high beep", "footsteps", "an engine", "birds")
BUSY = 503
_KEPT = 100  # failures


class Client:
    """One person with a browser of their own: a cookie, sounds that are theirs."""

    def __init__(self, address: str, seed: int) -> None:
        self.address, self.answered, self.failures = address, 0, list[str]()
        self._draw = Random(seed)
        jar = urllib.request.HTTPCookieProcessor(CookieJar())
        self._opener = urllib.request.build_opener(jar)

    def work(self, stop: threading.Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            try:
                self._round()
            except Exception as error:
                if not stop.is_set():
                    self._fail(f"{type(error).__name__}: {error}")
                    time.sleep(0.1)

    def _round(self) -> None:
        sounds = [self._upload(self._draw.uniform(0.5, 4.0)) for _ in range(2)]
        query = {"text": self._draw.choice(WORDS), "top": 5}
        hits = self.ask("POST", "/api/search", query)["hits"]
        self.ask("POST", "/api/search", {"sound": sounds[0], "top": 3})
        for hit in hits[:2]:
            self.ask("GET", f"/api/files/{hit['id']}/peaks?points=200")
            self.ask("GET", f"/api/files/{hit['id']}/audio", raw=True)
        self.ask("POST", "/api/tag", {"sound": sounds[0], "labels": ["rain", "dog"]})
        self.ask("POST", "/api/compare", {"a": {"sound": sounds[0]}, "b": {"sound": sounds[1]}})
        self.ask("GET", "/api/map?points=100")
        if self._draw.random() < 0.2:
            self.ask("POST", "/api/caption", {"sound": sounds[0]})
            self._upload_bytes(self._draw.randbytes(2000), due=(400, 415, 422))
            self.ask("GET", "/api/sounds/nothing/audio", due=(404, 422))
            self.ask("POST", "/api/search", {"top": -1}, due=(400, 422))
        for sound in sounds:
            self.ask("DELETE", f"/api/sounds/{sound}", due=(204,), raw=True)

    def _upload(self, seconds: float) -> str:
        noise = np.random.default_rng(self._draw.randrange(2**32)).standard_normal(
            round(seconds * 16_000)
        )
        file = io.BytesIO()
        soundfile.write(file, 0.1 * noise, 16_000, format="FLAC")
        return str(self._upload_bytes(file.getvalue(), due=(201,))["id"])

    def _upload_bytes(self, content: bytes, due: tuple[int, ...]) -> dict[str, Any]:
        edge = "echoic-soak-edge"
        body = (
            f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n'
            "Content-Type: audio/flac\r\n\r\n"
        ).encode() + content + f"\r\n--{edge}--\r\n".encode()  # fmt: skip
        kind = f"multipart/form-data; boundary={edge}"
        return self.ask("POST", "/api/sounds", body, due=due, kind=kind)

    def ask(
        self,
        method: str,
        path: str,
        content: object = None,
        *,
        due: tuple[int, ...] = (200, 206),
        kind: str = "application/json",
        raw: bool = False,
    ) -> dict[str, Any]:
        """The answer; asked again, after a rest, of a server that says it is busy. Raises
        RuntimeError on another status than those that are due."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"Origin": self.address} | ({"Content-Type": kind} if content else {})
        request = urllib.request.Request(
            self.address + path, body if content is not None else None, headers, method=method
        )
        for _ in range(100):
            status, answer = self._send(request)
            if status != BUSY:
                break
            time.sleep(0.2)
        self.answered += 1
        if status not in due:
            raise RuntimeError(f"{method} {path}: {status}, not {due}: {answer[:200]!r}")
        return {} if raw or not answer else json.loads(answer)

    def _send(self, request: urllib.request.Request) -> tuple[int, bytes]:
        try:
            with self._opener.open(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read()

    def _fail(self, told: str) -> None:
        if len(self.failures) < _KEPT:
            self.failures.append(told)


def address_of(process: subprocess.Popen[str], log: Path, patience_s: float = 120.0) -> str:
    """Where a server says that it is. Raises RuntimeError with what it said, and ends it."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"http://[\d.]+:\d+", log.read_text()):
            return found[0]
        time.sleep(0.1)
    process.kill()
    process.wait()
    raise RuntimeError(f"no server: {log.read_text()}")
