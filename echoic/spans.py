"""Spans out of scores that come block by block: where each label sounds, from when to when.

What is said of a recording does not hang on how its scores are cut into blocks; so a whole time
line and a live one are decided by the same code.

N steps, C labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from echoic.eval.events import Span
from echoic.eval.psds import stretches
from echoic.eval.ranks import Floats
from echoic.types import EchoicError

THRESHOLD = 0.3  # of probability: lets three sound at once
_SLACK_S = 1e-9  # of times that were added up


@dataclass(frozen=True)
class SpanRule:
    """How scores become spans. threshold: what a span reaches somewhere. low: it goes on, to both
    sides, while the score is that much (hysteresis); None: the threshold. gap_s: spans of a label
    no further apart become one; min_s: shorter ones are left out, after that. Raises EchoicError on
    a `low` above the threshold, and on times that are none."""

    threshold: float = THRESHOLD
    low: float | None = None
    gap_s: float = 0.0
    min_s: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("threshold", self.threshold), ("low", self.low)):
            if value is not None and not math.isfinite(value):
                raise EchoicError(f"{name} {value:g}: give a number")
        if self.low is not None and self.low > self.threshold:
            raise EchoicError(f"low {self.low:g} is above the threshold {self.threshold:g}")
        for name, value in (("a gap", self.gap_s), ("a shortest span", self.min_s)):
            if not 0 <= value < math.inf:
                raise EchoicError(f"{name} of {value:g} s: give 0 or more")

    @property
    def least(self) -> float:
        return self.threshold if self.low is None else self.low


@dataclass(frozen=True)
class _Run:
    """Steps from `start` to `stop` with scores of at least `low`; top: the highest."""

    start: int
    stop: int
    top: float


class SpanFinder:
    """Takes scores as they come, hands out spans once they are over."""

    def __init__(self, labels: tuple[str, ...], step_s: float, rule: SpanRule) -> None:
        self._labels, self._step_s, self._rule = labels, step_s, rule
        self._done = 0
        self._open: dict[int, _Run] = {}  # by column: runs that reach the last step
        self._held: dict[int, Span] = {}  # spans that are over, unless another follows closely

    def add(self, scores: Floats) -> list[Span]:
        """(n, C) of the next steps -> the spans that are over now."""
        over: list[Span] = []
        active = np.greater_equal(scores.T, self._rule.least)
        for column, start, stop in zip(*(each.tolist() for each in stretches(active)), strict=True):
            top = float(scores[start:stop, column].max())
            run = _Run(self._done + start, self._done + stop, top)
            before = self._open.pop(column, None)
            if before is not None and before.stop == run.start:
                run = _Run(before.start, run.stop, max(before.top, run.top))
            elif before is not None:
                self._close(column, before, over)
            if stop == len(scores):
                self._open[column] = run
            else:
                self._close(column, run, over)
        self._done += len(scores)
        for column in [c for c, run in self._open.items() if run.stop < self._done]:
            self._close(column, self._open.pop(column), over)
        for column in [c for c in self._held if not self._may_go_on(c)]:
            self._keep(self._held.pop(column), over)
        return _in_order(over)

    def finish(self, end_s: float) -> list[Span]:
        """The spans that last until the end of the recording, or almost."""
        over: list[Span] = []
        for column, run in self._open.items():
            self._close(column, run, over, end_s)
        for span in self._held.values():
            self._keep(span, over)
        self._open, self._held = {}, {}
        return _in_order(over)

    def sounding(self) -> list[Span]:
        """The spans that have begun for certain and are not over; each up to the last step."""
        spans = []
        for column, run in self._open.items():
            span = self._joined(column, self._span(column, run))
            if run.top >= self._rule.threshold and self._lasts(span):
                spans.append(span)
        return _in_order(spans)

    def _close(self, column: int, run: _Run, over: list[Span], end_s: float | None = None) -> None:
        if run.top < self._rule.threshold:
            return
        span = self._span(column, run, end_s)
        joined = self._joined(column, span)
        before = self._held.pop(column, None)
        if before is not None and joined is span:
            self._keep(before, over)
        self._held[column] = joined

    def _span(self, column: int, run: _Run, end_s: float | None = None) -> Span:
        offset_s = run.stop * self._step_s if end_s is None else end_s
        return Span(run.start * self._step_s, offset_s, self._labels[column], run.top)

    def _joined(self, column: int, span: Span) -> Span:
        """With the one before it, where that is near."""
        before = self._held.get(column)
        if before is None or not self._near(before, span.onset_s):
            return span
        top = max(before.score or 0.0, span.score or 0.0)
        return replace(span, onset_s=before.onset_s, score=top)

    def _may_go_on(self, column: int) -> bool:
        """Whether what comes can join the span that is held."""
        run = self._open.get(column)
        soonest = self._done if run is None else run.start
        return self._near(self._held[column], soonest * self._step_s)

    def _near(self, before: Span, onset_s: float) -> bool:
        return onset_s - before.offset_s - _SLACK_S <= self._rule.gap_s

    def _lasts(self, span: Span) -> bool:
        return span.offset_s - span.onset_s >= self._rule.min_s - _SLACK_S

    def _keep(self, span: Span, over: list[Span]) -> None:
        if self._lasts(span):
            over.append(span)


def _in_order(spans: list[Span]) -> list[Span]:
    return sorted(spans, key=lambda each: (each.onset_s, each.offset_s))


class Medians:
    """Scores as they come, each made the median of the 2 `reach` + 1 around it; at the ends the
    first and the last count on."""

    def __init__(self, reach: int) -> None:
        self._reach = reach
        self._held: Floats | None = None  # None: nothing to wait for

    @classmethod
    def over(cls, median_s: float, step_s: float) -> Medians:
        """Those within `median_s`. Raises EchoicError unless that is more than 0."""
        if not 0 < median_s < math.inf:
            raise EchoicError(f"a median over {median_s:g} s: give more than 0")
        return cls(max(0, round((median_s / step_s - 1) / 2)))

    def whole(self, scores: Floats) -> Floats:
        """(N, C) -> (N, C), of all at once."""
        first = self.add(scores)
        return first if self._held is None else np.concatenate([first, self.finish()])

    def add(self, scores: Floats) -> Floats:
        """(n, C) of the next steps -> (m, C), those that are certain now."""
        if self._reach == 0 or not len(scores):
            return scores
        if self._held is None:
            self._held = np.repeat(scores[:1], self._reach, axis=0)
        held = np.concatenate([self._held, scores])
        self._held = held[-2 * self._reach :]
        return self._of(held)

    def finish(self) -> Floats:
        """(m, C), the rest; (0, 0) where there is none."""
        if self._held is None:
            return np.empty((0, 0))
        last = np.repeat(self._held[-1:], self._reach, axis=0)
        return self._of(np.concatenate([self._held, last]))

    def _of(self, held: Floats) -> Floats:
        width = 2 * self._reach + 1
        if len(held) < width:
            return held[:0]
        windows = np.lib.stride_tricks.sliding_window_view(held, width, axis=0)
        # label by label: of an hour and all of AudioSet's labels the windows are not held at once
        columns = [np.median(windows[:, c], axis=1) for c in range(held.shape[1])]
        return np.stack(columns, axis=1)
