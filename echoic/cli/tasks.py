"""data tasks, data check: published tasks, and whether a folder holds one whole; eval --task."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from echoic.cli.common import JsonOption, emit, plain_table, say, show, wrong

if TYPE_CHECKING:
    from echoic.api import EchoicModel
    from echoic.data.tasks import TaskCheck
    from echoic.embeddings import VectorCache
    from echoic.eval.task_result import TaskResult


class Protocol(StrEnum):
    linear = "linear"
    zero_shot = "zero_shot"


def tasks(as_json: JsonOption = False) -> None:
    """List the published tasks that echoic eval --task knows, and where their data is had."""
    from echoic.data.tasks import TASKS

    if as_json:
        emit(
            [
                {
                    "name": spec.name,
                    "title": spec.title,
                    "home": spec.home,
                    "licence": spec.licence,
                    "classes": spec.classes,
                    "metric": spec.metric,
                    "clip_s": spec.clip_s,
                    "folds": spec.folds,
                    "needs": spec.needs,
                    "audio": spec.audio,
                    "notes": spec.notes,
                    "published": [vars(each) for each in spec.paper],
                }
                for spec in TASKS.values()
            ]
        )
        return
    for spec in TASKS.values():
        print(
            f"{spec.name:9} {spec.title}: {spec.classes} classes, {spec.metric}, {spec.clip_s:g} s"
        )
        for line in (f"licence: {spec.licence}", spec.home, spec.notes):
            if line:
                print(f"{'':9} {line}")


def check_folder(name: str, folder: Path, as_json: bool) -> None:
    """Say which lists and clips of a task are in the folder, and what is missing. Raises
    EchoicError."""
    from echoic.data.tasks import check_task

    found = check_task(name, folder)
    emit(found.to_json()) if as_json else _tell(found)
    if not found.ok:
        raise wrong(f"{folder}: not {name} as published: {'; '.join(found.problems)}")


def _tell(found: TaskCheck) -> None:
    for name, there in found.lists.items():
        print(f"{'there  ' if there else 'MISSING'}  {name}")
    table = plain_table("part", "clips", "published", right=["clips", "published"])
    for part in dict.fromkeys([*found.clips, *found.expected]):
        published = found.expected.get(part)
        table.add_row(part, str(found.clips.get(part, 0)), str(published or "-"))
    if found.clips:
        show(table)
        print(f"{found.classes} classes")
    for path in found.missing[:5]:
        print(f"missing  {path}")
    if len(found.missing) > 5:
        print(f"missing  {len(found.missing) - 5} more")


def measure(
    model: EchoicModel,
    name: str,
    folder: Path,
    *,
    protocol: Protocol,
    seeds: list[int] | None,
    folds: str | None,
    prompts: str,
    cache: VectorCache | None = None,
) -> TaskResult:
    """What `echoic eval --task` does. Raises EchoicError."""
    from echoic.data.tasks import open_task
    from echoic.tasks import linear, zero_shot

    task = open_task(name, folder)
    chosen = [fold.strip() for fold in folds.split(",")] if folds else None
    for fold in chosen or ():
        task.judging(fold)  # one that is not there is told before anything is heard
    if protocol is Protocol.zero_shot:
        return zero_shot(model, task, prompts=prompts, folds=chosen, cache=cache)
    say(f"{task.spec.title}: {len(task.source.clips)} clips to hear")
    return linear(model, task, seeds=seeds, folds=chosen, cache=cache)


def seed_numbers(told: str | None) -> list[int] | None:
    """Of --seeds. Raises EchoicError."""
    if told is None:
        return None
    seeds = [seed.strip() for seed in told.split(",")]
    if not all(seed.isdecimal() and int(seed) < 2**63 for seed in seeds):
        raise wrong(f"eval: --seeds {told!r}: give whole numbers, as 42,43,44")
    return [int(seed) for seed in seeds]
