"""eval, check: how good a model is, and whether its file is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    emit,
    open_model,
    plain_table,
    say,
    show,
    use_cpu,
    wrong,
)
from echoic.cli.models import source_lines
from echoic.cli.tasks import Protocol, seed_numbers
from echoic.cli.tasks import measure as measure_task

if TYPE_CHECKING:
    from echoic.convert.check import Check
    from echoic.embeddings import VectorCache

PANEL = "Judge a model"
_TASK_PANEL = "Of a published task"


class Suite(StrEnum):
    synth = "synth"


class Map10(StrEnum):
    sorted = "sorted"
    laion_legacy = "laion_legacy"


def add_to(app: typer.Typer) -> None:
    example = "Example: echoic eval runs/nano-my --data my.csv --report report.html"
    app.command("eval", rich_help_panel=PANEL, epilog=example)(evaluate)
    app.command(rich_help_panel=PANEL, epilog="Example: echoic check runs/demo")(check)


def evaluate(
    model: ModelArgument = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Captioned sound, in any form that echoic train takes.", show_default=False
        ),
    ] = None,
    suite: Annotated[
        Suite | None,
        typer.Option(
            help="Instead of --data: the held-out part of the embedded corpus.", show_default=False
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="A published task (echoic data tasks), on its data in the folder --data.",
            show_default=False,
            rich_help_panel=_TASK_PANEL,
        ),
    ] = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            help="Learn one linear layer on frozen vectors, or ask by sentences.",
            show_default="linear",
            rich_help_panel=_TASK_PANEL,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Of the linear layers.", show_default="42,43,44", rich_help_panel=_TASK_PANEL
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
            help="Whose sentences zero_shot asks: m2d, laion; or one with {label}.",
            show_default="m2d",
            rich_help_panel=_TASK_PANEL,
        ),
    ] = None,
    valid_share: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.5,
            show_default=False,
            help="Of --data, only what echoic train held out by this share.",
        ),
    ] = None,
    scenes: Annotated[int, typer.Option(min=2, help="Of the suite: scenes for retrieval.")] = 300,
    items: Annotated[
        int,
        typer.Option(
            min=2, help="Of the suite: clips for zero-shot, for order, for attributes, each."
        ),
    ] = 240,
    template: Annotated[
        str | None,
        typer.Option(
            help="The sentence for tags; or a data set's name for its published one and its "
            "classes: esc50, us8k, vggsound, fsd50k, audioset, gtzan; m2d/esc50 and so on for "
            "M2D-CLAP's.",
            show_default="This is a sound of {label}.",
        ),
    ] = None,
    map10: Annotated[
        Map10,
        typer.Option(
            help="Audio to text mAP@10: as it is meant, or as LAION-CLAP's tables have it, which "
            "over-count."
        ),
    ] = Map10.sorted,
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
    """Measure a model: retrieval both ways, zero-shot classification, captions, word order and
    attributes; or a published task.

    Clips with exactly one tag each are classified by these tags too. Every figure comes with its
    interval.
    """
    if no_cache and cache is not None:
        raise wrong("eval: --cache and --no-cache exclude each other")
    if task is not None:
        if data is None:
            raise wrong("eval: --task NAME needs --data FOLDER")
        others = {"--suite": suite, "--report": report, "--valid-share": valid_share}
        if given := [name for name, value in others.items() if value is not None]:
            raise wrong(f"eval: --task takes no {given[0]}")
        if template is not None:
            raise wrong("eval: --task asks by --prompts, not --template")
        if protocol is Protocol.zero_shot and seeds is not None:
            raise wrong("eval: --seeds is for --protocol linear; zero-shot draws nothing")
        if protocol is not Protocol.zero_shot and prompts is not None:
            raise wrong("eval: --prompts is for --protocol zero_shot; linear reads no text")
        drawn = seed_numbers(seeds)
        use_cpu(cpu_threads)
        listener, _ = open_model(
            model, tokenizer=tokenizer, text_encoder=text_encoder, long=long, precision=precision
        )
        with _vectors(cache, no_cache) as kept:
            measured = measure_task(
                listener,
                task,
                data,
                protocol=protocol or Protocol.linear,
                seeds=drawn,
                folds=folds,
                prompts=prompts or "m2d",
                cache=kept,
            )
        emit(measured.to_json()) if as_json else show(measured.table())
        if measured.bad:
            raise wrong(f"{len(measured.bad)} clips could not be used (named above)")
        return
    of_task = {
        "--protocol": protocol, "--seeds": seeds, "--folds": folds, "--prompts": prompts,
    }  # fmt: skip
    if given := [name for name, value in of_task.items() if value is not None]:
        raise wrong(f"eval: {given[0]} is for a published task: name one by --task")
    if (data is None) == (suite is None):
        raise wrong("eval: give --data PATH or --suite synth, one of the two")
    from echoic.data.split import hold_out
    from echoic.encoders.generation import Beam
    from echoic.eval.prompts import find_prompts
    from echoic.eval.zeroshot import LAION_TEMPLATE
    from echoic.evaluate import SynthSize, evaluate, evaluate_synth

    sentence = find_prompts(template or LAION_TEMPLATE)
    if sentence.wording:
        raise wrong(f"eval: --template {template} words its labels: ask for it by --task")
    use_cpu(cpu_threads)
    listener, file = open_model(
        model, tokenizer=tokenizer, text_encoder=text_encoder, long=long, precision=precision
    )
    listener.require_text()  # where there is none, that is told before hours of listening
    written = Beam() if captions else None
    if data is None:
        size = SynthSize(scenes=scenes, singles=items, pairs=items)
        with _vectors(cache, no_cache) as kept:
            found = evaluate_synth(
                listener,
                size,
                processes=processes or available_cpus(),
                captions=written,
                cache=kept,
            )
    else:
        table = TableOptions(
            audio_dir, file_column, caption_column, tag_column, missing, captions_from, leave_out
        )
        source = table.open(data)
        name = str(data)
        if valid_share is not None:
            _, held = hold_out(source, valid_share)
            if held is None:
                raise wrong(f"{data}: {valid_share:g} of {len(source.clips)} clips holds none out")
            source, name = held, f"{name}, {valid_share:g} held out"
        with _vectors(cache, no_cache) as kept:
            found = evaluate(
                listener,
                source,
                name=name,
                template=sentence.template,
                labels=sentence.labels,
                map10=map10.value,
                captions=written,
                cache=kept,
            )
    emit(found.to_json()) if as_json else show(found.table())
    if report is not None:
        say(f"report: {found.write_report(report, run_folder=file.parent)}")
    bad = found.data["bad"]
    if bad:
        raise wrong(f"{len(bad)} clips could not be used (named above); the rest is measured")


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


def check(
    model: ModelArgument = None, as_json: JsonOption = False, cpu_threads: CpuThreads = None
) -> None:
    """Prove that a model computes here what it computed where it was made.

    Compares with vectors stored at export, and shows that a vector hangs on nothing but its input.
    """
    from echoic.convert.check import check as examine

    use_cpu(cpu_threads)
    listener, file = open_model(model)
    result = examine(listener)
    source: dict[str, Any] = listener.card.get("source", {})
    if as_json:
        emit({"model": str(file), "source": source, **result.to_json()})
    else:
        _tell(file, source, result)
    if not result.ok:
        off = [finding.name for finding in result.findings if not finding.ok]
        raise wrong(f"{file}: not in order: {'; '.join(off)}")


def _tell(file: Path, source: dict[str, Any], result: Check) -> None:
    front = result.front_end
    print(f"model        {file}")
    for line in source_lines(source):
        print(line)
    print(f"tensors      {result.tensors}, {result.parameters} parameters, all loaded")
    mel = f"{front['mel_bins']} mel bins, hop {front['hop_samples']} samples"
    print(f"front end    {front['rate_hz']} Hz, {mel}")
    print(f"space        {result.space_id}")
    if not result.stored:
        print(
            "stored       no self-test in this file: nothing to compare with, the rest is checked"
        )
    table = plain_table("check", "difference", "allowed", "result", right=["difference", "allowed"])
    for finding in result.findings:
        gap = "" if finding.difference is None else f"{finding.difference:.1e}"
        allowed = "" if finding.difference is None else f"{finding.tolerance:.0e}"
        table.add_row(finding.name, gap, allowed, "ok" if finding.ok else "NOT OK")
    show(table)
