"""Tasks of three kinds under one set of names: found, opened and checked alike."""

from __future__ import annotations

import pytest

from echoic.data.tasks import CAPTIONED, TASKS, TIMED, check_task, find_spec, find_task, open_spec
from echoic.types import ConfigError, DataError
from tests.task_trees import CAPTIONED_TREES, TREES, text, wavs

KINDS = (TASKS, CAPTIONED, TIMED)


def desed(folder):
    """One recording of three can't be had any more; one has no event."""
    text(
        folder / "metadata/validation/validation.tsv",
        "filename\tonset\toffset\tevent_label",
        "Ya_0.000_10.000.wav\t0.0\t0.05\tDog",
        "Ya_0.000_10.000.wav\t0.02\t0.06\tSpeech",
        "Yb_30.000_40.000.wav\t\t\t",
        "Yc_30.000_40.000.wav\t1.0\t2.0\tCat",
    )
    wavs(folder / "audio/validation", ["Ya_0.000_10.000.wav", "Yb_30.000_40.000.wav"])


def test_no_name_is_of_two_kinds_and_all_are_found():
    names = [name for kind in KINDS for name in kind]
    assert len(names) == len(set(names))
    for kind in KINDS:
        for name, spec in kind.items():
            assert find_spec(name.upper()) is spec
            assert spec.name == name
            assert spec.home
            assert spec.licence
    assert find_spec("AudioCaps").title == "AudioCaps v1"
    with pytest.raises(ConfigError, match="did you mean clotho"):
        find_spec("cloth")


@pytest.mark.parametrize("name", [*CAPTIONED, *TIMED])
def test_only_classification_is_found_as_a_task(name):
    with pytest.raises(ConfigError, match=f"no task '{name}' for classification; "):
        find_task(name)


@pytest.mark.parametrize(
    ("name", "make"),
    [("ESC-50", TREES["esc50"]), ("Clotho", CAPTIONED_TREES["clotho"]), ("desed", desed)],
)
def test_each_kind_is_opened_and_checked(name, make, tmp_path):
    make(tmp_path)
    task = open_spec(name, tmp_path)
    assert task.spec is find_spec(name)
    assert len(task.judging())
    found = check_task(name, tmp_path)
    assert sum(found.clips.values()) == len(task.source.clips)
    assert found.missing == task.missing
    assert any("published are" in line for line in found.problems)
    for act in (open_spec, check_task):
        with pytest.raises(DataError, match=r"no such folder; .* is had from https://"):
            act(name, tmp_path / "none")


def test_check_counts_recordings_and_classes_of_time_lines(tmp_path):
    desed(tmp_path)
    found = check_task("desed", tmp_path)
    assert found.clips == {"test": 2}
    assert found.missing == ("audio/validation/Yc_30.000_40.000.wav",)
    assert found.problems == (
        "test: 3 clips, published are 1168",
        "3 classes, published are 10",
    )
    text(tmp_path / "metadata/validation/validation.tsv", "filename\tonset", "a.wav\t1")
    assert "no column 'offset'" in check_task("desed", tmp_path).problems[0]
    (tmp_path / "metadata/validation/validation.tsv").unlink()
    assert check_task("desed", tmp_path).problems == (
        "metadata/validation/validation.tsv is missing",
    )
