"""Sounds as users hand them over, and how they reach a model: each item in pieces, the pieces of
many items in batches, and back to one result per item.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor

from echoic.audio.io import AudioLike, stream_audio
from echoic.data.clips import SILENCE_PEAK
from echoic.listening import AudioTower, Listening, Piece
from echoic.types import AudioError

log = logging.getLogger("echoic.items")

BLOCK_S = 10.0

Found = TypeVar("Found")


@dataclass(frozen=True)
class Stretch(Generic[Found]):
    """What was found in a stretch of an item, in samples from `start` to `stop`."""

    start: int
    stop: int
    found: Found


def hear_items(
    items: AudioLike | Iterable[AudioLike],
    tower: AudioTower,
    listening: Listening,
    hear: Callable[[Sequence[Piece]], Sequence[Found]],
    *,
    finding: str,
) -> Iterator[tuple[int, list[Stretch[Found]] | AudioError]]:
    """(index, what was found in each of its pieces, in order, or the error) of each item as soon as
    it is known, in no fixed order.

    hear: pieces, of about `tower.at_once` tokens together, -> one finding each. finding: what it is
    called, for the warning of a silent item. Memory does not grow with the number of items, nor,
    heard in windows, with their length.
    """
    heard: dict[int, list[Stretch[Found]]] = {}
    batch: list[tuple[int, Piece]] = []
    tokens = 0
    for index, piece in _pieces(items, tower, listening, finding):
        if isinstance(piece, AudioError):
            batch = [entry for entry in batch if entry[0] != index]
            heard.pop(index, None)
            yield index, piece
            continue
        if piece is not None:
            heard.setdefault(index, [])
            batch.append((index, piece))
            tokens += tower.tokens_in((piece.stop - piece.start) / tower.rate_hz)
        if tokens >= tower.at_once:
            _hear(batch, hear, heard)
            batch, tokens = [], 0
            yield from _finished(heard, unfinished=index if piece is not None else None)
    _hear(batch, hear, heard)
    yield from _finished(heard, unfinished=None)


def shortest_first(
    pieces: Sequence[Piece], hear: Callable[[Sequence[Piece]], Sequence[Found]]
) -> list[Found]:
    """What `hear` finds in each, in the order given, having heard them by length: those of equal
    length share attention calls."""
    order = sorted(range(len(pieces)), key=lambda i: pieces[i].stop - pieces[i].start)
    found = dict(zip(order, hear([pieces[i] for i in order]), strict=True))
    return [found[i] for i in range(len(pieces))]


def as_items(items: Any) -> Iterable[AudioLike]:
    """Many items, or one alone. A pair that ends in a number is one: (array, rate_hz)."""
    single = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Tensor)
    pair = isinstance(items, tuple) and len(items) == 2 and isinstance(items[1], Real)
    one = pair or isinstance(items, single) or hasattr(items, "read")
    return items if isinstance(items, Iterable) and not one else [items]


def item_name(index: int, item: object) -> str:
    """What errors call an item: its path, or its place."""
    if isinstance(item, (str, os.PathLike)):
        return os.fsdecode(item)
    named = getattr(item, "name", None)
    return named if isinstance(named, str) else f"item {index}"


def _pieces(
    items: AudioLike | Iterable[AudioLike],
    tower: AudioTower,
    listening: Listening,
    finding: str,
) -> Iterator[tuple[int, Piece | AudioError | None]]:
    """(index, piece) of all that is heard; then (index, None) at the end of the item, or its
    error."""
    for index, item in enumerate(as_items(items)):
        name = item_name(index, item)
        watch = SilenceWatch(name)
        try:
            blocks = stream_audio(item, rate_hz=tower.rate_hz, block_s=BLOCK_S, name=name)
            for piece in listening.pieces(tower, watch.passing(blocks)):
                yield index, piece
        except AudioError as error:
            yield index, error
        else:
            watch.tell(finding)
            yield index, None


class SilenceWatch:
    """Whether anything was heard in the blocks of an item that passed. name: what messages say."""

    def __init__(self, name: str) -> None:
        self._name, self._heard = name, False

    def passing(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            self._heard = self._heard or bool(np.any(np.abs(block) >= SILENCE_PEAK))
            yield block

    def tell(self, finding: str) -> None:
        """Warn where all was silent. finding: what is made of the item, such as its vector."""
        if not self._heard:
            log.warning("%s: silent; its %s says nothing", self._name, finding)


def _hear(
    batch: Sequence[tuple[int, Piece]],
    hear: Callable[[Sequence[Piece]], Sequence[Found]],
    heard: dict[int, list[Stretch[Found]]],
) -> None:
    if not batch:
        return
    findings = hear([piece for _, piece in batch])
    for (index, piece), found in zip(batch, findings, strict=True):
        heard[index].append(Stretch(piece.start, piece.stop, found))


def _finished(
    heard: dict[int, list[Stretch[Found]]], *, unfinished: int | None
) -> Iterator[tuple[int, list[Stretch[Found]]]]:
    for index in [i for i in heard if i != unfinished]:
        yield index, heard.pop(index)
