"""web: the page for searching, tagging, captioning and comparing sounds."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from echoic.cli.common import (
    CpuThreads,
    LongOption,
    ModelOption,
    Precision,
    PrecisionOption,
    TextEncoderOption,
    TokenizerOption,
    open_model,
    program,
    say,
    typed,
    use_cpu,
    wrong,
)
from echoic.cli.use import PANEL

if TYPE_CHECKING:
    from echoic.index.store import Description

_WHO = "Who may come"
_SHORTEST_TOKEN = 16
_EXTRA = {"fastapi", "starlette", "uvicorn", "python_multipart", "h11"}


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel=PANEL, epilog="Example: echoic web field-recordings/")(web)


def web(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A folder that echoic index has indexed, or an index. None: no search, but "
            "tagging, captions and comparing.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 for all networks.", rich_help_panel=_WHO)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0: any that is free.", rich_help_panel=_WHO)
    ] = 8765,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="ECHOIC_WEB_TOKEN",
            help="Who has it may come.",
            show_default="none on loopback, elsewhere a new one",
            rich_help_panel=_WHO,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name by which browsers may call the server; may be repeated.",
            show_default=False,
            rich_help_panel=_WHO,
        ),
    ] = None,
    limits: Annotated[
        str | None,
        typer.Option(
            help="Such as upload=200MB,sound=2h,sounds=50,at_once=16,work=5m.",
            show_default=False,
            rich_help_panel=_WHO,
        ),
    ] = None,
    tokenizer: TokenizerOption = None,
    text_encoder: TextEncoderOption = None,
    long: LongOption = None,
    precision: PrecisionOption = Precision.fp32,
    cpu_threads: CpuThreads = None,
) -> None:
    """A page to search, tag, caption and compare sounds, in the browser.

    It works offline, and is for this machine alone unless --host says otherwise; from elsewhere it
    is opened with a token. Uploaded sounds are kept until it ends.
    """
    create_app, bound, serve = _server()
    from echoic.web.settings import Settings, read_limits

    allowed = read_limits(limits)
    about = _index_of(folder)
    token = _token(token, host)
    with bound(host, port) as held:  # before the model is read: that may take a while
        use_cpu(cpu_threads)
        opened, file = open_model(
            model or (about.model if about else None),
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            long=long,
            precision=precision,
        )
        if about is not None:
            _require_space(about, opened.space_id)
        settings = Settings(
            limits=allowed,
            token=token,
            hosts=_names(host, allow_host or []),
            any_address=not _is_loopback(host),
            model_name=file.parent.name if file.stem == "model" else file.name,
        )
        app = create_app(opened, folder, settings)
        say(f"model {settings.model_name}; {_of_index(folder, about)}")
        _tell(host, held.getsockname()[1], token)
        serve(app, held, allowed)
    say("stopped; the uploaded sounds are removed")


def _server() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., None]]:
    """Raises EchoicError where the extra is not installed."""
    try:
        from echoic.web.app import create_app
        from echoic.web.server import bound, serve
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise wrong('web: the server needs pip install "echoic[web]"') from None
    return create_app, bound, serve


def _index_of(folder: Path | None) -> Description | None:
    """Raises EchoicError."""
    from echoic.index.store import index_folder, is_index, read_description

    if folder is None:
        return None
    if not folder.is_dir():
        raise wrong(f"{folder}: no such folder")
    place = index_folder(folder)
    return read_description(place) if is_index(place) else None


def _require_space(about: Description, space_id: str) -> None:
    if about.space_id != space_id:
        named = f" ({about.model})" if about.model else ""
        raise wrong(
            f"web: the index is of space {about.space_id}, this model's is {space_id}: give the "
            f"model that made it{named}"
        )


def _of_index(folder: Path | None, about: Description | None) -> str:
    if folder is None:
        return "no folder given: no search; tagging, captions and comparing of uploaded sounds"
    if about is None:
        made = typed(program(), "index", folder)
        return f"{folder} has no index: no search until there is one ({made})"
    return f"index of {about.sounds}"


def _token(given: str | None, host: str) -> str | None:
    """Raises EchoicError on one that can be guessed."""
    if given is not None and (len(given) < _SHORTEST_TOKEN or not given.isascii()):
        raise wrong(f"web: a token of less than {_SHORTEST_TOKEN} plain characters can be guessed")
    if given is None and not _is_loopback(host):
        return secrets.token_urlsafe(24)
    return given


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _names(host: str, allowed: list[str]) -> tuple[str, ...]:
    """By which it may be called, beside loopback's."""
    here = (
        [] if _is_loopback(host) else [host, socket.gethostname(), f"{socket.gethostname()}.local"]
    )
    return tuple(name.lower() for name in [*here, *allowed])


def _tell(host: str, port: int, token: str | None) -> None:
    """The address, on stdout: the result of the command."""
    name = _address() if host in ("0.0.0.0", "::", "") else host
    name = f"[{name}]" if ":" in name else name
    query = f"?token={quote(token)}" if token else ""
    say("open this address (Ctrl-C ends the server):")
    print(f"http://{name}:{port}/{query}", flush=True)


def _address() -> str:
    """Of this machine, as the networks around it know it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only the way is looked up
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
