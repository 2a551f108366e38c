"""How good is a model: retrieval, zero-shot classification, captions, word order and attributes,
each with its interval.

`evaluate` measures on a person's own captioned clips, `evaluate_synth` on the held-out part of the
embedded corpus. Both give an `Evaluation`, which becomes JSON, a table, or a report
(docs/evaluation.md says what each figure means).

N clips, M captions, C classes, I items, D embedding width, T samples.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from echoic.api import EchoicModel
from echoic.data.clips import Clip, Source, heard_or_noted
from echoic.data.synth import CLASSES, Choice, Scene, attribute_pairs, order_pairs, sound_class
from echoic.data.synth.corpus import SceneSource, draw_scenes, render_all
from echoic.embeddings import VectorCache, hear_parts, read_texts, unheard
from echoic.encoders.generation import Beam
from echoic.encoders.generation import Search as CaptionSearch
from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.captioning import score_captions
from echoic.eval.evaluation import Captioned, Evaluation, Search, ZeroShot
from echoic.eval.order import ALL, order_accuracy
from echoic.eval.outcomes import told_apart
from echoic.eval.ranks import Floats, unit_rows
from echoic.eval.retrieval import Map10, Retrieval, retrieve
from echoic.eval.space import measure_space
from echoic.eval.zeroshot import (
    LAION_TEMPLATE,
    class_scores,
    class_vectors,
    classify,
)
from echoic.judges import Judges
from echoic.types import DataError

log = logging.getLogger("echoic.evaluate")

SYNTH_PROMPTS = ("{label}", "the sound of {label}")
MEASURES = ("retrieval", "zero_shot", "captioning")
SYNTH_MEASURES = (*MEASURES, "order", "attributes")


@dataclass(frozen=True)
class Heard:
    """What was heard of a source. vectors: (N, D) of the clips `kept`; bad: key -> reason of the
    others.
    """

    kept: list[int]
    vectors: Tensor
    bad: dict[str, str]


@dataclass(frozen=True)
class SynthSize:
    """How much of the embedded corpus is evaluated on: scenes for retrieval, scenes of one event
    for zero-shot classification, items of word order and as many of attributes. max_s: longest
    scene.
    """

    scenes: int = 300
    singles: int = 240
    pairs: int = 240
    max_s: float = 10.0
    seed: int = 0


def evaluate(
    model: EchoicModel,
    source: Source,
    *,
    name: str = "clips",
    measures: Collection[str] = MEASURES,
    template: str = LAION_TEMPLATE,
    labels: Sequence[str] | None = None,
    map10: Map10 = "sorted",
    captions: CaptionSearch | None = Beam(),
    judges: Judges | None = None,
    bootstrap: Bootstrap | None = None,
    cache: VectorCache | None = None,
) -> Evaluation:
    """Retrieval both ways; where every clip has exactly one tag, also zero-shot classification by
    these tags; of a model with a decoder also captioning.

    name: of the data, for the report. measures: which of these. labels: all classes, in words;
    None: the tags that there are. map10: of audio to text, see `eval.retrieval`. captions: how they
    are written; None: not at all, which is much quicker. judges: of them beside our own figures, as
    `echoic.judges.available_judges` gives them. cache: of vectors, see `echoic.embeddings`;
    captions are written each time. A clip that cannot be heard is named in the log and left out.
    Raises DataError where none is left, or a tag is none of `labels`.
    """
    heard = hear(model, source, cache=cache)
    embed_text = partial(read_texts, model, cache=cache)
    clips = [source.clips[i] for i in heard.kept]
    names = [clip.key for clip in clips]
    search = captioned = zero_shot = None
    protocol: list[str] = []
    if "retrieval" in measures:
        search = _search(embed_text, clips, heard.vectors, names, map10)
        protocol.append(_search_words(search.ranks))
    if "captioning" in measures:
        captioned = _captioned(model, source, heard.kept, names, captions, judges)
    labels = _classes(clips, labels) if "zero_shot" in measures else []
    if len(labels) > 1 and all(len(clip.tags) == 1 for clip in clips):
        classes = class_vectors(embed_text, labels, template)
        right = [labels.index(clip.tags[0]) for clip in clips]
        scores = class_scores(heard.vectors, classes)
        zero_shot = ZeroShot(classify(scores, right), labels, scale_of(model) * scores, names)
        protocol.append(
            f"Zero-shot classification: {len(labels)} classes, each put in the sentence "
            f"“{template}”; a clip goes to the nearest sentence."
        )
    return Evaluation(
        model=describe(model),
        data=_about(name, clips, heard.bad),
        protocol=(
            *protocol,
            *_captioning_words(captioned, captions),
            _interval_words(bootstrap or Bootstrap(seed=0)),
        ),
        bootstrap=bootstrap or Bootstrap(seed=0),
        search=search,
        zero_shot=zero_shot,
        captioned=captioned,
    )


def evaluate_synth(
    model: EchoicModel,
    size: SynthSize | None = None,
    *,
    measures: Collection[str] = SYNTH_MEASURES,
    scenes: Source | None = None,
    processes: int = 1,
    captions: CaptionSearch | None = Beam(),
    judges: Judges | None = None,
    bootstrap: Bootstrap | None = None,
    cache: VectorCache | None = None,
) -> Evaluation:
    """Retrieval, zero-shot classification of single events, order and attributes, on the test split
    of the corpus; captions, judges and cache as in `evaluate`.

    measures: which of these; no more is rendered than they need. scenes: a source to search instead
    of drawn scenes, such as the corpus's own test shards. processes: that render.
    """
    size, boot = size or SynthSize(), bootstrap or Bootstrap(seed=0)
    drawn, singles = list[Scene](), list[Scene]()
    if scenes is None and not {"retrieval", "captioning"}.isdisjoint(measures):
        drawn = _test_scenes(size, size.scenes, size.seed)
    if "zero_shot" in measures:
        singles = _test_scenes(size, size.singles, size.seed + 1, relation="single")
    items = _items(size, measures)
    rendered = [*drawn, *singles, *(item.scene for item in items)]
    vectors = _hear_scenes(model, rendered, processes, cache)
    embed_text = partial(read_texts, model, cache=cache)
    drawn_vectors, single_vectors, item_vectors = vectors.split(
        [len(drawn), len(singles), len(items)]
    )
    if scenes is not None:
        heard = hear(model, scenes, cache=cache)
    else:
        scenes, heard = SceneSource(drawn), Heard(list(range(len(drawn))), drawn_vectors, {})
    clips = [scenes.clips[i] for i in heard.kept]
    names = told_apart([", ".join(clip.tags[:2]) for clip in clips])
    search = captioned = zero_shot = None
    if "retrieval" in measures:
        search = _search(embed_text, clips, heard.vectors, names)
    if "captioning" in measures:
        captioned = _captioned(model, scenes, heard.kept, names, captions, judges)
    if singles:
        zero_shot = _synth_zero_shot(embed_text, singles, single_vectors, scale_of(model))
    pairs, attributes = _synth_pairs(embed_text, items, item_vectors, boot)
    return Evaluation(
        model=describe(model),
        data=_about("embedded corpus, test split", clips or SceneSource(rendered).clips, heard.bad),
        protocol=(
            *([_search_words(search.ranks)] if search else []),
            *_captioning_words(captioned, captions),
            *_synth_words(size, zero_shot, pairs),
            _interval_words(boot),
        ),
        bootstrap=boot,
        search=search,
        zero_shot=zero_shot,
        captioned=captioned,
        pairs=pairs,
        attributes=attributes,
    )


def hear(
    model: EchoicModel,
    source: Source,
    chosen: Iterable[int] | None = None,
    *,
    cache: VectorCache | None = None,
) -> Heard:
    """Vectors of the clips of `source`, one in memory at a time; those that cannot be heard are
    named and left out.

    Raises DataError where none is left.
    """
    bad: dict[str, str] = {}
    indices = range(len(source.clips)) if chosen is None else chosen

    def read(i: int) -> np.ndarray | None:
        return heard_or_noted(source, i, model.rate_hz, bad)

    rows, vectors = hear_parts(model, source, indices, read, cache=cache)
    if not rows:
        first = next((f" ({key}: {reason})" for key, reason in bad.items()), "")
        raise DataError(f"no clip of {len(bad)} can be heard{first}")
    return Heard([i for i, _ in rows], vectors, bad)


def _hear_scenes(
    model: EchoicModel, scenes: Sequence[Scene], processes: int, cache: VectorCache | None
) -> Tensor:
    """(N, D); `processes` render what the cache lacks."""
    source = SceneSource(scenes)
    lacking = unheard(model, source, cache)
    waves = render_all([scenes[i] for i in lacking], model.rate_hz, processes=processes)
    rendered = zip(lacking, waves, strict=True)

    def read(i: int) -> np.ndarray:
        # another process may have changed the cache since: that one may be passed over, or missing
        wave = next((wave for j, wave in rendered if j == i), None)
        return source.read(i, model.rate_hz) if wave is None else wave

    _, vectors = hear_parts(model, source, range(len(scenes)), read, cache=cache)
    return vectors


def scale_of(model: EchoicModel) -> float:
    """What the model learnt to multiply cosines with, before the softmax."""
    return float(model.network.logit_scale.detach().exp())


def describe(model: EchoicModel) -> dict[str, Any]:
    """What names a model in results: its card without the bulk, and its space."""
    card = {k: v for k, v in model.card.items() if isinstance(v, str | int | float)}
    parameters = sum(p.numel() for p in model.network.parameters())
    return card | {"parameters": parameters, "space_id": model.space_id}


EmbedText = Callable[[Sequence[str]], Tensor]


def _search(
    embed_text: EmbedText,
    clips: Sequence[Clip],
    audio: Tensor,
    names: Sequence[str],
    map10: Map10 = "sorted",
) -> Search:
    _note_shared(clips)
    owner = np.repeat(np.arange(len(clips)), [len(clip.captions) for clip in clips])
    text = embed_text([caption for clip in clips for caption in clip.captions])
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    ranks = retrieve(audio.numpy(), text.numpy(), owner, map10=map10)
    space = measure_space(audio.numpy(), text.numpy(), ranks.owner)
    return Search(ranks, names, [clip.captions[0] for clip in clips], audio, text[first], space)


def _note_shared(clips: Sequence[Clip]) -> None:
    """Where clips share captions, as those made of class names do, that alone lowers figures."""
    having = Counter(caption for clip in clips for caption in set(clip.captions))
    shared = sum(any(having[caption] > 1 for caption in clip.captions) for clip in clips)
    if 10 * shared > len(clips):
        log.warning(
            "%d of %d clips have a caption that another has too: no model can tell these apart, "
            "and retrieval is the lower for it",
            shared,
            len(clips),
        )


def _captioned(
    model: EchoicModel,
    source: Source,
    kept: Sequence[int],
    names: Sequence[str],
    how: CaptionSearch | None,
    judges: Judges | None = None,
) -> Captioned | None:
    """The model's captions of the clips `kept` that people captioned too; None where it writes
    none."""
    if how is None or model.network.decoder is None:
        return None
    told = [(i, name) for i, name in zip(kept, names, strict=True) if source.clips[i].captions]
    found = model.caption((source.read(i, model.rate_hz) for i, _ in told), how=how)
    references = [source.clips[i].captions for i, _ in told]
    scores = score_captions(found, references)
    if judges is not None:
        scores, judges = judges.add_to(scores, found, references)
    told_by = "" if judges is None else str(judges)
    return Captioned(scores, [name for _, name in told], found, references, told_by)


def _classes(clips: Sequence[Clip], labels: Sequence[str] | None) -> list[str]:
    """`labels`, or the tags of the clips, sorted. Raises DataError."""
    found = sorted({tag for clip in clips for tag in clip.tags})
    if labels is None:
        return found
    if strange := [tag for tag in found if tag not in labels]:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise DataError(f"tag {strange[0]!r}{more}: none of the {len(labels)} classes asked for")
    return list(labels)


def _test_scenes(
    size: SynthSize, count: int, seed: int, relation: str | None = None
) -> list[Scene]:
    return draw_scenes(count, split="test", seed=seed, max_s=size.max_s, relation=relation)


def _items(size: SynthSize, measures: Collection[str]) -> list[Choice]:
    """Items of order, then as many of attributes."""
    drawn = {"order": order_pairs, "attributes": attribute_pairs}
    return [
        item
        for name, draw in drawn.items()
        if name in measures
        for item in draw(size.seed, size.pairs, split="test")
    ]


def _synth_zero_shot(
    embed_text: EmbedText, scenes: Sequence[Scene], audio: Tensor, scale: float
) -> ZeroShot:
    right = [CLASSES.index(scene.labels[0]) for scene in scenes]
    scores = class_scores(audio, _synth_classes(embed_text))
    return ZeroShot(classify(scores, right), CLASSES, scale * scores)


def _synth_classes(embed_text: EmbedText) -> Floats:
    """(C, D): of each class, the mean direction of its nouns in each prompt."""
    nouns = [sound_class(name).nouns for name in CLASSES]
    each = class_vectors(embed_text, [noun for row in nouns for noun in row], SYNTH_PROMPTS)
    starts = np.cumsum([0, *map(len, nouns[:-1])])
    return unit_rows(np.add.reduceat(each, starts), "class")


def _synth_pairs(
    embed_text: EmbedText, items: Sequence[Choice], audio: Tensor, bootstrap: Bootstrap
) -> tuple[dict[str, Interval], Interval | None]:
    """Accuracy by kind and over all; and over all attributes."""
    if not items:
        return {}, None
    right = embed_text([item.right for item in items])
    wrong = embed_text([item.wrong for item in items])
    kinds = [item.axis for item in items]
    by_kind = order_accuracy(audio, right, wrong, kinds, bootstrap)
    first = sum(kind == "order" for kind in kinds)
    if first == len(items):
        return by_kind, None
    over = order_accuracy(audio[first:], right[first:], wrong[first:], kinds[first:], bootstrap)
    return by_kind, over[ALL]


def _about(name: str, clips: Sequence[Clip], bad: dict[str, str]) -> dict[str, Any]:
    captions = sum(len(clip.captions) for clip in clips)
    hours = round(sum(clip.duration_s or 0.0 for clip in clips) / 3600, 4)
    return {"name": name, "clips": len(clips), "captions": captions, "hours": hours, "bad": bad}


def _search_words(ranks: Retrieval) -> str:
    legacy = " Audio to text mAP@10 as LAION computes it: comparable with its tables only."
    return (
        f"Retrieval: {len(ranks.owner)} captions and {ranks.n_clips} clips, ranked by cosine. Text "
        "to audio: every caption searches all clips. Audio to text: every clip searches all "
        "captions, and its best-placed own caption counts. Ties count against the model."
    ) + (legacy if ranks.map10 == "laion_legacy" else "")


def _synth_words(
    size: SynthSize, zero_shot: ZeroShot | None, pairs: Mapping[str, Interval]
) -> Iterator[str]:
    yield (
        "The embedded corpus, test split: parameters of the sounds, wordings of the captions and "
        "pairs of sounds in one scene are new; the words themselves are known from training."
    )
    if zero_shot:
        scenes, classes = len(zero_shot.result.labels), len(zero_shot.labels)
        yield (
            f"Zero-shot classification: {scenes} scenes of one event, {classes} classes; the "
            f"vector of a class is the mean over its nouns in {len(SYNTH_PROMPTS)} prompts."
        )
    if "order" in pairs:
        yield (
            f"Order: {size.pairs} clips of two events with the true caption and the same with the "
            "events swapped. Chance is one half."
        )
    if not pairs.keys() <= {"order", ALL}:
        yield (
            f"Attributes: {size.pairs} clips of one event with an attribute and with its opposite. "
            "Chance is one half."
        )


def _captioning_words(done: Captioned | None, how: CaptionSearch | None) -> list[str]:
    if done is None:
        return []
    return [
        f"Captioning: {len(done.captions)} clips, each captioned once, by {how}, and held against "
        "all its captions. BLEU, ROUGE-L and CIDEr-D as COCO's evaluation code computes them.",
        *([f"Captions' {done.judges}."] if done.judges else []),
    ]


def _interval_words(bootstrap: Bootstrap) -> str:
    return (
        f"Intervals hold {100 * bootstrap.level:g} %: percentile bootstrap, "
        f"{bootstrap.resamples} resamples of clips, each with all its captions."
    )
