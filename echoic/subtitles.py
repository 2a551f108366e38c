"""Captions and tags as subtitles: SubRip (.srt) and WebVTT (.vtt, W3C, "WebVTT: The Web Video Text
Tracks Format").

Cues follow each other: none overlaps the next, none is empty, times are whole milliseconds. Players
show one cue at a time where they do not know better, so that what sounds at once stands in one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from echoic.captioning import CaptionedSpan
from echoic.eval.events import Span


@dataclass(frozen=True)
class Cue:
    """Shown from `start_ms` up to `end_ms`; text: one line."""

    start_ms: int
    end_ms: int
    text: str


def caption_cues(spans: Iterable[CaptionedSpan]) -> list[Cue]:
    """Of the stretches of a recording, in order. Where two overlap, the later one begins when the
    one before it ends; what is said again of the next stretch is one cue."""
    cues: list[Cue] = []
    for span in spans:
        start_ms = max(_ms(span.start_s), cues[-1].end_ms if cues else 0)
        cues.append(Cue(start_ms, max(start_ms, _ms(span.end_s)), _line(span.text)))
    return _joined(cues)


def span_cues(spans: Iterable[Span]) -> list[Cue]:
    """Of tags over time: a new cue wherever one begins or ends, with all labels that sound then, in
    the order in which they began."""
    timed = [(_ms(span.onset_s), _ms(span.offset_s), _line(span.label)) for span in spans]
    begins = sorted(each for each in timed if each[0] < each[1])
    cues: list[Cue] = []
    edges = sorted({edge for start, end, _ in begins for edge in (start, end)})
    waiting = iter(begins)
    sounding: list[tuple[int, int, str]] = []
    coming = next(waiting, None)
    for start_ms, end_ms in itertools.pairwise(edges):
        while coming is not None and coming[0] <= start_ms:
            sounding.append(coming)
            coming = next(waiting, None)
        sounding = [each for each in sounding if each[1] > start_ms]
        labels = dict.fromkeys(label for _, _, label in sounding)
        cues.append(Cue(start_ms, end_ms, ", ".join(labels)))
    return _joined(cues)


def to_srt(cues: Sequence[Cue]) -> str:
    """SubRip: numbered from 1, a comma before the milliseconds. It has no way to escape, so `<` and
    `{` stand as they are."""
    parts = [
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{cue.text}\n"
        for number, cue in enumerate(cues, start=1)
    ]
    return "\n".join(parts)


def to_vtt(cues: Sequence[Cue]) -> str:
    """WebVTT: a full stop before the milliseconds; what would be markup is escaped."""
    parts = [
        f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{_escaped(cue.text)}\n"
        for cue in cues
    ]
    return "\n".join(["WEBVTT\n", *parts])


FORMATS: dict[str, Callable[[Sequence[Cue]], str]] = {"srt": to_srt, "vtt": to_vtt}


def _joined(cues: Iterable[Cue]) -> list[Cue]:
    """Without those that show nothing; of those that touch and say the same, one."""
    kept: list[Cue] = []
    for cue in cues:
        if not cue.text or cue.start_ms >= cue.end_ms:
            continue
        if kept and kept[-1].end_ms == cue.start_ms and kept[-1].text == cue.text:
            cue = Cue(kept.pop().start_ms, cue.end_ms, cue.text)
        kept.append(cue)
    return kept


def _ms(time_s: float) -> int:
    return max(0, round(1000 * time_s))


def _line(text: str) -> str:
    """An empty line would end a cue, and so would a line of a time."""
    return " ".join(text.replace("\0", "").split())


def _clock(time_ms: int, point: str) -> str:
    """Hours of two digits or more, as both formats ask for or allow."""
    seconds, ms = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{ms:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
