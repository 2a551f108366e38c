"""Mutation testing of metrics and losses: small faults put into the code one at a time, and whether
the module's own tests notice.

    python -m benchmarks.mutants                             # 30 faults in each module: an hour
    python -m benchmarks.mutants --quick                     # 6 in each
    python -m benchmarks.mutants --only eval.ranks --all     # every fault of one, and who survived

A fault changes one node inside a function: a comparison, a sign, an operator, a number, a truth
value, a condition. Texts of errors, annotations, defaults and docstrings are left alone. Only the
mirrored tests judge: echoic/eval/ranks.py by tests/eval/test_ranks.py, or those of TESTS below.

Ours and not mutmut 3: that one copies the tree, runs all of a suite first, and puts a trampoline
around each function, which torch.autograd.Function and inspect see. Here a process that has loaded
everything is forked for each fault, and the fault takes the place of the function's code.

killed: share of the faults that a test noticed, by name. A fault that changes nothing that can be
seen (an equivalent one) survives too, so 1.0 is no goal; each survivor is printed to be judged.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import inspect
import json
import os
import random
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.output import finish, show

ROOT = Path(__file__).resolve().parents[1]
EVAL = (
    "ranks", "retrieval", "tagging", "psds", "events", "bootstrap", "comparison", "caption_words",
    "captioning", "calibration", "zeroshot", "order", "space",
)  # fmt: skip
OBJECTIVES = (
    "contrastive", "chunked", "ring", "masked_duo", "self_distillation", "captioning", "sigmoid",
    "prototypes", "assignment", "tagging", "four_term", "monitors",
)  # fmt: skip
MODULES = (*(f"eval.{name}" for name in EVAL), *(f"objectives.{name}" for name in OBJECTIVES))
TESTS = {  # where it is not the mirrored file, or not that alone
    "eval.ranks": ("eval/test_retrieval.py", "eval/test_zeroshot.py"),
    "eval.caption_words": ("eval/test_caption_words.py", "eval/test_captioning.py"),
    "objectives.assignment": ("objectives/test_prototypes.py",),
    "objectives.contrastive": ("objectives/test_contrastive.py", "objectives/test_chunked.py"),
    "objectives.sigmoid": ("objectives/test_sigmoid.py", "objectives/test_chunked.py"),
    "objectives.chunked": ("objectives/test_chunked.py", "objectives/test_ring.py"),
}
SLOWER, LEAST_S = 10, 20.0  # a fault whose tests take so many times longer hangs

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Mod: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


class Fault(NamedTuple):
    """code: that of the whole module."""

    line: int
    was: str
    now: str
    code: types.CodeType


# -- faults --------------------------------------------------------------------------------------


def walked(node: ast.AST, inside: bool = False) -> Iterator[ast.AST]:
    """The nodes that may be changed: in bodies of functions, in an order that stays."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.arguments):
        return
    if inside:
        yield node
    function = isinstance(node, ast.FunctionDef)
    for name, value in ast.iter_fields(node):
        if name in ("decorator_list", "returns", "annotation", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from walked(child, inside or (function and name == "body"))


def changed(node: ast.AST) -> list[ast.AST]:
    """What it may be turned into."""
    other = copy.copy(node)
    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARED:
            other.ops = [COMPARED[type(op)]()]  # type: ignore[attr-defined]
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in COMPUTED:
            other.op = COMPUTED[type(op)]()  # type: ignore[attr-defined]
        case ast.BoolOp(op=op):
            other.op = ast.Or() if isinstance(op, ast.And) else ast.And()  # type: ignore[attr-defined]
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            return [] if isinstance(operand, ast.Constant) else [operand]  # dim=-1: of 2, as dim=1
        case ast.IfExp(test=test) | ast.If(test=test) | ast.While(test=test):
            if isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp):
                return []  # changed by itself
            other.test = ast.UnaryOp(ast.Not(), test)  # type: ignore[attr-defined]
        case ast.Constant(value=bool(value)):
            other.value = not value  # type: ignore[attr-defined]
        case ast.Constant(value=int(value)):
            other.value = value + 1  # type: ignore[attr-defined]
        case ast.Constant(value=float(value)):
            other.value = 2 * value + 1  # type: ignore[attr-defined]
        case _:
            return []
    return [other]


def faults(source: str, name: str) -> list[Fault]:
    """Every fault of a module."""
    tree = ast.parse(source)
    found = []
    parents = {child: p for p in ast.walk(tree) for child in ast.iter_child_nodes(p)}
    for node in list(walked(tree)):
        for other in changed(node):
            put(parents[node], node, other)
            with contextlib.suppress(SyntaxError):
                code = compile(ast.fix_missing_locations(tree), name, "exec", dont_inherit=True)
                found.append(Fault(node.lineno, shown(node), shown(other), code))  # type: ignore[attr-defined]
            put(parents[node], other, node)
    return found


def shown(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0][:70]


def put(parent: ast.AST, old: ast.AST, new: ast.AST) -> None:
    ast.copy_location(new, old)
    for name, value in ast.iter_fields(parent):
        if value is old:
            setattr(parent, name, new)
        elif isinstance(value, list) and any(each is old for each in value):
            setattr(parent, name, [new if each is old else each for each in value])


# -- putting one in ------------------------------------------------------------------------------


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Of functions, by name: those in the module and in its classes."""
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield each
            yield from codes(each)


def functions(module: types.ModuleType) -> Iterator[types.FunctionType]:
    """Of a module and its classes, through what wraps them."""
    for value in vars(module).values():
        if inspect.isclass(value) and value.__module__ == module.__name__:
            for method in vars(value).values():
                yield from unwrapped(method)
        elif getattr(value, "__module__", None) == module.__name__:
            yield from unwrapped(value)


def unwrapped(value: Any) -> Iterator[types.FunctionType]:
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, cached_property):
        value = value.func
    for inner in (value.fget, value.fset) if isinstance(value, property) else (value,):
        while inner is not None and hasattr(inner, "__wrapped__"):
            inner = inner.__wrapped__
        if isinstance(inner, types.FunctionType):
            yield inner


def infect(module: types.ModuleType, fault: Fault) -> bool:
    """Give the function that holds the fault the faulty code; whether it was found."""
    faulty = {(each.co_qualname, each.co_firstlineno): each for each in codes(fault.code)}
    for function in functions(module):
        mine = function.__code__
        other = faulty.get((mine.co_qualname, mine.co_firstlineno))
        if other is None or not _holds(mine, fault.line):
            continue
        if len(other.co_freevars) == len(mine.co_freevars):
            function.__code__ = other
            return True
    return False


def _holds(code: types.CodeType, line: int) -> bool:
    """Whether that line, or one of a function in it, is of the code."""
    lines = [number for *_, number in code.co_lines() if number is not None]
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return min(lines) <= line <= max(lines) or any(_holds(each, line) for each in inner)


# -- judging -------------------------------------------------------------------------------------


def tests_of(module: str) -> list[str]:
    package, _, name = module.partition(".")
    files = TESTS.get(module, (f"{package}/test_{name}.py",))
    return [str(ROOT / "tests" / file) for file in files]


def judged(module: str, fault: Fault | None, within_s: float) -> int:
    """pytest's exit code in a fork with the fault in place: 0, survived; 1, killed; 9, hung; 7, the
    fault could not be put in."""
    child = os.fork()
    if not child:
        code = 8
        try:
            os.setsid()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            code = in_child(module, fault)
        finally:
            os._exit(code)
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 9


def in_child(module: str, fault: Fault | None) -> int:
    import pytest
    import torch.multiprocessing as processes

    # what is spawned would load the module without its fault
    vars(processes)["spawn"] = partial(_forked, vars(processes)["start_processes"])
    there = importlib.import_module(f"echoic.{module}")
    if fault is not None and not infect(there, fault):
        return 7
    scratch = tempfile.mkdtemp(dir=os.environ["MUTANTS_SCRATCH"])
    options = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-m",
        "not slow",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]  # it is loaded already
    return int(pytest.main([*options, "--basetemp", scratch, *tests_of(module)]))


def _forked(start: Callable[..., Any], work: Any, args: Any = (), nprocs: int = 1) -> Any:
    return start(work, args, nprocs, start_method="fork")


def load(modules: list[str]) -> None:
    """What every fork would load otherwise: the package, the tests' tools, no test."""
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    for name in ("cli", "api", "evaluate", "pretrain", *modules):
        importlib.import_module(f"echoic.{name}")


def examine(module: str, count: int | None, seed: int) -> dict[str, Any]:
    """Faults of a module, those drawn, and what became of them. Raises RuntimeError where its tests
    fail without any."""
    path = ROOT / "echoic" / f"{module.replace('.', '/')}.py"
    every = faults(path.read_text("utf-8"), str(path))
    draw = random.Random(f"{seed} {module}")
    some = every if count is None or count >= len(every) else draw.sample(every, count)
    started = time.monotonic()
    if code := judged(module, None, 600):
        raise RuntimeError(f"{module}: its tests fail without a fault (pytest's code {code})")
    within_s = max(LEAST_S, SLOWER * (time.monotonic() - started))
    tried = killed = 0
    survivors = []
    for fault in sorted(some, key=lambda each: each.line):
        code = judged(module, fault, within_s)
        if code == 7:
            continue
        tried += 1
        killed += code != 0
        if code == 0:
            survivors.append(f"{path.relative_to(ROOT)}:{fault.line}: {fault.was} -> {fault.now}")
    return {"faults": len(every), "tried": tried, "killed": killed, "survivors": survivors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--all", action="store_true", help="every fault, not a draw")
    parser.add_argument("--count", type=int, help="faults of each module")
    parser.add_argument("--only", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":  # is read when NumPy is loaded
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "OMP_NUM_THREADS": "1"})
    count = None if given.all else given.count or (6 if given.quick else 30)
    load(given.only)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MUTANTS_SCRATCH"] = scratch
        for module in given.only:
            started = time.monotonic()
            found[module] = each = examine(module, count, given.seed)
            took_s = time.monotonic() - started
            counts = json.dumps({k: v for k, v in each.items() if k != "survivors"})
            print(f"{module}: {counts}, {took_s:.0f} s", file=sys.stderr)
            print(*each["survivors"], sep="\n", file=sys.stderr, flush=True)
    rows = [
        (name, each["faults"], each["tried"], each["killed"], each["killed"] / each["tried"])
        for name, each in found.items()
    ]
    show("Faults that the tests notice", ("module", "faults", "tried", "killed", "share"), rows)
    finish({"killed": {name: round(share, 3) for name, *_, share in rows},
            "share": sum(row[3] for row in rows) / sum(row[2] for row in rows)})  # fmt: skip


if __name__ == "__main__":
    main()
