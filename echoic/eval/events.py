"""Sound events found on a time line, held against those that sound: in segments of a second, and
event by event (Mesaros et al. 2016, "Metrics for polyphonic sound event detection", as its program
sed_eval counts), and PSDS over all thresholds (`eval.psds`).

R recordings, C classes, S segments, N steps in time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.psds import PSDS1, PSDS2, Scored, Timed, check_labels, psds
from echoic.eval.ranks import Floats

SEGMENT_S = 1.0
COLLAR_S, OFFSET_SHARE = 0.2, 0.2
METRICS = ("segment_f1", "segment_f1_macro", "error_rate", "event_f1", "event_f1_macro")


@dataclass(frozen=True)
class Span:
    """An event that was found. score: the highest in it, where that is known."""

    onset_s: float
    offset_s: float
    label: str
    score: float | None = None

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "label": self.label,
            "onset_s": round(self.onset_s, 6),
            "offset_s": round(self.offset_s, 6),
        }
        return found if self.score is None else found | {"score": round(self.score, 6)}


def segment_counts(
    truth: Sequence[Timed],
    found: Sequence[Timed],
    labels: Sequence[str],
    duration_s: float,
    *,
    segment_s: float = SEGMENT_S,
) -> Floats:
    """(3 C + 1,): for each class the segments where it was found and sounds, sounds, was found; and
    the errors. A segment holds each class that sounds in any part of it; of the classes that it
    lacks and those that are too many, pairs count as one error each, a substitution."""
    true, guessed = (_roll(each, labels, duration_s, segment_s) for each in (truth, found))
    lacking, too_many = (true & ~guessed).sum(1), (guessed & ~true).sum(1)
    counts = [(true & guessed).sum(0), true.sum(0), guessed.sum(0)]
    return np.append(np.concatenate(counts), np.maximum(lacking, too_many).sum()).astype(np.float64)


def event_counts(
    truth: Sequence[Timed],
    found: Sequence[Timed],
    labels: Sequence[str],
    *,
    collar_s: float = COLLAR_S,
    offset_share: float = OFFSET_SHARE,
) -> Floats:
    """(3 C,): for each class the events that were found, that there are, and that were guessed.

    An event is found where one of its class begins within `collar_s` of it, and ends within that or
    within `offset_share` of its length, whichever is more; each guess stands for one event, in the
    way that finds most.
    """
    hits = []
    for label in labels:
        guesses = [each for each in found if each.label == label]
        events = [each for each in truth if each.label == label]
        fits = [
            [i for i, guess in enumerate(guesses) if _fits(event, guess, collar_s, offset_share)]
            for event in events
        ]
        hits.append((most_pairs(fits), len(events), len(guesses)))
    return np.array(hits, dtype=np.float64).T.ravel()


def most_pairs(fits: Sequence[Sequence[int]]) -> int:
    """The most pairs of i with one of fits[i], each used once (Berge 1957: a pairing grows along
    paths that change free and paired)."""
    owner: dict[int, int] = {}
    choice: dict[int, int] = {}
    for start in range(len(fits)):
        reached: dict[int, int] = {}
        queue = [start]
        for i in queue:  # grows as it is walked
            new = [j for j in fits[i] if j not in reached]
            reached |= dict.fromkeys(new, i)
            free = next((j for j in new if j not in owner), None)
            if free is not None:
                _take(free, reached, owner, choice)
                break
            queue += [owner[j] for j in new]
    return len(owner)


def _take(
    j: int, reached: Mapping[int, int], owner: dict[int, int], choice: dict[int, int]
) -> None:
    """Pair j with what reached it, which lets go of what it had, and so on back to the start."""
    while True:
        i = reached[j]
        before = choice.get(i)
        owner[j], choice[i] = i, j
        if before is None:
            return
        j = before


def _roll(
    events: Sequence[Timed], labels: Sequence[str], duration_s: float, segment_s: float
) -> NDArray[np.bool_]:
    """(S, C) whether a class sounds in a segment."""
    roll = np.zeros((math.ceil(duration_s / segment_s), len(labels)), dtype=bool)
    for event in events:
        first, stop = math.floor(event.onset_s / segment_s), math.ceil(event.offset_s / segment_s)
        roll[first:stop, labels.index(event.label)] = True
    return roll


def _fits(event: Timed, guess: Timed, collar_s: float, offset_share: float) -> bool:
    slack_s = max(collar_s, offset_share * (event.offset_s - event.onset_s))
    return (
        abs(event.onset_s - guess.onset_s) <= collar_s
        and abs(event.offset_s - guess.offset_s) <= slack_s
    )


# -- figures of many recordings -------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """metrics: METRICS and PSDS by name, shares of 1 (the error rate can be more). per_class: the
    same by label, without error rate; only labels that have an event. counts: (R, 6 C + 1), whose
    sums `figures_of_sums` takes."""

    metrics: Mapping[str, Interval]
    per_class: Mapping[str, Mapping[str, float]]
    counts: Floats


def judge_events(
    recordings: Sequence[Scored],
    found: Sequence[Sequence[Timed]],
    labels: Sequence[str],
    *,
    bootstrap: Bootstrap | None = None,
) -> Judgement:
    """found: of each recording. F1 is over all classes together, `_macro` the mean over those that
    have an event; intervals are over recordings.

    Raises EchoicError where there is no event, or one has a label that is none of `labels`.
    """
    check_labels(recordings, labels)
    boot = bootstrap or Bootstrap(seed=0)
    by_segment, by_event = [], []
    for each, spans in zip(recordings, found, strict=True):
        by_segment.append(segment_counts(each.truth, spans, labels, each.duration_s))
        by_event.append(event_counts(each.truth, spans, labels))
    table = np.concatenate([np.stack(by_segment), np.stack(by_event)], axis=1)
    metrics = dict(zip(METRICS, boot.of_sums(table, figures_of_sums), strict=True))
    areas = [psds(recordings, labels, scenario) for scenario in (PSDS1, PSDS2)]
    metrics |= {area.scenario.name: area.interval(boot) for area in areas}
    segment, event, _ = _split(table.sum(0, keepdims=True))
    classes = {
        "segment_f1": dict(zip(labels, _f1(segment)[0].tolist(), strict=True)),
        "event_f1": dict(zip(labels, _f1(event)[0].tolist(), strict=True)),
    } | {area.scenario.name: area.per_class for area in areas}
    per_class = {
        label: {name: figures[label] for name, figures in classes.items()}
        for label in areas[0].labels
    }
    return Judgement(metrics, per_class, table)


def _split(sums: Floats) -> tuple[list[Floats], list[Floats], Floats]:
    """Sums (r, 6 C + 1) -> of segments and of events [hits, true, found], (r, C) each; errors
    (r,)."""
    parts = np.delete(sums, sums.shape[1] // 2, axis=1)
    (*counts,) = np.split(parts, 6, axis=1)
    return counts[:3], counts[3:], sums[:, sums.shape[1] // 2]


def figures_of_sums(sums: Floats) -> Floats:
    """(r, 6 C + 1), over recordings, of what `segment_counts` and `event_counts` give -> (r, 5), as
    METRICS."""
    segment, event, errors = _split(sums)
    segments = segment[1].sum(1)
    rate = np.divide(errors, segments, out=np.zeros_like(errors), where=segments > 0)
    columns = [_micro(segment), _macro(segment), rate, _micro(event), _macro(event)]
    return np.stack(columns, axis=1)


def _f1(counts: Sequence[Floats]) -> Floats:
    """Of hits, true and found, any shape; 0 where there is neither."""
    hits, true, found = counts
    return np.divide(2 * hits, true + found, out=np.zeros_like(hits), where=true + found > 0)


def _micro(counts: Sequence[Floats]) -> Floats:
    return _f1([each.sum(1) for each in counts])


def _macro(counts: Sequence[Floats]) -> Floats:
    there = counts[1] > 0
    mean: Floats = (_f1(counts) * there).sum(1) / np.maximum(there.sum(1), 1)
    return mean
