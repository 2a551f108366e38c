"""Windows: every sample is covered, streaming equals the plan, weights count samples once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echoic.audio.windows import Plan, plan_windows, stream_windows, window_weights

WINDOWS_AND_HOPS = st.integers(1, 12).flatmap(
    lambda window: st.tuples(st.just(window), st.integers(1, window))
)


def cut(samples: np.ndarray, cuts: list[int]) -> Iterator[np.ndarray]:
    yield from np.split(samples, sorted(min(cut, len(samples)) for cut in cuts))


@pytest.mark.parametrize(
    ("total", "window", "hop", "expected"),
    [
        (0, 10, 10, []),
        (1, 10, 10, [(0, 1)]),
        (10, 10, 5, [(0, 10)]),
        (11, 10, 10, [(0, 10), (1, 11)]),
        (20, 10, 10, [(0, 10), (10, 20)]),
        (20, 10, 5, [(0, 10), (5, 15), (10, 20)]),
        (23, 10, 10, [(0, 10), (10, 20), (13, 23)]),
    ],
)
def test_plan(total: int, window: int, hop: int, expected: Plan) -> None:
    assert plan_windows(total, window_samples=window, hop_samples=hop) == expected


@given(st.integers(1, 80), WINDOWS_AND_HOPS)
def test_plan_covers_everything_and_no_window_twice(total: int, sizes: tuple[int, int]) -> None:
    window, hop = sizes
    plan = plan_windows(total, window_samples=window, hop_samples=hop)
    assert {t for start, stop in plan for t in range(start, stop)} == set(range(total))
    assert {stop - start for start, stop in plan} == {min(window, total)}
    steps = [after - before for (before, _), (after, _) in pairwise(plan)]
    assert all(step == hop for step in steps[:-1])
    assert all(1 <= step <= hop for step in steps)


@given(st.integers(0, 80), WINDOWS_AND_HOPS, st.lists(st.integers(0, 80), max_size=12))
def test_stream_equals_plan_for_any_blocks(
    total: int, sizes: tuple[int, int], cuts: list[int]
) -> None:
    window, hop = sizes
    samples = np.arange(total, dtype=np.float32)
    streamed = list(
        stream_windows(cut(samples, cuts), window_samples=window, hop_samples=hop)
    )  # kept to the end: a window must not be a view of what comes later
    plan = plan_windows(total, window_samples=window, hop_samples=hop)
    assert [(start, start + len(window)) for start, window in streamed] == plan
    for start, got in streamed:
        np.testing.assert_array_equal(got, samples[start : start + len(got)])
        assert got.dtype == np.float32


def test_stream_hands_out_a_window_as_soon_as_it_is_full() -> None:
    drawn = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal drawn
        while True:  # no end: whoever waits for it never returns
            drawn += 1
            yield np.zeros(1, np.float32)

    windows = stream_windows(blocks(), window_samples=10, hop_samples=4)
    next(windows)
    assert drawn == 10
    next(windows)
    assert drawn == 14


@given(st.integers(1, 80), WINDOWS_AND_HOPS)
def test_weights_count_every_sample_once(total: int, sizes: tuple[int, int]) -> None:
    window, hop = sizes
    plan = plan_windows(total, window_samples=window, hop_samples=hop)
    cover = np.zeros(total)
    for start, stop in plan:
        cover[start:stop] += 1
    expected = [(1 / cover[start:stop]).sum() / total for start, stop in plan]
    weights = window_weights(plan)
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_weights_of_a_tail_share_what_it_shares() -> None:
    weights = window_weights(plan_windows(25, window_samples=10, hop_samples=10))
    np.testing.assert_allclose(weights, [0.4, 0.3, 0.3])  # (0, 10), (10, 20), (15, 25)


@pytest.mark.parametrize("plan", [[], [(0, 0)], [(0, 5), (6, 10)]])
def test_weights_refuse_a_plan_with_gaps(plan: Plan) -> None:
    with pytest.raises(ValueError, match="gap"):
        window_weights(plan)


@pytest.mark.parametrize(("window", "hop"), [(10, 0), (10, 11), (0, 0), (10, -1)])
def test_a_hop_that_skips_samples_is_refused(window: int, hop: int) -> None:
    with pytest.raises(ValueError, match="hop"):
        plan_windows(100, window_samples=window, hop_samples=hop)
    with pytest.raises(ValueError, match="hop"):
        next(stream_windows([np.zeros(1)], window_samples=window, hop_samples=hop))
