"""`echoic data tasks`, `echoic data check TASK DIR`."""

from __future__ import annotations

import json

import pytest

from tests import on_disk, task_trees

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def words(tmp_path):
    task_trees.spcv2(tmp_path / "words")
    return tmp_path / "words"


def test_tasks_are_listed(run, documented):
    code, out, err = run("data", "tasks")
    assert (code, err) == (0, "")
    assert "https://github.com/karolpiczak/ESC-50" in out
    assert "CC BY-NC 3.0" in out
    listed = documented("data", "tasks")
    assert [each["name"] for each in listed][:3] == ["esc50", "us8k", "spcv2"]
    kinds = {each["name"]: each["kind"] for each in listed}
    asked = [kinds[name] for name in ("vggsound", "clotho", "desed")]
    assert asked == ["classification", "captions", "time lines"]
    assert {each["kind"] for each in listed} == {
        line.partition(",")[0].rstrip(":") for line in out.splitlines() if line.endswith(":")
    }
    assert all(each["home"] and each["licence"] and each["expected"] is not None for each in listed)
    assert "clotho      Clotho v2.1: 1045 clips of test, 5 captions each" in out
    figures = next(each["published"] for each in listed if each["name"] == "audiocaps")
    assert {"retrieval", "captioning"} == {each["protocol"] for each in figures}


def test_check_of_a_task(run, words):
    code, out, err = run("data", "check", "spcv2", words)
    assert code == 2
    assert "there    validation_list.txt" in out
    assert "84843" in out
    assert "train: 2 clips, published are 84843" in err
    (words / "yes/aa_nohash_0.wav").unlink()
    (words / "testing_list.txt").unlink()
    code, out, err = run("data", "check", "spcv2", words, "--json")
    assert code == 2
    assert json.loads(out)["lists"] == {"validation_list.txt": True, "testing_list.txt": False}
    assert "testing_list.txt is missing" in err


def test_check_of_a_set_with_captions(run, tmp_path):
    task_trees.clotho(tmp_path / "clotho")
    (tmp_path / "clotho/clotho_captions_validation.csv").unlink()
    code, out, err = run("data", "check", "clotho", tmp_path / "clotho")
    assert code == 2
    assert "there    clotho_captions_evaluation.csv" in out
    assert "MISSING  clotho_captions_validation.csv" in out
    assert "20 captions" in out
    assert "test: 2 clips, published are 1045" in err


def test_check_of_a_task_needs_a_folder(run, words):
    code, out, err = run("data", "check", "esc50")
    assert (code, out) == (2, "")
    assert err.startswith("error: esc50: to check a task, give the folder of its data: ")
    words.rename("esc50")  # a folder of that name is a source
    assert "give the folder" not in run("data", "check", "esc50")[2]


def test_check_of_a_source_is_as_it_was(run, tmp_path):
    files = on_disk.write_tones(tmp_path, 2)
    table = on_disk.write_table(tmp_path / "my.csv", files)
    code, out, err = run("data", "check", table)
    assert code == 0, err
    assert "2 of 2 clips are good" in out
