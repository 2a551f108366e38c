"""Millions of texts as a few tensors, in place of a dictionary: a file of them opens at once, and
processes share it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from echoic.types import DataError


class Texts:
    """Many texts in three arrays and a blob, found by a digest of 64 bits and then compared.

    Raises ValueError where the arrays do not fit each other; a text that is none any more is met
    where it is read, as DataError with `where`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], name: str, where: object = "") -> None:
        self._where = f"{where}: " if where else ""
        self._blob = tensors[f"{name}.utf8"].numpy()
        self._offsets = tensors[f"{name}.offsets"].numpy()
        self._digests = tensors[f"{name}.digests"].numpy()  # sorted
        self._order = tensors[f"{name}.order"].numpy()  # the text of each digest
        count = len(self._order)
        require_offsets(self._offsets, count, len(self._blob))
        kinds = (self._blob.dtype, self._digests.dtype, self._order.dtype)
        if kinds != (np.uint8, np.int64, np.int32) or self._digests.shape != (count,):
            raise ValueError(f"{name} of other types or lengths")
        if count and not (self._order.min() >= 0 and self._order.max() < count):
            raise ValueError(f"{name} that are not there")

    @staticmethod
    def packed(texts: Sequence[str], name: str) -> dict[str, Tensor]:
        raw = [_utf8(text) for text in texts]
        digests = np.fromiter(map(_digest, raw), np.int64, len(raw))
        order = np.argsort(digests, kind="stable")
        return {
            f"{name}.utf8": torch.from_numpy(np.frombuffer(b"".join(raw), np.uint8).copy()),
            f"{name}.offsets": offsets_of([len(each) for each in raw]),
            f"{name}.digests": torch.from_numpy(digests[order]),
            f"{name}.order": torch.from_numpy(order.astype(np.int32)),
        }

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, i: int) -> str:
        try:
            return self._raw(range(len(self))[i]).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise DataError(f"{self._where}damaged: text {i} is not UTF-8; write it anew") from None

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and self.find([text]) != [-1]

    def find(self, texts: Sequence[str]) -> list[int]:
        """The place of each text, -1 of one that is not there."""
        raw = [_utf8(text) for text in texts]
        wanted = np.fromiter(map(_digest, raw), np.int64, len(raw))
        first = np.searchsorted(self._digests, wanted)
        last = np.searchsorted(self._digests, wanted, side="right")
        return [self._among(*each) for each in zip(raw, first.tolist(), last.tolist(), strict=True)]

    def _among(self, raw: bytes, first: int, last: int) -> int:
        places = (int(self._order[i]) for i in range(first, last))
        return next((place for place in places if self._raw(place) == raw), -1)

    def _raw(self, i: int) -> bytes:
        return self._blob[self._offsets[i] : self._offsets[i + 1]].tobytes()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _digest(raw: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little", signed=True)


def require_offsets(offsets: np.ndarray, count: int, end: int) -> None:
    """Raises ValueError where these are not `offsets_of` of `count` rows that end there."""
    fits = offsets.dtype == np.int64 and offsets.shape == (count + 1,)
    if not fits or offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) < 0).any():
        raise ValueError("offsets that are none")


def offsets_of(lengths: Sequence[int]) -> Tensor:
    """Lengths of n rows -> (n+1,) int64, where each begins, and the end."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), torch.tensor(lengths).long().cumsum(0)])
