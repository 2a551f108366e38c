"""The sounds that people upload: files in a private folder, each known to one session alone.

A session is a random cookie that this server signed: so nothing is kept of who only looks, and
sounds that are sent at once by one who was handed a cookie belong to one session. It begins with
the first sound, and ends when nothing came from it for a while. Its sounds end with it, all of them
with the server; what a killed server left is removed by the next one.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from torch import Tensor

from echoic.web.errors import RefusedError, busy, no_room, unknown
from echoic.web.play import Playable
from echoic.web.private import PrivateFolder
from echoic.web.settings import Limits


@dataclass
class Sound:
    """path: of its bytes. outline: (n, 2), see peaks.py. vector: once it is known."""

    id: str
    name: str
    path: Path
    size: int
    duration_s: float
    rate_hz: int
    channels: int
    outline: npt.NDArray[np.int8]
    vector: Tensor | None = None

    def open(self) -> BinaryIO:
        """Raises RefusedError where it was removed meanwhile."""
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            raise unknown("sound") from None

    def playable(self) -> Playable:
        return Playable(self.open, self.name, self.duration_s)


@dataclass
class Session:
    """coming: uploads that are not done."""

    key: str
    sounds: dict[str, Sound] = field(default_factory=dict)
    coming: int = 0
    seen_s: float = 0.0


class Sounds:
    """now: a clock."""

    def __init__(self, limits: Limits, now: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._now = limits, now
        self._sessions: dict[str, Session] = {}
        self._held_bytes = 0
        self._folder: PrivateFolder | None = None
        self._secret = secrets.token_bytes(32)

    def key(self, told: str | None) -> str:
        """For a cookie: the one that was told where it is ours, else a new one."""
        if told is not None:
            drawn, _, sign = told.partition(".")
            if hmac.compare_digest(sign.encode(), self._sign(drawn).encode()):
                return told
        drawn = secrets.token_urlsafe(32)
        return f"{drawn}.{self._sign(drawn)}"

    def _sign(self, drawn: str) -> str:
        return hmac.digest(self._secret, drawn.encode(), "sha256").hex()

    def new_path(self) -> Path:
        if self._folder is None:
            self._folder = PrivateFolder()
        return self._folder.path / secrets.token_hex(16)

    def session(self, key: str | None) -> Session | None:
        """That of a cookie, which is then in use."""
        self.sweep()
        found = self._sessions.get(key) if key else None
        if found is not None:
            found.seen_s = self._now()
        return found

    def begin(self, key: str | None) -> Session:
        """That of a cookie, or a new one. Raises RefusedError where there are too many."""
        if (found := self.session(key)) is not None:
            return found
        if len(self._sessions) >= self._limits.sessions:
            raise busy("too many people have sounds here; try again later")
        made = Session(self.key(key), seen_s=self._now())
        self._sessions[made.key] = made
        return made

    def require_room(self, session: Session) -> None:
        """Raises RefusedError where the session has all the sounds that it may."""
        if len(session.sounds) + session.coming >= self._limits.sounds:
            raise RefusedError(409, f"{self._limits.sounds} sounds are the most; remove one first")

    def take(self, count: int) -> None:
        """Bytes that go to the disk. Raises RefusedError where there is no room."""
        if self._held_bytes + count > self._limits.disk_bytes:
            raise no_room()
        self._held_bytes += count

    def give_back(self, count: int) -> None:
        self._held_bytes -= count

    def find(self, key: str | None, sound_id: str) -> Sound:
        """Raises RefusedError where this session has no such sound."""
        session = self.session(key)
        if session is None or sound_id not in session.sounds:
            raise unknown("sound")
        return session.sounds[sound_id]

    def remove(self, key: str | None, sound_id: str) -> None:
        """Raises RefusedError."""
        sound = self.find(key, sound_id)
        del self._sessions[key or ""].sounds[sound_id]
        self._forget(sound)

    def _forget(self, sound: Sound) -> None:
        with suppress(FileNotFoundError):
            sound.path.unlink()
        self.give_back(sound.size)

    def sweep(self) -> None:
        """End the sessions that nothing came from for long."""
        ended_s = self._now() - self._limits.idle_s
        for key, session in list(self._sessions.items()):
            if session.seen_s < ended_s and not session.coming:
                del self._sessions[key]
                for sound in session.sounds.values():
                    self._forget(sound)

    def close(self) -> None:
        self._sessions.clear()
        if self._folder is not None:
            self._folder.close()
            self._folder = None
