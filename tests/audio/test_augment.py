"""Changes to sound: nothing where nothing is asked, the same by seed, and within their bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from echoic.audio.augment import FrameAugment, WaveAugment
from echoic.types import Ragged

BINS = 64
ALL = FrameAugment(stripes=2, time_share=0.3, freq_bins=8, warp=0.2, eq=0.5)
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def frames(*lengths: int, bins: int = BINS) -> Ragged:
    draw = torch.Generator().manual_seed(len(lengths))
    return Ragged.from_rows([torch.randn(n, bins, generator=draw) for n in lengths])


def ones(*lengths: int, bins: int = BINS) -> Ragged:
    return Ragged.from_rows([torch.ones(n, bins) for n in lengths])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# waves


@given(samples=st.integers(0, 400), seed=st.integers(0, 99))
def test_a_wave_augment_of_zero_is_the_identity(samples, seed):
    wave = rng(seed).standard_normal(samples).astype(np.float32)
    assert np.array_equal(WaveAugment()(wave, 16_000, rng(seed)), wave)


@given(
    samples=st.integers(1, 3000),
    seed=st.integers(0, 99),
    speed=st.floats(0, 1),
    gain_db=st.floats(0, 40),
    shift_s=st.floats(0, 0.1),
)
def test_waves_keep_their_bounds(samples, seed, speed, gain_db, shift_s):
    augment = WaveAugment(speed=speed, gain_db=gain_db, shift_s=shift_s)
    wave = rng(seed).uniform(-1, 1, samples).astype(np.float32)
    before = wave.copy()
    changed = augment(wave, 16_000, rng(seed))
    assert changed.dtype == np.float32
    assert np.array_equal(wave, before)
    assert np.array_equal(changed, augment(wave, 16_000, rng(seed)))
    most = samples * (1 + speed) + shift_s * 16_000 + 1
    assert max(1, int(samples / (1 + speed))) <= len(changed) <= most
    assert np.abs(changed).max() <= 10 ** (gain_db / 20) * 1.0001


def test_speed_changes_pitch_and_length_together():
    wave = np.sin(2 * np.pi * 500 * np.arange(16_000) / 16_000).astype(np.float32)
    ratios = set()
    for seed in range(8):
        changed = WaveAugment(speed=0.3)(wave, 16_000, rng(seed))
        ratio = len(wave) / len(changed)
        spectrum = np.abs(np.fft.rfft(changed))
        assert spectrum.argmax() * 16_000 / len(changed) == pytest.approx(500 * ratio, rel=0.01)
        assert 1 / 1.31 < ratio < 1.31
        ratios.add(round(ratio, 3))
    assert len(ratios) == 8
    assert min(ratios) < 1 < max(ratios)


def test_a_shift_puts_silence_before_the_clip():
    wave = np.ones(100, np.float32)
    leads = [len(WaveAugment(shift_s=0.1)(wave, 1000, rng(s))) - 100 for s in range(50)]
    assert 0 <= min(leads) < 20 < 80 < max(leads) <= 100
    changed = WaveAugment(shift_s=0.1)(wave, 1000, rng(0))
    assert not changed[:-100].any()
    assert np.array_equal(changed[-100:], wave)


def test_one_change_does_not_hang_on_whether_another_is_on():
    wave = rng().standard_normal(100).astype(np.float32)
    loud = WaveAugment(gain_db=6)(wave, 1000, rng(5))
    both = WaveAugment(gain_db=6, shift_s=0.1)(wave, 1000, rng(5))
    assert np.array_equal(both[-100:], loud)


# frames


@given(LENGTHS, st.integers(0, 2**62))
def test_a_frame_augment_of_zero_is_the_identity(lengths, seed):
    given_frames = frames(*lengths)
    changed = FrameAugment().seeded(seed)(given_frames)
    assert torch.equal(changed.values, given_frames.values)


@given(LENGTHS, st.integers(0, 2**62), st.sampled_from([1, 2, 16, 64]))
def test_frames_keep_their_shape_and_the_seed_fixes_them(lengths, seed, bins):
    given_frames = frames(*lengths, bins=bins)
    before = given_frames.values.clone()
    changed = ALL.seeded(seed)(given_frames)
    assert changed.lengths == tuple(lengths)
    assert changed.values.shape == before.shape
    assert torch.isfinite(changed.values).all()
    assert torch.equal(given_frames.values, before)
    assert torch.equal(ALL.seeded(seed)(given_frames).values, changed.values)


def runs(mask: torch.Tensor) -> list[int]:
    """Lengths of the stretches of True in a (N,) mask."""
    edges = torch.nn.functional.pad(mask.int(), (1, 1)).diff()
    return ((edges == -1).nonzero() - (edges == 1).nonzero()).flatten().tolist()


@given(LENGTHS, st.integers(0, 2**62), st.floats(0, 1), st.integers(0, 80), st.integers(1, 3))
def test_stripes_are_few_whole_and_no_wider_than_asked(lengths, seed, share, widest, stripes):
    augment = FrameAugment(stripes=stripes, time_share=share, freq_bins=widest)
    for clip in augment.seeded(seed)(ones(*lengths)):
        gone = clip == 0
        # a stripe of frequency reaches through every frame, one of time through every bin
        rows, columns = gone.all(dim=1), gone.all(dim=0)
        assert torch.equal(gone, rows[:, None] | columns[None, :])
        if not gone.all():
            assert len(runs(rows)) <= stripes
            assert len(runs(columns)) <= stripes
            assert sum(runs(rows)) <= stripes * share * len(clip)
            assert sum(runs(columns)) <= stripes * min(widest, BINS)


def test_one_stripe_never_takes_a_whole_clip():
    for augment in (
        FrameAugment(stripes=1, freq_bins=1000),
        FrameAugment(stripes=1, time_share=1.0),
    ):
        changed = augment.seeded(0)(ones(*[20] * 200))
        assert all(clip.any() for clip in changed)
        assert not changed.values.all()


def test_stripes_lie_anywhere_and_differ_from_clip_to_clip():
    augment = FrameAugment(stripes=1, time_share=0.4)
    gone = torch.stack([clip[:, 0] == 0 for clip in augment.seeded(0)(ones(*[30] * 300))])
    assert gone.any(dim=0).all()  # first and last frame included
    assert len(torch.unique(gone, dim=0)) > 100


@pytest.mark.parametrize(
    "augment",
    [ALL, FrameAugment(time_share=0.4), FrameAugment(freq_bins=9), FrameAugment(warp=0.2),
     FrameAugment(eq=1.0)],
    ids=["all", "time", "freq", "warp", "eq"],
)  # fmt: skip
def test_a_clips_draw_does_not_hang_on_its_neighbours(augment):
    """Neither their lengths nor their samples, so that a clip can be looked at alone."""
    mine = frames(30)[0]
    short = Ragged.from_rows([frames(3)[0], mine, frames(5)[0]])
    long = Ragged.from_rows([frames(90)[0], mine, frames(70)[0]])
    a, b = augment.seeded(7)(short)[1], augment.seeded(7)(long)[1]
    assert torch.equal(a, b)
    other = augment.seeded(8)(long)[1]
    assert not torch.equal(a, other)


def test_draws_are_moved_to_where_the_frames_are():
    on_device = frames(30, 4).to("meta")
    changed = ALL.seeded(0)(on_device)
    assert changed.values.device.type == "meta"
    assert changed.values.shape == (34, BINS)


def test_equal_clips_get_draws_of_their_own():
    one = frames(30)[0]
    for augment in (FrameAugment(warp=0.2), FrameAugment(eq=1.0), FrameAugment(freq_bins=30)):
        changed = list(augment.seeded(1)(Ragged.from_rows([one] * 3)))
        assert not torch.equal(changed[0], changed[1])
        assert not torch.equal(changed[1], changed[2])


def test_a_warp_moves_a_peak_by_its_share():
    peak = torch.zeros(1, BINS)
    peak[:, 30:33] = torch.tensor([0.5, 1.0, 0.5])
    found = [
        float(FrameAugment(warp=0.2).seeded(s)(Ragged.from_rows([peak])).values.argmax())
        for s in range(40)
    ]
    assert min(found) >= 31 * np.exp(-0.2) - 1
    assert max(found) <= 31 * np.exp(0.2) + 1
    assert max(found) - min(found) > 6


def test_an_equaliser_adds_the_same_smooth_curve_to_every_frame():
    given_frames = frames(20)
    added = FrameAugment(eq=0.5).seeded(3)(given_frames).values - given_frames.values
    torch.testing.assert_close(added, added[:1].expand_as(added), atol=1e-5, rtol=0)
    assert added.abs().max() <= 0.5
    assert added.diff(dim=1).abs().max() <= 3 / (BINS - 1) + 1e-5


@pytest.mark.parametrize(
    "wrong",
    [{"time_share": 1.1}, {"time_share": -0.1}, {"freq_bins": -1}, {"warp": -1}, {"stripes": -1}],
)
def test_bounds_of_frames_are_kept(wrong):
    with pytest.raises(ValidationError):
        FrameAugment(**wrong)
