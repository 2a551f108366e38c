"""The sections of a report on a classification task: beside the papers, by class, what is taken for
what, and whether the model is as often right as it says. Values in, a `Section` out.

Shapes: N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from echoic.data.tasks.paper import Published
from echoic.eval.answers import Answers
from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.calibration import Bin, Calibration, wilson
from echoic.eval.heatmap import heat_map
from echoic.eval.plots import Figure, Spot, Table, agreement_chart, row_chart, share
from echoic.eval.report import Block, Section, Tile, Tiles
from echoic.eval.svg import number
from echoic.eval.task_score import precision_interval

MOST_DRAWN = 60  # classes of a whole confusion matrix; 250 000 cells no page can show
_MIXED_UP = 24  # classes drawn of a larger one, and pairs told of any
_EACH_END = 12  # classes drawn from the worst and from the best


def runs_section(
    metric: str,
    value: Interval,
    published: Sequence[Published],
    by_seed: Mapping[int, float],
    by_fold: Mapping[str, float],
) -> Section:
    """The figure beside the papers', and of each seed and fold."""
    rows = [("this model", share(value))]
    rows += [(each.model, f"{100 * each.value:.1f}") for each in published]
    title = "Beside the papers" if published else "This model"
    blocks: list[Block] = [Table(("", f"{metric} (%)"), rows, title)]
    for name, by in (("seed", by_seed), ("fold", by_fold)):
        if len(by) > 1:
            each_one = [(str(key), f"{100 * figure:.2f}") for key, figure in by.items()]
            blocks.append(Table((name, f"{metric} (%)"), each_one, f"By {name}"))
    lead = "Papers' values are as printed, without intervals; their choices may differ from ours."
    return Section("The figure", blocks, lead if published else "")


def class_section(
    answers: Answers, per_class: Mapping[str, float], bootstrap: Bootstrap
) -> Section:
    """Every class with its figure, worst first; where classes are many, the ends are drawn."""
    places = [i for i, name in enumerate(answers.labels) if not np.isnan(per_class[name])]
    places.sort(key=lambda i: per_class[answers.labels[i]])
    many = len(places) > 2 * _EACH_END
    ends = (places[:_EACH_END], places[-_EACH_END:]) if many else (places,)
    titles = ("Worst classes", "Best classes") if many else ("Classes, worst first",)
    one = answers.per_clip == "one"
    axis = "right" if one else "average precision"
    blocks: list[Block] = [
        row_chart(
            title,
            [(answers.labels[i], _class_interval(answers, i, per_class, bootstrap)) for i in drawn],
            x_label=axis,
        )
        for title, drawn in zip(titles, ends, strict=True)
        if drawn
    ]
    blocks.append(_class_table(answers, places, per_class, axis))
    lead = (
        "The share of each class's clips that were put there, mean over seeds; intervals are "
        "Wilson's, which hold for few clips too."
        if one
        else "Average precision of each class; a class without a clip is left out."
    )
    return Section("By class", blocks, lead)


def _class_interval(
    answers: Answers, column: int, per_class: Mapping[str, float], bootstrap: Bootstrap
) -> Interval:
    if answers.per_clip == "one":
        value = per_class[answers.labels[column]]
        return wilson(value, int(answers.clips[column]), bootstrap.level)
    drawn = precision_interval(answers.runs[0][:, column], answers.truth[:, column], bootstrap)
    moved = per_class[answers.labels[column]] - drawn.value  # to the mean over runs
    low, high = max(0.0, drawn.low + moved), min(1.0, drawn.high + moved)
    return Interval(drawn.value + moved, low, high, drawn.level)


def _class_table(
    answers: Answers, places: Sequence[int], per_class: Mapping[str, float], axis: str
) -> Table:
    one = answers.per_clip == "one"
    rows = []
    for i in places:
        name = answers.labels[i]
        taken = (rival(answers.labels, answers.confusion[i], i),) if one else ()
        rows.append((name, *taken, str(answers.clips[i]), f"{100 * per_class[name]:.1f}"))
    columns = ("class", *(["most often taken for"] if one else []), "clips", f"{axis} (%)")
    return Table(columns, rows, "All classes", text_columns=2 if one else 1)


def confusion_section(answers: Answers) -> Section:
    """Of one label per clip: the matrix, and the pairs that are mixed up most."""
    counts, labels = answers.confusion, answers.labels
    off = counts - np.diag(np.diag(counts))
    worst = np.argsort(-off, axis=None, kind="stable")[:_MIXED_UP]
    rows = [
        (labels[i], labels[j], number(float(off[i, j])), f"{100 * off[i, j] / counts[i].sum():.0f}")
        for i, j in (divmod(int(flat), len(labels)) for flat in worst)
        if off[i, j] > 0
    ]
    heading = ("true", "taken for", "clips", "of its class (%)")
    blocks: list[Block] = [confusion_figure(counts, labels)]
    if rows:
        blocks.append(Table(heading, rows, "Mixed up most often", text_columns=2))
    lead = "All clips that judged; clips are counted as the mean over seeds."
    return Section("Confusion", blocks, lead)


def confusion_figure(counts: ArrayLike, labels: Sequence[str]) -> Figure:
    """The matrix (C, C), row = right class, as shares of each row. Of more than sixty classes those
    that have most to do with mistakes."""
    table = np.asarray(counts, dtype=np.float64)
    shares = table / np.maximum(table.sum(axis=1), 1e-12)[:, None]
    title, kept = "Confusion (% of the true class)", list(range(len(labels)))
    if len(labels) > MOST_DRAWN:
        off = table - np.diag(np.diag(table))
        mistakes = off.sum(axis=0) + off.sum(axis=1)
        kept = sorted(np.argsort(-mistakes, kind="stable")[:_MIXED_UP].tolist())
        title = f"Confusion (% of the true class), {_MIXED_UP} of {len(labels)} classes"
    names = [labels[i] for i in kept]
    return heat_map(
        title,
        (100 * shares[np.ix_(kept, kept)]).round(),
        names,
        names,
        row_axis="true",
        column_axis="predicted",
        show_values=len(names) <= 12,
        bounds=(0.0, 100.0),
    )


def rival(labels: Sequence[str], row: ArrayLike, own: int) -> str:
    """The class that most of a class's clips went to by mistake, and how many."""
    others = np.asarray(row, dtype=np.float64).copy()
    others[own] = 0
    most = int(others.argmax())
    return f"{labels[most]} ({number(float(others[most]))})" if others[most] else ""


def reliability_section(calibration: Calibration, bootstrap: Bootstrap) -> Section:
    what = (
        "A decision is the class put first, at its softmax probability"
        if calibration.per_clip == "one"
        else "A decision is each class of each clip, at its sigmoid probability"
    )
    return Section("Reliability", reliability_blocks(calibration, bootstrap), f"{what}.")


def reliability_blocks(calibration: Calibration, bootstrap: Bootstrap) -> list[Block]:
    """How sure the model is against how often it is right."""
    one = calibration.per_clip == "one"
    excess = 100 * (calibration.confidence - calibration.right)
    error = calibration.error_interval(bootstrap)
    brier = calibration.brier_interval(bootstrap)
    small = 2 if error.value < 0.01 else 1
    said = f"{100 * error.low:.{small}f} to {100 * error.high:.{small}f} without what chance adds"
    expected = f"perfectly calibrated: {100 * calibration.by_chance:.{small}f}"
    sure = f"{100 * calibration.confidence:.1f} % sure, {100 * calibration.right:.1f} % "
    tiles = [
        Tile("Overconfidence", f"{excess:+.1f} %", sure + ("right" if one else "there")),
        Tile("Calibration error", f"{100 * error.value:.{small}f} %", f"{said}; {expected}"),
        Tile("Brier score", f"{brier.value:.3f}", f"{brier.low:.3f} to {brier.high:.3f}; 0 best"),
    ]
    y_label = "right" if one else "there"
    figure = agreement_chart(
        "Reliability",
        [_spot(each) for each in calibration.bins(bootstrap.level)],
        x_label="mean confidence",
        y_label=y_label,
        note="On the dashed line the model is as often right as it says; below it, it is too sure.",
    )
    return [Tiles(tiles), figure]


def _spot(each: Bin) -> Spot:
    ends = f"{100 * each.low:.1f} to {100 * each.high:.1f} %"
    return Spot(f"confidence {ends}", each.confidence, each.right, each.decisions)
