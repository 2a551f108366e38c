"""Recordings that stand in two data sets, and how to leave them out of one.

ESC-50, UrbanSound8K, Clotho, FSD50K and LAION-Audio-630K are drawn from Freesound, AudioCaps and
VGGSound from the same YouTube clips as AudioSet: a model trained on one has heard parts of another.
`leave_out` drops from a source what a list of ids names, such as WavCaps' black lists, the
metadata of the set that is to be tested on, or what `leaks` found: exact keys of clips.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from echoic.config import parse_json
from echoic.data.clips import (
    AUDIO_SUFFIXES,
    Clip,
    ConcatSource,
    RetoldSource,
    Source,
    SubsetSource,
)
from echoic.data.tables import FILE_NAMES, TABLE_SUFFIXES, bytes_of, decode, read_table
from echoic.types import DataError

# key: the whole key of a clip, letter by letter; the others are read out of names
IdKind = Literal["freesound", "youtube", "file", "key"]
KEYS = "keys"  # what a .json calls its list of them

# What is read out of a name: the last part of a path, without the suffix of an audio file.
NAME_RULES: Mapping[IdKind, tuple[str, ...]] = {
    "freesound": (
        r"\d-(\d+)-[A-Z]-\d+",  # ESC-50: fold-ID-take-class
        r"(\d+)-\d+-\d+-\d+",  # UrbanSound8K: ID-class-occurrence-slice
        r"(\d+)(?:__.*)?",  # FSD50K, WavCaps: ID; downloads of Freesound: ID__user__title
        r"freesound[-_]?(\d+)",
    ),
    "youtube": (
        r"Y?([\w-]{11})(?:[_.-]\d+(?:\.\d+)?){0,2}",  # AudioSet: an optional Y, ID, _start_end
    ),
    "file": (r"(.+)",),
}
# What is read out of any text: addresses.
URL_RULES: Mapping[IdKind, str] = {
    "freesound": r"freesound\.org/(?:people/[^/]+/sounds|s|sounds)/(\d+)",
    "youtube": r"(?:youtu\.be/|youtube\.com/\S*[?&]v=)([\w-]{11})",
}
# Columns of tables, and fields of the `original_data` of shards, that hold nothing but such ids.
ID_COLUMNS: Mapping[IdKind, tuple[str, ...]] = {
    "freesound": ("freesound_id", "freesoundid", "fsid", "fs_id"),
    "youtube": ("youtube_id", "youtubeid", "ytid", "yt_id", "video_id"),
    "file": (*FILE_NAMES, "fname", "key"),
}
_URL_COLUMNS = ("url", "source", "href", "download_url")
# The lists of a .json by name: `keys`, and as in WavCaps' black lists.
_JSON_KINDS: Mapping[str, IdKind] = {
    KEYS: "key",
    "freesound": "freesound",
    "audioset": "youtube",
    "audiocaps": "youtube",
    "vggsound": "youtube",
    "youtube": "youtube",
}

Ids = Mapping[IdKind, frozenset[str]]


@dataclass(frozen=True)
class IdList:
    """What to leave out, by kind of id. size: the entries of the list."""

    name: str
    ids: Ids
    size: int


@dataclass(frozen=True)
class LeftOut:
    """What `leave_out` did: the keys left out, and per list its entries and the clips it named.
    unknown: per list its exact keys that no clip has, which tells that it was made for other data.
    """

    clips: int
    keys: tuple[str, ...]
    by_list: Mapping[str, tuple[int, int]]
    unknown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        lists = (self._told(name, n, hit) for name, (n, hit) in self.by_list.items())
        return f"{len(self.keys)} of {self.clips} clips left out: {'; '.join(lists)}"

    def _told(self, name: str, entries: int, hit: int) -> str:
        words = f"{name} ({entries} entries) names {hit}"
        if not (unknown := self.unknown.get(name, ())):
            return words
        more = ", ..." if len(unknown) > 1 else ""
        return f"{words}, and no clip has {len(unknown)} of its keys ({unknown[0]!r}{more})"


def leave_out(source: Source, lists: Sequence[IdList]) -> tuple[Source, LeftOut]:
    """The source without the clips that a list names, by Freesound id, YouTube id, file name or
    exact key.

    A clip's ids are read from its key by NAME_RULES, and from what its table or shard says of it:
    ID_COLUMNS, and addresses. Where these say anything, digits in the key are not taken for an id.
    Raises DataError where nothing remains.
    """
    rows = rows_of(source)
    hits: dict[str, set[int]] = {wanted.name: set() for wanted in lists}
    keys: set[str] = set()
    for i, (clip, row) in enumerate(zip(source.clips, rows, strict=True)):
        ids = ids_of_clip(clip, row)
        keys |= ids["key"]
        for wanted in lists:
            if any(not ids[kind].isdisjoint(found) for kind, found in wanted.ids.items()):
                hits[wanted.name].add(i)
    gone = set().union(*hits.values())
    report = LeftOut(
        len(source.clips),
        tuple(source.clips[i].key for i in sorted(gone)),
        {wanted.name: (wanted.size, len(hits[wanted.name])) for wanted in lists},
        {wanted.name: tuple(sorted(wanted.ids["key"] - keys)) for wanted in lists},
    )
    if not gone:
        return source, report
    kept = [i for i in range(len(source.clips)) if i not in gone]
    if not kept:
        raise DataError(f"nothing to hear remains: {report}")
    return SubsetSource(source, kept), report


def ids_of_clip(clip: Clip, row: Mapping[str, Any]) -> Ids:
    """All ids of a clip. row: what its table says of it, or {}."""
    own, told = ids_of_name(clip.key), _ids_of_row(row)
    # shards say under which key a clip was packed
    keys = frozenset({clip.key, str(row.get("key") or clip.key)})
    if any(told.values()):  # shards may be renumbered: what they say goes before the number
        return {**told, "file": own["file"] | told["file"], "key": keys}
    return {**own, "key": keys}


def ids_of_name(name: str) -> Ids:
    """All ids that a name may hold: a file's, an address, or an id as such; never a key."""
    addresses = {kind: frozenset(re.findall(rule, name)) for kind, rule in URL_RULES.items()}
    if any(addresses.values()):
        return {**dict.fromkeys(get_args(IdKind), frozenset()), **addresses}
    stem = _stem(name)
    found: dict[IdKind, frozenset[str]] = {"key": frozenset()}
    for kind, rules in NAME_RULES.items():
        matches = (re.fullmatch(rule, stem, re.ASCII) for rule in rules)
        found[kind] = frozenset(match[1] for match in matches if match)
    # write_shards makes every other character an underscore
    found["file"] = frozenset({re.sub(r"[^\w-]+", "_", stem).strip("_")} - {""})
    return found


def _stem(name: str) -> str:
    last = name.strip().replace("\\", "/").rsplit("/", 1)[-1]
    stem, suffix = os.path.splitext(last)
    return stem if suffix.lower() in AUDIO_SUFFIXES else last


def _ids_of_row(row: Mapping[str, Any]) -> Ids:
    """What columns of ids and addresses state, and what names hold beyond that."""
    cells = {str(name).strip().lower(): str(cell).strip() for name, cell in row.items() if cell}
    stated: dict[IdKind, set[str]] = {kind: set() for kind in get_args(IdKind)}
    for kind in ("freesound", "youtube"):
        stated[kind] |= {cells[name] for name in ID_COLUMNS[kind] if name in cells}
        for name in _URL_COLUMNS:
            stated[kind].update(re.findall(URL_RULES[kind], cells.get(name, "")))
    named = [ids_of_name(cells[name]) for name in ID_COLUMNS["file"] if name in cells]
    return {
        kind: frozenset(stated[kind] or set().union(*(ids[kind] for ids in named)))
        for kind in get_args(IdKind)
    }


def rows_of(source: Source) -> Sequence[Mapping[str, Any]]:
    """What is said of each clip beside captions and tags, through views of a source."""
    if isinstance(source, SubsetSource):
        rows = rows_of(source.source)
        return [rows[i] for i in source.indices]
    if isinstance(source, RetoldSource):
        return rows_of(source.source)
    if isinstance(source, ConcatSource):
        return [row for part in source.sources for row in rows_of(part)]
    own: Sequence[Mapping[str, Any]] = getattr(source, "rows", ())
    return own or [{} for _ in source.clips]


# Lists


def read_ids(path: str | os.PathLike[str], *, kind: IdKind | None = None) -> IdList:
    """A list of what to leave out. Raises DataError.

    .txt: an id, a file name or an address per line, `#` before a comment. .csv .tsv .jsonl: their
    columns of ids, file names and addresses, such as the metadata of a data set. .json: a list, or
    several by name: those of WavCaps' black lists are known, and {"keys": [...]} means clips of
    exactly these keys, as `echoic data leaks --out` writes it.
    kind: take entries for nothing else; by default what an entry may be, it is.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file (a list of ids to leave out)")
    suffix = path.suffix.lower()
    may_be_empty = False
    if suffix in TABLE_SUFFIXES:
        found = _of_table(path)
    elif suffix == ".json":
        lists = _json_lists(path)
        found = [ids for name, entries in lists.items() for ids in _of_json(name, entries)]
        may_be_empty = KEYS in lists  # written where nothing leaks
    else:
        lines = (line.strip() for line in decode(path, bytes_of(path)).splitlines())
        found = [_ids_of_entry(line) for line in lines if line and not line.startswith("#")]
    if kind is not None:
        found = [{kind: ids.get(kind, frozenset())} for ids in found]
    ids = {
        k: frozenset().union(*(ids.get(k, frozenset()) for ids in found)) for k in get_args(IdKind)
    }
    if not any(ids.values()) and not may_be_empty:
        raise DataError(f"{path}: holds no ids" + (f" of kind {kind}" if kind else ""))
    return IdList(str(path), ids, len(found))


def _ids_of_entry(entry: str) -> Ids:
    ids = ids_of_name(entry)
    # bare digits mean a Freesound id: not a file that happens to have this number
    return {"freesound": ids["freesound"]} if entry.isdigit() else ids


def _of_table(path: Path) -> list[Ids]:
    table = read_table(path)
    known = {name for names in ID_COLUMNS.values() for name in names} | {*_URL_COLUMNS}
    if known.isdisjoint(name.strip().lower() for name in table.columns):
        seen = ", ".join(map(repr, table.columns[:20]))
        raise DataError(
            f"{path}: no column of ids; it has {seen}; wanted freesound_id, youtube_id, url "
            f"or one of file names ({', '.join(FILE_NAMES)})"
        )
    return [_ids_of_row(row.cells) for row in table.rows]


def _json_lists(path: Path) -> dict[str, list[str | int]]:
    """By name; "" is that of a list that stands alone."""
    try:
        tree = parse_json(bytes_of(path))
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None
    lists = tree if isinstance(tree, dict) else {"": tree}
    for name, entries in lists.items():
        if not isinstance(entries, list) or not all(isinstance(e, str | int) for e in entries):
            raise DataError(f"{path}: wanted a list of ids, or lists by name; {name!r} is none")
    return lists


def _of_json(name: str, entries: Iterable[str | int]) -> Iterator[Ids]:
    kind = _JSON_KINDS.get(name.lower())
    for entry in map(str, entries):
        if kind == "key":
            yield {kind: frozenset({entry})}
        else:
            ids = _ids_of_entry(entry)
            yield ids if kind is None else {kind: ids[kind]}


# What is known of the published sets


@dataclass(frozen=True)
class Overlap:
    """How many entries of one set's part are recordings that another's part holds too."""

    tested: str
    trained: str
    entries: int


OVERLAP_SOURCE = "LAION-AI/audio-dataset, laion-audio-630k/ICASSP.md, 'Potential Data Leakage'"
# Their Clotho "valid" and "test" are as that project names them: its shards hold the official
# evaluation split as "valid" and the validation split as "test".
# AudioCaps: 4875 = 975 clips x 5 captions, that is, every clip of the test set.
_BY_PART = (
    ("esc50", "clotho", (94, 27, 34)),
    ("esc50", "fsd50k", (399, 60, 171)),
    ("urbansound8k", "clotho", (411, 150, 209)),
    ("urbansound8k", "fsd50k", (697, 180, 341)),
    ("clotho/test", "fsd50k", (54, 15, 33)),
    ("clotho/valid", "fsd50k", (53, 10)),
    ("fsd50k/test", "clotho", (137, 31, 33)),
    ("fsd50k/valid", "clotho", (38, 10)),
)
OVERLAPS: tuple[Overlap, ...] = (
    *(
        Overlap(tested, f"{trained}/{part}", entries)
        for tested, trained, counts in _BY_PART
        for part, entries in zip(("train", "valid", "test"), counts, strict=False)
    ),
    Overlap("audiocaps/test", "audioset/unbalanced_train", 4875),
    Overlap("audiocaps/test", "audioset/balanced_train", 0),
)


def known_overlaps(tested: str, trained: Iterable[str]) -> tuple[Overlap, ...]:
    """The published counts for a test on `tested` after a training on `trained`.

    A name is a set (`clotho`) or a part of one (`clotho/train`); a set stands for all its parts.
    """
    names = tuple(trained)
    return tuple(
        known
        for known in OVERLAPS
        if _within(known.tested, tested) and any(_within(known.trained, name) for name in names)
    )


def _within(part: str, name: str) -> bool:
    return part == name or part.startswith(f"{name}/")
