"""What is written about echoic is true: versions agree, links lead somewhere, examples run,
commands parse, and the map of the code shows every module."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import typer

import echoic
from echoic import api
from echoic.audio.frontend import slap
from echoic.compat import laion_clap
from echoic.convert.native import ModelFile, save_model
from echoic.encoders.slap import SlapSpec
from echoic.encoders.text import SmallTextSpec
from echoic.encoders.tokenizer import TextTokenizer
from echoic.model import ModelSpec, build
from tests import clap, m2d, task_trees
from tests.convert import m2d_files

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MODULES = sorted(path for path in (ROOT / "echoic").rglob("*.py") if path.stat().st_size)

LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:echoic|tests|docs|benchmarks|\.ci)/[\w/.-]*)`")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def pages(*names: str) -> str:
    return "\n".join((ROOT / name).read_text("utf-8") for name in names)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


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


def test_constraints_pin_exactly_and_hold_every_dependency():
    lines = pages("constraints.txt").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    pinned = [plain(pin.partition("==")[0]) for pin in pins]
    assert len(pinned) == len(set(pinned))
    extras = PROJECT["project"]["optional-dependencies"]
    of_tests = re.search(r"echoic\[(.*)\]", extras["dev"][0])[1].split(",")  # others are too big
    wanted = [
        PROJECT["project"]["dependencies"],
        extras["dev"],
        *(extras[each] for each in of_tests),
    ]
    names = {plain(re.match(r"[\w.-]+", need)[0]) for needs in wanted for need in needs}
    assert names - {"echoic"} <= set(pinned)


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# -- the pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text("utf-8")):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


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


def blocks(page: str, language: str) -> list[str]:
    return [code for kind, code in FENCE.findall(pages(page)) if kind == language]


def commands() -> Iterator[str]:
    """Every line `echoic ...` of the pages' code blocks, its comment left out."""
    for page in PAGES:
        for kind, code in FENCE.findall(page.read_text("utf-8")):
            if kind in {"", "sh"}:
                for line in code.replace("\\\n", "").splitlines():
                    if line.startswith("echoic ") and "COMMAND" not in line:
                        yield shlex.join(shlex.split(line, comments=True))


def parse(line: str) -> dict[str, object]:
    """The parameters that the command line makes of it. Raises what it would complain of."""
    from echoic.cli import app

    command, words = typer.main.get_command(app), shlex.split(line)[1:]
    while subcommands := getattr(command, "commands", None):
        command = subcommands[words.pop(0)]
    return command.make_context("echoic", words).params


def tiny_model() -> ModelFile:
    tokenizer = TextTokenizer.train(["rain on a roof", "a dog barks"], vocab=80, max_tokens=16)
    size = {"depth": 1, "width": 32, "heads": 2, "hidden": 48}
    text = SmallTextSpec(vocab=tokenizer.vocab, **size)
    spec = ModelSpec(front_end=slap(), audio=SlapSpec(**size), text=text, embed_dim=16)
    return ModelFile(build(spec, seed=0), tokenizer)


def test_python_of_the_readme_runs(tmp_path, monkeypatch):
    """On a tiny model with random weights: the shapes are right, and nothing is out of date."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "runs/demo/model.safetensors", tiny_model())
    for seed, name in enumerate(("rain.wav", "dog.wav")):
        noise = np.random.default_rng(seed).uniform(-0.1, 0.1, 16_000)
        soundfile.write(tmp_path / name, noise, 16_000)
    scope: dict = {}
    for code in blocks("README.md", "python"):
        exec(compile(code, "README.md", "exec"), scope)
    assert scope["audio"].shape == (2, 16)
    assert scope["text"].shape == (2, 16)
    assert scope["cosines"].shape == (2, 2)
    assert {label for label, _ in scope["best"][0]} == {"rain", "dog bark", "church bell"}


def test_python_of_coming_from_runs(tmp_path, monkeypatch):
    """On tiny models with random weights, in the places of the published ones."""
    monkeypatch.chdir(tmp_path)
    clap.pt_file(tmp_path / "630k-audioset-best.pt")
    (tmp_path / "tokenizer.json").write_text(clap.tokenizer_json())
    published = {
        "laion/clap-htsat-fused": clap.huggingface_folder(tmp_path / "fused", fusion=True),
        "FacebookAI/roberta-base": tmp_path,
    }
    for name in ("find_model", "with_tokenizer"):
        monkeypatch.setattr(f"echoic.api.{name}", redirected(getattr(api, name), published))
    monkeypatch.setattr(laion_clap, "released_model", lambda *_, **kind: clap.spec(**kind))
    for seed, name in enumerate(("dog.wav", "rain.flac")):
        soundfile.write(tmp_path / name, clap.sound(11.0, seed), clap.RATE)
    scope: dict = {}
    for code in blocks("docs/coming_from.md", "python"):
        exec(compile(code, "coming_from.md", "exec"), scope)
        if "CLAP_Module" in code:
            assert scope["audio"].shape == scope["text"].shape == (2, 24)
            assert {type(scope[name]) for name in ("audio", "text")} == {np.ndarray}
    assert (scope["audio"].shape, scope["text"].shape) == ((2, 24), (1, 24))
    assert scope["ready"].shape == (1, 24)
    assert {label for label, _ in scope["best"][0]} == {"dog", "rain"}
    assert scope["model"].space_id.endswith("-laion")


def test_python_of_m2d_runs(tmp_path, monkeypatch):
    """On small made-up files in upstream's layouts; a tiny model where the page needs the Hub."""
    monkeypatch.chdir(tmp_path)
    files_of_m2d_page(tmp_path)
    monkeypatch.setattr(echoic, "load", without_the_hub(echoic.load))
    scope: dict = {}
    for code in blocks("docs/m2d.md", "python"):
        exec(compile(code, "m2d.md", "exec"), scope)
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
    done = scope["tune"](tmp_path / "run", folds=["1"], seeds=[43], overrides=quick)
    assert 0 <= done.value <= 1
    tuned = next((tmp_path / "run").rglob("model.safetensors"))
    assert echoic.load(tuned).tag("dog.wav").shape == (1, 2)


def files_of_m2d_page(folder: Path) -> None:
    """What its examples open."""
    name = "m2d_{}vit_base-80x{}p16x16-{}".format
    m2d_files.m2d_file(folder, m2d_files.fill(m2d_files.M2D), name("", 608, "221006-mr7"))
    m2d_files.m2d_file(folder, m2d_files.fill(m2d_files.CLAP_2024), name("clap_", 608, "240128"))
    width = m2d_files.WIDTH
    head = {"norm.running_mean": (width,), "norm.running_var": (width,)}
    head |= m2d_files.linear("mlp.mlp.0", 527, width)
    tuned = m2d_files.fill(m2d_files.wrapped("module.ar.runtime.backbone.", m2d_files.ALONE))
    tuned |= m2d_files.fill(m2d_files.wrapped("module.head.", head))
    tuned["module.head.norm.running_var"].fill_(1.0)
    tagger = folder / name("as_", 1001, "240213_AS-FT_enconly") / "weights_ep69it3124-0.48494.pth"
    tagger.parent.mkdir()
    torch.save(tuned, tagger)
    for seed, sound in enumerate(("dog.wav", "rain.flac")):
        soundfile.write(folder / sound, clap.sound(1.0 + seed, seed), clap.RATE)
    rows = [f"{i},/m/{526 - i:03},Sound {i}" for i in range(527)]  # the mids fall
    lines = "\n".join(["index,mid,display_name", *rows])
    (folder / "class_labels_indices.csv").write_text(lines, "utf-8")
    task_trees.esc50(folder / "ESC-50-master", per_class=1)


def without_the_hub(load):
    """The same function; M2D-CLAP 2025 is a tiny one of ours, and a sentence encoder one of
    words."""

    def call(path, **options):
        if "2025" in str(path):
            return m2d.model("tokens", text="small")
        named = {"text_encoder": "words:64"} if "text_encoder" in options else {}
        return load(path, **options | named)

    return call


def redirected(function, published):
    """The same function, which finds what is published in local places."""

    def call(*arguments, **options):
        return function(*(published.get(str(each), each) for each in arguments), **options)

    return call


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
