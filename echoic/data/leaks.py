"""What two data sets share: recordings of a training set that stand in an evaluation set too.

By ids (`contamination` has the rules), by the samples themselves, and by likeness
(`fingerprint`). Memory holds the landmarks of the evaluation set and what a block of training clips
needs, never the audio of either.

T samples.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from echoic.data.clips import Clip, Source, heard_or_noted
from echoic.data.contamination import (
    KEYS,
    IdKind,
    IdList,
    Ids,
    ids_of_clip,
    ids_of_name,
    rows_of,
)
from echoic.data.files import write_whole
from echoic.data.fingerprint import (
    NO_LANDMARKS,
    RATE_HZ,
    LandmarkIndex,
    Landmarks,
    Match,
    landmarks,
    likeness,
    sound_digest,
)

LeakKind = Literal["id", "audio", "near"]
LEAK_KINDS: tuple[LeakKind, ...] = get_args(LeakKind)
NEAR = 0.6  # the least likeness of what is told; docs/data.md says how often it errs
_BLOCK_CLIPS = 256
_KEPT_CLIPS = 32  # of the evaluation set, whose samples are held for the next comparison
_SHARED_IDS: tuple[IdKind, ...] = ("freesound", "youtube")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Leak:
    """A training clip and the evaluation clip that it is. score: 1 of equal ids and samples, else
    the likeness. what: the id. Of a list of ids, eval is the id and what the list."""

    kind: LeakKind
    train: str
    eval: str
    score: float = 1.0
    what: str = ""


@dataclass(frozen=True)
class LeakReport:
    """All leaks, in the order of the training set. bad_*: key -> reason of what cannot be heard.
    numbered: the sets whose clips are merely numbered, so that no digits are taken for ids."""

    train_clips: int
    eval_clips: int
    kinds: tuple[LeakKind, ...]
    leaks: tuple[Leak, ...]
    bad_train: Mapping[str, str] = field(default_factory=dict)
    bad_eval: Mapping[str, str] = field(default_factory=dict)
    numbered: tuple[str, ...] = ()

    @property
    def train_keys(self) -> tuple[str, ...]:
        """What to leave out of the training set."""
        return tuple(dict.fromkeys(leak.train for leak in self.leaks))

    @property
    def eval_keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(leak.eval for leak in self.leaks))

    def by_kind(self) -> dict[str, int]:
        """Training clips by kind; one may be of several."""
        pairs = {(leak.kind, leak.train) for leak in self.leaks}
        counts = Counter(kind for kind, _ in pairs)
        return {kind: counts[kind] for kind in self.kinds}

    def to_json(self) -> dict[str, Any]:
        return {
            "train_clips": self.train_clips,
            "eval_clips": self.eval_clips,
            "leaked_train_clips": len(self.train_keys),
            "leaked_eval_clips": len(self.eval_keys),
            "remaining_train_clips": self.train_clips - len(self.train_keys),
            "by_kind": self.by_kind(),
            "pairs": [vars(leak) for leak in self.leaks],
            "bad_train": dict(self.bad_train),
            "bad_eval": dict(self.bad_eval),
            "numbered": list(self.numbered),
        }


def find_leaks(
    train: Source,
    held: Source,
    *,
    kinds: Collection[LeakKind] = LEAK_KINDS,
    near: float = NEAR,
    threads: int = 2,
    progress: Progress | None = None,
) -> LeakReport:
    """Which clips of `train` are in `held`, the evaluation set.

    A pair of equal samples is not told as near too. kinds: "id" alone reads no audio. near: the
    least likeness. A clip that cannot be heard is noted, and compared by its ids only.
    progress(done, total): called now and then.
    """
    order = tuple(kind for kind in LEAK_KINDS if kind in kinds)
    leaks, numbered = _by_ids(train, held) if "id" in kinds else ([], ())
    search = _Search(train, held, order, near, threads, progress)
    if set(order) - {"id"}:
        leaks = [*leaks, *search.run()]
    rank = {clip.key: i for i, clip in enumerate(train.clips)}
    leaks = sorted(leaks, key=lambda leak: (rank[leak.train], order.index(leak.kind), -leak.score))
    return LeakReport(
        len(train.clips), len(held.clips), order, tuple(leaks), search.bad_train, search.bad_held,
        numbered,
    )  # fmt: skip


# Ids


def _by_ids(train: Source, held: Source) -> tuple[list[Leak], tuple[str, ...]]:
    owners: dict[tuple[IdKind, str], list[str]] = {}
    held_ids, held_numbered = _ids_of(held)
    train_ids, train_numbered = _ids_of(train)
    for clip, ids in zip(held.clips, held_ids, strict=True):
        for kind in _SHARED_IDS:
            for each in ids[kind]:
                owners.setdefault((kind, each), []).append(clip.key)
    leaks = [
        Leak("id", clip.key, key, what=f"{kind} {each}")
        for clip, ids in zip(train.clips, train_ids, strict=True)
        for kind in _SHARED_IDS
        for each in sorted(ids[kind])
        for key in owners.get((kind, each), ())
    ]
    named = {"train": train_numbered, "eval": held_numbered}
    return leaks, tuple(name for name, numbered in named.items() if numbered)


def _ids_of(source: Source) -> tuple[list[Ids], bool]:
    """The ids of all clips, and whether they are numbered 0, 1, 2 or 1, 2, 3: such a number is no
    Freesound id."""
    ids = [ids_of_clip(clip, row) for clip, row in zip(source.clips, rows_of(source), strict=True)]
    bare = [_bare_number(clip) for clip in source.clips]
    numbers = {number for number in bare if number is not None}
    if not numbers or min(numbers) > 1 or max(numbers) + 1 > 2 * len(numbers):
        return ids, False
    for i, clip in enumerate(source.clips):
        if bare[i] is not None and ids[i]["freesound"] == ids_of_name(clip.key)["freesound"]:
            ids[i] = {**ids[i], "freesound": frozenset()}
    return ids, True


def _bare_number(clip: Clip) -> int | None:
    found = re.fullmatch(r"(\d{1,9})(\.\w+)?", clip.key.rsplit("/", 1)[-1], re.ASCII)
    return int(found[1]) if found else None


def find_listed(train: Source, lists: Sequence[IdList]) -> LeakReport:
    """Which clips of `train` a list of ids names, such as WavCaps' black lists: what
    `contamination.leave_out` would leave out, and by which id. No audio is read."""
    leaks = [
        Leak("id", key, what, what=wanted.name)
        for wanted in lists
        for key, what in _named_by(train, wanted).items()
    ]
    return LeakReport(len(train.clips), sum(wanted.size for wanted in lists), ("id",), tuple(leaks))


def _named_by(source: Source, wanted: IdList) -> dict[str, str]:
    """Key -> the id by which the list names this clip."""
    found: dict[str, str] = {}
    for clip, row in zip(source.clips, rows_of(source), strict=True):
        ids = ids_of_clip(clip, row)
        for kind, named in wanted.ids.items():
            if both := sorted(ids[kind] & named):
                found.setdefault(clip.key, f"{kind} {both[0]}")
    return found


def write_leak_list(keys: Sequence[str], path: Path) -> None:
    """A list for `--leave-out` and `contamination.read_ids`, which names clips of exactly these
    keys. Raises DataError."""
    write_whole(path, json.dumps({KEYS: list(keys)}, ensure_ascii=False, indent=1) + "\n")


# Audio


@dataclass
class _Heard:
    digest: bytes
    marks: Landmarks


class _Search:
    """One comparison of two sets by what is heard."""

    def __init__(
        self,
        train: Source,
        held: Source,
        kinds: Sequence[LeakKind],
        near: float,
        threads: int,
        progress: Progress | None,
    ) -> None:
        self._train, self._held, self._kinds, self._near = train, held, kinds, near
        self._threads, self._progress, self._done = threads, progress, 0
        self.bad_train: dict[str, str] = {}
        self.bad_held: dict[str, str] = {}
        self._held_audio = lru_cache(_KEPT_CLIPS)(lambda i: self._read(self._held, i))

    def run(self) -> Iterator[Leak]:
        with ThreadPoolExecutor(self._threads, thread_name_prefix="echoic-leaks") as pool:
            heard = [
                each
                for block in self._blocks(pool, self._held, self.bad_held)
                for each in block.items()
            ]
            places = [i for i, _ in heard]
            same: dict[bytes, list[int]] = {}
            for i, each in heard:
                same.setdefault(each.digest, []).append(i)
            index = LandmarkIndex([each.marks for _, each in heard])
            for block in self._blocks(pool, self._train, self.bad_train):
                yield from self._equal(block, same)
                if "near" in self._kinds:
                    yield from self._alike(pool, block, index, places, same)

    def _blocks(
        self, pool: ThreadPoolExecutor, source: Source, bad: dict[str, str]
    ) -> Iterator[dict[int, _Heard]]:
        """Clips by their place, as many at once as a block has."""
        near = "near" in self._kinds

        def hear(i: int) -> _Heard | None:
            audio = heard_or_noted(source, i, RATE_HZ, bad)
            if audio is None:
                return None
            return _Heard(sound_digest(audio), landmarks(audio) if near else NO_LANDMARKS)

        for start in range(0, len(source.clips), _BLOCK_CLIPS):
            which = range(start, min(start + _BLOCK_CLIPS, len(source.clips)))
            heard = zip(which, pool.map(hear, which), strict=True)
            yield {i: each for i, each in heard if each is not None}
            self._done += len(which)
            if self._progress:
                self._progress(self._done, len(self._held.clips) + len(self._train.clips))

    def _equal(
        self, block: Mapping[int, _Heard], same: Mapping[bytes, list[int]]
    ) -> Iterator[Leak]:
        if "audio" in self._kinds:
            for i, each in block.items():
                for j in same.get(each.digest, ()):
                    yield Leak("audio", self._train.clips[i].key, self._held.clips[j].key)

    def _alike(
        self,
        pool: ThreadPoolExecutor,
        block: Mapping[int, _Heard],
        index: LandmarkIndex,
        places: Sequence[int],
        same: Mapping[bytes, list[int]],
    ) -> Iterator[Leak]:
        numbers = list(block)
        pairs: dict[int, dict[int, list[Match]]] = {}
        for matches in index.matches([each.marks for each in block.values()]):
            i, j = numbers[matches[0].first], places[matches[0].second]
            if "audio" not in self._kinds or j not in same.get(block[i].digest, ()):
                pairs.setdefault(i, {})[j] = matches
        for i, scores in zip(pairs, pool.map(self._scores, pairs, pairs.values()), strict=True):
            for j, score in scores.items():
                if score >= self._near:
                    train, held = self._train.clips[i].key, self._held.clips[j].key
                    yield Leak("near", train, held, round(min(1.0, score), 3))

    def _scores(self, i: int, found: Mapping[int, Sequence[Match]]) -> dict[int, float]:
        audio = self._read(self._train, i)
        return {
            j: max(likeness(audio, self._held_audio(j), match.lag) for match in matches)
            for j, matches in found.items()
        }

    @staticmethod
    def _read(source: Source, i: int) -> np.ndarray:
        return source.read(i, RATE_HZ)
