"""Published sets of sound with captions, for retrieval and captioning: AudioCaps and Clotho.

A set is declared by its own lists and which of their columns say where a clip lies and what people
wrote of it, as `task.TaskSpec` is; a new one is one more entry. All captions are kept, also where
two of a clip are the same. What judges is the part "test".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from echoic.data.clips import Clip
from echoic.data.sources import FileSource
from echoic.data.tasks.layouts import (
    AudioFiles,
    Csv,
    Reader,
    allow_missing,
    located,
    require_lists,
    templates_of,
)
from echoic.data.tasks.paper import Published, published
from echoic.data.tasks.task import Indices
from echoic.types import DataError


@dataclass(frozen=True)
class CaptionRows:
    """The captions of one part that one reader tells of; rows of one clip are its captions in
    order.

    path, captions: templates over its cells; of several paths the first that is there counts, and
    a row may hold several captions.
    """

    reader: Reader
    path: str | tuple[str, ...]
    captions: tuple[str, ...]
    part: str


@dataclass(frozen=True)
class CaptionedSpec:
    """A set with captions as declared.

    home: where it is had. rows: its lists. captions: how many each clip that judges has. expected:
    the clips of each part, as published. may_lack: audio that can no longer be had is left out.
    notes: what a user should know.
    """

    name: str
    title: str
    home: str
    licence: str
    rows: tuple[CaptionRows, ...]
    captions: int = 5
    expected: Mapping[str, int] = field(default_factory=dict)
    may_lack: bool = False
    notes: str = ""
    paper: tuple[Published, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """The lists of a whole set; for what judges, that of the test part will do."""
        return tuple(dict.fromkeys(rows.reader.file for rows in self.rows))

    @property
    def audio(self) -> tuple[str, ...]:
        """Where the clips lie, as templates over the columns."""
        return templates_of(self.rows)

    def absent(self, folder: Path, part: str | None = None) -> list[str]:
        """What of `needs` is not there, of all parts or of one."""
        needed = [rows.reader.file for rows in self.rows if part in (None, rows.part)]
        return [name for name in dict.fromkeys(needed) if not (folder / name).exists()]


@dataclass(frozen=True)
class CaptionEntry:
    """A clip as its lists have it; path: relative to the folder."""

    path: str
    found: bool
    captions: tuple[str, ...]
    part: str


@dataclass(frozen=True)
class CaptionedTask:
    """A set on the data in a folder. source: all its clips, with their captions. parts: (N,) train,
    valid or test. missing: files of these parts that the lists name and the folder lacks."""

    spec: CaptionedSpec
    source: FileSource
    parts: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def judging(self) -> Indices:
        """The clips of the test part."""
        return self._in("test")

    def learning(self) -> Indices:
        """The clips of the parts train and valid; none where they are not there."""
        return np.union1d(self._in("train"), self._in("valid"))

    def _in(self, part: str) -> Indices:
        return np.flatnonzero(np.array(self.parts) == part)


def open_captioned(spec: CaptionedSpec, folder: Path) -> CaptionedTask:
    """Parts that are wholly absent, list or sound, are left out unless they judge. Raises DataError
    naming what is missing or at fault, in one line. No audio is opened."""
    require_lists(spec, folder, spec.absent(folder, "test"))
    listed = captions_listed(spec, folder)
    there = {entry.part for entry in listed if entry.found} | {"test"}
    wanted = [entry for entry in listed if entry.part in there]
    _check(spec, folder, wanted)
    found = [entry for entry in wanted if entry.found]
    missing = tuple(entry.path for entry in wanted if not entry.found)
    clips = [Clip(entry.path, entry.captions, (), None) for entry in found]
    source = FileSource(clips, [folder / entry.path for entry in found])
    return CaptionedTask(spec, source, tuple(entry.part for entry in found), missing)


def captions_listed(spec: CaptionedSpec, folder: Path) -> list[CaptionEntry]:
    """All clips of the lists that are there, each once with all its captions. Raises DataError, so
    on a clip of two parts."""
    files = AudioFiles(folder)
    heads: dict[str, tuple[bool, str]] = {}
    said: dict[str, list[str]] = {}
    for rows in spec.rows:
        if not (folder / rows.reader.file).exists():
            continue
        for path, found, texts in located(rows.reader, rows.path, folder, files, *rows.captions):
            _, part = heads.setdefault(path, (found, rows.part))
            if part != rows.part:
                raise DataError(f"{folder / rows.reader.file}: {path} is in {part} too")
            said.setdefault(path, []).extend(filter(None, map(str.strip, texts)))
    return [
        CaptionEntry(path, found, tuple(said[path]), part) for path, (found, part) in heads.items()
    ]


def _check(spec: CaptionedSpec, folder: Path, entries: Sequence[CaptionEntry]) -> None:
    """Raises DataError on what cannot be measured; tells what is left out."""
    missing = [entry.path for entry in entries if not entry.found]
    judging = [entry for entry in entries if entry.part == "test"]
    if not any(entry.found for entry in judging):
        first = f" (first: {judging[0].path})" if judging else ""
        raise DataError(f"{folder}: no clip of {spec.title} is in test{first}")
    if bare := [entry.path for entry in entries if entry.found and not entry.captions]:
        raise DataError(f"{folder}: {len(bare)} clips have no caption (first: {bare[0]})")
    allow_missing(spec, folder, missing, len(entries))


# -- the sets ------------------------------------------------------------------------------------


def _audiocaps(list_name: str, part: str) -> CaptionRows:
    stems = ("{youtube_id}", "Y{youtube_id}", "{youtube_id}_{start_time}")
    names = (*stems, "{youtube_id}_{start_time:0>6}")
    places = (list_name, f"audio/{list_name}", "audio")
    return CaptionRows(
        Csv(f"{list_name}.csv"),
        tuple(f"{place}/{name}.wav" for place in places for name in names),
        ("{caption}",),
        part,
    )


AUDIOCAPS = CaptionedSpec(
    name="audiocaps",
    title="AudioCaps v1",
    home="https://github.com/cdjkim/audiocaps (train.csv, val.csv and test.csv of its folder "
    "dataset; the sound is YouTube's)",
    licence="academic purposes only (captions)",
    rows=(
        _audiocaps("train", "train"),
        _audiocaps("val", "valid"),
        _audiocaps("test", "test"),
    ),
    expected={"train": 49_838, "valid": 495, "test": 975},
    may_lack=True,
    notes="Sound in train, val and test, or in audio, as YTID.wav, YYTID.wav or YTID_START.wav. Of "
    "the 975 test clips LAION-CLAP had all, M2D-CLAP 957: fewer clips, higher R@k.",
)


def _clotho(name: str, part: str) -> CaptionRows:
    return CaptionRows(
        Csv(f"clotho_captions_{name}.csv"),
        f"{name}/{{file_name}}",
        tuple(f"{{caption_{i}}}" for i in range(1, 6)),
        part,
    )


CLOTHO = CaptionedSpec(
    name="clotho",
    title="Clotho v2.1",
    home="https://zenodo.org/record/4783391 (the three lists of captions, and the three archives "
    "of sound unpacked beside them in development, validation and evaluation)",
    licence="each clip has its own of Freesound's; captions: non-commercial, with attribution",
    rows=(
        _clotho("development", "train"),
        _clotho("validation", "valid"),
        _clotho("evaluation", "test"),
    ),
    expected={"train": 3_839, "valid": 1_045, "test": 1_045},
    notes="The evaluation part judges. LAION-CLAP's shards call it Clotho-valid, and the "
    "validation part, by which it chose its checkpoints, Clotho-test.",
)

CAPTIONED: dict[str, CaptionedSpec] = {
    spec.name: replace(spec, paper=published(spec.name)) for spec in (AUDIOCAPS, CLOTHO)
}
