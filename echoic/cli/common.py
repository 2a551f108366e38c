"""What the commands share: options, where a model comes from, how data is opened, how results are
told.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from echoic.api import EchoicModel
    from echoic.data.clips import Source
    from echoic.types import EchoicError

DEMO_MODEL = Path("runs/demo/model.safetensors")
NO_MODEL = (
    "no model named: give one (a file, a run's folder, or owner/name on the Hugging Face Hub), "
    "set ECHOIC_MODEL, or make one with: echoic demo"
)
_FILE_WIDTH = 160  # of tables that go into a file or a pipe


def wrong(line: str) -> EchoicError:
    """What to raise for something that the user can mend; imports echoic.types (and torch) only
    then.
    """
    from echoic.types import EchoicError

    return EchoicError(line)


_MODEL_HELP = (
    "A model file, a run's folder, or owner/name on the Hub. Default: runs/demo's, if it is there."
)


class Missing(StrEnum):
    error = "error"
    skip = "skip"


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="ECHOIC_MODEL",
        show_default=False,
        metavar="MODEL",
        help=_MODEL_HELP,
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        envvar="ECHOIC_MODEL",
        show_default=False,
        metavar="MODEL",
        help=_MODEL_HELP,
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes that render.", show_default="one per core", rich_help_panel="Machine"
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout instead of a table.")
]
CpuThreads = Annotated[
    int | None,
    typer.Option(
        "--cpu-threads",
        min=1,
        show_default="all",
        help="Threads that compute.",
        rich_help_panel="Machine",
    ),
]

_TABLE_PANEL = "Columns and files of a table"
AudioDir = Annotated[
    Path | None,
    typer.Option(help="Where the files that the table names lie.", rich_help_panel=_TABLE_PANEL),
]
FileColumn = Annotated[
    str | None,
    typer.Option(help="The column of audio files.", rich_help_panel=_TABLE_PANEL),
]
CaptionColumn = Annotated[
    list[str] | None,
    typer.Option(help="The column of captions; may be repeated.", rich_help_panel=_TABLE_PANEL),
]
TagColumn = Annotated[
    str | None,
    typer.Option(help="The column of tags.", rich_help_panel=_TABLE_PANEL),
]
MissingOption = Annotated[
    Missing,
    typer.Option(
        "--missing",
        help="What a row without its file or caption is: an error, or left out.",
        rich_help_panel=_TABLE_PANEL,
    ),
]


def use_cpu(threads: int | None) -> int:
    """Let torch compute with that many threads, by default with all; returns the number."""
    import torch

    count = threads or available_cpus()
    torch.set_num_threads(count)
    return count


def available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_model(named: str | None) -> tuple[EchoicModel, Path]:
    """The model and its file. Raises EchoicError."""
    from echoic.api import load
    from echoic.hub import find_model

    if named is None:
        if not DEMO_MODEL.is_file():
            raise wrong(NO_MODEL)
        named = str(DEMO_MODEL)
    file = find_model(named)
    return load(file), file


@dataclass(frozen=True)
class TableOptions:
    """How a person's table is to be read, as given on the command line."""

    audio_dir: Path | None
    file_column: str | None
    caption_column: Sequence[str] | None
    tag_column: str | None
    missing: Missing = Missing.error

    def open(self, path: Path) -> Source:
        """Open any form of data. Raises DataError."""
        from echoic.data.sources import open_source

        return open_source(
            path,
            audio_dir=self.audio_dir,
            file_column=self.file_column,
            caption_column=self.caption_column or None,
            tag_column=self.tag_column,
            missing=self.missing.value,
        )

    def words(self) -> list[str]:
        """The options as one would type them."""
        given: list[tuple[str, object]] = [
            ("--audio-dir", self.audio_dir),
            ("--file-column", self.file_column),
            *(("--caption-column", name) for name in self.caption_column or ()),
            ("--tag-column", self.tag_column),
            ("--missing", None if self.missing is Missing.error else self.missing.value),
        ]
        return [word for name, value in given if value is not None for word in (name, str(value))]


def messages() -> Console:
    """For people, on stderr."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def show(table: Table) -> None:
    """A table on stdout; its cells are taken literally."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _FILE_WIDTH
    Console(markup=False, highlight=False, emoji=False, width=width).print(table)


def plain_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """A table without frames; the columns `right` are set to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def emit(document: Any) -> None:
    """The one JSON document of a command, on stdout."""
    print(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False))


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which becomes `path` when all went well. Raises EchoicError
    naming `path`.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        beside.replace(path)
    except OSError as error:
        raise wrong(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            beside.unlink()


def program() -> str:
    """How this shell calls echoic: by name where its PATH finds this one, else by the path that was
    typed (a .venv that is not activated)."""
    called = Path(sys.argv[0])
    found = shutil.which("echoic")
    if called.name != "echoic" or (found and Path(found).resolve() == called.resolve()):
        return "echoic"
    here = called.absolute()
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)


def typed(*words: object) -> str:
    """A command as one would type it."""
    return shlex.join(str(word) for word in words)
