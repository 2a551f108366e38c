"""eval --suite, eval --task: published tasks and the embedded corpus, by a paper's choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from echoic.cli.common import emit, messages, names_in, say, seed_numbers, show, wrong
from echoic.cli.telling import Telling, refuse_bad

if TYPE_CHECKING:
    from echoic.api import EchoicModel
    from echoic.embeddings import VectorCache
    from echoic.eval.suite_result import SuiteResult
    from echoic.measures import How
    from echoic.suite import Item


class Measure(StrEnum):
    zero_shot = "zero_shot"
    linear = "linear"
    finetune = "finetune"
    retrieval = "retrieval"
    captioning = "captioning"
    events = "events"


class Protocol(StrEnum):
    laion = "laion"
    m2d = "m2d"
    slap = "slap"


_USUAL = (Measure.linear, Measure.retrieval, Measure.events)


@dataclass(frozen=True)
class Asked:
    """The options, as given. as_loaded: --long was given."""

    suite: str | None
    task: str | None
    measure: Measure | None
    data: Path | None
    protocol: Protocol | None
    seeds: str | None
    folds: str | None
    prompts: str | None
    runs: Path
    scenes: int | None
    items: int | None
    captions: bool
    processes: int
    as_loaded: bool

    def choices(self) -> dict[str, object]:
        """Options that are of use to suites and tasks alone."""
        return {
            "--protocol": self.protocol,
            "--seeds": self.seeds,
            "--folds": self.folds,
            "--prompts": self.prompts,
            "--scenes": self.scenes,
            "--items": self.items,
        }

    def check(self) -> None:
        """Before a model is opened. Raises EchoicError."""
        if self.suite is not None and self.task is not None:
            raise wrong("eval: --suite and --task exclude each other")
        if self.task is not None and self.data is None:
            raise wrong("eval: --task NAME needs --data FOLDER")
        if self.suite is not None and self.data is not None and not self.data.is_dir():
            raise wrong(f"eval: --data {self.data}: no such folder")
        if self.suite is not None and self.measure is not None:
            raise wrong(
                "eval: --measure is for --task; a suite takes TASK/MEASURE, as esc50/linear"
            )
        seed_numbers("eval", self.seeds)
        self.chosen()

    def chosen(self) -> list[Item]:
        """Raises EchoicError on an unknown name, and on options that a task has no use for."""
        from echoic.suite import find_items

        if self.task is not None:
            return [self._of_task(self.task)]
        assert self.suite is not None
        found = [self._changed(item) for item in find_items(self.suite)]
        left = [item for item in found if self.captions or item.what != Measure.captioning]
        if not left:
            raise wrong(f"eval: --no-captions leaves nothing of --suite {self.suite}")
        return left

    def how(self, model: EchoicModel, cache: VectorCache | None) -> How:
        from echoic.eval.protocols import find_protocol
        from echoic.measures import How, own_protocol

        return How(
            protocol=find_protocol(self.protocol) if self.protocol else own_protocol(model),
            prompts=self.prompts,
            seeds=seed_numbers("eval", self.seeds),
            folds=names_in(self.folds),
            as_loaded=self.as_loaded,
            runs=self.runs,
            processes=self.processes,
            cache=cache,
            console=messages(),
        )

    def _of_task(self, name: str) -> Item:
        from echoic.data.tasks import find_spec
        from echoic.measures import ASKING, LEARNING, measures_of
        from echoic.suite import find_items

        task = find_spec(name).name
        usual = next(each for each in _USUAL if each in measures_of(task))
        what = self.measure or usual
        unused = {"--seeds": (self.seeds, LEARNING), "--prompts": (self.prompts, ASKING)}
        for option, (value, of_use) in unused.items():
            if value is not None and what not in of_use:
                raise wrong(f"eval: {option} is for --measure {' and '.join(of_use)}, not {what}")
        return find_items(f"{task}/{what}")[0]

    def _changed(self, item: Item) -> Item:
        """The protocol and sizes that were given go before the suite's own."""
        size, items = item.size, self.items or item.size.singles
        size = replace(size, scenes=self.scenes or size.scenes, singles=items, pairs=items)
        return replace(item, protocol=self.protocol or item.protocol, size=size)


def run_asked(
    model: EchoicModel, asked: Asked, telling: Telling, cache: VectorCache | None
) -> None:
    """Raises EchoicError."""
    how, items = asked.how(model, cache), asked.chosen()
    if asked.task is not None and asked.data is not None:
        _run_task(model, items[0], asked.data, how, telling)
    else:
        _run_suite(model, asked, items, how, telling)


def _run_task(model: EchoicModel, item: Item, folder: Path, how: How, telling: Telling) -> None:
    """One measure, with all that is known of it. Raises EchoicError."""
    from echoic.eval.evaluation import Evaluation
    from echoic.eval.suite_result import SuiteResult
    from echoic.measures import measured, planned

    plan = planned(model, item.task, item.what, how)
    say(plan.heading())
    entry = measured(model, plan, folder, how)
    assert entry.result is not None
    if telling.as_json:
        choices = {"protocol": plan.by, "line": plan.protocol, "words": list(plan.words)}
        emit(entry.result.to_json() | {"choices": choices})
    else:
        table = entry.result.table()
        if isinstance(entry.result, Evaluation):
            for row in entry.papers():
                table.add_row(*row)
        show(table)
    if entry.partly:
        say(f"{entry.title}: {entry.partly}, so figures are not quite those of the full set")
    telling.keep(SuiteResult(entry.result.model, entry.name, (entry,)))
    refuse_bad(len(entry.bad))


def _run_suite(
    model: EchoicModel, asked: Asked, items: Sequence[Item], how: How, telling: Telling
) -> None:
    """A line of each as it is done, then one table: also of what was done before Ctrl-C. Raises
    EchoicError, at the end, where something failed."""
    from echoic.eval.suite_result import SuiteResult
    from echoic.evaluate import describe
    from echoic.suite import run_suite

    entries, complete = [], False
    try:
        for entry in run_suite(model, items, how, data=asked.data):
            entries.append(entry)
            say(f"[{len(entries)}/{len(items)}] {entry.told()}")
        complete = True
    finally:
        name = str(asked.suite)
        found = SuiteResult(describe(model), name, tuple(entries), complete=complete)
        if entries:
            telling.tell(found)
    _refuse_failed(found)
    refuse_bad(sum(len(entry.bad) for entry in entries))


def _refuse_failed(found: SuiteResult) -> None:
    """Raises EchoicError where something failed, or nothing could be measured."""
    if failed := found.having("failed"):
        names = ", ".join(entry.name for entry in failed)
        raise wrong(f"{len(failed)} of {len(found.entries)} failed ({names}); the table says why")
    if not found.having("measured"):
        raise wrong("nothing could be measured; the table says why")
