"""finetune: from labelled sound to a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoic.cli.common import (
    AudioDir,
    CpuThreads,
    DecodeThreads,
    FileColumn,
    JsonOption,
    Missing,
    MissingOption,
    ModelArgument,
    ResumeOption,
    TableOptions,
    TagColumn,
    emit,
    messages,
    names_in,
    open_model,
    plain_table,
    say,
    seed_numbers,
    show,
    use_cpu,
    wrong,
)

if TYPE_CHECKING:
    from echoic.eval.task_result import TaskResult
    from echoic.finetune import Finetuned, FinetuneSpec, Splits

PANEL = "Make a model"
_SPLIT_PANEL = "Splits of your own sound"
_TASK_PANEL = "A published task"
_VALID_SHARE = 0.1


class Head(StrEnum):
    linear = "linear"
    mlp = "mlp"
    normed_linear = "normed_linear"


def add_to(app: typer.Typer) -> None:
    example = (
        "Examples: echoic finetune runs/demo --data esc.csv --freeze --head linear; "
        "echoic finetune runs/demo --task esc50 --data ESC-50-master --folds 1"
    )
    app.command("finetune", rich_help_panel=PANEL, epilog=example)(finetune)


def finetune(
    model: ModelArgument = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Your labelled sound: a table, a folder, shards; of a --task, its folder.",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            show_default=False,
            help="Changes to the settings, as epochs=30 lr=3e-4.",
        ),
    ] = None,
    valid: Annotated[
        Path | None,
        typer.Option(
            help="Clips that choose the best epoch.",
            show_default=False,
            rich_help_panel=_SPLIT_PANEL,
        ),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(
            help="Clips that are judged once.", show_default=False, rich_help_panel=_SPLIT_PANEL
        ),
    ] = None,
    fold_column: Annotated[
        str | None,
        typer.Option(
            help="Instead: part --data by this column.",
            show_default=False,
            rich_help_panel=_SPLIT_PANEL,
        ),
    ] = None,
    valid_fold: Annotated[
        list[str] | None,
        typer.Option(
            help="Its value in validation clips; may be repeated.",
            show_default=False,
            rich_help_panel=_SPLIT_PANEL,
        ),
    ] = None,
    test_fold: Annotated[
        list[str] | None,
        typer.Option(
            help="Its value in test clips; may be repeated.",
            show_default=False,
            rich_help_panel=_SPLIT_PANEL,
        ),
    ] = None,
    valid_share: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.5,
            help="Without --valid and --valid-fold: hold out this share of the training clips.",
            show_default=str(_VALID_SHARE),
            rich_help_panel=_SPLIT_PANEL,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="A published task (echoic data tasks), on its data in the folder --data; each "
            "fold and seed is a run of its own.",
            show_default=False,
            rich_help_panel=_TASK_PANEL,
        ),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            help="Which folds judge, as 1,2.", show_default="all", rich_help_panel=_TASK_PANEL
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Of its runs, as 43,44.",
            show_default="M2D's three for its presets, else the preset's one",
            rich_help_panel=_TASK_PANEL,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="linear, mlp (probes), finetune; as published: laion_linear, laion_mlp, "
            "laion_finetune; of an M2D: m2d_as2m, m2d_as20k, m2d_esc50, m2d_spcv2, m2d_vc1; ours "
            "for SLAP's tasks: slap_audioset, slap_esc50, slap_spcv2.",
            show_default="finetune; of a --task that of the model's paper, if it has one",
        ),
    ] = None,
    head: Annotated[
        Head | None,
        typer.Option(help="What reads the clip's vector.", show_default="the preset's"),
    ] = None,
    freeze: Annotated[
        bool | None,
        typer.Option(
            "--freeze/--tune",
            help="Leave the encoder as it is: a probe, made in seconds. Or train it too.",
            show_default="the preset's",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder.", show_default="runs/PRESET-DATA or runs/PRESET-TASK"),
    ] = None,
    resume: ResumeOption = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of every random draw.", show_default="the preset's")
    ] = None,
    threads: DecodeThreads = 2,
    cpu_threads: CpuThreads = None,
    as_json: JsonOption = False,
    audio_dir: AudioDir = None,
    file_column: FileColumn = None,
    tag_column: TagColumn = None,
    missing: MissingOption = Missing.error,
) -> None:
    """Train a classifier on a model's audio encoder: a probe on frozen vectors, or fine-tuning.

    A clip's tags (column label, category or tags) are its labels. The best epoch is chosen by the
    validation clips; the test clips are judged once, at the end. Or a published task, by its own
    parts: the same command again goes on where it was stopped, and runs nothing twice.
    """
    if data is None:
        raise wrong("finetune: give --data PATH, your labelled sound")
    given = [("head", head and head.value), ("freeze", freeze), ("seed", seed)]
    asked = [f"{key}={value}" for key, value in given if value is not None] + (overrides or [])
    if task is not None:
        _refuse(
            {
                "--valid": valid,
                "--test": test,
                "--fold-column": fold_column,
                "--valid-fold": valid_fold,
                "--test-fold": test_fold,
                "--valid-share": valid_share,
                "--audio-dir": audio_dir,
                "--file-column": file_column,
                "--tag-column": tag_column,
                "--missing": None if missing is Missing.error else missing,
            },
            "--task {} has parts of its own: it takes no {}",
            task,
        )
        if seed is not None:
            raise wrong("finetune: --task takes --seeds, not --seed")
        use_cpu(cpu_threads)
        measured = _of_task(model, task, data, out, preset, folds, seeds, asked, threads)
        emit(measured.to_json()) if as_json else _tell_task(measured)
        return
    _refuse({"--folds": folds, "--seeds": seeds}, "{1} is for a published task: name it by --task")
    from echoic.finetune import find_preset
    from echoic.finetune import finetune as run

    preset = preset or "finetune"
    spec = find_preset(preset).override(asked)
    captions = [tag_column] if tag_column else None  # labels are enough: no caption is read
    table = TableOptions(audio_dir, file_column, captions, tag_column, missing)
    share = _VALID_SHARE if valid_share is None else valid_share
    splits = _splits(table, data, valid, test, fold_column, valid_fold, test_fold, share)
    folder = out or Path("runs") / f"{preset}-{data.resolve().stem}"
    use_cpu(cpu_threads)
    listener, file = open_model(model)
    say(_plan(file, spec, splits))
    done = run(listener, splits, folder, spec, resume=resume, threads=threads, console=messages())
    if not done.finished:
        raise typer.Exit(130)
    emit(done.to_json()) if as_json else _tell(done)


def _refuse(options: Mapping[str, object], line: str, task: str = "") -> None:
    """Raises EchoicError with the first of them that is given."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise wrong("finetune: " + line.format(task, given[0]))


def _of_task(
    model: str | None,
    name: str,
    data: Path,
    out: Path | None,
    preset: str | None,
    folds: str | None,
    seeds: str | None,
    overrides: list[str],
    threads: int,
) -> TaskResult:
    """What costs little is looked at first. Raises EchoicError."""
    from echoic.data.tasks import open_task
    from echoic.finetune import find_preset, finetune_task, plan_task

    if preset is not None:
        find_preset(preset).override(overrides)
    drawn = seed_numbers("finetune", seeds)
    opened = open_task(name, data)
    chosen = names_in(folds)
    for fold in chosen or ():
        opened.judging(fold)
    listener, _ = open_model(model)
    plan = plan_task(
        listener, opened, preset=preset, folds=chosen, seeds=drawn, overrides=overrides
    )
    return finetune_task(
        listener,
        opened,
        out or Path("runs") / f"{plan.preset}-{opened.spec.name}",
        preset=plan.preset,
        folds=chosen,
        seeds=drawn,
        overrides=overrides,
        threads=threads,
        console=messages(),
    )


def _tell_task(found: TaskResult) -> None:
    show(found.table())
    for line in found.words:
        print(line)


def _splits(
    table: TableOptions,
    data: Path,
    valid: Path | None,
    test: Path | None,
    column: str | None,
    valid_fold: list[str] | None,
    test_fold: list[str] | None,
    valid_share: float,
) -> Splits:
    """Raises EchoicError."""
    from echoic.data.split import by_column, hold_out
    from echoic.finetune import Splits

    folds = {"validation": valid_fold or [], "test": test_fold or []}
    if (column is None) == any(folds.values()):
        raise wrong("finetune: --fold-column goes with --valid-fold, --test-fold or both")
    if (valid and valid_fold) or (test and test_fold):
        raise wrong("finetune: name a split's file or its fold, not both")
    source = table.open(data)
    parts = {"training": source}
    if column is not None:
        parts = by_column(source, column, {k: v for k, v in folds.items() if v}, "training")
    training, judging = parts["training"], parts.get("test") or (table.open(test) if test else None)
    choosing = parts.get("validation") or (table.open(valid) if valid else None)
    if choosing is None:
        training, choosing = hold_out(training, valid_share)
        if choosing is None:
            count = len(training.clips)
            raise wrong(f"{data}: {valid_share:g} of {count} clips holds none out: give --valid")
    return Splits(training, choosing, judging)


def _plan(file: Path, spec: FinetuneSpec, splits: Splits) -> str:
    counts = ", ".join(f"{len(source.clips)} {name}" for name, source in splits.named().items())
    what = "frozen" if spec.freeze else "trained too"
    epochs = f"{spec.epochs} epoch{'s' if spec.epochs > 1 else ''}"
    return f"{spec.head} head on {file}, encoder {what}, {epochs}\nclips: {counts}"


def _tell(done: Finetuned) -> None:
    figures = done.metrics["valid"]
    table = plain_table("split", *figures, right=list(figures))
    for split, values in done.metrics.items():
        table.add_row(split, *(f"{value:.3f}" for value in values.values()))
    show(table)
    print(f"classifier: {done.file}  (epoch {done.best_epoch:g}, chosen by the validation clips)")
    if done.model is not None:
        print(f"model: {done.model}")
