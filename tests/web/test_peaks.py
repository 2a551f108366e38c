"""Outlines: true to the samples, of any length in the same memory."""

from __future__ import annotations

import numpy as np
import pytest

from echoic.audio.blocks import regroup
from echoic.web.peaks import MOST, Outline, drawn, outlined
from tests import tiny


def test_a_short_one_is_told_sample_by_stretch():
    wave = np.array([0.5, -1, *[0] * 62, 1, 0.25], np.float32)
    assert drawn(outlined([wave]).rows(), 10) == [[-1, 0.504], [0.252, 1]]


@pytest.mark.parametrize("block", [1000, 65_536, 100_003])
def test_its_extremes_stand_where_they_are_heard(block, rng):
    wave = (0.1 * rng.standard_normal(2_000_000)).clip(-0.6, 0.6).astype(np.float32)
    for place, value in ((0.1, -1.0), (0.5, 0.9), (0.9, 0.8)):
        wave[int(place * len(wave))] = value
    outline = outlined(regroup([wave], block))
    rows = drawn(outline.rows(), 100)
    assert outline.samples == len(wave)
    assert len(rows) == 100
    beyond = [i for i, (low, high) in enumerate(rows) if max(-low, high) > 0.7]
    assert [abs(i - at) <= 1 for i, at in zip(beyond, (10, 50, 90), strict=True)] == [True] * 3


def test_how_blocks_are_cut_changes_nothing():
    wave = tiny.noise(60)
    rows = [outlined(regroup([wave], size)).rows() for size in (777, 16_000, len(wave))]
    for other in rows[1:]:
        np.testing.assert_array_equal(rows[0], other)


def test_memory_does_not_grow_with_length():
    outline, block = Outline(), tiny.noise(4)
    sizes = []
    for _ in range(900):  # an hour
        outline.add(block)
        sizes.append(sum(part.nbytes for part in outline._whole) + outline._rest.nbytes)
    assert max(sizes) < 300_000
    assert MOST / 2 - 1 <= len(outline.rows()) <= MOST + 1


def test_no_more_points_than_there_are():
    assert drawn(outlined([np.zeros(64 * 3, np.float32)]).rows(), 800) == [[0, 0]] * 3
    assert drawn(Outline().rows(), 5) == []
