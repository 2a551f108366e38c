"""`echoic compare A B`."""

from __future__ import annotations

import json

import pytest

from echoic.data.tasks import open_task
from echoic.eval.linear import LinearSettings
from echoic.eval.outcomes import write_result
from echoic.tasks import linear, zero_shot
from tests import task_trees, tiny

pytestmark = pytest.mark.usefixtures("elsewhere")
QUICK = LinearSettings(epochs=2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Results of two models on a task, and of one asked by sentences."""
    folder = tmp_path_factory.mktemp("saved")
    task_trees.esc50(folder / "esc50")
    task, models = open_task("esc50", folder / "esc50"), [tiny.model(), tiny.model(seed=1)]
    for name, model in zip("ab", models, strict=True):
        write_result(folder / f"{name}.json", linear(model, task, settings=QUICK))
        write_result(folder / f"{name}0.json", zero_shot(model, task))
    write_result(folder / "seed.json", linear(models[0], task, settings=QUICK, seeds=[1]))
    return folder


def test_two_models_side_by_side(saved, run, documented):
    code, out, err = run("compare", saved / "a.json", saved / "b.json")
    assert (code, err) == (0, "")
    assert "A less B" in out
    assert "linear/accuracy" in out
    document = documented("compare", saved / "a.json", saved / "b.json")
    (figure,) = document["figures"]
    measured = json.loads((saved / "a.json").read_text())["metrics"]["linear/accuracy"]["value"]
    assert figure["a"] == pytest.approx(measured)
    assert (figure["clips"], figure["figure"]) == (20, "linear/accuracy")
    assert 0 < figure["p"] <= 1
    assert document["a"]["model"]["space_id"] != document["b"]["model"]["space_id"]


def test_a_model_does_not_differ_from_itself(saved, documented):
    (figure,) = documented("compare", saved / "a0.json", saved / "a0.json")["figures"]
    assert (figure["difference"], figure["p"], figure["test"]) == (0.0, 1.0, "McNemar, exact")


@pytest.mark.parametrize(
    ("a", "b", "line"),
    [
        ("a.json", "a0.json", "no figure was measured in both: "),
        ("a.json", "seed.json", "measured in different ways: A: Mean over folds, then over seeds"),
        ("a.json", "none.json", "none.json: cannot be read (No such file or directory)"),
        ("a.json", "esc50/meta/esc50.csv", "esc50.csv: not JSON"),
        ("a.json", "figures.json", "no outcomes of clips to compare by; measure again with"),
    ],
)
def test_mistakes_are_told_in_one_line(a, b, line, saved, run):
    document = json.loads((saved / "b.json").read_text())
    document.pop("outcomes")  # as `--json` prints it
    (saved / "figures.json").write_text(json.dumps(document))
    code, out, err = run("compare", saved / a, saved / b)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert line in err
    assert len(err.splitlines()) == 1


def test_other_ways_are_compared_where_asked(saved, run):
    code, out, err = run("compare", saved / "a.json", saved / "seed.json", "--any-protocol")
    assert (code, err) == (0, "")
    assert "over seeds 42, 43, 44" in out
    assert "seed 1" in out
