"""What became of one measure of one task in a suite: its figures beside the paper's, or why there
are none; knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, TypeVar

from echoic.data.tasks.paper import Published
from echoic.eval.bootstrap import Interval
from echoic.eval.evaluation import Evaluation, printed
from echoic.eval.events_result import EventsResult
from echoic.eval.outcomes import Counts, Outcomes, Tags
from echoic.eval.task_result import TaskResult

Result: TypeAlias = TaskResult | Evaluation | EventsResult
Status = Literal["measured", "no data", "left out", "failed"]
_Value = TypeVar("_Value")

# The figures of a measure that stand in the table, the leading one first; of others all.
_SHOWN = {
    "retrieval": tuple(
        f"{way}_{figure}"
        for way in ("text_to_audio", "audio_to_text")
        for figure in ("R@1", "R@5", "R@10", "mAP@10")
    ),
    "captioning": ("cider_d", "spice", "spider", "meteor", "fense", "bleu_4", "rouge_l"),
    "events": ("psds1", "psds2", "event_f1", "segment_f1"),
    "attributes": ("accuracy",),
}


@dataclass(frozen=True)
class Figure:
    """ours: a share of 1; CIDEr-D and SPIDEr are of 10, ranks from 1. published: the value of the
    protocol's own model."""

    name: str
    ours: Interval
    chance: float | None = None
    published: Published | None = None


@dataclass(frozen=True)
class Entry:
    """One measure of one task.

    by: whose choices, "" where there is no paper's. protocol: those in one line; words: in full.
    clips: that were judged; expected: as published, 0 where that is not known. missing: clips that
    the lists name and the folder lacks; bad: that could not be heard, by key. status: "no data"
    where there is no folder, "left out" where this model cannot do it; reason: of all but
    "measured".
    """

    task: str
    title: str
    measure: str
    by: str
    protocol: str
    words: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    clips: int = 0
    expected: int = 0
    missing: int = 0
    bad: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    status: Status = "measured"
    reason: str = ""
    result: Result | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"{self.task}/{self.measure}"

    @property
    def alarms(self) -> tuple[str, ...]:
        """Sentences on what is not in order in the embedding space."""
        search = self.result.search if isinstance(self.result, Evaluation) else None
        return tuple(search.space.alarms().values()) if search else ()

    def outcomes(self) -> list[Outcomes]:
        """Of the result, under the names that its figures have in a suite."""
        if self.result is None:
            return []
        return [_named(each, self.task) for each in self.result.outcomes()]

    def shown(self) -> list[Figure]:
        """The figures for the table."""
        by_name = {each.name: each for each in self.figures}
        return [by_name[name] for name in _SHOWN.get(self.measure, by_name) if name in by_name]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Plain values: a row of each figure, one where there is none."""
        about = {"task": self.task, "title": self.title, "measure": self.measure}
        how = {
            "protocol": self.by,
            "protocol_line": self.protocol,
            "protocol_words": list(self.words),
            "clips": self.clips,
            "expected": self.expected or None,
            "missing": self.missing,
            "bad": dict(self.bad),
            "seconds": round(self.seconds, 3),
            "status": self.status,
            "reason": self.reason,
        }
        for each in self.figures or (None,):
            yield about | _plain(each) | how

    @property
    def what(self) -> str:
        return f"{self.title}, {plainly(self.measure)}"

    @property
    def partly(self) -> str:
        """In words, that other clips judged than published; "" where those did."""
        if self.status != "measured" or self.expected in (0, self.clips):
            return ""
        return f"{self.clips} clips, published are {self.expected}"

    def how(self) -> str:
        """In one line; or why it was not measured."""
        if self.status != "measured":
            return f"{self.status}: {self.reason}"
        by = f"by {self.by}: " if self.by else ""
        return f"{by}{self.protocol}{'; ' if self.partly else ''}{self.partly}"

    def heading(self) -> str:
        """What was measured and how; or why it was not."""
        return f"{self.what}{', ' if self.by or self.reason else ': '}{self.how()}"

    def cells(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Figure, ours, its interval, the paper's, chance: a row of each figure shown."""
        for each in self.shown():
            paper, chance = each.published, each.chance
            yield (
                plainly(each.name),
                printed(each.name, each.ours.value),
                _bounds(each),
                "" if paper is None else f"{printed(each.name, paper.value)} {paper.model}",
                "" if chance is None else printed(each.name, chance),
            )

    def papers(self) -> Iterator[tuple[str, str]]:
        """What the protocol's own model has of each figure shown."""
        for each in self.shown():
            if (paper := each.published) is not None:
                name = f"published: {paper.model}, {plainly(each.name)}"
                yield name, printed(each.name, paper.value)

    def told(self) -> str:
        """In one line, when it is done."""
        if self.status != "measured":
            return f"{self.name}: {self.status}: {self.reason}"
        leading = self.shown()[0]
        figure = f"{plainly(leading.name)} {printed(leading.name, leading.ours.value)}"
        return f"{self.name}: {figure} ({_bounds(leading)}), {self.seconds:.0f} s"


def filled(
    planned: Entry, result: Result, paper: Sequence[Published], models: Sequence[str]
) -> Entry:
    """With what was found. models: of the protocol's paper, in the order in which their values are
    wanted beside ours."""
    found, chance, own = _figures(result, planned.measure)
    values = {name: _published(paper, planned.measure, name, models, own) for name in found}
    figures = (Figure(name, ours, chance.get(name), values[name]) for name, ours in found.items())
    about = _of_evaluation(result) if isinstance(result, Evaluation) else _of_task(result)
    words = (*about.pop("words"), *planned.words)
    return replace(planned, figures=tuple(figures), words=words, result=result, **about)


def _named(found: Outcomes, task: str) -> Outcomes:
    if isinstance(found, Tags):
        return replace(found, figure=f"{task}/{found.figure}")
    if isinstance(found, Counts):
        return replace(found, figures=tuple(f"{task}/{name}" for name in found.figures))
    return replace(found, values={f"{task}/{name}": v for name, v in found.values.items()})


def plainly(name: str) -> str:
    return name.replace("_", " ")


def _figures(
    result: Result, measure: str
) -> tuple[Mapping[str, Interval], Mapping[str, float], str]:
    """The figures of a measure by name, what guessing gives, and the task's own metric."""
    match result:
        case TaskResult(metric=own):
            chance = {} if result.chance is None else {own: result.chance}
            return {own: result.interval}, chance, own
        case EventsResult():
            return result.metrics, {}, ""
    return _within(result.metrics, measure), _within(result.chance(), measure), ""


def _within(figures: Mapping[str, _Value], measure: str) -> dict[str, _Value]:
    """Those named `measure/...`, without that."""
    before = f"{measure}/"
    named = figures.items()
    return {name.removeprefix(before): found for name, found in named if name.startswith(before)}


def _of_task(result: TaskResult | EventsResult) -> dict[str, Any]:
    clips = result.clips if isinstance(result, TaskResult) else result.recordings
    about = {"words": result.words, "bad": result.bad, "missing": result.missing}
    return {"title": result.title, "clips": clips} | about


def _of_evaluation(result: Evaluation) -> dict[str, Any]:
    data = result.data
    about = {"bad": data["bad"], "missing": data.get("missing", 0), "words": result.protocol}
    return {"clips": data["clips"]} | about


def _published(
    paper: Sequence[Published], measure: str, figure: str, models: Sequence[str], own: str
) -> Published | None:
    """Of the first of `models` that has a value, its first. own: the figure that a value without a
    metric is of."""
    known = {
        each.model: each
        for each in reversed(paper)
        if each.protocol == measure and (each.metric or own) == figure
    }
    return next((known[name] for name in models if name in known), None)


def _plain(figure: Figure | None) -> dict[str, Any]:
    if figure is None:
        return dict.fromkeys(("figure", "value", "low", "high", "chance", "published"))
    ours, paper = figure.ours, figure.published
    return {
        "figure": figure.name,
        "value": ours.value,
        "low": ours.low,
        "high": ours.high,
        "chance": figure.chance,
        "published": None if paper is None else vars(paper),
    }


def _bounds(figure: Figure) -> str:
    low, high = (printed(figure.name, bound) for bound in (figure.ours.low, figure.ours.high))
    return f"{low.removesuffix(' %')} to {high.removesuffix(' %')}"
