"""data leaks: what a training set shares with an evaluation set, and the list to leave it out."""

from __future__ import annotations

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
    told_now_and_then,
    typed,
    wrong,
)

if TYPE_CHECKING:
    from echoic.data.leaks import LeakKind, LeakReport

_SHOWN = 20
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
            help="Write what to leave out of TRAIN: a list for echoic train --leave-out (.json).",
            show_default=False,
        ),
    ] = None,
    out_eval: Annotated[
        Path | None,
        typer.Option(
            help="The same of EVAL, for echoic eval --leave-out, where TRAIN cannot be heard anew.",
            show_default=False,
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
    from echoic.data.files import made_folder
    from echoic.data.leaks import find_leaks, find_listed, write_leak_list

    for file in (out, out_eval):
        if file is not None and file.suffix.lower() != ".json":
            raise wrong(f"{file}: the list is JSON: name it .json")
        if file is not None:
            made_folder(file.parent)  # before hours of hearing, not after
    table = TableOptions(audio_dir, file_column, None, None, missing)
    source = table.open(train, need_captions=False)
    if evaluation.is_file() and evaluation.suffix.lower() in _LISTS:
        if by is not None and set(by) != {By.id}:
            raise wrong(f"{evaluation}: a list has no audio: compare it --by id")
        if out_eval is not None:
            raise wrong(f"{evaluation}: a list has no clips to leave out: drop --out-eval")
        report = find_listed(source, [read_ids(evaluation)])
    else:
        held = TableOptions(None, None, None, None, missing).open(evaluation, need_captions=False)
        kinds: list[LeakKind] = [kind.value for kind in by or By]
        report = find_leaks(
            source,
            held,
            kinds=kinds,
            near=near,
            threads=threads,
            progress=told_now_and_then("clips heard"),
        )
    for file, keys in ((out, report.train_keys), (out_eval, report.eval_keys)):
        if file is not None:
            write_leak_list(keys, file)
    _tell(report, train, evaluation, out, out_eval, as_json)


def _tell(
    report: LeakReport,
    train: Path,
    evaluation: Path,
    out: Path | None,
    out_eval: Path | None,
    as_json: bool,
) -> None:
    """Raises EchoicError where clips could not be heard, so that the command ends with 2."""
    if as_json:
        document = {"train": str(train), "eval": str(evaluation), **report.to_json()}
        written = {"out": out, "out_eval": out_eval}
        emit(document | {name: file and str(file) for name, file in written.items()})
    else:
        _show(report, train, evaluation)
        _say_lists(report, train, evaluation, out, out_eval)
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


def _say_lists(
    report: LeakReport, train: Path, evaluation: Path, out: Path | None, out_eval: Path | None
) -> None:
    """What was written, and the commands that take it."""
    if out is not None:
        leaked = len(report.train_keys)
        remain = report.train_clips - leaked
        print(f"{out}: leaves {leaked} clips of {train} out, {remain} remain")
        options = typed("--data", train, "--leave-out", out)
        say(f"to train without them: {program()} train nano {options}")
    if out_eval is not None:
        leaked = len(report.eval_keys)
        remain = report.eval_clips - leaked
        print(f"{out_eval}: leaves {leaked} clips of {evaluation} out, {remain} remain")
        options = typed("--data", evaluation, "--leave-out", out_eval)
        say(f"to measure without them: {program()} eval MODEL {options}")
    if out is None and out_eval is None and report.leaks:
        asked = typed(train, evaluation, "--out", "leaks.json")
        say(f"for the list to leave out: {program()} data leaks {asked}")
