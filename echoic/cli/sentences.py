"""data embed-captions: vectors of captions, computed once; and whether they are whole."""

from __future__ import annotations

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
    Missing,
    MissingOption,
    Precision,
    TableOptions,
    TagColumn,
    emit,
    messages,
    open_model,
    say,
    use_cpu,
    wrong,
)

if TYPE_CHECKING:
    from echoic.data.sentences import Encode

_SIZES = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_PANEL = "How the encoder reads"


class Pool(StrEnum):
    mean = "mean"
    cls = "cls"
    last = "last"


class Captions(StrEnum):
    written = "written"
    generated = "generated"
    all = "all"


def embed_captions(
    source: Annotated[
        Path,
        typer.Argument(
            help="A .csv, .tsv or .jsonl, a folder of audio, .tar shards.", show_default=False
        ),
    ],
    encoder: Annotated[
        str,
        typer.Option(
            help="An encoder of transformers (a folder, or a name on the Hub), st:NAME by way of "
            "sentence-transformers, minilm, words:256 (no weights, for trials), or a model of "
            "echoic's own (a file, or a run's folder).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The folder of the vectors; of a run that was stopped, to go on.",
            show_default=False,
        ),
    ],
    pooling: Annotated[
        Pool | None,
        typer.Option(
            help="Of the tokens.",
            show_default="what the encoder's 1_Pooling says, else mean",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(
            help="What is read of a caption, {} being the caption.", rich_help_panel=_PANEL
        ),
    ] = "{}",
    precision: Annotated[
        Precision,
        typer.Option(help="bf16 halves the memory of a large one.", rich_help_panel=_PANEL),
    ] = Precision.fp32,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run code that comes with the encoder's weights.",
            rich_help_panel=_PANEL,
        ),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Captions at once.")] = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    captions: Annotated[
        Captions | None,
        typer.Option(
            help="Which captions of clips that have several kinds, as the training has it.",
            show_default="written, or those of --captions-from",
        ),
    ] = None,
    cpu_threads: CpuThreads = None,
    as_json: JsonOption = False,
    audio_dir: AudioDir = None,
    file_column: FileColumn = None,
    caption_column: CaptionColumn = None,
    tag_column: TagColumn = None,
    missing: MissingOption = Missing.error,
    captions_from: CaptionsFrom = None,
) -> None:
    """Compute a sentence vector of each caption, once, for trainings that read these in place of
    text (M2D-CLAP).

    Ctrl-C loses a few hundred captions at most; the same command goes on from there. echoic data
    check reads such a folder and tells whether it is whole.
    """
    from echoic.data.sentences import embed_captions as write

    use_cpu(cpu_threads)
    table = TableOptions(audio_dir, file_column, caption_column, tag_column, missing, captions_from)
    chosen: Any = captions and captions.value
    opened = table.open(source, captions=chosen)
    encode = _encoder(
        encoder,
        pooling=pooling and pooling.value,
        prompt=prompt,
        device=device,
        batch=batch,
        precision=precision.value,
        trust_remote_code=trust_remote_code,
    )
    summary = write(opened, encode, out, console=messages())
    if as_json:
        emit({**vars(summary), "folder": str(summary.folder)})
        return
    count = f"{summary.captions} different captions of {summary.clips} clips"
    print(f"{out}: {count}, {summary.width} numbers each, {_size(summary.bytes)}")
    made = summary.captions - summary.kept
    if not made:
        say("all of it was there already: nothing to do")
    else:
        kept = f", {summary.kept} were there already" if summary.kept else ""
        say(f"{made} embedded at {made / summary.seconds:.4g} captions/s{kept}")


def _size(count: int) -> str:
    unit, size = next(each for each in _SIZES if count >= each[1] or each[0] == "kB")
    return f"{count / size:.1f} {unit}"


def _encoder(name: str, **options: Any) -> Encode:
    from echoic.encoders.sentences import sentence_encoder
    from echoic.text_side import OwnSentences, is_own

    if not is_own(name):
        return sentence_encoder(name, **options)
    usual = {"pooling": None, "prompt": "{}", "precision": "fp32", "trust_remote_code": False}
    if given := [option for option, value in usual.items() if options[option] != value]:
        raise wrong(f"encoder {name}: a model of echoic's own has no choice of {given[0]}")
    if options["device"] != "cpu":
        raise wrong(f"encoder {name}: a model of echoic's own reads captions on the CPU here")
    model, file = open_model(name)
    return OwnSentences(str(file), model, options["batch"])


def check_store(path: Path, as_json: bool) -> None:
    """Read a folder of vectors to its end, and tell what is wrong. Raises DataError."""
    from echoic.data.sentences import SentenceStore
    from echoic.types import DataError

    try:
        store = SentenceStore.open(path)
        store.verify()
    except DataError as error:
        if as_json:
            emit({"ok": False, "path": str(path), "problems": [str(error)]})
        raise
    facts = {"encoder": store.encoder, "width": store.width}
    facts |= {"captions": len(store), "clips": len(store.keys)}
    if as_json:
        emit({"ok": True, "path": str(path), **facts, "problems": []})
        return
    size = f"{len(store)} captions of {len(store.keys)} clips"
    print(f"{path}: whole; vectors of {store.encoder}, {store.width} numbers each, {size}")
