"""What echoic stands on: the packages, from their own metadata, as a table for docs/reliability.md.

    python -m tests.robust.supply

Required: of pyproject.toml, and what those require in turn. Extras: those that are installed here.
"""

from __future__ import annotations

import importlib.metadata as metadata
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
_SHORT = {  # by what the names of classifiers begin with
    "MIT": "MIT", "BSD": "BSD", "Apache": "Apache-2.0", "Python Software": "PSF-2.0",
    "Mozilla Public License 2.0": "MPL-2.0", "ISC": "ISC",
    "GNU Lesser General Public License v2 or later": "LGPL-2.1-or-later",
}  # fmt: skip


def project() -> dict[str, object]:
    tree: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return tree


def closure(asked: Iterable[str]) -> set[str]:
    """Names of the distributions that requirements need here, and of those that they need."""
    found: set[str] = set()
    todo = list(asked)
    while todo:
        need = Requirement(todo.pop())
        name = re.sub(r"[-_.]+", "-", need.name).lower()
        here = need.marker is None or need.marker.evaluate({"extra": ""})
        if here and name not in found:
            found.add(name)
            try:
                todo += metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue
    return found


def licence(name: str) -> str:
    """As the package says it: an expression, else classifiers, else the field's first line."""
    told = metadata.metadata(name)
    if expression := told.get_all("License-Expression"):
        return str(expression[0])
    classes = [c.rpartition(":: ")[2] for c in told.get_all("Classifier") or ()
               if c.startswith("License :: OSI Approved :: ")]  # fmt: skip
    short = [
        next((s for begin, s in _SHORT.items() if each.startswith(begin)), each) for each in classes
    ]
    if short:
        return " OR ".join(sorted(set(short)))
    field = told.get_all("License") or ["not said"]
    return str(field[0]).strip().partition("\n")[0]


def required() -> set[str]:
    return closure(project()["dependencies"])  # type: ignore[arg-type]


def extras() -> dict[str, set[str]]:
    """What each extra brings beyond that; those apart that only work on echoic itself needs."""
    asked: dict[str, list[str]] = project()["optional-dependencies"]  # type: ignore[assignment]
    base = required()
    return {
        name: closure(needs) - base for name, needs in asked.items() if name not in ("dev", "docs")
    }


def main() -> None:
    print("| package | version | licence | for |\n| --- | --- | --- | --- |")
    seen: set[str] = set()
    for why, names in {"all": required(), **extras()}.items():
        for name in sorted(names - seen):
            try:
                version = metadata.version(name)
            except metadata.PackageNotFoundError:
                print(f"| {name} | not here | | {why} |")
            else:
                print(f"| {name} | {version} | {licence(name)} | {why} |")
        seen |= names


if __name__ == "__main__":
    main()
