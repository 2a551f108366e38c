"""PSDS, the polyphonic sound detection score (Bilen et al. 2020, 1910.08440): how many events are
found at how many false alarms an hour, over all thresholds at once.

A stretch over the threshold counts as right where enough of it lies in events of its class (dtc);
an event counts as found where right stretches cover enough of it (gtc); a wrong stretch that lies
in another class's events enough (cttc) is a cross trigger. What is counted changes only where the
threshold passes a score of a recording: so each recording gives its changes once, and every
threshold is exact (Ebbers et al. 2022, 2201.13148), resampled recordings too.

R recordings, N steps in time, C classes, K thresholds, S stretches, M events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.ranks import Floats, Ints, check_finite
from echoic.types import EchoicError

RESAMPLES = 200  # each draws every curve anew
_HOUR_S = 3600.0
_ROUNDING = 5e-7  # criteria are met to a microsecond
_BLOCK_VALUES = 2_000_000


class Timed(Protocol):
    """Something that sounds from onset to offset, in seconds."""

    @property
    def onset_s(self) -> float: ...
    @property
    def offset_s(self) -> float: ...
    @property
    def label(self) -> str: ...


@dataclass(frozen=True)
class Scored:
    """A recording: what sounds in it, and scores over time.

    edges_s: (N+1,) where steps begin, and the end; scores: (N, C), larger for likelier. Only their
    order within a class matters.
    """

    key: str
    truth: Sequence[Timed]
    edges_s: Floats
    scores: Floats

    @property
    def duration_s(self) -> float:
        return float(self.edges_s[-1])


@dataclass(frozen=True)
class Scenario:
    """What counts as found. alpha_ct: weight of cross triggers among false alarms, as the mean over
    the other classes; alpha_st: of the deviation over classes. Alarms beyond `max_alarms` an hour
    are not looked at."""

    name: str
    dtc: float
    gtc: float
    cttc: float | None = None
    alpha_ct: float = 0.0
    alpha_st: float = 1.0
    max_alarms: float = 100.0


# DCASE 2021 task 4 and since: to react in time; and not to mix classes up.
PSDS1 = Scenario("psds1", dtc=0.7, gtc=0.7)
PSDS2 = Scenario("psds2", dtc=0.1, gtc=0.1, cttc=0.3, alpha_ct=0.5)


@dataclass(frozen=True)
class _Changes:
    """Of a class: by how much events found, false alarms and cross triggers (K, 3; these an hour of
    the class where they fall, over the number of others) change where the threshold falls to a
    score of recording `at` (K,), from the highest score to the lowest. last: of each run of equal
    scores."""

    at: Ints
    counts: Floats
    last: Ints


@dataclass(frozen=True)
class Psds:
    """labels: those that have an event; others have nothing to find and are left out. events: (R,
    C) of each; hours: (R,)."""

    scenario: Scenario
    labels: tuple[str, ...]
    changes: tuple[_Changes, ...]
    events: Floats
    hours: Floats

    @cached_property
    def value(self) -> float:
        return self._value(np.ones(len(self.hours)))

    @property
    def per_class(self) -> Mapping[str, float]:
        """The area under each class's own curve."""
        curves = self._curves(np.ones(len(self.hours)))
        return {name: self._area([curves[i]]) for i, name in enumerate(self.labels)}

    def interval(self, bootstrap: Bootstrap) -> Interval:
        """By resampling recordings, at most 200 times, and moved so that their median is the value:
        a resample has fewer different events, so that classes differ more, and scores lower. A
        class that it has no event of is left out; a class's share of the time is that in all."""
        rng, count = np.random.default_rng(bootstrap.seed), len(self.hours)
        draws = min(bootstrap.resamples, RESAMPLES)
        values = []
        for _ in range(draws):
            picks = rng.integers(count, size=count)
            values.append(self._value(np.bincount(picks, minlength=count).astype(np.float64)))
        tail = (1 - bootstrap.level) / 2
        low, middle, high = np.quantile(values, [tail, 0.5, 1 - tail])
        by = self.value - middle
        return Interval(
            self.value, max(0.0, float(low + by)), min(1.0, float(high + by)), bootstrap.level
        )

    def _value(self, weights: Floats) -> float:
        return self._area(list(self._curves(weights).values()))

    def _curves(self, weights: Floats) -> dict[int, tuple[Floats, Floats]]:
        """Of each class with events: alarms an hour, ascending, as far as they are looked at, and
        the share found with so many or fewer. weights: (R,) how often each recording counts."""
        hours, events = weights @ self.hours, weights @ self.events
        curves = {}
        for i, each in enumerate(self.changes):
            if events[i]:
                summed = np.cumsum(each.counts * weights[each.at, None], axis=0)[each.last]
                found, alarms, crossed = np.vstack([np.zeros(3), summed]).T
                crossed *= self.hours.sum() / hours
                rate = alarms / hours + self.scenario.alpha_ct * crossed
                near = np.flatnonzero(rate <= self.scenario.max_alarms)
                order = near[np.lexsort((found[near], rate[near]))]
                curves[i] = (rate[order], np.maximum.accumulate(found[order]) / events[i])
        return curves

    def _area(self, curves: Sequence[tuple[Floats, Floats]]) -> float:
        """Under the mean over classes less their deviation, up to the most alarms; of 1."""
        if not curves:
            return 0.0
        most = self.scenario.max_alarms
        grid = np.unique(np.concatenate([rate for rate, _ in curves]))
        shares = np.stack([best[np.searchsorted(rate, grid, "right") - 1] for rate, best in curves])
        effective = np.maximum(shares.mean(0) - self.scenario.alpha_st * shares.std(0), 0.0)
        return float(effective @ np.diff(np.append(grid, most)) / most)


def psds(recordings: Sequence[Scored], labels: Sequence[str], scenario: Scenario) -> Psds:
    """labels: (C,) of the columns of the scores. Events of one class that overlap are one.

    Raises EchoicError where nothing is to be found, an event's label is none of `labels`, or a
    score is not finite; ValueError where shapes do not fit.
    """
    check_labels(recordings, labels)
    truth = [_by_label(each.truth) for each in recordings]
    known = [name for name in labels if any(name in spans for spans in truth)]
    seconds = {
        name: sum(_length(spans[name]) for spans in truth if name in spans) for name in known
    }
    weight = {name: _HOUR_S / (max(1, len(known) - 1) * seconds[name]) for name in known}
    changes = []
    for name in known:
        parts = []
        for i, (each, spans) in enumerate(zip(recordings, truth, strict=True)):
            column = each.scores[:, list(labels).index(name)]
            others = [(spans[k], weight[k]) for k in spans if k != name] if scenario.cttc else []
            own = spans.get(name, np.zeros((0, 2)))
            levels, counts = _counts(each.edges_s, column, own, others, scenario)
            steps = np.diff(counts, axis=0, prepend=0.0)
            moved = steps.any(axis=1)
            parts.append((np.full(moved.sum(), i), levels[moved], steps[moved]))
        changes.append(_merged(parts))
    events = [[len(spans.get(name, ())) for name in known] for spans in truth]
    hours = np.array([each.duration_s for each in recordings]) / _HOUR_S
    return Psds(scenario, tuple(known), tuple(changes), np.array(events, np.float64), hours)


def check_labels(recordings: Sequence[Scored], labels: Sequence[str]) -> None:
    """Raises EchoicError, ValueError as `psds` says."""
    for each in recordings:
        shape = (len(each.edges_s) - 1, len(labels))
        if each.scores.shape != shape:
            raise ValueError(f"{each.key}: scores {each.scores.shape}, not (N, C) {shape}")
        check_finite(each.scores, f"scores of {each.key}")
        if strange := {event.label for event in each.truth} - set(labels):
            raise EchoicError(f"{each.key}: the label {min(strange)!r} is none that was scored")
        if bad := [event for event in each.truth if not event.onset_s < event.offset_s]:
            raise EchoicError(
                f"{each.key}: a {bad[0].label!r} from {bad[0].onset_s:g} s ends at "
                f"{bad[0].offset_s:g} s"
            )
    if not any(each.truth for each in recordings):
        raise EchoicError(f"{len(recordings)} recordings without any event: nothing can be found")


def stretches(active: ArrayLike) -> tuple[Ints, Ints, Ints]:
    """Of rows of 0 and 1 (K, N): row, first step and the step after the last of each run of 1."""
    padded = np.pad(np.asarray(active, np.int8), ((0, 0), (1, 1)))
    turns = np.diff(padded, axis=1)
    row, begin = np.nonzero(turns == 1)
    return row, begin, np.nonzero(turns == -1)[1]


def _by_label(events: Sequence[Timed]) -> dict[str, Floats]:
    """The events (M, 2) of each label, in order; those that overlap are one."""
    found: dict[str, list[list[float]]] = {}
    for event in sorted(events, key=lambda event: event.onset_s):
        spans = found.setdefault(event.label, [])
        if spans and event.onset_s < spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], event.offset_s)
        else:
            spans.append([event.onset_s, event.offset_s])
    return {label: np.array(spans) for label, spans in found.items()}


def _length(spans: Floats) -> float:
    return float((spans[:, 1] - spans[:, 0]).sum())


def _counts(
    edges_s: Floats,
    scores: Floats,
    own: Floats,
    others: Sequence[tuple[Floats, float]],
    scenario: Scenario,
) -> tuple[Floats, Floats]:
    """Each score as a threshold, descending (K,); and at each the events found, false alarms and
    weighted cross triggers (K, 3) of a class whose events are `own` (M, 2)."""
    levels = np.unique(scores)[::-1]
    parts = [
        _counts_at(block, edges_s, scores, own, others, scenario)
        for block in _blocks(levels, len(scores))
    ]
    return levels, np.concatenate(parts)


def _blocks(levels: Floats, steps: int) -> Iterator[Floats]:
    size = max(1, _BLOCK_VALUES // steps)
    return (levels[i : i + size] for i in range(0, len(levels), size))


def _counts_at(
    levels: Floats,
    edges_s: Floats,
    scores: Floats,
    own: Floats,
    others: Sequence[tuple[Floats, float]],
    scenario: Scenario,
) -> Floats:
    row, begin, end = stretches(scores >= levels[:, None])
    on, off = edges_s[begin], edges_s[end]
    inside = _overlap(on, off, own)
    right = inside.sum(1) + _ROUNDING >= scenario.dtc * (off - on)
    covered = np.zeros((len(levels), len(own)))
    np.add.at(covered, row[right], inside[right])
    found = (covered + _ROUNDING >= scenario.gtc * (own[:, 1] - own[:, 0])).sum(1)
    wrong, lengths = row[~right], (off - on)[~right]
    crossed = np.zeros(len(levels))
    for spans, weight in others:
        share = _overlap(on[~right], off[~right], spans).sum(1)
        hit = share + _ROUNDING >= (scenario.cttc or 0.0) * lengths
        crossed += weight * np.bincount(wrong[hit], minlength=len(levels))
    return np.stack([found, np.bincount(wrong, minlength=len(levels)), crossed], axis=1)


def _overlap(on: Floats, off: Floats, spans: Floats) -> Floats:
    """(S, M) seconds that each stretch shares with each event."""
    begin, end = spans.T
    shared: Floats = np.minimum(off[:, None], end) - np.maximum(on[:, None], begin)
    return np.maximum(shared, 0.0)


def _merged(parts: Sequence[tuple[Ints, Floats, Floats]]) -> _Changes:
    at, levels, steps = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(-levels, kind="stable")
    ranked = levels[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1) if len(ranked) else at
    return _Changes(at[order], steps[order], last.astype(np.int64))
