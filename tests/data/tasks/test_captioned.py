"""Sets with captions: each opens on a small folder of exactly its layout, with all captions of its
clips, and says what is missing."""

from __future__ import annotations

import csv
import shutil
from collections import Counter

import pytest

from echoic.data.tasks import CAPTIONED, check_task, open_spec
from echoic.types import DataError
from tests import task_trees
from tests.task_trees import CAPTIONED_TREES, text


@pytest.fixture
def tree(tmp_path):
    def make(name):
        CAPTIONED_TREES[name](tmp_path)
        return tmp_path

    return make


def keys(task, rows):
    return [task.source.clips[i].key for i in rows]


@pytest.mark.parametrize("name", CAPTIONED)
def test_each_set_opens_on_its_layout(name, tree):
    task = open_spec(name, tree(name))
    assert {*task.parts} == {"train", "valid", "test"}
    assert sorted([*task.judging(), *task.learning()]) == list(range(len(task.parts)))
    assert {len(task.source.clips[i].captions) for i in task.judging()} == {5}
    wave = task.source.read(int(task.judging()[0]), 8000)
    assert len(wave) == round(task_trees.SECONDS * 8000)
    assert all(path.is_file() for path in task.source.paths)


def test_audiocaps_names_in_four_ways_and_lacks_some(tree, caplog):
    task = open_spec("audiocaps", tree("audiocaps"))
    assert keys(task, task.learning()) == ["train/Yr1nicOVtvkQ.wav", "audio/val/vfY_TJq7n_U_0.flac"]
    assert keys(task, task.judging()) == ["audio/7fmOlUlwoNg_000020.wav", "audio/-6BJ455B1_a.wav"]
    assert task.missing == ("train/UDGBjjwyaqE.wav",)
    assert "1 of 5 clips of AudioCaps v1 are not there" in caplog.text


def test_rows_of_a_clip_are_its_captions_in_order_and_the_same_one_counts_twice(tree):
    task = open_spec("audiocaps", tree("audiocaps"))
    said = ("rattles", "rattles", "vibrates", "shakes", "buzzes")
    assert [task.source.clips[i].captions for i in task.judging()] == [
        tuple(f"{what} {verb}" for verb in said) for what in ("Something", "A rocket")
    ]


def test_clotho_has_five_columns_and_names_that_begin_with_a_space(tree):
    task = open_spec("clotho", tree("clotho"))
    assert keys(task, task.learning())[0] == "development/ Ambience Birds.wav"
    first = task.source.clips[task.judging()[0]]
    assert first.captions == ("One, of Santa Motor.wav", "Two", "Three", "Four", "Five")
    assert check_task("clotho", tree("clotho")).missing == ()


def test_the_test_part_alone_will_do(tree, caplog):
    folder = tree("clotho")
    (folder / "clotho_captions_development.csv").unlink()  # its sound is there
    shutil.rmtree(folder / "validation")  # its list is there
    task = open_spec("clotho", folder)
    assert {*task.parts} == {"test"}
    assert not len(task.learning())
    assert (task.missing, caplog.text) == ((), "")
    assert check_task("clotho", folder).problems == (
        "clotho_captions_development.csv is missing",
        "1 of 3 clips are not there (first: validation/FR.CTC.08.CoyuyoS.001.wav)",
        "valid: 1 clips, published are 1045",
        "test: 2 clips, published are 1045",
    )


def test_real_lists_are_read_whole(shared, tmp_path, caplog):
    """Those of AudioCaps and Clotho, less the rows that are kept for acceptance."""
    lists = shared / "data/text"
    names = {"development": "train", "validation": "val", "evaluation": "test"}
    for name, other in names.items():
        shutil.copy(lists / f"clotho_v2.1_{other}.csv", tmp_path / f"clotho_captions_{name}.csv")
        shutil.copy(lists / f"audiocaps_v1_{other}.csv", tmp_path / f"{other}.csv")
    for name, wanted in {"clotho": (3835, 1037, 1036), "audiocaps": (49_838, 495, 951)}.items():
        found = check_task(name, tmp_path)
        assert len(found.missing) == sum(wanted)
        published = CAPTIONED[name].expected
        fewer = {
            f"{part}: {count} clips, published are {published[part]}"
            for part, count in zip(("train", "valid", "test"), wanted, strict=True)
            if count != published[part]
        }
        assert {*found.problems[1:]} == fewer  # and every test clip has five captions
    assert caplog.text == ""


def test_real_clips_of_clotho_are_heard(shared, tmp_path):
    """Eleven of its clips, as Ogg and under its own names, with its own lists."""
    with (shared / "data/clotho/captions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = {"train": "development", "val": "validation", "test": "evaluation"}
    for split, name in names.items():
        shutil.copy(
            shared / f"data/text/clotho_v2.1_{split}.csv", tmp_path / f"clotho_captions_{name}.csv"
        )
    for row in rows:
        place = tmp_path / names[row["clotho_split"]]
        place.mkdir(exist_ok=True)
        real = shared / "data/clotho/audio" / row["file"]
        (place / row["clotho_file"].replace(".wav", ".ogg")).symlink_to(real)
    found = check_task("clotho", tmp_path)
    heard = Counter(
        {"train": "train", "val": "valid", "test": "test"}[r["clotho_split"]] for r in rows
    )
    assert found.clips == heard
    assert found.captions == 5 * len(rows) == 55
    assert not found.ok


# -- what is wrong is told in one line -----------------------------------------------------------


@pytest.mark.parametrize("name", CAPTIONED)
def test_what_judges_must_be_there(name, tree):
    folder, spec = tree(name), CAPTIONED[name]
    (folder / spec.needs[-1]).unlink()
    with pytest.raises(DataError, match=f"{spec.title} lacks {spec.needs[-1]} .echoic data check"):
        open_spec(name, folder)
    assert check_task(name, folder).lists[spec.needs[-1]] is False
    with pytest.raises(DataError, match=r"no such folder; .* is had from https://"):
        open_spec(name, folder / "none")
    with pytest.raises(DataError, match=r"no such folder; .* is had from https://"):
        check_task(name, folder / "none")


@pytest.mark.parametrize(
    ("name", "act", "line"),
    [
        (
            "clotho",
            lambda f: (f / "evaluation/Santa Motor.wav").unlink(),
            r"1 of 5 clips of Clotho v2\.1 are not there \(first: evaluation/Santa Motor\.wav\)",
        ),
        (
            "clotho",
            lambda f: shutil.rmtree(f / "evaluation"),
            r"no clip of Clotho v2\.1 is in test \(first: evaluation/Santa Motor\.wav\)",
        ),
        (
            "clotho",
            lambda f: text(f / "clotho_captions_evaluation.csv", "file_name,caption", "a.wav,b"),
            "no column 'caption_1'; it has file_name, caption",
        ),
        (
            "clotho",
            lambda f: text(
                f / "clotho_captions_evaluation.csv",
                "file_name,caption_1,caption_2,caption_3,caption_4,caption_5",
                "Santa Motor.wav,,,,,",
            ),
            r"1 clips have no caption \(first: evaluation/Santa Motor\.wav\)",
        ),
        (
            "audiocaps",
            lambda f: text(
                f / "val.csv",
                "audiocap_id,youtube_id,start_time,caption",
                *(f"{i},7fmOlUlwoNg,20,Ducks" for i in range(5)),
            ),
            r"test\.csv: audio/7fmOlUlwoNg_000020\.wav is in valid too",
        ),
        (
            "audiocaps",
            lambda f: [path.unlink() for path in (f / "audio").glob("*.wav")],
            r"no clip of AudioCaps v1 is in test \(first: test/7fmOlUlwoNg\.wav\)",
        ),
    ],
)
def test_faults_are_told(name, act, line, tree):
    folder = tree(name)
    act(folder)
    with pytest.raises(DataError, match=line) as error:
        open_spec(name, folder)
    assert "\n" not in str(error.value)
    assert not check_task(name, folder).ok


def test_check_names_clips_with_too_few_captions(tree):
    folder = tree("audiocaps")
    rows = (folder / "test.csv").read_text("utf-8").splitlines()
    text(folder / "test.csv", *rows[:-1])
    found = check_task("audiocaps", folder)
    assert found.problems[-1] == (
        "1 clips of test have not 5 captions (first: audio/-6BJ455B1_a.wav)"
    )
    assert found.to_json()["captions"] == found.captions == 1 + 5 + 9
