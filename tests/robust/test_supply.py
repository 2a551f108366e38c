"""Few packages, whose licences let everyone use echoic for anything."""

from __future__ import annotations

import re

import pytest

from tests.robust import supply

FREE = {
    "MIT", "MIT-0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "Apache-2.0", "ISC", "PSF-2.0",
    "Zlib", "CC0-1.0", "BSL-1.0", "Apache-2.0 WITH LLVM-exception", "CNRI-Python", "Unlicense",
    "Apache 2.0 License", "MIT License", "Python-2.0",
}  # fmt: skip
WEAK_COPYLEFT = {  # used as they are, linked or imported: that asks nothing of who uses echoic
    "soxr": "LGPL-2.1-or-later", "tqdm": "MPL-2.0", "certifi": "MPL-2.0",
}  # fmt: skip
REQUIRED = {  # what pyproject.toml asks for; another one is a deliberate act
    "torch", "numpy", "soundfile", "soxr", "safetensors", "tokenizers", "pydantic", "pyyaml",
    "typer", "rich",
}  # fmt: skip


def unfree(name: str) -> set[str]:
    parts = set(re.split(r" AND | OR |, ", supply.licence(name).replace("(", "").replace(")", "")))
    return parts - FREE - {WEAK_COPYLEFT.get(name, "")}


@pytest.mark.parametrize("name", sorted(supply.required()))
def test_the_licence_of_what_is_required_is_free(name):
    assert not unfree(name)


def test_nothing_else_is_asked_for():
    asked = supply.project()["dependencies"]
    names = {re.split(r"[<>=\[;! ]", each)[0].lower() for each in asked}
    assert names == REQUIRED
    assert len(supply.required()) < 60


def test_every_requirement_is_a_range():
    """With a floor that was tested (docs/reliability.md)."""
    extras = supply.project()["optional-dependencies"]
    needs = [*supply.project()["dependencies"], *(n for some in extras.values() for n in some)]
    open_ended = [n for n in needs if ">=" not in n and not n.startswith(("echoic[", "types-"))]
    assert open_ended == []
