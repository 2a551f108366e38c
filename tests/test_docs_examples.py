"""Every example of README and docs runs, from the top of its page to the end, on small models and
sounds (tests/docs_world.py). What does not run says why in the page's source, and is counted here.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

import echoic
from echoic.compat import laion_clap
from tests import clap, docs_pages, docs_world, m2d
from tests.convert import m2d_files
from tests.docs_pages import PAGES, Block, blocks, name_of

# Examples that are not run, with their reason in the page's source. Fewer is better.
LEFT_OUT = {
    "README.md": 2,
    "docs/RESULTS.md": 4,
    "docs/cli.md": 8,
    "docs/coming_from.md": 3,
    "docs/data.md": 2,
    "docs/evaluation.md": 3,
    "docs/index.md": 2,
    "docs/m2d.md": 10,
    "docs/scaling.md": 4,
    "docs/slap.md": 2,
    "docs/tasks/export.md": 2,
    "docs/tasks/tag.md": 1,
    "docs/tasks/train.md": 1,
    "docs/tasks/web.md": 3,
    "docs/training.md": 8,
    "docs/tutorial.md": 2,
}

FROM_NOTHING = ("docs/tutorial.md",)
TOLD = [page for page in PAGES if page.name == "README.md" or "docs" in page.parts]
WITH_EXAMPLES = [
    page for page in TOLD if any(block.kind in docs_pages.RUN for block in blocks(page))
]


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "world"
    folder.mkdir()
    docs_world.furnish(folder)
    return folder


@pytest.fixture
def here(request, world, tmp_path, elsewhere, monkeypatch) -> Path:
    """A copy of the world to work in, but an empty folder for what begins with nothing; the Hub is
    what its cache holds."""
    if name_of(request.getfixturevalue("page")) not in FROM_NOTHING:
        shutil.copytree(world, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(echoic, "load", docs_world.without_the_hub(echoic.load))
    monkeypatch.setattr(laion_clap, "released_model", lambda *_, **kind: clap.spec(**kind))
    return tmp_path


@pytest.mark.timeout(600)  # a page is many commands, on a busy machine slow ones
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name_of)
def test_examples_run(page, here, run, capsys):
    scope: dict = {}
    for block in blocks(page):
        if block.kind == "python" and not block.marked("not run", block.code):
            place = "\n" * (block.line - 1)  # so that a traceback names the page's line
            exec(compile(place + block.code, block.page, "exec"), scope)
            capsys.readouterr()
        if block.kind == "sh":
            for line in block.commands():
                if not block.marked("not run", line):
                    type_in(line, block, run)
    HOLDS.get(name_of(page), lambda scope: None)(scope)


def readme_holds(scope: dict) -> None:
    width = scope["audio"].shape[1]
    assert scope["audio"].shape == scope["text"].shape == (2, width)
    assert scope["cosines"].shape == (2, 2)
    assert {label for label, _ in scope["best"][0]} == {"rain", "dog bark", "church bell"}


def coming_from_holds(scope: dict) -> None:
    width = scope["audio"].shape[1]
    assert (scope["audio"].shape, scope["text"].shape) == ((2, width), (1, width))
    assert scope["ready"].shape == (1, width)
    assert {label for label, _ in scope["best"][0]} == {"dog", "rain"}
    assert scope["model"].space_id.endswith("-laion")


def m2d_holds(scope: dict) -> None:
    width = m2d_files.WIDTH
    assert {label for label, _ in scope["best"][0]} == {"dog", "rain"}
    assert scope["found"].tokens.shape[1] == scope["found"].clip.shape[1] == 5 * width
    assert (len(scope["found"].clip), scope["frames"].tokens.shape[1]) == (2, width)
    assert len(scope["layers"]) == m2d_files.DEPTH
    assert scope["vectors"].shape == (2, m2d.EMBED_DIM["tokens"])
    assert scope["tags"].shape == (1, 527)
    best = int(scope["tags"].argmax())
    assert scope["heard"][0][1] == scope["rows"][best]["display_name"] == f"Sound {526 - best}"
    assert all(0 <= scope[name].value <= 1 for name in ("result", "asked"))
    quick = ["epochs=1", "warmup_epochs=0", "m2d.frames=101"]
    done = scope["tune"](Path("tuned"), folds=["1"], seeds=[43], overrides=quick)
    assert 0 <= done.value <= 1
    tuned = next(Path("tuned").rglob("model.safetensors"))
    assert echoic.load(tuned).tag("dog.wav").shape == (1, 2)


# What the names that a page's examples end with must be, beyond that they run.
HOLDS = {
    "README.md": readme_holds,
    "docs/coming_from.md": coming_from_holds,
    "docs/m2d.md": m2d_holds,
}


def type_in(line: str, block: Block, run) -> None:
    """Run a command as it stands, or smaller where the page says so."""
    first, *words = shlex.split(line)
    assert first == "echoic", f"{block.page}:{block.line}: {line}: say why it is not run"
    for more in block.marked("run smaller", line):
        words += docs_world.SMALLER.get(more) or shlex.split(more)
    code, _, err = run(*words)
    wanted = 2 if block.marked("ends with 2", line) else 0
    assert code == wanted, f"{block.page}:{block.line}: {shlex.join(words)}\n{err}"


def test_what_is_left_out_is_counted():
    counts = {name_of(page): docs_pages.left_out(page) for page in TOLD}
    assert {name: count for name, count in counts.items() if count} == LEFT_OUT


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is(page):
    """So that none escapes; a mark that fits no line has gone stale."""
    found = list(blocks(page))
    assert page.read_text("utf-8").count("```") == 2 * len(found)
    for block in found:
        assert block.kind in (*docs_pages.RUN, *docs_pages.SHOWN), f"{block.page}:{block.line}"
        lines = block.commands() if block.kind == "sh" else [block.code]
        stale = [mark for mark in block.marks if not any(map(mark.is_of, lines))]
        assert not stale, f"{block.page}:{block.line}: {stale}"


PAGE = """\
# A page

<!-- not run `nope`: there is none -->
<!-- run smaller: --top 1 -->
```sh
echoic search "a b" \\
    sounds/    # a comment
echoic nope
```
```text
only shown
```
"""


def test_marks_are_of_their_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(docs_pages, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(PAGE, "utf-8")
    first, shown = blocks(page)
    assert first.commands() == ["echoic search 'a b' sounds/", "echoic nope"]
    assert [first.marked("not run", line) for line in first.commands()] == [[], ["there is none"]]
    assert all(first.marked("run smaller", line) == ["--top 1"] for line in first.commands())
    assert (first.line, shown.kind, shown.marks) == (6, "text", ())
    assert docs_pages.left_out(page) == 1


@pytest.mark.parametrize("line", ["echoic nope", "echoic embed nothing.wav --out v.npz", "ls"])
def test_an_example_that_is_wrong_is_found(line, run, elsewhere):
    block = Block("page.md", 1, "sh", line, ())
    with pytest.raises(AssertionError, match=r"page\.md:1"):
        type_in(line, block, run)
