"""Captions as the web has them, made fit to train on: mark-up, addresses and doubles out, and what
says nothing: too few words, or one that stands beside a great many sounds."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace

from echoic.data.clips import Clip, RetoldSource, Source, SubsetSource
from echoic.types import DataError

_MARKUP = re.compile(r"<[a-zA-Z/!][^<>]*>")
_ADDRESS = re.compile(r"\b(?:https?://|www\.)\S+|\b[\w.+-]+@[\w-]+\.[\w.-]+\b", re.IGNORECASE)
_EDGES = " \t-–—_*#|~=+/\\"


@dataclass(frozen=True)
class CleaningSummary:
    """What became of the captions of a source.

    changed: of those kept. few, many: words; double: said of the same clip before, but for case and
    punctuation; common: beside more clips than allowed. lost: clips without any caption left.
    """

    captions: int
    kept: int
    changed: int
    few: int
    many: int
    double: int
    common: int
    lost: int

    def __str__(self) -> str:
        names = {"few": "too few words", "many": "too many", "double": "doubles"}
        names["common"] = "of too many clips"
        gone = [f"{getattr(self, name)} {what}" for name, what in names.items()]
        return (
            f"{self.kept} of {self.captions} captions kept, {self.changed} of them changed; left "
            f"out: {', '.join(gone)}; {self.lost} clips have none left"
        )


def clean_caption(text: str) -> str:
    """Without mark-up, addresses, invisible characters and ornament; one space between words. The
    words stay as they are. "" where nothing is left."""
    text = html.unescape(text)
    text = _ADDRESS.sub(" ", _MARKUP.sub(" ", text))
    text = unicodedata.normalize("NFC", text)
    # Cc, Cf: control characters and the invisible ones; joiners inside words go without a trace
    shown = (" " if c.isspace() else c for c in text)
    text = "".join(c for c in shown if unicodedata.category(c) not in ("Cc", "Cf"))
    return " ".join(text.split()).strip(_EDGES)


def same_words(text: str) -> str:
    """What captions that differ by case and punctuation alone have in common."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def cleaned(
    source: Source,
    *,
    least_words: int = 2,
    most_words: int = 100,
    most_clips: int | None = None,
) -> tuple[Source, CleaningSummary]:
    """The source with clean captions, without the clips that have none left.

    most_clips: a caption that says the same of more clips than that is boilerplate ("sound effect")
    and goes; None: none is. Raises DataError where nothing is left.
    """
    clean = [tuple(map(clean_caption, clip.captions)) for clip in source.clips]
    beside = Counter(words for texts in clean for words in set(map(same_words, texts)))
    counts: Counter[str] = Counter()
    clips: list[Clip] = []
    for clip, texts in zip(source.clips, clean, strict=True):
        kept: dict[str, str] = {}
        for before, text in zip(clip.captions, texts, strict=True):
            words = same_words(text)
            length = len(words.split())
            if length < least_words:
                fate = "few"
            elif length > most_words:
                fate = "many"
            elif words in kept:
                fate = "double"
            elif most_clips is not None and beside[words] > most_clips:
                fate = "common"
            else:
                kept[words] = text
                fate = "changed" if text != before else "as it was"
            counts[fate] += 1
        clips.append(replace(clip, captions=tuple(kept.values())))
    left = [i for i, clip in enumerate(clips) if clip.captions]
    summary = CleaningSummary(
        captions=counts.total(),
        kept=counts["changed"] + counts["as it was"],
        lost=len(clips) - len(left),
        **{name: counts[name] for name in ("changed", "few", "many", "double", "common")},
    )
    if not left:
        raise DataError(f"no caption is left: {summary}")
    told = RetoldSource(source, clips)
    return (told if len(left) == len(clips) else SubsetSource(told, left)), summary
