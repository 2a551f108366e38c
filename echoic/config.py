"""Configuration: frozen pydantic models, dotted `key.sub=value` overrides, YAML on disk.

Every part of a model or a run is described by a `Spec`. A recipe is a function that returns one;
the command line may change any of its values by a dotted path; the resolved whole is written beside
the run and travels in the weights.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from echoic.types import ConfigError


class Spec(BaseModel):
    """A frozen description; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def override(self, assignments: Sequence[str]) -> Self:
        """A copy with `a.b=value` assignments applied; values are read as YAML. Raises
        ConfigError."""
        tree = self.model_dump(mode="json")
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            if not equals:
                raise ConfigError(f"{assignment!r}: an override reads key.sub=value")
            _assign(tree, path.strip(), yaml.safe_load(text) if text else "")
        return self.parse(tree, where="override")

    @classmethod
    def parse(cls, tree: Any, where: str) -> Self:
        """Validate a plain tree; every mistake is named with its dotted path. Raises
        ConfigError."""
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            found = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg'].lower()}"
                for e in error.errors()
            )
            raise ConfigError(f"{where}: {found}") from None

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        try:
            tree = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(
                f"{path}: cannot be read as YAML ({error})".replace("\n", " ")
            ) from None
        return cls.parse(tree, where=str(path))

    def fingerprint(self) -> str:
        """Twelve hex digits that change when any value does."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _assign(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node: Any = tree
    for depth, name in enumerate([*parents, last]):
        if isinstance(node, list) and name.isdigit() and int(name) < len(node):
            key: Any = int(name)
        elif isinstance(node, dict) and name in node:
            key = name
        else:
            raise ConfigError(_unknown(node, path, depth))
        if depth == len(parents):
            node[key] = value
        else:
            node = node[key]


def _unknown(node: Any, path: str, depth: int) -> str:
    parts = path.split(".")
    above = ".".join(parts[:depth])
    if not isinstance(node, dict):
        return f"override {path}: {above or 'the configuration'} has no part {parts[depth]!r}"
    close = difflib.get_close_matches(parts[depth], node, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(str, node))}"
    return f"override {path}: {above or 'the configuration'} has no {parts[depth]!r}; {hint}"
