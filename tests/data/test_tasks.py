"""Published tasks: each declaration opens a small folder of exactly its layout, and says what is
missing; no part judges that was learnt from."""

from __future__ import annotations

import csv
import re
from dataclasses import replace

import numpy as np
import pytest

from echoic.data.tasks import TASKS, check_task, find_task, open_task
from echoic.data.tasks.opening import listing, part_of_group
from echoic.data.tasks.task import draw_valid
from echoic.types import ConfigError, DataError
from tests import task_trees, tiny
from tests.task_trees import TREES, text


@pytest.fixture
def tree(tmp_path):
    def make(name):
        TREES[name](tmp_path)
        return tmp_path

    return make


def tags(source):
    return [tag for clip in source.clips for tag in clip.tags]


# name: labels in words, clips in train and valid, valid alone, test; folds
WANTED = {
    "esc50": (("dog", "sea waves"), 16, 2, 4, 5),
    "us8k": (("dog bark", "siren"), 18, 2, 2, 10),
    "spcv2": (("no", "yes"), 4, 2, 2, 1),
    "vc1": (("id10001", "id10002"), 4, 2, 2, 1),
    "gtzan": (("blues", "hiphop"), 6, 2, 2, 1),
    "nsynth": (("bass", "mallet", "synth lead"), 8, 2, 2, 1),
    "surge": (("40", "41"), 6, 2, 2, 1),
    "fsd50k": (("Bark", "Electric guitar", "Music"), 3, 1, 2, 1),
    "as20k": (("Speech", "Male speech, man speaking", "Dog", "Music"), 3, 1, 3, 1),
    "as": (("Speech", "Male speech, man speaking", "Dog", "Music"), 6, 1, 3, 1),
    "vggsound": (("bird chirping, tweeting", "people marching"), 2, 1, 2, 1),
    "ravdess": (("anger", "calm"), 72, 7, 24, 4),
}


@pytest.mark.parametrize("name", TASKS)
def test_each_task_opens_on_its_layout(name, tree):
    task = open_task(name, tree(name))
    splits = task.splits()
    assert all(splits[part].clips for part in ("train", "valid", "test"))
    keys = [clip.key for split in splits.values() for clip in split.clips]
    assert len(keys) == len(set(keys))  # no clip in two parts
    wave = splits["test"].read(0, 8000)
    assert len(wave) == round(task_trees.SECONDS * 8000)
    assert set(tags(task.source)) <= set(task.labels.names)
    assert all(path.is_file() for path in task.source.paths)
    if name in WANTED:
        labels, learnt, valid, test, folds = WANTED[name]
        assert task.labels.names == labels
        assert len(splits["train"].clips) + len(splits["valid"].clips) == learnt
        assert len(splits["valid"].clips) == valid
        assert len(splits["test"].clips) == test
        assert len(task.folds) == folds


def test_declarations_say_the_papers_numbers():
    lengths = {name: spec.clip_s for name, spec in TASKS.items()}
    assert lengths == {
        "esc50": 5, "us8k": 4, "spcv2": 1, "vc1": 8.2, "voxforge": 5.8, "cremad": 2.5, "gtzan": 30,
        "nsynth": 4, "surge": 4, "fsd50k": 7.6358, "as20k": 10, "as": 10,
        "vggsound": 10, "ravdess": 5,
    }  # fmt: skip
    totals = {name: sum(spec.expected.values()) for name, spec in TASKS.items() if spec.expected}
    assert totals == {
        "esc50": 2000, "us8k": 8732, "spcv2": 105_829, "vc1": 153_516, "gtzan": 930,
        "nsynth": 305_979, "fsd50k": 51_197, "vggsound": 199_176, "ravdess": 1440,
    }  # fmt: skip
    assert tuple(TASKS["gtzan"].expected.values()) == (443, 197, 290)
    assert {name for name, spec in TASKS.items() if spec.metric == "mAP"} == {
        "fsd50k", "as20k", "as"
    }  # fmt: skip
    assert all(spec.seeds == (42, 43, 44) for spec in TASKS.values())
    assert all(spec.home and spec.licence and spec.classes for spec in TASKS.values())


def test_papers_values_add_up_to_the_papers_averages():
    nine = ("esc50", "us8k", "spcv2", "vc1", "voxforge", "cremad", "gtzan", "nsynth", "surge")
    averages = {"M2D/0.7": 80.2, "M2D/0.6": 80.1, "M2D-AS/0.7": 80.6, "M2D-CLAP 2024": 80.8}
    for model, average in (averages | {"LAION-CLAP": 64.4}).items():
        values = [
            each.value
            for name in nine
            for each in TASKS[name].paper
            if (each.model, each.protocol) == (model, "linear")
        ]
        assert len(values) == 9
        assert 100 * np.mean(values) == pytest.approx(average, abs=0.06)
    esc50 = {(p.protocol, p.model): p.value for p in TASKS["esc50"].paper}
    assert esc50["zero_shot", "M2D-CLAP 2024"] == 0.7545
    assert esc50["zero_shot", "M2D-CLAP 2025"] == 0.943
    assert esc50["finetune", "M2D-CLAP 2024"] == 0.974
    assert ("zero_shot", "LAION-CLAP") not in {(p.protocol, p.model) for p in TASKS["as"].paper}


def test_each_fold_judges_once(tree):
    task = open_task("us8k", tree("us8k"))
    assert task.folds == tuple(map(str, range(1, 11)))
    judged = [i for fold in task.folds for i in task.indices(fold)["test"]]
    assert sorted(judged) == list(range(20))
    with pytest.raises(DataError, match="no fold '11'; there are 1, 2"):
        task.indices("11")


def test_validation_part_comes_from_training_alone_and_hangs_on_the_seed(tree):
    task = open_task("esc50", tree("esc50"))
    parts = task.indices("3", seed=42)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(20))
    assert {task.parts[i] for i in parts["test"]} == {"3"}
    assert {tag for i in parts["valid"] for tag in task.source.clips[i].tags} == {
        "dog",
        "sea waves",
    }
    again = task.indices("3", seed=42)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    others = [task.indices("3", seed=seed)["valid"] for seed in range(43, 48)]
    assert any(not np.array_equal(parts["valid"], other) for other in others)


def test_drawn_validation_part_has_all_classes_where_that_can_be(rng):
    clips = [(str(i % 10),) for i in range(200)]
    held = draw_valid(clips, rng, where="x")
    assert held.sum() == 20
    for side in (held, ~held):
        assert {clips[i] for i in np.flatnonzero(side)} == set(clips)


def test_a_class_of_one_clip_is_learnt(rng):
    clips = [("rare",), *[("common",)] * 29, *[("third",)] * 30]
    for _ in range(20):
        assert not draw_valid(clips, rng, where="x")[0]


def test_audioset_names_in_three_ways_and_lacks_some(tree, caplog):
    task = open_task("as20k", tree("as20k"))
    assert [path.name for path in task.source.paths[:3]] == [
        "--a.b.wav", "Y-b#b.flac", "cb_20.000.wav"
    ]  # fmt: skip
    assert task.source.clips[0].tags == ("Male speech, man speaking", "Speech")
    assert len(task.missing) == 2
    assert "2 of 8 clips of AudioSet, balanced training part are not there" in caplog.text
    truth = task.labels.truth(task.source.clips)
    assert truth[0].tolist() == [1, 1, 0, 0]


def test_vggsound_names_in_four_ways_and_lacks_some(tree, caplog):
    task = open_task("vggsound", tree("vggsound"))
    assert [clip.key for clip in task.source.clips] == [
        "audio/---g-f_I2yQ_000001.wav", "audio/--0PQM4-hqg_30.flac", "train/-A_b.wav",
        "video/Yf_c-d.wav",
    ]  # fmt: skip
    assert task.parts == ("test", "train", "train", "test")
    assert task.missing == ("audio/eeeeeeeeeee_000010.wav",)
    assert "1 of 5 clips of VGGSound are not there" in caplog.text


def test_labels_of_vggsound_are_words(shared, tmp_path):
    """The names of its own list of classes, as clips of it carry them."""
    with (shared / "data/text/vggsound_classes.csv").open(encoding="utf-8", newline="") as file:
        wanted = [row[0] for row in csv.reader(file)]
    assert len(set(wanted)) == TASKS["vggsound"].classes == 309
    rows = [f'{i:011},{i},"{name}",test' for i, name in enumerate(wanted)]
    text(tmp_path / "vggsound.csv", *rows)
    task_trees.wavs(tmp_path / "audio", ["00000000000.wav"])
    found = listing(TASKS["vggsound"], tmp_path)
    assert [entry.labels for entry in found] == [(name,) for name in wanted]


def test_folds_of_ravdess_keep_actors_together_and_the_sexes_even(tree):
    task = open_task("ravdess", tree("ravdess"))
    assert len(task.parts) == 24 * 4  # no song, no film
    actors: dict[str, set[int]] = {}
    for clip, part in zip(task.source.clips, task.parts, strict=True):
        actors.setdefault(part, set()).add(int(clip.key[6:8]))
    assert sorted(actors) == list(task.folds) == ["1", "2", "3", "4"]
    assert sorted(i for each in actors.values() for i in each) == list(range(1, 25))
    assert all(sum(i % 2 for i in each) == 3 for each in actors.values())


def test_labels_of_audioset_are_the_files(shared, tmp_path):
    task_trees.audioset(tmp_path)
    real = (shared / "data/text/audioset_class_labels_indices.csv").read_text("utf-8")
    (tmp_path / "class_labels_indices.csv").write_text(real, "utf-8")
    with (tmp_path / "class_labels_indices.csv").open(encoding="utf-8") as file:
        wanted = [row["display_name"] for row in csv.DictReader(file)]
    assert list(open_task("as20k", tmp_path).labels.names) == wanted
    assert len(set(wanted)) == TASKS["as"].classes == 527


@pytest.mark.parametrize(
    ("name", "speaker"), [("cremad", r"AudioWAV/(\d{4})"), ("voxforge", r"../(speaker\d+)-")]
)
def test_hash_keeps_a_speaker_in_one_part(name, speaker, tree):
    task = open_task(name, tree(name))
    assert task.hashed
    assert set(task.parts) == {"train", "valid", "test"}
    parts: dict[str, set[str]] = {}
    for clip, part in zip(task.source.clips, task.parts, strict=True):
        if found := re.match(speaker, clip.key):
            parts.setdefault(found[1], set()).add(part)
    assert len(parts) >= 20
    assert all(len(each) == 1 for each in parts.values())


def test_the_nameless_are_not_one_speaker(tree):
    task = open_task("voxforge", tree("voxforge"))
    nameless = zip(task.source.clips, task.parts, strict=True)
    assert len({part for clip, part in nameless if "anonymous" in clip.key}) > 1


def test_hash_is_the_same_everywhere_and_in_proportion():
    shares = {"train": 0.69, "valid": 0.15, "test": 0.16}
    pinned = ["valid", "valid", "train", "valid", "train", "train"]
    assert [part_of_group(str(speaker), shares) for speaker in range(1001, 1007)] == pinned
    parts = [part_of_group(f"speaker {i}", shares) for i in range(4000)]
    for name, share in shares.items():
        assert parts.count(name) / 4000 == pytest.approx(share, abs=0.02)


def test_own_lists_come_before_the_hash(tree):
    folder = tree("cremad")
    rows = [f"{1001 + i}_DFA_{e}_XX.wav,{p}" for i, p in enumerate(("train", "valid", "test"))
            for e in ("ANG", "SAD")]  # fmt: skip
    text(folder / "split.csv", "file,split", *rows)
    task = open_task("cremad", folder)
    assert not task.hashed
    sizes = {name: len(source.clips) for name, source in task.splits().items()}
    assert sizes == {"train": 2, "valid": 2, "test": 2}  # the clips that it does not name are out
    assert tags(task.splits()["test"]) == ["anger", "sadness"]
    text(folder / "split.csv", "file,split", "1001_DFA_ANG_XX.wav,training")
    with pytest.raises(DataError, match=r"split\.csv: wanted the columns file and split"):
        open_task("cremad", folder)


def test_noise_and_unlisted_files_are_no_clips(tree):
    keys = {clip.key for clip in open_task("spcv2", tree("spcv2")).source.clips}
    assert len(keys) == 6
    assert not any("noise" in key for key in keys)
    text_keys = {"yes/cc_nohash_0.wav", "no/cc_nohash_0.wav"}
    task = open_task("spcv2", tree("spcv2"))
    assert {clip.key for clip in task.splits()["train"].clips} == text_keys


def test_eval_part_alone_will_do_for_zero_shot(tree):
    folder = tree("as20k")
    for file in (folder / "balanced_train_segments").iterdir():
        file.unlink()
    task = open_task("as20k", folder)
    assert len(task.judging()) == 3
    with pytest.raises(DataError, match="as20k: 0 training clips"):
        task.indices()


def test_hidden_files_are_no_clips(tree):
    folder = tree("spcv2")
    task_trees.wavs(folder, ["yes/._cc_nohash_0.wav"])
    assert len(open_task("spcv2", folder).source.clips) == 6


def test_files_may_have_another_audio_suffix(tree):
    folder = tree("esc50")
    (folder / "audio/1-0-A-0.wav").unlink()
    task_trees.wavs(folder, ["audio/1-0-A-0.flac"])
    keys = [clip.key for clip in open_task("esc50", folder).source.clips]
    assert keys[0] == "audio/1-0-A-0.flac"


# -- what is wrong is told in one line -----------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in TASKS if TASKS[name].needs])
def test_missing_lists_are_named(name, tmp_path):
    needs = TASKS[name].needs
    with pytest.raises(DataError) as error:
        open_task(name, tmp_path)
    assert all(file in str(error.value) for file in needs)
    assert "\n" not in str(error.value)
    found = check_task(name, tmp_path)
    assert not found.ok
    assert found.lists == dict.fromkeys(needs, False)


def test_no_folder_says_where_the_data_is_had(tmp_path):
    for act in (open_task, check_task):
        with pytest.raises(DataError, match=r"no such folder; ESC-50 is had from https://github"):
            act("esc50", tmp_path / "none")


def spoil(folder, line, instead):
    path = folder / "meta/esc50.csv"
    path.write_text(path.read_text().replace(line, instead), "utf-8")


@pytest.mark.parametrize(
    ("act", "line"),
    [
        (lambda f: (f / "audio/1-0-A-0.wav").unlink(), r"1 of 20 clips .* audio/1-0-A-0\.wav"),
        (lambda f: spoil(f, "fold,", "part,"), r"no column 'fold'; it has filename, part"),
        (lambda f: spoil(f, "1-0-A-0.wav,1,", "1-0-A-0.wav,1,2,"), "row 2: 8 fields, not 7"),
        (lambda f: spoil(f, "sea_waves", "dog"), "has only the label 'dog'"),
        (lambda f: text(f / "meta/esc50.csv", "filename,fold,category"), "no clip of ESC-50"),
    ],
)
def test_faults_are_told(act, line, tree):
    folder = tree("esc50")
    act(folder)
    with pytest.raises(DataError, match=line) as error:
        open_task("esc50", folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "file", "content", "line"),
    [
        ("vc1", "iden_split.txt", "id1/a.wav", r"iden_split\.txt row 1: 'id1/a\.wav' is not"),
        ("vc1", "iden_split.txt", "9 id1/a.wav", "clips of VoxCeleb1"),
        ("nsynth", "nsynth-test/examples.json", "{", "not readable as JSON"),
        ("nsynth", "nsynth-test/examples.json", "[]", "wanted an object of objects"),
        ("fsd50k", "FSD50K.ground_truth/vocabulary.csv", "0,Bark,/m/05tny_", "none of FSD50K"),
        (
            "as20k",
            "class_labels_indices.csv",
            "index,mid,name\n0,/m/04rlf,Music",
            "no column 'display_name'; it has index, mid, name",
        ),
        (
            "surge",
            "split.csv",
            "file,label,split\npreset0/40.wav,40,dev",
            "no clip of Surge pitch is",
        ),
    ],
)
def test_faulty_lists_are_told(name, file, content, line, tree):
    folder = tree(name)
    text(folder / file, content)
    with pytest.raises(DataError, match=line):
        open_task(name, folder)
    assert not check_task(name, folder).ok


def test_check_holds_the_lists_against_what_is_published(tree):
    """Also where clips may lack: what the lists name is counted, not what is there."""
    found = check_task("vggsound", tree("vggsound"))
    assert found.clips == {"test": 2, "train": 2}
    assert found.problems == (
        "train: 2 clips, published are 183730",
        "test: 3 clips, published are 15446",
        "2 classes, published are 309",
    )


def test_unknown_task_names_the_known_ones():
    assert find_task("ESC-50").name == "esc50"
    with pytest.raises(ConfigError, match="no task 'audiocaps' for classification; there are"):
        find_task("audiocaps")
    with pytest.raises(ConfigError, match="did you mean esc50"):
        find_task("esc51")
    with pytest.raises(ConfigError, match="there are esc50, us8k"):
        find_task("librispeech")


# -- check ---------------------------------------------------------------------------------------


def test_check_counts_and_compares(tree):
    folder = tree("esc50")
    found = check_task("esc50", folder)
    assert found.lists == {"meta/esc50.csv": True}
    assert found.clips == dict.fromkeys("12345", 4)
    assert found.problems[0] == "1: 4 clips, published are 400"
    assert found.problems[-1] == "2 classes, published are 50"
    (folder / "audio/2-1-A-1.wav").unlink()
    lacking = check_task("esc50", folder)
    assert lacking.missing == ("audio/2-1-A-1.wav",)
    assert lacking.problems[0] == "1 of 20 clips are not there (first: audio/2-1-A-1.wav)"
    assert lacking.to_json()["missing_first"] == ["audio/2-1-A-1.wav"]


def test_check_bears_with_audioset(tree):
    found = check_task("as20k", tree("as20k"))
    assert len(found.missing) == 2
    assert found.problems == ("4 classes, published are 527",)


def test_check_opens_no_audio(tree):
    folder = tree("fsd50k")
    (folder / "FSD50K.dev_audio/1.wav").write_bytes(b"")
    assert check_task("fsd50k", folder).clips == {"test": 2, "train": 2, "valid": 1}


def test_a_whole_set_is_in_order(tmp_path, monkeypatch):
    task_trees.surge(tmp_path)
    spec = TASKS["surge"]
    monkeypatch.setitem(TASKS, "surge", replace(spec, classes=2, expected={"train": 4}))
    found = check_task("surge", tmp_path)
    assert found.ok
    assert found.to_json()["problems"] == []


def test_sound_is_that_of_the_file(tree):
    task = open_task("esc50", tree("esc50"))
    wave = task.source.read(0, tiny.RATE)
    assert np.abs(wave - tiny.tone(201.0, task_trees.SECONDS)).max() < 1e-3
