"""The real sets of ../shared/data: their labels in words, their captions, and what is held out
together.

Declared, not programmed: a set is a folder, what a row's label reads, how its captions are worded,
and which rows must stay on one side of the split (a recording, near-duplicates, a speaker).

T samples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np

from echoic.data.captions import captions_from_label, words
from echoic.data.clips import ConcatSource, Source, SubsetSource
from echoic.data.sources import FileSource, TableSource, open_source
from echoic.eval.baseline import baseline_features

RATE_HZ = 16_000
FOLDS = 4
NEAR_DUPLICATE = 0.97  # correlation of standardised log-mel statistics

Row = Mapping[str, str]
Groups = Callable[[Sequence[Row], Sequence[np.ndarray]], list[str]]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SOUND = ("{}", "the sound of {}", "a recording of {}", "{} can be heard", "this is a sound of {}")
MUSIC = ("{}", "the sound of {}", "{} is playing", "music played on {}", "an instrument: {}")
SPEECH = ("{}", "a person says {}", "someone speaks the word {}", "a voice: {}", "the word {}")


@dataclass(frozen=True)
class RealSet:
    """label: a row's class in words. groups: what each row must not be separated from. templates:
    its captions, and its prompts at test. segments: of the probe's and the baseline's time axis."""

    name: str
    folder: str
    label: Callable[[Row], str]
    groups: Groups
    templates: tuple[str, ...] = SOUND
    segments: int = 3

    def source(self, shared: Path) -> TableSource:
        table = open_source(shared / "data" / self.folder / "meta.csv", missing="skip")
        assert isinstance(table, TableSource)
        return table

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(template.replace("{}", "{label}") for template in self.templates)


def by_column(column: str) -> Groups:
    """Rows of equal, non-empty value stay together."""
    return lambda rows, waves: [row[column] or row["file"] for row in rows]


def by_sound(rows: Sequence[Row], waves: Sequence[np.ndarray]) -> list[str]:
    """Clips whose log-mel statistics nearly agree stay together (a set without an official
    split)."""
    stats = np.stack([baseline_features(wave, RATE_HZ) for wave in waves])
    z = (stats - stats.mean(0)) / stats.std(0)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    group = np.arange(len(rows))
    for one, other in np.argwhere(np.triu(z @ z.T, 1) > NEAR_DUPLICATE):
        group[group == group[other]] = group[one]
    return [rows[i]["file"] for i in group.tolist()]


SETS = (
    RealSet("esc", "esc", lambda r: words(r["category"]), by_column("inner_fold")),
    RealSet("instruments", "instruments", lambda r: words(r["label"]), by_sound, MUSIC),
    RealSet(
        "commands", "speech_commands", lambda r: r["label"].strip("_"), by_column("speaker"),
        SPEECH, segments=8,
    ),
    RealSet(
        "digits", "digits", lambda r: DIGITS[int(r["label"])], by_column("speaker"), SPEECH,
        segments=8,
    ),
)  # fmt: skip

# Trained on whole, never scored.
WORDS = RealSet(
    "words", "speech_commands_30words", lambda r: r["label"], by_column("speaker"), SPEECH
)
EFFECTS = RealSet("effects", "tags", lambda r: words(r["text"]), by_column("group"))


class Fold:
    """One set split in two: `train` and `test` are indices into `source`, `groups` what was kept
    together."""

    def __init__(self, real: RealSet, shared: Path, held_out: int) -> None:
        self.real, self.source = real, real.source(shared)
        self.rows = list(self.source.rows)
        self.groups = real.groups(self.rows, self.waves)
        fold = _fold_of_groups(self.groups)
        self.test = [i for i, f in enumerate(fold) if f == held_out]
        self.train = [i for i, f in enumerate(fold) if f != held_out]
        self.classes = tuple(sorted({real.label(row) for row in self.rows}))

    @cached_property
    def waves(self) -> list[np.ndarray]:
        return [self.source.read(i, RATE_HZ) for i in range(len(self.source.clips))]

    def part(
        self, indices: Sequence[int], rate_hz: int = RATE_HZ
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Waves (T,) at that rate, and class of each (n,)."""
        labels = [self.classes.index(self.real.label(self.rows[i])) for i in indices]
        waves = [
            self.waves[i] if rate_hz == RATE_HZ else self.source.read(i, rate_hz) for i in indices
        ]
        return waves, np.array(labels)


def training_source(shared: Path, folds: Mapping[str, Fold]) -> Source:
    """The training parts of all folds, and the sets that are never scored, less what is held out in
    them."""
    parts: dict[str, Source] = {
        name: SubsetSource(captioned(fold.real, fold.source), fold.train)
        for name, fold in folds.items()
    }
    held_speakers = _held_speakers(folds["commands"])
    spoken = WORDS.source(shared)
    parts["words"] = SubsetSource(
        captioned(WORDS, spoken),
        [i for i, row in enumerate(spoken.rows) if row["speaker"] not in held_speakers],
    )
    effects = EFFECTS.source(shared)
    recordings = {row["file"].split("-")[1] for row in folds["esc"].rows}  # Freesound ids
    parts["effects"] = SubsetSource(
        captioned(EFFECTS, effects),
        [i for i, row in enumerate(effects.rows) if _freesound_id(row["source"]) not in recordings],
    )
    return ConcatSource(parts)


def captioned(real: RealSet, table: TableSource) -> FileSource:
    """The same clips, each with the captions of its label, which is also its tag."""
    labels = [real.label(row) for row in table.rows]
    clips = [
        replace(clip, captions=captions_from_label(label, real.templates), tags=(label,))
        for clip, label in zip(table.clips, labels, strict=True)
    ]
    return FileSource(clips, table.paths)


def _fold_of_groups(groups: Sequence[str]) -> list[int]:
    """1 to 4: a group's own number where it is one, else groups dealt out by a hash, biggest set
    first."""
    names = sorted(set(groups), key=lambda name: crc32(name.encode()))
    numbered = all(name.isdigit() and 1 <= int(name) <= FOLDS for name in names)
    place = {name: int(name) if numbered else 1 + i % FOLDS for i, name in enumerate(names)}
    return [place[group] for group in groups]


def _held_speakers(fold: Fold) -> set[str]:
    return {fold.rows[i]["speaker"] for i in fold.test} - {""}


def _freesound_id(url: str) -> str:
    return url.rstrip("/").rsplit("/", 1)[-1] if "freesound" in (url or "") else ""
