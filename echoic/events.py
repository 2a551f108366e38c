"""A model's tagging over time, judged on recordings whose events are known with their times: scenes
of the embedded corpus, or a published data set.

Nothing is chosen on what is judged: the threshold is fixed, or, for PSDS, every one is used.

R recordings, N steps, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from echoic.api import EchoicModel
from echoic.data.clips import Source, heard_or_noted
from echoic.data.synth import CLASSES
from echoic.data.synth.corpus import SceneSource
from echoic.data.synth.events import Scene
from echoic.data.tasks.timed import TimedTask
from echoic.eval.bootstrap import Bootstrap
from echoic.eval.events import COLLAR_S, OFFSET_SHARE, SEGMENT_S, Span, judge_events
from echoic.eval.events_result import EventsResult, counts_of
from echoic.eval.psds import PSDS1, PSDS2, RESAMPLES, Scenario, Scored, Timed
from echoic.eval.zeroshot import LAION_TEMPLATE
from echoic.evaluate import SYNTH_PROMPTS, describe
from echoic.spans import THRESHOLD
from echoic.timeline import Scale, Steps, Timeline
from echoic.types import DataError


@dataclass(frozen=True)
class Deciding:
    """How scores become events. by: which scores; PSDS ranks the same. median_s: they are smoothed
    over; 0: not at all. threshold: of the fixed decision."""

    by: Scale = "probability"
    threshold: float = THRESHOLD
    median_s: float = 1.0

    def scored(self, key: str, truth: Sequence[Timed], line: Timeline) -> tuple[Scored, list[Span]]:
        smooth = line.smoothed(self.median_s) if self.median_s else line
        spans = smooth.spans(self.threshold, by=self.by)
        return Scored(key, truth, smooth.edges_s, smooth.scores(self.by)), spans


def evaluate_events(
    model: EchoicModel,
    source: Source,
    truth: Sequence[Sequence[Timed]],
    labels: Sequence[str],
    *,
    name: str = "recordings",
    templates: str | Sequence[str] = LAION_TEMPLATE,
    steps: Steps | None = None,
    deciding: Deciding | None = None,
    bootstrap: Bootstrap | None = None,
) -> EventsResult:
    """Tags every recording of `source` over time with `labels` (C,), and holds that against its
    events `truth` (R,).

    A recording that cannot be heard is named in the log and left out. Raises DataError where none
    is left, or an event has a label that is none of `labels`; EchoicError where there is no event.
    """
    if strange := {event.label for events in truth for event in events} - set(labels):
        raise DataError(
            f"{name}: the label {min(strange)!r} is none of the {len(labels)} asked for"
        )
    how, fine = deciding or Deciding(), steps or Steps()
    boot = bootstrap or Bootstrap(seed=0)
    classes = model.embed_labels(labels, templates)
    bad: dict[str, str] = {}
    judged: list[tuple[Scored, list[Span]]] = []
    for i, (clip, events) in enumerate(zip(source.clips, truth, strict=True)):
        wave = heard_or_noted(source, i, model.rate_hz, bad)
        if wave is not None:
            line = model.timeline(wave, labels, classes=classes, steps=fine)
            judged.append(how.scored(clip.key, events, line))
    if not judged:
        raise DataError(f"{name}: none of {len(source.clips)} recordings can be heard")
    recordings = [each for each, _ in judged]
    found = judge_events(recordings, [spans for _, spans in judged], labels, bootstrap=boot)
    return EventsResult(
        model=describe(model),
        task=name,
        title=name,
        metrics=found.metrics,
        per_class=found.per_class,
        recordings=len(recordings),
        hours=sum(each.duration_s for each in recordings) / 3600,
        events=sum(len(each.truth) for each in recordings),
        words=(_tagging_words(templates, fine, len(labels)), *_judging_words(how, boot)),
        bad=bad,
        counts=counts_of(found, recordings, labels),
    )


def evaluate_timed(model: EchoicModel, task: TimedTask, **options: Any) -> EventsResult:
    """`evaluate_events` on a published data set."""
    spec = task.spec
    result = evaluate_events(model, task.source, task.truth, task.labels, name=spec.name, **options)
    return replace(result, title=spec.title, published=spec.paper, missing=len(task.missing))


def evaluate_scenes(
    model: EchoicModel,
    scenes: Sequence[Scene],
    *,
    templates: str | Sequence[str] = SYNTH_PROMPTS,
    **options: Any,
) -> EventsResult:
    """`evaluate_events` on scenes of the embedded corpus, with all its classes as labels."""
    truth = [scene.events for scene in scenes]
    source = SceneSource(scenes)
    result = evaluate_events(
        model, source, truth, CLASSES, name="synth", templates=templates, **options
    )
    return replace(result, title="Embedded corpus")


def _tagging_words(templates: str | Sequence[str], steps: Steps, labels: int) -> str:
    sentences = [templates] if isinstance(templates, str) else list(templates)
    quoted = " and ".join(f"“{each}”" for each in sentences)
    return (
        f"Tagging over time: {labels} labels, each put in {quoted}; every {steps.step_s:g} s the "
        f"tokens of {steps.window_s:g} s are pooled as the model pools a clip's, and compared."
    )


def _judging_words(how: Deciding, bootstrap: Bootstrap) -> tuple[str, ...]:
    scores = "softmax over the labels" if how.by == "probability" else "cosine"
    smooth = f"median over {how.median_s:g} s" if how.median_s else "not smoothed"
    return (
        f"Scores: {scores}, {smooth}. F1 and error rate: one threshold for all, "
        f"{how.threshold:g}, not chosen on the data. Segments of {SEGMENT_S:g} s; an event is "
        f"found where one begins within {1000 * COLLAR_S:g} ms and ends within that or "
        f"{100 * OFFSET_SHARE:g} % of its length (sed_eval).",
        f"PSDS over all thresholds, as DCASE: {_scenario_words(PSDS1)}; {_scenario_words(PSDS2)}.",
        f"The intervals hold {100 * bootstrap.level:g} %: percentile bootstrap over recordings "
        f"(for PSDS {RESAMPLES} resamples at most, their median moved to the value).",
    )


def _scenario_words(each: Scenario) -> str:
    crossed = f", cttc {each.cttc:g}, alpha_ct {each.alpha_ct:g}" if each.cttc else ""
    return (
        f"{each.name}: dtc {each.dtc:g}, gtc {each.gtc:g}{crossed}, alpha_st {each.alpha_st:g}, up "
        f"to {each.max_alarms:g} an hour"
    )
