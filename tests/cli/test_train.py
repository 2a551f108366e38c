"""`echoic train m2d_clap`: each stage alone, all in a row, on sound without captions; what does not
fit is one line that says what to do."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from echoic.cli.train import next_commands
from echoic.convert.native import load_model
from echoic.data.sentences import embed_captions
from echoic.data.sources import open_source
from echoic.encoders.sentences import sentence_encoder
from tests import on_disk
from tests.m2d_stages import CHANGES, WHOLE
from tests.train.ranks import ROOT

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Ten clips, with a table of captions and tags beside them; nothing in it is changed."""
    folder = tmp_path_factory.mktemp("cli_train")
    files = on_disk.write_tones(folder / "sounds", 10)
    rows = [
        f"sounds/{file.name},{on_disk.CAPTIONS[i % 4]} {i},{'low' if i < 5 else 'high'}"
        for i, file in enumerate(files)
    ]
    table = "\n".join(["file,caption,tags", *rows]) + "\n"
    (folder / "clips.csv").write_text(table, "utf-8")
    return folder


def command(place: Path, *names: str, data: str = "clips.csv") -> list[str]:
    """Of a stage, or of all."""
    told = ["train", "m2d_clap", "--size", "nano", "--data", str(place / data), "--threads", "1"]
    if len(names) == 1:
        return [*told, "--stage", names[0], *CHANGES[names[0]]]
    return told + [f"{name}:{change}" for name in WHOLE for change in CHANGES[name]]


@pytest.fixture
def trained(run, place):
    """Train a stage into a folder, and what was printed."""

    def call(name: str, out: str, *options: str | Path, data: str = "clips.csv") -> tuple[str, str]:
        told = command(place, name, data=data)
        code, printed, err = run(*told, "--out", out, *options)
        assert code == 0, err
        return printed, err

    return call


@pytest.mark.slow
def test_each_stage_by_its_name(trained):
    """Each that needs one from the file of the one before."""
    for name in ("m2d", "m2d_as", "2024", "stage1"):
        printed, err = trained(name, name)
        assert f"recipe m2d-clap-nano-{name}: 4 steps" in err
        assert printed.splitlines()[0] == f"model: {name}/model.safetensors"
        reads = load_model(Path(name)).model.spec.text is not None
        assert ("measure it:" in printed) == reads
        assert "check the file:" in printed
        assert json.loads((Path(name) / "statistics.json").read_text())["std"] > 0
    printed, err = trained("stage1.1", "tuned", "--start", "stage1/model.safetensors")
    assert "stage1.1: tuning on the clips' tags" in err
    assert load_model(Path("tuned")).model.spec.audio.classes == 2
    trained("stage2", "two", "--start", "tuned/model.safetensors")
    trained("stage2.1", "last", "--start", "two")  # its folder does too
    assert load_model(Path("last")).model.spec.audio.frames == 101


def test_the_second_after_the_first(trained, documented, place):
    trained("stage1", "one")
    trained("stage2", "two", "--start", "one/model.safetensors")
    found = documented("embed", place / "sounds" / "tone0.wav", "--model", "two")
    assert found["dim"] == 32


@pytest.mark.slow
def test_all_stages_in_one_command_and_again(run, place):
    told = [*command(place), "--out", "all", "--seed", "5"]
    code, printed, err = run(*told)
    assert code == 0, err
    assert printed.splitlines()[0] == "model: all/stage2.1/model.safetensors"
    assert [line for line in err.splitlines() if " of 4) into " in line] == [
        f"{name} ({i} of 4) into all/{name}" for i, name in enumerate(WHOLE, 1)
    ]
    for name in ("stage1", "stage2", "stage2.1"):
        assert "seed: 5" in (Path("all") / name / "recipe.yaml").read_text()
    files = {path: path.stat().st_mtime_ns for path in Path("all").rglob("*")}
    code, printed, err = run(*told, "--resume", "--json")
    assert code == 0, err
    assert json.loads(printed) == {"model": "all/stage2.1/model.safetensors"}
    assert err.count(": done, all/") == 4
    assert {path: path.stat().st_mtime_ns for path in Path("all").rglob("*")} == files


@pytest.mark.parametrize("writes", [False, True])
def test_what_to_type_next(place, writes):
    source = open_source(place / "clips.csv")
    lines = next_commands(Path("run/m.safetensors"), source, ["--data", "d.csv"], writes=writes)
    told = [line.split(":  ")[0] for line in lines]
    caption = ["caption by it"] if writes else []
    assert told == ["measure it", "search by it", *caption, "check the file"]
    assert all("run/m.safetensors" in line for line in lines)
    if writes:
        file = shlex.join([str(source.paths[0])])
        assert f"caption {file} --model run/m.safetensors" in lines[2]


def test_sound_without_any_caption(run, tmp_path, trained):
    """A folder of files that are numbered: masked modelling asks for no more."""
    for i, file in enumerate(on_disk.write_tones(tmp_path / "mute", 10)):
        file.rename(file.with_name(f"{i:03}.wav"))
    printed, err = trained("m2d", "out", data=str(tmp_path / "mute"))
    assert "captions" not in err
    assert "measure it" not in printed
    row = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    assert any("masked_loss" in json.dumps(each) for each in row)  # of the clips held out
    code, _, err = run("check", "out")
    assert code == 0, err


def test_labels_without_any_caption(place, run, trained):
    """M2D-AS and tuning ask for tags alone."""
    rows = (place / "clips.csv").read_text().splitlines()
    told = "\n".join(",".join(row.split(",")[::2]) for row in rows)
    Path("tags.csv").write_text(told.replace("sounds/", f"{place}/sounds/") + "\n")
    trained("m2d_as", "labelled", data=str(Path("tags.csv").absolute()))
    start = ("--start", "labelled/model.safetensors")
    trained("stage1.1", "tuned", *start, data=str(Path("tags.csv").absolute()))
    assert load_model(Path("tuned")).model.spec.text is None


def test_vectors_that_were_made_before(run, place, trained):
    options = ("--encoder", "words:256", "--out", "vectors")
    code, _, err = run("data", "embed-captions", place / "clips.csv", *options)
    assert code == 0, err
    trained("stage1", "given", "--sentences", "vectors")
    assert not Path("given/sentences").exists()
    trained("stage1", "made")
    assert Path("made/sentences").is_dir()
    given, made = (load_model(Path(name)).model.state_dict() for name in ("given", "made"))
    assert all((tensor == made[name]).all() for name, tensor in given.items())


def test_noise_and_a_teacher_by_overrides(run, place, tmp_path, trained):
    trained("m2d", "teacher")
    on_disk.write_tones(tmp_path / "noise", 3)
    told = command(place, "m2d")
    code, _, err = run(
        *told, "objectives.masked.second={teacher: teacher/model.safetensors, weight: 0.5}",
        "objectives.masked.noise={data: noise, share: 0.3}", "--out", "student",
    )  # fmt: skip
    assert code == 0, err
    first = json.loads(Path("student/log.jsonl").read_text().splitlines()[0])
    assert "second" in json.dumps(first)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["m2d_clap:nano,stage1", "--stage", "stage2"], "--size and --stage go with a bare name"),
        (["m2d_clap", "--stage", "stage9"], "recipe m2d_clap has no stage 'stage9'; it has m2d"),
        (["m2d_clap", "--size", "huge"], "recipe m2d_clap has no size 'huge'; it has nano"),
        (["m2d_clap", "--size", "nano", "optim.lr=1"], "write stage1:optim.lr=1"),
        (["m2d_clap:nano,stage2"], "stage2 goes on from the file of the stage before"),
        (["m2d_clap:nano,stage1.1"], "stage1.1 goes on from the file of the stage before"),
        (["m2d_clap:nano,m2d", "--start", "x"], "--start x: m2d starts from scratch"),
        (["m2d_clap:nano,stage2", "--start", "none.pt"], "none.pt"),
        (["m2d_clap:nano,m2d", "--sentences", "x"], "m2d_clap:nano,m2d reads no vectors"),
        (["m2d_clap:nano,stage1", "--sentences", "x"], "x: no such folder of sentence vectors"),
        (["m2d_clap:small,stage1", "objectives.masked=null", "objectives.contrastive=0"],
         "nothing is learnt"),
        (["nano", "--stage", "stage1"], "recipe nano has no sizes"),
        (["nano", "objectives.masked={}"], "objectives.masked: for M2D, not for slap"),
        (["m2d_clap:nano", "--valid-share", "0"], "stage1.1: tuning on labels needs held-out"),
        (["m2d_clap:base,stage1"], "vectors of st:nvidia/NV-Embed-v2: make them with"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_line(run, place, arguments, words):
    code, out, err = run("train", *arguments, "--data", place / "clips.csv", "--out", "run")
    assert code == 2, err
    assert out == ""
    assert err.splitlines()[-1].startswith("error: ")
    assert words in err.splitlines()[-1]
    assert "Traceback" not in err


def test_vectors_of_another_width_name_the_change(run, place, tmp_path):
    source = open_source(place / "clips.csv")
    embed_captions(source, sentence_encoder("words:32"), tmp_path / "s: 1")
    told = [*command(place, "stage1"), "--sentences", tmp_path / "s: 1", "--out", "run"]
    code, _, err = run(*told)
    assert code == 2
    assert err.splitlines()[-1].endswith("add model.text.width=32")
    code, _, err = run(*told, "model.text.width=32")
    assert code == 0, err


def test_recipes_are_listed_by_stage(run, documented):
    _, out, _ = run("recipes")
    for words in ("stage1.1", "nvidia/NV-Embed-v2", "google-bert/bert-base-uncased", "words:256"):
        assert words in out
    rows = [row for row in documented("recipes") if row["name"] == "m2d_clap"]
    assert [row["stage"] for row in rows] == list(WHOLE)
    assert "stage" not in next(row for row in documented("recipes") if row["name"] == "nano")
    assert documented("recipes", "m2d_clap:nano,m2d")["objectives"]["masked"]["weight"] == 1
    assert len(documented("recipes", "m2d_clap")) == 4
    _, out, _ = run("recipes", "m2d_clap:nano")
    assert [line for line in out.splitlines() if line.startswith("---")] == [
        f"--- # {name}" for name in WHOLE
    ]


@pytest.mark.slow
def test_a_slap_tuned_on_labels_is_a_classifier(run, place, documented):
    """SLAP's last stage leaves no model, and is no interruption."""
    small = ["optim.steps=2", "optim.warmup_steps=1", "data.budget_tokens=512"]
    told = ["train", "slap", "--size", "nano", "--data", place / "clips.csv", "--threads", "1"]
    code, printed, err = run(*told, "--out", "slap", *small)
    assert code == 0, err
    assert "caption by it:  " in printed
    tuned = [*told, "--stage", "esc50", "--start", "slap", "--valid", place / "clips.csv"]
    tuned += ["epochs=1", "warmup_epochs=0"]
    code, printed, err = run(*tuned, "--out", "tuned")
    assert code == 0, err
    assert printed == "classifier: tuned/classifier.safetensors\n"
    found = documented(*tuned, "--out", "again")
    assert found == {"model": None, "classifier": "again/classifier.safetensors"}


NANO = (
    "optim.steps=3", "optim.warmup_steps=1", "run.log_every=1", "run.eval_every=null",
    "run.save_every=2", "data.budget_tokens=160",
    "model.audio={kind: slap, depth: 1, width: 32, heads: 2, hidden: 48}",
    "model.text={kind: small, vocab: 300, depth: 1, width: 32, heads: 2, hidden: 48}",
    "model.embed_dim=16",
)  # fmt: skip


def torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    return subprocess.run(
        [*launch, "--standalone", "-m", "echoic.cli", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_several_sources_by_weight(run, place, tmp_path):
    on_disk.write_tones(tmp_path / "more", 6)
    rows = [f"more/{f.name},a tone" for f in sorted((tmp_path / "more").iterdir())]
    (tmp_path / "more.csv").write_text("\n".join(["file,caption", *rows]) + "\n", "utf-8")
    both = ("--data", f"a={place / 'clips.csv'}", "--data", f"b={tmp_path / 'more.csv'}")
    code, out, err = run(
        "train", "nano", *both, "--weight", "a=2", "--weight", "b=1", "--out", "mix", *NANO
    )
    assert code == 0, err
    assert out.splitlines()[0] == "model: mix/model.safetensors"
    assert "a=" in err
    assert " more held out" in err or "none held out" in err
    code, _, err = run("train", "nano", *both[:2], "--data", tmp_path / "more.csv", "--out", "no")
    assert code == 2
    assert "each needs a name" in err


def test_torchrun_trains_by_the_same_command_and_one_process_talks(place):
    told = ("train", "nano", "--data", place / "clips.csv", "--out", "two", *NANO)
    done = torchrun(*told)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "model: two/model.safetensors"
    assert done.stdout.count("model:") == 1
    assert done.stderr.count("step 3/3") == 1
    assert done.stderr.count("2 processes") == 1
    assert "arning" not in done.stderr
    assert load_model(Path("two")).model.spec.embed_dim == 16
    refused = torchrun(*told)
    assert refused.returncode != 0
    line = "error: two: holds a training at step 3; resume it (--resume) or name another folder"
    assert refused.stderr.count(line) == refused.stderr.count("error: ") == 1
