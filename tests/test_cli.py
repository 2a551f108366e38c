"""The command line: every command, its JSON, its exit code, one line for each mistake of a user."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echoic.convert.native import save_model
from tests import m2d, on_disk

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, a folder of tones, a table of them; nothing in it is changed."""
    folder = tmp_path_factory.mktemp("cli")
    on_disk.save_tiny_model(folder / "model.safetensors")
    files = on_disk.write_tones(folder / "sounds", 10)
    on_disk.write_table(folder / "sounds" / "captions.csv", files)
    return folder


@pytest.fixture
def refused(run):
    """The one line of a refused command: exit code 2, nothing on stdout, no traceback."""

    def call(*arguments):
        code, out, err = run(*arguments)
        assert code == 2, err
        assert out == ""
        lines = err.splitlines()
        assert sum(line.startswith("error: ") for line in lines) == 1, err
        assert lines[-1].startswith("error: ")
        assert "Traceback" not in err
        return lines[-1]

    return call


# Help and start


def test_help_is_grouped_and_has_examples(run):
    code, out, _ = run("--help")
    assert code == 0
    for word in ("demo", "train", "Use a model", "Judge a model", "search", "data", "Exit codes"):
        assert word in out
    assert run()[1] == out
    commands = ["demo", "train", "recipes", "embed", "classify", "search", "eval", "check"]
    for command in [
        *([c] for c in commands),
        *(["data", c] for c in ("synth", "shards", "keywords", "check")),
    ]:
        code, out, _ = run(*command, "--help")
        assert code == 0
        assert f"Example: echoic {' '.join(command)}" in out


def test_version(run):
    assert run("--version")[:2] == (0, "echoic 0.1.0\n")


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, time; t = time.process_time(); from echoic.cli import main; main(['--help']);"
        "took = time.process_time() - t;"
        "heavy = {'torch', 'numpy', 'soundfile', 'tokenizers', 'pydantic'} & set(sys.modules);"
        "sys.exit(f'{took:.2f} s, {heavy}' if heavy or took > 1 else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_recipes(run, documented):
    code, out, _ = run("recipes")
    assert code == 0
    assert "nano" in out
    assert {row["name"] for row in documented("recipes")} >= {"nano", "slap"}
    assert "warmup_steps: 100" in run("recipes", "nano")[1]
    assert documented("recipes", "nano")["optim"]["warmup_steps"] == 100


# Wrong words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sing"], "No such command 'sing'; see echoic --help"),
        (["serch"], "Did you mean 'search'"),
        (["train", "nano", "--data", "x.csv", "--lerning-rate", "3"], "--lerning-rate"),
        (["train", "nano"], "--data"),
        (["train", "nanoo", "--data", "x.csv"], "no recipe 'nanoo'; did you mean nano?"),
        (["train", "nano", "--data", "nowhere.csv"], "nowhere.csv: no such file or folder"),
        (["train", "nano", "optim.rate=1", "--data", "x"], "override optim.rate: optim has no"),
        (["train", "nano", "optim.lr=fast", "--data", "x"], "optim.lr"),
        (["train", "nano", "steps", "--data", "x"], "an override reads key.sub=value"),
        (["train", "nano", "--data", "x", "--seed", "-1"], "--seed"),
        (["recipes", "slap:huge"], "no size 'huge'"),
        (["embed", "x.wav"], "no model named"),
        (["embed", "x.wav", "--model", "nowhere.safetensors"], "nowhere.safetensors: no such file"),
        (["classify", "x.wav"], "--labels or --labels-file"),
        (["classify", "x.wav", "--labels", " , "], "no label"),
        (["classify", "x.wav", "--labels-file", "nowhere.txt"], "nowhere.txt: no such file"),
        (["classify", "x.wav", "--labels-file", "."], ".: cannot be read (Is a directory)"),
        (["eval"], "--data PATH, --suite NAME (as --suite quick), or --task NAME"),
        (["eval", "--suite", "qick"], "did you mean quick"),
        (["embed", "x.wav", "--out", "vectors.txt"], "--out writes .npz or .json"),
        (["data", "check", "nowhere"], "nowhere: no such file or folder"),
        (["data"], "Missing command"),
    ],
)
def test_wrong_words_are_one_line(refused, arguments, words):
    assert words in refused(*arguments)


def test_ctrl_c_is_one_line(run, monkeypatch):
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("echoic.recipes.find_stages", pressed)
    assert run("recipes") == (130, "", "error: interrupted\n")


@pytest.mark.parametrize(
    "start",
    [
        "from echoic.__main__ import main; sys.exit(main())",
        "import runpy; runpy.run_module('echoic', None, '__main__')",
    ],
)
def test_ctrl_c_while_commands_are_loaded_is_one_line(start):
    pressed = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored below some shells
        "class Press:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Press())\n"
    )
    words = [sys.executable, "-c", pressed + start]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


def test_full_disk_is_one_line(refused, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")

    monkeypatch.setattr("echoic.recipes.find_stages", full)
    assert refused("recipes") == "error: /data/x: No space left on device"


def test_internal_errors_keep_their_traceback(run, monkeypatch):
    def broken(*_):
        raise KeyError("internal")

    monkeypatch.setattr("echoic.recipes.find_stages", broken)
    with pytest.raises(KeyError, match="internal"):
        run("recipes")


# embed, classify, search


def test_embed_writes_vectors(run, place, documented, tmp_path):
    model = place / "model.safetensors"
    code, out, err = run("embed", place / "sounds", "--model", model, "-o", "v.npz")
    assert (code, out) == (0, "")
    assert "10 vectors of 16 values written to v.npz" in err
    stored = np.load("v.npz")
    assert stored["files"][0].endswith("tone0.wav")
    assert np.allclose(np.linalg.norm(stored["vectors"], axis=1), 1, atol=1e-5)
    document = documented("embed", place / "sounds" / "tone3.wav", "--model", model)
    assert np.allclose(document["vectors"][0]["vector"], stored["vectors"][3], atol=1e-5)
    assert document["space_id"] == str(stored["space_id"])
    assert document["dim"] == 16
    run("embed", place / "sounds", "--model", model, "-o", "v.json")
    assert len(json.loads((tmp_path / "v.json").read_text())["vectors"]) == 10
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("name", ["v.npz", "v.json"])
def test_a_wrong_name_costs_no_vectors(refused, place, tmp_path, name):
    (tmp_path / name).write_bytes(b"older")
    assert refused("embed", "soundz", "-m", place, "-o", name) == "error: soundz: no such file"
    assert (tmp_path / name).read_bytes() == b"older"


def test_search_in_vectors_heard_another_way(run, refused, place, tmp_path):
    save_model(tmp_path / "m2d.safetensors", m2d.content("mlp", text="sentence"))
    asked = ("--model", "m2d.safetensors")
    run("embed", place / "sounds", *asked, "--long", "m2d", "-o", "v.npz")
    line = refused("search", "rain", "v.npz", *asked)
    assert "of this model, heard another way (--long m2d, here no --long); ask" in line
    assert run("search", "rain", "v.npz", *asked, "--long", "m2d")[0] == 0
    line = refused("search", "rain", "v.npz", "--model", place)
    assert "of another model" in line


@pytest.mark.parametrize("field", ["files", "space_id"])
def test_names_that_nobody_can_print(run, refused, place, field):
    run("embed", place / "sounds", "--model", place, "-o", "v.npz")
    with np.load("v.npz") as stored:
        held = dict(stored)
    codes = np.atleast_1d(held[field]).view(np.uint32)
    codes[-1] = 0x730A0078
    np.savez("v.npz", **(held | {field: codes.view(np.atleast_1d(held[field]).dtype)}))
    line = refused("search", "rain", "v.npz", "--model", place)
    assert "v.npz: not a file of vectors by echoic embed (its names are no texts)" in line


def test_embed_shows_a_table(run, place):
    code, out, _ = run("embed", place / "sounds" / "tone0.wav", "-m", place)
    assert code == 0
    assert "tone0.wav" in out


def test_model_from_environment_and_from_the_demo(run, place, tmp_path, monkeypatch):
    sound = place / "sounds" / "tone0.wav"
    on_disk.save_tiny_model(tmp_path / "runs" / "demo" / "model.safetensors", seed=1)
    demo = json.loads(run("embed", sound, "--json")[1])["space_id"]
    monkeypatch.setenv("ECHOIC_MODEL", str(place))
    named = json.loads(run("embed", sound, "--json")[1])["space_id"]
    assert demo != named
    assert json.loads(run("check", "--json")[1])["space_id"] == named


@pytest.fixture
def mixed(tmp_path, place):
    """A folder of one good file and four that cannot be heard."""
    folder = tmp_path / "mixed"
    on_disk.write_tone(folder / "good.wav", 300)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "corrupt.wav").write_bytes(b"RIFF" + bytes(range(256)) * 4)
    samples = np.full(16_000, np.nan, np.float32)
    soundfile.write(folder / "nan.wav", samples, 16_000, subtype="FLOAT")
    (folder / "cut.flac").write_bytes(b"fLaC\x00\x00")
    return folder


@pytest.mark.parametrize("command", ["embed", "classify", "search"])
def test_bad_files_are_named_and_the_rest_is_done(run, place, mixed, command):
    arguments = {
        "embed": ["embed", mixed, mixed / "missing.wav", "--out", "v.npz"],
        "classify": ["classify", mixed, mixed / "missing.wav", "--labels", "rain,dog"],
        "search": ["search", "rain", mixed, mixed / "missing.wav"],
    }[command]
    code, out, err = run(*arguments, "--model", place, "--json")
    assert code == 2
    document = json.loads(out)
    assert [os.path.basename(entry["file"]) for entry in document["errors"]] == [
        "corrupt.wav", "cut.flac", "empty.wav", "nan.wav", "missing.wav",
    ]  # fmt: skip
    done = {"embed": "vectors", "classify": "results", "search": "hits"}[command]
    assert [os.path.basename(entry["file"]) for entry in document[done]] == ["good.wav"]
    lines = err.splitlines()
    assert lines[-1] == "error: 5 of 6 files could not be used (named above); the rest is done"
    for name in ("corrupt", "cut", "empty", "nan", "missing"):
        assert sum(f"{name}." in line for line in lines) == 1
    if command == "embed":
        assert len(np.load("v.npz")["files"]) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty.wav", "empty"),
        ("corrupt.wav", ""),
        ("nan.wav", "NaN"),
        ("missing.wav", "no such file"),
    ],
)
def test_single_bad_file_is_one_line(run, place, mixed, name, words):
    code, _, err = run("embed", mixed / name, "--model", place)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: {mixed / name}: ")
    assert words in err


def test_silent_file_is_told(run, place):
    soundfile.write("silent.wav", np.zeros(16_000), 16_000)
    code, _, err = run("embed", "silent.wav", "--model", place, "--json")
    assert code == 0
    assert err == "warning: silent.wav: silent; its vector says nothing\n"


def test_folder_without_audio_is_refused(refused, place, tmp_path):
    (tmp_path / "texts").mkdir()
    assert "texts: no audio file" in refused("embed", "texts", "--model", place)


def test_unwritable_output_is_refused(refused, place):
    sound = place / "sounds" / "tone0.wav"
    line = refused("embed", sound, "-m", place, "-o", sound / "v.npz")
    assert f"{sound / 'v.npz'}: cannot be written" in line


def test_full_disk_while_writing_vectors_names_the_file(refused, place, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "v.npz").write_bytes(b"older")
    monkeypatch.setattr("numpy.savez", full)
    sound = place / "sounds" / "tone0.wav"
    line = refused("embed", sound, "-m", place, "-o", "v.npz")
    assert line == "error: v.npz: cannot be written (No space left on device)"
    assert [p.name for p in tmp_path.iterdir()] == ["v.npz"]
    assert (tmp_path / "v.npz").read_bytes() == b"older"


def test_classify(run, documented, place, tmp_path):
    sound = place / "sounds" / "tone0.wav"
    (tmp_path / "labels.txt").write_text("rain\n\ndog bark\nrain\nbell, small\n")
    found = documented("classify", sound, "--labels-file", "labels.txt", "-m", place)
    labels = found["results"][0]["labels"]
    assert {entry["label"] for entry in labels} == {"rain", "dog bark", "bell, small"}
    assert sum(entry["probability"] for entry in labels) == pytest.approx(1)
    code, out, _ = run(
        "classify", sound, "--labels", "a,b,c", "--top", 2, "-m", place, "--template", "a {label}"
    )
    assert code == 0
    assert out.count("%") == 2


def test_a_file_among_the_labels_is_told(run, refused, place):
    sound = place / "sounds" / "tone0.wav"
    for name in ("labels.txt", "rain"):
        Path(name).write_text("rain\nbell\n")
    told = "--labels labels.txt is a file: did you mean --labels-file labels.txt?"
    for command in ("classify", "tag"):
        line = refused(command, sound, "--labels", "labels.txt", "-m", place)
        assert line == f"error: {command}: {told}"
    code, _, err = run("classify", sound, "--labels", "labels.txt,bell", "-m", place)
    assert (code, err) == (0, f"warning: {told}\n")
    code, _, err = run("classify", sound, "--labels", "rain,gone.txt", "-m", place)
    assert (code, err) == (0, "")


def test_template_without_a_hole_is_refused(refused, place):
    sound = place / "sounds" / "tone0.wav"
    line = refused("classify", sound, "--labels", "a,b", "-m", place, "--template", "a sound")
    assert "'a sound' has no {label}" in line


def test_search_folders_and_vectors(run, documented, place):
    found = documented("search", "rain on a roof", place / "sounds", "--top", 3, "-m", place)
    cosines = [hit["cosine"] for hit in found["hits"]]
    assert len(cosines) == 3
    assert cosines == sorted(cosines, reverse=True)
    assert found["searched"] == 10
    run("embed", place / "sounds", "-m", place, "-o", "v.npz")
    again = documented("search", "rain on a roof", "v.npz", "--top", 3, "-m", place)
    assert again["hits"] == found["hits"]
    assert "tone" in run("search", "rain", "v.npz", "-m", place)[1]


def test_vectors_of_another_model_are_refused(run, refused, place, tmp_path):
    run("embed", place / "sounds", "-m", place, "-o", "v.npz")
    other = on_disk.save_tiny_model(tmp_path / "other.safetensors", seed=5)
    assert "of another model" in refused("search", "rain", "v.npz", "-m", other)
    (tmp_path / "no.npz").write_bytes(b"x")
    assert "no.npz: not a file of vectors" in refused("search", "rain", "no.npz", "-m", place)
    assert "query is empty" in refused("search", " ", "v.npz", "-m", place)


def test_truncated_model_is_refused(refused, place, tmp_path):
    whole = (place / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cut.safetensors: not a whole" in refused("check", "cut.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    assert "text.safetensors: not a whole" in refused("check", "text.safetensors")


def test_closed_pipe_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "echoic.cli", "--version"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


# train, check, eval


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory):
    """A run of four steps on the tones, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "tones"
    command = [sys.executable, "-m", "echoic.cli", "train", "nano", *on_disk.OVERRIDES]
    command += ["--data", place / "sounds", "--out", folder, "--valid-share", "0.3", "--seed", "3"]
    done = subprocess.run(
        [*map(str, command), "--cpu-threads", "1"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, done.stderr


def test_train_tells_what_it_does(trained, place):
    folder, out, err = trained
    for word in ("recipe nano: 4 steps", "held out", "hours", "parameters", "step 4/4", "eval 4/4"):
        assert word in err
    assert f"model: {folder / 'model.safetensors'}" in out
    assert (folder / "model.safetensors").is_file()
    assert "seed: 3" in (folder / "recipe.yaml").read_text()


def test_commands_that_train_prints_work(trained, run):
    lines = [line.split(":  ", 1)[1] for line in trained[1].splitlines() if ":  echoic" in line]
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)
        code, out, err = run(*words[1:])
        assert code == 0, err
        assert out
    assert (trained[0] / "report.html").is_file()


def test_run_is_not_overwritten_and_resumes(trained, run, refused, place):
    folder = trained[0]
    before = (folder / "recipe.yaml").read_bytes()
    command = ["train", "nano", *on_disk.OVERRIDES, "--data", place / "sounds", "--out", folder]
    command += ["--valid-share", 0.3]
    assert "holds a training at step 4" in refused(*command, "--seed", 3)
    assert "run.seed (was 3, is 4)" in refused(*command, "--seed", 4, "--resume")
    assert (folder / "recipe.yaml").read_bytes() == before
    code, out, _ = run(*command, "--seed", 3, "--resume", "--json")
    assert code == 0
    assert json.loads(out)["steps"] == 4


def test_ctrl_c_stops_and_resume_goes_on(place, tmp_path, run):
    folder = tmp_path / "run"
    command = ["train", "nano", *on_disk.OVERRIDES, "optim.steps=150", "run.save_every=20"]
    command += ["--data", place / "sounds", "--out", folder, "--valid-share", 0]
    command += ["--cpu-threads", 1]
    words = [sys.executable, "-m", "echoic.cli", *map(str, command)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(folder.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "--resume goes on from here" in err.splitlines()[-1]
    assert "interrupted" not in err
    stopped = max(int(path.name[5:]) for path in folder.glob("checkpoints/step-*"))
    assert stopped < 150
    code, out, err = run(*command, "--resume", "--json")
    assert code == 0
    assert f"resumed at step {stopped} " in err
    assert json.loads(out)["steps"] == 150


def test_valid_table_is_used(place, run, tmp_path):
    valid = place / "sounds" / "captions.csv"
    command = ["train", "nano", *on_disk.OVERRIDES, "--data", place / "sounds", "--valid", valid]
    code, out, err = run(*command, "--cpu-threads", 1)
    assert code == 0, err
    assert "10 clips, 0.00 hours, 10 more held out" in err
    assert (tmp_path / "runs" / "nano-sounds" / "model.safetensors").is_file()
    assert f"--data {valid}" in out


def test_bad_clip_is_skipped_in_training(place, run, tmp_path):
    folder = tmp_path / "some"
    shutil.copytree(place / "sounds", folder)
    soundfile.write(folder / "tone4.wav", np.zeros(16_000), 16_000)
    command = ["train", "nano", *on_disk.OVERRIDES, "--data", folder, "--valid", folder, "--json"]
    code, out, err = run(*command, "data.max_bad_share=0.2", "--cpu-threads", 1)
    assert code == 0, err
    assert json.loads(out)["steps"] == 4
    assert err.count("warning: clip tone4.wav skipped: silent") == 1
    assert err.count("warning: held-out clip tone4.wav left out: silent") == 1


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("sound,words\ntone0.wav,rain\n", "t.csv: no column of audio files"),
        ("file,loudness\ntone0.wav,3\n", "t.csv: no column of captions"),
        ("file,caption\ntone0.wav,rain\ngone.wav,dog\n", "t.csv: 1 of 2 rows name no file"),
        ("file,caption\ntone0.wav,\n", "1 of 1 rows have no caption"),
        ("", "t.csv: the table is empty"),
    ],
)
@pytest.mark.parametrize("command", [["train", "nano", "--data"], ["data", "check"]])
def test_wrong_tables_are_one_line(refused_any, place, tmp_path, table, words, command):
    on_disk.write_tone(tmp_path / "tone0.wav", 300)
    (tmp_path / "t.csv").write_text(table)
    assert words in refused_any(*command, "t.csv")


@pytest.fixture
def refused_any(run):
    """Like `refused`, for commands that tell what they found before they end with 2."""

    def call(*arguments):
        code, _, err = run(*arguments)
        assert code == 2, err
        assert sum(line.startswith("error: ") for line in err.splitlines()) == 1
        return err.splitlines()[-1]

    return call


def test_check_of_a_trained_model(trained, documented, run):
    found = documented("check", trained[0])
    assert found["ok"]
    assert found["stored"]
    code, out, _ = run("check", trained[0])
    assert code == 0
    assert "as exported" in out


def test_check_finds_a_model_that_is_off(place, run, tmp_path):
    card = {"self_test": {"space_id": "0", "vectors": {"audio: chirp": [1.0] + [0.0] * 15}}}
    on_disk.save_tiny_model(tmp_path / "off.safetensors", card)
    code, out, err = run("check", "off.safetensors", "--json")
    assert code == 2
    assert not json.loads(out)["ok"]
    assert "off.safetensors: not in order: space id" in err.splitlines()[-1]
    code, out, _ = run("check", place)
    assert code == 0
    assert "no self-test in this file" in out


def test_eval_on_data_and_suite(documented, run, place):
    found = documented("eval", place, "--data", place / "sounds", "--report", "r/report.html")
    assert found["data"]["clips"] == 10
    assert "retrieval/text_to_audio_R@1" in found["metrics"]
    assert os.path.getsize("r/report.html") > 10_000
    code, out, _ = run("eval", place, "--data", place / "sounds")
    assert code == 0
    assert "retrieval/text to audio R@1" in out
    suite = ["eval", place, "--suite", "synth", "--scenes", 4, "--items", 6, "--processes", 1]
    assert "synth/order/accuracy" in documented(*suite)["metrics"]


# data


def test_synth_shards_and_check(documented, run, refused):
    made = documented("data", "synth", "made", "--clips", 3, "--max-s", 2, "--processes", 1)
    assert made["clips"] == 3
    assert documented("data", "check", "made")["ok"]
    packed = documented("data", "shards", "made", "packed", "--rate", 8000, "--per-shard", 2)
    assert (packed["clips"], packed["shards"]) == (3, 2)
    code, out, _ = run("data", "check", "packed")
    assert code == 0
    assert "packed: 3 of 3 clips are good" in out
    assert "made: already holds shards" in refused("data", "synth", "made", "--clips", 3)


def test_what_is_wrong_with_a_table_names_the_options(place, run, refused_any, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("file,caption\ntone0.wav,rain\ngone.wav,dog\n")
    sounds = ["--audio-dir", place / "sounds"]
    way = "name their folder as --audio-dir, or leave them out with"
    line = refused_any("train", "nano", "--data", table, *sounds)
    assert f"{way} --missing skip" in line
    line = refused_any("data", "check", table, *sounds)
    assert line.count(str(table)) == 1
    assert f"{way} echoic train --missing skip" in line  # it has no such option itself
    assert "given as --audio-dir" in refused_any("data", "check", table, "--audio-dir", "none")
    (tmp_path / "u.csv").write_text("sound,words\na.wav,hello\n")
    assert "with --file-column" in refused_any("data", "check", tmp_path / "u.csv")
    line = refused_any("data", "keywords", table, "--out", tmp_path / "made")
    assert "(see --tag-column)" in line


def test_keywords(documented, run, refused, tmp_path):
    (tmp_path / "t.csv").write_text('file,tags,duration\na.wav,"dog,man",5\nb.wav,rain,1\n')
    made = documented("data", "keywords", "t.csv", "--out", "made")
    counts = {"captions": 1, "kept": 0, "files": 1, "untagged": 0, "short": 1}
    assert made == {"folder": "made", **counts}
    lines = (tmp_path / "made" / "part-000000.jsonl").read_text().splitlines()
    assert [json.loads(line)["caption"] for line in lines] == ["The sounds of dog and person"]
    code, out, err = run("data", "keywords", "t.csv", "--out", "made")
    assert code == 0
    assert "made: 1 captions in 1 files, 1 of them by an earlier run" in out
    assert "0 without tags, 1 too short" in err
    again = ["data", "keywords", "t.csv", "--out", "made"]
    assert "other settings (debias" in refused(*again, "--no-debias")
    assert "another generator" in refused(*again, "--generator", "template:epidemic")
    assert "template 'template:x': wanted one of" in refused(*again, "--generator", "template:x")
    assert "no such file" in refused("data", "keywords", "gone.csv", "--out", "x")
    assert "generator ./gone: cannot be loaded" in refused(*again, "--generator", "./gone")


def test_check_names_every_bad_clip(run, mixed, place):
    (mixed / "captions.csv").write_text(
        "file,caption\ngood.wav,a tone\nempty.wav,x\nnan.wav,x\ngone.wav,x\n"
    )
    code, out, err = run("data", "check", mixed, "--json")
    assert code == 2
    found = json.loads(out)
    assert set(found["bad"]) == {"empty.wav", "nan.wav"}
    assert (found["clips"], found["good"], found["ok"]) == (3, 1, False)
    assert "gone.wav" in found["problems"][0]
    assert "2 of 3 clips are unusable" in err.splitlines()[-1]


def test_truncated_tar_is_named(run, refused_any, place):
    run("data", "shards", place / "sounds", "packed")
    tar = os.path.join("packed", "shard-000000.tar")
    with open(tar, "r+b") as file:
        file.truncate(os.path.getsize(tar) // 2)
    assert f"{tar}: damaged or cut off" in refused_any("data", "check", "packed")
    assert f"{tar}: damaged or cut off" in refused_any("train", "nano", "--data", "packed")


def test_options_of_a_table_reach_the_printed_commands(place, run, tmp_path):
    rows = [f"tone{i}.wav,a tone {i},x" for i in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(["name,what,kind", *rows]))
    columns = ["--audio-dir", place / "sounds", "--file-column", "name", "--caption-column", "what"]
    code, out, err = run("train", "nano", *on_disk.OVERRIDES, "--data", "t.csv", *columns)
    assert code == 0, err
    words = shlex.split(out.splitlines()[1].split(":  ")[1])
    code, _, err = run(*words[1:])
    assert code == 0, err


def test_shards_leave_bad_clips_out(run, mixed):
    (mixed / "captions.csv").write_text("file,caption\ngood.wav,a tone\nnan.wav,x\n")
    code, out, err = run("data", "shards", mixed, "packed")
    assert code == 2
    assert "packed: 1 clips" in out
    assert err.splitlines()[-1] == (
        "error: 1 clips could not be used (named above); the rest is written"
    )


def test_demo_command(run):
    code, _, err = run("demo", "--out", "d", "--quick", "--cpu-threads", 1)
    assert code == 0
    assert "[5/5] done" in err
    assert "what to type next" in err
