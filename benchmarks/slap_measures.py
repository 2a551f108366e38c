"""What the ablation of SLAP measures of a model, all on clips that it was not trained on: retrieval
both ways, zero-shot classification, linear probes, and captions beside sentences that no captioner
wrote.

T samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from benchmarks.probes import SYNTH_PROMPTS, Hear, Probe, Waves, probe_vector
from benchmarks.real_sets import RATE_HZ
from echoic.api import EchoicModel
from echoic.data.synth import CLASSES, Scene, sound_class
from echoic.data.synth.corpus import draw_scenes, render_all
from echoic.encoders.generation import Beam
from echoic.eval.caption_baselines import most_frequent_caption, nearest_tags
from echoic.eval.captioning import score_captions
from echoic.eval.retrieval import DIRECTIONS, retrieve
from echoic.eval.zeroshot import class_scores, class_vectors

RETRIEVAL = tuple(f"{way}_{at}" for way in DIRECTIONS for at in ("R@1", "R@10", "mAP@10"))
CAPTIONING = ("cider_d", "bleu_4", "rouge_l")
Figures = dict[str, float]


@dataclass(frozen=True)
class Sets:
    """scenes, waves: of the test split, to search and to caption. training: scenes whose captions
    the baselines know."""

    scenes: Sequence[Scene]
    waves: Waves
    training: Sequence[Scene]
    probes: Sequence[Probe]

    @property
    def described(self) -> str:
        """What figures must have in common to stand in one table."""
        sizes = ",".join(f"{p.name} {len(p.train[1])}+{len(p.test[1])}" for p in self.probes)
        return f"{len(self.scenes)} scenes; {sizes}"


def scenes_to_find(count: int, max_s: float) -> tuple[list[Scene], Waves]:
    """Scenes of the test split, and their sound."""
    scenes = draw_scenes(count, split="test", seed=2, max_s=max_s)
    return scenes, list(render_all(scenes, RATE_HZ))


def measured(model: EchoicModel, sets: Sets, hear: Hear) -> tuple[Figures, list[str]]:
    """Figures by name, and the captions of the test scenes; none of a model without a decoder.
    hear: what the model is given of a wave."""
    vectors = model.embed_audio(map(hear, sets.waves))
    found = _retrieval(model, vectors, sets.scenes) | _classification(model, sets.probes, hear)
    found |= _named("nearest_tags", _nearest_tags(model, vectors, sets))
    if model.network.decoder is None:
        return found, []
    captions = model.caption(map(hear, sets.waves), how=Beam())
    return found | caption_figures(captions, sets.scenes), captions


def caption_figures(captions: Sequence[str], scenes: Sequence[Scene]) -> Figures:
    """One caption of each scene against all its own."""
    scores = score_captions(captions, [scene.captions for scene in scenes]).metrics()
    return {name: scores[name] for name in CAPTIONING}


def caption_baselines(sets: Sets) -> Figures:
    """Those that hear nothing: the most frequent caption of the training scenes; and the nearest of
    the same by the sounds that are truly in a scene, which no model is told."""
    written = [caption for scene in sets.training for caption in scene.captions]
    same = [most_frequent_caption(written)] * len(sets.scenes)
    known = _nearest([scene.labels for scene in sets.scenes], sets)
    return _named("most_frequent", caption_figures(same, sets.scenes)) | _named(
        "known_tags", caption_figures(known, sets.scenes)
    )


def _retrieval(model: EchoicModel, vectors: Tensor, scenes: Sequence[Scene]) -> Figures:
    owner = np.repeat(np.arange(len(scenes)), [len(scene.captions) for scene in scenes])
    text = model.embed_text([caption for scene in scenes for caption in scene.captions])
    figures = retrieve(vectors.numpy(), text.numpy(), owner).metrics()
    return {name: figures[name] for name in RETRIEVAL}


def _classification(model: EchoicModel, probes: Sequence[Probe], hear: Hear) -> Figures:
    """Zero-shot and probe accuracy of each set, and their means. The probe sees no tokens of
    filling: its time segments are those of the sound, whatever the model is given."""
    found: Figures = {}
    for probe in probes:
        found[f"zero_shot_{probe.name}"] = probe.zero_shot(model, hear)
        found[f"probe_{probe.name}"] = probe.accuracy_of(
            lambda wave, probe=probe: probe_vector(
                model.audio_features([hear(wave)]), probe.segments, len(wave) / RATE_HZ
            )
        )
    for measure in ("zero_shot", "probe"):
        own = [value for name, value in found.items() if name.startswith(measure)]
        found[measure] = float(np.mean(own))
    return found


def _nearest_tags(model: EchoicModel, vectors: Tensor, sets: Sets) -> Figures:
    """Of training captions by the classes that the model tells by itself: the likeliest one, or
    two; what has the better CIDEr-D."""
    nouns = [sound_class(name).nouns for name in CLASSES]
    words = [class_vectors(model.embed_text, each, SYNTH_PROMPTS).mean(0) for each in nouns]
    order = np.argsort(-class_scores(vectors, words), axis=1)
    told = [[[CLASSES[i] for i in row[:count]] for row in order] for count in (1, 2)]
    tried = [caption_figures(_nearest(tags, sets), sets.scenes) for tags in told]
    return max(tried, key=lambda figures: figures["cider_d"])


def _nearest(tags: Sequence[Sequence[str]], sets: Sets) -> list[str]:
    known = [scene.labels for scene in sets.training]
    return nearest_tags(tags, known, [scene.captions[0] for scene in sets.training])


def _named(prefix: str, figures: Figures) -> Figures:
    return {f"{prefix}_{name}": value for name, value in figures.items()}
