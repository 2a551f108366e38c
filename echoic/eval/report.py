"""A report as one HTML file that needs nothing else: no script, no network, light and dark.

A `Report` is a title and `Section`s; a section is a heading and blocks (prose, tiles, figures,
tables, settings). The sections of this library's own measurements are made in `sections.py`; a new
measurement adds a function there, or anywhere, that returns a `Section`. All text is escaped here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from echoic.data.files import writing
from echoic.eval.plots import Figure, Table

_NO_CHARACTER = re.compile("[\ud800-\udfff]")  # surrogates: Python's stand-ins for bytes


@dataclass(frozen=True)
class Tile:
    """One figure in large type: what, how much, and how sure or of what."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Tiles:
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Prose:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Settings:
    """Names and values, such as the configuration of a run."""

    values: Mapping[str, object]


Block = Prose | Tiles | Settings | Figure | Table


@dataclass(frozen=True)
class Section:
    """lead: one or two sentences on what is shown and how it was measured."""

    title: str
    blocks: Sequence[Block]
    lead: str = ""


@dataclass(frozen=True)
class Report:
    title: str
    subtitle: str
    sections: Sequence[Section]

    def html(self) -> str:
        """The whole page. What is no character, as in a file name not in UTF-8, is replaced."""
        template = Template(files(__package__).joinpath("report_template.html").read_text("utf-8"))
        ids = [f"part-{i}" for i in range(1, len(self.sections) + 1)]
        named = list(zip(ids, self.sections, strict=True))
        page = template.substitute(
            title=escape(self.title),
            subtitle=escape(self.subtitle),
            links="".join(f'<a href="#{i}">{escape(s.title)}</a>' for i, s in named),
            sections="\n".join(_section(i, s) for i, s in named),
        )
        return _NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", page)

    def write(self, path: Path | str) -> Path:
        """Write the page, whole or not at all; folders are made as needed. Returns the path. Raises
        DataError."""
        target, page = Path(path), self.html()
        with writing(target) as beside:
            beside.write_text(page, encoding="utf-8")
        return target


def _words(text: str) -> str:
    """Escaped, and with no line break before a per cent sign."""
    return escape(text).replace(" %", "\N{NO-BREAK SPACE}%")


def _section(anchor: str, section: Section) -> str:
    lead = f'<p class="lead">{_words(section.lead)}</p>' if section.lead else ""
    body = "\n".join(_block(block) for block in section.blocks)
    return (
        f'<section id="{anchor}"><h2>{escape(section.title)}</h2>{lead}\n'
        f'<div class="body">{body}</div></section>'
    )


def _block(block: Block) -> str:
    match block:
        case Prose(text):
            return f'<p class="prose wide">{_words(text)}</p>'
        case Tiles(tiles):
            return f'<dl class="tiles wide">{"".join(map(_tile, tiles))}</dl>'
        case Settings(values):
            rows = (f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in values.items())
            return f'<dl class="settings">{"".join(rows)}</dl>'
        case Table():
            title = f'<p class="titled">{escape(block.title)}</p>' if block.title else ""
            kind = "sheet wide" if block.wide else "sheet"
            sheet = f'<div class="scroll" tabindex="0">{_table(block)}</div>'  # by keyboard too
            return f'<div class="{kind}">{title}{sheet}</div>'
        case Figure():
            return _figure(block)


def _tile(tile: Tile) -> str:
    note = f'<dd class="note">{_words(tile.note)}</dd>' if tile.note else ""
    return f"<div><dt>{escape(tile.label)}</dt><dd>{_words(tile.value)}</dd>{note}</div>"


def _figure(figure: Figure) -> str:
    keys = (f'<li><i class="{colour}"></i>{escape(name)}</li>' for name, colour in figure.legend)
    legend = f'<ul class="legend">{"".join(keys)}</ul>' if figure.legend else ""
    note = f'<p class="note">{_words(figure.note)}</p>' if figure.note else ""
    return (
        f"<figure><figcaption>{escape(figure.title)}</figcaption>{legend}{figure.svg}{note}"
        f"<details><summary>Numbers</summary>"
        f'<div class="scroll">{_table(figure.table)}</div></details></figure>'
    )


def _table(table: Table) -> str:
    kinds = [' class="t"' if i < table.text_columns else "" for i in range(len(table.columns))]

    def line(tag: str, cells: Sequence[str]) -> str:
        marked = zip(kinds, cells, strict=True)
        return f"<tr>{''.join(f'<{tag}{kind}>{escape(c)}</{tag}>' for kind, c in marked)}</tr>"

    body = "".join(line("td", row) for row in table.rows)
    return f"<table><thead>{line('th', table.columns)}</thead><tbody>{body}</tbody></table>"
