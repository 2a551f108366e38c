"""Holding out: by key alone, so that a clip stays on its side when others join."""

from __future__ import annotations

import pytest

from echoic.data.clips import Clip
from echoic.data.split import hold_out
from echoic.types import ConfigError


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
