"""`echoic eval`: published prompts by the name of a data set, and LAION's mAP@10."""

from __future__ import annotations

import json

import pytest

from echoic.cli import main
from echoic.convert.native import save_model
from tests import on_disk, tiny


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("echoic.cli.common.available_cpus", lambda: 1)
    monkeypatch.setenv("ECHOIC_CACHE", str(tmp_path / "cache"))
    model = on_disk.save_tiny_model(tmp_path / "model.safetensors")
    files = on_disk.write_tones(tmp_path, 3)

    def call(labels, *arguments):
        rows = [f"{file.name},{label}" for file, label in zip(files, labels, strict=True)]
        (tmp_path / "my.csv").write_text("\n".join(["file,label", *rows]) + "\n")
        code = main(["eval", str(model), "--data", str(tmp_path / "my.csv"), *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_prompts_of_a_data_set_bring_its_classes(run):
    code, out, err = run(["dog", "sea_waves", "rain"], "--template", "esc50_readme", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["chance"]["zero_shot/accuracy"] == pytest.approx(1 / 50)
    assert any("“This is a sound of {label}”" in words for words in found["protocol"])


def test_laions_map_is_said_in_the_protocol(run):
    for choice, said in (("laion_legacy", True), ("sorted", False)):
        code, out, err = run(["a", "b", "a"], "--map10", choice, "--json")
        assert code == 0, err
        assert ("as LAION computes it" in json.loads(out)["protocol"][0]) is said


@pytest.mark.parametrize(
    ("labels", "template", "line"),
    [
        (["dog", "rain", "unheard of"], "esc50", "tag 'unheard of': none of the 50 classes"),
        (["a", "b", "c"], "esc51", "did you mean esc50"),
    ],
)
def test_mistakes_are_told_in_one_line(run, labels, template, line):
    code, out, err = run(labels, "--template", template)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert line in err


def test_captions_are_judged_unless_told_not_to(run, tmp_path):
    save_model(tmp_path / "model.safetensors", tiny.content(decoder=tiny.decoder()))
    for options, told in (((), True), (("--no-captions",), False)):
        code, out, err = run(["a", "b", "a"], *options, "--json")
        assert code == 0, err
        assert ("captioning/cider_d" in json.loads(out)["metrics"]) is told
        judged = any("Captions' judges: " in words for words in json.loads(out)["protocol"])
        assert judged is told
    code, out, _ = run(["a", "b", "a"])
    assert code == 0
    (line,) = (line for line in out.splitlines() if "cider d" in line)
    assert "%" not in line


# vectors of the run before


def test_the_second_run_says_what_it_did_not_hear_again(run, tmp_path):
    results = []
    for found, options in (
        (0, ["--cache", tmp_path / "here"]),
        (
            9,
            ["--cache", tmp_path / "here"],
        ),  # clips, captions, class sentences
        (0, []),
        (9, []),
        (0, ["--no-cache"]),
    ):
        code, out, err = run(["a", "b", "c"], *map(str, options), "--json")
        assert code == 0, err
        assert (f"cache: {found} of " in err) is bool(found), err
        results.append(json.loads(out))
    assert results[0] == results[1]
    assert results[2] == results[3]
    assert (tmp_path / "here").is_dir()
    assert (tmp_path / "cache").is_dir()


def test_a_cache_is_wanted_or_not(run, tmp_path):
    code, _, err = run(["a", "b", "a"], "--cache", str(tmp_path), "--no-cache")
    assert (code, err) == (2, "error: eval: --cache and --no-cache exclude each other\n")
    (tmp_path / "file").write_text("")
    code, _, err = run(["a", "b", "a"], "--cache", str(tmp_path / "file"))
    assert code == 2
    assert "cannot be made a folder" in err
