"""One measure of one task, of any model, by a paper's choices: what a suite is made of.

A task is a published one by its name, or `synth`, the embedded corpus. Which measures it has hangs
on what it is: labels, captions or time lines (`measures_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console

from echoic.api import EchoicModel
from echoic.data.clips import RecaptionedSource, SubsetSource
from echoic.data.synth.corpus import draw_scenes
from echoic.data.tasks import Spec, find_spec, open_spec
from echoic.data.tasks.captioned import CaptionedSpec, CaptionedTask
from echoic.data.tasks.paper import Published
from echoic.data.tasks.task import Task, TaskSpec
from echoic.data.tasks.timed import TimedTask
from echoic.embeddings import VectorCache
from echoic.eval.bootstrap import Bootstrap
from echoic.eval.evaluation import Evaluation
from echoic.eval.events_result import EventsResult
from echoic.eval.protocols import M2D, Protocol, family_protocol
from echoic.eval.suite_entry import Entry, Result, filled
from echoic.eval.task_result import TaskResult
from echoic.evaluate import SynthSize, evaluate, evaluate_synth
from echoic.events import evaluate_scenes, evaluate_timed
from echoic.finetune.of_task import finetune_task
from echoic.judges import available_judges
from echoic.listening import listening
from echoic.tasks import linear, zero_shot
from echoic.timeline import Steps
from echoic.types import ConfigError, EchoicError

LEARNING = ("linear", "finetune")
CLASSIFYING = ("zero_shot", *LEARNING)
ASKING = ("zero_shot", "events")  # by sentences with labels in them
CORPUS = "synth"
CORPUS_TITLE = "Embedded corpus"
_WORTH_A_PROCESS = 200  # scenes: fewer are rendered before another process has started
_CORPUS_LINES = {
    "retrieval": "{size.scenes} scenes of the test split, all captions, cosine",
    "zero_shot": "{size.singles} scenes of one event, a class is its nouns in two prompts",
    "order": "{size.pairs} scenes of two events, true caption against events swapped",
    "attributes": "{size.pairs} scenes of one event, its attribute against the opposite",
    "captioning": "{size.scenes} scenes of the test split, a beam of 4, all captions",
    "events": "{size.scenes} scenes of the test split, every class asked for",
}


@dataclass(frozen=True)
class How:
    """protocol: whose choices. prompts: sentences in their place, as `tasks.zero_shot` takes them.
    seeds, folds: None: the task's. as_loaded: long recordings are heard as the model was loaded to,
    not as by the protocol. runs: the folder in which fine-tunings are kept; a stopped one goes on.
    size: of what is drawn of the embedded corpus, which up to `processes` render. cache: of
    vectors. console: for what a fine-tuning tells on its way."""

    protocol: Protocol = M2D
    prompts: str | None = None
    seeds: Sequence[int] | None = None
    folds: Sequence[str] | None = None
    as_loaded: bool = False
    runs: Path = Path("runs/eval")
    size: SynthSize = field(default_factory=SynthSize)
    processes: int = 1
    bootstrap: Bootstrap = field(default_factory=lambda: Bootstrap(seed=0))
    cache: VectorCache | None = None
    console: Console | None = None

    def changes(self, what: str) -> str:
        """In words, what of a measure is not the protocol's own; "" of nothing."""
        given = {
            "prompts": [self.prompts] if self.prompts and what in ASKING else None,
            "seeds": self.seeds if what in LEARNING else None,
            "folds": self.folds if what in CLASSIFYING else None,
        }
        told = [f"{name} {', '.join(map(str, each))}" for name, each in given.items() if each]
        told += ["long recordings as loaded"] if self.as_loaded else []
        return f" (but {'; '.join(told)})" if told else ""


def own_protocol(model: EchoicModel) -> Protocol:
    """Of the paper whose audio encoder the model has."""
    return family_protocol(model.network.spec.audio.kind)


def measures_of(task: str) -> tuple[str, ...]:
    """What can be measured on it, the quick before the slow. Raises ConfigError on an unknown
    name."""
    if task == CORPUS:
        return ("retrieval", "zero_shot", "order", "attributes", "captioning", "events")
    match find_spec(task):
        case TaskSpec():
            return CLASSIFYING
        case CaptionedSpec():
            return ("retrieval", "captioning")
    return ("events",)


def unable(model: EchoicModel, measure: str) -> str:
    """Why this model cannot be measured so; "" if it can."""
    spec = model.network.spec
    if measure == "captioning" and spec.decoder is None:
        return "the model has no decoder to write captions with"
    if measure not in (*LEARNING, "captioning") and spec.text is None:
        return "the model reads no text"
    if measure == "events":
        try:
            Steps().context_of(model.network.audio)
        except EchoicError as error:
            return str(error)
    return ""


def planned(model: EchoicModel, task: str, what: str, how: How) -> Entry:
    """What is to be measured, and how, in words. Raises ConfigError on an unknown task."""
    if task == CORPUS:
        return Entry(task, CORPUS_TITLE, what, "", _CORPUS_LINES[what].format(size=how.size))
    told, by = how.protocol.told[what], f"{how.protocol.name}{how.changes(what)}"
    words = [f"By the protocol {by}. {told.words}"]
    if what != "finetune":
        words.append(_listening_words(heard_as(model, how)))
    return Entry(task, find_spec(task).title, what, by, told.line, tuple(words))


def measured(model: EchoicModel, plan: Entry, folder: Path | None, how: How) -> Entry:
    """As `planned`. folder: of the task's data; None for the embedded corpus. Raises
    EchoicError."""
    if reason := unable(model, plan.measure):
        raise ConfigError(f"{plan.name}: {reason}")
    heard, paper, started = heard_as(model, how), tuple[Published, ...](), perf_counter()
    expected = 0
    result: Result
    if plan.task == CORPUS:
        result = _of_corpus(heard, plan.measure, how)
    else:
        assert folder is not None
        spec = find_spec(plan.task)
        paper, expected = spec.paper, _expected(spec, how)
        result = _MEASURES[plan.measure](heard, open_spec(plan.task, folder), how)
    found = filled(plan, result, paper, how.protocol.models)
    return replace(found, expected=expected, seconds=perf_counter() - started)


def _expected(spec: Spec, how: How) -> int:
    """How many clips judge as published; 0 where that is not known."""
    if not (isinstance(spec, TaskSpec) and spec.folds):
        return spec.expected.get("test", 0)
    return sum(count for fold, count in spec.expected.items() if fold in (how.folds or (fold,)))


def heard_as(model: EchoicModel, how: How) -> EchoicModel:
    """The same model, that hears long recordings as its own paper's evaluation does; a model of
    another paper as it was loaded."""
    protocol = how.protocol
    own = model.network.spec.audio.kind in protocol.encoders
    if how.as_loaded or protocol.long is None or not own:
        return model
    other = copy(model)
    other.listening = listening(model.network.audio, protocol.long)
    vars(other).pop("space_id", None)  # which hangs on it
    return other


def _listening_words(model: EchoicModel) -> str:
    heard = {
        "windows": "all of it, window after window",
        "centred": "four views of it" if model.network.audio.fused else "its middle",
        "laion": "at random places",
        "m2d": "all of it, in M2D's chunks",
    }
    longest_s = model.network.spec.max_s
    return f"Of a recording longer than {longest_s:g} s is heard: {heard[model.listening.name]}."


# -- the measures --------------------------------------------------------------------------------


def _of_corpus(model: EchoicModel, what: str, how: How) -> Result:
    size = how.size
    if what == "events":
        scenes = draw_scenes(size.scenes, split="test", seed=size.seed, max_s=size.max_s)
        return evaluate_scenes(model, scenes, bootstrap=how.bootstrap)
    drawn = {"retrieval": size.scenes, "captioning": size.scenes, "zero_shot": size.singles}
    worth = drawn.get(what, size.pairs) >= _WORTH_A_PROCESS
    return evaluate_synth(
        model,
        size,
        measures=(what,),
        processes=how.processes if worth else 1,
        judges=available_judges() if what == "captioning" else None,
        bootstrap=how.bootstrap,
        cache=how.cache,
    )


def _linear(model: EchoicModel, task: Task, how: How) -> TaskResult:
    return linear(
        model, task, seeds=how.seeds, folds=how.folds, bootstrap=how.bootstrap, cache=how.cache
    )


def _zero_shot(model: EchoicModel, task: Task, how: How) -> TaskResult:
    prompts = how.prompts or how.protocol.name
    return zero_shot(
        model,
        task,
        prompts=prompts,
        folds=how.folds,
        whole=how.protocol.whole,
        bootstrap=how.bootstrap,
        cache=how.cache,
    )


def _finetune(model: EchoicModel, task: Task, how: How) -> TaskResult:
    preset = how.protocol.preset
    folder = how.runs / "-".join([task.spec.name, *([preset] if preset else []), model.space_id])
    return finetune_task(
        model,
        task,
        folder,
        preset=preset,
        folds=how.folds,
        seeds=how.seeds,
        bootstrap=how.bootstrap,
        console=how.console,
    )


def _retrieval(model: EchoicModel, task: CaptionedTask, how: How) -> Evaluation:
    count = how.protocol.captions
    source = RecaptionedSource(_judging(task), lambda clip: clip.captions[:count])
    found = evaluate(
        model,
        source,
        name=task.spec.title,
        measures=("retrieval",),
        map10=how.protocol.map10,
        bootstrap=how.bootstrap,
        cache=how.cache,
    )
    return _with_missing(found, task)


def _captioning(model: EchoicModel, task: CaptionedTask, how: How) -> Evaluation:
    found = evaluate(
        model,
        _judging(task),
        name=task.spec.title,
        measures=("captioning",),
        judges=available_judges(),
        bootstrap=how.bootstrap,
        cache=how.cache,
    )
    return _with_missing(found, task)


def _judging(task: CaptionedTask) -> SubsetSource:
    return SubsetSource(task.source, task.judging().tolist())


def _with_missing(found: Evaluation, task: CaptionedTask) -> Evaluation:
    return replace(found, data=found.data | {"missing": len(task.missing)})


def _events(model: EchoicModel, task: TimedTask, how: How) -> EventsResult:
    sentence = {"templates": how.prompts} if how.prompts else {}
    return evaluate_timed(model, task, bootstrap=how.bootstrap, **sentence)


_MEASURES: Mapping[str, Callable[[EchoicModel, Any, How], Result]] = {
    "zero_shot": _zero_shot,
    "linear": _linear,
    "finetune": _finetune,
    "retrieval": _retrieval,
    "captioning": _captioning,
    "events": _events,
}
