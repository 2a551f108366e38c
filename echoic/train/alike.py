"""Do all ranks begin the same training? Told before they wait for each other in the midst of it.

A rank of another recipe, other data or another program sends other numbers of other tensors: the
others then wait until the time-out, or learn from what does not fit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from echoic.train.state import Loader, leaves
from echoic.train.world import World
from echoic.types import ConfigError

_NAMED = 5  # differences told
_LONGEST = 80  # characters of a value


def require_alike(world: World, facts: Callable[[], Mapping[str, Any]]) -> None:
    """facts: gives a tree of what must be the same on all ranks, which all call this; asked for
    where there are several.

    Raises ConfigError on all of them alike: the first rank that differs from rank 0, and in what.
    Raises LostError.
    """
    if world.store is None:
        return
    own = {name: _said(value) for name, value in leaves(facts())}
    digests = world.gather(_digest(own))
    if len(set(digests)) == 1:
        return
    others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    told = world.gather(own if world.rank in (0, others[0]) else {})
    first, other = told[0], told[others[0]]
    different = [
        f"{name} is {other.get(name, 'absent')}, not {first.get(name, 'absent')}"
        for name in sorted(first.keys() | other.keys())
        if first.get(name) != other.get(name)
    ]
    more = f" and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
    beside = f" (as do ranks {', '.join(map(str, others[1:]))})" if len(others) > 1 else ""
    raise ConfigError(
        f"rank {others[0]} of {world.size} would train something else than rank 0{beside}: "
        f"{'; '.join(different[:_NAMED])}{more}; start all ranks with the same command, program "
        "and data"
    )


def program() -> dict[str, str]:
    """What computes: a digest of echoic's source, torch's version."""
    return {"source": _source(), "torch": str(torch.__version__)}


def shapes(task: nn.Module) -> str:
    """A digest of the names, shapes and types of what is trained and held."""
    held = [
        (name, list(t.shape), str(t.dtype), t.requires_grad)
        for name, t in (*task.named_parameters(), *task.named_buffers())
    ]
    return _digest(held)


def data_of(loader: Loader) -> str:
    """A digest of its clips, captions and settings; empty of a loader that tells none."""
    return str(getattr(loader, "fingerprint", ""))


@cache
def _source() -> str:
    """Of all python files of echoic."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _said(value: Any) -> str:
    told = str(value)
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}... ({_digest(told)})"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
