"""Suites: declared lists of tasks and measures, run on any model one after the other.

    entries = run_suite(model, find_items("quick,esc50/zero_shot"), How(), data=Path("data"))

A suite needs the data of its tasks in DATA/TASK; where a folder is not there, or a measure fails,
that is said in its place and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from echoic.api import EchoicModel
from echoic.config import close_to
from echoic.data.tasks import CAPTIONED, TASKS, find_spec
from echoic.data.tasks.timed import TIMED
from echoic.eval.protocols import PROTOCOLS
from echoic.eval.suite_entry import Entry, Status
from echoic.evaluate import SynthSize
from echoic.measures import CORPUS, How, measured, measures_of, planned, unable
from echoic.types import ConfigError, EchoicError

_NINE = "esc50 us8k spcv2 vc1 voxforge cremad gtzan nsynth surge"  # of M2D's mean
_WITH_CAPTIONS = "audiocaps clotho"


def _each(names: str, what: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, what) for name in names.split())


_CORPUS = tuple((CORPUS, what) for what in measures_of(CORPUS))

# (task, measure) in the order in which they are run.
SUITES: dict[str, tuple[tuple[str, str], ...]] = {
    "quick": _CORPUS,
    "synth": _CORPUS,
    "zero_shot": _each(
        "esc50 us8k gtzan cremad ravdess nsynth spcv2 vggsound fsd50k as", "zero_shot"
    ),
    "linear": _each(_NINE, "linear"),
    "retrieval": _each(_WITH_CAPTIONS, "retrieval"),
    "captioning": _each(_WITH_CAPTIONS, "captioning"),
    "finetune": _each("esc50 spcv2 as20k vc1 vggsound fsd50k as", "finetune"),
    "events": ((CORPUS, "events"), *((name, "events") for name in TIMED)),
    # what each paper reports of its own models, as far as it is known
    "laion": (
        *_each(_WITH_CAPTIONS, "retrieval"),
        *_each("esc50 us8k vggsound", "zero_shot"),
        *_each("vggsound fsd50k", "finetune"),
    ),
    "m2d": (
        *_each(_WITH_CAPTIONS, "retrieval"),
        *_each("esc50 us8k cremad gtzan nsynth fsd50k as", "zero_shot"),
        *_each(_WITH_CAPTIONS, "captioning"),
        *_each(_NINE, "linear"),
        *_each("esc50 spcv2 vc1 as20k as", "finetune"),
    ),
    "slap": (
        *_each(_WITH_CAPTIONS, "retrieval"),
        *_each("esc50 us8k cremad ravdess gtzan", "zero_shot"),
        *_each(_WITH_CAPTIONS, "captioning"),
        *_each("esc50 spcv2 as", "finetune"),
    ),
}
# Of the embedded corpus. Quick: ten seconds of one core with the demo's model.
FULL = SynthSize()
QUICK = SynthSize(scenes=60, singles=60, pairs=60)


@dataclass(frozen=True)
class Item:
    """A measure of a task. protocol: of the paper whose suite it is from; None: of whatever is
    asked. size: of what is drawn of the embedded corpus."""

    task: str
    what: str
    protocol: str | None = None
    size: SynthSize = FULL


def find_items(asked: str) -> tuple[Item, ...]:
    """Of names with commas between: a suite, a task (all its measures) or task/measure. Each once.
    Raises ConfigError on an unknown one."""
    found = [item for name in asked.split(",") for item in _items(name.strip())]
    return tuple(dict.fromkeys(found))


def _items(name: str) -> list[Item]:
    if name in SUITES:
        protocol, size = name if name in PROTOCOLS else None, QUICK if name == "quick" else FULL
        return [Item(*each, protocol, size) for each in SUITES[name]]
    task, _, what = name.partition("/")
    known = (CORPUS, *TASKS, *CAPTIONED, *TIMED)
    if task not in known:
        names = dict.fromkeys([*SUITES, *known])
        raise ConfigError(f"no suite or task {name!r}; {close_to(name, names)}")
    measures = measures_of(task)
    if what and what not in measures:
        raise ConfigError(f"{task} has no measure {what!r}; it has {', '.join(measures)}")
    return [Item(task, each) for each in ([what] if what else measures)]


def run_suite(
    model: EchoicModel, items: Iterable[Item], how: How, *, data: Path | None = None
) -> Iterator[Entry]:
    """What became of each, as it is done. how: its protocol is that of items which bring none.
    data: the folder with a folder of each task's name."""
    for item in items:
        protocol = PROTOCOLS[item.protocol] if item.protocol else how.protocol
        chosen = replace(how, protocol=protocol, size=item.size)
        folder = data / item.task if data and item.task != CORPUS else None
        entry = planned(model, item.task, item.what, chosen)
        if obstacle := _obstacle(model, item, folder):
            status, reason = obstacle
            yield replace(entry, status=status, reason=reason)
        else:
            yield _tried(model, entry, folder, chosen)


def _obstacle(model: EchoicModel, item: Item, folder: Path | None) -> tuple[Status, str] | None:
    """What is known to be in the way before anything is heard."""
    if reason := unable(model, item.what):
        return "left out", reason
    if item.task == CORPUS or (folder is not None and folder.is_dir()):
        return None
    where = f"no folder {folder}" if folder else f"give --data DIR with a folder {item.task} in it"
    source = find_spec(item.task).home.split()[0].rstrip(";")  # no more than the address
    return "no data", f"{where}; from {source}"


def _tried(model: EchoicModel, entry: Entry, folder: Path | None, how: How) -> Entry:
    try:
        return measured(model, entry, folder, how)
    except EchoicError as error:
        return replace(entry, status="failed", reason=str(error))
