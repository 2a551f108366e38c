"""`echoic eval --suite` and `echoic eval --task`."""

from __future__ import annotations

import json

import pytest

from echoic.eval.outcomes import read_result
from tests import on_disk, task_trees

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def model(tmp_path):
    return on_disk.save_tiny_model(tmp_path / "model.safetensors")


@pytest.fixture
def words(tmp_path):
    task_trees.spcv2(tmp_path / "words")
    return tmp_path / "words"


@pytest.fixture
def data(tmp_path):
    task_trees.esc50(tmp_path / "data/esc50", per_class=1)
    task_trees.clotho(tmp_path / "data/clotho")
    return tmp_path / "data"


# many measures in one table


def test_a_suite_is_one_table_and_a_line_as_each_is_done(run, model, data):
    code, out, err = run(
        "eval", model, "--suite", "esc50/zero_shot,clotho/retrieval", "--data", data
    )
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("esc50/zero_shot,clotho/retrieval: 2 of 2 measured")
    assert any(line.startswith("ESC-50, zero shot, by slap: prompt not stated") for line in lines)
    (accuracy,) = (line.split() for line in lines if line.startswith("  accuracy"))
    assert accuracy[-5:] == ["88.6", "%", "SLAP", "50.0", "%"]
    told = [line for line in err.splitlines() if line.startswith("[")]
    assert [line.partition(":")[0] for line in told] == [
        "[1/2] esc50/zero_shot", "[2/2] clotho/retrieval",
    ]  # fmt: skip


def test_the_protocol_asked_for_goes_before_the_suites_own(documented, model, data, run):
    asked = ("--suite", "laion", "--protocol", "m2d", "--data", data)
    code, out, err = run("eval", model, *asked, "--json")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert {row["protocol"] for row in rows} == {"m2d"}
    status = {f"{row['task']}/{row['measure']}": row["status"] for row in rows}
    assert status["clotho/retrieval"] == status["esc50/zero_shot"] == "measured"
    assert status["us8k/zero_shot"] == "no data"


def test_quick_needs_no_data_and_takes_other_sizes(documented, model):
    sizes = ("--scenes", "3", "--items", "2", "--processes", "1")
    found = documented("eval", model, "--suite", "synth/order,synth/retrieval", *sizes)
    assert {row["clips"] for row in found["rows"] if row["measure"] == "order"} == {2}
    assert {row["clips"] for row in found["rows"] if row["measure"] == "retrieval"} == {3}
    assert "synth/order/accuracy" in found["metrics"]


def test_no_captions_are_written_where_none_are_wanted(run, model, data):
    asked = ("--suite", "clotho", "--no-captions", "--data", data)
    code, out, err = run("eval", model, *asked)
    assert (code, err.count("[1/1] clotho/retrieval")) == (0, 1), err
    assert "captioning" not in out
    code, out, err = run("eval", model, "--suite", "captioning", "--no-captions", "--data", data)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "error: eval: --no-captions leaves nothing of --suite captioning"


def test_what_failed_is_told_and_the_rest_is_kept(run, model, data):
    (data / "gtzan").mkdir()
    report, saved = data / "r.html", data / "r.json"
    asked = ("--suite", "gtzan/linear,esc50/zero_shot", "--data", data)
    code, out, err = run("eval", model, *asked, "--report", report, "--save", saved)
    assert code == 2
    assert "GTZAN, fault-filtered, linear, failed: " in out
    assert "  accuracy" in out
    last = err.splitlines()[-1]
    assert last == "error: 1 of 2 failed (gtzan/linear); the table says why"
    assert "ESC-50: " in report.read_text("utf-8")
    assert read_result(saved).outcomes[0].figures == ("esc50/zero_shot/accuracy",)


def test_nothing_measured_is_an_error(run, model):
    code, out, err = run("eval", model, "--suite", "captioning")
    assert code == 2
    assert "Clotho v2.1, captioning, left out: the model has no decoder" in out
    assert err.splitlines()[-1] == "error: nothing could be measured; the table says why"


def test_ctrl_c_keeps_what_is_done(run, model, data, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("echoic.measures.evaluate", stopped)
    asked = ("--suite", "esc50/zero_shot,clotho/retrieval", "--data", data)
    saved = data / "r.json"
    code, out, err = run("eval", model, *asked, "--json", "--save", saved)
    assert code == 130
    found = json.loads(out)
    assert found["complete"] is False
    assert [row["task"] for row in found["rows"]] == ["esc50"]
    assert read_result(saved).document["complete"] is False
    assert err.splitlines()[-1] == "error: interrupted"


# one published task in full


def test_linear_is_the_default(documented, model, words):
    found = documented("eval", model, "--task", "spcv2", "--data", words, "--seeds", "3")
    assert found["metrics"].keys() == {"linear/accuracy"}
    assert found["by_seed"].keys() == {"3"}
    assert found["data"]["name"] == "spcv2"
    assert found["choices"]["protocol"] == "slap (but seeds 3)"


def test_retrieval_is_the_default_of_captions(documented, model, data):
    found = documented("eval", model, "--task", "Clotho", "--data", data / "clotho")
    assert "retrieval/text_to_audio_R@1" in found["metrics"]
    assert not any(name.startswith(("captioning", "zero_shot")) for name in found["metrics"])


def test_a_task_with_captions_has_the_papers_values_and_tells_how_much_is_there(run, model, data):
    asked = ("--task", "clotho", "--data", data / "clotho")
    code, out, err = run("eval", model, *asked)
    assert code == 0, err
    (told,) = (line for line in out.splitlines() if "published: SLAP, fine-tuned, text to" in line)
    assert told.split()[-2:] == ["27.2", "%"]
    assert "clips, published are 1045, so figures are not quite" in err


def test_zero_shot_by_a_sentence(run, model, words, tmp_path):
    asked = ("--measure", "zero_shot", "--prompts", "the word {label}")
    kept = ("--report", tmp_path / "r.html", "--save", tmp_path / "r.json")
    code, out, err = run("eval", model, "--task", "spcv2", "--data", words, *asked, *kept)
    assert code == 0, err
    assert "by slap (but prompts the word {label}): " in err.splitlines()[0]
    assert "Speech Commands v0.02: 2 clips, zero shot" in out
    assert "this model" in out
    assert "“the word {label}”" in (tmp_path / "r.html").read_text("utf-8")
    assert read_result(tmp_path / "r.json").outcomes[0].figures == ("spcv2/zero_shot/accuracy",)


OWN = "is for sound of your own, by --data alone"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--task", "spcv2"], "--task NAME needs --data FOLDER"),
        (["--task", "spcv2", "--data", "words", "--suite", "synth"], "exclude each other"),
        (["--task", "spcv2", "--data", "words", "--template", "a {label}"], f"--template {OWN}"),
        (["--task", "spcv2", "--data", "words", "--map10", "sorted"], f"--map10 {OWN}"),
        (["--suite", "quick", "--valid-share", "0.1"], f"--valid-share {OWN}"),
        (["--suite", "quick", "--tag-column", "tag"], f"--tag-column {OWN}"),
        (
            ["--suite", "quick", "--measure", "linear"],
            "a suite takes TASK/MEASURE, as esc50/linear",
        ),
        (["--suite", "quick", "--data", "nowhere"], "--data nowhere: no such folder"),
        (["--data", "words", "--measure", "linear"], "--measure is for --task"),
        (
            ["--task", "spcv2", "--data", "words", "--measure", "zero_shot", "--prompts", "m3d"],
            "or a paper: laion, m2d, slap",
        ),
        (["--suite", "qick"], "no suite or task 'qick'; did you mean quick?"),
        (["--suite", "esc50/events"], "esc50 has no measure 'events'; it has zero_shot"),
        (["--suite", "esc50/linear", "--seeds", "x"], "give whole numbers"),
        (["--task", "spcv3", "--data", "words"], "did you mean spcv2"),
        (["--task", "esc50", "--data", "words"], "ESC-50 lacks meta/esc50.csv"),
        (["--task", "spcv2", "--data", "words", "--measure", "events"], "no measure 'events'"),
        (["--task", "spcv2", "--data", "words", "--seeds", "a"], "give whole numbers"),
        (["--task", "spcv2", "--data", "words", "--seeds", "1,-2"], "give whole numbers"),
        (["--task", "spcv2", "--data", "words", "--seeds", ""], "give whole numbers"),
        (
            ["--task", "spcv2", "--data", "words", "--prompts", "m2d"],
            "--prompts is for --measure zero_shot and events, not linear",
        ),
        (
            ["--task", "spcv2", "--data", "words", "--measure", "zero_shot", "--seeds", "1"],
            "--seeds is for --measure linear and finetune, not zero_shot",
        ),
        (["--task", "spcv2", "--data", "words", "--folds", "3"], "no fold '3'; there are test"),
        (["--data", "words", "--seeds", "1"], "--seeds is for --suite and --task"),
        (["--data", "words", "--protocol", "m2d"], "--protocol is for --suite and --task"),
        (["--data", "words", "--scenes", "3"], "--scenes is for --suite and --task"),
        ([], "give --data PATH, --suite NAME (as --suite quick), or --task NAME"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, line, run, model, words):
    code, out, err = run("eval", model, *arguments)
    assert (code, out) == (2, "")
    assert line in err
    assert sum(each.startswith("error: ") for each in err.splitlines()) == 1
