"""Which clips train and which judge: held out by a hash of their keys, so that a clip stays on its
side however much data joins it; or by a column of the table, as of folds."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from echoic.data.clips import Source, SubsetSource, places_of
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
    if share == 0 or len(source.clips) < _FEW_CLIPS:
        return source, None
    places = places_of(source.clips) / 2.0**64
    limit = max(share, float(np.partition(places, _LEAST_HELD - 1)[_LEAST_HELD - 1]))
    kept, held = (np.flatnonzero(side) for side in (places > limit, places <= limit))
    if not len(kept):
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
