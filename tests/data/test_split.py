"""Holding out: by key alone, so that a clip stays on its side when others join. Parting by a
column."""

from __future__ import annotations

import pytest

from echoic.data.clips import Clip, SubsetSource
from echoic.data.sources import TableSource
from echoic.data.split import by_column, hold_out
from echoic.types import ConfigError, DataError


class Named:
    def __init__(self, count):
        self.clips = [Clip(f"clip{i}.wav", ("a", "b"), (), 1.0) for i in range(count)]

    def read(self, i, rate_hz):
        raise NotImplementedError


def keys(source):
    return {clip.key for clip in source.clips}


def test_split_is_whole_and_about_the_share():
    kept, held = hold_out(Named(2000), 0.1)
    assert keys(kept) | keys(held) == keys(Named(2000))
    assert not keys(kept) & keys(held)
    assert 0.07 < len(held.clips) / 2000 < 0.13


def test_clips_stay_on_their_side_when_others_join():
    _, few = hold_out(Named(500), 0.1)
    _, many = hold_out(Named(2000), 0.1)
    assert keys(few) == keys(many) & keys(Named(500))


def test_small_sets_hold_two_out_and_tiny_ones_none():
    kept, held = hold_out(Named(8), 0.01)
    assert len(held.clips) == 2
    assert len(kept.clips) == 6
    assert hold_out(Named(7), 0.2)[1] is None
    assert hold_out(Named(100), 0.0)[1] is None


def test_share_out_of_range_is_refused():
    with pytest.raises(ConfigError, match=r"held-out share 0\.9"):
        hold_out(Named(9), 0.9)


def table(tmp_path, folds: list[str]) -> TableSource:
    clips = [Clip(str(i), ("x",), (), 1.0) for i in range(len(folds))]
    return TableSource(clips, [tmp_path] * len(folds), [{"fold": fold} for fold in folds])


def parted(parts) -> dict[str, list[str]]:
    return {name: [clip.key for clip in part.clips] for name, part in parts.items()}


def test_parts_by_a_column(tmp_path):
    source = table(tmp_path, ["1", "2", " 3", "1", "4"])
    parts = by_column(source, "fold", {"valid": ["3"], "test": ["1", "4"]}, "train")
    assert parted(parts) == {"train": ["1"], "valid": ["2"], "test": ["0", "3", "4"]}
    numbers = TableSource(source.clips, source.paths, [{"fold": i} for i in range(5)])
    assert parted(by_column(numbers, "fold", {"test": ["2"]}, "train"))["test"] == ["2"]


@pytest.mark.parametrize(
    ("column", "values", "line"),
    [
        ("split", ["1"], "no column 'split'; the table has fold"),
        ("fold", ["9"], "no clip is left for test; column 'fold' holds 1, 2"),
        ("fold", ["1", "2"], "no clip is left for train"),
    ],
)
def test_parts_that_cannot_be(tmp_path, column, values, line):
    with pytest.raises(DataError, match=line):
        by_column(table(tmp_path, ["1", "2"]), column, {"test": values}, "train")


def test_only_a_table_has_columns(tmp_path):
    whole = table(tmp_path, ["1", "2"])
    with pytest.raises(DataError, match="only the clips of one table"):
        by_column(SubsetSource(whole, [0]), "fold", {}, "train")
