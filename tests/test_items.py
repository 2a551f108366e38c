"""Items to pieces to batches and back: each item gets what was found in its own pieces, in
order."""

from __future__ import annotations

import numpy as np
import pytest

from echoic.items import Stretch, hear_items, item_name, shortest_first
from echoic.listening import Piece, Windows
from tests import tiny
from tests.tiny import RATE, noise

LENGTHS_S = (0.5, 5.3, 0.02, 2.0, 1.3, 7.9)


@pytest.fixture(scope="module")
def tower():
    return tiny.content(max_s=2.0).model.audio


def first_sample(pieces):
    return [float(piece.content[0]) for piece in pieces]


@pytest.mark.parametrize("at_once", [1, 60, 4096])
def test_each_item_gets_what_is_its_own(tower, monkeypatch, at_once):
    monkeypatch.setattr(type(tower), "at_once", at_once)
    waves = [noise(seconds, seed) for seed, seconds in enumerate(LENGTHS_S)]
    found = dict(hear_items(waves, tower, Windows(), first_sample, finding="sample"))
    assert sorted(found) == list(range(len(waves)))
    for index, wave in enumerate(waves):
        wanted = list(Windows().pieces(tower, [wave]))
        assert found[index] == [Stretch(p.start, p.stop, float(wave[p.start])) for p in wanted]


def test_pieces_come_in_batches_in_the_order_of_items(tower, monkeypatch):
    monkeypatch.setattr(type(tower), "at_once", 60)
    starts = []

    def hear(pieces):
        starts.append([float(piece.content[0]) for piece in pieces])
        return [None] * len(pieces)

    waves = [np.full(RATE // 2, 0.01 * i, np.float32) for i in range(9)]
    list(hear_items(waves, tower, Windows(), hear, finding="nothing"))
    assert max(map(len, starts)) <= 60 // tower.tokens_in(0.5) + 1
    assert len(starts) > 1
    assert [x for batch in starts for x in batch] == pytest.approx([0.01 * i for i in range(9)])


def test_shortest_first_hears_by_length_and_answers_in_order():
    heard = []

    def hear(pieces):
        heard.extend(piece.stop for piece in pieces)
        return [10 * piece.stop for piece in pieces]

    pieces = [Piece(0, length, noise(0.01)) for length in (5, 2, 9, 2)]
    assert shortest_first(pieces, hear) == [50, 20, 90, 20]
    assert heard == [2, 2, 5, 9]


def test_names_in_errors(tmp_path):
    assert item_name(3, tmp_path / "a.wav") == str(tmp_path / "a.wav")
    assert item_name(3, b"bytes") == "item 3"
    with (tmp_path / "b.wav").open("wb") as opened:
        assert item_name(3, opened) == str(tmp_path / "b.wav")
