"""Clips, what a source of clips is, and views of sources: a part, several as one, recaptioned.

T samples.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b, sha256
from itertools import accumulate
from operator import eq
from typing import Literal, Protocol, overload, runtime_checkable

import numpy as np

from echoic.types import AudioError, DataError

log = logging.getLogger("echoic.data")

_COMMON = (".wav", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".caf")
_RARER = (".aif", ".aiff", ".aifc", ".au", ".snd", ".m4a", ".aac", ".mp4", ".webm", ".mka", ".wma")
AUDIO_SUFFIXES = frozenset((*_COMMON, *_RARER))
LONG_CAPTION_CHARACTERS = 1000
SILENCE_PEAK = 1e-5  # -100 dBFS: below half a step of 16 bits
Missing = Literal["error", "skip"]


@dataclass(frozen=True)
class Clip:
    """One recording. key: unique in its source. duration_s: None where it is not known."""

    key: str
    captions: tuple[str, ...]
    tags: tuple[str, ...]
    duration_s: float | None


class Listed(Sequence[Clip], ABC):
    """Clips that are made when they are asked for, of columns that processes share.

    captioned: whether each has a caption. digest: of what they are.
    """

    captioned: bool
    digest: str

    @abstractmethod
    def at(self, i: int) -> Clip:
        """Clip i of 0 to N - 1."""

    @property
    @abstractmethod
    def durations_s(self) -> np.ndarray:
        """(N,) float64, NaN where it is not known."""

    @property
    @abstractmethod
    def places(self) -> np.ndarray:
        """(N,) see `key_places`."""

    @overload
    def __getitem__(self, i: int) -> Clip: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Clip]: ...
    def __getitem__(self, i: int | slice) -> Clip | Sequence[Clip]:
        if isinstance(i, slice):
            return Picked(self, np.arange(len(self))[i])
        if not -len(self) <= i < len(self):
            raise IndexError(f"clip {i} of {len(self)}")
        return self.at(int(i) % len(self))

    def __iter__(self) -> Iterator[Clip]:
        return map(self.at, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} clips>"


class Picked(Listed):
    """Some of them, by index."""

    def __init__(self, clips: Listed, indices: np.ndarray) -> None:
        self._clips, self._indices, self.captioned = clips, indices, clips.captioned

    def __len__(self) -> int:
        return len(self._indices)

    def at(self, i: int) -> Clip:
        return self._clips.at(int(self._indices[i]))

    @property
    def durations_s(self) -> np.ndarray:
        return self._clips.durations_s[self._indices]

    @property
    def places(self) -> np.ndarray:
        return self._clips.places[self._indices]

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        return sha256(self._clips.digest.encode() + self._indices.tobytes()).hexdigest()


class Joined(Listed):
    """Several as one, with a name before their keys."""

    def __init__(self, parts: Mapping[str, Listed]) -> None:
        self._names, self._parts = tuple(parts), tuple(parts.values())
        self._ends = list(accumulate(map(len, self._parts)))
        self.captioned = all(part.captioned for part in self._parts)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def at(self, i: int) -> Clip:
        which = bisect_right(self._ends, i)
        clip = self._parts[which].at(i - (self._ends[which - 1] if which else 0))
        return replace(clip, key=f"{self._names[which]}/{clip.key}")

    @property
    def durations_s(self) -> np.ndarray:
        return np.concatenate([part.durations_s for part in self._parts])

    @cached_property
    def places(self) -> np.ndarray:
        return key_places(clip.key for clip in self)

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        told = zip(self._names, (part.digest for part in self._parts), strict=True)
        return sha256(repr(list(told)).encode()).hexdigest()


def durations_of(clips: Sequence[Clip]) -> np.ndarray:
    """(N,) seconds as float64, NaN where they are not known."""
    if isinstance(clips, Listed):
        return clips.durations_s
    return np.array([np.nan if c.duration_s is None else c.duration_s for c in clips], np.float64)


def places_of(clips: Sequence[Clip]) -> np.ndarray:
    """(N,) see `key_places`."""
    return clips.places if isinstance(clips, Listed) else key_places(clip.key for clip in clips)


def key_places(keys: Iterable[str]) -> np.ndarray:
    """(N,) uint64, evenly spread: where a key falls, the same on every machine."""
    encoded = (key.encode("utf-8", "surrogatepass") for key in keys)
    return np.frombuffer(
        bytearray(b"".join(blake2b(raw, digest_size=8).digest() for raw in encoded)), ">u8"
    ).astype("<u8")


class Source(Protocol):
    """A list of clips and how to hear them."""

    @property
    def clips(self) -> Sequence[Clip]: ...

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        """Clip i as (T,) mono float32 at `rate_hz`. Raises AudioError naming the clip."""
        ...


@runtime_checkable
class WindowedSource(Protocol):
    """A source that can decode a part of a clip without the rest, as recordings of an hour need."""

    def read_window(self, i: int, rate_hz: int, start_s: float, duration_s: float) -> np.ndarray:
        """Clip i from `start_s` on, at most `duration_s` of it: (T,). Raises AudioError."""
        ...


LONG_S = 60.0  # of a clip known to be longer, what needs a part does not decode the whole


def read_window(
    source: Source, i: int, rate_hz: int, start_s: float, duration_s: float
) -> np.ndarray:
    """A part of clip i, (T,), by way of the whole if the source can't else. Raises AudioError."""
    if isinstance(source, WindowedSource):
        return source.read_window(i, rate_hz, start_s, duration_s)
    start = round(start_s * rate_hz)
    return source.read(i, rate_hz)[start : start + round(duration_s * rate_hz)]


@runtime_checkable
class DivisibleSource(Protocol):
    """A source of which a part is small enough to hand to another process."""

    def part(self, first: int, stop: int) -> Source:
        """Clips `first` to `stop` - 1."""
        ...


def part_of(source: Source, first: int, stop: int) -> Source:
    """Clips `first` to `stop` - 1 as a source of their own."""
    if isinstance(source, DivisibleSource):
        return source.part(first, stop)
    return SubsetSource(source, range(first, stop))


def check_audio(name: str, audio: np.ndarray, *, silence: bool = False) -> None:
    """Raises AudioError on what teaches nothing: no samples, NaN or infinity, and silence, unless
    that is sound like any other here."""
    if not len(audio):
        raise AudioError(name, "no samples")
    peak = max(float(audio.max()), -float(audio.min()))
    if not np.isfinite(peak):
        raise AudioError(name, "NaN or infinite samples")
    if peak < SILENCE_PEAK and not silence:
        raise AudioError(name, "silent")


def heard_or_noted(
    source: Source,
    i: int,
    rate_hz: int,
    bad: dict[str, str],
    *,
    window_s: tuple[float, float] | None = None,
    silence: bool = False,
) -> np.ndarray | None:
    """Clip i, (T,); None where it cannot be heard, which is told and put into `bad` (key ->
    reason). window_s: start and length of a part; None: all of it. silence: is heard too."""
    key = source.clips[i].key
    try:
        if window_s is None:
            audio = source.read(i, rate_hz)
        else:
            audio = read_window(source, i, rate_hz, *window_s)
        check_audio(key, audio, silence=silence)
    except AudioError as error:
        bad[key] = error.reason
        log.warning("clip %s left out: %s", key, error.reason)
        return None
    return audio


def refuse(
    where: object, faults: Sequence[str], total: int, what: str, *, fix: str, missing: Missing
) -> None:
    """One line for all faults, `where: 3 of 9 rows ...`: DataError, or a note when skipping."""
    if not faults:
        return
    more = ", ..." if len(faults) > 3 else ""
    line = f"{where}: {len(faults)} of {total} {what}: {', '.join(faults[:3])}{more}"
    if missing == "error":
        raise DataError(f'{line}; {fix}, or leave them out with missing="skip"')
    log.warning("%s; left out", line)


def has_long_caption(clip: Clip) -> bool:
    return any(len(text) > LONG_CAPTION_CHARACTERS for text in clip.captions)


def note_long_captions(where: object, clips: Sequence[Clip]) -> None:
    """Say once that a tokenizer will cut some captions; they are kept whole here."""
    limit = LONG_CAPTION_CHARACTERS
    long = [clip.key for clip in clips if has_long_caption(clip)]
    if long:
        what = f"{len(long)} clips have captions of more than {limit} characters (first: {long[0]})"
        log.warning("%s: %s; the tokenizer will cut them", where, what)


class SubsetSource:
    """Some clips of a source, by index: a fold, a split."""

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray) -> None:
        self.source, self.indices = source, np.array(indices, np.int64)
        clips = source.clips
        self.clips: Sequence[Clip] = (
            Picked(clips, self.indices)
            if isinstance(clips, Listed)
            else tuple(clips[i] for i in self.indices.tolist())
        )

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        return self.source.read(int(self.indices[i]), rate_hz)

    def read_window(self, i: int, rate_hz: int, start_s: float, duration_s: float) -> np.ndarray:
        return read_window(self.source, int(self.indices[i]), rate_hz, start_s, duration_s)

    def part(self, first: int, stop: int) -> Source:
        some = self.indices[first:stop]
        if not len(some):
            return SubsetSource(self.source, ())
        lowest = int(some.min())
        around = part_of(self.source, lowest, int(some.max()) + 1)
        return RetoldSource(SubsetSource(around, some - lowest), list(self.clips[first:stop]))


class RetoldSource:
    """A source of which something else is said: `clips` in place of its own."""

    def __init__(self, source: Source, clips: Sequence[Clip]) -> None:
        self.source = source
        self.clips: Sequence[Clip] = clips if isinstance(clips, Listed) else tuple(clips)

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        return self.source.read(i, rate_hz)

    def read_window(self, i: int, rate_hz: int, start_s: float, duration_s: float) -> np.ndarray:
        return read_window(self.source, i, rate_hz, start_s, duration_s)

    def part(self, first: int, stop: int) -> Source:
        return RetoldSource(part_of(self.source, first, stop), list(self.clips[first:stop]))


class RecaptionedSource(RetoldSource):
    """A source with other captions, made by `caption(clip)`: from a label by templates, for one."""

    def __init__(self, source: Source, caption: Callable[[Clip], Sequence[str]]) -> None:
        clips = (replace(clip, captions=tuple(caption(clip))) for clip in source.clips)
        super().__init__(source, tuple(clips))


class ConcatSource:
    """Several sources as one, by name; a clip's key becomes `name/key`."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = tuple(sources.values())
        listed = {name: s.clips for name, s in sources.items() if isinstance(s.clips, Listed)}
        self.clips: Sequence[Clip] = (
            Joined(listed)
            if len(listed) == len(sources)
            else tuple(
                replace(clip, key=f"{name}/{clip.key}")
                for name, source in sources.items()
                for clip in source.clips
            )
        )
        self._ends = list(accumulate(len(source.clips) for source in self.sources))

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        source, at = self._locate(i)
        return source.read(at, rate_hz)

    def read_window(self, i: int, rate_hz: int, start_s: float, duration_s: float) -> np.ndarray:
        source, at = self._locate(i)
        return read_window(source, at, rate_hz, start_s, duration_s)

    def part(self, first: int, stop: int) -> Source:
        starts = [end - len(each.clips) for end, each in zip(self._ends, self.sources, strict=True)]
        spans = [
            (each, max(first - start, 0), min(stop - start, len(each.clips)))
            for start, each in zip(starts, self.sources, strict=True)
        ]
        parts = {str(n): part_of(*span) for n, span in enumerate(spans) if span[1] < span[2]}
        return RetoldSource(ConcatSource(parts), list(self.clips[first:stop]))

    def _locate(self, i: int) -> tuple[Source, int]:
        which = bisect_right(self._ends, i)
        return self.sources[which], i - (self._ends[which - 1] if which else 0)
