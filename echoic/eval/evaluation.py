"""What an evaluation found: figures with intervals, as JSON, a table, a report; knows no model.

N clips, C classes, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from torch import Tensor

from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.order import ALL
from echoic.eval.report import Report, Section, Tile
from echoic.eval.retrieval import Retrieval
from echoic.eval.sections import (
    classification_section,
    configuration_section,
    headline_section,
    order_section,
    read_log,
    retrieval_section,
    share_tile,
    similarity_section,
    training_section,
)
from echoic.eval.zeroshot import Classification
from echoic.types import DataError

_ORDER = "order"


@dataclass(frozen=True)
class Search:
    """Retrieval both ways. names: (N,) of the clips, as a reader knows them; captions: (N,) the
    first of each; audio, text: (N, D) the vectors of both.
    """

    ranks: Retrieval
    names: Sequence[str]
    captions: Sequence[str]
    audio: Tensor
    text: Tensor


@dataclass(frozen=True)
class ZeroShot:
    result: Classification
    labels: Sequence[str]


@dataclass(frozen=True)
class Evaluation:
    """What was measured. `data` and `model` describe both; `protocol` says in plain words how it
    was done.

    pairs: share of true sentences preferred, by kind and over "all"; attributes: the same over all
    attributes.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    protocol: tuple[str, ...]
    bootstrap: Bootstrap
    search: Search | None = None
    zero_shot: ZeroShot | None = None
    pairs: Mapping[str, Interval] = field(default_factory=dict)
    attributes: Interval | None = None

    @cached_property
    def metrics(self) -> dict[str, Interval]:
        """Every figure by name: `retrieval/text_to_audio_R@1`, `zero_shot/accuracy`,
        `order/accuracy` ...
        """
        found: dict[str, Interval] = {}
        if self.search:
            bounds = self.search.ranks.intervals(self.bootstrap)
            found |= {f"retrieval/{name}": value for name, value in bounds.items()}
        if self.zero_shot:
            found["zero_shot/accuracy"] = self.zero_shot.result.accuracy_interval(self.bootstrap)
        if _ORDER in self.pairs:
            found["order/accuracy"] = self.pairs[_ORDER]
        if self.attributes:
            found["attributes/accuracy"] = self.attributes
            kinds = (kind for kind in self.pairs if kind not in (_ORDER, ALL))
            found |= {f"attributes/{kind}": self.pairs[kind] for kind in kinds}
        return found

    def chance(self) -> dict[str, float]:
        """What guessing gives, for the figures where that is known."""
        known: dict[str, float] = {}
        if self.search:
            known |= {f"retrieval/{k}": v for k, v in self.search.ranks.chance().items()}
        if self.zero_shot:
            known["zero_shot/accuracy"] = 1 / self.zero_shot.result.n_classes
        twins = [name for name in self.metrics if name.startswith(("order/", "attributes/"))]
        return known | dict.fromkeys(twins, 0.5)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for programs; shares are of 1, ranks from 1."""
        bounds = {
            name: {"value": found.value, "low": found.low, "high": found.high}
            for name, found in self.metrics.items()
        }
        return {
            "model": self.model,
            "data": self.data,
            "metrics": bounds,
            "chance": self.chance(),
            "confidence": self.bootstrap.level,
            "protocol": list(self.protocol),
        }

    def table(self) -> Table:
        """For people."""
        return metrics_table(self.to_json())

    def write_report(self, path: Path, *, run_folder: Path | None = None) -> Path:
        """Write the HTML report; run_folder: of the training, for its loss curves and recipe.
        Raises DataError.
        """
        try:
            return self.report(run_folder).write(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror})") from None

    def report(self, run_folder: Path | None = None) -> Report:
        sections: list[Section] = [headline_section(self._tiles())]
        if run_folder is not None and (run_folder / "log.jsonl").is_file():
            records = read_log(run_folder / "log.jsonl")
            sections.append(training_section([r for r in records if r.get("kind") == "train"]))
        if self.search:
            sections.append(retrieval_section(self.search.ranks, self.bootstrap))
            sections.append(self._similarity(self.search))
        if self.zero_shot:
            title, labels = "Zero-shot classification", self.zero_shot.labels
            sections.append(
                classification_section(title, self.zero_shot.result, labels, self.bootstrap)
            )
        if self.pairs:
            sections.append(order_section(self.pairs))
        sections.append(configuration_section(self._settings(run_folder), self.protocol))
        name = str(self.model.get("recipe", "model"))
        return Report(
            f"echoic: {name}", f"{self.data['name']}, {self.data['clips']} clips", sections
        )

    def _tiles(self) -> list[Tile]:
        wanted = {
            "retrieval/text_to_audio_R@1": "Text to audio R@1",
            "retrieval/audio_to_text_R@1": "Audio to text R@1",
            "zero_shot/accuracy": "Zero-shot accuracy",
            "order/accuracy": "Word order",
            "attributes/accuracy": "Attributes",
        }
        metrics, chance = self.metrics, self.chance()
        return [
            share_tile(label, metrics[name], f"chance {100 * chance[name]:.1f}")
            for name, label in wanted.items()
            if name in metrics
        ]

    def _similarity(self, search: Search) -> Section:
        audio, text = search.audio.numpy(), search.text.numpy()
        return similarity_section(audio, text, search.names, search.captions)

    def _settings(self, run_folder: Path | None) -> dict[str, Any]:
        settings = {"model": self.model, "data": {k: v for k, v in self.data.items() if k != "bad"}}
        recipe = run_folder / "recipe.yaml" if run_folder is not None else None
        if recipe is not None and recipe.is_file():
            settings["recipe"] = yaml.safe_load(recipe.read_text("utf-8"))
        return settings


def metrics_table(report: Mapping[str, Any]) -> Table:
    """The figures of `Evaluation.to_json` for people: shares in per cent, ranks as they are."""
    data = report["data"]
    table = Table(title=f"{data['name']}: {data['clips']} clips", title_justify="left", box=None)
    level = f"{100 * report['confidence']:g} % interval"
    for heading in ("figure", "value", level, "chance"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for name, bounds in report["metrics"].items():
        ranks = name.endswith("_rank")
        shown = [f"{v:.1f}" if ranks else f"{100 * v:.1f} %" for v in bounds.values()]
        chance = report["chance"].get(name)
        table.add_row(
            name.replace("_", " "),
            shown[0],
            f"{shown[1]} to {shown[2]}",
            "" if chance is None else f"{100 * chance:.1f} %",
        )
    return table
