"""All that the future of a training depends on: taken out for a checkpoint, put back on resume.

Weights and buffers, optimizer moments, the running average, the loader's position, the sums of the
log's open interval, and every random generator of the process. The learning rate is a function of
the step, so it is not here. Of W ranks (W = 1 where there is one process) all have the same weights
and each its own loader and sums; a checkpoint of any W serves any other.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from echoic.config import Spec
from echoic.train.checkpoint import Checkpoint, Checkpoints, fit, read, require_fit
from echoic.train.ema import Average, local
from echoic.train.log import Meter, RunLog
from echoic.train.process import other_rng, set_rng, torch_rng
from echoic.train.world import ALONE, World
from echoic.types import Batch, CheckpointError, ConfigError

# These say how a run is watched and kept, not what it computes.
FREE_ON_RESUME = {
    "run.log_every", "run.eval_every", "run.save_every", "run.keep_last", "run.max_skipped",
    "run.save_in_background", "run.parallel", "run.checkpoint_activations", "run.compile",
}  # fmt: skip


class Loader(Protocol):
    """Where batches come from; batch t hangs on (seed, t) alone. `bad`: skipped clips and why. That
    of one of W ranks gives from `first_step` on each W-th batch, beginning with its rank's."""

    @property
    def bad(self) -> Mapping[str, str]: ...
    def batches(self, first_step: int, /) -> Iterator[Batch]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


@dataclass
class Skipped:
    """Steps that were not made, as a loss or the gradient was not finite; `row`: the last ones."""

    all: int = 0
    row: int = 0


@dataclass
class TrainState:
    """The parts that change as training goes on."""

    task: nn.Module
    optimizer: Optimizer
    average: Average | None
    loader: Loader
    log: RunLog
    world: World = ALONE
    skipped: Skipped = field(default_factory=Skipped)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor, by `section/name`."""
        sections: dict[str, Mapping[str, Tensor]] = {
            "task": self.task.state_dict(),
            "optimizer": _moments(self.optimizer),
            "average": self.average.tensors if self.average else {},
            "rng": torch_rng(),
        }
        return {
            f"{section}/{name}": tensor
            for section, named in sections.items()
            for name, tensor in named.items()
        }

    def facts(self, config: Mapping[str, Any], batches: int) -> dict[str, Any]:
        """The rest, as JSON; all ranks call it. batches: of a step, over all of them."""
        own = {"loader": self.loader.state_dict(), "meter": self.log.meter.state_dict()}
        return {
            "config": dict(config),
            "loader": own["loader"],
            "log": self.log.state_dict(),
            "rng": other_rng(),
            "environment": environment(self.world),
            "batches": batches,
            "skipped": dict(vars(self.skipped)),
            "ranks": self.world.gather(own),
        }

    def restore(self, saved: Checkpoint) -> None:
        """Put everything back. Raises CheckpointError if it does not fit."""
        if any(local(weight) is not weight for weight in self.task.parameters()):
            self._restore_parts(saved)
        else:
            fit(self.task, saved.tensors("task"), where=saved.folder)
            _set_moments(self.optimizer, saved.tensors("optimizer"), where=saved.folder)
            if self.average is not None:
                self.average.tensors.update(
                    (name, tensor.to(self.average.tensors[name].device))
                    for name, tensor in saved.tensors("average").items()
                )
        self.log.load_state_dict(saved.facts["log"])
        self._restore_rank(saved.facts)
        self.skipped = Skipped(**saved.facts.get("skipped", {}))
        set_rng(saved.tensors("rng"), saved.facts["rng"])

    def _restore_parts(self, saved: Checkpoint) -> None:
        """Of tensors that are cut over the ranks each reads its own part."""
        own = self.task.state_dict()
        require_fit(own, saved.described("task"), where=saved.folder)
        saved.read_into("task", own)
        weights = dict(self.task.named_parameters())
        moments = {}
        for path, found in saved.described("optimizer").items():
            like = weights.get(path.split("/", 1)[1])
            if like is not None and like.shape == found.shape:
                moments[path] = torch.zeros_like(like)
            else:  # a count of steps
                moments[path] = torch.zeros_like(found, device="cpu")
        saved.read_into("optimizer", moments)
        _set_moments(self.optimizer, moments, where=saved.folder)
        if self.average is not None:
            saved.read_into("average", self.average.tensors)

    def _restore_rank(self, facts: Mapping[str, Any]) -> None:
        """This rank's own, or with another number of ranks its share of what all had."""
        world = self.world
        ranks = facts.get("ranks", [{"loader": facts["loader"], "meter": facts["log"]["meter"]}])
        if len(ranks) == world.size:
            self.loader.load_state_dict(ranks[world.rank]["loader"])
            self.log.meter.load_state_dict(ranks[world.rank]["meter"])
            return
        bad = {key: why for each in ranks for key, why in each["loader"]["bad"].items()}
        self.loader.load_state_dict({**facts["loader"], "bad": bad})
        meter = Meter.of_ranks([each["meter"] for each in ranks])
        self.log.meter.load_state_dict(meter.state_dict(everywhere_only=not world.first))


def environment(world: World = ALONE) -> dict[str, str | int]:
    """What bitwise equality also hangs on."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "ranks": world.size,
    }


def begin(
    state: TrainState, store: Checkpoints, config: Mapping[str, Any], resume: bool, accumulate: int
) -> tuple[int, int]:
    """The step to go on from, with `state` and the log as they were then; and how many batches a
    rank takes for a step: `accumulate`, or as many as leave a step what it was with other ranks.

    Raises ConfigError (a training lies there and `resume` is not set; the config changed),
    CheckpointError.
    """
    if not resume:
        store.require_none()
    if state.world.first:
        store.clear_leftovers()  # one that is done saves nothing more
    log = state.log
    saved = _newest(store, state) if resume else None
    if saved is None:
        if resume:
            log.note(f"{store.folder.parent}: no checkpoint yet; starting at step 0")
        log.cut_back(0)
        return 0, accumulate
    each = _batches_each(saved, accumulate, state.world)
    if each * state.world.size == _batches(saved):  # how they are shared out may change
        config = _with_accumulate(config, saved.facts["config"]["optim"]["accumulate"])
    require_same(saved.facts["config"], dict(config), where=saved.folder)
    state.restore(saved)
    log.cut_back(saved.step)
    log.note(f"resumed at step {saved.step} from {saved.folder}")
    if each != accumulate:
        log.note(f"a step stays {_batches(saved)} batches: {each} of each rank")
    before = saved.facts["environment"]
    for name, now in environment(state.world).items():
        if now != (then := before.get(name, now)):
            log.note(f"not bit for bit from here on: {name} {then} then, {now} now")
    return saved.step, each


def _newest(store: Checkpoints, state: TrainState) -> Checkpoint | None:
    """The one that the first rank has verified, on every rank."""
    found: list[Checkpoint] = []

    def look() -> str | None:
        found.extend(filter(None, [store.latest(state.log.note)]))
        return str(found[0].folder) if found else None

    folder = state.world.of_first(look)
    if folder is None or found:
        return found[0] if found else None
    return read(Path(folder), verify=False)


def _batches(saved: Checkpoint) -> int:
    """Of a step, over all ranks."""
    count: int = saved.facts.get("batches", saved.facts["config"]["optim"]["accumulate"])
    return count


def _batches_each(saved: Checkpoint, accumulate: int, world: World) -> int:
    """Of a step, of each rank. Raises ConfigError where the ranks cannot share them."""
    whole = _batches(saved)
    if (
        accumulate != saved.facts["config"]["optim"]["accumulate"]
        or whole == world.size * accumulate
    ):
        return accumulate
    if whole % world.size:
        fitting = ", ".join(str(n) for n in range(1, whole + 1) if whole % n == 0)
        raise ConfigError(
            f"{saved.folder}: a step is {whole} batches, which {world.size} ranks cannot share "
            f"evenly; resume with one of {fitting}"
        )
    return whole // world.size


def _with_accumulate(config: Mapping[str, Any], accumulate: int) -> dict[str, Any]:
    return {**config, "optim": {**config["optim"], "accumulate": accumulate}}


def plain(config: Any) -> Any:
    """JSON of a tree of Specs, paths and plain values."""
    if isinstance(config, Spec):
        config = config.model_dump(mode="json")
    if isinstance(config, Mapping):
        return {str(key): plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def require_same(before: Any, now: Any, where: Path) -> None:
    """Raises ConfigError that names every changed key, those of FREE_ON_RESUME left out."""
    old, new = dict(leaves(before)), dict(leaves(now))
    changed = [
        f"{path} (was {old.get(path, 'absent')}, is {new.get(path, 'absent')})"
        for path in sorted(old.keys() | new.keys())
        if old.get(path, _ABSENT) != new.get(path, _ABSENT)
        and ".".join(path.split(".")[-2:]) not in FREE_ON_RESUME
    ]
    if changed:
        raise ConfigError(
            f"{where}: cannot resume with another recipe; changed: {', '.join(changed)}"
        )


_ABSENT = object()


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What a tree of dicts holds, by path."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def _names(optimizer: Optimizer) -> dict[int, str]:
    groups = optimizer.state_dict()["param_groups"]
    return {
        index: name
        for group in groups
        for index, name in zip(group["params"], group["param_names"], strict=True)
    }


def _moments(optimizer: Optimizer) -> dict[str, Tensor]:
    names = _names(optimizer)
    return {
        f"{key}/{names[index]}": value
        for index, moments in optimizer.state_dict()["state"].items()
        for key, value in moments.items()
    }


def _set_moments(optimizer: Optimizer, saved: Mapping[str, Tensor], where: Path) -> None:
    index = {name: i for i, name in _names(optimizer).items()}
    moments: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
    for path, tensor in saved.items():
        key, name = path.split("/", 1)
        if name not in index:
            raise CheckpointError(f"{where}: {name} was trained then and is not now")
        moments[index[name]][key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(moments)})
