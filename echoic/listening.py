"""How a model hears a recording longer than its window: what it is handed of it.

    Windows     all of it, in windows, whose vectors are pooled so that every sample counts once
    Views       with feature fusion: the whole as one global and three local views (LAION-CLAP,
                2211.06687, section 4.1); without: one crop of a window's length
    Chunks      all of it at once, parted as upstream's code parts it (M2D)

The views and the crop lie in fixed places, or where a passed generator draws them, as upstream.
What is shorter than a window is heard the same by all, Chunks apart. B clips, T samples, N frames,
F mel bins, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from echoic.audio.views import crop_start
from echoic.audio.windows import plan_windows, stream_windows, window_weights
from echoic.encoders.m2d import Cutting, m2d_chunks, whole_columns
from echoic.towers import M2dTower, PackedTower, WindowTower
from echoic.types import AudioFeatures, ConfigError, Ragged

AudioTower: TypeAlias = PackedTower | WindowTower | M2dTower
Blocks = Iterable[np.ndarray]

CHOICES = ("windows", "centred", "laion", "m2d")


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording that is heard at once, in samples from `start` to `stop`.

    content: its samples (T,), or the frames (N, F) of a whole recording.
    """

    start: int
    stop: int
    content: np.ndarray | Tensor


class Listening(Protocol):
    """name: one of CHOICES. draw: the generator of random places, or None. cutting: how an M2D
    parts what it is handed."""

    @property
    def name(self) -> str: ...
    @property
    def draw(self) -> np.random.Generator | None: ...
    @property
    def cutting(self) -> Cutting: ...
    def pieces(self, tower: AudioTower, blocks: Blocks) -> Iterator[Piece]: ...


@dataclass(frozen=True)
class Windows:
    """Everything, window after window, in constant memory. window_s: None: what the tower hears at
    once."""

    window_s: float | None = None
    name = "windows"
    draw = None
    cutting = staticmethod(whole_columns)

    def pieces(self, tower: AudioTower, blocks: Blocks) -> Iterator[Piece]:
        length = round((self.window_s or tower.max_s) * tower.rate_hz)
        for start, window in stream_windows(blocks, window_samples=length, hop_samples=length):
            yield Piece(start, start + len(window), window)


@dataclass(frozen=True)
class Views:
    """Fusion's views, or one crop, in the middle or where `draw` says."""

    draw: np.random.Generator | None = None
    cutting = staticmethod(whole_columns)

    @property
    def name(self) -> str:
        return "centred" if self.draw is None else "laion"

    def pieces(self, tower: AudioTower, blocks: Blocks) -> Iterator[Piece]:
        if tower.fused:
            assert isinstance(tower, WindowTower)
            frames, duration_s = tower.frames_of(blocks)
            yield Piece(0, round(duration_s * tower.rate_hz), frames)
            return
        whole = np.concatenate(list(blocks))
        length = round(tower.max_s * tower.rate_hz)
        start = crop_start(len(whole), length, self.draw)
        yield Piece(start, min(len(whole), start + length), whole[start : start + length])


@dataclass(frozen=True)
class Chunks:
    """A whole recording at once, for an M2D that parts it as upstream does."""

    name = "m2d"
    draw = None
    cutting = staticmethod(m2d_chunks)

    def pieces(self, tower: AudioTower, blocks: Blocks) -> Iterator[Piece]:
        whole = np.concatenate(list(blocks))
        yield Piece(0, len(whole), whole)


def listening(
    tower: AudioTower, choice: str | None = None, generator: np.random.Generator | None = None
) -> Listening:
    """The way of hearing by its name; None is the tower's own: all of a long recording, by views
    where it has fusion, else by windows.

    Raises ConfigError on an unknown name, on "laion" without a generator, and on "m2d" for another
    model.
    """
    choice = choice or ("centred" if tower.fused else "windows")
    if choice not in CHOICES:
        raise ConfigError(f"long {choice!r}: there are {', '.join(CHOICES)}")
    if (choice == "laion") != (generator is not None):
        raise ConfigError(
            'long "laion" draws its places at random: it needs a generator, and no other does'
        )
    if choice == "m2d":
        if not isinstance(tower, M2dTower):
            raise ConfigError('long "m2d" is for M2D models')
        return Chunks()
    return Windows() if choice == "windows" else Views(generator)


Hear = Callable[[Ragged], Tensor]


class Hearing(Protocol):
    """What `clip_vectors` needs of a tower, or of what stands for one."""

    @property
    def rate_hz(self) -> int: ...
    @property
    def longest_s(self) -> float: ...
    @property
    def at_once(self) -> int: ...
    def tokens_in(self, duration_s: float) -> int: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def __call__(self, audio: Ragged) -> AudioFeatures: ...


@torch.no_grad()
def clip_vectors(
    tower: Hearing,
    waves: Iterable[np.ndarray],
    hear: Hear | None = None,
    *,
    longest_s: float | None = None,
) -> Tensor:
    """(B, D) of waves (T,) at the tower's rate, on the CPU, not normalised; (0,) of none. hear:
    ragged samples -> (B, D); None: the tower's own clip vectors.

    Of a wave longer than `longest_s` (None: what the tower hears at once), the mean over windows in
    which every sample counts once. Memory does not grow with the number of waves.
    """
    hear = hear or (lambda audio: tower(audio).clip)
    longest_s = tower.longest_s if longest_s is None else longest_s
    rows: list[Tensor] = []
    batch: list[_Share] = []
    tokens = 0
    for row, wave in enumerate(waves):
        rows.append(torch.zeros(()))
        plan = [(0, len(wave))]
        if len(wave) > longest_s * tower.rate_hz:
            length = round(longest_s * tower.rate_hz)
            plan = plan_windows(len(wave), window_samples=length, hop_samples=length)
        for (start, stop), weight in zip(plan, window_weights(plan), strict=True):
            batch.append(_Share(row, float(weight), wave[start:stop]))
            tokens += tower.tokens_in((stop - start) / tower.rate_hz)
            if tokens >= tower.at_once:
                _add(tower, hear, batch, rows)
                batch, tokens = [], 0
    _add(tower, hear, batch, rows)
    return torch.stack(rows) if rows else torch.empty(0)


@dataclass(frozen=True)
class _Share:
    """samples (T,) that are `weight` of what stands in row `row`."""

    row: int
    weight: float
    samples: np.ndarray


def _add(tower: Hearing, hear: Hear, batch: Sequence[_Share], rows: list[Tensor]) -> None:
    """Hear each at once, and add it to its row."""
    if batch:
        audio = Ragged.from_rows([torch.from_numpy(each.samples) for each in batch])
        clips = hear(audio.to(next(tower.parameters()).device)).float().cpu()
        for each, vector in zip(batch, clips, strict=True):
            rows[each.row] = rows[each.row] + each.weight * vector
