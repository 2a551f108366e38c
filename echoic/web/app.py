"""The app: its parts put together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI

import echoic
from echoic.api import EchoicModel
from echoic.web import answers, errors, route_model, route_pages, route_sounds
from echoic.web.folder import Folder
from echoic.web.guard import Guard
from echoic.web.parts import Parts
from echoic.web.settings import Settings
from echoic.web.sounds import Sounds
from echoic.web.work import Work, watch

_SWEEP_S = 60.0
_DECODERS = 2  # threads
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": answers.Problem, "description": what}
    for code, what in {
        400: "Not understood", 401: "Needs the token", 403: "Sent by another page",
        404: "Unknown here", 408: "Nothing came", 409: "Not with this model or index",
        410: "Changed since it was indexed", 413: "Too large or too long", 415: "Not in this form",
        421: "Called by another name", 422: "Cannot be used as it is", 503: "Too busy",
        507: "No room",
    }.items()
}  # fmt: skip


def create_app(
    model: EchoicModel,
    index: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
) -> FastAPI:
    """The web app. index: a folder of sounds, or an index; that it is not there yet, or is changed
    by `echoic index` meanwhile, does no harm. The model belongs to the app's one thread from now
    on."""
    chosen = settings or Settings()
    limits = chosen.limits
    listening = Work("model", threads=1, at_once=limits.at_once, limit_s=limits.work_s)
    decoding = Work("decode", threads=_DECODERS, at_once=4 * limits.at_once, limit_s=limits.work_s)
    folder = None if index is None else Folder(index, model)
    about = _about(model, chosen.model_name)
    parts = Parts(model, about, folder, chosen, Sounds(limits), listening, decoding)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(parts))
        with watch(model.network):
            yield
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping
            parts.end_work()
        parts.sounds.close()

    app = FastAPI(
        title="echoic",
        version=echoic.__version__,
        description="Search, tag, caption and compare sounds.",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
        responses=_PROBLEMS,
        redirect_slashes=False,
    )
    app.state.parts = parts
    for routes in (route_pages, route_sounds, route_model):
        app.include_router(routes.router)
    errors.add_to(app, list if folder is None else folder.named)
    app.add_middleware(Guard, settings=chosen)
    return app


def _about(model: EchoicModel, name: str) -> answers.ModelInfo:
    return answers.ModelInfo(
        name=name,
        space_id=model.space_id,
        rate_hz=model.rate_hz,
        longest_s=model.network.audio.max_s,
        captions=model.network.decoder is not None,
        words=model.reads == "words",
    )


async def _sweep(parts: Parts) -> None:
    while True:
        await asyncio.sleep(_SWEEP_S)
        parts.sounds.sweep()
