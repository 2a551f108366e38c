"""The front ends equal the goldens, and no clip hears its neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

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
