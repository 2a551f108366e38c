"""Bootstrap: coverage on a known case, paired comparison, equal intervals from equal seeds."""

from __future__ import annotations

import numpy as np
import pytest

from echoic.eval.bootstrap import Bootstrap, _medians


def coverage(resample_captions_alone: bool) -> float:
    """Share of 95 % intervals that hold the truth, 0.6, when the five captions of a clip agree."""
    held = 0
    rng = np.random.default_rng(7)
    for trial in range(200):
        hits = np.repeat(rng.random(60) < 0.6, 5)
        clip = np.arange(300) if resample_captions_alone else np.repeat(np.arange(60), 5)
        bounds = Bootstrap(trial, resamples=300).mean(hits, clip)
        held += bounds.low <= 0.6 <= bounds.high
    return held / 200


def test_intervals_over_clips_cover_the_truth() -> None:
    assert 0.90 <= coverage(resample_captions_alone=False) <= 0.99


def test_intervals_over_captions_would_not() -> None:
    assert coverage(resample_captions_alone=True) < 0.75


def test_clips_with_more_captions_weigh_more() -> None:
    values, clip = [1.0, 1.0, 1.0, 0.0], [4, 4, 4, 9]
    bounds = Bootstrap(0).mean(values, clip)
    assert bounds.value == 0.75
    assert (bounds.low, bounds.high) == (0, 1)


def test_same_seed_same_interval_whatever_came_before(rng: np.random.Generator) -> None:
    values, clip = rng.random(50), np.arange(50)
    bootstrap = Bootstrap(3)
    first = bootstrap.mean(values, clip)
    bootstrap.median_rank(np.arange(50), clip)
    assert bootstrap.mean(values, clip) == first
    assert Bootstrap(4).mean(values, clip) != first


def test_columns_at_once_equal_columns_alone(rng: np.random.Generator) -> None:
    table, clip = rng.random((40, 3)), rng.integers(0, 12, 40)
    together = Bootstrap(0).means(table, clip)
    for column, bounds in zip(table.T, together, strict=True):
        alone = Bootstrap(0).mean(column, clip)
        assert (bounds.low, bounds.high) == pytest.approx((alone.low, alone.high))


def test_median_rank_equals_the_median_of_what_was_drawn(rng: np.random.Generator) -> None:
    ranks, clip = rng.integers(0, 30, 25), rng.integers(0, 9, 25)
    bootstrap = Bootstrap(5, resamples=40)
    group = np.unique(clip, return_inverse=True)[1]
    drawn = [
        np.floor(np.median(np.repeat(ranks, weights[group]))) + 1
        for block in bootstrap._draws(group)
        for weights in block
    ]
    bounds = bootstrap.median_rank(ranks, clip)
    assert bounds.value == np.floor(np.median(ranks)) + 1
    assert (bounds.low, bounds.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_difference_is_paired() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(300)  # what both models find hard
    a, b = hard + 0.02, hard + 0.01 * rng.standard_normal(300)
    gap = Bootstrap(0).difference(a, b, np.arange(300))
    assert gap.low > 0
    assert gap.p == pytest.approx(2 / 2001)
    separate = Bootstrap(0).mean(a, np.arange(300))
    assert separate.low < b.mean()  # unpaired, the gap would drown


def test_p_is_even_where_there_is_no_gap() -> None:
    rng = np.random.default_rng(1)
    p = [
        Bootstrap(i, resamples=200).difference(*rng.random((2, 40)), np.arange(40)).p
        for i in range(200)
    ]
    assert np.mean(np.array(p) < 0.1) == pytest.approx(0.1, abs=0.06)


def test_one_resample_is_enough_and_shows_in_p() -> None:
    assert Bootstrap(0, resamples=1).mean([1.0, 2.0], [0, 1]).value == 1.5
    gap = Bootstrap(0, resamples=9).difference([1.0, 2.0], [0.0, 0.0], [0, 1])
    assert gap.p == pytest.approx(2 / 10)  # none of nine, and one more


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="resamples"):
        Bootstrap(0, resamples=0)
    with pytest.raises(ValueError, match="clips"):
        Bootstrap(0).mean([1.0, 2.0], [0])
    with pytest.raises(ValueError, match="same queries"):
        Bootstrap(0).difference([1.0, 2.0], [1.0], [0, 1])


def test_medians_far_from_the_middle_are_found_too(rng: np.random.Generator) -> None:
    """Of resamples that no bootstrap would draw, as of usual ones: by writing all ranks out."""
    owner = rng.permutation(np.repeat(np.arange(300), 3))
    ranked = np.sort(rng.integers(0, 400, 900)).astype(float)
    usual = rng.multinomial(300, np.full(300, 1 / 300), size=20)
    first, last = (np.eye(300, dtype=int)[[owner[i]]] * 300 for i in (0, -1))
    for counts in (usual, np.concatenate([usual, last]), np.concatenate([first, usual])):
        found = _medians(ranked, owner, counts)
        written = [np.repeat(ranked, row[owner]) for row in counts]
        assert found.tolist() == [np.floor(np.median(ranks)) + 1 for ranks in written]
