"""What became of a published task: its figure over folds and seeds, as JSON, a table, a report.

Shapes: n clips of a fold, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from rich.table import Table

from echoic.data.tasks.paper import Published
from echoic.data.tasks.task import Task, TaskSpec
from echoic.eval.answers import Answers, pooled
from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.calibration import Calibration
from echoic.eval.outcomes import Outcomes
from echoic.eval.ranks import Floats
from echoic.eval.report import Report, Section, Tile
from echoic.eval.sections import configuration_section, headline_section, share_tile
from echoic.eval.task_score import map_interval, per_class, score
from echoic.eval.task_sections import (
    class_section,
    confusion_section,
    reliability_section,
    runs_section,
)


@dataclass(frozen=True)
class TaskResult:
    """What was measured; shares of 1.

    value: the mean over folds, then over seeds; by_seed, by_fold: the means of each. spread: the
    deviation over seeds, None with fewer than two. interval: over the clips that judged. per_class:
    accuracy or average precision by label over all folds, NaN without clips. bad: clips that could
    not be heard, by key. words: how it was done. published: what papers report for it. answers:
    what was said of each clip, of which `report` and `outcomes` are made.
    """

    model: dict[str, Any]
    task: str
    title: str
    protocol: str
    metric: str
    value: float
    spread: float | None
    interval: Interval
    chance: float | None
    by_seed: Mapping[int, float]
    by_fold: Mapping[str, float]
    per_class: Mapping[str, float]
    clips: int
    words: tuple[str, ...]
    published: tuple[Published, ...]
    bad: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0
    answers: Answers | None = field(default=None, repr=False, compare=False)
    bootstrap: Bootstrap = field(default_factory=lambda: Bootstrap(seed=0))

    @property
    def name(self) -> str:
        """Of the figure, as `linear/accuracy`."""
        return f"{self.protocol}/{self.metric}"

    @property
    def calibration(self) -> Calibration | None:
        """None where scores say nothing of probability, such as cosines with several labels."""
        return self.answers.calibration if self.answers else None

    def outcomes(self) -> tuple[Outcomes, ...]:
        """What each clip adds, for `eval.comparison`; nothing where keys of clips are not known."""
        return self.answers.outcomes(self.name) if self.answers else ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for programs; a class without clips is null, calibration where there is
        none."""
        bounds = {"value": self.value, "low": self.interval.low, "high": self.interval.high}
        sure = self.calibration
        return {
            "model": self.model,
            "data": {
                "name": self.task,
                "title": self.title,
                "clips": self.clips,
                "missing": self.missing,
                "bad": dict(self.bad),
            },
            "metrics": {self.name: bounds},
            "spread": self.spread,
            "by_seed": {str(seed): value for seed, value in self.by_seed.items()},
            "by_fold": dict(self.by_fold),
            "per_class": {k: None if np.isnan(v) else v for k, v in self.per_class.items()},
            "chance": {} if self.chance is None else {self.name: self.chance},
            "confidence": self.interval.level,
            "calibration": sure.to_json(self.bootstrap) if sure else None,
            "published": [vars(each) for each in self.published],
            "protocol": list(self.words),
        }

    def table(self) -> Table:
        """For people, in per cent."""
        title = f"{self.title}: {self.clips} clips, {self.protocol.replace('_', ' ')}"
        table = Table(title=title, title_justify="left", box=None)
        headings = (self.metric, "value", f"{100 * self.interval.level:g} % interval", "chance")
        for heading in headings:
            table.add_column(heading, justify="left" if heading == self.metric else "right")
        bounds = f"{100 * self.interval.low:.1f} to {100 * self.interval.high:.1f}"
        chance = "" if self.chance is None else f"{100 * self.chance:.1f} %"
        table.add_row("this model", f"{100 * self.value:.1f} %", bounds, chance)
        if self.spread is not None:
            seeds = f"deviation over {len(self.by_seed)} seeds"
            table.add_row(seeds, f"{100 * self.spread:.2f} %", "", "")
        if len(self.by_fold) > 1:
            for fold, value in self.by_fold.items():
                table.add_row(f"fold {fold}", f"{100 * value:.1f} %", "", "")
        for each in self.published:
            table.add_row(f"published: {each.model}", f"{100 * each.value:.1f} %", "", "")
        return table

    def write_report(self, path: Path) -> Path:
        """Write the HTML report. Raises DataError."""
        return self.report().write(path)

    def report(self) -> Report:
        data = {"task": self.task, "clips": self.clips, "missing": self.missing}
        settings = {"model": self.model, "data": data | {"not heard": len(self.bad)}}
        made = configuration_section(settings, self.words)
        name = str(self.model.get("recipe", "model"))
        how = self.protocol.replace("_", " ")
        about = f"{self.title}, {how}, {self.clips} clips"
        return Report(f"echoic: {name}", about, [*self.sections(), made])

    def sections(self) -> list[Section]:
        """Of the report, all but how it was done."""
        runs = self.published, self.by_seed, self.by_fold
        found = [headline_section(self._tiles()), runs_section(self.metric, self.interval, *runs)]
        if self.answers:
            found.append(class_section(self.answers, self.per_class, self.bootstrap))
            if self.answers.per_clip == "one":
                found.append(confusion_section(self.answers))
        if self.calibration:
            found.append(reliability_section(self.calibration, self.bootstrap))
        return found

    def _tiles(self) -> list[Tile]:
        chance = "" if self.chance is None else f"chance {100 * self.chance:.1f}"
        tiles = [share_tile(self.metric.replace("acc", "Acc"), self.interval, chance)]
        if self.spread is not None:
            note = f"deviation over {len(self.by_seed)} seeds"
            tiles.append(Tile("Spread of trainings", f"{100 * self.spread:.2f} %", note))
        tiles.append(Tile("Clips that judged", str(self.clips), self.title))
        return tiles


def task_result(
    task: Task,
    protocol: str,
    scores: Mapping[int | None, Mapping[str, Floats]],
    truth: Mapping[str, Floats],
    *,
    model: dict[str, Any],
    words: Sequence[str],
    bad: Mapping[str, str],
    bootstrap: Bootstrap | None = None,
    keys: Mapping[str, Sequence[str]] | None = None,
    scale: float | None = None,
) -> TaskResult:
    """Of scores (n, C) by seed and fold (the seed is None where nothing was drawn), and truth
    (n, C) by fold. model: what names it. words: how it was done, to which how the interval was
    found is added. keys: of the clips (n,) by fold; without them the result cannot be compared.
    scale: scores times it are logits, of a softmax (one label per clip) or of sigmoids; None: they
    say nothing of probability."""
    boot = bootstrap or Bootstrap(seed=0)
    spec = task.spec
    each = {
        seed: {fold: score(found, truth[fold], spec.per_clip) for fold, found in by.items()}
        for seed, by in scores.items()
    }
    by_seed = {seed: fmean(by.values()) for seed, by in each.items()}
    value = fmean(by_seed.values())
    labels = task.labels.names
    answers = pooled(labels, spec.per_clip, truth, list(scores.values()), keys, scale)
    return TaskResult(
        model=model,
        task=spec.name,
        title=spec.title,
        protocol=protocol,
        metric=spec.metric,
        value=value,
        spread=stdev(by_seed.values()) if len(by_seed) > 1 else None,
        interval=_interval(answers, value, boot),
        chance=1 / len(labels) if spec.per_clip == "one" else None,
        by_seed={seed: figure for seed, figure in by_seed.items() if seed is not None},
        by_fold={fold: fmean(by[fold] for by in each.values()) for fold in truth},
        # differs from EVAR, whose report of classes is that of the last fold
        per_class=_per_class(answers),
        clips=len(answers.truth),
        words=(*words, _interval_words(spec, boot)),
        published=tuple(p for p in spec.paper if p.protocol == protocol),
        bad=bad,
        missing=len(task.missing),
        answers=answers,
        bootstrap=boot,
    )


def _interval(answers: Answers, value: float, bootstrap: Bootstrap) -> Interval:
    """Over clips of all folds, moved to `value`: the mean over folds that differ in size is not
    quite that over clips."""
    if answers.per_clip == "one":
        found = bootstrap.mean(answers.hits, np.arange(len(answers.hits)))
    else:
        # the runs differ far less than the clips do
        found = map_interval(answers.runs[0], answers.truth, bootstrap)
    by = value - found.value
    return Interval(value, max(0.0, found.low + by), min(1.0, found.high + by), found.level)


def _per_class(answers: Answers) -> dict[str, float]:
    found = [per_class(scores, answers.truth, answers.per_clip) for scores in answers.runs]
    return dict(zip(answers.labels, np.mean(found, axis=0).tolist(), strict=True))


def _interval_words(spec: TaskSpec, bootstrap: Bootstrap) -> str:
    how = "clips that judge" if spec.per_clip == "one" else "clips that judge, the first seed's"
    return (
        f"The interval holds {100 * bootstrap.level:g} %: percentile bootstrap over the {how}; it "
        "does not hold the spread of trainings."
    )
