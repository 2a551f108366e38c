"""eval: how good a model is: on sound of your own, or on tasks of a suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoic.cli import check, own_sound
from echoic.cli.common import (
    AudioDir,
    CaptionColumn,
    CaptionsFrom,
    CpuThreads,
    FileColumn,
    JsonOption,
    LeaveOut,
    LongOption,
    Missing,
    MissingOption,
    ModelArgument,
    Precision,
    PrecisionOption,
    Processes,
    TableOptions,
    TagColumn,
    TextEncoderOption,
    TokenizerOption,
    available_cpus,
    open_model,
    say,
    use_cpu,
    wrong,
)
from echoic.cli.suite import Asked, Measure, Protocol, run_asked
from echoic.cli.telling import Telling

if TYPE_CHECKING:
    from echoic.embeddings import VectorCache

PANEL = "Judge a model"
_TASK_PANEL = "Of suites and published tasks"
_OWN_PANEL = "Of sound of your own"


class Map10(StrEnum):
    sorted = "sorted"
    laion_legacy = "laion_legacy"


def add_to(app: typer.Typer) -> None:
    example = (
        "Example: echoic eval runs/demo --suite quick; or "
        "echoic eval runs/nano-my --data my.csv --report report.html"
    )
    app.command("eval", rich_help_panel=PANEL, epilog=example)(evaluate)
    check.add_to(app, PANEL)


def evaluate(
    model: ModelArgument = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Captioned sound, in any form that echoic train takes.", show_default=False
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Many measures in one table: quick and synth, of the embedded corpus; zero_shot, "
            "linear, retrieval, captioning, finetune, events; a paper's tables: laion, m2d, slap; "
            "or a task, or task/measure, as esc50/zero_shot. The data of a task in --data/TASK.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="One measure of a published task (echoic data tasks), on its data in the folder "
            "--data.",
            show_default=False,
            rich_help_panel=_TASK_PANEL,
        ),
    ] = None,
    measure: Annotated[
        Measure | None,
        typer.Option(
            help="What is measured on --task: by sentences, by a linear layer on frozen vectors, "
            "by fine-tuning; of sets with captions retrieval or captioning; of time lines events.",
            show_default="linear, retrieval or events",
            rich_help_panel=_TASK_PANEL,
        ),
    ] = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            help="Whose choices: prompts, clips, what is heard of a clip, variants of metrics.",
            show_default="of the paper that the suite or the model is of",
            rich_help_panel=_TASK_PANEL,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Of what is learnt, as 42,43,44.",
            show_default="the protocol's",
            rich_help_panel=_TASK_PANEL,
        ),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            help="Which folds judge, as 1,2.", show_default="all", rich_help_panel=_TASK_PANEL
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Other sentences than the protocol's: of m2d or laion; or one with {label}.",
            show_default=False,
            rich_help_panel=_TASK_PANEL,
        ),
    ] = None,
    runs: Annotated[
        Path,
        typer.Option(
            help="Where fine-tunings are kept; one that was stopped goes on.",
            rich_help_panel=_TASK_PANEL,
        ),
    ] = Path("runs/eval"),
    valid_share: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.5,
            show_default=False,
            help="Of --data, only what echoic train held out by this share.",
            rich_help_panel=_OWN_PANEL,
        ),
    ] = None,
    scenes: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Of the embedded corpus: scenes for retrieval, captions and events.",
            show_default="300; quick: 60",
            rich_help_panel=_TASK_PANEL,
        ),
    ] = None,
    items: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Of the embedded corpus: clips for zero-shot, for order, for attributes, each.",
            show_default="240; quick: 60",
            rich_help_panel=_TASK_PANEL,
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="The sentence for tags; or a data set's name for its published one and its "
            "classes: esc50, us8k, vggsound, fsd50k, audioset, gtzan; m2d/esc50 and so on for "
            "M2D-CLAP's.",
            show_default="This is a sound of {label}.",
            rich_help_panel=_OWN_PANEL,
        ),
    ] = None,
    map10: Annotated[
        Map10 | None,
        typer.Option(
            help="Audio to text mAP@10: as it is meant, or as LAION-CLAP's tables have it, which "
            "over-count.",
            show_default="sorted",
            rich_help_panel=_OWN_PANEL,
        ),
    ] = None,
    captions: Annotated[
        bool,
        typer.Option(
            "--captions/--no-captions",
            help="Of a model with a decoder: write captions and judge them too, which takes most "
            "of the time.",
        ),
    ] = True,
    processes: Processes = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Where vectors are kept, so that a second run does not listen again.",
            show_default="ECHOIC_CACHE, else the user's cache folder",
        ),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Compute all vectors anew, and keep none.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a report with plots: one HTML file.", show_default=False),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Write a result file, which echoic compare takes.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
    tokenizer: TokenizerOption = None,
    text_encoder: TextEncoderOption = None,
    long: LongOption = None,
    precision: PrecisionOption = Precision.fp32,
    cpu_threads: CpuThreads = None,
    audio_dir: AudioDir = None,
    file_column: FileColumn = None,
    caption_column: CaptionColumn = None,
    tag_column: TagColumn = None,
    missing: MissingOption = Missing.error,
    captions_from: CaptionsFrom = None,
    leave_out: LeaveOut = None,
) -> None:
    """Measure a model: on your own captioned sound (--data), on many tasks in one table beside the
    papers' values (--suite), or on one published task in full (--task).

    Your own sound gives retrieval both ways and captions; clips with exactly one tag each are
    classified by these tags too. Every figure comes with its interval.
    """
    if no_cache and cache is not None:
        raise wrong("eval: --cache and --no-cache exclude each other")
    table = TableOptions(
        audio_dir, file_column, caption_column, tag_column, missing, captions_from, leave_out
    )
    sound = own_sound.OwnSound(
        data, table, valid_share, template, map10.value if map10 else None, captions
    )
    asked = Asked(
        suite, task, measure, data, protocol, seeds, folds, prompts, runs, scenes, items, captions,
        processes or available_cpus(), as_loaded=long is not None,
    )  # fmt: skip
    if suite is None and task is None:
        _refuse(asked.choices(), "is for --suite and --task")
        _refuse({"--measure": measure}, "is for --task")
        sound.check()
    else:
        _refuse(sound.choices(), "is for sound of your own, by --data alone")
        asked.check()
    use_cpu(cpu_threads)
    listener, file = open_model(
        model, tokenizer=tokenizer, text_encoder=text_encoder, long=long, precision=precision
    )
    telling = Telling(as_json, report, save, file.parent)
    with _vectors(cache, no_cache) as kept:
        if suite is None and task is None:
            own_sound.measure(listener, sound, telling, kept)
        else:
            run_asked(listener, asked, telling, kept)


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Raises EchoicError that names the first option given."""
    if given := [name for name, value in options.items() if value is not None]:
        raise wrong(f"eval: {given[0]} {why}")


@contextmanager
def _vectors(folder: Path | None, no_cache: bool) -> Iterator[VectorCache | None]:
    """The cache that was asked for, and a line of what it had. One that nobody named and that
    cannot be made stops nobody. Raises DataError."""
    from echoic.embeddings import open_cache

    with open_cache(folder, wanted=not no_cache) as cache:
        yield cache
    if cache is not None and cache.found:
        total = cache.found + cache.made
        say(f"cache: {cache.found} of {total} vectors were in {cache.path} (--no-cache: anew)")
