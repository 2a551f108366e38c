"""Configuration: frozen pydantic models, dotted `key.sub=value` overrides, YAML on disk.

Every part of a model or a run is described by a `Spec`. A recipe is a function that returns one;
the command line may change any of its values by a dotted path; the resolved whole is written beside
the run and travels in the weights.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import ErrorDetails

from echoic.types import ConfigError

_LONGEST_BYTES = 2**18  # of YAML, which is read at some 100 kB a second


class Spec(BaseModel):
    """A frozen description; unknown keys are errors, and so are numbers that are not finite and
    whole ones that 64 bits cannot hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("too large a number")
        return value

    def override(self, assignments: Sequence[str]) -> Self:
        """A copy with `a.b=value` assignments applied, in their order; values are read as YAML.
        Raises ConfigError."""
        tree = self.model_dump(mode="json")
        whole: list[str] = []  # given as mappings, which need not name all of their keys
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            if not equals:
                raise ConfigError(f"{assignment!r}: an override reads key.sub=value")
            path, value = path.strip(), _value(assignment, text)
            inside = any(path.startswith(f"{each}.") for each in whole)
            _assign(tree, path, value, new_key=inside)
            if isinstance(value, dict):
                whole.append(path)
        return self.parse(tree, where="override")

    @classmethod
    def parse(cls, tree: Any, where: str) -> Self:
        """Validate a plain tree; every mistake is named with its dotted path. Raises
        ConfigError."""
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            found = "; ".join(_mistake(tree, each) for each in error.errors())
            raise ConfigError(f"{where}: {found}") from None

    def to_yaml(self) -> str:
        return yaml.dump(self.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        return cls.parse(read_yaml(path), where=str(path))

    def fingerprint(self) -> str:
        """Twelve hex digits that change when any value does."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def parse_json(raw: str | bytes) -> Any:
    """`json.loads`, whose every refusal is a ValueError: also of what is nested too deep."""
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("nested too deep") from None


class _Loader(yaml.SafeLoader):
    """YAML as people write numbers: 1e-4 is one, as in YAML 1.2; PyYAML's 1.1 reads a string."""


class _Dumper(yaml.SafeDumper):
    """Its counterpart: quotes a string that `_Loader` would read as a number."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z"),
        list("-+.0123456789"),
    )


def read_yaml(path: Path) -> Any:
    """The plain tree of a file. Raises ConfigError."""
    try:
        if path.stat().st_size > _LONGEST_BYTES:
            raise ConfigError(f"{path}: too long for a configuration ({_LONGEST_BYTES} bytes)")
        return _read_yaml(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({_one_line(error)})") from None


def _read_yaml(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("nested too deep") from None
    except (ValueError, TypeError, OverflowError, AttributeError, LookupError) as error:
        raise yaml.YAMLError(str(error)) from None  # of what looks like a date, and is none


def _value(assignment: str, text: str) -> Any:
    try:
        return _read_yaml(text) if text else ""
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{assignment!r}: its value is not YAML ({getattr(error, 'problem', error)})"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _mistake(tree: Any, error: ErrorDetails) -> str:
    """`optim.lr: input should be greater than or equal to 0, not -1`."""
    path, node = [], tree
    for depth, part in enumerate(error["loc"], start=1):
        inside = _has(node, part)
        # pydantic also names the member of a union that it tried, which is no part of the path
        if inside or (error["type"] == "missing" and depth == len(error["loc"])):
            path.append(str(part))
        node = node[part] if inside else node
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if error["type"] == "extra_forbidden":
        message = "no such key"
    elif isinstance(error["input"], str | float) or _is_short(error["input"]):
        message += f", not {error['input']!r}"
    return f"{'.'.join(path)}: {message}" if path else message


def _is_short(value: object) -> bool:
    """A whole number that is worth reading; Python does not even print those of 4300 digits."""
    return isinstance(value, int) and value.bit_length() < 100


def _has(node: Any, part: int | str) -> bool:
    if isinstance(node, Mapping):
        return part in node
    return isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)


def _assign(tree: dict[str, Any], path: str, value: Any, *, new_key: bool) -> None:
    """new_key: whether the last part may be a key that is not there. Raises ConfigError."""
    *parents, last = path.split(".")
    node: Any = tree
    for depth, name in enumerate([*parents, last]):
        if isinstance(node, list) and name.isdigit() and int(name) < len(node):
            key: Any = int(name)
        elif isinstance(node, dict) and (name in node or (new_key and depth == len(parents))):
            key = name
        else:
            raise ConfigError(_unknown(node, path, depth))
        if depth == len(parents):
            node[key] = value
        else:
            node = node[key]


def close_to(asked: str, known: Iterable[str]) -> str:
    """For an error on a name that is none of those known: the nearest, else all of them."""
    names = list(known)
    close = difflib.get_close_matches(asked, names, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"


def _unknown(node: Any, path: str, depth: int) -> str:
    parts = path.split(".")
    above = ".".join(parts[:depth])
    if node is None:
        whole = f"{above}={{{parts[depth]}: ...}}"
        return f"override {path}: {above} is null; give it whole, as {whole}"
    if not isinstance(node, dict):
        return f"override {path}: {above or 'the configuration'} has no part {parts[depth]!r}"
    close = difflib.get_close_matches(parts[depth], node, n=1)
    known = ", ".join(map(str, node)) or "nothing"
    hint = f"did you mean {close[0]!r}?" if close else f"it has {known}"
    return f"override {path}: {above or 'the configuration'} has no {parts[depth]!r}; {hint}"
