"""Clips to vectors, by the model or from the cache.

What is not kept: silence (so that it is told each time), what cannot be heard, and what a model
hears at random places. Captions of a decoder never come here.

N clips, T samples, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from echoic.api import EchoicModel
from echoic.data.clips import SILENCE_PEAK, Source
from echoic.embeddings.cache import AT_ONCE, Entry, Known, Part, Space, VectorCache
from echoic.embeddings.keys import ClipNames, Name

Parts: TypeAlias = Callable[[int, int], Sequence[Part]]
Read: TypeAlias = Callable[[int], np.ndarray | None]


def cut(wave: np.ndarray, part: Part) -> np.ndarray:
    """(T,) -> (part.length,)."""
    piece = wave[part.start : part.start + part.length]
    lacking = part.length - len(piece)
    return np.pad(piece, (0, lacking)) if lacking else piece


def whole(i: int, samples: int) -> Sequence[Part]:
    """All of a clip, as the only part."""
    return (Part(0, samples),)


def hear_parts(
    model: EchoicModel,
    source: Source,
    indices: Iterable[int],
    read: Read,
    *,
    parts: Parts = whole,
    kind: Literal["clip", "probe"] = "clip",
    cache: VectorCache | None = None,
) -> tuple[list[tuple[int, Part]], Tensor]:
    """(clip, part) of each row, in order, and the vectors (rows, D): by `embed_audio` ("clip") or
    `probe_vectors` ("probe"), or from the cache.

    read: clip i at the model's rate, (T,), or None where it cannot be heard and is left out; not
    called for a clip whose vectors are there. parts: clip i and its T samples -> which parts of it;
    called once for each clip, in order.
    """
    listen = model.embed_audio if kind == "clip" else model.probe_vectors
    space = None if cache is None else cache.space(model, kind)
    run = _Hearing(source, model.rate_hz, read, parts, space)
    waves, at_once = run.waves(indices), None if space is None else AT_ONCE
    while run.took(listen(islice(waves, at_once))) == at_once:
        pass
    return run.rows, run.stacked()


def unheard(model: EchoicModel, source: Source, cache: VectorCache | None) -> list[int]:
    """The clips that `hear_parts` would have to read to hear them whole."""
    space = None if cache is None else cache.space(model, "clip")
    run = _Hearing(source, model.rate_hz, lambda i: None, whole, space)
    return run.lacking(range(len(source.clips)))


_NOTHING = Known(None, {})


@dataclass
class _Sound:
    """A clip in its turn. known: the parts of it whose vectors are there. wave: (T,), once read."""

    name: Name
    content: bytes | None
    samples: int
    known: Mapping[Part, Tensor]
    wave: np.ndarray | None = None


class _Hearing:
    """One pass over a source: what is known of it, and what the model is asked for."""

    def __init__(
        self, source: Source, rate_hz: int, read: Read, parts: Parts, space: Space | None
    ) -> None:
        self.rows: list[tuple[int, Part]] = []
        self._read, self._parts, self._space = read, parts, space
        self._names = None
        if space is not None:
            self._names = ClipNames(source, rate_hz, space.cache.content_of)
        self._vectors: dict[int, Tensor] = {}  # by row
        self._asked: list[tuple[int, bytes | None, int]] = []  # row, content to keep it by, samples

    def waves(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Of the parts that the model has to hear."""
        for i, name, known in self._looked_up(indices):
            sound = self._sound(i, name, known)
            if sound is None:
                continue
            parts = self._parts(i, sound.samples)
            if not all(part in sound.known for part in parts) and sound.wave is None:
                sound.wave = self._read(i)
                if sound.wave is None:
                    continue
            yield from self._lacking(i, sound, parts)

    def took(self, vectors: Tensor) -> int:
        """What the model made of the waves asked for since the last call: is kept. How many."""
        entries = []
        for (row, content, samples), vector in zip(self._asked, vectors, strict=True):
            self._vectors[row] = vector
            if content is not None:
                entries.append(Entry(content, self.rows[row][1], samples, vector))
        if self._space is not None and self._names is not None:
            cache, files = self._space.cache, self._names.noted
            cache.made += len(self._asked)
            if entries or files:
                cache.write(self._space, entries, files)
            files.clear()
        count = len(self._asked)
        self._asked = []
        return count

    def stacked(self) -> Tensor:
        """(rows, D); (0,) of none."""
        rows = [self._vectors[row] for row in range(len(self.rows))]
        return torch.stack(rows) if rows else torch.empty(0)

    def lacking(self, indices: Iterable[int]) -> list[int]:
        """The clips that, whole, have to be read."""
        return [
            i
            for i, _, known in self._looked_up(indices)
            if known.samples is None or Part(0, known.samples) not in known.vectors
        ]

    def _looked_up(self, indices: Iterable[int]) -> Iterator[tuple[int, Name, Known]]:
        """Each clip with its name and what the cache has of it, which is asked for many at once."""
        rest = iter(indices)
        while some := list(islice(rest, AT_ONCE)):
            names = [self._names.of(i) if self._names else Name() for i in some]
            contents = [name.content for name in names if name.content is not None]
            known = self._space.known(contents) if self._space else []
            found = dict(zip(contents, known, strict=True))
            for i, name in zip(some, names, strict=True):
                yield i, name, found[name.content] if name.content else _NOTHING

    def _lacking(self, i: int, sound: _Sound, parts: Sequence[Part]) -> Iterator[np.ndarray]:
        changed = sound.wave is not None and sound.name.has_changed()
        for part in parts:
            row = len(self.rows)
            self.rows.append((i, part))
            if part in sound.known:
                self._vectors[row] = sound.known[part]
                if self._space is not None:
                    self._space.cache.found += 1
                continue
            assert sound.wave is not None
            wave = cut(sound.wave, part)
            keep = not changed and not _is_silent(wave)
            self._asked.append((row, sound.content if keep else None, sound.samples))
            yield wave

    def _sound(self, i: int, name: Name, known: Known) -> _Sound | None:
        """None of a clip that cannot be heard."""
        if known.samples is not None:
            return _Sound(name, name.content, known.samples, known.vectors)
        wave = self._read(i)
        if wave is None:
            return None
        content = name.content
        if content is None and self._space is not None and self._names is not None:
            content = self._names.of_samples(name, wave)
            (known,) = self._space.known([content])
        return _Sound(name, content, len(wave), known.vectors, wave)


def _is_silent(wave: np.ndarray) -> bool:
    return not np.any(np.abs(wave) >= SILENCE_PEAK)
