"""What the commands share: options, where a model comes from, how data is opened, how results are
told.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
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
    from echoic.data.tables import CaptionChoice
    from echoic.types import EchoicError

DEMO_MODEL = Path("runs/demo/model.safetensors")
NO_MODEL = (
    "no model named: give one (a file, a run's folder, or owner/name on the Hugging Face Hub), "
    "set ECHOIC_MODEL, or make one with: echoic demo"
)
_FILE_WIDTH = 160  # of tables that go into a file or a pipe
_TOLD_EVERY_S = 10.0


def wrong(line: str) -> EchoicError:
    """What to raise for something that the user can mend; imports echoic.types (and torch) only
    then.
    """
    from echoic.types import EchoicError

    return EchoicError(line)


_MODEL_HELP = (
    "A model file, a run's folder, a LAION-CLAP .pt, a Hugging Face folder, or a name on the Hub "
    "(echoic models). Default: runs/demo's, if it is there."
)
_HEARING_PANEL = "How the model is opened"


class Long(StrEnum):
    windows = "windows"
    centred = "centred"
    m2d = "m2d"


class Precision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"


LongOption = Annotated[
    Long | None,
    typer.Option(
        "--long",
        show_default="views where the model has feature fusion, else windows",
        help="How a recording longer than the model's window is heard: all of it in windows; or by "
        "fusion's views of it, without fusion by its middle window alone.",
        rich_help_panel=_HEARING_PANEL,
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="bf16 is faster where the processor has it; vectors differ a little.",
        rich_help_panel=_HEARING_PANEL,
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        show_default=False,
        help="A folder, a tokenizer.json or a Hub name, for a checkpoint that brings none.",
        rich_help_panel=_HEARING_PANEL,
    ),
]


TextEncoderOption = Annotated[
    str | None,
    typer.Option(
        "--text-encoder",
        show_default=False,
        help="A folder or a name, for a model that reads vectors of a sentence encoder (M2D-CLAP "
        "2024).",
        rich_help_panel=_HEARING_PANEL,
    ),
]


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
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on where the run in this folder stopped.")
]
DecodeThreads = Annotated[
    int,
    typer.Option("--threads", min=1, help="Threads that decode audio.", rich_help_panel="Machine"),
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

RecipeSize = Annotated[
    str | None,
    typer.Option(
        "--size", help="Of the recipe, as small in slap:small.", show_default="the recipe's"
    ),
]
RecipeStage = Annotated[
    str | None,
    typer.Option(
        "--stage", help="One stage of the recipe, alone.", show_default="all, in their order"
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
CaptionsFrom = Annotated[
    Path | None,
    typer.Option(
        "--captions-from",
        help="The folder of captions that echoic data keywords wrote for this data.",
        show_default=False,
        rich_help_panel=_TABLE_PANEL,
    ),
]
LeaveOut = Annotated[
    list[Path] | None,
    typer.Option(
        "--leave-out",
        help="A list of recordings not to use, such as those of a test set (.txt, .csv, .json: "
        "Freesound or YouTube ids, names); may be repeated.",
        show_default=False,
        rich_help_panel=_TABLE_PANEL,
    ),
]


def recipe_name(recipe: str, size: str | None, stage: str | None) -> str:
    """The recipe with its size and stage, as `m2d_clap:nano,stage2`. Raises EchoicError."""
    from echoic.recipes import default_size

    if ":" in recipe and (size or stage):
        raise wrong(f"{recipe}: names its size or stage; --size and --stage go with a bare name")
    if stage is not None and size is None:
        size = default_size(recipe)
    parts = [part for part in (size, stage) if part is not None]
    return f"{recipe}:{','.join(parts)}" if parts else recipe


def names_in(told: str | None) -> list[str] | None:
    """Of an option with commas between; None where it is not given."""
    return [name.strip() for name in told.split(",")] if told else None


def seed_numbers(command: str, told: str | None) -> list[int] | None:
    """Of --seeds. Raises EchoicError."""
    if told is None:
        return None
    seeds = [seed.strip() for seed in told.split(",")]
    if not all(seed.isdecimal() and int(seed) < 2**63 for seed in seeds):
        raise wrong(f"{command}: --seeds {told!r}: give whole numbers, as 42,43,44")
    return [int(seed) for seed in seeds]


def use_cpu(threads: int | None) -> int:
    """Let torch compute with that many threads, by default with all; returns the number."""
    import torch

    count = threads or available_cpus()
    torch.set_num_threads(count)
    return count


def train_on_cpu(threads: int | None) -> int:
    """The same for a process that does nothing but train: it keeps the memory it has."""
    from echoic.train.process import keep_memory

    keep_memory()
    return use_cpu(threads)


def available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_model(
    named: str | None,
    *,
    tokenizer: str | None = None,
    text_encoder: str | None = None,
    long: Long | None = None,
    precision: Precision = Precision.fp32,
) -> tuple[EchoicModel, Path]:
    """The model and its file. Raises EchoicError."""
    from echoic.api import load
    from echoic.hub import find_model

    if named is None:
        if not DEMO_MODEL.is_file():
            raise wrong(NO_MODEL)
        named = str(DEMO_MODEL)
    file = find_model(named)
    opened = load(
        file,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        long=long and long.value,
        precision=precision.value,
    )
    return opened, file


@dataclass(frozen=True)
class TableOptions:
    """How a person's table is to be read, as given on the command line."""

    audio_dir: Path | None
    file_column: str | None
    caption_column: Sequence[str] | None
    tag_column: str | None
    missing: Missing = Missing.error
    captions_from: Path | None = None
    leave_out: Sequence[Path] | None = None

    def open(
        self, path: Path, *, captions: CaptionChoice | None = None, need_captions: bool = True
    ) -> Source:
        """Open any form of data; what `leave_out` lists is told and left out. Raises DataError."""
        from echoic.data.contamination import leave_out, read_ids
        from echoic.data.sources import open_source

        with told_as_options():
            source = open_source(
                path,
                audio_dir=self.audio_dir,
                file_column=self.file_column,
                caption_column=self.caption_column or None,
                tag_column=self.tag_column,
                captions=captions,
                captions_from=self.captions_from,
                need_captions=need_captions,
                missing=self.missing.value,
            )
        if self.leave_out:
            source, left = leave_out(source, [read_ids(file) for file in self.leave_out])
            say(f"{path}: {left}")
        return source

    def words(self) -> list[str]:
        """The options as one would type them."""
        given: list[tuple[str, object]] = [
            ("--audio-dir", self.audio_dir),
            ("--file-column", self.file_column),
            *(("--caption-column", name) for name in self.caption_column or ()),
            ("--tag-column", self.tag_column),
            ("--missing", None if self.missing is Missing.error else self.missing.value),
            ("--captions-from", self.captions_from),
            *(("--leave-out", file) for file in self.leave_out or ()),
        ]
        return [word for name, value in given if value is not None for word in (name, str(value))]


_ARGUMENT = re.compile(r"\b(as|with|see) (?:(\w+)_(dir|column)\b|(missing)=\"(skip)\")")


@contextmanager
def told_as_options() -> Iterator[None]:
    """What a DataError says of the arguments of `open_source`, it says of the options that stand
    for them: `as --audio-dir`, `with --missing skip`."""
    from echoic.types import DataError

    try:
        yield
    except DataError as error:
        line = str(error.args[0])
        error.args = (_ARGUMENT.sub(_as_option, line),)
        raise


def _as_option(found: re.Match[str]) -> str:
    before, what, kind, missing, value = found.groups()
    return f"{before} --{missing} {value}" if missing else f"{before} --{what}-{kind}"


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


def writing(path: Path) -> AbstractContextManager[Path]:
    """`data.files.writing`, imported when it is needed."""
    from echoic.data.files import writing as whole

    return whole(path)


def told_now_and_then(what: str) -> Callable[[int, int], None]:
    """Says every ten seconds how many of all are done."""
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _TOLD_EVERY_S and done < total:
            told = time.monotonic()
            say(f"{done} of {total} {what}")

    return progress


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
