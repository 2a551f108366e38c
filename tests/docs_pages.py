"""The pages that people read, and the examples in them.

An example is a block of code fenced by ```sh or ```python; what is only shown is ```text. Comments
right before a block say what the tests do with it, and why; with a text in backticks they are of
its lines that hold that text:

    <!-- not run: sends a model to the Hub -->
    <!-- not run `torchrun`: starts several processes -->
    <!-- run smaller `echoic train`: optim.steps=2 -->     what is added to the command
    <!-- ends with 2 `--suite`: data that are not there -->
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
OF_THE_ROOT = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in OF_THE_ROOT if (ROOT / name).is_file()),
    ]
)
RUN, SHOWN = ("sh", "python"), ("text",)

_MARK = re.compile(r"^<!-- (not run|run smaller|ends with 2)(?: `([^`]+)`)?: (.+) -->$", re.M)
_BLOCK = re.compile(r"((?:^<!-- [^\n]+ -->\n)*)^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Mark:
    """what: one of the three. holds: of lines that hold this; None: of the whole block."""

    what: str
    holds: str | None
    says: str

    def is_of(self, line: str) -> bool:
        return self.holds is None or self.holds in line


@dataclass(frozen=True)
class Block:
    page: str
    line: int  # of its first line of code, from 1
    kind: str
    code: str
    marks: tuple[Mark, ...]

    def marked(self, what: str, line: str) -> list[str]:
        """What the marks of this kind say of a line."""
        return [mark.says for mark in self.marks if mark.what == what and mark.is_of(line)]

    def commands(self) -> list[str]:
        """Its lines, those joined that a backslash joins, without comments."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [line for line in map(_bare, lines) if line]


def _bare(line: str) -> str:
    return shlex.join(shlex.split(line, comments=True))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in _BLOCK.finditer(text):
        marks = tuple(Mark(*each) for each in _marks(found[1]))
        yield Block(
            name_of(page), text[: found.start(3)].count("\n") + 1, found[2], found[3], marks
        )


def _marks(comments: str) -> Iterator[tuple[str, str | None, str]]:
    for what, holds, says in _MARK.findall(comments):
        yield what, holds or None, says


def left_out(page: Path) -> int:
    """How many of a page's examples the tests do not run: lines of commands, blocks of Python."""
    return sum(
        bool(block.marked("not run", line))
        for block in blocks(page)
        if block.kind in RUN
        for line in (block.commands() if block.kind == "sh" else [block.code])
    )


def headings(page: Path) -> list[str]:
    """The anchors that GitHub gives to a page's headings; the site gives the same."""
    text = _BLOCK.sub("", page.read_text("utf-8"))
    found: list[str] = []
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.append(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found
