"""data tasks, data check: published tasks, and whether a folder holds one whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from echoic.cli.common import JsonOption, emit, plain_table, show, wrong

if TYPE_CHECKING:
    from echoic.data.tasks import Spec, TaskCheck


def tasks(as_json: JsonOption = False) -> None:
    """List the published tasks that echoic eval --task knows, and where their data is had."""
    from echoic.data.tasks import CAPTIONED, TASKS, TIMED

    kinds: dict[str, list[Spec]] = {
        "classification": [*TASKS.values()],
        "captions, for retrieval and captioning": [*CAPTIONED.values()],
        "time lines, for tagging over time": [*TIMED.values()],
    }
    if as_json:
        emit([_listed(spec, kind) for kind, specs in kinds.items() for spec in specs])
        return
    for kind, specs in kinds.items():
        print(f"{kind}:")
        for spec in specs:
            print(f"{spec.name:11} {spec.title}: {_in_short(spec)}")
            for line in (f"licence: {spec.licence}", spec.home, spec.notes):
                if line:
                    print(f"{'':11} {line}")


def _listed(spec: Spec, kind: str) -> dict[str, object]:
    """Plain values: what all kinds have, then what is this one's."""
    own = ("classes", "metric", "clip_s", "folds", "captions")
    return {
        "name": spec.name,
        "kind": kind.partition(",")[0],
        "title": spec.title,
        "home": spec.home,
        "licence": spec.licence,
        "needs": spec.needs,
        "audio": spec.audio,
        "expected": dict(spec.expected),
        **{name: getattr(spec, name) for name in own if hasattr(spec, name)},
        "notes": spec.notes,
        "published": [vars(each) for each in spec.paper],
    }


def _in_short(spec: Spec) -> str:
    from echoic.data.tasks import CaptionedSpec, TaskSpec

    if isinstance(spec, TaskSpec):
        return f"{spec.classes} classes, {spec.metric}, {spec.clip_s:g} s"
    clips = f"{spec.expected['test']} clips of test"
    if isinstance(spec, CaptionedSpec):
        return f"{clips}, {spec.captions} captions each"
    return f"{clips}, {spec.classes} classes"


def check_folder(name: str, folder: Path, as_json: bool) -> None:
    """Say which lists and clips of a task of any kind are in the folder, and what is missing.
    Raises EchoicError."""
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
        print(f"{found.captions} captions" if found.captions else f"{found.classes} classes")
    for path in found.missing[:5]:
        print(f"missing  {path}")
    if len(found.missing) > 5:
        print(f"missing  {len(found.missing) - 5} more")
