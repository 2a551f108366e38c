"""The CLAP score against the cosines it is made of, and torchmetrics' own CLIPScore formula."""

from __future__ import annotations

import pytest
import torch

from echoic.compat.torchmetrics import ClapScore, as_metric
from echoic.types import ConfigError, DataError
from tests import tiny

TEXTS = list(tiny.SENTENCES[:4])


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def sounds():
    return [tiny.noise(0.5, seed) if seed % 2 else tiny.tone(200 + 300 * seed, 0.5)
            for seed in range(4)]  # fmt: skip


@pytest.fixture(scope="module")
def cosines(model, sounds):
    found = (model.embed_audio(sounds) * model.embed_text(TEXTS)).sum(1)
    assert found.min() < 0 < found.max()  # else clipping is not seen
    return found


def test_it_is_the_mean_of_the_pairs_clipped_as_asked(model, sounds, cosines):
    wanted = {
        "pair": (100 * cosines).clamp(min=0).mean(),
        "mean": (100 * cosines).mean().clamp(min=0),
        "none": (100 * cosines).mean(),
    }
    for clip, value in wanted.items():
        score = ClapScore(model, clip=clip)
        score.update(sounds[:3], TEXTS[:3])
        score.update(sounds[3:], TEXTS[3])
        torch.testing.assert_close(score.compute(), value, atol=1e-3, rtol=0)
    unscaled = ClapScore(model, clip="none", scale=1.0)(sounds, TEXTS)
    torch.testing.assert_close(unscaled, cosines.mean(), atol=1e-5, rtol=0)


def test_forward_tells_of_the_batch_and_counts_it(model, sounds):
    score, whole = ClapScore(model), ClapScore(model)
    whole.update(sounds, TEXTS)
    first, second = score(sounds[:1], TEXTS[:1]), score(sounds[1:], TEXTS[1:])
    torch.testing.assert_close((first + 3 * second) / 4, score.compute(), atol=1e-4, rtol=0)
    torch.testing.assert_close(score.compute(), whole.compute(), atol=1e-4, rtol=0)


def test_reset_and_merge(model, sounds):
    one, other, whole = ClapScore(model), ClapScore(model), ClapScore(model)
    one.update(sounds[:1], TEXTS[:1])
    other.update(sounds[1:], TEXTS[1:])
    whole.update(sounds, TEXTS)
    one.merge(other)
    torch.testing.assert_close(one.compute(), whole.compute(), atol=1e-4, rtol=0)
    one.reset()
    with pytest.raises(DataError, match="before any update"):
        one.compute()


def test_what_makes_no_sense_is_told(model, sounds):
    with pytest.raises(DataError, match="4 sounds and 1 texts"):
        ClapScore(model).update(sounds, "a dog barks")
    with pytest.raises(ConfigError, match="clip 'all'"):
        ClapScore(model, clip="all")


def test_as_a_metric_of_torchmetrics(model, sounds):
    torchmetrics = pytest.importorskip("torchmetrics")
    for clip in ("pair", "mean", "none"):
        ours = ClapScore(model, clip=clip)
        metric = as_metric(ours)
        together = torchmetrics.MetricCollection({"clap": metric})
        together.update(sounds[:1], TEXTS[:1])
        together.update(sounds[1:], TEXTS[1:])
        ours.update(sounds, TEXTS)
        torch.testing.assert_close(together.compute()["clap"], ours.compute(), atol=1e-3, rtol=0)
