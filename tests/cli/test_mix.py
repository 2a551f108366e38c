from __future__ import annotations

from pathlib import Path

import pytest

from echoic.cli.common import Missing, TableOptions
from echoic.cli.mix import named_places, open_data
from echoic.types import EchoicError
from tests import on_disk

TABLE = TableOptions(None, None, None, None, Missing.error)


@pytest.fixture
def places(tmp_path):
    for name, count in (("a", 20), ("b", 10)):
        files = on_disk.write_tones(tmp_path / name, count)
        on_disk.write_table(tmp_path / name / "captions.csv", files)
    return tmp_path


def opened(data, weights=(), **options):
    return open_data(data, weights, TABLE, **{"valid_share": 0.1, "seed": 0, **options})


def test_one_source_is_itself(places):
    source, held = opened([str(places / "a")])
    assert len(source.clips) + len(held.clips) == 20
    assert source.clips[0].key.startswith("tone")
    assert not hasattr(source, "order")
    assert opened([str(places / "a")], window=2)[0].order.local


def test_several_by_weight(places):
    data = [f"a={places / 'a'}", f"b={places / 'b'}"]
    source, held = opened(data, ["a=1", "b=3"])
    keys = {clip.key for clip in source.clips}
    assert not keys & {clip.key for clip in held.clips}
    assert {key[:2] for key in keys} == {clip.key[:2] for clip in held.clips} == {"a/", "b/"}
    assert source.order.shares.tolist() == [0.25, 0.75]
    plain, _ = opened(data)
    assert plain.order.count == len(plain.clips)
    assert opened(data, valid_share=0.0)[1] is None


@pytest.mark.parametrize(
    ("data", "weights", "line"),
    [
        (
            ["x.csv", "a=y.csv"],
            [],
            "--data x.csv: of several, each needs a name: --data NAME=x.csv",
        ),
        (["a=x", "a=y"], [], "--data a=y: 'a' is taken"),
        (["x.csv"], ["a=1"], "--weight a=1: weights go with several --data NAME=PATH"),
        (["a=x", "b=y"], ["a"], "--weight a: write it as NAME=NUMBER"),
    ],
)
def test_what_is_wrong(data, weights, line):
    with pytest.raises(EchoicError) as caught:
        opened(data, weights)
    assert str(caught.value) == line


def test_names(tmp_path):
    assert named_places(["s3://b/x"]) == {"x": Path("s3://b/x")}
    assert named_places(["a=s3://b/x"]) == {"a": Path("s3://b/x")}
    assert named_places(["https://h/x.tar?sig=1"]) == {"x": Path("https://h/x.tar?sig=1")}
    odd = tmp_path / "a=b.csv"
    odd.touch()
    assert named_places([str(odd)]) == {"a=b": odd}
