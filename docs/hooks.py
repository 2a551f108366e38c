"""What the docs site is made of beside the pages of docs/: the pages of the root, links out of
docs/, and the options of every command.

The pages read as well on GitHub: there a link leads to any file of the repository, and the
options are one `--help` away. On the site a link to a file that is no page becomes its name, or
leads to `repo_url`, once mkdocs.yml has one. mkdocs calls the functions `on_...`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
OF_THE_ROOT = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\n]*(?:\n[^\]\n]*)?)\]\((?P<to>[^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_OPTIONS = re.compile(r"^<!-- options: (?P<command>[\w -]+) -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages of the root are pages of the site."""
    from mkdocs.structure.files import File

    for name in OF_THE_ROOT:
        if (ROOT / name).is_file():
            text = (ROOT / name).read_text("utf-8")
            files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Options told, links led to where they lead on the site."""
    told = _OPTIONS.sub(lambda found: options_of(found["command"]), markdown)
    uri = page.file.src_uri
    here = (ROOT / uri if uri in OF_THE_ROOT else DOCS / uri).parent
    return "".join(
        part if code else _LINK.sub(lambda link: led(link, here, uri, config.repo_url), part)
        for part, code in parts(told)
    )


def parts(markdown: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, and whether each is a block of code."""
    end = 0
    for found in _FENCE.finditer(markdown):
        yield markdown[end : found.start()], False
        yield found[0], True
        end = found.end()
    yield markdown[end:], False


def led(link: re.Match[str], here: Path, uri: str, repository: str | None) -> str:
    """The same link on the site; its text alone where there is nothing to lead to."""
    file, sharp, anchor = link["to"].partition("#")
    if "://" in file or not file:
        return link[0]
    target = Path(os.path.normpath(here / file))
    if target.is_relative_to(DOCS):
        there = target.relative_to(DOCS)
    elif str(target.relative_to(ROOT)) in OF_THE_ROOT:
        there = target.relative_to(ROOT)
    elif repository:
        return f"[{link['text']}]({repository}/blob/main/{target.relative_to(ROOT)})"
    else:
        name = link["text"]
        return name if name.startswith("`") or "/" not in name else f"`{name}`"
    way = os.path.relpath(there, Path(uri).parent)
    return f"[{link['text']}]({way}{sharp}{anchor})"


# -- commands ------------------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """Every command that does something, by its words: `embed`, `data check`."""
    from echoic.cli import app

    return dict(_leaves(typer.main.get_command(app), ()))


def _leaves(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        yield " ".join(words), command
        return
    for name, each in subcommands.items():
        if not each.hidden:
            yield from _leaves(each, (*words, name))


def options_of(name: str) -> str:
    """A command's arguments and options as a table, folded."""
    command = commands()[name]
    context = command.make_context(f"echoic {name}", [], resilient_parsing=True)
    rows = [_row(each, context) for each in command.get_params(context)]
    lines = "\n".join(f"    | {_cell(what)} | {_cell(says)} |" for what, says in filter(None, rows))
    return f'??? note "`echoic {name}`: all options"\n\n    | | |\n    | --- | --- |\n{lines}\n'


def _row(parameter: Any, context: Any) -> tuple[str, str] | None:
    record = parameter.get_help_record(context)
    if record is None or "--help" in record[0]:
        return None
    kind = re.sub(r"<list\[(\w+)\]>", r"<\1>", record[0]).replace(" range>", ">")
    return f"`{kind}`", record[1]


def _cell(text: str) -> str:
    """In a table a bar parts cells; in HTML an angle begins a tag."""
    inside = " ".join(text.split()).replace("|", r"\|")
    return inside if inside.startswith("`") else inside.replace("<", "&lt;").replace("[", r"\[")
