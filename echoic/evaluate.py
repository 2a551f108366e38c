"""How good is a model: retrieval, zero-shot classification, word order and attributes, each with its interval.

`evaluate` measures on a person's own captioned clips, `evaluate_synth` on the held-out part of the embedded corpus.
Both give an `Evaluation`, which becomes JSON, a table, or a report (docs/evaluation.md says what each figure means).

N clips, M captions, C classes, I items, D embedding width, T samples.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.table import Table
from torch import Tensor

from echoic.api import EchoicModel
from echoic.data.clips import Clip, Source, check_audio
from echoic.data.synth import CLASSES, Scene, attribute_pairs, order_pairs, sound_class
from echoic.data.synth.corpus import SceneSource, draw_scenes, render_all
from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.order import ALL, order_accuracy
from echoic.eval.ranks import Floats, unit_rows
from echoic.eval.report import Report, Section, Tile
from echoic.eval.retrieval import Retrieval, retrieve
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
from echoic.eval.zeroshot import (
    LAION_TEMPLATE,
    Classification,
    class_scores,
    class_vectors,
    classify,
)
from echoic.types import AudioError, DataError

log = logging.getLogger("echoic.evaluate")

SYNTH_PROMPTS = ("{label}", "the sound of {label}")
_ORDER = "order"


@dataclass(frozen=True)
class Heard:
    """What was heard of a source. vectors: (N, D) of the clips `kept`; bad: key -> reason of the others."""

    kept: list[int]
    vectors: Tensor
    bad: dict[str, str]


@dataclass(frozen=True)
class Search:
    """Retrieval both ways. audio, text: (N, D) vectors of the clips and of the first caption of each."""

    ranks: Retrieval
    clips: Sequence[Clip]
    audio: Tensor
    text: Tensor


@dataclass(frozen=True)
class ZeroShot:
    result: Classification
    labels: Sequence[str]


@dataclass(frozen=True)
class SynthSize:
    """How much of the embedded corpus is evaluated on: scenes for retrieval, scenes of one event for zero-shot
    classification, items of word order and as many of attributes. max_s: longest scene."""

    scenes: int = 300
    singles: int = 240
    pairs: int = 240
    max_s: float = 10.0
    seed: int = 0


@dataclass(frozen=True)
class Evaluation:
    """What was measured. `data` and `model` describe both; `protocol` says in plain words how it was done.

    pairs: share of true sentences preferred, by kind and over "all"; attributes: the same over all attributes.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    protocol: tuple[str, ...]
    bootstrap: Bootstrap
    search: Search | None = None
    zero_shot: ZeroShot | None = None
    pairs: Mapping[str, Interval] = field(default_factory=dict)
    attributes: Interval | None = None

    def metrics(self) -> dict[str, Interval]:
        """Every figure by name: `retrieval/text_to_audio_R@1`, `zero_shot/accuracy`, `order/accuracy` ..."""
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
        twins = [name for name in self.metrics() if name.startswith(("order/", "attributes/"))]
        return known | dict.fromkeys(twins, 0.5)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for programs; shares are of 1, ranks from 1."""
        bounds = {
            name: {"value": found.value, "low": found.low, "high": found.high}
            for name, found in self.metrics().items()
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
        """Write the HTML report; run_folder: of the training, for its loss curves and recipe. Raises DataError."""
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
        return Report(f"echoic: {name}", f"{self.data['name']}, {self.data['clips']} clips", sections)

    def _tiles(self) -> list[Tile]:
        wanted = {
            "retrieval/text_to_audio_R@1": "Text to audio R@1",
            "retrieval/audio_to_text_R@1": "Audio to text R@1",
            "zero_shot/accuracy": "Zero-shot accuracy",
            "order/accuracy": "Word order",
            "attributes/accuracy": "Attributes",
        }
        metrics, chance = self.metrics(), self.chance()
        return [
            share_tile(label, metrics[name], f"chance {100 * chance[name]:.1f}")
            for name, label in wanted.items()
            if name in metrics
        ]

    def _similarity(self, search: Search) -> Section:
        names = [clip.key for clip in search.clips]
        captions = [clip.captions[0] for clip in search.clips]
        return similarity_section(search.audio.numpy(), search.text.numpy(), names, captions)

    def _settings(self, run_folder: Path | None) -> dict[str, Any]:
        settings = {"model": self.model, "data": {k: v for k, v in self.data.items() if k != "bad"}}
        recipe = run_folder / "recipe.yaml" if run_folder is not None else None
        if recipe is not None and recipe.is_file():
            settings["recipe"] = yaml.safe_load(recipe.read_text("utf-8"))
        return settings


def evaluate(
    model: EchoicModel,
    source: Source,
    *,
    name: str = "clips",
    template: str = LAION_TEMPLATE,
    bootstrap: Bootstrap | None = None,
) -> Evaluation:
    """Retrieval both ways; where every clip has exactly one tag, also zero-shot classification by these tags.

    name: of the data, for the report. A clip that cannot be heard is named in the log and left out. Raises DataError
    where none is left.
    """
    heard = hear(model, source)
    clips = [source.clips[i] for i in heard.kept]
    search = _search(model, clips, heard.vectors)
    protocol = [_search_words(search.ranks)]
    zero_shot = None
    labels = sorted({tag for clip in clips for tag in clip.tags})
    if len(labels) > 1 and all(len(clip.tags) == 1 for clip in clips):
        classes = class_vectors(model.embed_text, labels, template)
        right = [labels.index(clip.tags[0]) for clip in clips]
        zero_shot = ZeroShot(classify(class_scores(heard.vectors, classes), right), labels)
        protocol.append(
            f"Zero-shot classification: {len(labels)} classes, the tags of the clips, each put into the sentence "
            f"“{template}”; a clip goes to the nearest sentence."
        )
    return Evaluation(
        model=describe(model),
        data=_about(name, clips, heard.bad),
        protocol=(*protocol, _interval_words(bootstrap or Bootstrap(seed=0))),
        bootstrap=bootstrap or Bootstrap(seed=0),
        search=search,
        zero_shot=zero_shot,
    )


def evaluate_synth(
    model: EchoicModel,
    size: SynthSize | None = None,
    *,
    scenes: Source | None = None,
    processes: int = 1,
    bootstrap: Bootstrap | None = None,
) -> Evaluation:
    """Retrieval, zero-shot classification of single events, order and attributes, on the test split of the corpus.

    scenes: a source to search instead of drawn scenes, such as the corpus's own test shards. processes: that render.
    """
    size, boot = size or SynthSize(), bootstrap or Bootstrap(seed=0)
    if scenes is None:
        scenes = SceneSource(
            draw_scenes(size.scenes, split="test", seed=size.seed, max_s=size.max_s)
        )
        vectors = _embed_scenes(model, scenes.scenes, processes)
        heard = Heard(list(range(len(scenes.clips))), vectors, {})
    else:
        heard = hear(model, scenes)
    clips = [scenes.clips[i] for i in heard.kept]
    search = _search(model, clips, heard.vectors)
    zero_shot = _synth_zero_shot(model, size, processes)
    pairs, attributes = _synth_pairs(model, size, processes, boot)
    return Evaluation(
        model=describe(model),
        data=_about("embedded corpus, test split", clips, heard.bad),
        protocol=(_search_words(search.ranks), *_synth_words(size, zero_shot), _interval_words(boot)),
        bootstrap=boot,
        search=search,
        zero_shot=zero_shot,
        pairs=pairs,
        attributes=attributes,
    )


def hear(model: EchoicModel, source: Source, chosen: Iterable[int] | None = None) -> Heard:
    """Vectors of the clips of `source`, one in memory at a time; those that cannot be heard are named and left out.

    Raises DataError where none is left.
    """
    kept: list[int] = []
    bad: dict[str, str] = {}
    indices = range(len(source.clips)) if chosen is None else chosen
    vectors = model.embed_audio(_waves(source, indices, model.rate_hz, kept, bad))
    if not kept:
        first = next((f" ({key}: {reason})" for key, reason in bad.items()), "")
        raise DataError(f"no clip of {len(bad)} can be heard{first}")
    return Heard(kept, vectors, bad)


def _waves(
    source: Source, indices: Iterable[int], rate_hz: int, kept: list[int], bad: dict[str, str]
) -> Iterator[np.ndarray]:
    for i in indices:
        key = source.clips[i].key
        try:
            wave = source.read(i, rate_hz)
            check_audio(key, wave)
        except AudioError as error:
            bad[key] = error.reason
            log.warning("clip %s left out: %s", key, error.reason)
            continue
        kept.append(i)
        yield wave


def describe(model: EchoicModel) -> dict[str, Any]:
    """What names a model in results: its card without the bulk, and its space."""
    card = {k: v for k, v in model.card.items() if isinstance(v, str | int | float)}
    parameters = sum(p.numel() for p in model.network.parameters())
    return card | {"parameters": parameters, "space_id": model.space_id}


def _search(model: EchoicModel, clips: Sequence[Clip], audio: Tensor) -> Search:
    owner = np.repeat(np.arange(len(clips)), [len(clip.captions) for clip in clips])
    text = model.embed_text([caption for clip in clips for caption in clip.captions])
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    return Search(retrieve(audio.numpy(), text.numpy(), owner), clips, audio, text[first])


def _embed_scenes(model: EchoicModel, scenes: Sequence[Scene], processes: int) -> Tensor:
    return model.embed_audio(render_all(scenes, model.rate_hz, processes=processes))


def _synth_zero_shot(model: EchoicModel, size: SynthSize, processes: int) -> ZeroShot:
    scenes = draw_scenes(
        size.singles, split="test", seed=size.seed + 1, max_s=size.max_s, relation="single"
    )
    scores = class_scores(_embed_scenes(model, scenes, processes), _synth_classes(model))
    right = [CLASSES.index(scene.labels[0]) for scene in scenes]
    return ZeroShot(classify(scores, right), CLASSES)


def _synth_classes(model: EchoicModel) -> Floats:
    """(C, D): of each class, the mean direction of its nouns in each prompt."""
    nouns = [sound_class(name).nouns for name in CLASSES]
    each = class_vectors(model.embed_text, [noun for row in nouns for noun in row], SYNTH_PROMPTS)
    starts = np.cumsum([0, *map(len, nouns[:-1])])
    return unit_rows(np.add.reduceat(each, starts), "class")


def _synth_pairs(
    model: EchoicModel, size: SynthSize, processes: int, bootstrap: Bootstrap
) -> tuple[dict[str, Interval], Interval]:
    """Accuracy by kind and over all; and over all attributes."""
    order = order_pairs(size.seed, size.pairs, split="test")
    attributes = attribute_pairs(size.seed, size.pairs, split="test")
    items = [*order, *attributes]
    audio = _embed_scenes(model, [item.scene for item in items], processes)
    right = model.embed_text([item.right for item in items])
    wrong = model.embed_text([item.wrong for item in items])
    kinds = [item.axis for item in items]
    by_kind = order_accuracy(audio, right, wrong, kinds, bootstrap)
    tail = slice(len(order), None)
    over = order_accuracy(audio[tail], right[tail], wrong[tail], kinds[tail], bootstrap)
    return by_kind, over[ALL]


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


def _about(name: str, clips: Sequence[Clip], bad: dict[str, str]) -> dict[str, Any]:
    captions = sum(len(clip.captions) for clip in clips)
    hours = round(sum(clip.duration_s or 0.0 for clip in clips) / 3600, 4)
    return {"name": name, "clips": len(clips), "captions": captions, "hours": hours, "bad": bad}


def _search_words(ranks: Retrieval) -> str:
    return (
        f"Retrieval: {len(ranks.owner)} captions and {ranks.n_clips} clips, ranked by cosine. Text to audio: every "
        "caption searches all clips. Audio to text: every clip searches all captions, and its best-placed own caption "
        "counts. Ties count against the model."
    )


def _synth_words(size: SynthSize, zero_shot: ZeroShot) -> tuple[str, str, str]:
    return (
        "The embedded corpus, test split: parameters of the sounds, wordings of the captions and pairs of sounds in "
        "one scene that training never met; the words themselves are known.",
        f"Zero-shot classification: {len(zero_shot.result.labels)} scenes of one event, {len(zero_shot.labels)} "
        f"classes; the vector of a class is the mean over its nouns in {len(SYNTH_PROMPTS)} prompts.",
        f"Order and attributes: {size.pairs} clips of two events with the true caption and the same with the events "
        f"swapped; {size.pairs} clips of one event with an attribute and its opposite. Chance is one half.",
    )


def _interval_words(bootstrap: Bootstrap) -> str:
    return (
        f"Intervals hold {100 * bootstrap.level:g} %: percentile bootstrap, {bootstrap.resamples} resamples of "
        "clips, each with all its captions."
    )
