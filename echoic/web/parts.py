"""What the routes share: the model and who works with it, the sounds, the folder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, BinaryIO, TypeVar, cast

from fastapi import Depends, Request, Response
from torch import Tensor

from echoic.api import EchoicModel
from echoic.web.answers import ModelInfo, SoundOrFile
from echoic.web.errors import RefusedError
from echoic.web.folder import Folder, IndexedFile
from echoic.web.peaks import Outline
from echoic.web.settings import Settings
from echoic.web.sounds import Sound, Sounds
from echoic.web.work import Work

T = TypeVar("T")

_KEPT = 256


@dataclass
class Parts:
    """listening: the one thread that uses the model and searches. decoding: the threads that look
    into files."""

    model: EchoicModel
    about: ModelInfo
    folder: Folder | None
    settings: Settings
    sounds: Sounds
    listening: Work
    decoding: Work
    vectors: OrderedDict[str, Tensor] = field(default_factory=OrderedDict)
    outlines: OrderedDict[str, Outline] = field(default_factory=OrderedDict)

    def end_work(self) -> None:
        """Gives up what is being done."""
        self.listening.close()
        self.decoding.close()

    def need_folder(self) -> Folder:
        """Raises RefusedError where there is no index."""
        if self.folder is None or not self.folder.there:
            raise RefusedError(404, "no index here; make one: echoic index FOLDER")
        return self.folder


def kept(held: OrderedDict[str, T], key: str, value: T) -> T:
    """Keeps the newest few."""
    held[key] = value
    while len(held) > _KEPT:
        held.popitem(last=False)
    return value


def _parts(request: Request) -> Parts:
    return cast(Parts, request.app.state.parts)


Shared = Annotated[Parts, Depends(_parts)]


def session_cookie(request: Request) -> str:
    """Its name: of the port too, as browsers keep cookies of all ports of a machine together."""
    return f"echoic_session_{(request.scope.get('server') or ('', 0))[1]}"


class Asked:
    """Whoever asks: the session, and what runs for it in the threads."""

    def __init__(self, request: Request, parts: Shared) -> None:
        self._request, self.parts = request, parts
        self.cookie = session_cookie(request)
        self.key = request.cookies.get(self.cookie)

    def remember(self, response: Response, key: str) -> None:
        """The session of whoever asks."""
        response.set_cookie(self.cookie, key, httponly=True, samesite="strict")

    async def listen(self, work: Callable[[], T]) -> T:
        return await self.parts.listening.do(work, self._request.is_disconnected)

    async def decode(self, work: Callable[[], T]) -> T:
        return await self.parts.decoding.do(work, self._request.is_disconnected)

    async def subject(self, asked: SoundOrFile) -> Subject:
        """What a question is about. Raises RefusedError where this session knows no such thing."""
        if asked.sound is not None:
            return Subject(self.parts, self.parts.sounds.find(self.key, asked.sound))
        folder = self.parts.need_folder()
        file = await self.decode(partial(folder.find, asked.file or ""))
        return Subject(self.parts, file)


Asking = Annotated[Asked, Depends()]


@dataclass(frozen=True)
class Subject:
    """A recording of the session or of the index, as the model is handed it."""

    parts: Parts
    held: Sound | IndexedFile

    @property
    def duration_s(self) -> float:
        return self.held.duration_s

    def open(self) -> Named:
        """Raises RefusedError where it is gone."""
        if isinstance(self.held, Sound):
            return Named(self.held.open(), self.held.name)
        assert self.parts.folder is not None
        return Named(self.parts.folder.open(self.held), self.held.shown)

    def vector(self) -> Tensor:
        """(D,), computed once; in the listening thread. Raises AudioError."""
        if isinstance(self.held, Sound):
            if self.held.vector is None:
                self.held.vector = self._heard()
            return self.held.vector
        digest = self.held.digest
        if digest not in self.parts.vectors:
            kept(self.parts.vectors, digest, self._heard())
        return self.parts.vectors[digest]

    def _heard(self) -> Tensor:
        with self.open() as file:
            return self.parts.model.embed_audio([cast(BinaryIO, file)])[0]


class Named:
    """A file under the name by which errors shall call it."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self.name = file, name
        self.read, self.readinto = file.read, file.readinto  # type: ignore[attr-defined]
        self.seek, self.seekable, self.fileno = file.seek, file.seekable, file.fileno

    def __enter__(self) -> Named:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
