"""Published classification tasks by name: opened on the folder of a user who has the data."""

from __future__ import annotations

from pathlib import Path

from echoic.config import close_to
from echoic.data.tasks.check import TaskCheck, check_folder
from echoic.data.tasks.declared import DECLARED
from echoic.data.tasks.opening import open_folder
from echoic.data.tasks.task import Task, TaskSpec
from echoic.types import ConfigError

__all__ = ["TASKS", "Task", "TaskCheck", "TaskSpec", "check_task", "find_task", "open_task"]

TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in DECLARED}


def find_task(asked: str) -> TaskSpec:
    """By its name ("esc50", "ESC-50"). Raises ConfigError that names the known ones."""
    name = asked.strip().casefold().replace("-", "").replace("_", "")
    if name not in TASKS:
        raise ConfigError(f"no task {asked!r}; {close_to(name, TASKS)}")
    return TASKS[name]


def open_task(name: str, folder: str | Path) -> Task:
    """The task on the data in `folder`, laid out as its distribution is. No audio is opened.

    Raises ConfigError on an unknown name, DataError naming the file that is missing or at fault.
    """
    return open_folder(find_task(name), Path(folder))


def check_task(name: str, folder: str | Path) -> TaskCheck:
    """What is there and what is missing. Raises ConfigError on an unknown name, DataError where
    there is no such folder."""
    return check_folder(find_task(name), Path(folder))
