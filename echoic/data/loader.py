"""The loader: clips in, training batches out, each batch a pure function of (seed, step).

Which clips step t holds, which caption and which window of each is drawn and how it is augmented
follow from the seed, the epoch and the clip's key alone: not from threads, nor from what was read
before. So a run goes on after any step by that step's number, and a bad clip is left out of its
batch wherever it is met.

B clips, T samples, L text tokens.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count, islice
from threading import Lock
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch

from echoic.data.clips import (
    SILENCE_PEAK,
    Clip,
    Listed,
    Source,
    check_audio,
    durations_of,
    read_window,
)
from echoic.data.order import WHOLE_CLIPS, Order
from echoic.data.pack import Schedule
from echoic.types import AudioError, Batch, ConfigError, DataError, Ragged

log = logging.getLogger("echoic.data")

Tokenize = Callable[[list[str]], list[list[int]]]
Augment = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
Meaning = Literal["text", "tags"]

_CAPTION, _AUDIO, _STEP = range(3)  # independent streams of draws
_SURE_CLIPS, _FEW_CLIPS = 400, 20  # the share of bad clips is taken of at least so many
_WINDOWS_TRIED = 3  # a quiet stretch does not make a long recording silent
_NAMED_CLIPS = 3
_TOP_UP_TRIED = 64
_SAMPLE_BYTES = 4
_HANDED_OVER = 8  # clips to a thread at once
_OF_CAPTIONS = 1 << 62  # above the marks of tags: a group's id is the smallest of its marks


@dataclass(frozen=True)
class _Draw:
    """What became of clip i in one epoch: its samples (T,), or the reason why there are none."""

    i: int
    audio: np.ndarray
    reason: str = ""


class Loader:
    """Endless training batches from a source.

    rate_hz: of the audio tower.
    tokenize: texts -> token ids of each; None for trainings on sound alone: captions are not
        needed, and a batch's `text` is one 0 for each clip.
    cost: seconds -> tokens; a batch's costs sum to at most `budget`. A clip of unknown duration is
        counted as `max_s` long.
    seed: of every draw.
    augment: (samples (T,), rate_hz, generator) -> samples. It is called in several threads and must
        not write into its input. What comes out longer than `max_s` is cut.
    max_s: of a longer clip, one window of this length is drawn each epoch.
    max_clips, min_clips: per batch, see pack.plan_epoch.
    draws: the clips of an epoch; None: as the source has it (`data.mix`), else each once.
    meaning: see Batch; "tags" also gives clips of the same, non-empty set of tags the same meaning.
    threads: decoders at work. prefetch: batches made ahead.
    max_bad_share: of an epoch's clips; a run with more stops.
    cache_bytes: how much decoded audio to keep in memory.
    rank, ranks: of so many loaders alike, each gives every so-manieth batch: of n, n + 1, n + 2 ...
        the one whose place is its rank. So together they give what one alone does.
    bad: clip key -> reason, of the clips found unusable so far.

    Raises ConfigError where `min_clips` of the longest clips exceed the budget; DataError on a clip
    without caption, or too few clips.
    """

    def __init__(
        self,
        source: Source,
        *,
        rate_hz: int,
        tokenize: Tokenize | None,
        cost: Callable[[float], int],
        budget: int,
        seed: int,
        augment: Augment | None = None,
        max_s: float = 30.0,
        max_clips: int | None = None,
        min_clips: int = 2,
        draws: Order | None = None,
        meaning: Meaning = "text",
        threads: int = 1,
        prefetch: int = 2,
        max_bad_share: float = 0.05,
        cache_bytes: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.rank, self.ranks = rank, ranks
        self.source, self.rate_hz, self.tokenize = source, rate_hz, tokenize
        self.augment, self.max_s, self.seed = augment, max_s, seed
        self.meaning, self.threads, self.prefetch = meaning, threads, prefetch
        self.max_bad_share, self.min_clips = max_bad_share, min_clips
        self.bad: dict[str, str] = {}
        self._clips = source.clips
        self._durations_s = durations_of(self._clips)
        self._costs = _Costs(self._durations_s, cost, max_s)
        _check(self._clips, self._costs.most, budget, min_clips, max_s, mute=tokenize is None)
        self._schedule = Schedule(
            self._costs,
            budget=budget,
            seed=seed,
            max_clips=max_clips,
            min_clips=min_clips,
            draws=draws if draws is not None else getattr(source, "order", None),
        )
        self._share = _Share(max_bad_share, len(self._clips))
        self._cache = _Cache(self._durations_s, rate_hz, cache_bytes)

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """The batches of `first_step` and all steps after it, made ahead by threads; of several
        ranks this one's, whose first is that of `first_step + rank`.

        The threads end when the iterator is closed or dropped. Raises DataError when too many clips
        are bad.
        """
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="echoic-loader")
        ahead: deque[tuple[int, list[Future[list[_Draw]]]]] = deque()
        steps = count(first_step + self.rank, self.ranks)
        try:
            while True:
                while len(ahead) <= self.prefetch:
                    step = next(steps)
                    epoch, clips = self._planned(step)
                    parts = _parts(clips, self.threads)
                    ahead.append((step, [pool.submit(self._drawn, epoch, part) for part in parts]))
                step, futures = ahead.popleft()
                yield self._batch(step, [draw for future in futures for draw in future.result()])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def steps_in(self, epochs: int) -> int:
        """How many steps the first `epochs` epochs take."""
        return self._schedule.steps_in(epochs)

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) that a step belongs to."""
        return self._schedule.epoch_of(step)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds beside the step number; plain numbers, strings and lists."""
        return {
            "fingerprint": self.fingerprint,
            "bad": dict(self.bad),
            "share": list(self._share.counts),
            "epoch_steps": list(self._schedule.lengths),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the loader that made `state`. Raises DataError if the data is another."""
        if state["fingerprint"] != self.fingerprint:
            raise DataError(
                "the clips, their captions or durations, the batch budget or the seed are not "
                "those of the checkpoint: the run cannot go on there; start one from its weights"
            )
        self.bad = dict(state["bad"])
        self._share.counts = list(state["share"])
        self._schedule.lengths = list(state["epoch_steps"])

    @cached_property
    def fingerprint(self) -> str:
        """Equal where the batches are: the same clips, settings and seed, on every rank."""
        plan = self._schedule
        settings = (
            plan.budget,
            plan.seed,
            plan.max_clips,
            plan.min_clips,
            self.rate_hz,
            self.max_s,
        )
        digest = hashlib.sha256(repr(settings).encode())
        if isinstance(self._clips, Listed) and len(self._clips) > WHOLE_CLIPS:
            digest.update(f"{self._clips.digest} {self._costs.ladder()}".encode())
        else:
            costs = self._costs[np.arange(len(self._clips))].tolist()
            for clip, cost in zip(self._clips, costs, strict=True):
                digest.update(repr((clip.key, clip.captions, cost)).encode())
        if plan.draws is not None:
            digest.update(repr(plan.draws.count).encode())
            digest.update(plan.draws.weights.tobytes())
        return digest.hexdigest()

    def _planned(self, step: int) -> tuple[int, list[int]]:
        window, position = self._schedule.locate(step)
        return window // self._schedule.windows, self._schedule.plan(window)[position]

    # What the threads do: some clips

    def _drawn(self, epoch: int, clips: Sequence[int]) -> list[_Draw]:
        return [self._draw(epoch, i) for i in clips]

    def _draw(self, epoch: int, i: int) -> _Draw:
        try:
            audio = self._heard(epoch, i)
        except AudioError as error:
            return _Draw(i, np.empty(0, np.float32), error.reason)
        if self.augment is not None:
            audio = self.augment(audio, self.rate_hz, self._places(epoch, i)[0])
        return _Draw(i, audio[: self._max_samples])

    def _places(self, epoch: int, i: int) -> tuple[np.random.Generator, np.ndarray]:
        """Clip i's generator, and the first that it gives: where windows begin, from 0 to 1."""
        rng = self._rng(epoch, self._clips[i].key, _AUDIO)
        return rng, rng.uniform(0, 1, _WINDOWS_TRIED)

    def _heard(self, epoch: int, i: int) -> np.ndarray:
        """Clip i, or one window of it, (T,), read-only. Raises AudioError."""
        duration_s = float(self._durations_s[i])  # NaN where it is not known
        if i not in self._cache and duration_s > self.max_s:
            return self._read_window(i, self._places(epoch, i)[1] * (duration_s - self.max_s))
        audio = self._whole(i)
        latest = len(audio) - self._max_samples
        if latest <= 0:
            return audio  # most clips: without a generator
        for first in np.rint(self._places(epoch, i)[1] * latest).astype(int):
            window = audio[first : first + self._max_samples]
            if _has_sound(window):
                return window
        first = min(int(np.abs(audio).argmax()), latest)
        return audio[first : first + self._max_samples]

    def _whole(self, i: int) -> np.ndarray:
        audio = self._cache.get(i)
        if audio is None:
            audio = self.source.read(i, self.rate_hz)
            check_audio(f"clip {i}", audio)
            audio = _read_only(audio)
            self._cache.put(i, audio)
        return audio

    def _read_window(self, i: int, starts_s: np.ndarray) -> np.ndarray:
        for start_s in starts_s:
            audio = read_window(self.source, i, self.rate_hz, float(start_s), self.max_s)
            if _has_sound(audio):
                break
        check_audio(f"clip {i}", audio)
        return _read_only(audio)

    def _cost(self, i: int) -> int:
        return int(self._costs[np.array([i])][0])

    @property
    def _max_samples(self) -> int:
        return max(1, round(self.max_s * self.rate_hz))

    def _rng(self, epoch: int, key: str, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, crc32(key.encode()), stream])

    # What the consumer's thread does: one batch

    def _batch(self, step: int, draws: Sequence[_Draw]) -> Batch:
        epoch = self.epoch_of(step)
        good = self._usable(epoch, draws)
        if len(good) < self.min_clips:
            good = self._topped_up(step, good)
        clips = [self._clips[draw.i] for draw in good]
        captions = [self._caption(epoch, clip) for clip in clips]
        audio = np.concatenate([draw.audio for draw in good], dtype=np.float32, casting="same_kind")
        tokens = self.tokenize(captions) if self.tokenize else [[0]] * len(clips)
        return Batch(
            audio=Ragged.from_lengths(torch.from_numpy(audio), [len(d.audio) for d in good]),
            text=Ragged.from_lengths(
                torch.tensor(list(chain.from_iterable(tokens)), dtype=torch.int64),
                [len(ids) for ids in tokens],
            ),
            meaning=torch.tensor(
                meaning_ids(captions, [c.tags if self.meaning == "tags" else () for c in clips])
            ),
            keys=tuple(clip.key for clip in clips),
            seed=int(np.random.SeedSequence([self.seed, step, _STEP]).generate_state(1)[0]),
        )

    def _caption(self, epoch: int, clip: Clip) -> str:
        if self.tokenize is None:
            return clip.key
        if len(clip.captions) == 1:
            return clip.captions[0]
        rng = self._rng(epoch, clip.key, _CAPTION)
        return clip.captions[int(rng.integers(len(clip.captions)))]

    def _usable(self, epoch: int, draws: Sequence[_Draw]) -> list[_Draw]:
        """The draws with sound; the others are counted, and named once. Raises DataError."""
        for draw in draws:
            if draw.reason and (key := self._clips[draw.i].key) not in self.bad:
                self.bad[key] = draw.reason
                log.warning("clip %s skipped: %s", key, draw.reason)
        good = [draw for draw in draws if not draw.reason]
        self._share.add(epoch, len(draws), len(draws) - len(good))
        if self._share.too_many:
            raise DataError(f"{self._share}: {self._first_bad()}")
        return good

    def _topped_up(self, step: int, good: list[_Draw]) -> list[_Draw]:
        """A batch that bad clips left too small, filled from the next. Raises DataError."""
        window, position = self._schedule.locate(step)
        epoch, plan = window // self._schedule.windows, self._schedule.plan(window)
        room = self._schedule.budget - sum(self._cost(draw.i) for draw in good)
        others = chain.from_iterable(plan[position + 1 :] + plan[:position])
        for i in islice((i for i in others if self._cost(i) <= room), _TOP_UP_TRIED):
            draw = self._draw(epoch, i)
            if not draw.reason:
                good = [*good, draw]
                room -= self._cost(i)
            if len(good) == self.min_clips:
                return good
        raise DataError(
            f"step {step} has fewer than {self.min_clips} usable clips, and no other fits its "
            f"budget: {self._first_bad()}"
        )

    def _first_bad(self) -> str:
        more = "; ..." if len(self.bad) > _NAMED_CLIPS else ""
        named = islice(self.bad.items(), _NAMED_CLIPS)
        return "; ".join(f"{key}: {reason}" for key, reason in named) + more


def _parts(clips: list[int], threads: int) -> list[list[int]]:
    """The clips of a batch for so many threads: to hand over few at once is quicker than one."""
    size = min(_HANDED_OVER, -(-len(clips) // threads))
    return [clips[first : first + size] for first in range(0, len(clips), size)]


def _read_only(audio: np.ndarray) -> np.ndarray:
    view = audio.view()
    view.flags.writeable = False
    return view


def meaning_ids(captions: Sequence[str], tags: Sequence[Sequence[str]]) -> list[int]:
    """(B,) ids, equal where captions agree but for case and spaces, or where tag sets agree.

    tags: those of each row; rows without are compared by caption alone. An id is made of the words,
    so that it can be compared with those of other batches, as of other processes; where rows agree
    by way of a third one, only if that is known in both.
    """
    ids: list[int] = []
    seen: dict[int, int] = {}
    for caption, names in zip(captions, tags, strict=True):
        marks = {_mark(" ".join(caption.split()).casefold(), _OF_CAPTIONS)}
        if names:
            marks.add(_mark("\0".join(sorted(set(names))), 0))
        known = {seen[mark] for mark in marks if mark in seen}
        own = min(known | marks)
        if known - {own}:  # this row says the same as other groups, which are then one
            ids = [own if i in known else i for i in ids]
            seen = {mark: own if i in known else i for mark, i in seen.items()}
        ids.append(own)
        seen.update(dict.fromkeys(marks, own))
    return ids


def _mark(words: str, kind: int) -> int:
    """63 bits that are the same for the same words in every process."""
    digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return kind | int.from_bytes(digest, "big") >> 2


def _check(
    clips: Sequence[Clip],
    most: int,
    budget: int,
    min_clips: int,
    max_s: float,
    *,
    mute: bool,
) -> None:
    """most: cost of the longest clip. mute: whether clips may lack captions."""
    if len(clips) < min_clips:
        raise DataError(
            f"{len(clips)} clips are too few to train on; at least {min_clips} are needed"
        )
    if not mute and not (isinstance(clips, Listed) and clips.captioned):
        lacking = next((clip.key for clip in clips if not clip.captions), None)
        if lacking is not None:
            raise DataError(f"clip {lacking} has no caption")
    if most * min_clips > budget:
        raise ConfigError(
            f"a batch budget of {budget} tokens holds fewer than {min_clips} of the longest clips "
            f"({most} each, cut at {max_s:g} s); raise the budget or lower the cut"
        )


class _Costs:
    """(N,) what clips cost, computed for those that are asked for: see pack.Costs. cost: of a
    longer clip no less than of a shorter one."""

    def __init__(self, durations_s: np.ndarray, cost: Callable[[float], int], max_s: float) -> None:
        self._durations_s, self._cost, self._max_s = durations_s, cost, max_s
        known = bool(np.all(durations_s > 0))
        self.most = self._of(min(float(durations_s.max(initial=0.0)), max_s) if known else max_s)

    def __len__(self) -> int:
        return len(self._durations_s)

    def __getitem__(self, clips: np.ndarray) -> np.ndarray:
        told_s = self._durations_s[clips]
        heard_s = np.minimum(np.where(told_s > 0, told_s, self._max_s), self._max_s)
        lengths_s, which = np.unique(heard_s, return_inverse=True)
        return np.array([self._of(s) for s in lengths_s.tolist()], np.int64)[which]

    def ladder(self) -> list[int]:
        """Costs of some lengths, which tell one way of counting from another."""
        return [self._of(self._max_s * k / 64) for k in range(1, 65)]

    def _of(self, seconds: float) -> int:
        return max(1, self._cost(seconds))


class _Share:
    """How many of an epoch's clips are bad."""

    def __init__(self, allowed: float, clips: int) -> None:
        self.allowed, self.sure = allowed, max(min(clips, _SURE_CLIPS), _FEW_CLIPS)
        self.counts = [0, 0, 0]  # epoch, seen, bad

    def add(self, epoch: int, seen: int, bad: int) -> None:
        if epoch != self.counts[0]:
            self.counts = [epoch, 0, 0]
        self.counts = [epoch, self.counts[1] + seen, self.counts[2] + bad]

    @property
    def too_many(self) -> bool:
        """By a share of what was seen, but two bad ones among the first clips may be chance."""
        _, seen, bad = self.counts
        return bad > self.allowed * max(seen, self.sure)

    def __str__(self) -> str:
        epoch, seen, bad = self.counts
        return (
            f"{bad} of the {seen} clips seen in epoch {epoch} are unusable, more than the allowed "
            f"{self.allowed:.3g} of all"
        )


def _has_sound(audio: np.ndarray) -> bool:
    return bool(np.any(np.abs(audio) >= SILENCE_PEAK))


class _Cache:
    """Decoded clips up to a number of bytes. Which clips it may hold is fixed at the start, by
    their durations: a clip cut from memory and one cut from its file differ by a rounding, so what
    a batch holds must not hang on what happens to lie here.
    """

    def __init__(self, durations_s: np.ndarray, rate_hz: int, limit_bytes: int) -> None:
        self._may_hold: set[int] = set()
        if limit_bytes:
            samples = np.rint(np.nan_to_num(durations_s) * rate_hz)
            some = np.cumsum(samples) * _SAMPLE_BYTES <= limit_bytes
            self._may_hold.update(np.flatnonzero(some & ~np.isnan(durations_s)).tolist())
        self._clips: dict[int, np.ndarray] = {}
        self._room, self._lock = limit_bytes, Lock()

    def __contains__(self, i: int) -> bool:
        return i in self._may_hold

    def get(self, i: int) -> np.ndarray | None:
        return self._clips.get(i)

    def put(self, i: int, audio: np.ndarray) -> None:
        with self._lock:  # a clip may be longer than its table says: then it is read each time
            if i in self._may_hold and i not in self._clips and audio.nbytes <= self._room:
                self._clips[i] = audio
                self._room -= audio.nbytes
