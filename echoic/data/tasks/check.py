"""Is the data of a published task whole in a folder? What is there, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from echoic.data.tasks.captioned import CaptionedSpec, CaptionEntry, captions_listed
from echoic.data.tasks.layouts import require_folder
from echoic.data.tasks.opening import label_names, listing
from echoic.data.tasks.task import TaskSpec
from echoic.data.tasks.timed import TimedSpec, events_listed
from echoic.types import DataError

_SHOWN = 20
Spec: TypeAlias = TaskSpec | CaptionedSpec | TimedSpec


class Listed(Protocol):
    """A clip as lists have it."""

    @property
    def path(self) -> str: ...

    @property
    def found(self) -> bool: ...

    @property
    def part(self) -> str: ...


@dataclass(frozen=True)
class TaskCheck:
    """lists: the files and folders that must be there, each with whether it is. clips: found of
    each part; expected: as published, where that is known. missing: clips that are on the lists
    only, which for sets of YouTube's sound is no problem. classes, captions: of the clips that are
    there, as the kind of task goes. problems: what keeps figures from being comparable.
    """

    task: str
    folder: str
    lists: Mapping[str, bool]
    clips: Mapping[str, int] = field(default_factory=dict)
    expected: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    classes: int = 0
    captions: int = 0
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain values; of the missing clips the first twenty."""
        return {
            "ok": self.ok,
            "task": self.task,
            "folder": self.folder,
            "lists": dict(self.lists),
            "clips": dict(self.clips),
            "expected": dict(self.expected),
            "classes": self.classes,
            "captions": self.captions,
            "missing": len(self.missing),
            "missing_first": list(self.missing[:_SHOWN]),
            "problems": list(self.problems),
        }


def check_classes(spec: TaskSpec | TimedSpec, folder: Path) -> TaskCheck:
    """Of a task with labels or with time lines. Raises DataError where there is no such folder. No
    audio is opened."""
    lists, problems = _lists(spec, folder)
    blank = TaskCheck(spec.name, str(folder), lists, expected=spec.expected, problems=problems)
    if problems:
        return blank
    try:
        listed, classes = _classes(spec, folder)
    except DataError as error:
        return replace(blank, problems=(str(error),))
    problems = (*_clip_problems(spec, listed), *_class_problems(spec, classes))
    return replace(_counted(blank, listed), classes=classes, problems=problems)


def check_captioned(spec: CaptionedSpec, folder: Path) -> TaskCheck:
    """The same of a set with captions; lists that are there are counted though others lack."""
    lists, absent = _lists(spec, folder)
    blank = TaskCheck(spec.name, str(folder), lists, expected=spec.expected, problems=absent)
    try:
        listed = captions_listed(spec, folder)
    except DataError as error:
        return replace(blank, problems=(*absent, str(error)))
    if not listed:
        return blank
    told = {rows.part for rows in spec.rows if lists[rows.reader.file]}
    here = replace(spec, expected={part: n for part, n in spec.expected.items() if part in told})
    problems = (*absent, *_clip_problems(here, listed), *_caption_problems(spec, listed))
    captions = sum(len(entry.captions) for entry in listed if entry.found)
    return replace(_counted(blank, listed), captions=captions, problems=problems)


def _lists(spec: Spec, folder: Path) -> tuple[dict[str, bool], tuple[str, ...]]:
    """Which files are there, and a line for each that is not. Raises DataError."""
    require_folder(spec, folder)
    absent = spec.absent(folder)
    lists = {name: name not in absent for name in spec.needs}
    return lists, tuple(f"{name} is missing" for name in absent)


def _classes(spec: TaskSpec | TimedSpec, folder: Path) -> tuple[Sequence[Listed], int]:
    """The clips of the lists, and how many classes they have. Raises DataError."""
    if isinstance(spec, TimedSpec):
        timed = events_listed(spec, folder)
        return timed, len({event.label for entry in timed for event in entry.events})
    listed = listing(spec, folder)
    found = [entry for entry in listed if entry.found]
    return listed, len(label_names(spec, folder, found))


def _counted(blank: TaskCheck, listed: Sequence[Listed]) -> TaskCheck:
    clips = Counter(entry.part or "no part" for entry in listed if entry.found)
    return replace(
        blank,
        clips=dict(sorted(clips.items(), key=lambda item: (len(item[0]), item[0]))),
        missing=tuple(entry.path for entry in listed if not entry.found),
    )


def _clip_problems(spec: Spec, listed: Sequence[Listed]) -> list[str]:
    """Clips that are not there, and lists that do not name as many as published."""
    missing, total, problems = [e.path for e in listed if not e.found], len(listed), []
    if missing and (not spec.may_lack or len(missing) == total):
        problems.append(f"{len(missing)} of {total} clips are not there (first: {missing[0]})")
    if not total:
        problems.append(f"no clip is there ({', '.join(spec.audio)})")
    named = Counter(entry.part for entry in listed)
    for part, count in spec.expected.items():
        if named[part] != count:
            problems.append(f"{part}: {named[part]} clips, published are {count}")
    return problems


def _class_problems(spec: TaskSpec | TimedSpec, classes: int) -> list[str]:
    return [] if classes == spec.classes else [f"{classes} classes, published are {spec.classes}"]


def _caption_problems(spec: CaptionedSpec, listed: Sequence[CaptionEntry]) -> list[str]:
    """R@k of clips with another number of captions is not that of papers."""
    odd = [e.path for e in listed if e.part == "test" and len(e.captions) != spec.captions]
    what = f"clips of test have not {spec.captions} captions"
    return [f"{len(odd)} {what} (first: {odd[0]})"] if odd else []
