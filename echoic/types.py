"""What the layers hand to each other: ragged batches, features, losses, and the errors a user can
cause.

Shape alphabet of the whole project: B clips, T samples, F mel bins, N frames, P patches or tokens,
D width, H heads, L text tokens, C classes. ΣT reads: all the clips of a batch laid end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


class EchoicError(Exception):
    """Something that was given cannot be used. One line that names what and where; the CLI exits
    with 2. What it names may be hostile: its control characters are told as escapes, and a line
    without end is cut in the middle."""

    def __str__(self) -> str:
        return shown(super().__str__())


class AudioError(EchoicError):
    """A recording cannot be decoded or used. `name` is the file (or a stand-in), `reason` what is
    wrong."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[type[AudioError], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class DataError(EchoicError):
    """A table of captions, a folder or a shard cannot be used."""


class ConfigError(EchoicError):
    """A recipe, an option or an override is unknown or has a wrong value."""


class CheckpointError(EchoicError):
    """A checkpoint is missing, truncated, or does not fit the model."""


LONGEST_LINE = 1000


def shown(text: str) -> str:
    """A text of anybody's, fit for one line of a terminal."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    if len(text) > LONGEST_LINE:
        text = f"{text[: LONGEST_LINE // 2]} [...] {text[-LONGEST_LINE // 2 :]}"
    return text


def first_line(error: Exception) -> str:
    """What another library says of an error, in one line; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def finite(made: Tensor) -> Tensor:
    """What a model made, as it is. Raises CheckpointError where it holds NaN or infinity."""
    if not made.isfinite().all():
        raise CheckpointError(
            "the model gives NaN or infinity, so its weights are damaged or spoilt (echoic check)"
        )
    return made


@dataclass(frozen=True)
class Ragged:
    """Rows of different length laid end to end, never padded.

    values: (ΣL, ...); offsets: (B+1,) int64 on the CPU, offsets[i]:offsets[i+1] is row i.
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def from_rows(cls, rows: Sequence[Tensor]) -> Ragged:
        """Lay `rows` (each (L_i, ...), equal trailing shape) end to end. Raises ValueError on no
        rows."""
        if not rows:
            raise ValueError("a ragged batch needs at least one row")
        return cls.from_lengths(torch.cat(list(rows)), [len(row) for row in rows])

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Sequence[int]) -> Ragged:
        offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64)
        torch.cumsum(torch.tensor(lengths, dtype=torch.int64), 0, out=offsets[1:])
        return cls(values, offsets)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        return tuple(self.offsets.diff().tolist())

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Tensor:
        return self.values[int(self.offsets[i]) : int(self.offsets[i + 1])]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.values.split(list(self.lengths)))

    def to(self, device: torch.device | str) -> Ragged:
        return Ragged(self.values.to(device), self.offsets)


# A change of log-mel frames (ΣN, F), in training.
FrameChange = Callable[[Ragged], Ragged]


@dataclass(frozen=True)
class AudioFeatures:
    """What every audio encoder hands back.

    tokens: (P, D) un-pooled, clips end to end; offsets: (B+1,); time_s: (P,) centre of each token
    in its clip; clip: (B, D_out) pooled (and, after the head, projected) vector of each clip, not
    normalised.
    """

    tokens: Tensor
    offsets: Tensor
    time_s: Tensor
    clip: Tensor


@dataclass(frozen=True)
class TextFeatures:
    """tokens: (ΣL, D) un-pooled; offsets: (B+1,); clip: (B, D_out) one vector per text, not
    normalised."""

    tokens: Tensor
    offsets: Tensor
    clip: Tensor


@dataclass(frozen=True)
class Batch:
    """One training batch: a clip and one of its captions per row.

    audio: ragged samples (ΣT,) float32 at the audio tower's rate. text: ragged token ids (ΣL,)
    int64. meaning: (B,) int64; rows with equal value say the same thing, so they are not negatives
    of each other. keys: the clips' names. seed: from which every random draw inside the step is
    made.
    """

    audio: Ragged
    text: Ragged
    meaning: Tensor
    keys: tuple[str, ...]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> Batch:
        return Batch(
            self.audio.to(device),
            self.text.to(device),
            self.meaning.to(device),
            self.keys,
            self.seed,
        )
