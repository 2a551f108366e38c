"""Clip vectors: not normalised, whole recordings in full, batches without a trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from echoic.audio.windows import plan_windows, window_weights
from echoic.data.clips import Clip
from echoic.finetune.reading import Reading
from echoic.finetune.vectors import Waves, hear
from echoic.listening import clip_vectors
from echoic.types import AudioError, Ragged
from tests import tiny


@pytest.fixture(scope="module")
def tower():
    return tiny.model(max_s=1.0).network.audio


def alone(tower, wave: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return tower(Ragged.from_rows([torch.from_numpy(wave)])).clip[0]


def test_a_vector_is_the_towers_own(tower):
    waves = [tiny.noise(0.3 + 0.05 * i, seed=i) for i in range(12)]
    found = clip_vectors(tower, waves)
    for wave, vector in zip(waves, found, strict=True):
        torch.testing.assert_close(vector, alone(tower, wave), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found.norm(dim=1), torch.ones(12), atol=1e-3)


def test_of_a_long_recording_every_sample_counts_once(tower):
    wave, window = tiny.noise(2.6), tower.rate_hz
    plan = plan_windows(len(wave), window_samples=window, hop_samples=window)
    rows = torch.stack([alone(tower, wave[a:b]) for a, b in plan])
    wanted = torch.from_numpy(window_weights(plan)).float() @ rows
    torch.testing.assert_close(clip_vectors(tower, [wave])[0], wanted, rtol=1e-4, atol=1e-5)


class Three:
    """Three clips; the middle one is broken; reads are counted."""

    clips = [Clip(key, ("x",), (), 0.5) for key in "abc"]  # noqa: RUF012

    def __init__(self) -> None:
        self.reads: list[int] = []

    def read(self, i, rate_hz):
        self.reads.append(i)
        if i == 1:
            raise AudioError("b", "damaged")
        return tiny.tone(300.0 * (i + 1), 0.5)


def test_bad_clips_are_left_out_and_read_once(tower):
    source = Three()
    waves = Waves(source, tower.rate_hz, limit_bytes=4 * tower.rate_hz)
    reading = Reading(tower, 16)
    first, second = hear(reading, waves), hear(reading, waves)
    assert first.kept == second.kept == [0, 2]
    assert torch.equal(first.vectors, second.vectors)
    assert waves.bad == {"b": "damaged"}
    assert source.reads == [0, 1, 2]


def test_what_does_not_fit_into_memory_is_read_again(tower):
    source = Three()
    waves = Waves(source, tower.rate_hz, limit_bytes=2 * tower.rate_hz)
    reading = Reading(tower, 16)
    hear(reading, waves), hear(reading, waves)
    assert source.reads == [0, 1, 2, 2]


def test_of_one_length_only_the_first_part_is_kept_in_memory(tower):
    source = Three()
    waves = Waves(source, tower.rate_hz, limit_bytes=4 * tower.rate_hz, clip_s=0.2)
    for _ in range(2):
        found = dict(waves)
        assert {i: len(wave) for i, wave in found.items()} == {0: 3200, 2: 3200}
        assert all(wave.base is None for wave in found.values())
        assert np.array_equal(found[2], tiny.tone(900, 0.5)[:3200])
    assert (source.reads, waves.bad) == ([0, 1, 2], {"b": "damaged"})


def test_a_clip_shorter_than_the_one_length_ends_in_zeros(tower):
    wave = dict(Waves(Three(), tower.rate_hz, clip_s=0.75))[0]
    assert np.array_equal(wave[:8000], tiny.tone(300, 0.5))
    assert len(wave) == 12_000
    assert not wave[8000:].any()
