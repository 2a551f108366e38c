"""tag: which of some labels sound when, in files or live."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echoic.cli.common import (
    CpuThreads,
    JsonOption,
    ModelOption,
    Precision,
    PrecisionOption,
    TextEncoderOption,
    TokenizerOption,
    emit,
    open_model,
    say,
    use_cpu,
    writing,
    wrong,
)
from echoic.cli.live import LiveTags, Tagging, tag_stdin
from echoic.cli.subtitle_files import SrtOption, SubtitleFiles, VttOption
from echoic.cli.use import (
    PANEL,
    LabelsFileOption,
    LabelsOption,
    TemplateOption,
    chosen_labels,
    recordings,
    tell_left_out,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from echoic.api import EchoicModel
    from echoic.audio.pcm import PcmFormat
    from echoic.eval.events import Span
    from echoic.eval.report import Section
    from echoic.timeline import Scale, Timeline

_SPANS, _STEPS, _FILES = "What counts as a span", "How finely it is heard", "Files"
LIVE = "-"


class By(StrEnum):
    probability = "probability"
    cosine = "cosine"


def add_to(app: typer.Typer) -> None:
    example = 'Example: echoic tag field.wav --labels "dog bark,rain,speech" --html field.html'
    app.command(rich_help_panel=PANEL, epilog=example)(tag)


def tag(
    sounds: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES|FOLDERS|-",
            help="Recordings, or folders of them; - hears stdin live.",
            show_default=False,
        ),
    ],
    model: ModelOption = None,
    labels: LabelsOption = None,
    labels_file: LabelsFileOption = None,
    template: TemplateOption = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="What a span reaches.", show_default="0.3", rich_help_panel=_SPANS),
    ] = None,
    low: Annotated[
        float | None,
        typer.Option(
            help="A span goes on, to both sides, while the score is that much.",
            show_default="the threshold",
            rich_help_panel=_SPANS,
        ),
    ] = None,
    by: Annotated[
        By,
        typer.Option(
            "--by",
            help="Probabilities among the labels, or cosines, each label for itself.",
            rich_help_panel=_SPANS,
        ),
    ] = By.probability,
    gap_s: Annotated[
        float,
        typer.Option(
            "--gap-s", min=0, help="Spans no further apart are one.", rich_help_panel=_SPANS
        ),
    ] = 0.0,
    min_s: Annotated[
        float,
        typer.Option("--min-s", min=0, help="Shorter spans are left out.", rich_help_panel=_SPANS),
    ] = 0.0,
    median_s: Annotated[
        float,
        typer.Option(
            "--median-s", min=0, help="Smooth scores by a median; 0: not.", rich_help_panel=_SPANS
        ),
    ] = 1.0,
    step_s: Annotated[
        float,
        typer.Option("--step-s", help="From one score to the next.", rich_help_panel=_STEPS),
    ] = 0.2,
    window_s: Annotated[
        float,
        typer.Option("--window-s", help="What a score is of, around it.", rich_help_panel=_STEPS),
    ] = 1.0,
    context_s: Annotated[
        float | None,
        typer.Option(
            "--context-s",
            help="What is heard at once; less means less delay of a live stream.",
            show_default="what the model can; live 5 windows",
            rich_help_panel=_STEPS,
        ),
    ] = None,
    pcm: Annotated[
        str | None,
        typer.Option(
            "--pcm",
            metavar="KIND:RATE[:CHANNELS]",
            help="What the samples of - are, as s16le:16000.",
            show_default="as a WAV header says",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option("--csv", help="Write the spans as a table.", rich_help_panel=_FILES),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page with the time lines.", rich_help_panel=_FILES),
    ] = None,
    srt: SrtOption = None,
    vtt: VttOption = None,
    as_json: JsonOption = False,
    scores: Annotated[
        bool, typer.Option("--scores", help="With --json: the score of every step too.")
    ] = False,
    tokenizer: TokenizerOption = None,
    text_encoder: TextEncoderOption = None,
    precision: PrecisionOption = Precision.fp32,
    cpu_threads: CpuThreads = None,
) -> None:
    """Tell which of your labels sound when, in recordings of any length, or live.

    Scores say which of the labels, not whether any of them: give one for what else is heard, such
    as silence. A file that cannot be heard is named and left out, the rest is done. Live, a line
    comes as a span begins and as it ends; with --json one line of JSON for each that ended.
    """
    names = chosen_labels("tag", labels, labels_file)
    live = sounds == [Path(LIVE)]
    _check(names, sounds, by, threshold, pcm, as_json, scores)
    _check_range(by, threshold=threshold, low=low)
    from echoic.eval.zeroshot import LAION_TEMPLATE, prompt
    from echoic.spans import THRESHOLD, Medians, SpanRule
    from echoic.timeline import Steps

    for sentence in template or ():
        prompt(sentence, names[0])  # a wrong one is told before hours of listening
    rule = SpanRule(THRESHOLD if threshold is None else threshold, low, gap_s, min_s)
    form = _pcm_format(pcm)
    files = [LIVE] if live else [str(file) for each in sounds for file in recordings(each)]
    subtitles = SubtitleFiles.plan(files, srt, vtt)
    use_cpu(cpu_threads)
    listener, _ = open_model(
        model, tokenizer=tokenizer, text_encoder=text_encoder, precision=precision
    )
    steps = Steps(step_s, window_s, context_s)
    steps.context_of(listener.network.audio)
    if median_s:
        Medians.over(median_s, step_s)
    scale: Scale = "cosine" if by is By.cosine else "probability"
    asked = Tagging(tuple(names), rule, scale, median_s, steps)
    classes = listener.embed_labels(names, template or LAION_TEMPLATE)
    telling = _Telling(asked, as_json, scores, table, html, subtitles)
    if live:
        _tag_live(listener, classes, form, asked, telling)
    else:
        _tag_files(listener, classes, files, asked, telling)


@dataclass
class _Telling:
    """Where what is found goes; keeps of each recording only what is still to be written."""

    asked: Tagging
    as_json: bool
    scores: bool
    csv: Path | None
    html: Path | None
    subtitles: SubtitleFiles
    documents: list[dict[str, Any]] = field(default_factory=list)
    spans: list[tuple[str, Span]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    def keep(
        self, file: str, spans: Sequence[Span], edges_s: np.ndarray, scores: np.ndarray
    ) -> None:
        """edges_s: (N + 1,), scores (N, C). Subtitles are written at once."""
        from echoic.subtitles import span_cues

        if self.csv is not None:
            self.spans += [(file, span) for span in spans]
        if self.html is not None:
            self.sections.append(_section(file, self.asked.labels, edges_s, scores, spans))
        self.subtitles.write(file, span_cues(spans))

    def document(self, file: str, line: Timeline, spans: Sequence[Span]) -> None:
        found: dict[str, Any] = {"file": file, "duration_s": round(line.duration_s, 6)}
        found["spans"] = [span.to_json() for span in spans]
        if self.scores:
            found["scores"] = line.to_json(by=self.asked.by)["scores"]
        self.documents.append(found)

    def write(self) -> None:
        """The files of all recordings together. Raises DataError."""
        if self.csv is not None:
            _write_csv(self.csv, self.spans)
            say(f"{self.csv}: {len(self.spans)} span{'' if len(self.spans) == 1 else 's'}")
        if self.html is not None:
            say(f"page: {_write_page(self.html, self.asked, self.sections)}")


def _tag_files(
    listener: EchoicModel, classes: Tensor, files: Sequence[str], asked: Tagging, telling: _Telling
) -> None:
    from echoic.cli.time_strip import show_line, strip_console
    from echoic.types import AudioError

    console = strip_console()
    errors: list[dict[str, str]] = []
    for file in files:
        try:
            line = listener.timeline(file, asked.labels, classes=classes, steps=asked.steps)
        except AudioError as error:
            errors.append({"file": file, "error": error.reason})
            continue
        if asked.median_s:
            line = line.smoothed(asked.median_s)
        rule, by = asked.rule, asked.by
        spans = line.spans(rule.threshold, by=by, low=rule.low, gap_s=rule.gap_s, min_s=rule.min_s)
        telling.keep(file, spans, line.edges_s, line.scores(by))
        if telling.as_json:
            telling.document(file, line, spans)
        else:
            show_line(console, file, line, spans, by)
    if len(errors) < len(files):  # else the older files are better than empty ones
        telling.write()
    if telling.as_json:
        emit(
            {
                "space_id": listener.space_id,
                "labels": list(asked.labels),
                "scale": asked.by,
                "step_s": asked.steps.step_s,
                "files": telling.documents,
                "errors": errors,
            }
        )
    tell_left_out(errors, done=len(files) - len(errors))


def _tag_live(
    listener: EchoicModel,
    classes: Tensor,
    form: PcmFormat | None,
    asked: Tagging,
    telling: _Telling,
) -> None:
    import numpy as np

    from echoic.streaming import low_delay

    steps = low_delay(listener.network.audio, asked.steps)
    wanted = LiveTags(
        replace(asked, steps=steps), classes, telling.as_json, keep_scores=telling.html is not None
    )
    found = tag_stdin(listener, form, wanted)
    scores = np.stack(found.scores) if found.scores else np.zeros((0, len(asked.labels)))
    edges_s = np.append(np.arange(len(scores)) * asked.steps.step_s, found.duration_s)
    telling.keep(LIVE, sorted(found.spans, key=lambda each: each.onset_s), edges_s, scores)
    telling.write()
    if found.stopped:
        raise KeyboardInterrupt


def _check(
    names: Sequence[str],
    sounds: Sequence[Path],
    by: By,
    threshold: float | None,
    pcm: str | None,
    as_json: bool,
    scores: bool,
) -> None:
    """Raises EchoicError where what is given does not fit together."""
    live = Path(LIVE) in sounds
    if live and len(sounds) > 1:
        raise wrong("tag: - is stdin, and stands alone")
    if pcm is not None and not live:
        raise wrong("tag: --pcm is for -, the samples of stdin")
    if by is By.probability and len(names) == 1:
        raise wrong(
            f"tag: {names[0]!r} alone is always the likeliest: give other labels to tell it from, "
            "such as silence, or --by cosine with a --threshold"
        )
    if by is By.cosine and threshold is None:
        raise wrong("tag: --by cosine needs a --threshold: what is much differs by model")
    if scores and (live or not as_json):
        raise wrong("tag: --scores is for files, with --json")


def _check_range(by: By, **given: float | None) -> None:
    """Raises EchoicError on what no score of that kind can be."""
    least = -1 if by is By.cosine else 0
    for name, value in given.items():
        if value is not None and not least <= value <= 1:
            raise wrong(f"tag: --{name} {value:g} by {by}: give {least} to 1")


def _pcm_format(told: str | None) -> PcmFormat | None:
    from echoic.audio.pcm import PcmFormat

    return None if told is None else PcmFormat.parse(told)


def _write_csv(path: Path, spans: Sequence[tuple[str, Span]]) -> None:
    with (
        writing(path) as beside,
        beside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as opened,
    ):
        rows = csv.DictWriter(opened, ["file", "label", "onset_s", "offset_s", "score"])
        rows.writeheader()
        rows.writerows({"file": file} | span.to_json() for file, span in spans)


def _section(
    file: str,
    labels: Sequence[str],
    edges_s: np.ndarray,
    scores: np.ndarray,
    spans: Sequence[Span],
) -> Section:
    """The labels that have spans, most often heard first; without any the highest scores."""
    from echoic.eval.report import Prose, Section
    from echoic.eval.time_chart import spans_table, time_chart

    if not len(scores):
        return Section(file, [Prose("Nothing was heard.")])
    heard = [label for label in labels if any(span.label == label for span in spans)]
    best = scores.max(axis=0).argsort()[::-1][:5].tolist()
    shown = heard or [labels[i] for i in best]
    columns = [labels.index(label) for label in shown]
    quiet = len(labels) - len(heard)
    note = f"{quiet} of {len(labels)} labels have no span." if quiet else ""
    chart = time_chart("Time line", shown, edges_s, scores[:, columns], spans, note=note)
    beside = spans_table(spans, "Spans") if spans else Prose("No span of any label.")
    return Section(file, [chart, beside])


def _write_page(path: Path, asked: Tagging, sections: Sequence[Section]) -> Path:
    from echoic.eval.report import Report

    rule, steps = asked.rule, asked.steps
    parts = [
        f"{len(asked.labels)} labels by {asked.by}",
        f"threshold {rule.threshold:g}" + ("" if rule.low is None else f" down to {rule.low:g}"),
        f"gaps up to {rule.gap_s:g} s closed" if rule.gap_s else "",
        f"{rule.min_s:g} s or longer" if rule.min_s else "",
        f"every {steps.step_s:g} s of {steps.window_s:g} s",
        f"median over {asked.median_s:g} s" if asked.median_s else "",
    ]
    how = ", ".join(part for part in parts if part)
    return Report("Tagging over time", how, sections).write(path)
