"""Shards of any source, built by many processes: killed at any moment, the same call goes on and
ends with the same bytes.

Shard k holds clips k * per_shard to (k + 1) * per_shard - 1 of the source, those apart that cannot
be used; so each is made alone, by a process here or by a machine of a cluster.

folder
  shard-000000.tar, shard-000000.tar.index.json, ..., SHA256SUMS, sizes.json   see shard_writing
  building.json        what is built, of which clips; once done, what was found
  .records/            while it is built: what became of each shard
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from echoic.config import parse_json
from echoic.data.clips import Clip, Source, check_audio, part_of
from echoic.data.files import made_folder, write_whole
from echoic.data.shard_writing import (
    SIZES,
    Names,
    ShardRecord,
    ShardSummary,
    TarWriter,
    check_format,
    finish,
    holds_shards,
    refused_disk,
    tar_name,
)
from echoic.data.tar_index import open_index
from echoic.types import AudioError, DataError

log = logging.getLogger("echoic.data")

PLAN, RECORDS = "building.json", ".records"
_VERSION = 1


@dataclass(frozen=True)
class ShardTask:
    """One shard to be made. names: of its clips in the tar."""

    folder: Path
    number: int
    source: Source
    names: tuple[str, ...]
    rate_hz: int
    format: str

    @property
    def path(self) -> Path:
        return self.folder / tar_name(self.number)

    @property
    def record_path(self) -> Path:
        return self.folder / RECORDS / f"{self.path.name}.json"


@dataclass(frozen=True)
class Built:
    """What became of a shard. record: None where none of its clips can be used. kept: whether it
    was there."""

    number: int
    seen: int
    record: ShardRecord | None
    bad: dict[str, str]
    kept: bool = False


@dataclass(frozen=True)
class Progress:
    """How far a building is; kept: clips that an earlier run had seen."""

    shards: int
    of_shards: int
    clips: int
    of_clips: int
    kept: int
    audio_s: float


# Does the work on every task, in any order, few tasks at a time.
Runner = Callable[[Callable[[ShardTask], Built], Iterable[ShardTask]], Iterable[Built]]


def build_shards(
    source: Source,
    folder: str | os.PathLike[str],
    *,
    rate_hz: int,
    per_shard: int = 512,
    format: str = "flac",
    run: Runner = map,
    progress: Callable[[Progress], None] | None = None,
) -> ShardSummary:
    """Write the clips of a source as shards, going on where an earlier run stopped.

    run: who does the work: `map` this process, `runners.Processes(8)` so many, `runners.RayTasks()`
    a cluster whose machines all see `folder` and the source. One clip is in the memory of each at a
    time.
    progress: called after each shard.
    What an earlier run had finished is kept if its checksum holds. Unusable clips are counted,
    named in the log and left out. A folder that is complete is left as it is. Raises DataError: no
    usable clip, one without caption, a folder that holds something else, no free disk, a process
    that died.
    """
    check_format(format)
    names = Names()
    plan = {
        "version": _VERSION,
        "clips": len(source.clips),
        "rate_hz": rate_hz,
        "per_shard": per_shard,
        "format": format,
        "sha256": _fingerprint(source.clips),
    }
    place = Path(folder)
    done = _claim(place, plan)
    if done is not None:
        return done
    tasks = (
        ShardTask(
            place,
            number,
            part_of(source, first, min(first + per_shard, len(source.clips))),
            tuple(names.of(c.key) for c in source.clips[first : first + per_shard]),
            rate_hz,
            format,
        )
        for number, first in enumerate(range(0, len(source.clips), per_shard))
    )
    count = -(-len(source.clips) // per_shard)
    built = _gathered(run(build_one, tasks), count, len(source.clips), progress)
    return _finish(place, plan, built)


def _fingerprint(clips: Sequence[Clip]) -> str:
    digest = hashlib.sha256()
    for clip in clips:
        if not clip.captions:
            raise DataError(f"clip {clip.key} has no caption")
        digest.update(json.dumps([clip.key, clip.captions, clip.tags]).encode())
    return digest.hexdigest()


def _claim(folder: Path, plan: dict[str, Any]) -> ShardSummary | None:
    """Make the folder that of this building, or see that it is; what was found, if it is complete.
    Raises DataError."""
    _, empty = made_folder(folder)
    if empty:
        write_whole(folder / PLAN, json.dumps({"plan": plan}, indent=1))
        (folder / RECORDS).mkdir()
        return None
    tree = _read_json(folder / PLAN)
    before = tree.get("plan")
    if not isinstance(before, dict):
        if any(folder.glob("*.tar")):
            raise holds_shards(folder)
        raise DataError(f"{folder}: holds something else; name another folder")
    changed = [
        f"{name} {before.get(name)}, now {plan[name]}"
        for name in plan
        if name != "sha256" and before.get(name) != plan[name]
    ]
    if before != plan:
        what = f"others ({'; '.join(changed)})" if changed else "other clips or captions"
        raise DataError(
            f"{folder}: already holds shards of {what}; remove it or name another folder"
        )
    tars = _read_json(folder / SIZES)
    if tars and "found" in tree and all((folder / name).exists() for name in tars):
        _tidy(folder)
        return ShardSummary(folder=folder, **tree["found"])
    (folder / RECORDS).mkdir(exist_ok=True)
    return None


def _read_json(path: Path) -> dict[str, Any]:
    """{} where it is not there, or not whole."""
    try:
        tree = parse_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return tree if isinstance(tree, dict) else {}


def _gathered(
    results: Iterable[Built],
    shards: int,
    clips: int,
    progress: Callable[[Progress], None] | None,
) -> list[Built]:
    """All of them in the order of their numbers; bad clips are told as they come."""
    built: list[Built] = []
    seen = kept = 0
    audio_s = 0.0
    for each in results:
        built.append(each)
        for key, reason in each.bad.items():
            log.warning("clip %s left out: %s", key, reason)
        seen += each.seen
        kept += each.seen if each.kept else 0
        audio_s += each.record.audio_s if each.record else 0.0
        if progress is not None:
            progress(Progress(len(built), shards, seen, clips, kept, audio_s))
    return sorted(built, key=lambda each: each.number)


def _finish(folder: Path, plan: dict[str, Any], built: Sequence[Built]) -> ShardSummary:
    bad = {key: reason for each in built for key, reason in each.bad.items()}
    records = [each.record for each in built if each.record is not None]

    def note(summary: ShardSummary) -> None:
        found = {name: value for name, value in vars(summary).items() if name != "folder"}
        write_whole(folder / PLAN, json.dumps({"plan": plan, "found": found}, indent=1))

    summary = finish(folder, records, bad, before_the_end=note)
    _tidy(folder)
    return summary


def _tidy(folder: Path) -> None:
    """A kill at the very end leaves what only the building needed."""
    for left in folder.glob(".*.part"):
        with suppress(OSError):
            left.unlink()
    shutil.rmtree(folder / RECORDS, ignore_errors=True)


# One shard


def build_one(task: ShardTask) -> Built:
    """Make a shard, unless it is there and whole. Raises DataError where the disk refuses."""
    with refused_disk(task.folder, f"{task.path.name} is not written; the same call goes on"):
        kept = _kept(task)
        if kept is not None:
            return kept
        for left in task.folder.glob(f".{task.path.name}.*.part"):
            left.unlink(missing_ok=True)  # of a run that was killed
        bad: dict[str, str] = {}
        tar = TarWriter(task.path, task.rate_hz, task.format)
        try:
            _fill(tar, task, bad)
            record = tar.close() if tar.clips else None
        finally:
            tar.abandon()  # what is closed has its name and stays
        if record is not None:
            open_index(task.path)
        built = Built(task.number, len(task.names), record, bad)
        write_whole(task.record_path, json.dumps(asdict(built)))
    return built


def _kept(task: ShardTask) -> Built | None:
    tree = _read_json(task.record_path)
    if not tree:
        return None
    record = ShardRecord(**tree["record"]) if tree["record"] else None
    if record is not None and not _holds(task.path, record):
        return None
    return Built(task.number, tree["seen"], record, tree["bad"], kept=True)


def _holds(path: Path, record: ShardRecord) -> bool:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != record.bytes:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == record.sha256
    except FileNotFoundError:
        return False


def _fill(tar: TarWriter, task: ShardTask, bad: dict[str, str]) -> None:
    for i, (name, clip) in enumerate(zip(task.names, task.source.clips, strict=True)):
        try:
            audio = task.source.read(i, task.rate_hz)
            check_audio(clip.key, audio)
        except AudioError as error:
            bad[clip.key] = error.reason
        else:
            tar.add(name, clip, audio)
