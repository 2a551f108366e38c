"""Published tasks by name, opened on the folder of a user who has the data: classification, sets
with captions, sets with time lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from echoic.config import close_to
from echoic.data.tasks.captioned import CAPTIONED, CaptionedSpec, CaptionedTask, open_captioned
from echoic.data.tasks.check import Spec, TaskCheck, check_captioned, check_classes
from echoic.data.tasks.declared import DECLARED
from echoic.data.tasks.opening import open_folder
from echoic.data.tasks.task import Task, TaskSpec
from echoic.data.tasks.timed import TIMED, TimedSpec, TimedTask, open_timed
from echoic.types import ConfigError

__all__ = [
    "CAPTIONED",
    "TASKS",
    "TIMED",
    "CaptionedSpec",
    "CaptionedTask",
    "Spec",
    "Task",
    "TaskCheck",
    "TaskSpec",
    "TimedSpec",
    "TimedTask",
    "check_task",
    "find_spec",
    "find_task",
    "open_spec",
    "open_task",
]

_Spec = TypeVar("_Spec", bound=Spec)

TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in DECLARED}


def find_spec(asked: str) -> Spec:
    """A task of any kind by its name ("audiocaps", "ESC-50"). Raises ConfigError that names the
    known ones."""
    known: dict[str, Spec] = {**TASKS, **CAPTIONED, **TIMED}
    return _find(asked, known)


def find_task(asked: str) -> TaskSpec:
    """A classification task by its name. Raises ConfigError that names the known ones."""
    return _find(asked, TASKS)


def open_spec(name: str, folder: str | Path) -> Task | CaptionedTask | TimedTask:
    """A task of any kind on the data in `folder`, as `open_task`."""
    match find_spec(name):
        case TaskSpec() as spec:
            return open_folder(spec, Path(folder))
        case CaptionedSpec() as spec:
            return open_captioned(spec, Path(folder))
        case TimedSpec() as spec:
            return open_timed(spec, Path(folder))


def open_task(name: str, folder: str | Path) -> Task:
    """The classification task on the data in `folder`, laid out as its distribution is. No audio is
    opened.

    Raises ConfigError on an unknown name, DataError naming the file that is missing or at fault.
    """
    return open_folder(find_task(name), Path(folder))


def check_task(name: str, folder: str | Path) -> TaskCheck:
    """Of a task of any kind what is there and what is missing. Raises ConfigError on an unknown
    name, DataError where there is no such folder."""
    spec = find_spec(name)
    if isinstance(spec, CaptionedSpec):
        return check_captioned(spec, Path(folder))
    return check_classes(spec, Path(folder))


def _find(asked: str, known: Mapping[str, _Spec]) -> _Spec:
    name = asked.strip().casefold().replace("-", "").replace("_", "")
    if name not in known:
        other = " for classification" if name in {*CAPTIONED, *TIMED} else ""
        raise ConfigError(f"no task {asked!r}{other}; {close_to(name, known)}")
    return known[name]
