"""data shards: packing any source into WebDataset shards, in several processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoic.cli import common
from echoic.cli.common import (
    AudioDir,
    CaptionColumn,
    FileColumn,
    JsonOption,
    Missing,
    MissingOption,
    TableOptions,
    TagColumn,
    emit,
    say,
    wrong,
)

if TYPE_CHECKING:
    from echoic.data.building import Progress, Runner
    from echoic.data.clips import Source
    from echoic.data.shard_writing import ShardSummary

_RATE_HZ = 48_000
_TOLD_EVERY_S = 10.0
_WORDS_PANEL = "Which captions"


def shards(
    source: Annotated[
        Path,
        typer.Argument(
            help="A .csv, .tsv, .jsonl or .parquet, a folder of audio, .tar shards.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="The folder of the shards; of a run that was stopped, to go on.",
            show_default=False,
        ),
    ],
    rate: Annotated[
        int,
        typer.Option(
            min=8000, max=192_000, help="Sample rate in Hz; less is smaller and faster to read."
        ),
    ] = _RATE_HZ,
    per_shard: Annotated[int, typer.Option(min=1, help="Clips in one .tar.")] = 512,
    clean: Annotated[
        bool,
        typer.Option(
            "--clean",
            help="Clean the captions: no mark-up, addresses, doubles, captions of one word.",
            rich_help_panel=_WORDS_PANEL,
        ),
    ] = False,
    most_clips: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --clean: leave out captions that more clips than this share.",
            show_default="no limit",
            rich_help_panel=_WORDS_PANEL,
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="The folder that echoic data score wrote for this source: leave out captions that "
            "fit badly.",
            show_default=False,
            rich_help_panel=_WORDS_PANEL,
        ),
    ] = None,
    least_score: Annotated[
        float,
        typer.Option(help="With --scores: what a caption must have.", rich_help_panel=_WORDS_PANEL),
    ] = 0.0,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that decode and write.",
            show_default="one per core",
            rich_help_panel="Machine",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Do it on this Ray cluster (auto, ray://host:10001), or on a local one (local).",
            show_default=False,
            rich_help_panel="Machine",
        ),
    ] = None,
    as_json: JsonOption = False,
    audio_dir: AudioDir = None,
    file_column: FileColumn = None,
    caption_column: CaptionColumn = None,
    tag_column: TagColumn = None,
    missing: MissingOption = Missing.error,
) -> None:
    """Pack clips and captions into WebDataset shards (.flac + .json in .tar), mono, 16 bits.

    Whatever stops it, the same command goes on, and ends with the same bytes.
    """
    from echoic.data.building import build_shards

    table = TableOptions(audio_dir, file_column, caption_column, tag_column, missing)
    opened = _fit(table.open(source), clean, most_clips, scores, least_score)
    run = _runner(processes or common.available_cpus(), ray, -(-len(opened.clips) // per_shard))
    written(
        build_shards(
            opened, out, rate_hz=rate, per_shard=per_shard, run=run, progress=told_now_and_then()
        ),
        as_json,
    )


def _fit(
    source: Source, clean: bool, most_clips: int | None, scores: Path | None, least_score: float
) -> Source:
    """The source with the captions that are asked for; what is left out is told."""
    from echoic.data.cleaning import cleaned
    from echoic.data.scores import well_fitting

    if most_clips is not None and not clean:
        raise wrong("--most-clips goes with --clean")
    if scores is not None:  # of the captions as they are, so before they are cleaned
        source, told = well_fitting(source, scores, least_score)
        say(told)
    if clean:
        source, summary = cleaned(source, most_clips=most_clips)
        say(str(summary))
    return source


def _runner(processes: int, ray: str | None, shards: int) -> Runner:
    from echoic.data.runners import Processes, RayTasks

    if ray is not None:
        return RayTasks(ray)
    # a process takes seconds to start: not for a handful of clips
    count = min(processes, shards)
    return Processes(count) if count > 1 else map


def told_now_and_then() -> Callable[[Progress], None]:
    """Says how far a building is, every ten seconds, and when it will have ended."""
    start = told = time.monotonic()

    def progress(now: Progress) -> None:
        nonlocal told
        at = time.monotonic()
        if at - told < _TOLD_EVERY_S or now.shards == now.of_shards:
            return
        told = at
        made, left = now.clips - now.kept, now.of_clips - now.clips
        pace = f"; {duration(left * (at - start) / made)} left" if made else ""
        counts = f"{now.shards} of {now.of_shards} shards, {now.clips} of {now.of_clips} clips"
        say(f"{counts}, {now.audio_s / 3600:.2f} hours{pace}")

    return progress


def duration(seconds: float) -> str:
    """In the two units that matter: `2 h 05 min`, `3 min 20 s`, `12 s`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours} h {m:02d} min"
    return f"{m} min {s:02d} s" if m else f"{s} s"


def written(summary: ShardSummary, as_json: bool) -> None:
    """Tell what was written; raises EchoicError where clips were left out, so that the command ends
    with 2.
    """
    if as_json:
        emit({**vars(summary), "folder": str(summary.folder)})
    else:
        print(
            f"{summary.folder}: {summary.clips} clips, {summary.audio_s / 3600:.2f} hours, "
            f"{summary.shards} shards, {summary.bytes / 1e6:.1f} MB"
        )
        say(f"to train on it: echoic train nano --data {summary.folder}")
    if summary.bad:
        raise wrong(
            f"{len(summary.bad)} clips could not be used (named above); the rest is written"
        )
