"""Ragged batches hold their rows; errors survive a trip between processes."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from echoic.types import (
    AudioError,
    Batch,
    CheckpointError,
    ConfigError,
    DataError,
    EchoicError,
    Ragged,
)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=9))
def test_ragged_gives_back_its_rows(lengths):
    rows = [torch.arange(n * 3.0).view(n, 3) + 100 * i for i, n in enumerate(lengths)]
    ragged = Ragged.from_rows(rows)
    assert len(ragged) == len(rows)
    assert ragged.lengths == tuple(lengths)
    assert ragged.offsets.dtype == torch.int64
    assert ragged.offsets[0] == 0
    for i, (row, listed) in enumerate(zip(rows, ragged, strict=True)):
        assert torch.equal(ragged[i], row)
        assert torch.equal(listed, row)


def test_ragged_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        Ragged.from_rows([])


def test_ragged_moves_values_and_keeps_offsets():
    moved = Ragged.from_rows([torch.zeros(2), torch.zeros(3)]).to("meta")
    assert moved.values.device.type == "meta"
    assert moved.offsets.device.type == "cpu"
    assert moved.lengths == (2, 3)


def test_batch_moves_whole():
    rows = Ragged.from_rows([torch.zeros(2), torch.zeros(3)])
    batch = Batch(rows, rows, torch.arange(2), ("a", "b"), seed=5)
    moved = batch.to("meta")
    assert len(moved) == 2
    assert (moved.keys, moved.seed) == (("a", "b"), 5)
    devices = {
        moved.audio.values.device.type,
        moved.text.values.device.type,
        moved.meaning.device.type,
    }
    assert devices == {"meta"}


def test_audio_error_survives_pickling_between_processes():
    error = pickle.loads(pickle.dumps(AudioError("rain.wav", "is empty")))
    assert (error.name, error.reason, str(error)) == ("rain.wav", "is empty", "rain.wav: is empty")


@pytest.mark.parametrize("kind", [AudioError, DataError, ConfigError, CheckpointError])
def test_every_user_error_is_an_echoic_error(kind):
    assert issubclass(kind, EchoicError)
