"""train, recipes: from captioned sound to a model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoic.cli.common import (
    AudioDir,
    CaptionColumn,
    CaptionsFrom,
    CpuThreads,
    DecodeThreads,
    FileColumn,
    JsonOption,
    LeaveOut,
    Missing,
    MissingOption,
    RecipeSize,
    RecipeStage,
    ResumeOption,
    TableOptions,
    TagColumn,
    available_cpus,
    emit,
    messages,
    plain_table,
    program,
    recipe_name,
    say,
    show,
    train_on_cpu,
    typed,
    wrong,
)

if TYPE_CHECKING:
    from echoic.data.clips import Clip, Source
    from echoic.model import ModelSpec
    from echoic.recipes.recipe import Stage
    from echoic.stages import Trained

PANEL = "Make a model"


def add_to(app: typer.Typer) -> None:
    example = "Example: echoic train nano --data my.csv optim.steps=2000"
    app.command(rich_help_panel=PANEL, epilog=example)(train)
    app.command(rich_help_panel=PANEL, epilog="Example: echoic recipes slap:small")(recipes)


@contextmanager
def _together() -> Iterator[None]:
    """As one of the processes that torchrun started, of which the first one talks; an error is told
    once. Alone, nothing is done."""
    if "WORLD_SIZE" in os.environ:
        # or each process warns that all weights were reached; read once, when torch is loaded
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

    from echoic.train.world import joined
    from echoic.types import EchoicError

    with joined() as world, ExitStack() as silence:
        if not world.first:
            nowhere = silence.enter_context(open(os.devnull, "w", encoding="utf-8"))
            silence.enter_context(redirect_stdout(nowhere))
            silence.enter_context(redirect_stderr(nowhere))
        try:
            yield
        except EchoicError as error:
            if not world.tells(error):
                raise SystemExit(2) from None
            if world.first:
                raise
            raise EchoicError(f"rank {world.rank}: {error}") from error


@_together()
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe by name: nano, slap:small, m2d_clap ... (see echoic recipes).",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            help="Your captioned sound: a .csv, .tsv or .jsonl, a folder of audio, .tar shards, "
            "here or at an address; of several, each as NAME=PATH.",
            show_default=False,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY.SUB=VALUE",
            show_default=False,
            help="Changes to the recipe, as optim.lr=3e-4; echoic recipes NAME lists the keys. Of "
            "one with stages: stage1:optim.lr=3e-4.",
        ),
    ] = None,
    size: RecipeSize = None,
    stage: RecipeStage = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="The model file that a stage goes on from.",
            show_default="that of the stage before",
        ),
    ] = None,
    sentences: Annotated[
        Path | None,
        typer.Option(
            help="Vectors of the captions (echoic data embed-captions), for a recipe that reads "
            "those.",
            show_default=False,
        ),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            help="Of several --data: NAME=NUMBER, its share of the clips.", show_default="equal"
        ),
    ] = None,
    shard_window: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Read shard by shard, so many at once, as a far store likes it.",
            show_default="all at once",
        ),
    ] = None,
    valid: Annotated[
        Path | None,
        typer.Option(help="Held-out clips, in any form that --data takes.", show_default=False),
    ] = None,
    valid_share: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.5,
            help="Without --valid: hold out this share of the clips, by a hash of their keys.",
        ),
    ] = 0.05,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder.", show_default="runs/RECIPE-DATA")
    ] = None,
    resume: ResumeOption = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of every random draw.", show_default="the recipe's")
    ] = None,
    threads: DecodeThreads = 2,
    cpu_threads: CpuThreads = None,
    as_json: JsonOption = False,
    audio_dir: AudioDir = None,
    file_column: FileColumn = None,
    caption_column: CaptionColumn = None,
    tag_column: TagColumn = None,
    missing: MissingOption = Missing.error,
    captions_from: CaptionsFrom = None,
    leave_out: LeaveOut = None,
) -> None:
    """Pretrain a model on your own sound, by one command and without a config file.

    Ctrl-C stops after the step at hand and saves; the same command with --resume goes on from
    there, bit for bit. Several processes train together: torchrun --nproc_per_node 4 --no-python
    echoic train ...
    """
    from echoic.cli.mix import named_places, open_data
    from echoic.recipes import find_stages
    from echoic.stages import changed, run_stages
    from echoic.train.world import current

    named = recipe_name(recipe, size, stage)
    stages = changed(find_stages(named), overrides or ())
    stages = tuple(_given(each, seed, sentences) for each in stages)
    if sentences is not None and not any(map(_reads_sentences, stages)):
        raise wrong(f"--sentences {sentences}: {named} reads no vectors of captions")
    if current().size > 1 and (tuned := [each.name for each in stages if each.tuning]):
        raise wrong(
            f"{tuned[0]}: labels are learnt in one process; run this stage without torchrun"
        )
    places = named_places(data)
    folder = out or Path("runs") / f"{_folder_name(stages, named)}-{'-'.join(places)}"
    table = TableOptions(
        audio_dir, file_column, caption_column, tag_column, missing, captions_from, leave_out
    )
    asked = next((each.recipe.data.captions for each in stages if each.recipe), None)
    reads = any(each.recipe is not None and each.recipe.model.text for each in stages)
    source, held = open_data(
        data, weight or (), table,
        valid_share=valid_share if valid is None else 0.0,
        seed=seed or 0, window=shard_window, captions=asked, need_captions=reads,
    )  # fmt: skip
    if valid is not None:
        held = table.open(valid, captions=asked, need_captions=reads)
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of this machine
    computing = train_on_cpu(cpu_threads or max(1, available_cpus() // beside))
    say(_plan(stages, ", ".join(data), source, held, folder, computing))
    done = run_stages(
        stages, source, folder,
        start=start, valid=held, resume=resume, threads=threads, console=messages(),
    )  # fmt: skip
    if done.file is None and done.classifier is None:
        raise typer.Exit(130)
    if as_json:
        emit(_document(done))
        return
    if done.classifier is not None:
        print(f"classifier: {done.classifier}")
    if done.file is None:
        return
    print(f"model: {done.file}")
    measured = ["--data", valid or next(iter(places.values())), *table.words()]
    if held is not None and valid is None:
        measured += ["--valid-share", f"{valid_share:g}"]
    last = stages[-1].recipe
    writes = last is not None and last.objectives.captioning > 0
    for line in next_commands(done.file, source, measured, reads=reads, writes=writes):
        print(line)


def _given(stage: Stage, seed: int | None, sentences: Path | None) -> Stage:
    """With the options of the command line. Raises ConfigError."""
    from echoic.stages import changed

    asked = []
    if seed is not None:
        asked.append(f"run.seed={seed}" if stage.recipe else f"seed={seed}")
    if sentences is not None and _reads_sentences(stage):
        asked.append(f"data.sentences={json.dumps(str(sentences))}")
    return changed([stage], asked)[0]


def _reads_sentences(stage: Stage) -> bool:
    return stage.recipe is not None and stage.recipe.model.text_kind == "sentence"


def _folder_name(stages: Sequence[Stage], named: str) -> str:
    if len(stages) == 1 and stages[0].recipe is not None:
        return stages[0].recipe.name
    return named.replace("_", "-").replace(":", "-").replace(",", "-")


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Show this one in full.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the recipes, or show one as YAML: every key of it can be changed by `echoic train`."""
    from echoic.recipes import RECIPES, find_stages

    if name is not None:
        stages = find_stages(name)
        shown = [stage.recipe or stage for stage in stages]
        if as_json:
            whole = [each.model_dump(mode="json") for each in shown]
            emit(whole[0] if len(whole) == 1 else whole)
            return
        for stage, each in zip(stages, shown, strict=True):
            if len(stages) > 1:
                print(f"--- # {stage.name}")
            print(each.to_yaml(), end="")
        return
    listed = [*RECIPES, "slap:small", "laion_clap:tiny,fusion", "laion_clap:toy", "m2d_clap:nano"]
    rows = [(known, stage) for known in listed for stage in find_stages(known)]
    if as_json:
        emit([_facts(known, stage) for known, stage in rows])
        return
    table = plain_table(
        "recipe", "stage", "paper", "audio encoder", "text encoder", "steps", right=["steps"]
    )
    for known, stage in rows:
        table.add_row(known, *_row(stage))
    show(table)
    say("in full: echoic recipes nano; one stage: echoic recipes m2d_clap:base,stage2")


def _facts(known: str, stage: Stage) -> dict[str, object]:
    recipe = stage.recipe
    told = {"recipe": recipe.name, "paper": recipe.paper} if recipe else {"tuning": True}
    own = _own_name(stage)
    return {"name": known, **({"stage": own} if own else {}), **told}


def _own_name(stage: Stage) -> str:
    """Empty where a recipe is all of its one stage."""
    return "" if stage.recipe is not None and stage.name == stage.recipe.name else stage.name


def _row(stage: Stage) -> tuple[str, ...]:
    """Of the table of recipes, its name apart."""
    recipe = stage.recipe
    if recipe is None:
        return stage.name, "", "that of the stage before, tuned on labels", "", ""
    spec = recipe.model
    named = spec.text.name if spec.text and spec.text.kind == "hf" else None
    if spec.text and spec.text.kind == "sentence":
        named = spec.text.encoder
    text = recipe.start.text or named or spec.text_kind
    return _own_name(stage), recipe.paper, _encoder(spec), text, str(recipe.optim.steps)


def _encoder(spec: ModelSpec) -> str:
    """The audio encoder in words."""
    from echoic.convert.laion import architecture

    audio = spec.audio
    if audio.kind == "slap" or audio.kind == "m2d":
        return f"{audio.kind}, {audio.depth} layers of {audio.width}"
    return architecture(audio) + (f", fusion {audio.fusion}" if audio.fusion else "")


def _plan(
    stages: Sequence[Stage],
    data: str,
    kept: Source,
    held: Source | None,
    folder: Path,
    computing: int,
) -> str:
    what = [
        f"recipe {each.recipe.name}: {each.recipe.optim.steps} steps"
        if each.recipe is not None
        else f"{each.name}: tuning on the clips' tags"
        for each in stages
    ]
    held_out = f", {len(held.clips)} more held out" if held else ", none held out"
    return (
        f"{'; '.join(what)}; into {folder}, {computing} threads\n"
        f"data {data}: {len(kept.clips)} clips, {_hours(kept.clips)}{held_out}"
    )


def _hours(clips: Sequence[Clip]) -> str:
    import numpy as np

    from echoic.data.clips import durations_of

    seconds = durations_of(clips)
    unknown = np.isnan(seconds).sum()
    known = f"{np.nansum(seconds) / 3600:.2f} hours"
    return known + (f" and {unknown} of unknown length" if unknown else "")


def _document(done: Trained) -> dict[str, object]:
    last = done.last.result if done.last else None
    told: dict[str, object] = {"model": str(done.file) if done.file else None}
    if done.classifier is not None:
        told["classifier"] = str(done.classifier)
    if last is not None:
        told |= {"steps": last.step, "losses": last.losses, "metrics": last.metrics}
        told["elapsed_s"] = round(last.elapsed_s, 3)
    return told


def next_commands(
    model: Path,
    source: Source,
    measured: Sequence[object],
    *,
    reads: bool = True,
    writes: bool = False,
) -> list[str]:
    """What to type next, as it works here. measured: the options of data for `echoic eval`. reads:
    whether the model reads texts; writes: whether it has learnt to caption."""
    from echoic.data.sources import FileSource

    while not isinstance(source, FileSource) and hasattr(source, "source"):
        source = source.source  # a part, or other captions, of it
    report = model.parent / "report.html"
    lines = []
    if reads:
        lines += [f"measure it:  {typed(program(), 'eval', model, *measured, '--report', report)}"]
    if isinstance(source, FileSource):
        sound = source.paths[0]
        if reads:
            words = ["search", source.clips[0].captions[0], sound.parent, "--model", model]
            lines += [f"search by it:  {typed(program(), *words)}"]
        if writes:
            lines += [f"caption by it:  {typed(program(), 'caption', sound, '--model', model)}"]
    return [*lines, f"check the file:  {typed(program(), 'check', model)}"]
