"""The front ends equal the goldens, and no clip hears its neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echoic.audio.frontend import PRESETS, FrontEnd, laion_htk, laion_slaney, m2d, mel_filters, slap
from echoic.types import Ragged
from tests.golden import Golden, golden_tools


def logmel(spec, *clips):
    return FrontEnd(spec)(Ragged.from_rows([torch.from_numpy(np.asarray(c)) for c in clips]))


def test_mel_banks_equal_goldens(shared: Path):
    features = Golden(shared, "clap_transformers_features")
    features.check("mel_htk", mel_filters(laion_htk()).numpy())
    features.check("mel_slaney", mel_filters(laion_slaney()).numpy())
    Golden(shared, "m2d_clap_80x608").check("mel_matrix", mel_filters(m2d()).numpy().T)


def test_laion_slaney_equals_golden(shared: Path):
    tools = golden_tools(shared)
    wave = tools.make_audio(10.0, 48_000, 2)
    # LAION hears int16: clip, scale, cut toward zero.
    wave = (np.clip(wave, -1, 1) * 32767).astype(np.int16).astype(np.float32) / np.float32(32767)
    Golden(shared, "clap_htsat_tiny").check(
        "logmel_full_clip2", logmel(laion_slaney(), wave).values
    )


def test_laion_htk_equals_golden(shared: Path):
    wave = golden_tools(shared).make_audio(10.0, 48_000, 2)
    golden = Golden(shared, "clap_transformers_features")
    ours = logmel(laion_htk(), wave).values.numpy()
    want = golden.arrays["fusion_repeatpad"][2, 0]  # ten seconds exactly: four equal channels
    np.testing.assert_allclose(ours[::20, ::4], want, atol=5e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "seconds", "seed"), [("1s", 1.0, 0), ("10s", 10.0, 1), ("25s", 25.0, 2)]
)
def test_m2d_equals_golden(shared: Path, name, seconds, seed):
    wave = golden_tools(shared).make_audio(seconds, 16_000, seed)
    golden = Golden(shared, "m2d_clap_80x608")
    golden.check(f"norm_logmel_{name}", logmel(m2d(), wave).values.numpy().T)
    raw = m2d().model_copy(update={"mean": 0.0, "std": 1.0})
    golden.check(f"logmel_{name}", logmel(raw, wave).values.numpy().T)


@pytest.mark.parametrize("preset", PRESETS)
def test_clip_is_independent_of_its_neighbours(preset, rng):
    spec = PRESETS[preset]()
    clips = [rng.standard_normal(n).astype(np.float32) for n in (1, 700, 16_000, 16_001, 4_321)]
    together = logmel(spec, *clips)
    assert together.lengths == tuple(spec.frames(len(c)) for c in clips)
    for clip, frames in zip(clips, together, strict=True):
        torch.testing.assert_close(frames, logmel(spec, clip).values, rtol=0, atol=2e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_equals_torch_stft(preset, rng):
    spec = PRESETS[preset]()
    wave = torch.from_numpy(rng.standard_normal(spec.rate_hz).astype(np.float32))
    stft = torch.stft(
        wave, spec.n_fft, spec.hop_samples, spec.win_samples, torch.hann_window(spec.win_samples),
        center=True, pad_mode="reflect", return_complex=True,
    )  # fmt: skip
    power = stft.abs().square().T @ mel_filters(spec)
    log = (
        10 * power.clamp(min=spec.floor).log10() if spec.log == "db" else (power + spec.floor).log()
    )
    torch.testing.assert_close(
        logmel(spec, wave.numpy()).values, (log - spec.mean) / spec.std, rtol=1e-4, atol=1e-4
    )


def test_every_mel_bin_hears_something():
    for make in PRESETS.values():
        assert (mel_filters(make()).sum(0) > 0).all()


def test_silence_is_finite():
    assert torch.isfinite(logmel(slap(), np.zeros(16_000, np.float32)).values).all()


def test_autocast_leaves_the_spectrogram_in_full_precision(rng):
    wave = torch.from_numpy(rng.standard_normal(16_000).astype(np.float32))
    plain = FrontEnd(slap())(Ragged.from_rows([wave])).values
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(FrontEnd(slap())(Ragged.from_rows([wave])).values, plain)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("extra", [-1, 0, 1, 77])
def test_stft_at_lengths_around_whole_hops(preset, extra, rng):
    """The frames that reach over an end are made apart from those inside: none is lost or moved."""
    spec = PRESETS[preset]()
    for hops in (3, 4, 600):  # 600: more than are computed at once
        wave = torch.from_numpy(rng.standard_normal(hops * spec.hop_samples + extra)).float()
        stft = torch.stft(
            wave, spec.n_fft, spec.hop_samples, spec.win_samples,
            torch.hann_window(spec.win_samples), return_complex=True,
        )  # fmt: skip
        power = stft.abs().square().T @ mel_filters(spec)
        ours = logmel(spec.model_copy(update={"mean": 0.0, "std": 1.0}), wave.numpy()).values
        want = 10 * power.clamp(min=spec.floor).log10()
        if spec.log == "ln":
            want = (power + spec.floor).log()
        torch.testing.assert_close(ours, want, rtol=1e-4, atol=1e-4)


def test_hop_beyond_half_a_transform(rng):
    spec = slap().model_copy(update={"hop_samples": 300, "mean": 0.0, "std": 1.0})
    for samples in (300, 511, 600, 899, 900, 5_000):
        wave = rng.standard_normal(samples).astype(np.float32)
        padded = np.pad(wave, 256, mode="reflect")
        frames = np.stack([padded[i * 300 :][:512] for i in range(1 + samples // 300)])
        window = np.pad(np.hanning(401)[:-1], 56)
        power = np.abs(np.fft.rfft(frames * window)) ** 2 @ mel_filters(spec).numpy()
        ours = logmel(spec, wave).values.numpy()
        np.testing.assert_allclose(ours, 10 * np.log10(power), rtol=1e-4, atol=1e-3)


def test_neighbours_of_a_long_batch_change_nothing(rng):
    """Pieces of bounded size hold frames of several clips."""
    spec = laion_slaney()
    clips = [rng.standard_normal(n).astype(np.float32) for n in (480_000, 600, 1_200_017, 48_000)]
    for clip, frames in zip(clips, logmel(spec, *clips), strict=True):
        torch.testing.assert_close(frames, logmel(spec, clip).values, rtol=0, atol=1e-4)


def test_clips_one_after_another_equal_the_batch(rng):
    clips = [torch.from_numpy(rng.standard_normal(n)).float() for n in (5_000, 90_000, 300)]
    front_end = FrontEnd(laion_htk())
    batch = front_end(Ragged.from_rows(clips))
    lazily = front_end.of_clips(clip.clone() for clip in clips)
    assert lazily.lengths == batch.lengths
    assert torch.equal(lazily.values, batch.values)
    with pytest.raises(ValueError, match="at least one"):
        front_end.of_clips([])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("block", [1, 37, 513, 20_000, 10**9])
def test_stream_equals_the_whole(preset, block, rng):
    spec = PRESETS[preset]()
    front_end = FrontEnd(spec)
    most = 513 if block == 1 else 400_000
    for samples in (0, 1, spec.shortest_samples - 1, spec.shortest_samples, 513, most):
        wave = rng.standard_normal(samples).astype(np.float32)
        pieces = [wave[i : i + block] for i in range(0, samples, block)]
        streamed = torch.cat(list(front_end.stream(pieces)))
        whole = logmel(spec, wave).values
        torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-4)


@given(st.lists(st.integers(0, 9_000), max_size=60), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_stream_of_any_blocks_equals_the_whole(sizes, seed):
    wave = np.random.default_rng(seed).standard_normal(sum(sizes)).astype(np.float32)
    blocks = [b.copy() for b in np.split(wave, np.cumsum(sizes))]
    spec = slap()
    streamed = torch.cat(list(FrontEnd(spec).stream(blocks)))
    torch.testing.assert_close(streamed, logmel(spec, wave).values, rtol=0, atol=1e-4)


def test_stream_takes_tensors_and_arrays_that_cannot_be_written(rng):
    wave = rng.standard_normal(100_000).astype(np.float32)
    whole = logmel(slap(), wave).values
    wave.flags.writeable = False
    for blocks in (np.split(wave, 10), torch.tensor(wave).split(7_000)):
        streamed = torch.cat(list(FrontEnd(slap()).stream(blocks)))
        torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-4)


def test_stream_takes_a_buffer_that_is_filled_anew(rng):
    wave = rng.standard_normal(300_000).astype(np.float32)
    buffer = np.empty(1_000, np.float32)

    def blocks():
        for i in range(0, len(wave), len(buffer)):
            buffer[:] = wave[i : i + len(buffer)]
            yield buffer

    streamed = torch.cat(list(FrontEnd(slap()).stream(blocks())))
    torch.testing.assert_close(streamed, logmel(slap(), wave).values, rtol=0, atol=1e-4)


def test_stream_hands_out_as_it_goes(rng):
    """Constant memory: never more samples taken in than a bounded number ahead of the frames."""
    spec, taken = slap(), 0

    def blocks():
        nonlocal taken
        for _ in range(200):
            taken += 16_000
            yield np.zeros(16_000, np.float32)

    out = 0
    for piece in FrontEnd(spec).stream(blocks()):
        out += len(piece)
        assert taken - out * spec.hop_samples < 3 * 512 * spec.hop_samples
    assert out == spec.frames(200 * 16_000)


def test_gradients_reach_the_samples(rng):
    """As of upstream's tensors (`use_tensor=True`), equal to those of torch.stft."""
    spec = laion_slaney()
    plain = torch.from_numpy(rng.standard_normal(700 * 480)).float()
    wave, again = plain.clone().requires_grad_(), plain.clone().requires_grad_()
    ours = FrontEnd(spec).of_clips([plain, wave]).values
    assert torch.equal(ours[:701], logmel(spec, plain).values)
    weights = torch.from_numpy(rng.standard_normal((701, 64))).float()
    (ours[701:] * weights).sum().backward()
    stft = torch.stft(again, 1024, 480, window=torch.hann_window(1024), return_complex=True)
    power = (stft.real.square() + stft.imag.square()).T @ mel_filters(spec)
    (10 * power.clamp(min=spec.floor).log10() * weights).sum().backward()
    torch.testing.assert_close(wave.grad, again.grad, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        assert not logmel(spec, wave.detach()).values.requires_grad
