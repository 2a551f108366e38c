"""The command line: `echoic COMMAND`. One module per group of commands; heavy imports happen inside
the commands.

What a user did wrong is one line `error: ...` on stderr and exit code 2, Ctrl-C is 130, an error of
echoic's own keeps its traceback. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

import echoic
from echoic.cli import (
    caption,
    compare,
    data,
    demo,
    export,
    finetune,
    index,
    measure,
    models,
    plan,
    tag,
    train,
    use,
    web,
)

_USER, _CTRL_C, _PIPE = 2, 130, 1
# click's own, or those of the copy that newer typers carry: BadParameter < UsageError < this
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]
_ENVIRONMENT = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO,
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
)  # fmt: skip


class _Group(TyperGroup):
    """Ctrl-C is an Abort: typer makes of it an exit with 130, which is that of a training that was
    asked to stop and has said so."""

    # of click's own Context, or that of typer's copy
    def make_context(self, *words: Any, **options: Any) -> Any:
        with _ctrl_c_aborts():
            return super().make_context(*words, **options)

    def invoke(self, ctx: Any) -> Any:
        with _ctrl_c_aborts():
            return super().invoke(ctx)


@contextmanager
def _ctrl_c_aborts() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Abort from None


app = typer.Typer(
    cls=_Group,
    name="echoic",
    help="Pretrain, evaluate and use language-audio models.\n\n"
    "Start with **echoic demo**: in some minutes it trains a small model on sounds "
    "that it makes itself.",
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Results go to stdout, messages to stderr. "
    "Exit codes: 0 done, 2 wrong or partly unusable input, 130 Ctrl-C.",
)
demo.add_to(app)
train.add_to(app)
plan.add_to(app)
finetune.add_to(app)
use.add_to(app)
index.add_to(app)
tag.add_to(app)
caption.add_to(app)
web.add_to(app)
models.add_to(app)
export.add_to(app)
measure.add_to(app)
compare.add_to(app)
data.add_to(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"echoic {echoic.__version__}")
        raise typer.Exit


@app.callback()
def _echoic(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Options before the command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # OpenMP threads that wait by spinning take the cores from whatever else runs, the loader's
    # threads among them: on a machine with more work than cores a training step was up to ten times
    # slower. With short spins it is no slower alone. Read once, when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    with _warnings_on_stderr():
        try:
            code = app(args=arguments or ["--help"], prog_name="echoic", standalone_mode=False)
            sys.stdout.flush()  # so that a reader who has gone is met here
        except (KeyboardInterrupt, typer.Abort):
            _refuse("interrupted")
            return _CTRL_C
        except _ClickException as error:
            return _refuse(_usage(error))
        except Exception as error:
            line = _user_line(error)
            if line is None:
                raise
            if isinstance(error, BrokenPipeError):
                _silence_stdout()
                return _PIPE
            return _refuse(line)
    return int(code or 0)  # 130 of a training that was asked to stop, and has said so


def _refuse(line: str) -> int:
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    return _USER


def _usage(error: Exception) -> str:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "echoic"
    return f"{message.rstrip('.')}; see {path} --help"


def _user_line(error: Exception) -> str | None:
    """The line for what a user can mend; None for an error of echoic's own."""
    if isinstance(error, OSError):
        if isinstance(error, BrokenPipeError):
            return "the reader of the output has gone"
        if error.errno in _ENVIRONMENT:
            where = f"{error.filename}: " if error.filename else ""
            return f"{where}{error.strerror}"
        return None
    types = sys.modules.get("echoic.types")  # not imported: then nothing of it was raised
    return str(error) if types and isinstance(error, types.EchoicError) else None


def _silence_stdout() -> None:
    """So that the interpreter, flushing at its end, doesn't meet the closed pipe again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    log = logging.getLogger("echoic")
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
