"""echoic tag -: sound from stdin, tagged while it comes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from echoic.cli.caption import clock
from echoic.cli.common import say, wrong

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from echoic.api import EchoicModel
    from echoic.audio.pcm import PcmFormat
    from echoic.eval.events import Span
    from echoic.spans import SpanRule
    from echoic.timeline import Scale, Steps
    from echoic.train.process import StopRequest

NAME = "stdin"


@dataclass(frozen=True)
class Tagging:
    """Which labels, and how their spans come of the scores. median_s: 0 is without."""

    labels: tuple[str, ...]
    rule: SpanRule
    by: Scale
    median_s: float
    steps: Steps


@dataclass(frozen=True)
class LiveTags:
    """What is wanted of a live stream. keep_scores: for a page; else only spans are kept."""

    how: Tagging
    classes: Tensor
    as_json: bool
    keep_scores: bool


@dataclass
class LiveFound:
    """scores: (N, C) in rows, smoothed, where they are kept."""

    duration_s: float = 0.0
    spans: list[Span] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    stopped: bool = False


def standard_input() -> BinaryIO:
    """Raises EchoicError on a terminal: nobody types samples."""
    if sys.stdin is None or sys.stdin.isatty():
        raise wrong(
            "stdin is a terminal: pipe sound into it, as  arecord -f S16_LE -r 16000 -t raw | "
            "echoic tag - --pcm s16le:16000 --labels ..."
        )
    return sys.stdin.buffer


def tag_stdin(model: EchoicModel, told: PcmFormat | None, wanted: LiveTags) -> LiveFound:
    """Prints a line as each span begins and one as it ends, or a JSON line as it ends, until stdin
    ends or Ctrl-C. Raises AudioError on what is no sound, EchoicError."""
    from echoic.audio.pcm import open_pcm
    from echoic.train.process import StopRequest

    least_s, most_s = wanted.how.steps.delay_s(model.network.audio)
    smoothing_s = wanted.how.median_s / 2
    with StopRequest() as stop:
        form, blocks = open_pcm(standard_input(), told, name=NAME)
        say(
            f"hearing {form} from stdin; tags come {least_s + smoothing_s:g} to "
            f"{most_s + smoothing_s:g} s behind live (--context-s, --median-s), Ctrl-C ends"
        )
        found = LiveFound()
        lines = _Lines(wanted.as_json)
        heard = _heard(blocks, form, stop, found)
        for over, sounding in _decided(model, heard, form, wanted, found):
            lines.tell(over, sounding)
        found.stopped = stop.asked
    return found


def _heard(
    blocks: Iterable[np.ndarray], form: PcmFormat, stop: StopRequest, found: LiveFound
) -> Iterator[np.ndarray]:
    """The blocks as they are, until somebody asks to stop; counts them. Raises AudioError where the
    end comes before the first sample."""
    from echoic.types import AudioError

    samples = 0
    for block in blocks:
        samples += len(block)
        found.duration_s = samples / form.rate_hz
        yield block
        if stop.asked:
            return
    if not samples and not stop.asked:
        raise AudioError(NAME, "is empty (no samples came)")


def _decided(
    model: EchoicModel,
    blocks: Iterable[np.ndarray],
    form: PcmFormat,
    wanted: LiveTags,
    found: LiveFound,
) -> Iterator[tuple[list[Span], list[Span]]]:
    """The spans that are over now, and those that sound; the former are kept in `found`."""
    from echoic.spans import Medians, SpanFinder

    how, step_s = wanted.how, wanted.how.steps.step_s
    smooth = Medians.over(how.median_s, step_s) if how.median_s else Medians(0)
    finder = SpanFinder(how.labels, step_s, how.rule)

    def decide(rows: np.ndarray) -> tuple[list[Span], list[Span]]:
        if wanted.keep_scores:
            found.scores.extend(rows)
        over = finder.add(rows) if len(rows) else []
        found.spans += over
        return over, finder.sounding()

    moments = model.stream(
        blocks,
        rate_hz=form.rate_hz,
        classes=wanted.classes,
        by=how.by,
        steps=how.steps,
        name=NAME,
    )
    for _, scores in moments:
        yield decide(smooth.add(scores[None].numpy()))
    yield decide(smooth.finish())
    last = finder.finish(found.duration_s)
    found.spans += last
    yield last, []


class _Lines:
    """What is printed, each line when it is known."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._begun: set[tuple[str, float]] = set()

    def tell(self, over: Sequence[Span], sounding: Sequence[Span]) -> None:
        for span in over:
            self._begun.discard((span.label, span.onset_s))
            self._print(span.to_json(), f"{clock(span.offset_s):>9}", span)
        for span in sounding:
            if (span.label, span.onset_s) not in self._begun:
                self._begun.add((span.label, span.onset_s))
                if not self._as_json:
                    self._print({}, f"{'...':>9}", span)

    def _print(self, document: dict[str, Any], until: str, span: Span) -> None:
        line = f"{clock(span.onset_s):>9}  {until}  {span.score or 0:5.2f}  {span.label}"
        print(json.dumps(document, ensure_ascii=False) if self._as_json else line, flush=True)
