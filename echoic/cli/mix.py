"""--data and --weight of `echoic train`: one source, or several by name and weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from echoic.cli.common import TableOptions, wrong

if TYPE_CHECKING:
    from echoic.data.clips import Source
    from echoic.data.tables import CaptionChoice


def open_data(
    data: Sequence[str],
    weights: Sequence[str],
    table: TableOptions,
    *,
    valid_share: float,
    seed: int,
    window: int | None = None,
    captions: CaptionChoice | None = None,
    need_captions: bool = True,
) -> tuple[Source, Source | None]:
    """(to train on, held out) of `--data PATH`, or of `--data a=PATH --data b=PATH --weight a=2
    --weight b=1`. Of several sources each holds out `valid_share` of its own.

    window: read shard by shard, so many at once. A training takes the order that comes with its
    source, if there is one: `getattr(source, "order", None)`. Raises EchoicError.
    """
    from echoic.data.clips import ConcatSource
    from echoic.data.mix import by_shard, mixed
    from echoic.data.split import hold_out

    places = named_places(data)
    shares = _weights(weights)
    if shares and len(places) == 1:
        raise wrong(f"--weight {weights[0]}: weights go with several --data NAME=PATH")
    kept: dict[str, Source] = {}
    held: dict[str, Source] = {}
    for name, place in places.items():
        source = table.open(place, captions=captions, need_captions=need_captions)
        rest, out = hold_out(source, valid_share)
        kept[name] = by_shard(rest, window) if window else rest
        if out is not None:
            held[name] = out
    if len(places) == 1:
        return next(iter(kept.values())), next(iter(held.values()), None)
    return mixed(kept, shares, seed=seed), ConcatSource(held) if held else None


def named_places(data: Sequence[str]) -> Mapping[str, Path]:
    """Path by name; of one `--data` the name may lack. Raises EchoicError."""
    if len(data) == 1 and (Path(data[0]).exists() or not _is_named(data[0])):
        return {Path(data[0]).resolve().stem: Path(data[0])}
    places: dict[str, Path] = {}
    for each in data:
        name, _, path = each.partition("=")
        if not _is_named(each):
            raise wrong(f"--data {each}: of several, each needs a name: --data NAME={each}")
        if name in places:
            raise wrong(f"--data {each}: {name!r} is taken")
        places[name] = Path(path)
    return places


def _is_named(text: str) -> bool:
    """`name=path`, not a path or an address that has = in it."""
    name, equals, path = text.partition("=")
    return bool(equals and name and path) and not set(name) & set("/\\:.")


def _weights(given: Sequence[str]) -> dict[str, float]:
    weights = {}
    for each in given:
        name, _, value = each.partition("=")
        try:
            weights[name] = float(value)
        except ValueError:
            raise wrong(f"--weight {each}: write it as NAME=NUMBER") from None
    return weights
