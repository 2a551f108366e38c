"""Holding clips out by a hash of their keys: a clip stays on its side however much data joins
it."""

from __future__ import annotations

from hashlib import blake2b

from echoic.data.clips import Source, SubsetSource
from echoic.types import ConfigError

_FEW_CLIPS = 8  # below this nothing is held out: two clips tell nothing, and training needs them
_LEAST_HELD = 2


def hold_out(source: Source, share: float) -> tuple[Source, Source | None]:
    """(kept, held out): about `share` of the clips, all captions of a clip on one side.

    The same keys and share give the same split on every machine. None where nothing is held out:
    `share` is 0, or there are fewer than 8 clips. Raises ConfigError on a share outside 0 to 0.5.
    """
    if not 0 <= share <= 0.5:
        raise ConfigError(f"held-out share {share}: give 0 to 0.5")
    places = [_place(clip.key) for clip in source.clips]
    if share == 0 or len(places) < _FEW_CLIPS:
        return source, None
    limit = max(share, sorted(places)[_LEAST_HELD - 1])
    held = [i for i, place in enumerate(places) if place <= limit]
    kept = [i for i, place in enumerate(places) if place > limit]
    if not kept:
        return source, None
    return SubsetSource(source, kept), SubsetSource(source, held)


def _place(key: str) -> float:
    """Where in [0, 1) a key falls."""
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
