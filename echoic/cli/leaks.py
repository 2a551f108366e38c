"""data leaks: what a training set shares with an evaluation set, and the list to leave it out."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoic.cli.common import (
    AudioDir,
    FileColumn,
    JsonOption,
    Missing,
    MissingOption,
    TableOptions,
    emit,
    plain_table,
    program,
    say,
    show,
    typed,
    wrong,
)

if TYPE_CHECKING:
    from echoic.data.clips import Source
    from echoic.data.leaks import LeakKind, LeakReport, Progress

_SHOWN = 20
_TOLD_EVERY_S = 10.0
_LISTS = (".json", ".txt")


class By(StrEnum):
    id = "id"
    audio = "audio"
    near = "near"


def leaks(
    train: Annotated[
        Path,
        typer.Argument(
            help="A .csv, .tsv or .jsonl, a folder of audio, .tar shards.", show_default=False
        ),
    ],
    evaluation: Annotated[
        Path,
        typer.Argument(
            metavar="EVAL",
            help="The same; or a list of ids, .json or .txt, such as WavCaps' black lists.",
            show_default=False,
        ),
    ],
    by: Annotated[
        list[By] | None,
        typer.Option(
            help="id: Freesound and YouTube ids; audio: equal samples; near: the same sound "
            "recoded, louder, shifted or cut. May be repeated.",
            show_default="all three",
        ),
    ] = None,
    near: Annotated[
        float, typer.Option(min=0.05, max=1.0, help="The least likeness that counts as near.")
    ] = 0.6,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write what to leave out of TRAIN, for --leave-out (.json).", show_default=False
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that decode audio.")] = 2,
    as_json: JsonOption = False,
    audio_dir: AudioDir = None,
    file_column: FileColumn = None,
    missing: MissingOption = Missing.error,
) -> None:
    """Find the clips of TRAIN that stand in EVAL too. Options of tables are for TRAIN."""
    from echoic.data.contamination import read_ids
    from echoic.data.leaks import find_leaks, find_listed

    if out is not None and out.suffix.lower() != ".json":
        raise wrong(f"{out}: the list is JSON: name it .json")
    table = TableOptions(audio_dir, file_column, None, None, missing)
    source = table.open(train, need_captions=False)
    if evaluation.is_file() and evaluation.suffix.lower() in _LISTS:
        if by is not None and set(by) != {By.id}:
            raise wrong(f"{evaluation}: a list has no audio: compare it --by id")
        report = find_listed(source, [read_ids(evaluation)])
    else:
        held = TableOptions(None, None, None, None, missing).open(evaluation, need_captions=False)
        kinds: list[LeakKind] = [kind.value for kind in by or By]
        report = find_leaks(
            source, held, kinds=kinds, near=near, threads=threads, progress=_counted()
        )
    also = _written(report, source, out) if out is not None and report.leaks else []
    _tell(report, train, evaluation, out, also, as_json)


def _counted() -> Progress:
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _TOLD_EVERY_S and done < total:
            told = time.monotonic()
            say(f"{done} of {total} clips heard")

    return progress


def _written(report: LeakReport, source: Source, out: Path) -> list[str]:
    """Write the list; the clips that it names though they are in no leak."""
    from echoic.data.contamination import read_ids
    from echoic.data.leaks import named_by, write_leak_list

    out.parent.mkdir(parents=True, exist_ok=True)
    write_leak_list(report.train_keys, out)
    leaked = set(report.train_keys)
    return [key for key in named_by(source, read_ids(out)) if key not in leaked]


def _tell(
    report: LeakReport,
    train: Path,
    evaluation: Path,
    out: Path | None,
    also: list[str],
    as_json: bool,
) -> None:
    """Raises EchoicError where clips could not be heard, so that the command ends with 2."""
    written = str(out) if out is not None and report.leaks else None
    if as_json:
        document = {"train": str(train), "eval": str(evaluation), **report.to_json()}
        emit({**document, "out": written, "also_named": also})
    else:
        _show(report, train, evaluation)
        if written:
            _say_list(report, train, written, also)
        elif out is not None:
            say(f"nothing to leave out: {out} is not written")
        elif report.leaks:
            asked = typed(train, evaluation, "--out", "leaks.json")
            say(f"for the list to leave out: {program()} data leaks {asked}")
    if report.bad_train or report.bad_eval:
        counts = f"{len(report.bad_train)} clips of {train}, {len(report.bad_eval)} of {evaluation}"
        raise wrong(f"cannot be heard, compared by ids alone (named above): {counts}")


def _show(report: LeakReport, train: Path, evaluation: Path) -> None:
    if report.leaks:
        table = plain_table("by", "train", "eval", "score", "what", right=["score"])
        for leak in report.leaks[:_SHOWN]:
            table.add_row(leak.kind, leak.train, leak.eval, f"{leak.score:.2f}", leak.what)
        show(table)
    if len(report.leaks) > _SHOWN:
        print(f"... and {len(report.leaks) - _SHOWN} more pairs (--json has all)")
    counts = ", ".join(f"{count} by {kind}" for kind, count in report.by_kind().items())
    leaked = len(report.train_keys)
    print(
        f"{leaked} of {report.train_clips} clips of {train} are in {evaluation} too ({counts}); "
        f"{report.train_clips - leaked} remain"
    )
    print(f"{len(report.eval_keys)} of {report.eval_clips} of {evaluation} are concerned")
    for name in report.numbered:
        print(f"the clips of {name.upper()} are numbered: their numbers are not taken for ids")


def _say_list(report: LeakReport, train: Path, written: str, also: list[str]) -> None:
    if also:
        more = f"{also[0]!r}" + (", ..." if len(also) > 1 else "")
        print(f"{written} names {len(also)} more clips, of the same id or file name: {more}")
    remain = report.train_clips - len(report.train_keys) - len(also)
    print(f"{written}: leaves {len(report.train_keys) + len(also)} clips out, {remain} remain")
    say(
        "to train without them: "
        f"{program()} train nano {typed('--data', train, '--leave-out', written)}"
    )
