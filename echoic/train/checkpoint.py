"""Checkpoints on disk: a folder per step, safetensors and JSON, whole or not at all, no pickle.

    checkpoints/step-00000200/state.safetensors    every tensor
    checkpoints/step-00000200/state.json           the rest, with the checksums of all files

Where the weights are cut over ranks (FSDP), each writes the file of its parts
(sharded_checkpoint.py) beside the one state.json. Any number of ranks reads either form.

A folder takes its name only when all of it is on the disk, so a kill leaves a `*.tmp` that the
next save clears away.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from echoic.config import parse_json
from echoic.train.sharded_checkpoint import PartError, described, read_into, write
from echoic.types import CheckpointError, ConfigError

FORMAT = 1
TENSORS, FACTS = "state.safetensors", "state.json"
MARGIN_BYTES = 2**20  # names, shapes, JSON and the file system's own needs
_TOLD_BYTES = 256  # of a checksum and the name of a file
T = TypeVar("T")
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """One whole, verified folder. `facts` is everything that is not a tensor."""

    folder: Path
    step: int
    facts: dict[str, Any]

    def tensors(self, section: str) -> dict[str, Tensor]:
        """Those of one section (`task`, `optimizer`, `average`, `rng`) by name, as copies."""
        start = f"{section}/"
        if not (self.folder / TENSORS).exists():
            own = {n: t for n, t in described(self.folder).items() if n.startswith(start)}
            filled = {name: torch.empty_like(tensor, device="cpu") for name, tensor in own.items()}
            read_into(self.folder, filled)
            return {name.removeprefix(start): tensor for name, tensor in filled.items()}
        with safe_open(self.folder / TENSORS, framework="pt") as file:
            # clone: the file's memory map is less aligned, and kernels may round by alignment
            return {
                name.removeprefix(start): file.get_tensor(name).clone()
                for name in file.keys()  # noqa: SIM118  (not a mapping)
                if name.startswith(start)
            }

    def described(self, section: str) -> dict[str, Tensor]:
        """Those of one section by name, without their values."""
        start = f"{section}/"
        found = described(self.folder).items()
        return {name.removeprefix(start): t for name, t in found if name.startswith(start)}

    def read_into(self, section: str, targets: Mapping[str, Tensor]) -> None:
        """Fill tensors, of those that are cut over ranks this one's part."""
        read_into(self.folder, {f"{section}/{name}": t for name, t in targets.items()})


class Checkpoints:
    """The checkpoints of one run: save, find the newest whole one, keep the last few."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder, self.keep_last = folder, keep_last

    def of_step(self, step: int) -> Path:
        """Where the checkpoint of that step lies, or will."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> dict[int, Path]:
        """Folders by step, rising, whole or not."""
        if not self.folder.is_dir():
            return {}
        named = ((_NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return dict(sorted((int(match[1]), path) for match, path in named if match))

    def require_none(self) -> None:
        """Raises ConfigError where a training lies here."""
        if steps := self.steps():
            raise ConfigError(
                f"{self.folder.parent}: holds a training at step {max(steps)}; resume it "
                "(--resume) or name another folder"
            )

    def latest(self, note: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint, None if there is none at all; tells `note` what it passes
        over.

        Raises CheckpointError if there are some and all are damaged.
        """
        found = self.steps()
        for path in reversed(found.values()):
            try:
                return read(path)
            except CheckpointError as error:
                note(f"passed over: {error}")
        if found:
            raise CheckpointError(f"{self.folder}: none of its {len(found)} checkpoints is whole")
        return None

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
        """Write one, then drop the oldest. Raises CheckpointError (no room, not writable)."""
        target = self.of_step(step)
        separate = _separate(tensors)
        try:
            self.clear_leftovers()
            partial = self.folder / f"{target.name}.tmp"
            _check_room(target, sum(t.nbytes for t in separate.values()) + MARGIN_BYTES)
            partial.mkdir(parents=True)
            save_file(dict(separate), partial / TENSORS)
            _sync(partial / TENSORS)
            checksums = {TENSORS: _file_checksum(partial / TENSORS)}
            self._finish(partial, target, step, facts, checksums)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{target}: cannot be written ({error}); the earlier checkpoints are untouched"
            ) from error
        finally:
            self.clear_leftovers()
        return target

    def save_parts(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        group: dist.ProcessGroup,
    ) -> Path:
        """The same of tensors that are cut over the ranks of `group`, all of which call it."""
        target, first = self.of_step(step), dist.get_rank(group) == 0
        partial = self.folder / f"{target.name}.tmp"

        def prepare() -> None:
            self.clear_leftovers()
            _check_room(target, sum(t.nbytes for t in tensors.values()) + MARGIN_BYTES)
            partial.mkdir(parents=True)

        def write_own() -> Path | None:
            file = write(partial, tensors, group)
            if file is not None:
                _sync(file)
            return file

        def finish() -> None:
            self._finish(partial, target, step, facts, checksums)

        try:
            _on_all(prepare if first else lambda: None, target, group)
            checksums = _gathered(_on_all(write_own, target, group), group)
            _on_all(finish if first else lambda: None, target, group)
        finally:
            if first:
                self.clear_leftovers()
        return target

    def _finish(
        self,
        partial: Path,
        target: Path,
        step: int,
        facts: Mapping[str, Any],
        checksums: Mapping[str, str],
    ) -> None:
        """What has all its tensors becomes a checkpoint, and the oldest goes."""
        _write_facts(partial, step, facts, checksums)
        if target.exists():  # a damaged one that the resume passed over
            _remove(target)
        partial.rename(target)
        _sync(self.folder)
        self._drop_old(step)

    def _drop_old(self, step: int) -> None:
        mine = [path for number, path in self.steps().items() if number <= step]
        for path in mine[: -self.keep_last]:
            _remove(path)

    def clear_leftovers(self) -> None:
        """What a kill left half written or half removed."""
        for path in self.folder.glob("step-*.tmp"):
            shutil.rmtree(path, ignore_errors=True)


def read(folder: Path, *, verify: bool = True) -> Checkpoint:
    """Verify every byte of one checkpoint folder. Raises CheckpointError: what is wrong. verify:
    False where another rank has done so."""
    try:
        facts = parse_json((folder / FACTS).read_bytes())
        checksums = facts.pop("checksums")
        of_tensors = {name: told for name, told in checksums.items() if name != FACTS}
        sound = (
            bool(of_tensors)
            and checksums[FACTS] == _facts_checksum(facts)
            and (not verify or _all_whole(folder, of_tensors))
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}: not a whole checkpoint ({error})") from None
    if not sound:
        raise CheckpointError(f"{folder}: damaged, its checksums do not agree")
    if facts["format"] != FORMAT:
        raise CheckpointError(f"{folder}: format {facts['format']}, this echoic reads {FORMAT}")
    return Checkpoint(folder, facts["step"], facts)


def load_weights(task: nn.Module, run_or_checkpoint: Path, *, averaged: bool = False) -> int:
    """Put the weights of a checkpoint, or of a run's newest, into `task`; returns their step.

    averaged: the running average instead of the last step's weights. Raises CheckpointError
    (missing, damaged, other names or shapes, no average kept).
    """
    checkpoint = _find(run_or_checkpoint)
    average = checkpoint.tensors("average") if averaged else {}
    if averaged and not average:
        raise CheckpointError(f"{checkpoint.folder}: holds no average; train with optim.ema")
    fit(task, checkpoint.tensors("task"), where=checkpoint.folder)
    with torch.no_grad():
        for name, weight in task.named_parameters():
            if name in average:
                weight.copy_(average[name])
    return checkpoint.step


def fit(task: nn.Module, weights: Mapping[str, Tensor], where: Path) -> None:
    """A strict load: every name and shape, or CheckpointError with those that do not fit."""
    require_fit(task.state_dict(), weights, where)
    task.load_state_dict(weights)


def require_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], where: Path) -> None:
    """Raises CheckpointError with the names and shapes of `weights` that are not those of `own`."""
    wrong = [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is unknown" for name in weights if name not in own]
    wrong += [
        f"{name} is {tuple(weights[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and _is_plain(name) and weights[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(f"{where}: does not fit the model: {', '.join(wrong[:5])}{more}")


def _is_plain(name: str) -> bool:
    return not name.endswith("_extra_state")  # its shape is its module's own business


def _find(path: Path) -> Checkpoint:
    if (path / FACTS).exists():
        return read(path)
    found = Checkpoints(path / "checkpoints", keep_last=1).latest(note=lambda _: None)
    if found is None:
        raise CheckpointError(f"{path}: neither a checkpoint nor a run with one")
    return found


def _write_facts(
    folder: Path, step: int, facts: Mapping[str, Any], of_tensors: Mapping[str, str]
) -> None:
    """of_tensors: checksums of the files of tensors beside."""
    body = json.loads(json.dumps({"format": FORMAT, "step": step, **facts}))
    checksums = {**of_tensors, FACTS: _facts_checksum(body)}
    (folder / FACTS).write_text(json.dumps({"checksums": checksums, **body}), "utf-8")
    for path in (folder / FACTS, folder):
        _sync(path)


def _on_all(act: Callable[[], T], target: Path, group: dist.ProcessGroup) -> T:
    """What `act` gives, once it has ended well on every rank of `group`. Raises CheckpointError on
    all of them where it has not on one."""
    error: BaseException | None = None
    try:
        result = act()
    except (OSError, SafetensorError, CheckpointError, PartError) as caught:
        error = caught
    failed = torch.full((), -1 if error is None else dist.get_rank(group))
    dist.all_reduce(failed, dist.ReduceOp.MAX, group=group)
    if isinstance(error, CheckpointError):
        raise error
    if int(failed) >= 0:
        why = error or f"rank {int(failed)} could not write its part"
        raise CheckpointError(
            f"{target}: cannot be written ({why}); the earlier checkpoints are untouched"
        ) from error
    return result


def _gathered(file: Path | None, group: dist.ProcessGroup) -> dict[str, str]:
    """The checksums of the files that the ranks wrote, by name."""
    told = f"{_file_checksum(file)} {file.name}" if file is not None else ""
    own = torch.zeros(_TOLD_BYTES, dtype=torch.uint8)
    own[: len(told)] = torch.tensor(list(told.encode()), dtype=torch.uint8)
    rows = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(rows, own, group=group)
    lines = (bytes(row.tolist()).rstrip(b"\0").decode() for row in rows)
    pairs = (line.split(" ", 1) for line in lines if line)
    return {name: checksum for checksum, name in pairs}


def _all_whole(folder: Path, checksums: Mapping[str, str]) -> bool:
    return all(_file_checksum(folder / name) == told for name, told in checksums.items())


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, no memory shared, as the format asks: tied weights become copies."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            kind = type(tensor).__name__
            raise CheckpointError(f"{name}: state of type {kind} needs a pickle; give a tensor")
        flat = tensor.detach().cpu().contiguous()
        place = flat.untyped_storage().data_ptr()
        separate[name] = flat.clone() if place in seen else flat
        seen.add(place)
    return separate


def _check_room(target: Path, needed_bytes: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < needed_bytes:
        raise CheckpointError(
            f"{target}: needs {needed_bytes} bytes and the disk has {free_bytes} free; "
            "make room and resume (the earlier checkpoints are untouched)"
        )


def _facts_checksum(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _file_checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    """Take the name away first: a kill meanwhile leaves a leftover, not a damaged checkpoint."""
    doomed = folder.with_name(f"{folder.name}.old.tmp")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder; its rename is durable enough
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
