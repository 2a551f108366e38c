"""Is one model better than another, on the same clips: differences with interval and p-value.

Interval: paired bootstrap over clips. p, two-sided, for no difference: where each clip is one
query, right or wrong, McNemar's exact test (1947; the binomial tail of the clips on which the two
differ); for other means a randomisation test that swaps the two models clip by clip, with all of a
clip's queries (Noreen 1989; Smucker et al. 2007), exact up to 13 clips that differ. F1 of events
and BLEU are no means but made of counts, and these are swapped in the same way (Yeh 2000,
cs/0008005). Macro mAP is neither, and scores of two models are not on one scale, so that they
cannot be swapped: there p is the bootstrap's own. Of several figures p stands also corrected by
Holm (1979), who holds however they hang together.

None of this holds the spread of trainings: it says what other clips would do, not other seeds.

Shapes: Q queries, N clips, C classes, K counts of a clip, F figures, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich.table import Table

from echoic.eval import events_result
from echoic.eval.bootstrap import Bootstrap
from echoic.eval.captioning import bleu_of_counts
from echoic.eval.evaluation import BLEU_FORMULA, printed
from echoic.eval.events import figures_of_sums
from echoic.eval.outcomes import Counts, Means, Outcomes, Result, Tags
from echoic.eval.ranks import Floats
from echoic.eval.task_score import MAP_RESAMPLES, draw_weights, drawn_maps, score
from echoic.types import DataError

SWAPS = 10_000
_BLOCK_VALUES = 4_000_000
_MAP_CELLS = 4_000_000_000  # clips x classes x runs x resamples: a minute
MCNEMAR, SWAP, BOOTSTRAP = "McNemar, exact", "swapped clips", "bootstrap"
# What came out, not how it was asked for: the epochs of a fine-tuning, judges that were there.
_FOUND = ("Chosen: ", "Captions' judges: ")
# From sums over clips (r, K) to figures (r, F), by the name that `Counts` give.
_FORMULAS: Mapping[str, Callable[[Floats], Floats]] = {
    events_result.FORMULA: figures_of_sums,
    BLEU_FORMULA: bleu_of_counts,
}


@dataclass(frozen=True)
class Compared:
    """One figure of models A and B, and A less B with its interval. p_holm: p, corrected for all
    figures that were compared. queries: of `clips`."""

    figure: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    test: str
    clips: int
    queries: int
    p_holm: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """names: of A and B. differs: in how they were measured, where that was allowed."""

    names: tuple[str, str]
    models: tuple[Mapping[str, Any], Mapping[str, Any]]
    data: str
    figures: tuple[Compared, ...]
    level: float
    words: tuple[str, ...]
    differs: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for programs; shares are of 1."""
        return {
            "a": {"result": self.names[0], "model": dict(self.models[0])},
            "b": {"result": self.names[1], "model": dict(self.models[1])},
            "data": self.data,
            "figures": [vars(each) for each in self.figures],
            "confidence": self.level,
            "protocol": list(self.words),
            "differs": list(self.differs),
        }

    def table(self) -> Table:
        """For people: shares in per cent, differences in points."""
        several = len(self.figures) > 1
        table = Table(
            title=f"{self.data}\nA {self.names[0]}\nB {self.names[1]}",
            title_justify="left",
            box=None,
            caption="\n".join([*self.words, *self.differs]),
            caption_justify="left",
        )
        interval = f"{100 * self.level:g} % interval"
        headings = ["figure", "A", "B", "A less B", interval, "p", "clips"]
        headings += ["p (Holm)"] if several else []
        for heading in headings:
            table.add_column(heading, justify="left" if heading == "figure" else "right")
        for each in self.figures:
            row = [
                each.figure.replace("_", " "),
                printed(each.figure, each.a),
                printed(each.figure, each.b),
                f"{100 * each.difference:+.1f}",
                f"{100 * each.low:+.1f} to {100 * each.high:+.1f}",
                p_words(each.p),
                str(each.clips),
            ]
            table.add_row(*row, *([p_words(each.p_holm)] if several else []))
        return table


def compare_results(
    a: Result, b: Result, *, bootstrap: Bootstrap | None = None, any_protocol: bool = False
) -> Comparison:
    """Model `a` less model `b` in all figures of clips that both have.

    Raises DataError in one line where the two were measured on other data, clips or truth; in other
    ways (windows, prompts, folds, seeds), unless `any_protocol`; or have no figure in common.
    """
    boot = bootstrap or Bootstrap(seed=0)
    pairs = [(x, y) for x in a.outcomes for y in b.outcomes if set(x.figures) & set(y.figures)]
    if not pairs:
        have = (", ".join(f for each in r.outcomes for f in each.figures) for r in (a, b))
        told = "; ".join(f"{r.name} has {f}" for r, f in zip((a, b), have, strict=True))
        raise DataError(f"no figure was measured in both: {told}")
    aligned = [_aligned(x, y, f"{a.name} ({a.data}) and {b.name} ({b.data})") for x, y in pairs]
    differs = _protocols(a, b)
    if differs and not any_protocol:
        raise DataError(
            f"{a.name} and {b.name} were measured in different ways: {'; '.join(differs)} "
            "(--any-protocol compares nevertheless)"
        )
    figures = [found for x, y in aligned for found in _compared(x, y, boot)]
    corrected = holm([each.p for each in figures])
    return Comparison(
        names=(a.name, b.name),
        models=(a.document.get("model", {}), b.document.get("model", {})),
        data=a.data,
        figures=tuple(replace(f, p_holm=p) for f, p in zip(figures, corrected, strict=True)),
        level=boot.level,
        words=_words({each.test for each in figures}),
        differs=differs,
    )


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided exact p of the hits (N,) of 0 and 1 of two models on the same clips."""
    first, second = np.asarray(a), np.asarray(b)
    only_a, only_b = (int((x > y).sum()) for x, y in ((first, second), (second, first)))
    n, least = only_a + only_b, min(only_a, only_b)
    tail, term = 0, 1
    for k in range(least + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * tail / 2**n)


def swapped(gaps: ArrayLike, *, seed: int, swaps: int = SWAPS) -> float:
    """Two-sided p of the differences (N,) of clips, each of which might have the other sign: over
    all ways where they are no more than `swaps`, else over so many drawn ones and the one seen."""
    moved = np.asarray(gaps, dtype=np.float64)
    moved = moved[moved != 0]
    seen = abs(moved.sum()) - 1e-9 * np.abs(moved).sum()
    if 2 ** len(moved) <= swaps:
        ways = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((np.abs((2 * ways - 1) @ moved) >= seen).mean())
    rng, beyond = np.random.default_rng(seed), 0
    block = max(1, _BLOCK_VALUES // len(moved))
    for start in range(0, swaps, block):
        ways = rng.integers(2, size=(min(block, swaps - start), len(moved)), dtype=np.int8)
        beyond += int((np.abs((2.0 * ways - 1) @ moved) >= seen).sum())
    return (1 + beyond) / (1 + swaps)


def swapped_counts(
    a: Floats,
    b: Floats,
    figures: Callable[[Floats], Floats],
    *,
    seed: int,
    swaps: int = SWAPS,
) -> Floats:
    """(F,) two-sided p of `figures`, which are made of sums of the counts (N, K) of clips of two
    models: as `swapped`, each clip's counts might be the other model's."""
    moved = (a - b)[(a != b).any(axis=1)]
    sides = a.sum(axis=0), b.sum(axis=0)
    few = 2 ** len(moved) <= swaps
    rng, beyond = np.random.default_rng(seed), 0
    total = 2 ** len(moved) if few else swaps

    def gaps(ways: ArrayLike) -> Floats:
        by = np.asarray(ways, dtype=np.float64) @ moved
        return np.abs(figures(sides[0] - by) - figures(sides[1] + by))

    seen = gaps(np.zeros((1, len(moved)))) - 1e-9
    block = max(1, _BLOCK_VALUES // max(1, *a.shape))
    for start in range(0, total, block):
        rows = np.arange(start, min(start + block, total))
        drawn = rows[:, None] >> np.arange(len(moved)) & 1 if few else None
        ways = rng.integers(2, size=(len(rows), len(moved))) if drawn is None else drawn
        beyond += (gaps(ways) >= seen).sum(axis=0)
    return np.asarray(beyond / total if few else (1 + beyond) / (1 + total))


def holm(ps: Sequence[float]) -> list[float]:
    """Corrected for their number, in the order given."""
    order = np.argsort(ps, kind="stable")
    steps = np.asarray(ps)[order] * np.arange(len(ps), 0, -1)
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(p) for p in corrected]


def p_words(p: float) -> str:
    """To three digits after the point."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _aligned(a: Outcomes, b: Outcomes, where: str) -> tuple[Outcomes, Outcomes]:
    """Both in the order of their clips' keys. Raises DataError where these are not the same."""
    sides = sorted(a.clips), sorted(b.clips)
    if sides[0] != sides[1]:
        only = [len(set(x) - set(y)) for x, y in ((a.clips, b.clips), (b.clips, a.clips))]
        how = "queries of a clip differ in number"
        if any(only):
            how = f"{only[0]} clips only in the first, {only[1]} only in the second"
        raise DataError(f"{where} were not measured on the same clips: {how}")
    first, second = _sorted(a), _sorted(b)
    if isinstance(first, Tags) and isinstance(second, Tags):
        alike = np.array_equal(first.truth, second.truth)
    elif isinstance(first, Means) and isinstance(second, Means):
        alike = first.against == second.against
    elif isinstance(first, Counts) and isinstance(second, Counts):
        same = first.against == second.against and first.counts.shape == second.counts.shape
        alike = same and first.formula == second.formula and first.formula in _FORMULAS
    else:
        alike = False
    if not alike:
        raise DataError(f"{where} were not held against the same labels or captions")
    return first, second


def _sorted(found: Outcomes) -> Outcomes:
    order = np.argsort(np.array(found.clips), kind="stable")
    clips = [found.clips[i] for i in order]
    if isinstance(found, Tags):
        runs = [run[order] for run in found.runs]
        return replace(found, clips=clips, truth=found.truth[order], runs=runs)
    if isinstance(found, Counts):
        return replace(found, clips=clips, counts=found.counts[order])
    values = {name: column[order] for name, column in found.values.items()}
    weights = None if found.weights is None else found.weights[order]
    return replace(found, clips=clips, values=values, weights=weights)


def _compared(a: Outcomes, b: Outcomes, bootstrap: Bootstrap) -> Iterable[Compared]:
    if isinstance(a, Tags) and isinstance(b, Tags):
        yield _map_compared(a, b, bootstrap)
    elif isinstance(a, Means) and isinstance(b, Means):
        for figure in (name for name in a.values if name in b.values):
            yield _mean_compared(figure, a, b, bootstrap)
    elif isinstance(a, Counts) and isinstance(b, Counts):
        yield from _counts_compared(a, b, bootstrap)


def _mean_compared(figure: str, a: Means, b: Means, bootstrap: Bootstrap) -> Compared:
    x, y = a.values[figure], b.values[figure]
    weights = np.ones(len(x)) if a.weights is None else a.weights
    clip = np.unique(np.array(a.clips), return_inverse=True)[1]
    clips = int(clip.max()) + 1
    found = bootstrap.difference(weights * x, weights * y, clip)
    if clips == len(x) and np.isin([x, y], (0.0, 1.0)).all():
        p, test = mcnemar(x, y), MCNEMAR
    else:
        p, test = swapped(np.bincount(clip, weights * (x - y)), seed=bootstrap.seed), SWAP
    return Compared(
        figure=figure,
        a=float((weights * x).mean()),
        b=float((weights * y).mean()),
        difference=found.value,
        low=found.low,
        high=found.high,
        p=p,
        test=test,
        clips=clips,
        queries=len(x),
    )


def _counts_compared(a: Counts, b: Counts, bootstrap: Bootstrap) -> Iterable[Compared]:
    figures = _FORMULAS[a.formula]
    width = a.counts.shape[1]
    gaps = bootstrap.of_sums(
        np.concatenate([a.counts, b.counts], axis=1),
        lambda sums: figures(sums[:, :width]) - figures(sums[:, width:]),
    )
    values = [figures(each.counts.sum(axis=0, keepdims=True))[0] for each in (a, b)]
    ps = swapped_counts(a.counts, b.counts, figures, seed=bootstrap.seed)
    for name, x, y, gap, p in zip(a.figures, *values, gaps, ps, strict=True):
        yield Compared(
            figure=name,
            a=float(x),
            b=float(y),
            difference=gap.value,
            low=gap.low,
            high=gap.high,
            p=float(p),
            test=SWAP,
            clips=len(a.counts),
            queries=len(a.counts),
        )


def _map_compared(a: Tags, b: Tags, bootstrap: Bootstrap) -> Compared:
    """The same clips are drawn for both, as often as time allows: 200 times at least, or as the
    bootstrap says where that is less."""
    runs = len(a.runs) + len(b.runs)
    resamples = min(bootstrap.resamples, max(MAP_RESAMPLES, _MAP_CELLS // (a.truth.size * runs)))
    weights = draw_weights(len(a.truth), resamples, bootstrap.seed)
    values, drawn = [], []
    for side in (a, b):
        values.append(np.mean([score(run, side.truth, "many") for run in side.runs]))
        drawn.append(np.mean([drawn_maps(run, side.truth, weights) for run in side.runs], axis=0))
    gaps: Floats = drawn[0] - drawn[1]
    tail = (1 - bootstrap.level) / 2
    low, high = np.quantile(gaps, [tail, 1 - tail])
    beyond = min(np.count_nonzero(gaps <= 0), np.count_nonzero(gaps >= 0))
    return Compared(
        figure=a.figure,
        a=float(values[0]),
        b=float(values[1]),
        difference=float(values[0] - values[1]),
        low=float(low),
        high=float(high),
        p=min(1.0, float(2 * (beyond + 1) / (resamples + 1))),
        test=BOOTSTRAP,
        clips=len(a.truth),
        queries=len(a.truth),
    )


def _protocols(a: Result, b: Result) -> tuple[str, ...]:
    """The first sentence in which the protocol of each is not that of the other; nothing where only
    one says more, as of captions that only one model writes."""
    told = [_sentences(each.document.get("protocol", ())) for each in (a, b)]
    only = [[s for s in x if s not in y] for x, y in (told, told[::-1])]
    return (f"A: {only[0][0]}", f"B: {only[1][0]}") if all(only) else ()


def _sentences(protocol: Iterable[str]) -> list[str]:
    every = (s.strip().rstrip(".") for words in protocol for s in str(words).split(". "))
    return [s for s in every if not s.startswith(_FOUND)]


def _words(tests: Iterable[str]) -> tuple[str, ...]:
    how = {
        MCNEMAR: "McNemar's exact test",
        SWAP: "models swapped clip by clip at random",
        BOOTSTRAP: "paired bootstrap for mAP",
    }
    used = "; ".join(words for test, words in how.items() if test in tests)
    return (f"Intervals: paired bootstrap over clips. p: {used}. Neither holds other trainings.",)
