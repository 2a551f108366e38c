"""Which clips train and which judge: held out by a hash of their keys, so that a clip stays on its
side however much data joins it; or by a column of the table, as of folds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import blake2b

from echoic.data.clips import Source, SubsetSource
from echoic.data.sources import TableSource
from echoic.types import ConfigError, DataError

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


def by_column(
    source: Source, column: str, parts: Mapping[str, Collection[str]], rest: str
) -> dict[str, Source]:
    """The clips of a table whose cell in `column` is one of a part's values; all others are `rest`.

    Values are compared as text. Raises DataError where the source is no table or has no such
    column, and where a part or the rest is left without clips.
    """
    if not isinstance(source, TableSource):
        raise DataError(f"column {column!r}: only the clips of one table can be parted by a column")
    if column not in source.rows[0]:
        raise DataError(f"no column {column!r}; the table has {', '.join(source.rows[0])}")
    cells = [str(row.get(column, "")).strip() for row in source.rows]
    part_of = {value: name for name, values in parts.items() for value in values}
    chosen: dict[str, list[int]] = {name: [] for name in (rest, *parts)}
    for i, cell in enumerate(cells):
        chosen[part_of.get(cell, rest)].append(i)
    for name, indices in chosen.items():
        if not indices:
            found = ", ".join(sorted(set(cells))[:12])
            raise DataError(f"no clip is left for {name}; column {column!r} holds {found}")
    return {name: SubsetSource(source, indices) for name, indices in chosen.items()}


def _place(key: str) -> float:
    """Where in [0, 1) a key falls."""
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
