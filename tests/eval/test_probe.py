"""Ridge probe and the plain baseline."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from echoic.eval.baseline import MEL_BINS, PENALTY, RATE_HZ, _mel_bank, baseline_features
from echoic.eval.probe import _folds, choose_penalty, pooled_tokens, ridge_probe
from echoic.eval.zeroshot import classify
from echoic.types import EchoicError


def blobs(
    rng: np.random.Generator, n: int, dim: int, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(n) % 4
    centres = np.random.default_rng(1).standard_normal((4, dim))
    return centres[labels] + noise * rng.standard_normal((n, dim)), labels


@pytest.mark.parametrize("dim", [5, 90])
def test_scores_are_the_minimum_of_the_penalised_loss(rng: np.random.Generator, dim: int) -> None:
    """Least squares on rows extended by sqrt(λ)·I, with a free intercept: primal and dual alike."""
    x, y = blobs(rng, 40, dim, 1.0)
    test = rng.standard_normal((6, dim))
    mean, spread = x.mean(0), x.std(0)
    z = np.hstack([(x - mean) / spread, np.ones((40, 1))])
    ridge = np.hstack([np.sqrt(7.0) * np.eye(dim), np.zeros((dim, 1))])
    targets = np.vstack([np.where(y[:, None] == np.arange(4), 1.0, -1.0), np.zeros((dim, 4))])
    weights = np.linalg.lstsq(np.vstack([z, ridge]), targets, rcond=None)[0]
    want = np.hstack([(test - mean) / spread, np.ones((6, 1))]) @ weights
    np.testing.assert_allclose(ridge_probe(x, y, test, penalty=7.0), want, atol=1e-9)


def test_learns_and_generalises(rng: np.random.Generator) -> None:
    x, y = blobs(rng, 200, 64, 2.0)
    test_x, test_y = blobs(rng, 100, 64, 2.0)
    assert classify(ridge_probe(x, y, test_x, penalty=10.0), test_y).metrics()["accuracy"] > 0.9


def test_scale_shift_and_dead_features_change_nothing(rng: np.random.Generator) -> None:
    x, y = blobs(rng, 60, 8, 1.0)
    test = rng.standard_normal((9, 8))
    plain = ridge_probe(x, y, test, penalty=3.0)
    scale, shift = 10.0 ** rng.integers(-6, 6, 8), rng.standard_normal(8)
    moved = ridge_probe(x * scale + shift, y, test * scale + shift, penalty=3.0)
    np.testing.assert_allclose(moved, plain, atol=1e-6)
    dead = [np.hstack([part, np.full((len(part), 1), 0.1)]) for part in (x, test)]
    dead[1][:, -1] = 99.0  # a feature that was constant in training
    np.testing.assert_allclose(ridge_probe(dead[0], y, dead[1], penalty=3.0), plain, atol=1e-12)


def test_several_labels_per_clip(rng: np.random.Generator) -> None:
    x, y = blobs(rng, 60, 8, 1.0)
    one_hot = y[:, None] == np.arange(4)
    test = rng.standard_normal((9, 8))
    same = ridge_probe(x, one_hot, test, penalty=3.0)
    np.testing.assert_array_equal(same, ridge_probe(x, y, test, penalty=3.0))
    extra = ridge_probe(x, np.hstack([one_hot, np.zeros((60, 1))]), test, penalty=3.0)
    np.testing.assert_allclose(extra[:, 4], -1)


def test_penalty_is_chosen_with_sense(rng: np.random.Generator) -> None:
    x, y = blobs(rng, 80, 120, 4.0)
    clean = choose_penalty(x, y, rng=rng, penalties=[1e-3, 1.0, 1e9])
    assert clean in (1e-3, 1.0)
    useless = choose_penalty(np.ones((80, 3)), y, rng=rng, penalties=[1.0, 1e3])
    assert useless == 1e3  # of equals the largest


def test_groups_are_not_split(rng: np.random.Generator) -> None:
    group = rng.integers(0, 24, 240)
    fold = _folds(240, group, 4, rng)
    assert all(len(set(fold[group == name])) == 1 for name in range(24))
    assert [len(set(group[fold == k])) for k in range(4)] == [6] * 4


def test_wrong_input_is_named(rng: np.random.Generator) -> None:
    x, y = blobs(rng, 8, 3, 1.0)
    with pytest.raises(ValueError, match="above 0"):
        ridge_probe(x, y, x, penalty=0.0)
    with pytest.raises(ValueError, match="do not fit"):
        ridge_probe(x, y, x[:, :2], penalty=1.0)
    with pytest.raises(EchoicError, match="training features: row 2 "):
        ridge_probe(np.where(np.arange(8)[:, None] == 2, np.nan, x), y, x, penalty=1.0)
    with pytest.raises(ValueError, match="integers from 0"):
        ridge_probe(x, y - 1, x, penalty=1.0)
    with pytest.raises(ValueError, match="2 groups"):
        choose_penalty(x, y, rng=rng, group=np.zeros(8))


def test_baseline_features_of_any_wave(rng: np.random.Generator) -> None:
    for samples in (1, 400, 512, 513, 16000):
        for wave in (np.zeros(samples), rng.standard_normal(samples)):
            found = baseline_features(wave.astype(np.float32), segments=8)
            assert found.shape == (12 * MEL_BINS,)
            assert np.isfinite(found).all()
    with pytest.raises(ValueError, match="resample first"):
        baseline_features(np.zeros(100), 8000)
    with pytest.raises(ValueError, match="mono"):
        baseline_features(np.zeros((2, 100)))


def test_baseline_leaves_silence_out_and_hears_pitch(rng: np.random.Generator) -> None:
    noise = rng.standard_normal(16000)
    # 160 samples of silence per hop, so that the frames of the noise stay the same ones.
    framed = np.concatenate([np.zeros(160 * 40), noise, np.zeros(160 * 40)])
    np.testing.assert_allclose(
        baseline_features(framed)[:MEL_BINS], baseline_features(noise)[:MEL_BINS], atol=0.15
    )
    low, high = (
        baseline_features(np.sin(2 * np.pi * f * np.arange(16000) / RATE_HZ)) for f in (200, 4000)
    )
    assert low[:MEL_BINS].argmax() < high[:MEL_BINS].argmax()
    later = baseline_features(np.concatenate([noise, 0.3 * noise]), segments=2)[4 * MEL_BINS :]
    assert (later[:MEL_BINS] > later[MEL_BINS:] + 1).all()


def test_mel_bank_has_no_empty_band() -> None:
    assert _mel_bank().shape == (MEL_BINS, 257)
    assert (_mel_bank().sum(axis=1) > 0).all()


def test_baseline_on_unseen_speakers(shared: Path) -> None:
    folder = shared / "data" / "digits"
    rows = list(csv.DictReader((folder / "meta.csv").read_text("utf-8").splitlines()))
    waves = [soundfile.read(folder / "audio" / row["file"])[0] for row in rows]
    x = np.stack([baseline_features(soxr.resample(w, 8000, RATE_HZ), segments=8) for w in waves])
    y, speaker = (np.array([row[key] for row in rows]) for key in ("label", "speaker"))
    hits = []
    for name in np.unique(speaker):
        out = speaker == name
        scores = ridge_probe(x[~out], y[~out].astype(int), x[out], penalty=PENALTY)
        hits.append(classify(scores, y[out].astype(int)).metrics()["accuracy"])
    assert np.mean(hits) == pytest.approx(0.75, abs=0.02)  # the sealed speakers: 0.637


def test_pooled_tokens_are_the_means_of_time_segments():
    tokens = np.arange(12.0)[:, None] * [1.0, -1.0]
    pooled = pooled_tokens(tokens, np.arange(12) + 0.5, segments=3)
    assert pooled.tolist()[:2] == [5.5, -5.5]
    np.testing.assert_allclose(pooled[2:4], np.arange(12.0).std())
    assert pooled[4:].tolist() == [1.5, -1.5, 5.5, -5.5, 9.5, -9.5]


def test_pooled_tokens_of_a_clip_shorter_than_its_segments():
    pooled = pooled_tokens([[1.0], [3.0]], [0.5, 1.5], segments=4)
    assert pooled.tolist() == [2.0, 1.0, 1.0, 1.0, 3.0, 3.0]
