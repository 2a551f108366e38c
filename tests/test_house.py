"""What is written about echoic is true: versions agree, named files are there, commands parse, and
the map of the code shows every module. tests/test_docs_*.py: links and examples."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator

import pytest
import typer
from packaging.requirements import Requirement
from packaging.version import Version

import echoic
from tests.docs_pages import PAGES, ROOT, blocks, name_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MODULES = sorted(path for path in (ROOT / "echoic").rglob("*.py") if path.stat().st_size)

PATH = re.compile(r"`((?:echoic|tests|docs|benchmarks|\.ci)/[\w/.-]*)`")


def pages(*names: str) -> str:
    return "\n".join((ROOT / name).read_text("utf-8") for name in names)


# -- the package ---------------------------------------------------------------------------------


def test_version_is_the_same_everywhere():
    version = PROJECT["project"]["version"]
    assert echoic.__version__ == version
    assert "## [Unreleased]" in pages("CHANGELOG.md") or f"## [{version}]" in pages("CHANGELOG.md")


def test_types_and_licence_are_shipped():
    """hatchling takes all of a package's folder, and licence files of these names."""
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["echoic"]
    assert (ROOT / "echoic/py.typed").is_file()
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in pages("LICENSE")


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_module_says_what_it_is(module):
    docstring = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
    assert docstring.partition("\n\n")[0].rstrip().endswith((".", "?", ":"))


def pins(file: str) -> dict[str, str]:
    lines = [line for line in pages(file).splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    found = {plain(name): version for name, _, version in (line.partition("==") for line in lines)}
    assert len(found) == len(lines)
    return found


def needed() -> list[Requirement]:
    """What the tests need: all but the extras that are too big."""
    extras = PROJECT["project"]["optional-dependencies"]
    of_tests = re.search(r"echoic\[(.*)\]", extras["dev"][0])[1].split(",")
    groups = [
        PROJECT["project"]["dependencies"],
        extras["dev"][1:],
        *(extras[each] for each in of_tests),
    ]
    return [Requirement(need) for needs in groups for need in needs]


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-lowest.txt"])
def test_constraints_pin_exactly_what_pyproject_allows(file):
    pinned = pins(file)
    for need in needed():
        assert need.specifier.contains(pinned[plain(need.name)]), need


def test_the_lowest_versions_are_the_floors():
    pinned = pins("constraints-lowest.txt")
    above = set()
    for need in needed():
        floors = [each.version for each in need.specifier if each.operator == ">="]
        if floors and Version(floors[0]) != Version(pinned[plain(need.name)]):
            above.add(need.name)
    # only one build of torch can be had; transformers' floor asks for more of the others
    assert above == {"torch", "safetensors", "tokenizers"}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# -- the pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_are_there(page):
    named = set(PATH.findall(page.read_text("utf-8")))
    assert [path for path in named if "NAME" not in path and not (ROOT / path).exists()] == []


def test_the_map_shows_every_module():
    """A line `path`: what it is; for those of the corpus' sound classes, their folder."""
    told = pages("CONTRIBUTING.md")
    listed = set(re.findall(r"^\| `(echoic/[\w/.]+)` \|", told, re.MULTILINE))
    there = {name_of(module) for module in MODULES}
    assert listed == there


# -- examples ------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """Every line `echoic ...` of the pages' code blocks, its comment left out."""
    for block in (block for page in PAGES for block in blocks(page) if block.kind == "sh"):
        for line in block.commands():
            if line.startswith("echoic ") and "COMMAND" not in line:
                yield line


def parse(line: str) -> dict[str, object]:
    """The parameters that the command line makes of it. Raises what it would complain of."""
    from echoic.cli import app

    command, words = typer.main.get_command(app), shlex.split(line)[1:]
    while subcommands := getattr(command, "commands", None):
        command = subcommands[words.pop(0)]
    return command.make_context("echoic", words).params


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_commands_of_the_pages_parse(line):
    assert parse(line) is not None


def test_the_pages_show_the_commands_that_matter():
    shown = {line.split()[1] for line in commands()}
    matter = {"demo", "train", "finetune", "eval", "embed", "classify", "search", "check", "data"}
    assert matter | {"models", "convert"} <= shown


@pytest.mark.parametrize("line", ["echoic nope", "echoic embed a.wav --outt v.npz"])
def test_a_command_that_does_not_exist_is_found(line):
    with pytest.raises(Exception, match=r"nope|outt"):
        parse(line)


def test_make_targets_of_the_pages_exist():
    told = pages("README.md", "CONTRIBUTING.md")
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", told, re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", pages("Makefile"), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
