"""`echoic finetune`: splits as a person has them, its result, one line for each mistake."""

from __future__ import annotations

import json

import pytest

import echoic
from echoic.cli import main
from echoic.convert.native import ModelFile, save_model
from echoic.finetune import load_classifier
from echoic.model import build
from tests import on_disk, task_trees
from tests.finetune import m2d_tiny

QUICK = ("--preset", "linear", "epochs=3", "batch_clips=4")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, and a table of tones with a label and a fold each."""
    folder = tmp_path_factory.mktemp("finetune")
    on_disk.save_tiny_model(folder / "model.safetensors")
    files = on_disk.write_tones(folder, 12)
    rows = [f"{f.name},{'low' if i < 6 else 'high'},{i % 3 + 1}" for i, f in enumerate(files)]
    (folder / "all.csv").write_text("\n".join(["file,label,fold", *rows]) + "\n")
    for name, part in (("train", rows[::2]), ("other", rows[1::2])):
        (folder / f"{name}.csv").write_text("\n".join(["file,label,fold", *part]) + "\n")
    tagged = [row.replace("low", "low;deep") for row in rows]
    (folder / "tags.csv").write_text("\n".join(["file,sounds,fold", *tagged]) + "\n")
    return folder


@pytest.fixture
def run(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("echoic.cli.common.available_cpus", lambda: 1)

    def call(data, *arguments):
        words = ["finetune", place / "model.safetensors", "--data", place / data]
        code = main([str(a) for a in (*words, "--out", tmp_path / "run", *arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_folds_of_a_table(run, place, tmp_path):
    folds = ("--fold-column", "fold", "--valid-fold", 2, "--test-fold", 3)
    code, out, err = run("all.csv", *QUICK, *folds, "--json")
    assert code == 0, err
    assert "4 train, 4 valid, 4 test" in err
    found = json.loads(out)
    assert set(found["metrics"]) == {"train", "valid", "test"}
    assert (found["classes"], found["labels_per_clip"]) == (2, "one")
    made = load_classifier(found["classifier"], echoic.load(place / "model.safetensors"))
    assert made.probabilities([place / "tone0.wav"]).shape == (1, 2)
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == found


def test_files_of_their_own_and_a_table_for_people(run, place):
    code, out, err = run("train.csv", *QUICK, "--valid", place / "other.csv", "--head", "mlp")
    assert code == 0, err
    assert "mlp head" in err
    lines = out.splitlines()
    assert lines[0].split() == ["split", "accuracy", "top5", "mean_class_accuracy", "mAP"]
    assert [line.split()[0] for line in lines[1:3]] == ["train", "valid"]
    assert lines[3].startswith("classifier: ")


def test_a_share_is_held_out_and_tags_are_enough(run):
    code, out, err = run("tags.csv", *QUICK, "--tag-column", "sounds", "--json")
    assert code == 0, err
    assert json.loads(out)["labels_per_clip"] == "many"


def test_the_encoder_can_be_trained_too(run):
    code, out, err = run("all.csv", "--tune", "epochs=1", "--seed", 4, "--json")
    assert code == 0, err
    assert "encoder trained too, 1 epoch\n" in err
    assert "encoder trained too" in err
    assert set(json.loads(out)["metrics"]) == {"valid"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--fold-column", "fold"], "--fold-column goes with"),
        (["--valid-fold", "2"], "--fold-column goes with"),
        (["--fold-column", "fold", "--valid-fold", "9"], "no clip is left for validation"),
        (["--preset", "linaer"], "did you mean linear"),
        (["epohcs=3"], "did you mean 'epochs'"),
        (["--valid-share", "0"], "holds none out"),
    ],
)
def test_mistakes_are_told_in_one_line(run, arguments, line):
    code, out, err = run("all.csv", *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert line in err


def test_an_m2d_by_its_preset(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("echoic.cli.common.available_cpus", lambda: 1)
    save_model(place / "m2d.safetensors", ModelFile(build(m2d_tiny.spec(), seed=0)))
    words = ["finetune", place / "m2d.safetensors", "--data", place / "all.csv"]
    words += ["--preset", "m2d_esc50", "--out", tmp_path / "run", "--seed", 44, "--json"]
    code = main([str(word) for word in (*words, "epochs=1", "warmup_epochs=0", "batch_clips=6")])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert "normed_linear head" in err
    opened = echoic.load(json.loads(out)["model"])
    assert (opened.network.spec.audio.frames, opened.network.spec.audio.classes) == (501, 2)


def test_an_m2d_preset_on_another_model_is_one_line(run):
    code, out, err = run("all.csv", "--preset", "m2d_esc50")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert "add m2d=null" in err


@pytest.fixture
def of_task(place, tmp_path, capsys, monkeypatch):
    """The command on a small ESC-50."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("echoic.cli.common.available_cpus", lambda: 1)
    task_trees.esc50(tmp_path / "esc")

    def call(*arguments, name="esc50"):
        words = ["finetune", place / "model.safetensors", "--task", name]
        words += ["--data", tmp_path / "esc", "--out", tmp_path / "run"]
        code = main([str(a) for a in (*words, *arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_a_task_by_its_name(of_task, tmp_path):
    asked = ("--preset", "finetune", "--folds", "1, 2", "--seeds", "0,1", "epochs=1")
    code, out, err = of_task(*asked, "--json")
    assert code == 0, err
    assert "ESC-50, preset finetune: mlp head, encoder trained too, 1 epoch\n" in err
    assert f"2 folds x 2 seeds: 4 runs in {tmp_path / 'run'}\n" in err
    assert "fold 2, seed 1 (4 of 4): " in err
    found = json.loads(out)
    assert list(found["metrics"]) == ["finetune/accuracy"]
    assert (list(found["by_fold"]), list(found["by_seed"])) == (["1", "2"], ["0", "1"])
    assert json.loads((tmp_path / "run/result.json").read_text()) == found
    code, out, err = of_task(*asked, "--resume")  # nothing is run again
    assert code == 0, err
    assert "step" not in err
    assert out.startswith("ESC-50: 8 clips, finetune")
    assert "published: M2D-CLAP 2024" in out
    assert "chooses the epoch, by accuracy; the test part is scored once." in out


def test_a_tasks_folder_is_named_by_preset_and_task(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("echoic.cli.common.available_cpus", lambda: 1)
    monkeypatch.chdir(tmp_path)
    task_trees.esc50(tmp_path / "esc")
    words = ["finetune", str(place / "model.safetensors"), "--task", "ESC-50", "--data", "esc"]
    words += ["--folds", "1", "epochs=1", "warmup_epochs=0", "precision=fp32"]
    assert main(words) == 0, capsys.readouterr().err
    assert (tmp_path / "runs/slap_esc50-esc50/1-0/classifier.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--valid", "v.csv"], "--task esc50 has parts of its own: it takes no --valid"),
        (["--test-fold", "5"], "it takes no --test-fold"),
        (["--valid-share", "0.2"], "it takes no --valid-share"),
        (["--missing", "skip"], "it takes no --missing"),
        (["--seed", "3"], "--task takes --seeds, not --seed"),
        (["--seeds", "1,x"], "give whole numbers, as 42,43,44"),
        (["--folds", "7"], "no fold '7'; there are 1, 2, 3, 4, 5"),
        (["--preset", "esc50"], "no preset 'esc50'"),
        (["epohcs=3"], "did you mean 'epochs'"),
    ],
)
def test_mistakes_with_a_task_are_told_in_one_line(of_task, arguments, line):
    code, out, err = of_task(*arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert line in err


def test_an_unknown_task_and_its_options_without_one(of_task, run):
    code, _, err = of_task(name="esc5")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "no task 'esc5'; did you mean esc50" in err
    for option in ("--folds", "--seeds"):
        code, _, err = run("all.csv", option, "1")
        assert (code, err) == (
            2,
            f"error: finetune: {option} is for a published task: name it by --task\n",
        )
