"""Two models on the same clips: tests against their formulas, a true difference found, the null
kept, and what cannot be compared refused."""

from __future__ import annotations

import json
from itertools import product
from math import comb

import numpy as np
import pytest

from echoic.eval.bootstrap import Bootstrap
from echoic.eval.comparison import (
    BOOTSTRAP,
    MCNEMAR,
    SWAP,
    compare_results,
    holm,
    mcnemar,
    p_words,
    swapped,
    swapped_counts,
)
from echoic.eval.outcomes import Means, Result, Tags
from echoic.eval.task_score import score
from echoic.types import DataError

BOOT = Bootstrap(seed=0, resamples=200)


def hits(only_a, only_b, both=7):
    """Of two models: so many clips that only one has right."""
    a = [1.0] * only_a + [0.0] * only_b + [1.0] * both
    return np.array(a), np.array([0.0] * only_a + [1.0] * only_b + [1.0] * both)


def result(name, *outcomes, protocol=("as told",), title="ESC-50"):
    return Result(name, {"data": {"title": title}, "protocol": list(protocol)}, outcomes)


def means(values, *, clips=None, against="same", weights=None, figure="linear/accuracy"):
    clips = clips or [f"{i:04}.wav" for i in range(len(values))]
    return Means(clips, {figure: np.asarray(values, dtype=float)}, against, weights)


def tags(rng, clips, noise, truth):
    return Tags("finetune/mAP", clips, truth, [truth + noise * rng.standard_normal(truth.shape)])


# -- tests against their formulas ----------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), [(10, 2), (2, 10), (5, 5), (0, 6), (1, 0), (0, 0), (300, 350)])
def test_mcnemar_is_the_binomial_tail(a, b):
    tail = sum(comb(a + b, k) for k in range(min(a, b) + 1)) / 2 ** (a + b)
    assert mcnemar(*hits(a, b)) == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_mcnemar_by_hand():
    """10 against 2 of 12: 2 (1 + 12 + 66) / 4096."""
    assert mcnemar(*hits(10, 2)) == pytest.approx(158 / 4096)


def test_mcnemar_of_very_many_clips():
    assert 0.9 < mcnemar(*hits(10_000, 10_010)) <= 1
    assert mcnemar(*hits(12_000, 8_000)) < 1e-100


def test_swaps_of_hits_are_mcnemars():
    a, b = hits(8, 2)
    assert swapped(a - b, seed=0) == pytest.approx(mcnemar(a, b))
    a, b = hits(30, 14)
    assert swapped(a - b, seed=0) == pytest.approx(mcnemar(a, b), abs=0.006)


def test_swaps_are_all_ways_where_they_are_few(rng):
    gaps = rng.standard_normal(6)
    ways = [abs(np.dot(signs, gaps)) for signs in product((1, -1), repeat=6)]
    expected = np.mean(np.array(ways) >= abs(gaps.sum()) - 1e-9)
    assert swapped([*gaps, 0, 0], seed=0) == pytest.approx(expected)
    assert swapped([0.0, 0.0], seed=0) == 1.0
    assert swapped(np.full(40, 0.1), seed=0) == 1 / 10_001  # never 0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == [
        pytest.approx(0.03),
        pytest.approx(0.06),
        pytest.approx(0.06),
    ]
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


# -- comparing -----------------------------------------------------------------------------------


def test_right_or_wrong_goes_by_mcnemar():
    a, b = hits(10, 2)
    (found,) = compare_results(result("a", means(a)), result("b", means(b)), bootstrap=BOOT).figures
    assert (found.test, found.p, found.p_holm) == (MCNEMAR, mcnemar(a, b), mcnemar(a, b))
    assert (found.a, found.b) == (a.mean(), b.mean())
    assert found.difference == pytest.approx(8 / 19)
    assert found.low < found.difference < found.high
    assert (found.clips, found.queries) == (19, 19)


def test_seeds_averaged_go_by_swaps(rng):
    a, b = (rng.integers(0, 4, 50) / 3 for _ in range(2))
    (found,) = compare_results(result("a", means(a)), result("b", means(b)), bootstrap=BOOT).figures
    assert (found.test, found.p) == (SWAP, swapped(a - b, seed=0))


def test_queries_of_a_clip_are_swapped_together():
    """Five captions of each of eight clips all go one way: eight clips differ, not forty."""
    clips = [f"{i // 5}.wav" for i in range(40)]
    a, b = np.ones(40), np.zeros(40)
    sides = (result(n, means(v, clips=clips)) for n, v in (("a", a), ("b", b)))
    (found,) = compare_results(*sides, bootstrap=BOOT).figures
    assert (found.test, found.clips, found.queries) == (SWAP, 8, 40)
    assert found.p == pytest.approx(2 / 2**8)


def test_order_of_clips_does_not_matter(rng):
    a, b = (rng.random(20).round(2) for _ in range(2))
    clips = [f"{i // 2:02}" for i in range(20)]
    mixed = np.concatenate([[i, i + 1] for i in 2 * rng.permutation(10)])  # clips, not captions
    other = means(b[mixed], clips=[clips[i] for i in mixed])
    sides = result("a", means(a, clips=clips)), result("b", means(b, clips=clips))
    plain = compare_results(*sides, bootstrap=BOOT)
    assert compare_results(sides[0], result("b", other), bootstrap=BOOT) == plain


def test_folds_count_alike():
    """The value is that of the result: the mean over folds of unlike size."""
    weights = np.array([0.75] * 4 + [1.5] * 2)
    a, b = means([1, 1, 1, 1, 0, 0], weights=weights), means([0, 0, 1, 1, 1, 0], weights=weights)
    (found,) = compare_results(result("a", a), result("b", b), bootstrap=BOOT).figures
    assert (found.a, found.b) == (0.5, 0.5)
    assert found.difference == pytest.approx(0.0)


def test_map_is_compared_by_resampling_clips(rng):
    truth = rng.random((150, 6)) < 0.3
    clips = [f"{i:03}" for i in range(150)]
    good, poor = tags(rng, clips, 0.6, truth), tags(rng, clips, 1.2, truth)
    (found,) = compare_results(result("a", good), result("b", poor), bootstrap=BOOT).figures
    assert found.test == BOOTSTRAP
    assert found.a == pytest.approx(score(good.runs[0], truth, "many"))
    assert 0 < found.low < found.difference < found.high
    assert found.p == pytest.approx(2 / 201)
    order = rng.permutation(150)
    mixed = Tags("finetune/mAP", [clips[i] for i in order], truth[order], [poor.runs[0][order]])
    (again,) = compare_results(result("a", good), result("b", mixed), bootstrap=BOOT).figures
    assert again == found
    louder = Tags("finetune/mAP", clips, truth, [1000 * poor.runs[0]])  # scale means nothing
    (scaled,) = compare_results(result("a", poor), result("b", louder), bootstrap=BOOT).figures
    assert (scaled.difference, scaled.p) == (0.0, 1.0)


def test_a_true_difference_is_found(rng):
    a, b = (rng.random(400) < 0.9).astype(float), (rng.random(400) < 0.75).astype(float)
    (found,) = compare_results(result("a", means(a)), result("b", means(b)), bootstrap=BOOT).figures
    assert found.p < 0.001
    assert found.low > 0


@pytest.mark.parametrize("seeds", [1, 3])
def test_without_a_difference_p_is_uniform(seeds, rng):
    """Two runs of the same: at most a twentieth is called different at 5 %, give or take. With few
    clips that differ a percentile bootstrap would call twice as many."""
    ps = []
    for _ in range(300):
        hard = rng.uniform(0.85, 1.0, size=(1, 60))
        a, b = ((rng.random((seeds, 60)) < hard).mean(axis=0) for _ in range(2))
        ps.append(mcnemar(a, b) if seeds == 1 else swapped(a - b, seed=0, swaps=400))
    assert np.mean(np.array(ps) <= 0.05) <= 0.08
    assert np.mean(np.array(ps) <= 0.5) <= 0.57
    assert np.mean(ps) >= 0.45


def test_several_figures_are_corrected(rng):
    a, b = hits(10, 2)
    sides = [
        Means([f"{i}" for i in range(19)], {"x/R@1": v, "x/R@5": v, "x/only": v}, "same")
        for v in (a, b)
    ]
    sides[1] = Means(sides[1].clips, {k: sides[1].values[k] for k in ("x/R@5", "x/R@1")}, "same")
    found = compare_results(result("a", sides[0]), result("b", sides[1]), bootstrap=BOOT)
    assert [each.figure for each in found.figures] == ["x/R@1", "x/R@5"]
    assert [each.p_holm for each in found.figures] == [pytest.approx(2 * mcnemar(a, b))] * 2
    assert "p (Holm)" in [column.header for column in found.table().columns]
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["figures"][0]["figure"] == "x/R@1"
    assert document["a"]["result"] == "a"


def test_counts_are_swapped_clip_by_clip(rng):
    """Of shares of counts by all ways; and of a mean as `swapped` has it."""
    a, b = (rng.integers(0, 5, size=(6, 2)).astype(float) for _ in range(2))
    a[:, 1] = b[:, 1] = 5.0
    a[5] = b[5]

    def figures(sums):
        return sums[:, :1] / sums[:, 1:]

    seen, beyond = abs(figures(a.sum(0)[None]) - figures(b.sum(0)[None])), []
    for ways in product((False, True), repeat=6):
        chosen = np.array(ways)[:, None]
        x, y = np.where(chosen, b, a), np.where(chosen, a, b)
        beyond.append(abs(figures(x.sum(0)[None]) - figures(y.sum(0)[None])) >= seen - 1e-9)
    (p,) = swapped_counts(a, b, figures, seed=0)
    assert p == pytest.approx(np.mean(beyond))
    assert p == pytest.approx(swapped(a[:, 0] - b[:, 0], seed=0))
    assert swapped_counts(a, a, figures, seed=0).tolist() == [1.0]
    gaps = rng.standard_normal(60) + 0.2
    many = np.stack([gaps, np.ones(60)], axis=1)
    (p,) = swapped_counts(many, many * [0, 1], figures, seed=0)
    assert p == pytest.approx(swapped(gaps, seed=0), abs=0.02)


def test_judges_that_one_of_two_lacks_are_no_other_way(rng):
    told = [f"Captions' judges: {name}; SPICE needs Java." for name in ("METEOR", "none")]
    sides = [result(n, means(hits(9, 2)[i]), protocol=("as told", told[i]))
             for i, n in enumerate("ab")]  # fmt: skip
    assert not compare_results(*sides, bootstrap=BOOT).differs


# -- what is refused -----------------------------------------------------------------------------


THREE = ["0000.wav", "0001.wav", "0002.wav"]


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (means([1, 0, 1], clips=[*THREE[:2], "x"]), "1 clips only in the first, 1 only"),
        (means([1, 0], clips=THREE[:2]), "1 clips only in the first, 0 only"),
        (means([1, 0, 1], clips=[*THREE[:2], THREE[1]]), "1 clips only in the first"),
        (means([1, 0, 1], against="other"), "not held against the same labels"),
        (
            means([1, 0, 1], figure="zero_shot/accuracy"),
            "in both: a has linear/accuracy; b has zer",
        ),
        (Tags("linear/accuracy", THREE, np.eye(3) > 0, []), "same labels"),
    ],
)
def test_other_data_is_refused(other, line):
    with pytest.raises(DataError, match=line) as caught:
        compare_results(result("a", means([1, 1, 0])), result("b", other, title="US8K"))
    assert "\n" not in str(caught.value)


def test_clips_with_other_numbers_of_captions_are_refused():
    first = means([1, 1, 0], clips=["a", "a", "b"])
    second = means([1, 1, 0], clips=["a", "b", "b"])
    with pytest.raises(DataError, match="queries of a clip differ in number"):
        compare_results(result("a", first), result("b", second))


def test_other_protocols_are_refused_unless_asked_for():
    one, two = means([1, 1, 0]), means([1, 0, 0])
    seeds = (["As told. Seeds 42, 43.", "same"], ["As told. Seeds 1.", "same"])
    sides = [result(n, m, protocol=p) for n, m, p in zip("ab", (one, two), seeds, strict=True)]
    with pytest.raises(DataError, match=r"A: Seeds 42, 43; B: Seeds 1 \(--any-protocol"):
        compare_results(*sides)
    found = compare_results(*sides, any_protocol=True)
    assert found.differs == ("A: Seeds 42, 43", "B: Seeds 1")
    more = ["same", "As told. Chosen: epoch 3. Seeds 42, 43.", "Captions too."]
    more = result("b", two, protocol=more)
    assert compare_results(sides[0], more).differs == ()


def test_p_in_words():
    assert [p_words(p) for p in (0.0004, 0.001, 0.0496, 1.0)] == [
        "< 0.001",
        "0.001",
        "0.050",
        "1.000",
    ]
