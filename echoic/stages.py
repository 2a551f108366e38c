"""The stages of a recipe, one after the other: what `echoic train` runs.

A recipe of one stage trains in the run's folder; of several, each in a folder of its name there,
from the file of the one before. A stage whose file is there is done; each can be run alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from echoic.api import load
from echoic.config import read_yaml
from echoic.convert.native import FILE_NAME
from echoic.data.clips import Source
from echoic.data.labels import found_labels
from echoic.finetune import FinetuneSpec, Splits, find_preset, finetune
from echoic.pretrain import RECIPE_FILE, Pretrained, pretrain
from echoic.recipes.recipe import Stage, TuningSpec
from echoic.train.state import plain, require_same
from echoic.types import ConfigError


class Trained(NamedTuple):
    """file: of the last stage's model; None where a training was asked to stop, or tuning leaves a
    classifier alone. last: of that training, None where it was tuning, or there already.
    classifier: of tuning."""

    file: Path | None
    last: Pretrained | None = None
    classifier: Path | None = None


def changed(stages: Sequence[Stage], assignments: Sequence[str]) -> tuple[Stage, ...]:
    """With `optim.steps=100` applied to the one stage, or `stage1:optim.steps=100` to that of
    several. Raises ConfigError."""
    names = [stage.name for stage in stages]
    own: dict[str, list[str]] = {name: [] for name in names}
    for assignment in assignments:
        name, colon, rest = assignment.partition(":")
        if colon and name in own:
            own[name].append(rest)
        elif colon and "=" not in name:
            raise ConfigError(
                f"{assignment!r}: this recipe has no stage {name!r}, but {', '.join(names)}"
            )
        elif len(stages) == 1:
            own[names[0]].append(assignment)
        else:
            raise ConfigError(
                f"{assignment!r}: this recipe has the stages {', '.join(names)}: write "
                f"{names[0]}:{assignment}"
            )
    return tuple(_with(stage, own[stage.name]) for stage in stages)


def _with(stage: Stage, assignments: Sequence[str]) -> Stage:
    if not assignments:
        return stage
    if stage.tuning is not None:
        changes = (*stage.tuning.changes, *assignments)
        tuning = stage.tuning.model_copy(update={"changes": changes})
        _settings(tuning)  # a wrong one is told now
        return stage.model_copy(update={"tuning": tuning})
    assert stage.recipe is not None
    return stage.model_copy(update={"recipe": stage.recipe.override(assignments)})


def started(stage: Stage, file: Path | None) -> Stage:
    """With what it takes of the file of the stage before. Raises ConfigError where it needs one and
    there is none."""
    recipe = stage.recipe
    if stage.takes is None:
        return stage
    if file is None:
        if recipe is None or not (recipe.start.model or recipe.start.encoder):
            raise ConfigError(
                f"{stage.name} goes on from the file of the stage before: give --start FILE"
            )
        return stage
    if recipe is None:
        return stage  # tuning is handed the file
    start = recipe.start.model_copy(update={stage.takes: str(file)})
    return stage.model_copy(update={"recipe": recipe.model_copy(update={"start": start})})


def run_stages(
    stages: Sequence[Stage],
    source: Source,
    folder: Path,
    *,
    start: Path | None = None,
    valid: Source | None = None,
    resume: bool = False,
    threads: int = 1,
    console: Console | None = None,
) -> Trained:
    """start: the file that the first stage starts from, where it needs one. What a later stage will
    need of the data is looked at first.

    Raises ConfigError, DataError, CheckpointError and what decoding raises, each one line.
    """
    _check(stages, source, valid, start)
    shared = _Shared(source, valid, threads, console)
    done = Trained(start)
    for i, stage in enumerate(stages):
        place = folder / stage.name if len(stages) > 1 else folder
        if resume and len(stages) > 1 and (place / FILE_NAME).is_file():
            _require_unchanged(stage, place)
            done = Trained(place / FILE_NAME)
            shared.tell(f"{stage.name}: done, {done.file}")
            continue
        if len(stages) > 1:
            shared.tell(f"{stage.name} ({i + 1} of {len(stages)}) into {place}")
        going_on = resume and (place / "checkpoints").is_dir()
        done = shared.train(started(stage, done.file), done.file, place, resume=going_on)
        if done.file is None:
            return done
    return done


def _require_unchanged(stage: Stage, place: Path) -> None:
    """Raises ConfigError where a finished stage was trained by another recipe."""
    file = place / RECIPE_FILE
    if stage.recipe is not None and file.is_file():
        before, now = read_yaml(file), plain(stage.recipe)
        # its model and start were filled in by what it was given
        parts = ("objectives", "data", "wave_augment", "frame_augment", "optim")
        require_same({p: before.get(p) for p in parts}, {p: now[p] for p in parts}, place)


def _check(
    stages: Sequence[Stage], source: Source, valid: Source | None, start: Path | None
) -> None:
    """Raises ConfigError and DataError: days of training may lie before the stage that fails."""
    first, *later = stages
    if start is not None and first.takes is None:
        raise ConfigError(
            f"--start {start}: {first.name} starts from scratch; start.model=FILE trains a model "
            "of its kind on"
        )
    started(first, start)
    for stage in stages:
        if stage.tuning is not None and valid is None:
            raise ConfigError(
                f"{stage.name}: tuning on labels needs held-out clips, to choose the best epoch"
            )
    for stage in later:
        if stage.tuning is not None and valid is not None:
            found_labels({"train": source, "valid": valid}, _settings(stage.tuning).per_clip)


def _settings(tuning: TuningSpec) -> FinetuneSpec:
    """Raises ConfigError."""
    return find_preset(tuning.preset).override(tuning.changes)


@dataclass(frozen=True)
class _Shared:
    """What all stages have."""

    source: Source
    valid: Source | None
    threads: int
    console: Console | None

    def train(self, stage: Stage, start: Path | None, folder: Path, *, resume: bool) -> Trained:
        """start: what tuning begins with; a recipe names it."""
        if stage.recipe is not None:
            made = pretrain(
                stage.recipe, self.source, folder,
                valid=self.valid, resume=resume, threads=self.threads, console=self.console,
            )  # fmt: skip
            return Trained(made.model_file, made)
        assert stage.tuning is not None
        assert start is not None  # as _check saw to
        assert self.valid is not None
        tuned = finetune(
            load(start), Splits(self.source, self.valid), folder, _settings(stage.tuning),
            resume=resume, threads=self.threads, console=self.console,
        )  # fmt: skip
        return Trained(tuned.model, classifier=tuned.file)

    def tell(self, line: str) -> None:
        if self.console is not None:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
