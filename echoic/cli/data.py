"""data synth, keywords, check, and the group that they make with data shards, score,
embed-captions, tasks and leaks: making, packing, captioning and examining sound."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echoic.cli.common import (
    AudioDir,
    CaptionColumn,
    CpuThreads,
    FileColumn,
    JsonOption,
    Missing,
    MissingOption,
    Processes,
    TableOptions,
    TagColumn,
    available_cpus,
    emit,
    program,
    say,
    told_as_options,
    told_now_and_then,
    use_cpu,
    wrong,
)
from echoic.cli.leaks import leaks
from echoic.cli.score import score
from echoic.cli.sentences import check_store, embed_captions
from echoic.cli.shards import shards, written
from echoic.cli.tasks import check_folder, tasks

if TYPE_CHECKING:
    from echoic.data.clips import Source
    from echoic.data.keyword_captions import Generator, KeywordSummary

PANEL = "Data"
_CHECK_RATE_HZ = 16_000
_MODEL_PANEL = "Where the generator is a model"


class Split(StrEnum):
    train = "train"
    valid = "valid"
    test = "test"


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help="Make, pack and examine captioned sound.", rich_markup_mode="markdown")
    example = "Example: echoic data synth corpus/train --clips 2000"
    group.command(epilog=example)(synth)
    group.command(epilog="Example: echoic data shards my.csv shards/ --rate 16000")(shards)
    example = (
        "Example: echoic data keywords audioset.csv --out captions --generator gagan3012/k2t-base"
    )
    group.command(epilog=example)(keywords)
    example = "Example: echoic data score my.csv --model laion/clap-htsat-unfused --out scores"
    group.command(epilog=example)(score)
    example = "Example: echoic data embed-captions my.csv --encoder thenlper/gte-base --out vectors"
    group.command(epilog=example)(embed_captions)
    group.command(epilog="Example: echoic data tasks")(tasks)
    example = "Example: echoic data check my.csv, or: echoic data check esc50 ~/ESC-50-master"
    group.command(epilog=example)(check)
    example = "Example: echoic data leaks my.csv ESC-50-master/audio --out leaks.json"
    group.command(epilog=example)(leaks)
    app.add_typer(group, name="data", rich_help_panel=PANEL)


def synth(
    out: Annotated[Path, typer.Argument(help="A new folder for the shards.", show_default=False)],
    clips: Annotated[int, typer.Option(min=1, help="How many scenes.", show_default=False)],
    split: Annotated[
        Split, typer.Option(help="What valid and test hold is not in train.")
    ] = Split.train,
    seed: Annotated[int, typer.Option(min=0, help="Of every random draw.")] = 0,
    max_s: Annotated[
        float, typer.Option(min=2.0, max=30.0, help="Longest scene in seconds.")
    ] = 10.0,
    rate: Annotated[int, typer.Option(min=8000, max=48_000, help="Sample rate in Hz.")] = 16_000,
    processes: Processes = None,
    as_json: JsonOption = False,
) -> None:
    """Generate scenes of the embedded corpus: 60 sound classes, captions, tags; the same for the
    same seed.
    """
    from echoic.data.shards import write_shards
    from echoic.data.synth.corpus import clip_of, draw_scenes, render_all

    scenes = draw_scenes(clips, split=split.value, seed=seed, max_s=max_s)
    waves = render_all(scenes, rate, processes=processes or available_cpus())
    pairs = ((clip_of(scene), wave) for scene, wave in zip(scenes, waves, strict=True))
    written(write_shards(pairs, out, rate_hz=rate), as_json)


def keywords(
    source: Annotated[
        Path,
        typer.Argument(
            help="Sound with tags: a .csv, .tsv or .jsonl, a folder of audio, .tar shards.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The folder of the captions; of a run that was stopped, to go on.",
            show_default=False,
        ),
    ],
    generator: Annotated[
        str,
        typer.Option(
            help="template, template:epidemic, or a model of transformers (T5): a folder, or "
            "owner/name on the Hub."
        ),
    ] = "template",
    batch: Annotated[int, typer.Option(min=1, help="Tag lists at once.")] = 32,
    shortest_s: Annotated[
        float, typer.Option(min=0.0, help="Shorter clips get no caption, in seconds.")
    ] = 2.0,
    debias: Annotated[
        bool, typer.Option(help="Write person for woman and man, their for her and his.")
    ] = True,
    beams: Annotated[
        int, typer.Option(min=1, help="Of the search.", rich_help_panel=_MODEL_PANEL)
    ] = 4,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Of a caption.", rich_help_panel=_MODEL_PANEL)
    ] = 64,
    joint: Annotated[
        str | None,
        typer.Option(
            help="What parts the tags that the model reads.",
            show_default="'| ', or ' ' for common_gen",
            rich_help_panel=_MODEL_PANEL,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Sample, with this seed.", show_default="no", rich_help_panel=_MODEL_PANEL
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1 ...", rich_help_panel=_MODEL_PANEL)
    ] = "cpu",
    cpu_threads: CpuThreads = None,
    as_json: JsonOption = False,
    audio_dir: AudioDir = None,
    file_column: FileColumn = None,
    tag_column: TagColumn = None,
    missing: MissingOption = Missing.error,
) -> None:
    """Make a caption of each clip's tags, for sound that has tags and no captions.

    It hears nothing: the files of a table need not be there. Ctrl-C loses no file that is whole;
    the same command goes on from there.
    """
    from echoic.data.keyword_captions import DEBIAS, write_captions
    from echoic.data.sources import tagged_clips

    use_cpu(cpu_threads)
    with told_as_options():
        clips = tagged_clips(
            source,
            audio_dir=audio_dir,
            file_column=file_column,
            tag_column=tag_column,
            missing=missing.value,
        )
    options = {"beams": beams, "max_tokens": max_tokens, "joint": joint, "seed": seed}
    with told_as_options():
        summary = write_captions(
            clips,
            _generator(generator, {**options, "device": device}),
            out,
            batch=batch,
            shortest_s=shortest_s,
            debias=DEBIAS if debias else {},
            progress=told_now_and_then("clips"),
        )
    _captioned(summary, source, as_json)


def _generator(name: str, options: dict[str, Any]) -> Generator:
    from echoic.data.keyword_captions import TemplateGenerator

    if name.partition(":")[0] == "template":
        return TemplateGenerator(name)
    from echoic.keywords import KeywordModel

    return KeywordModel(name, **options)


def _captioned(summary: KeywordSummary, source: Path, as_json: bool) -> None:
    if as_json:
        emit({**vars(summary), "folder": str(summary.folder)})
        return
    kept = f", {summary.kept} of them by an earlier run" if summary.kept else ""
    print(f"{summary.folder}: {summary.captions} captions in {summary.files} files{kept}")
    without = f"{summary.untagged} without tags, {summary.short} too short"
    say(f"without a caption: {without}")
    say(f"to train on them: echoic train nano --data {source} --captions-from {summary.folder}")


def check(
    path: Annotated[
        str,
        typer.Argument(
            help="A .csv, .tsv or .jsonl, a folder of audio, .tar shards; the vectors of "
            "embed-captions; or a task's name (echoic data tasks).",
            show_default=False,
        ),
    ],
    folder: Annotated[
        Path | None, typer.Argument(help="Of a task: the folder of its data.", show_default=False)
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that decode audio.")] = 2,
    as_json: JsonOption = False,
    audio_dir: AudioDir = None,
    file_column: FileColumn = None,
    caption_column: CaptionColumn = None,
    tag_column: TagColumn = None,
) -> None:
    """Open a source as a training would, decode every clip to its end, hold shards against their
    checksums, and tell what is wrong.

    With a task's name and a folder: say which of its lists and clips are there, and what is
    missing; no audio is decoded.
    """
    from echoic.data.checksums import damaged_tars
    from echoic.data.sentences import STORE
    from echoic.data.tasks import CAPTIONED, TASKS, TIMED

    if folder is not None:
        check_folder(path, folder, as_json)
        return
    place = Path(path)
    if path in {**TASKS, **CAPTIONED, **TIMED} and not place.exists():
        raise wrong(
            f"{path}: to check a task, give the folder of its data: "
            f"{program()} data check {path} FOLDER"
        )
    if (place / STORE).is_file():
        check_store(place, as_json)
        return
    table = TableOptions(audio_dir, file_column, caption_column, tag_column)
    source, problems = _opened(place, table)
    problems += [f"{name}: {why}" for name, why in damaged_tars(place, threads=threads).items()]
    bad = _bad_clips(source, threads)
    found = {"path": str(path), **_facts(source, bad), "problems": problems, "bad": bad}
    if as_json:
        emit({"ok": not (problems or bad), **found})
    else:
        _tell(found)
    if problems or bad:
        counts = f"{len(bad)} of {len(source.clips)} clips are unusable"
        told = [each.removeprefix(f"{place}: ") for each in problems]
        raise wrong(f"{path}: {'; '.join([*told, counts] if bad else told)}")


def _opened(path: Path, table: TableOptions) -> tuple[Source, list[str]]:
    """The source, with what had to be left out to open it. Raises DataError where nothing can be
    opened.
    """
    from echoic.types import DataError

    try:
        return table.open(path), []
    except DataError as error:
        try:
            skipped = replace(table, missing=Missing.skip).open(path)
        except DataError:
            raise error from None
        # of what this command tells of, not of its own
        line = str(error).replace("--missing skip", "echoic train --missing skip")
        return skipped, [line]


def _bad_clips(source: Source, threads: int) -> dict[str, str]:
    """Key -> reason of the clips that a training could not use."""
    from concurrent.futures import ThreadPoolExecutor

    from echoic.data.clips import check_audio
    from echoic.types import AudioError

    def reason(i: int) -> str:
        try:
            check_audio(source.clips[i].key, source.read(i, _CHECK_RATE_HZ))
        except AudioError as error:
            return error.reason
        return ""

    with ThreadPoolExecutor(threads, thread_name_prefix="echoic-check") as pool:
        reasons = pool.map(reason, range(len(source.clips)))
        found = zip(source.clips, reasons, strict=True)
        return {clip.key: why for clip, why in found if why}


def _facts(source: Source, bad: dict[str, str]) -> dict[str, Any]:
    clips = source.clips
    lengths = sorted(clip.duration_s for clip in clips if clip.duration_s is not None)
    tags = Counter(tag for clip in clips for tag in clip.tags)
    words = [len(caption.split()) for clip in clips for caption in clip.captions]
    return {
        "clips": len(clips),
        "good": len(clips) - len(bad),
        "hours": round(sum(lengths) / 3600, 4),
        "shortest_s": lengths[0] if lengths else None,
        "median_s": lengths[len(lengths) // 2] if lengths else None,
        "longest_s": lengths[-1] if lengths else None,
        "captions": len(words),
        "words_per_caption": round(sum(words) / max(1, len(words)), 1),
        "tags": len(tags),
    }


def _tell(found: dict[str, Any]) -> None:
    print(f"{found['path']}: {found['good']} of {found['clips']} clips are good")
    if found["shortest_s"] is not None:
        names = ("shortest", "median", "longest")
        lengths = ", ".join(f"{name} {found[f'{name}_s']:.2f}" for name in names)
        print(f"length    {found['hours']} hours; {lengths} s")
    words = f"{found['words_per_caption']} words each"
    print(f"captions  {found['captions']}, {words}; {found['tags']} different tags")
    for key, why in found["bad"].items():
        print(f"bad       {key}: {why}")
