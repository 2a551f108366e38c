"""caption: what is heard in files, in words of the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echoic.cli.common import (
    CpuThreads,
    JsonOption,
    LongOption,
    ModelOption,
    Precision,
    PrecisionOption,
    TokenizerOption,
    emit,
    open_model,
    plain_table,
    show,
    use_cpu,
    wrong,
)
from echoic.cli.subtitle_files import SrtOption, SubtitleFiles, VttOption
from echoic.cli.use import PANEL, Sounds, recordings, tell_left_out

if TYPE_CHECKING:
    from rich.table import Table

    from echoic.captioning import CaptionedSpan
    from echoic.encoders.generation import Search

_WORDS_PANEL = "How words are chosen"
MOST_BEAMS = 100  # time and memory grow with it, captions no longer get better


def add_to(app: typer.Typer) -> None:
    example = "Example: echoic caption field-recordings/ --model runs/slap"
    app.command(rich_help_panel=PANEL, epilog=example)(caption)


def caption(
    sounds: Sounds,
    model: ModelOption = None,
    times: Annotated[
        bool,
        typer.Option("--times", help="Each stretch that the model hears at once, with its times."),
    ] = False,
    window_s: Annotated[
        float | None,
        typer.Option(
            "--window-s",
            help="How much gets a caption of its own; less for finer subtitles.",
            show_default="what the model hears at once",
        ),
    ] = None,
    beam: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_BEAMS,
            help="How many beginnings are followed; 1 takes the likeliest word each time.",
            show_default="4",
            rich_help_panel=_WORDS_PANEL,
        ),
    ] = None,
    sample: Annotated[
        bool,
        typer.Option(
            "--sample", help="Draw words by their probability.", rich_help_panel=_WORDS_PANEL
        ),
    ] = False,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Of --sample: below 1 the likely gets likelier.",
            show_default="1",
            rich_help_panel=_WORDS_PANEL,
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Of --sample: among the fewest likeliest with this probability together.",
            show_default="1",
            rich_help_panel=_WORDS_PANEL,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of --sample.", show_default="0", rich_help_panel=_WORDS_PANEL),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=3,
            help="Of the longest caption; a word is one or a few, begin and end are two.",
            show_default="the model's",
            rich_help_panel=_WORDS_PANEL,
        ),
    ] = None,
    srt: SrtOption = None,
    vtt: VttOption = None,
    as_json: JsonOption = False,
    tokenizer: TokenizerOption = None,
    long: LongOption = None,
    precision: PrecisionOption = Precision.fp32,
    cpu_threads: CpuThreads = None,
) -> None:
    """Say in words what is heard, by a model with a decoder (echoic train slap).

    A recording longer than the model hears at once gets a caption for each stretch. A file that
    cannot be heard is named and left out, the rest is done.
    """
    from echoic.subtitles import caption_cues
    from echoic.types import AudioError

    how = _search(beam, sample, temperature=temperature, top_p=top_p, seed=seed)
    files = [str(file) for given in sounds for file in recordings(given)]
    subtitles = SubtitleFiles.plan(files, srt, vtt)
    use_cpu(cpu_threads)
    listener, _ = open_model(model, tokenizer=tokenizer, long=long, precision=precision)
    found = listener.iter_captions(files, how=how, max_tokens=max_tokens, window_s=window_s)
    heard = dict(found)
    done: list[tuple[str, list[CaptionedSpan]]] = []
    errors: list[dict[str, str]] = []
    for index, file in enumerate(files):
        spans = heard[index]
        if isinstance(spans, AudioError):
            errors.append({"file": file, "error": spans.reason})
        else:
            done.append((file, spans))
            subtitles.write(file, caption_cues(spans))
    if as_json:
        emit({"captions": [_document(*each) for each in done], "errors": errors})
    else:
        show(_timed_table(done) if times else _table(done))
    tell_left_out(errors, done=len(done))


def _search(
    beam: int | None,
    sample: bool,
    *,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
) -> Search:
    """The way that the options ask for. Raises EchoicError where they do not fit each other."""
    import torch

    from echoic.encoders.generation import Beam, Greedy, Sampling

    if sample:
        if beam is not None:
            raise wrong("caption: give --beam or --sample, one of the two")
        generator = torch.Generator().manual_seed(seed or 0)
        return Sampling(
            generator,
            temperature=1.0 if temperature is None else temperature,
            top_p=1.0 if top_p is None else top_p,
        )
    given = {"--temperature": temperature, "--top-p": top_p, "--seed": seed}
    if strange := [name for name, value in given.items() if value is not None]:
        raise wrong(f"caption: {strange[0]} is for --sample")
    if beam is None:
        return Beam()
    return Greedy() if beam == 1 else Beam(width=beam)


def _document(file: str, spans: Sequence[CaptionedSpan]) -> dict[str, Any]:
    from echoic.captioning import whole_text

    timed = [
        {
            "start_s": span.start_s,
            "end_s": span.end_s,
            "caption": span.text,
            "log_probability": span.log_probability,
        }
        for span in spans
    ]
    return {"file": file, "caption": whole_text(spans), "spans": timed}


def _table(done: Sequence[tuple[str, list[CaptionedSpan]]]) -> Table:
    from echoic.captioning import whole_text

    table = plain_table("file", "caption")
    for file, spans in done:
        table.add_row(file, whole_text(spans))
    return table


def _timed_table(done: Sequence[tuple[str, list[CaptionedSpan]]]) -> Table:
    table = plain_table("file", "from", "to", "caption", right=["from", "to"])
    for file, spans in done:
        for place, span in enumerate(spans):
            start, end = clock(span.start_s), clock(span.end_s)
            table.add_row("" if place else file, start, end, span.text)
    return table


def clock(time_s: float) -> str:
    """3725.04 -> 1:02:05.0, 65.25 -> 1:05.2; tenths, as for people."""
    minutes, tenths = divmod(round(10 * time_s), 600)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{start}:{tenths // 10:02d}.{tenths % 10}"
