"""`echoic data leaks`, and a training that leaves out what it lists."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echoic.data.contamination import leave_out, read_ids
from echoic.data.sources import open_source
from tests import on_disk
from tests.data.test_fingerprint import RATE_HZ, scene

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def sets(tmp_path):
    """A table of ten tones, of which two are also in a folder: one by its samples, one cut and
    softer, and one by its Freesound id."""
    folder = tmp_path / "sounds"
    files = on_disk.write_tones(folder, 10)
    for i in (1, 2):
        soundfile.write(files[i], scene(i, 2.0), RATE_HZ)
    files[3] = files[3].rename(folder / "1-100032-A-0.wav")
    on_disk.write_table(folder / "captions.csv", files)
    held = tmp_path / "held"
    held.mkdir()
    soundfile.write(held / "x.flac", soundfile.read(files[1], dtype="int16")[0], RATE_HZ)
    soundfile.write(held / "y.wav", 0.4 * scene(2, 2.0)[5000:28_000], RATE_HZ)
    soundfile.write(held / "100032__u__title.wav", scene(9, 1.0), RATE_HZ)
    return folder / "captions.csv", held


def test_pairs_and_counts(documented, run, sets):
    found = documented("data", "leaks", *sets)
    assert [(p["kind"], p["train"], p["eval"]) for p in found["pairs"]] == [
        ("audio", "tone1.wav", "x.flac"),
        ("near", "tone2.wav", "y.wav"),
        ("id", "1-100032-A-0.wav", "100032__u__title.wav"),
    ]
    assert found["by_kind"] == {"id": 1, "audio": 1, "near": 1}
    assert (found["train_clips"], found["remaining_train_clips"]) == (10, 7)
    assert (found["out"], found["out_eval"]) == (None, None)
    code, out, err = run("data", "leaks", *sets, "--by", "id")
    assert code == 0, err
    assert "freesound 100032" in out
    assert f"1 of 10 clips of {sets[0]} are in {sets[1]} too (1 by id); 9 remain" in out
    assert "--out leaks.json" in err


def test_training_leaves_out_just_those(run, sets, tmp_path):
    """By the command that is printed."""
    listed = tmp_path / "new" / "leaks.json"
    code, out, err = run("data", "leaks", *sets, "--out", listed)
    assert code == 0, err
    assert f"{listed}: leaves 3 clips of {sets[0]} out, 7 remain" in out
    assert f"train nano --data {sets[0]} --leave-out {listed}" in err
    code, _, err = run(
        "train", "nano", "--data", sets[0], "--leave-out", listed, "--out", tmp_path / "run",
        *on_disk.OVERRIDES,
    )  # fmt: skip
    assert code == 0, err
    assert f"3 of 10 clips left out: {listed} (3 entries) names 3" in err


def test_a_black_list_is_compared_by_ids(documented, refused, sets, tmp_path):
    black = tmp_path / "blacklist.json"
    black.write_text(json.dumps({"FreeSound": ["100032", "4"], "AudioSet": []}))
    found = documented("data", "leaks", sets[0], black)
    assert [(p["train"], p["eval"], p["what"]) for p in found["pairs"]] == [
        ("1-100032-A-0.wav", "freesound 100032", str(black))
    ]
    assert "has no audio: compare it --by id" in refused(
        "data", "leaks", sets[0], black, "--by", "near"
    )


def test_clips_of_the_same_name_stay(documented, tmp_path):
    train, held = tmp_path / "train", tmp_path / "held"
    for folder, seed in (("dog", 1), ("cat", 2)):
        (train / folder).mkdir(parents=True)
        soundfile.write(train / folder / "sound.wav", scene(seed, 1.0), RATE_HZ)
    held.mkdir()
    soundfile.write(held / "sound.wav", scene(1, 1.0), RATE_HZ)
    soundfile.write(held / "other.wav", scene(3, 1.0), RATE_HZ)
    lists = {"out": "new/train.json", "out_eval": "new/eval.json"}
    found = documented(
        "data", "leaks", train, held, "--out", lists["out"], "--out-eval", lists["out_eval"]
    )
    assert {name: found[name] for name in lists} == lists
    for folder, name, gone in ((train, "out", "dog/sound.wav"), (held, "out_eval", "sound.wav")):
        source = open_source(folder, need_captions=False)
        assert leave_out(source, [read_ids(lists[name])])[1].keys == (gone,)


def test_measuring_leaves_out_what_the_training_heard(run, sets, tmp_path):
    """By the command that is printed."""
    listed = tmp_path / "eval.json"
    code, out, err = run("data", "leaks", sets[1], sets[0], "--out-eval", listed)
    assert code == 0, err
    assert f"{listed}: leaves 3 clips of {sets[0]} out, 7 remain" in out
    command = f"eval MODEL --data {sets[0]} --leave-out {listed}"
    assert command in err
    model = on_disk.save_tiny_model(tmp_path / "tiny.safetensors")
    words = [model if word == "MODEL" else word for word in command.split()]
    code, out, err = run(*words, "--no-cache", "--json")
    assert code == 0, err
    assert f"3 of 10 clips left out: {listed} (3 entries) names 3" in err
    assert json.loads(out)["data"]["clips"] == 7


def test_nothing_is_shared(run, sets, tmp_path):
    """The list is written all the same: a script goes on, and finds no older one."""
    other = tmp_path / "other"
    other.mkdir()
    soundfile.write(other / "z.wav", scene(7, 1.0), RATE_HZ)
    code, out, err = run("data", "leaks", *(sets[0], other), "--out", "leaks.json")
    assert code == 0, err
    assert "0 of 10 clips" in out
    assert f"leaks.json: leaves 0 clips of {sets[0]} out, 10 remain" in out
    assert json.loads((tmp_path / "leaks.json").read_text()) == {"keys": []}


def test_bad_clips_are_named_and_the_rest_is_compared(run, sets):
    (sets[1] / "bad.wav").write_bytes(b"RIFF")
    soundfile.write(sets[1] / "silent.wav", np.zeros(8000), RATE_HZ)
    code, out, err = run("data", "leaks", *sets, "--json")
    assert code == 2
    assert set(json.loads(out)["bad_eval"]) == {"bad.wav", "silent.wav"}
    assert len(json.loads(out)["pairs"]) == 3
    assert f"0 clips of {sets[0]}, 2 of {sets[1]}" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.csv", "."], "none.csv: no such file or folder"),
        (["TRAIN", "none"], "none: no such file or folder"),
        (["TRAIN", "none.json"], "none.json: no such file"),
        (["TRAIN", "HELD", "--out", "list.csv"], "list.csv: the list is JSON: name it .json"),
        (["TRAIN", "HELD", "--out-eval", "list.csv"], "list.csv: the list is JSON"),
        (["TRAIN", "black.json", "--out-eval", "x.json"], "black.json: a list has no clips"),
        (["TRAIN", "HELD", "--by", "ear"], "ear"),
    ],
)
def test_wrong_words_are_one_line(refused, sets, arguments, words):
    Path("black.json").write_text('["100032"]')
    named = {"TRAIN": sets[0], "HELD": sets[1]}
    assert words in refused("data", "leaks", *(named.get(word, word) for word in arguments))


@pytest.fixture
def refused(run):
    """The one line of a command that ends with 2."""

    def call(*arguments):
        code, _, err = run(*arguments)
        assert code == 2
        line = err.strip().splitlines()[-1]
        assert line.startswith("error: ")
        return line

    return call
