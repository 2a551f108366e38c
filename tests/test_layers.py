"""Who may import whom (docs/DESIGN.md, "Layers"), and what no module may do.

Import statements are read from the source, those inside functions too, so that nothing hides behind
what happens to be loaded. `from package import submodule` counts as an import of the submodule;
what stands under `if TYPE_CHECKING:` counts like the rest.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "echoic"

# A layer may import what stands beside it, and whatever that may import. A name means the module or
# all of the package.
LAYERS = {
    "types": "",
    "config": "types",
    "audio": "config",
    "nn": "config",
    "encoders": "nn audio",
    "towers": "encoders",
    "model": "towers",
    "convert": "model",
    "objectives": "nn",
    "data": "audio",
    "eval": "data",
    "train": "config",
    "export": "convert",
    "hub": "export",
    "listening": "towers",
    "items": "listening data",
    "captioning": "items",
    "spans": "eval",
    "timeline": "listening spans",
    "streaming": "timeline",
    "subtitles": "captioning eval",
    "m2d_features": "listening model",
    "text_side": "convert",
    "api": "hub captioning streaming m2d_features text_side",
    "recipes": "model objectives data train",
    "plan": "recipes",
    "start": "recipes convert hub",
    "teachers": "api objectives",
    "reading": "api recipes",
    "objective": "recipes teachers",
    "validation": "reading",
    "pretrain": "start objective validation",
    "embeddings": "api",
    "adapters": "api",
    "index": "api",
    "judges": "convert eval",
    "evaluate": "embeddings judges",
    "events": "evaluate timeline",
    "finetune": "pretrain evaluate",
    "stages": "finetune",
    "tasks": "finetune",
    "measures": "tasks events",
    "suite": "measures",
    "keywords": "data train",
    "compat": "api recipes",
    "demo": "pretrain evaluate",
    "echoic": "api",
    "__main__": "cli",
    "web": "index echoic",
    "cli": "demo stages suite keywords plan index export web subtitles echoic",
}

# Not needed anywhere in the package, which so loads fast and installs everywhere; no pickle.
NEVER = {"torchaudio", "torchvision", "scipy", "librosa", "matplotlib", "pickle", "dill", "joblib"}
# Extras, and what can open the network: only inside functions.
INSIDE_FUNCTIONS = {
    "transformers", "av", "huggingface_hub", "fsspec", "pyarrow", "ray", "lancedb", "onnx",
    "onnxscript", "onnxruntime", "sklearn", "torchmetrics",
    "sounddevice",
}  # fmt: skip

# The functions that touch a global random generator: they fork it, store it, or put it back.
MAY_TOUCH_RNG = {
    "model": {"build"},
    "train.process": {"isolated_rng", "other_rng", "set_rng"},
}
OWN_GENERATORS = {
    "Generator", "SeedSequence", "BitGenerator", "PCG64", "Philox", "default_rng", "Random",
    "fork_rng",
}  # fmt: skip
TORCH_DRAWS = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal",
    "bernoulli", "multinomial", "poisson",
}  # fmt: skip


# -- reading -------------------------------------------------------------------------------------


def sources() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name below `echoic`; the package itself is
    `echoic`."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__") or "echoic"
        found[name] = ast.parse(file.read_text("utf-8"), filename=str(file))
    return found


SOURCES = sources()


def imported(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def edges(tree: ast.AST, modules: set[str]) -> set[str]:
    """The modules of echoic that one of them imports."""
    found = set()
    for name in imported(tree):
        if name == "echoic" or name.startswith("echoic."):
            inner = name.removeprefix("echoic.")
            while inner not in modules:  # a name defined in a module: that module
                inner = inner.rpartition(".")[0] or "echoic"
            found.add(inner)
    return found


def layer_of(module: str) -> str:
    return module.partition(".")[0]


def below(layer: str) -> set[str]:
    """All that a layer may import, itself apart."""
    beside = LAYERS[layer].split()
    return set(beside).union(*map(below, beside))


def offences(name: str, tree: ast.AST, modules: set[str]) -> list[str]:
    """Imports that the table does not allow."""
    here = layer_of(name)
    allowed = {here, *below(here)}
    return [
        f"{name} imports {other}; {here} may import only {sorted(allowed)}"
        for other in sorted(edges(tree, modules))
        if layer_of(other) not in allowed
    ]


def outer_imports(tree: ast.AST) -> Iterator[str]:
    """Top-level packages that are imported when the module is."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield from (name.partition(".")[0] for name in imported_here(node))
        yield from outer_imports(node)


def imported_here(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from imported(node)


def habits(name: str, tree: ast.Module) -> list[str]:
    """What the house rules out inside a module: global randomness, pickle, lax loads, a muzzle."""
    may = MAY_TOUCH_RNG.get(name, set())
    found = [
        f"{name} imports {x}" for x in imported(tree) if is_global_rng(*x.rpartition(".")[::2])
    ]
    for part in tree.body:
        exempt = isinstance(part, ast.FunctionDef) and part.name in may
        for node in ast.walk(part):
            if isinstance(node, ast.Attribute) and not exempt:
                owner = ast.unparse(node.value)
                if is_global_rng(owner, node.attr):
                    found.append(f"{name}:{node.lineno} global generator: {owner}.{node.attr}")
            if isinstance(node, ast.Call):
                found += [f"{name}:{node.lineno} {fault}" for fault in call_faults(node)]
    return found


def is_global_rng(owner: str, what: str) -> bool:
    if owner == "torch":
        return what in {"manual_seed", "seed", "set_rng_state"}
    of_rng = owner in {"random", "np.random", "numpy.random", "torch.random"}
    return of_rng and what not in OWN_GENERATORS


def call_faults(call: ast.Call) -> Iterator[str]:
    owner, _, does = ast.unparse(call.func).rpartition(".")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    constant = {arg: v.value for arg, v in given.items() if isinstance(v, ast.Constant)}
    if owner == "torch" and does == "load" and constant.get("weights_only") is not True:
        yield "torch.load unpickles; use safetensors, or weights_only=True"
    if owner == "torch" and does in TORCH_DRAWS and "generator" not in given:
        yield f"torch.{does} without a generator"
    if does == "load_state_dict" and constant.get("strict") is False:
        yield "a load that is not strict"
    if constant.get("allow_pickle"):
        yield "pickle allowed"
    says_which = len(call.args) > 1 or not given.keys().isdisjoint({"message", "category"})
    if does in {"filterwarnings", "simplefilter"} and not says_which:
        yield "a filter of all warnings"


# -- the package ---------------------------------------------------------------------------------


def test_every_module_has_a_layer():
    assert {layer_of(name) for name in SOURCES} <= LAYERS.keys()


@pytest.mark.parametrize("name", SOURCES)
def test_layers_hold(name):
    assert offences(name, SOURCES[name], set(SOURCES)) == []


def test_the_table_itself_has_no_cycle():
    TopologicalSorter({name: row.split() for name, row in LAYERS.items()}).prepare()


def test_no_module_imports_in_a_circle():
    graph = {name: edges(tree, set(SOURCES)) - {name} for name, tree in SOURCES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("name", SOURCES)
def test_no_package_that_echoic_does_without(name):
    assert NEVER.isdisjoint(top.partition(".")[0] for top in imported(SOURCES[name]))


@pytest.mark.parametrize("name", SOURCES)
def test_extras_are_imported_inside_functions_only(name):
    assert INSIDE_FUNCTIONS.isdisjoint(outer_imports(SOURCES[name]))


@pytest.mark.parametrize("name", SOURCES)
def test_habits_of_the_house(name):
    assert habits(name, SOURCES[name]) == []


# -- the tests of these tests --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("objectives.new", "from echoic.encoders.slap import SlapEncoder"),
        ("objectives.new", "def later():\n    import echoic.encoders.slap"),
        ("train.new", "from echoic import model"),
        ("train.new", "import echoic.eval.ranks as r"),
        ("data.new", "if TYPE_CHECKING:\n    from echoic.model import build"),
        ("eval.new", "from echoic.api import load"),
        ("model", "import echoic"),
    ],
)
def test_a_forbidden_import_is_found(name, code):
    assert len(offences(name, ast.parse(code), set(SOURCES))) == 1


def test_an_allowed_import_is_not_found():
    code = "import torch\nfrom echoic.data.clips import Clip\nfrom echoic.types import Ragged"
    assert offences("eval.new", ast.parse(code), set(SOURCES)) == []


@pytest.mark.parametrize(
    "code",
    ["import av", "try:\n    import av.audio\nexcept ImportError:\n    av = None",
     "class A:\n    from transformers import AutoModel"],
)  # fmt: skip
def test_an_extra_at_the_top_is_found(code):
    assert not INSIDE_FUNCTIONS.isdisjoint(outer_imports(ast.parse(code)))


def test_an_extra_in_a_function_is_not_found():
    code = "def f():\n    import av\nif TYPE_CHECKING:\n    import av"
    assert INSIDE_FUNCTIONS.isdisjoint(outer_imports(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "np.random.rand(3)", "np.random.seed(0)", "random.shuffle(x)", "torch.manual_seed(0)",
        "draw = random.random", "from random import shuffle", "torch.randn(3)",
        "torch.load(path)", "model.load_state_dict(x, strict=False)",
        "np.load(path, allow_pickle=True)", "warnings.filterwarnings('ignore')",
        "warnings.filterwarnings(action='ignore')", "warnings.simplefilter('ignore')",
    ],
)  # fmt: skip
def test_a_bad_habit_is_found(code):
    assert len(habits("data.new", ast.parse(code))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "np.random.default_rng(0)", "x: np.random.Generator", "torch.randn(3, generator=g)",
        "random.Random(3).random()", "zip(a, b, strict=False)", "np.load(path, allow_pickle=False)",
        "warnings.filterwarnings('ignore', message='x', category=UserWarning)",
    ],
)  # fmt: skip
def test_a_good_habit_is_not_found(code):
    assert habits("data.new", ast.parse(code)) == []
