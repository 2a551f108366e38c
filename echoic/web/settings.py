"""What a server of the web app allows, and how that is written on the command line:

--limits upload=200MB,sound=2h,sounds=50,at_once=16,work=5m
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace

from echoic.types import ConfigError


@dataclass(frozen=True)
class Limits:
    """upload_bytes: of one file. sound_s: how long a file may be once it is decoded. sounds: that
    one session holds at once. at_once: questions to the model that are answered or wait; who comes
    after is told to come again. work_s: of one answer, the time in which it waits included.
    disk_bytes: of all sounds of all sessions. sessions: that hold sounds. idle_s: after which a
    session ends. connections: questions of all kinds at once."""

    upload_bytes: int = 200 * 2**20
    sound_s: float = 7200.0
    sounds: int = 50
    at_once: int = 16
    work_s: float = 300.0
    disk_bytes: int = 8 * 2**30
    sessions: int = 256
    idle_s: float = 7200.0
    connections: int = 128


@dataclass(frozen=True)
class Settings:
    """token: None: none is needed. hosts: names by which the server may be called, beside those of
    this machine's loopback. any_address: whether it may also be called by any numeric address, as
    one that listens beyond loopback is."""

    limits: Limits = field(default_factory=Limits)
    token: str | None = None
    hosts: tuple[str, ...] = ()
    any_address: bool = False
    model_name: str = "model"


_NAMES = {
    "upload": "upload_bytes", "sound": "sound_s", "sounds": "sounds", "at_once": "at_once",
    "work": "work_s", "disk": "disk_bytes", "sessions": "sessions", "idle": "idle_s",
    "connections": "connections",
}  # fmt: skip
_UNITS = {
    "bytes": {"": 1, "b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40},
    "s": {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600},
    "": {"": 1},
}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


def read_limits(told: str | None) -> Limits:
    """Of --limits. Raises ConfigError."""
    given: dict[str, float] = {}
    for part in filter(None, (each.strip() for each in (told or "").split(","))):
        name, equals, value = part.partition("=")
        if not equals or name not in _NAMES:
            raise ConfigError(f"--limits {part}: give NAME=VALUE of {', '.join(_NAMES)}")
        given[_NAMES[name]] = _value(part, _NAMES[name], value.strip())
    return replace(Limits(), **given)  # type: ignore[arg-type]


def _value(part: str, field_name: str, told: str) -> float:
    unit = next((end for end in ("bytes", "s") if field_name.endswith(f"_{end}")), "")
    found, units = _NUMBER.fullmatch(told), _UNITS[unit]
    if found is None or found[2].lower() not in units:
        some = {"bytes": "200MB", "s": "90s, 5m or 2h", "": "a whole number"}[unit]
        raise ConfigError(f"--limits {part}: not {some}")
    value = float(found[1]) * units[found[2].lower()]
    if unit != "s":
        value = math.floor(value)
    if value <= 0:
        raise ConfigError(f"--limits {part}: must be more than 0")
    return value
