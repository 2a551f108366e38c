"""The sections of a report that echoic's own measurements make: values in, a `Section` out.

Shapes: N clips, M captions, D width, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from echoic.config import parse_json
from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.calibration import Calibration
from echoic.eval.captioning import Captioning
from echoic.eval.heatmap import heat_map
from echoic.eval.order import ALL
from echoic.eval.plots import (
    Bars,
    Line,
    Table,
    bar_chart,
    line_chart,
    row_chart,
    share,
)
from echoic.eval.ranks import MAP_DEPTH, RECALL_AT, Floats, unit_rows
from echoic.eval.report import Block, Prose, Section, Settings, Tile, Tiles
from echoic.eval.retrieval import DIRECTIONS, Retrieval
from echoic.eval.space import (
    LEAST_DIMENSIONS,
    LEAST_MARGIN,
    LEAST_SPREAD,
    MOST_FIRST,
    MOST_GAP,
    Space,
)
from echoic.eval.svg import number
from echoic.eval.task_sections import confusion_figure, reliability_blocks, rival
from echoic.eval.zeroshot import Classification
from echoic.types import DataError

ALARM = "\N{BLACK UP-POINTING TRIANGLE}"  # before what is not in order
_WAYS = {"text_to_audio": "text to audio", "audio_to_text": "audio to text"}
_MOST_PAIRS = 24
_EXAMPLES = 12
_CAPTION_FIGURES = {
    "bleu_1": "BLEU-1", "bleu_2": "BLEU-2", "bleu_3": "BLEU-3", "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L", "cider_d": "CIDEr-D", "meteor": "METEOR", "spice": "SPICE",
    "spider": "SPIDEr", "fense": "FENSE",
}  # fmt: skip


def share_tile(label: str, value: Interval, note: str = "") -> Tile:
    """A share of 1 in large type, its interval in small."""
    bounds = f"{100 * value.low:.1f} to {100 * value.high:.1f}"
    return Tile(label, f"{100 * value.value:.1f} %", f"{bounds}{'; ' if note else ''}{note}")


def cider_tile(value: Interval) -> Tile:
    """CIDEr-D of captions, times 100 as papers print it."""
    bounds = f"{100 * value.low:.1f} to {100 * value.high:.1f}"
    return Tile("Captions, CIDEr-D", f"{100 * value.value:.1f}", bounds)


def headline_section(tiles: Sequence[Tile], lead: str = "") -> Section:
    """The few figures that a reader wants first."""
    return Section("At a glance", [Tiles(tiles)], lead)


def read_log(path: Path) -> list[dict[str, object]]:
    """The records of a log.jsonl. Raises DataError that names file and line.

    Half a line at the very end is left out: so ends the log of a run that was killed.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    records: list[dict[str, object]] = []
    for i, line in enumerate(lines):
        try:
            record = parse_json(line) if line.strip() else {}
        except ValueError:
            if i == len(lines) - 1:
                break
            raise DataError(f"{path}, line {i + 1}: not JSON") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {i + 1}: expected an object")
        records.append(record)
    return records


# Of what a training tells of itself beside its losses: title, vertical axis, names in its log.
_TOLD = (
    (
        "Vectors of a batch",
        "cosine or distance",
        ("audio_spread", "text_spread", "gap", "alignment"),
    ),
    ("Directions that share the variance", "directions", ("audio_dims", "text_dims")),
    (
        "Prototypes",
        "share",
        ("prototype_use", "prototypes_won", "teacher_entropy", "student_entropy"),
    ),
    ("Words foretold", "share", ("word_accuracy",)),
)


def sections_of_run(folder: Path | None) -> list[Section]:
    """How a training went, by the log in its folder; nothing where there is none. Raises
    DataError."""
    if folder is None or not (folder / "log.jsonl").is_file():
        return []
    records = read_log(folder / "log.jsonl")
    return [training_section([each for each in records if each.get("kind") == "train"])]


def training_section(
    records: Sequence[Mapping[str, object]], *, losses: Sequence[str] | None = None, lead: str = ""
) -> Section:
    """Loss curves (raw and smoothed), the signs of collapse and the learning rate, from records
    with a "step", and with "losses" and "metrics" by name where a training has those.

    losses: which keys to draw; by default every number whose name begins with "loss" or ends in it.
    """
    rows = [_flat(record) for record in records]
    found = {key for r in rows for key, v in r.items() if _is_number(v)}
    keys = losses or sorted(k for k in found if k.startswith("loss") or k.endswith("loss"))
    curves = [_curve(rows, key) for key in keys]
    raw = [Line(c.name, c.x, c.y, faint=True) for c in curves if len(c.x) > 20]
    blocks: list[Block] = []
    if any(len(c.x) for c in curves):
        smooth = [Line(c.name, c.x, _smoothed(c.y)) for c in curves]
        title = "Loss" if len(curves) == 1 else "Losses"
        blocks.append(line_chart(title, [*raw, *smooth], x_label="step", y_label="loss (nats)"))
    for title, axis, names in _TOLD:
        if told := [_curve(rows, name, name.replace("_", " ")) for name in names if name in found]:
            blocks.append(line_chart(title, told, x_label="step", y_label=axis))
    rate = _curve(rows, "lr", "learning rate")
    if rate.x:
        blocks.append(line_chart("Learning rate", [rate], x_label="step", y_label="step size"))
    return Section("Training", blocks or [Prose("The log holds no loss.")], lead)


def _flat(record: Mapping[str, object]) -> dict[str, object]:
    """With the losses and metrics of a training's log at the top. A loss alone is the whole."""
    losses, metrics = record.get("losses"), record.get("metrics")
    flat = dict(record)
    if isinstance(losses, Mapping) and len(losses) > 1:
        flat |= {f"{name} loss": value for name, value in losses.items()}
    return flat | (dict(metrics) if isinstance(metrics, Mapping) else {})


def retrieval_section(result: Retrieval, bootstrap: Bootstrap, *, lead: str = "") -> Section:
    """R@1/5/10 both ways with intervals and chance, and a table of all figures."""
    bounds, chance = result.intervals(bootstrap), result.chance()
    names = [f"R@{k}" for k in RECALL_AT]
    bars = [
        Bars(_WAYS[w], [bounds[f"{w}_{n}"] for n in names], [chance[f"{w}_{n}"] for n in names])
        for w in DIRECTIONS
    ]
    figure = bar_chart("Found among the first k", names, bars, y_label="queries")
    rows = [
        (name.replace("_", " "), *(_cell(name, bounds[f"{w}_{name}"]) for w in DIRECTIONS))
        for name in [*names, f"mAP@{MAP_DEPTH}", "median_rank", "mean_rank"]
    ]
    table = Table(("", *(_WAYS[w] for w in DIRECTIONS)), rows, "All figures")
    searched = (
        f"{len(result.owner)} captions against {result.n_clips} clips. Ties count against the "
        f"model. Shares in per cent with a {100 * bootstrap.level:g} % interval over clips."
    )
    if result.map10 == "laion_legacy":
        searched += " Audio to text mAP@10 as LAION computes it: comparable with its tables only."
    return Section("Retrieval", [figure, table], lead or searched)


def similarity_section(
    audio: ArrayLike,
    text: ArrayLike,
    clip_names: Sequence[str],
    captions: Sequence[str],
    *,
    lead: str = "",
) -> Section:
    """Cosine of clip i with caption j, for N pairs of vectors (N, D); the first 24 are drawn."""
    n = min(len(clip_names), _MOST_PAIRS)
    cosine = unit_rows(audio, "audio")[:n] @ unit_rows(text, "text")[:n].T
    figure = heat_map(
        "Cosine of clips and captions",
        cosine,
        list(clip_names[:n]),
        [_first_words(caption) for caption in captions[:n]],
        row_axis="clip",
        column_axis="caption",
        marked={(i, i) for i in range(n)},
    )
    rows = [(clip_names[i], captions[i], number(float(cosine[i, i]))) for i in range(n)]
    pairs = Table(("clip", "its caption", "cosine"), rows, "The true pairs", text_columns=2)
    usual = (
        "Each row is a clip, each column a caption. Outlined cells are the true pairs: "
        "a good model makes them the strongest."
    )
    return Section("Similarity", [figure, pairs], lead or usual)


def space_section(space: Space, *, lead: str = "") -> Section:
    """The health of the space: what is alarming in words, then each figure beside its limit, marked
    where it is beyond."""
    usual = (
        "Alarming is a space in which all vectors lie in one place or on a line, sounds lie apart "
        "from captions, captions are no nearer to their own clip than to others, or one vector "
        "comes first for very many queries; what is so is marked."
    )
    alarms = space.alarms()
    told = [Prose(f"{ALARM} {' '.join(alarms.values())}")] if alarms else []
    tables = _sides_table(space, alarms), _pairs_table(space, alarms)
    return Section("Embedding space", [*told, *tables], lead or usual)


def _sides_table(space: Space, alarms: Container[str]) -> Table:
    most = space.most_dims()
    shown = {
        "audio_spread": f"{space.audio_spread:.3f}", "text_spread": f"{space.text_spread:.3f}",
        "audio_dims": f"{space.audio_dims:.1f} of {most[0]}",
        "text_dims": f"{space.text_dims:.1f} of {most[1]}",
        "audio_first": f"{100 * space.audio_first:.1f} %",
        "text_first": f"{100 * space.text_first:.1f} %",
    }  # fmt: skip
    marked = {name: _marked(value, name in alarms) for name, value in shown.items()}
    named = (
        ("spread", "spread, 0 to 1", f"below {LEAST_SPREAD:g}"),
        ("dims", "directions that share the variance", f"below {LEAST_DIMENSIONS:g}"),
        ("first", "first hits that one of them takes", f"above {100 * MOST_FIRST:g} %"),
    )
    rows = [(words, marked[f"audio_{k}"], marked[f"text_{k}"], limit) for k, words, limit in named]
    return Table(("", "sound", "captions", "alarming"), rows, "Each side")


def _pairs_table(space: Space, alarms: Container[str]) -> Table:
    gap = _marked(f"{space.gap:.3f}", "gap" in alarms)
    rows = [
        ("modality gap, 0 to 2", gap, f"above {MOST_GAP:g}"),
        ("mean cosine of matching pairs", f"{space.alignment:.3f}", ""),
    ]
    if space.others is not None and space.margin is not None:
        margin = _marked(f"{space.margin:.3f}", "margin" in alarms)
        rows += [
            ("mean cosine of all other pairs", f"{space.others:.3f}", ""),
            ("matching less others", margin, f"below {LEAST_MARGIN:g}"),
        ]
    return Table(("", "value", "alarming"), rows, "Both together")


def _marked(shown: str, alarming: bool) -> str:
    return f"{ALARM} {shown}" if alarming else shown


def classification_section(
    title: str,
    result: Classification,
    labels: Sequence[str],
    bootstrap: Bootstrap,
    *,
    calibration: Calibration | None = None,
    lead: str = "",
) -> Section:
    """Accuracy, the confusion matrix as shares of each row, the accuracy of each class, and where
    it is known whether the model is as often right as it says."""
    counts = result.confusion
    totals = counts.sum(axis=1)
    accuracy = result.accuracy_interval(bootstrap)
    metrics = result.metrics()
    tiles = [
        share_tile("Accuracy", accuracy, f"chance {100 / result.n_classes:.1f}"),
        Tile("Among the first five", f"{100 * metrics['top5']:.1f} %"),
        Tile("Mean over classes", f"{100 * metrics['mean_class_accuracy']:.1f} %"),
    ]
    figure = confusion_figure(counts, labels)
    rows = [
        (label, rival(labels, row, i), str(total), "" if np.isnan(hit) else f"{100 * hit:.1f}")
        for i, (label, total, hit, row) in enumerate(
            zip(labels, totals, result.per_class, counts, strict=True)
        )
    ]
    heading = ("class", "most often taken for", "clips", "right (%)")
    table = Table(heading, rows, "By class", text_columns=2)
    blocks: list[Block] = [Tiles(tiles), figure, table]
    if calibration is not None:
        blocks += reliability_blocks(calibration, bootstrap)
    return Section(title, blocks, lead)


def captioning_section(
    scores: Captioning,
    names: Sequence[str],
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    bootstrap: Bootstrap,
    *,
    lead: str = "",
) -> Section:
    """All figures of N captions, and twelve of them beside what people wrote: from the best to the
    worst by ROUGE-L, at equal steps."""
    bounds = scores.intervals(bootstrap)
    rows = [(_CAPTION_FIGURES.get(name, name), share(value)) for name, value in bounds.items()]
    rouge = scores.scores["rouge_l"].clips
    order = np.argsort(-rouge, kind="stable")
    places = np.linspace(0, len(order) - 1, min(_EXAMPLES, len(order))).round().astype(int)
    examples = [
        (names[i], captions[i], references[i][0], f"{100 * rouge[i]:.0f}") for i in order[places]
    ]
    usual = (
        f"The model's captions of {len(captions)} clips, held against all that people wrote of "
        "each. All figures times 100, with intervals over clips. CIDEr-D weighs words by how rare "
        "they are in these references, so it compares models on the same clips only."
    )
    heading = ("clip", "the model's caption", "a person's", "ROUGE-L")
    blocks = [
        Table(("", "times 100"), rows, "All figures"),
        Table(heading, examples, "From the best to the worst", text_columns=3),
    ]
    return Section("Captions", blocks, lead or usual)


def order_section(accuracy: Mapping[str, Interval], *, lead: str = "") -> Section:
    """Order and attribute accuracy (`order.order_accuracy`) by kind, "all" last."""
    rows = [(kind, value) for kind, value in accuracy.items() if kind != ALL]
    rows += [(kind, value) for kind, value in accuracy.items() if kind == ALL]
    figure = row_chart("True sentence preferred", rows, x_label="items won", reference=0.5)
    usual = (
        "Each clip is held against its true caption and the same caption made false by one change: "
        "two events swapped, or one word turned into its opposite. Ties count half."
    )
    return Section("Order and attributes", [figure], lead or usual)


def configuration_section(settings: Mapping[str, object], protocol: Sequence[str]) -> Section:
    """How the run was made, and in plain words how it was measured: one paragraph each."""
    flat = dict(_flattened(settings))
    return Section("How this was made", [*(Prose(text) for text in protocol), Settings(flat)])


def _is_number(value: object) -> bool:
    """A finite one: a step that diverged has nothing to draw."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _curve(records: Sequence[Mapping[str, object]], key: str, name: str = "") -> Line:
    pairs = [
        (float(str(r["step"])), float(str(r[key])))
        for r in records
        if _is_number(r.get("step")) and _is_number(r.get(key))
    ]
    return Line(name or key, [a for a, _ in pairs], [b for _, b in pairs])


def _smoothed(values: Sequence[float]) -> list[float]:
    """Mean of each value and its neighbours, over about a twentieth of the curve."""
    n, half = len(values), len(values) // 40
    total = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(n) - half, 0)
    last = np.minimum(np.arange(n) + half + 1, n)
    means: Floats = (total[last] - total[first]) / (last - first)
    return [float(mean) for mean in means]


def _cell(name: str, value: Interval) -> str:
    if name.endswith("rank"):
        return f"{number(value.value)} ({number(value.low)} to {number(value.high)})"
    return share(value)


def _first_words(caption: str) -> str:
    return " ".join(caption.split()[:6])


def _flattened(tree: Mapping[str, object], above: str = "") -> list[tuple[str, object]]:
    """Dotted names, as the command line takes them."""
    rows: list[tuple[str, object]] = []
    for key, value in tree.items():
        name = f"{above}{key}"
        rows += _flattened(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return rows
