"""The docs site: links lead somewhere, the navigation and the reference are whole, the papers' map
names what is there, and the site builds without a warning and asks nothing of the network."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import echoic
from docs.hooks import OF_THE_ROOT, commands
from tests.docs_pages import PAGES, ROOT, blocks, headings, name_of

DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)\s]+)\)")
MEMBER = re.compile(r"`(echoic(?:\.\w+)+)(?::(\w+))?`")


# -- links ---------------------------------------------------------------------------------------


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    text = page.read_text("utf-8")
    for block in blocks(page):
        text = text.replace(block.code, "")
    return text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if "://" in link:
            assert well_formed(link), link
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def well_formed(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme == "https" and bool(re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_headings_are_told_apart(page):
    """A second heading of the same words would have another anchor here than on GitHub."""
    found = headings(page)
    if page.name != "CHANGELOG.md":
        assert len(found) == len(set(found)), sorted(found)


# -- what the site has ---------------------------------------------------------------------------


class _Plain(yaml.SafeLoader):
    """mkdocs.yml names a Python function, which is not wanted here."""


_Plain.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def in_the_navigation(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [value] if isinstance(value, str) else in_the_navigation(value)


def test_the_navigation_has_every_page():
    config = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), _Plain)
    there = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    there |= {name for name in OF_THE_ROOT if (ROOT / name).is_file()}
    listed = list(in_the_navigation(config["nav"]))
    assert sorted(listed) == sorted(there)


def test_the_first_page_leads_to_every_task():
    first = (DOCS / "index.md").read_text("utf-8")
    tasks = {f"tasks/{page.name}" for page in (DOCS / "tasks").glob("*.md")}
    assert tasks <= set(LINK.findall(first))


def test_every_command_is_told():
    """With an example of it, and a place for its options, which the site takes from the command."""
    page = DOCS / "cli.md"
    marks = re.findall(r"^<!-- options: (.+) -->$", page.read_text("utf-8"), re.MULTILINE)
    assert sorted(marks) == sorted(commands())
    shown = "\n".join(block.code for block in blocks(page))
    assert [name for name in commands() if f"echoic {name}" not in shown] == []


def documented() -> Iterator[tuple[str, str]]:
    for page in sorted((DOCS / "api").glob("*.md")):
        for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE):
            yield name_of(page), name


@pytest.mark.parametrize(("page", "name"), list(documented()))
def test_what_the_reference_names_is_there(page, name):
    module, _, member = name.rpartition(".")
    assert (getattr(importlib.import_module(module), member).__doc__ or "").strip()


def test_the_reference_has_what_users_import():
    named = [name.rpartition(".")[2] for _, name in documented()]
    assert len(named) == len(set(named)), "named twice"
    assert set(echoic.__all__) <= set(named)
    for package in ("index", "compat.sklearn", "compat.torchmetrics"):
        module = importlib.import_module(f"echoic.{package}")
        own = [n for n, v in vars(module).items() if isinstance(v, type) and n[0] != "_"]
        assert set(getattr(module, "__all__", own)) & set(named), package


def test_the_map_of_the_papers_names_what_is_there():
    text = (DOCS / "papers.md").read_text("utf-8")
    found = MEMBER.findall(text)
    assert len(found) > 60
    for module, member in found:
        assert not member or hasattr(importlib.import_module(module), member), (module, member)
        importlib.import_module(module)
    for paper in ("2211.06687", "2210.14648", "2406.02032", "2503.22104", "2601.12594"):
        assert f"https://arxiv.org/abs/{paper}" in text


# -- the built site ------------------------------------------------------------------------------


class _Addresses(HTMLParser):
    """What a page loads, what it links to, and what can be linked to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        self.ids |= {told[name] for name in ("id", "name") if name in told}
        if "src" in told:
            self.loads.append(told["src"])
        if "href" in told:
            (self.links if tag == "a" else self.loads).append(told["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, _Addresses]:
    """Every page of the site, built as `make docs` builds it: a warning ends it."""
    pytest.importorskip("mkdocs", reason="the site needs pip install 'echoic[docs]'")
    folder = tmp_path_factory.mktemp("site")
    order = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(order, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return {file: read(file) for file in sorted(folder.rglob("*.html"))}


def read(file: Path) -> _Addresses:
    page = _Addresses()
    page.feed(file.read_text("utf-8"))
    return page


@pytest.mark.timeout(300)  # it builds, on a busy machine slowly
def test_the_site_builds_and_links_within_itself(site):
    assert len(site) > 30
    for file, page in site.items():
        if file.name == "404.html":  # its addresses are those of a server's root
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (
                Path(os.path.normpath(file.parent / unquote(parts.path))) if parts.path else file
            )
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), (file.name, link)
            if parts.fragment and target.suffix == ".html":
                ids = site[target].ids
                assert unquote(parts.fragment) in ids, (file.name, link)


def test_the_site_loads_nothing_from_elsewhere(site):
    for file, page in site.items():
        assert [each for each in page.loads if urlsplit(each).netloc] == [], file.name
    for style in next(iter(site)).parent.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", style.read_text("utf-8")), style.name


def test_the_site_can_be_searched_from_disk(site):
    """The index lies there as a script too, with a stand-in for the worker that a file has not."""
    folder = next(file.parent for file in site if file.name == "404.html")
    assert "tasks/search.html" in (folder / "search/search_index.js").read_text("utf-8")
    assert any("iframe-worker" in each for each in site[folder / "index.html"].loads)
    assert (folder / "js/iframe-worker.js").is_file()


def test_the_options_of_every_command_stand_in_the_site(site):
    text = next(file for file in site if file.name == "cli.html").read_text("utf-8")
    for name in commands():
        assert f"echoic {name}</code>: all options" in text, name
    assert "--like-weight" in text
    assert "options:" not in re.sub(r"<[^>]+>", "", text).replace("all options", "")
