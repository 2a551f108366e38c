"""/api/sounds, /api/files: sounds come, go, are played and drawn."""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as InPath

from echoic.audio.io import probe_audio, stream_audio
from echoic.web import answers
from echoic.web.errors import RefusedError
from echoic.web.folder import Folder, IndexedFile
from echoic.web.parts import Asking, Parts, kept
from echoic.web.peaks import Outline, drawn, outlined
from echoic.web.play import Playable, answered, playable
from echoic.web.sounds import Sound
from echoic.web.upload import FIELD, receive

router = APIRouter(prefix="/api")

SoundId = Annotated[str, InPath(pattern="^[0-9a-f]{32}$")]
FileId = Annotated[str, InPath(pattern="^[0-9a-f]{64}$")]
Points = Annotated[int, Query(ge=1, le=4000)]
AsWav = Annotated[bool, Query(description="as WAV, whatever it is")]
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}
_AUDIO: dict[int | str, dict[str, Any]] = {
    200: {"content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}}},
    206: {
        "description": "The part that Range asks for",
        "content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}},
    },
    416: {"model": answers.Problem, "description": "No such part"},
}


@router.get("/sounds")
async def sounds(response: Response, asked: Asking) -> list[answers.SoundInfo]:
    """The sounds of this session; and its cookie, by which sounds sent at once belong together."""
    session = asked.parts.sounds.session(asked.key)
    asked.remember(response, asked.parts.sounds.key(asked.key))
    return [] if session is None else [_told(sound) for sound in session.sounds.values()]


@router.post("/sounds", status_code=201, openapi_extra=_UPLOAD)
async def upload(request: Request, response: Response, asked: Asking) -> answers.SoundInfo:
    """Upload a sound: a recording of any form that can be decoded."""
    held = asked.parts.sounds
    session = held.begin(asked.key)
    held.require_room(session)
    session.coming += 1
    try:
        sound = await _received(request, asked)
        session.sounds[sound.id] = sound
        held.session(session.key)  # in use until now, however long it was on its way
    finally:
        session.coming -= 1
    asked.remember(response, session.key)
    return _told(sound)


async def _received(request: Request, asked: Asking) -> Sound:
    """Raises RefusedError, AudioError; then nothing is left of it."""
    parts, taken = asked.parts, 0
    path = parts.sounds.new_path()

    def take(count: int) -> None:
        nonlocal taken
        parts.sounds.take(count)
        taken += count

    try:
        name = await receive(request, path, parts.settings.limits.upload_bytes, take)
        return await asked.decode(partial(_looked_into, path, name, parts))
    except BaseException:
        path.unlink(missing_ok=True)
        parts.sounds.give_back(taken)
        raise


def _looked_into(path: Path, name: str, parts: Parts) -> Sound:
    """Decoded from beginning to end, as what a header says of length is not believed. Raises
    AudioError, RefusedError."""
    longest_s = parts.settings.limits.sound_s
    info = probe_audio(path, name=name)
    most = longest_s + 1 / info.rate_hz
    blocks = stream_audio(path, rate_hz=info.rate_hz, duration_s=most, name=name, block_s=1.0)
    outline = outlined(blocks)
    duration_s = outline.samples / info.rate_hz
    if duration_s > longest_s:
        raise RefusedError(413, f"{name}: longer than {longest_s:g} s")
    return Sound(
        secrets.token_hex(16), name, path, path.stat().st_size, duration_s, info.rate_hz,
        info.channels, outline.rows(),
    )  # fmt: skip


def _told(sound: Sound) -> answers.SoundInfo:
    return answers.SoundInfo(
        id=sound.id,
        name=sound.name,
        duration_s=sound.duration_s,
        rate_hz=sound.rate_hz,
        channels=sound.channels,
    )


@router.delete("/sounds/{sound_id}", status_code=204)
async def remove(sound_id: SoundId, asked: Asking) -> None:
    """Remove a sound of this session."""
    asked.parts.sounds.remove(asked.key, sound_id)


@router.get("/sounds/{sound_id}/audio", response_class=Response, responses=_AUDIO)
async def sound_audio(
    sound_id: SoundId, request: Request, asked: Asking, wav: AsWav = False
) -> Response:
    """A sound of this session, to be played; in parts by Range."""
    return await _played(
        asked.parts.sounds.find(asked.key, sound_id).playable(), request, asked, wav
    )


@router.get("/files/{file_id}/audio", response_class=Response, responses=_AUDIO)
async def file_audio(
    file_id: FileId, request: Request, asked: Asking, wav: AsWav = False
) -> Response:
    """A recording of the index, to be played; in parts by Range."""
    folder = asked.parts.need_folder()
    file = await asked.decode(partial(folder.find, file_id))
    return await _played(folder.playable(file), request, asked, wav)


async def _played(sound: Playable, request: Request, asked: Asking, wav: bool) -> Response:
    return answered(request, await asked.decode(partial(playable, sound, as_wav=wav)))


@router.get("/sounds/{sound_id}/peaks")
async def sound_peaks(sound_id: SoundId, asked: Asking, points: Points = 800) -> answers.Peaks:
    """The wave form of a sound of this session."""
    sound = asked.parts.sounds.find(asked.key, sound_id)
    return answers.Peaks(duration_s=sound.duration_s, peaks=drawn(sound.outline, points))


@router.get("/files/{file_id}/peaks")
async def file_peaks(file_id: FileId, asked: Asking, points: Points = 800) -> answers.Peaks:
    """The wave form of a recording of the index."""
    folder = asked.parts.need_folder()
    file, outline = await asked.decode(partial(_outline_of, file_id, folder, asked.parts))
    return answers.Peaks(duration_s=file.duration_s, peaks=drawn(outline.rows(), points))


def _outline_of(file_id: str, folder: Folder, parts: Parts) -> tuple[IndexedFile, Outline]:
    file = folder.find(file_id)
    if (known := parts.outlines.get(file_id)) is not None:
        return file, known
    with folder.open(file) as opened:
        rate_hz = probe_audio(opened, name=file.shown).rate_hz
        outline = outlined(stream_audio(opened, rate_hz=rate_hz, block_s=1.0, name=file.shown))
    return file, kept(parts.outlines, file_id, outline)
