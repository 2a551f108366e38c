"""What an evaluation found: figures with intervals, as JSON, a table, a report; knows no model.

N clips, C classes, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from torch import Tensor

from echoic.config import read_yaml
from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.calibration import Calibration, calibrate
from echoic.eval.captioning import BLEU, POINTS, Captioning
from echoic.eval.order import ALL
from echoic.eval.outcomes import Counts, Means, Outcomes, digest
from echoic.eval.ranks import Floats
from echoic.eval.report import Report, Section, Tile
from echoic.eval.retrieval import DIRECTIONS, Retrieval
from echoic.eval.sections import (
    ALARM,
    captioning_section,
    cider_tile,
    classification_section,
    configuration_section,
    headline_section,
    order_section,
    retrieval_section,
    sections_of_run,
    share_tile,
    similarity_section,
    space_section,
)
from echoic.eval.space import Space
from echoic.eval.zeroshot import Classification

_ORDER = "order"
_CIDER = "captioning/cider_d"
BLEU_FORMULA = "bleu"  # of `Counts`
_SPACE = "space/"


@dataclass(frozen=True)
class Search:
    """Retrieval both ways. names: (N,) of the clips, as a reader knows them; captions: (N,) the
    first of each; audio, text: (N, D) the vectors of both. space: of all clips and all captions.
    """

    ranks: Retrieval
    names: Sequence[str]
    captions: Sequence[str]
    audio: Tensor
    text: Tensor
    space: Space


@dataclass(frozen=True)
class ZeroShot:
    """logits: (N, C) cosines at the model's own scale, whose softmax is how sure it is; None: not
    known. names: of the clips, as a reader knows them; without them they are numbered."""

    result: Classification
    labels: Sequence[str]
    logits: Floats | None = None
    names: Sequence[str] = ()

    @cached_property
    def calibration(self) -> Calibration | None:
        if self.logits is None:
            return None
        return calibrate([self.logits], np.eye(len(self.labels))[self.result.labels], "one")


@dataclass(frozen=True)
class Captioned:
    """Captions that the model wrote of N clips. names: of the clips, as a reader knows them;
    references: what people wrote of each. judges: in words, who judged beside our own figures."""

    scores: Captioning
    names: Sequence[str]
    captions: Sequence[str]
    references: Sequence[Sequence[str]]
    judges: str = ""


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
    captioned: Captioned | None = None
    pairs: Mapping[str, Interval] = field(default_factory=dict)
    attributes: Interval | None = None

    @cached_property
    def metrics(self) -> dict[str, Interval]:
        """Every figure that has an interval, by name: `retrieval/text_to_audio_R@1`,
        `zero_shot/accuracy`, `captioning/cider_d`, `order/accuracy` ...
        """
        found: dict[str, Interval] = {}
        if self.search:
            bounds = self.search.ranks.intervals(self.bootstrap)
            found |= {f"retrieval/{name}": value for name, value in bounds.items()}
        if self.zero_shot:
            found["zero_shot/accuracy"] = self.zero_shot.result.accuracy_interval(self.bootstrap)
        if self.captioned:
            bounds = self.captioned.scores.intervals(self.bootstrap)
            found |= {f"captioning/{name}": value for name, value in bounds.items()}
        if _ORDER in self.pairs:
            found["order/accuracy"] = self.pairs[_ORDER]
        if self.attributes:
            found["attributes/accuracy"] = self.attributes
            kinds = (kind for kind in self.pairs if kind not in (_ORDER, ALL))
            found |= {f"attributes/{kind}": self.pairs[kind] for kind in kinds}
        return found

    def outcomes(self) -> tuple[Outcomes, ...]:
        """What each clip adds to the figures that are means over clips, and to BLEU, for
        `eval.comparison`: not ranks and METEOR, nor order and attributes, of which only the figures
        are kept."""
        found: list[Outcomes] = []
        if self.search:
            found += _search_outcomes(self.search)
        if self.zero_shot:
            result = self.zero_shot.result
            keys = self.zero_shot.names or list(map(str, range(len(result.labels))))
            right = [self.zero_shot.labels[i] for i in result.labels]
            against = digest([list(self.zero_shot.labels), sorted(zip(keys, right, strict=True))])
            hits = {"zero_shot/accuracy": (result.ranks == 0).astype(np.float64)}
            found.append(Means(keys, hits, against))
        if self.captioned:
            done = self.captioned
            wanted = [list(texts) for texts in done.references]
            values = {f"captioning/{k}": v for k, v in done.scores.means().items()}
            against = digest(sorted(zip(done.names, wanted, strict=True)))
            found.append(Means(done.names, values, against))
            names = tuple(f"captioning/{name}" for name in BLEU)
            counts = done.scores.bleu_counts.astype(np.float64)
            found.append(Counts(BLEU_FORMULA, names, done.names, counts, against))
        return tuple(found)

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
        """Plain values, for programs; shares are of 1, ranks from 1, CIDEr-D to 10. The figures
        `space/...` have no interval: low and high are None. alarms: sentences on the space.
        calibration: of zero-shot classification, None where it is not known.
        """
        bounds: dict[str, dict[str, float | None]] = {
            name: {"value": found.value, "low": found.low, "high": found.high}
            for name, found in self.metrics.items()
        }
        space = self.search.space if self.search else None
        sure = self.zero_shot.calibration if self.zero_shot else None
        for name, value in space.metrics().items() if space else ():
            bounds[f"{_SPACE}{name}"] = {"value": value, "low": None, "high": None}
        return {
            "model": self.model,
            "data": self.data,
            "metrics": bounds,
            "chance": self.chance(),
            "alarms": list(space.alarms().values()) if space else [],
            "confidence": self.bootstrap.level,
            "calibration": sure.to_json(self.bootstrap) if sure else None,
            "protocol": list(self.protocol),
        }

    def table(self) -> Table:
        """For people."""
        return metrics_table(self.to_json())

    def write_report(self, path: Path, *, run_folder: Path | None = None) -> Path:
        """Write the HTML report; run_folder: of the training, for its loss curves and recipe.
        Raises DataError.
        """
        return self.report(run_folder).write(path)

    def report(self, run_folder: Path | None = None) -> Report:
        alarming = self.search is not None and self.search.space.alarms()
        lead = f"{ALARM} The embedding space is not in order: see there." if alarming else ""
        sections: list[Section] = [headline_section(self._tiles(), lead)]
        sections += sections_of_run(run_folder)
        if self.search:
            sections.append(retrieval_section(self.search.ranks, self.bootstrap))
            sections.append(self._similarity(self.search))
            sections.append(space_section(self.search.space))
        if self.zero_shot:
            title, labels = "Zero-shot classification", self.zero_shot.labels
            sections.append(
                classification_section(
                    title,
                    self.zero_shot.result,
                    labels,
                    self.bootstrap,
                    calibration=self.zero_shot.calibration,
                )
            )
        if self.captioned:
            sections.append(self._captioning(self.captioned))
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
        tiles = [
            share_tile(label, metrics[name], f"chance {100 * chance[name]:.1f}")
            for name, label in wanted.items()
            if name in metrics
        ]
        return [*tiles, cider_tile(metrics[_CIDER])] if _CIDER in metrics else tiles

    def _captioning(self, done: Captioned) -> Section:
        return captioning_section(
            done.scores, done.names, done.captions, done.references, self.bootstrap
        )

    def _similarity(self, search: Search) -> Section:
        audio, text = search.audio.numpy(), search.text.numpy()
        return similarity_section(audio, text, search.names, search.captions)

    def _settings(self, run_folder: Path | None) -> dict[str, Any]:
        settings = {"model": self.model, "data": {k: v for k, v in self.data.items() if k != "bad"}}
        recipe = run_folder / "recipe.yaml" if run_folder is not None else None
        if recipe is not None and recipe.is_file():
            settings["recipe"] = read_yaml(recipe)
        return settings


def _search_outcomes(search: Search) -> list[Outcomes]:
    """R@k and mAP@10 both ways. What is searched in is a part of what is right."""
    ranks = search.ranks
    sizes = np.bincount(ranks.owner, minlength=ranks.n_clips).tolist()
    right = sorted(zip(search.names, sizes, search.captions, strict=True))
    against = digest([right, ranks.map10])
    found: list[Outcomes] = []
    for way in DIRECTIONS:
        clips = [search.names[i] for i in ranks.query_clips(way)]
        values = {f"retrieval/{way}_{k}": v for k, v in ranks.per_query(way).items()}
        found.append(Means(clips, values, against))
    return found


def metrics_table(report: Mapping[str, Any]) -> Table:
    """The figures of `Evaluation.to_json` for people, as `printed`. Of the space only what is
    alarming, below the table."""
    data = report["data"]
    table = Table(
        title=f"{data['name']}: {data['clips']} clips",
        title_justify="left",
        box=None,
        caption="\n".join(f"space: {told}" for told in report.get("alarms", ())) or None,
        caption_justify="left",
    )
    level = f"{100 * report['confidence']:g} % interval"
    for heading in ("figure", "value", level, "chance"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for name, bounds in report["metrics"].items():
        if name.startswith(_SPACE):
            continue
        shown = [printed(name, bounds[k]) for k in ("value", "low", "high")]
        chance = report["chance"].get(name)
        table.add_row(
            name.replace("_", " "),
            shown[0],
            f"{shown[1]} to {shown[2]}",
            "" if chance is None else f"{100 * chance:.1f} %",
        )
    return table


def printed(name: str, value: float) -> str:
    """A figure as papers print it: shares in per cent, ranks as they are, CIDEr-D and SPIDEr times
    100."""
    if name.endswith("_rank"):
        return f"{value:.1f}"
    return f"{100 * value:.1f}" if name.endswith(POINTS) else f"{100 * value:.1f} %"
