"""Overrides, YAML and fingerprints; every mistake is one line with its dotted path."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from echoic.config import Spec
from echoic.recipes import find_recipe
from echoic.types import ConfigError


class Inner(Spec):
    lr: float = 1e-3
    steps: int = 10
    betas: tuple[float, float] = (0.9, 0.99)


class Whole(Spec):
    name: str = "whole"
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = (Inner(), Inner(steps=20))
    mode: Literal["slow", "Fast"] = "slow"
    limit: float | None = None
    free: dict[str, float] = Field(default_factory=dict)


def message(*assignments: str, spec: Spec | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        (spec or Whole()).override(assignments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_override_changes_what_is_named_and_nothing_else():
    spec = Whole()
    changed = spec.override(["inner.steps=3", "inner.betas.1=0.5", "parts.1.lr=0.25", "name=other"])
    assert changed.inner == Inner(steps=3, betas=(0.9, 0.5))
    assert changed.parts == (Inner(), Inner(steps=20, lr=0.25))
    assert changed.name == "other"
    assert spec == Whole()
    assert spec.override([]) == spec


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.1e-3", ".1e-3", "1.e-4", "+1e-4"])
def test_exponents_are_numbers(text):
    assert Whole().override([f"inner.lr={text}"]).inner.lr == pytest.approx(1e-4)
    assert Whole().override([f"free={{a: {text}}}"]).free == {"a": pytest.approx(1e-4)}


def test_exponents_are_numbers_where_any_value_may_stand():
    """A config of transformers is a free mapping: no type there turns a string into a number."""
    spec = find_recipe("slap:base").override(["model.text.config={layer_norm_eps: 1e-5}"])
    assert spec.model.text.config == {"layer_norm_eps": 1e-5}


def test_override_reads_yaml():
    changed = Whole().override(
        ["inner.betas=[0.1, 0.2]", "limit=3", "mode=Fast", "inner.steps=1e2"]
    )
    assert changed.inner.betas == (0.1, 0.2)
    assert (changed.limit, changed.mode, changed.inner.steps) == (3.0, "Fast", 100)
    assert changed.override(["limit=null"]).limit is None
    assert changed.override(["name=a=b", "name=x"]).name == "x"
    assert changed.override(["name="]).name == ""


@pytest.mark.parametrize(
    ("assignment", "wanted"),
    [
        ("inner.stesp=3", "override inner.stesp: inner has no 'stesp'; did you mean 'steps'?"),
        ("iner.steps=3", "the configuration has no 'iner'; did you mean 'inner'?"),
        ("zzz=3", "it has name, inner, parts, mode, limit, free"),
        ("free.a=3", "free has no 'a'; it has nothing"),
        ("inner.lr.x=3", "inner.lr has no part 'x'"),
        ("parts.7.lr=3", "parts has no part '7'"),
        ("inner.steps", "'inner.steps': an override reads key.sub=value"),
        ("inner.lr=fast", "inner.lr: input should be a valid number"),
        ("inner.lr=fast", "not 'fast'"),
        ("inner.steps=1.5", "inner.steps: input should be a valid integer"),
        (f"inner.steps={2**63}", f"inner.steps: too large a number, not {2**63}"),
        (f"inner.steps={-(2**63) - 1}", "inner.steps: too large a number"),
        (f"inner.steps=0x{'f' * 9000}", "inner.steps: "),  # Python does not print it
        (f"inner.lr=0x{'f' * 9000}", "inner.lr: "),
        ("mode=fast", "mode: input should be 'slow' or 'Fast', not 'fast'"),
        ("inner=3", "inner: input should be a valid dictionary"),
        ("inner.betas=[1, 2, 3]", "inner.betas: tuple should have at most 2 items"),
        ("inner.betas=[1, x]", "inner.betas.1: input should be a valid number"),
        ("inner={a: 3}", "inner.a: no such key"),
        ("inner.betas=[0.9", "'inner.betas=[0.9': its value is not YAML"),
    ],
)
def test_a_wrong_override_is_one_line_with_its_path(assignment, wanted):
    assert wanted in message(assignment)


def test_paths_do_not_name_members_of_a_union():
    """pydantic puts the chosen kind into the path; a user must not write it."""
    nano = find_recipe("nano")
    assert "override: model.text.depth: " in message("model.text.depth=x", spec=nano)
    assert "model.text.vocab: field required" in message("model.text={kind: small}", spec=nano)


def test_all_mistakes_are_told_at_once():
    told = message("inner.lr=x", "inner.steps=y")
    assert "inner.lr: " in told
    assert "inner.steps: " in told


@given(
    lr=st.floats(allow_nan=False, allow_infinity=False),
    steps=st.integers(-(2**63), 2**63 - 1),
    name=st.text(),
)
def test_yaml_round_trip(tmp_path_factory, lr, steps, name):
    spec = Whole(name=name, inner=Inner(lr=lr, steps=steps), free={"a": lr}, limit=lr)
    file = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    file.write_text(spec.to_yaml(), "utf-8")
    again = Whole.from_yaml(file)
    assert again == spec
    assert again.fingerprint() == spec.fingerprint()


@pytest.mark.parametrize("name", ["nano", "slap:small", "slap:base"])
def test_recipes_survive_yaml(tmp_path, name):
    recipe = find_recipe(name)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), "utf-8")
    assert type(recipe).from_yaml(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"inner: [1", "cannot be read as YAML"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        (b"", "input should be a valid dictionary"),
        (b"- 1", "input should be a valid dictionary"),
        (b"inner: {steps: x}", "inner.steps: input should be a valid integer"),
        (b"iner: 3", "iner: no such key"),
        (b"a: !!python/object:os.system {}", "cannot be read as YAML"),
        (b"#" * (2**18 + 1), "too long for a configuration"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, text, wanted):
    file = tmp_path / "spec.yaml"
    file.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        Whole.from_yaml(file)
    assert str(file) in str(caught.value)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        Whole.from_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "change",
    ["name=b", "inner.lr=2", "inner.betas.0=0.8", "parts.0.steps=11", "mode=Fast", "limit=0",
     "free={a: 1}", "parts=[]"],
)  # fmt: skip
def test_any_value_changes_the_fingerprint(change):
    spec = Whole()
    assert len(spec.fingerprint()) == 12
    assert spec.fingerprint() == Whole().fingerprint()
    assert spec.override([change]).fingerprint() != spec.fingerprint()


def test_specs_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        Whole().name = "other"


@pytest.mark.parametrize("name", ["0E0", "1e5", "1e5x", "1e-4 and more", "-.5e3"])
def test_a_string_that_looks_like_a_number_stays_one(name, tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_text(Whole(name=name).to_yaml(), "utf-8")
    assert Whole.from_yaml(file).name == name


def test_an_override_may_begin_like_a_number():
    assert Whole().override(["name=1e5x"]).name == "1e5x"
