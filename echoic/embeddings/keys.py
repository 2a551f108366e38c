"""What a vector is known by: all that made it, and what was heard.

Of a clip that is the SHA-256 of its file's bytes, found without reading where the file has not
changed since (size, times, inode); of a scene its description; else of its samples at the model's
rate.

T samples, L text tokens.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache as cached_once
from pathlib import Path
from typing import Literal, TypeAlias, TypeGuard, TypeVar

import numpy as np

from echoic.api import EchoicModel
from echoic.data.clips import ConcatSource, RecaptionedSource, Source, SubsetSource
from echoic.data.shards import ShardSource
from echoic.data.sources import FileSource
from echoic.data.synth.corpus import SceneSource

_SETTLED_NS = 2 * 10**9  # a file changed later than this may change again within one tick of time

# What computes a vector from a sound or a text: files of this package, and packages.
_CODE = (
    "audio", "nn", "encoders", "towers", "data/synth", "types.py", "model.py", "listening.py",
    "items.py", "api.py", "embeddings",
)  # fmt: skip
_PACKAGES = ("numpy", "soundfile", "soxr", "torch", "transformers", "av")

Kind: TypeAlias = Literal["clip", "probe", "text"]


# -- what made it --------------------------------------------------------------------------------


def made_by(model: EchoicModel, kind: Kind) -> str:
    """All that a vector hangs on beside what is heard, as JSON."""
    return json.dumps(
        {
            "kind": kind,
            "space": model.space_id,
            "long": model.listening.name,
            "precision": model.precision,
            "device": model.device.type,
            "code": _code(),
            "packages": _packages(),
        },
        sort_keys=True,
    )


@cached_once
def _code() -> str:
    """Of the sources that compute vectors: whoever changes them must not meet the old ones."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for name in _CODE:
        place = root / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0")
            digest.update(file.read_bytes())
    return digest.hexdigest()


@cached_once
def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


# -- what was heard ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Name:
    """What a clip is known by before it is read. content: None where only the samples can tell.
    place: what `content` is found again under while the file `path` has this state."""

    content: bytes | None = None
    place: str | None = None
    path: Path | None = None
    state: str | None = None

    def has_changed(self) -> bool:
        """Whether the file is no longer as it was when it was named."""
        return self.state != _state(self.path)


class ClipNames:
    """The names of a source's clips at a rate. content_of: what was found in a place that had this
    state, if that is known. noted: what is found now, by place."""

    def __init__(
        self, source: Source, rate_hz: int, content_of: Callable[[str, str], bytes | None]
    ) -> None:
        self._source, self._rate_hz, self._content_of = source, rate_hz, content_of
        self.noted: dict[str, tuple[str, bytes]] = {}

    def of(self, i: int) -> Name:
        """Of clip i; its file is read where it is not known."""
        source, i = _located(self._source, i)
        if _is(source, SceneSource):
            return Name(_digest(repr(source.scenes[i]).encode()))
        if _is(source, FileSource):
            path = Path(os.path.abspath(source.paths[i]))
            name = self._placed(path, str(path))
            return name if name.content or not name.state else self._hashed(name)
        if _is(source, ShardSource):
            tar = Path(os.path.abspath(source.tars[i]))
            return self._placed(tar, json.dumps([str(tar), source.clips[i].key, self._rate_hz]))
        return Name()

    def of_samples(self, name: Name, wave: np.ndarray) -> bytes:
        """The content of a clip (T,) that has no other."""
        content = _digest(np.ascontiguousarray(wave, "<f4").data)
        self._note(name, content)
        return content

    def _placed(self, path: Path, place: str) -> Name:
        """Known by its file, and by what was found there before, if the file is still the same."""
        state = _state(path)
        if state is None:
            return Name()
        return Name(self._content_of(place, state), place, path, state)

    def _hashed(self, name: Name) -> Name:
        assert name.path is not None
        try:
            with name.path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return Name()  # reading it as sound says why
        self._note(name, content)
        return replace(name, content=content)

    def _note(self, name: Name, content: bytes) -> None:
        if name.place is not None and name.state is not None and _has_settled(name.state):
            self.noted[name.place] = (name.state, content)


def of_tokens(ids: Sequence[int]) -> bytes:
    """The content of a text, of its L token ids."""
    return _digest(np.array(ids, "<i8").data)


def _digest(what: bytes | memoryview) -> bytes:
    return hashlib.sha256(what).digest()


Of = TypeVar("Of", bound=Source)


def _is(source: Source, kind: type[Of]) -> TypeGuard[Of]:
    """One that reads in a way of its own is something else."""
    return isinstance(source, kind) and type(source).read is kind.read


def _located(source: Source, i: int) -> tuple[Source, int]:
    """A clip of a view in the source that it comes from."""
    while True:
        if _is(source, SubsetSource):
            i = source.indices[i]
            source = source.source
        elif _is(source, RecaptionedSource):
            source = source.source
        elif _is(source, ConcatSource):
            for part in source.sources:
                if i < len(part.clips):
                    break
                i -= len(part.clips)
            source = part
        else:
            return source, i


def _state(path: Path | None) -> str | None:
    """Changes with the content of a file: which it is, its size, and its times in ns."""
    if path is None:
        return None
    try:
        told = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(told.st_mode):
        return None
    return json.dumps([told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns])


def _has_settled(state: str) -> bool:
    return time.time_ns() - max(json.loads(state)[-2:]) > _SETTLED_NS
