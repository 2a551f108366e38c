"""A task by fine-tuning: its figure is that of runs made by hand, and no run is made twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from echoic.convert.native import read_tensors
from echoic.data.tasks import TASKS, open_task
from echoic.eval.bootstrap import Bootstrap
from echoic.finetune import (
    M2D_SEEDS,
    Splits,
    find_preset,
    finetune,
    finetune_task,
    load_classifier,
    plan_task,
)
from echoic.finetune.of_task import Kept
from echoic.types import CheckpointError, ConfigError, DataError
from tests import task_trees, tiny
from tests.finetune import m2d_tiny

BOOT = Bootstrap(seed=0, resamples=50)
QUICK = ("epochs=2", "batch_clips=6", "lr=3e-3", "warmup_epochs=0", "precision=fp32")


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    def make(name):
        folder = tmp_path_factory.mktemp(name)
        task_trees.TREES[name](folder)
        return open_task(name, folder)

    return make


@pytest.fixture(scope="module")
def esc50(opened):
    return opened("esc50")


def by_hand(model, task, fold, seed, folder, *changes):
    """The same settings, by `finetune` on the splits of the task."""
    clip_s = task.spec.clip_s
    own = [f"per_clip={task.spec.per_clip}", f"clip_s={clip_s}", f"seed={seed}"]
    spec = find_preset("finetune").override([*QUICK, *own, *changes])
    splits = Splits(**task.splits(fold, seed=seed))
    return finetune(model, splits, folder, spec, labels=task.labels)


def run(model, task, folder, **options):
    given = {"preset": "finetune", "overrides": QUICK, "bootstrap": BOOT, **options}
    return finetune_task(model, task, folder, **given)


def test_the_figures_are_those_of_runs_by_hand(model, esc50, tmp_path):
    found = run(model, esc50, tmp_path / "a", folds=("2", "5"), seeds=(0, 1))
    hand = {
        (fold, seed): by_hand(model, esc50, fold, seed, tmp_path / f"{fold}{seed}")
        for fold in ("2", "5")
        for seed in (0, 1)
    }
    accuracy = {key: done.metrics["test"]["accuracy"] for key, done in hand.items()}
    assert found.value == pytest.approx(np.mean(list(accuracy.values())))
    for seed in (0, 1):
        mean = (accuracy["2", seed] + accuracy["5", seed]) / 2
        assert found.by_seed[seed] == pytest.approx(mean)
    for fold in ("2", "5"):
        mean = (accuracy[fold, 0] + accuracy[fold, 1]) / 2
        assert found.by_fold[fold] == pytest.approx(mean)
        for seed in (0, 1):
            tensors = read_tensors(tmp_path / "a" / f"{fold}-{seed}/judged.safetensors")[1]
            assert torch.equal(tensors["scores"], hand[fold, seed].judged.scores)
    assert (found.protocol, found.clips, found.metric) == ("finetune", 8, "accuracy")
    assert {each.protocol for each in found.published} == {"finetune"}
    assert found.published
    folds = [key.removeprefix("audio/")[0] for key in found.answers.keys]
    assert folds == ["2"] * 4 + ["5"] * 4
    assert found.calibration is not None
    assert json.loads((tmp_path / "a/result.json").read_text()) == found.to_json()
    assert load_classifier(tmp_path / "a/2-0").labels == ("dog", "sea waves")


def test_the_validation_part_is_drawn_from_the_training_folds(model, esc50, tmp_path, monkeypatch):
    seen = []

    def spy(model, splits, *rest, **options):
        seen.append({k: {c.key for c in s.clips} for k, s in splits.named().items()})
        return finetune(model, splits, *rest, **options)

    monkeypatch.setattr("echoic.finetune.of_task.finetune", spy)
    run(model, esc50, tmp_path, folds=("3",), seeds=(7,))
    (parts,) = seen
    assert {name: len(keys) for name, keys in parts.items()} == {"train": 14, "valid": 2, "test": 4}
    assert all(key.startswith("audio/3-") for key in parts["test"])
    assert not parts["train"] & parts["valid"]
    assert not any(key.startswith("audio/3-") for key in parts["train"] | parts["valid"])


def test_what_is_done_is_not_run_again(model, esc50, tmp_path, monkeypatch):
    first = run(model, esc50, tmp_path, folds=("1",), seeds=(0,))
    assert not (tmp_path / "1-0/checkpoints").exists()
    assert not (tmp_path / "1-0/best.safetensors").exists()
    made = []

    def spy(*arguments, **options):
        made.append(arguments[2].name)
        return finetune(*arguments, **options)

    monkeypatch.setattr("echoic.finetune.of_task.finetune", spy)
    again = run(model, esc50, tmp_path, folds=("1",), seeds=(0,))
    assert made == []
    assert again == first
    more = run(model, esc50, tmp_path, folds=("1", "2"), seeds=(0,))
    assert made == ["2-0"]
    assert more.by_fold["1"] == first.by_fold["1"]
    figures = tmp_path / "result.json"
    figures.unlink()
    figures.mkdir()
    with pytest.raises(DataError, match=r"result\.json: cannot be written"):
        run(model, esc50, tmp_path, folds=("1",), seeds=(0,))


@pytest.mark.parametrize("preset", ["finetune", "linear"])
def test_a_killed_run_ends_as_one_that_was_not(model, esc50, tmp_path, monkeypatch, preset):
    options = {"preset": preset, "folds": ("1", "2"), "seeds": (0,)}
    whole = run(model, esc50, tmp_path / "whole", **options)
    real, calls = finetune.__globals__["_judged"], iter(range(100))

    def judged(*arguments):
        if next(calls) == 4 + 2 * (preset == "linear"):  # in the second run, its first epoch
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr("echoic.finetune.run._judged", judged)
    with pytest.raises(KeyboardInterrupt):
        run(model, esc50, tmp_path / "cut", **options)
    assert (tmp_path / "cut/1-0/judged.safetensors").exists()
    assert not (tmp_path / "cut/2-0/judged.safetensors").exists()
    found = run(model, esc50, tmp_path / "cut", **options)
    assert found == whole
    for fold in ("1", "2"):
        scores = [
            read_tensors(tmp_path / name / f"{fold}-0/judged.safetensors")[1]["scores"]
            for name in ("whole", "cut")
        ]
        assert torch.equal(*scores)


def test_ctrl_c_stops_and_is_gone_on_with(model, esc50, tmp_path, monkeypatch):
    real = finetune.__globals__["train"]

    def stopped(*arguments, **options):
        class Asked:
            asked = True

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

        with monkeypatch.context() as patch:
            patch.setattr("echoic.train.loop.StopRequest", Asked)
            return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("echoic.finetune.run.train", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(model, esc50, tmp_path / "cut", folds=("1",), seeds=(0,))
    assert (tmp_path / "cut/1-0/checkpoints").is_dir()
    whole = run(model, esc50, tmp_path / "whole", folds=("1",), seeds=(0,))
    assert run(model, esc50, tmp_path / "cut", folds=("1",), seeds=(0,)) == whole


def test_other_settings_weights_or_clips_are_refused(model, esc50, opened, tmp_path):
    options = {"folds": ("1",), "seeds": (0,)}
    run(model, esc50, tmp_path, **options)
    with pytest.raises(ConfigError, match=r"1-0: .*finetune\.lr \(was 0\.003, is 0\.1\)"):
        run(model, esc50, tmp_path, overrides=(*QUICK, "lr=0.1"), **options)
    with pytest.raises(ConfigError, match="space_id"):
        run(tiny.model(seed=1), esc50, tmp_path, **options)
    folder = tmp_path / "more"
    task_trees.esc50(folder, per_class=3)
    with pytest.raises(ConfigError, match=r"clips\.test \(was 4 clips, .*, is 6 clips, "):
        run(model, open_task("esc50", folder), tmp_path, **options)
    (tmp_path / "1-0/judged.safetensors").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"judged\.safetensors: not a whole"):
        run(model, esc50, tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "valid"), [("fsd50k", "The data's own validation part"), ("as20k", "A tenth of the")]
)
def test_many_labels_by_map_with_all_the_tasks_classes(model, opened, tmp_path, name, valid):
    """Of AudioSet's tree no clip has the label Music."""
    task = opened(name)
    found = run(model, task, tmp_path / "a", seeds=(0,))
    hand = by_hand(model, task, None, 0, tmp_path / "b")
    assert found.value == pytest.approx(hand.metrics["test"]["mAP"])
    assert (found.metric, found.chance) == ("mAP", None)
    assert list(found.per_class) == list(task.labels.names)
    bare = [label for label, value in found.per_class.items() if np.isnan(value)]
    assert bare == {"fsd50k": ["Electric guitar"], "as20k": ["Music"]}[name]
    card = json.loads((tmp_path / "a/test-0/result.json").read_text())
    assert (card["labels_per_clip"], card["chosen_by"]) == ("many", "mAP")
    assert valid in found.words[0]


def test_clips_that_cannot_be_heard_are_named_and_not_judged(model, tmp_path):
    task_trees.esc50(tmp_path / "data", per_class=3)
    (tmp_path / "data/audio/1-0-A-1.wav").write_bytes(b"no sound")
    task = open_task("esc50", tmp_path / "data")
    found = run(model, task, tmp_path / "a", folds=("1",), seeds=(0,))
    assert list(found.bad) == ["audio/1-0-A-1.wav"]
    assert found.clips == 5


def test_the_protocol_is_told(esc50, tmp_path):
    changes = ("epochs=1", "warmup_epochs=0", "batch_clips=6", "clip_s=0.3")
    found = finetune_task(
        m2d_tiny.model(), esc50, tmp_path, folds=("1",), seeds=(43,), overrides=changes,
        bootstrap=BOOT,
    )  # fmt: skip
    how, length, parts, _ = found.words
    assert "preset m2d_esc50 (M2D's settings), changed: epochs=1 warmup_epochs=0" in how
    assert "normed_linear head, sgd at 0.5, 6 clips a step, 1 epoch." in how
    assert "A tenth of the training part, drawn by the seed, chooses the epoch, by accuracy" in how
    assert how.endswith("Chosen: epoch 1.")
    assert length.startswith("Each clip is cut, or padded with zeros, to 0.3 s: a random part")
    assert parts.startswith("Parts: fold 1 of 5 judges. Seed 43. Differs")
    assert "M2D lets the test part choose the epoch" in parts
    assert "its seeds are 43, 44, 45" in parts
    assert "the task's clips are 5 s" in parts


def test_a_frozen_encoder_is_a_probe(model, esc50, tmp_path):
    found = run(model, esc50, tmp_path, preset="linear", folds=("1",), seeds=(0,))
    assert (found.protocol, found.published) == ("probe", ())
    assert found.words[0].startswith("A probe of the frozen encoder: preset linear (ours)")
    assert found.words[1] == "Each clip is cut, or padded with zeros, to 5 s."


def test_presets_and_seeds_by_default(model, esc50):
    plan = plan_task(m2d_tiny.model(), esc50)
    assert (plan.preset, plan.seeds, plan.folds) == ("m2d_esc50", M2D_SEEDS, esc50.folds)
    assert (plan.spec.clip_s, plan.spec.per_clip) == (TASKS["esc50"].clip_s, "one")
    assert plan.seeded(45) == plan.spec.model_copy(update={"seed": 45})
    plan = plan_task(model, esc50)
    assert (plan.preset, plan.seeds) == ("slap_esc50", (0,))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"folds": ("1", "9")}, "no fold '9'; there are 1, 2, 3, 4, 5"),
        ({"preset": "m2d_esc"}, "did you mean m2d_esc50"),
        ({"overrides": ("epohcs=3",)}, "did you mean 'epochs'"),
        ({"overrides": ("seed=3",)}, "seeds of a task are given by seeds"),
        ({"overrides": ("per_clip=many",)}, "esc50 has one of its labels per clip"),
        ({"seeds": ()}, "no seed is asked for"),
        ({"preset": "m2d_esc50"}, "add m2d=null"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(model, esc50, tmp_path, options, line):
    with pytest.raises((ConfigError, DataError)) as caught:
        finetune_task(model, esc50, tmp_path / "run", **options)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


class Counted:
    """Three clips of 100, 100 and 60 samples; reads are counted."""

    clips = ("a", "b", "c")

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        self.reads.append((i, rate_hz))
        return np.full(60 if i == 2 else 100, i, np.float32)


def test_sound_is_kept_as_far_as_there_is_room():
    source = Counted()
    kept = Kept(source, 4 * 160)
    for _ in range(2):
        assert [len(kept.read(i, 8000)) for i in range(3)] == [100, 100, 60]
    assert source.reads == [(0, 8000), (1, 8000), (2, 8000), (1, 8000)]
    kept.read(0, 16_000)
    assert source.reads[-1] == (0, 16_000)


def test_nothing_of_the_model_changes(model, esc50, tmp_path: Path):
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    run(model, esc50, tmp_path, folds=("1",), seeds=(0,))
    assert all(torch.equal(before[k], v) for k, v in model.network.state_dict().items())
