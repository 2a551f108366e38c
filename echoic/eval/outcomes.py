"""What each clip adds to a figure, and the file that keeps it: so that two models, measured apart,
can be compared clip by clip.

A result file is the JSON document of the result (`to_json`) with `outcomes` in it. Scores of tags
are base64 of little-endian float32: a table of thousands of clips and hundreds of classes.

Shapes: Q queries, N clips, C classes, S runs (seeds).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from echoic.config import parse_json
from echoic.data.files import writing
from echoic.eval.ranks import Floats
from echoic.types import DataError


@dataclass(frozen=True)
class Means:
    """Figures that are means over the same Q queries.

    clips: (Q,) the key of the clip of each, in which queries of one clip stand in a fixed order.
    values: (Q,) by figure. against: `digest` of what is right. weights: (Q,) with mean 1, how much
    each counts; None: all alike.
    """

    clips: Sequence[str]
    values: Mapping[str, Floats]
    against: str
    weights: Floats | None = None

    @property
    def figures(self) -> tuple[str, ...]:
        return tuple(self.values)


@dataclass(frozen=True)
class Tags:
    """Scores that a figure which is no mean over clips, macro mAP, is made of: runs of (N, C), and
    truth (N, C) bool."""

    figure: str
    clips: Sequence[str]
    truth: NDArray[np.bool_]
    runs: Sequence[Floats] = field(repr=False)

    @property
    def figures(self) -> tuple[str, ...]:
        return (self.figure,)


@dataclass(frozen=True)
class Counts:
    """Figures that are made of sums over clips, such as F1: `formula`, a name that
    `eval.comparison` knows, turns sums (r, K) into `figures` (r, F). counts: (N, K) of each clip.
    against: `digest` of what is right."""

    formula: str
    figures: tuple[str, ...]
    clips: Sequence[str]
    counts: Floats = field(repr=False)
    against: str


Outcomes = Means | Tags | Counts


class Measured(Protocol):
    """`TaskResult`, `Evaluation`, and whatever else has both."""

    def to_json(self) -> dict[str, Any]: ...

    def outcomes(self) -> Sequence[Outcomes]: ...


@dataclass(frozen=True)
class Result:
    """What a result file holds. document: that of `to_json`. name: of the file."""

    name: str
    document: Mapping[str, Any]
    outcomes: tuple[Outcomes, ...]

    @property
    def data(self) -> str:
        """What was measured on."""
        about = self.document.get("data", {})
        return str(about.get("title") or about.get("name") or "data without a name")


def digest(right: object) -> str:
    """Names what was held right, anything that JSON can hold: equal for equal."""
    text = json.dumps(right, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def told_apart(names: Iterable[str]) -> list[str]:
    """The second of a name is "name (2)": by names things are known when models are compared."""
    seen, found = Counter[str](), list[str]()
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def result_of(measured: Measured, name: str) -> Result:
    """As if it had been written and read."""
    return Result(name, measured.to_json(), tuple(measured.outcomes()))


def write_result(path: Path, measured: Measured) -> Path:
    """Write a result file, whole or not at all. Raises DataError."""
    outcomes = [_packed(each) for each in measured.outcomes()]
    text = json.dumps(
        measured.to_json() | {"outcomes": outcomes}, ensure_ascii=False, allow_nan=False
    )
    with writing(path) as beside:
        beside.write_text(text + "\n", "utf-8")
    return path


def read_result(path: Path) -> Result:
    """Raises DataError where the file cannot be read, or is none of `write_result`."""
    try:
        document = parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError:
        raise DataError(f"{path}: not JSON; give what echoic eval --save wrote") from None
    if not isinstance(document, dict) or "metrics" not in document:
        raise DataError(f"{path}: no result of echoic eval; give what echoic eval --save wrote")
    if not document.get("outcomes"):
        raise DataError(
            f"{path}: has figures but no outcomes of clips to compare by; measure again with "
            "echoic eval --save FILE"
        )
    packed = document.pop("outcomes")
    try:
        return Result(str(path), document, tuple(_unpacked(each) for each in packed))
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise DataError(f"{path}: its outcomes are damaged ({error!r})") from None


def _packed(found: Outcomes) -> dict[str, Any]:
    clips = list(found.clips)
    if isinstance(found, Means):
        weights = None if found.weights is None else found.weights.tolist()
        values = {name: column.tolist() for name, column in found.values.items()}
        return {"clips": clips, "values": values, "weights": weights, "against": found.against}
    if isinstance(found, Counts):
        about = {"formula": found.formula, "figures": list(found.figures), "clips": clips}
        return about | {"counts": found.counts.tolist(), "against": found.against}
    runs = [base64.b64encode(run.astype("<f4").tobytes()).decode() for run in found.runs]
    truth = [np.flatnonzero(row).tolist() for row in found.truth]
    classes = found.truth.shape[1]
    named = {"figure": found.figure, "clips": clips, "classes": classes}
    return named | {"truth": truth, "scores": runs}


def _unpacked(told: Mapping[str, Any]) -> Outcomes:
    """Raises ValueError and the like where it is not what `_packed` makes."""
    clips = [str(key) for key in told["clips"]]
    if "values" in told:
        values = {name: _numbers(column, len(clips)) for name, column in told["values"].items()}
        weights = None if told["weights"] is None else _numbers(told["weights"], len(clips))
        return Means(clips, values, str(told["against"]), weights)
    if "counts" in told:
        counts = _numbers(told["counts"], len(clips), 2)
        figures = tuple(str(name) for name in told["figures"])
        return Counts(str(told["formula"]), figures, clips, counts, str(told["against"]))
    shape = len(clips), int(told["classes"])
    truth = np.zeros(shape, dtype=bool)
    for row, columns in zip(truth, told["truth"], strict=True):
        row[columns] = True
    return Tags(str(told["figure"]), clips, truth, [_table(run, shape) for run in told["scores"]])


def _numbers(values: object, count: int, axes: int = 1) -> Floats:
    """(count,), or with two axes (count, K)."""
    found = np.array(values, dtype=np.float64)
    if found.ndim != axes or len(found) != count or not np.isfinite(found).all():
        raise ValueError(f"{found.shape} values for {count} queries, or not all finite")
    return found


def _table(text: str, shape: tuple[int, int]) -> Floats:
    try:
        flat = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
    except binascii.Error as error:
        raise ValueError(f"scores: {error}") from None
    return flat.reshape(shape).astype(np.float64)
