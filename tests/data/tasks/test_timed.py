"""Sets with time lines: each declaration opens a small folder of exactly its layout, and says what
is missing."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from echoic.data.tasks.timed import (
    DESED,
    DESED_PUBLIC,
    TIMED,
    URBANSED,
    TimedEvent,
    events_listed,
    open_timed,
)
from echoic.eval.events import METRICS
from echoic.types import DataError
from tests.task_trees import text, wavs

HEADER = "filename\tonset\toffset\tevent_label"


def desed(folder, where="audio/validation", table="metadata/validation/validation.tsv"):
    text(
        folder / table,
        HEADER,
        "Y1_0.000_10.000.wav\t0.05\t0.1\tDog",
        "Y1_0.000_10.000.wav\t0.0\t0.08\tAlarm_bell_ringing",
        "Y2_3.000_13.000.wav\t\t\t",
        "Y3_0.000_10.000.wav\t1.5\t2.25\tRunning_water",
    )
    wavs(folder / where, [f"Y{name}.wav" for name in ("1_0.000_10.000", "2_3.000_13.000")])


def urbansed(folder):
    text(folder / "annotations/test/soundscape_test_0.txt", "0.01\t0.09\tdog_bark")
    text(folder / "annotations/test/soundscape_test_1.txt", "0.5\t0.9\tsiren", "0\t0.7\tdrilling")
    (folder / "annotations/test/soundscape_test_2.txt").write_text("")
    wavs(folder / "audio/test", [f"soundscape_test_{i}.wav" for i in range(3)])


TREES = {
    "desed": desed,
    "desedpublic": lambda folder: desed(folder, "audio/eval/public", "metadata/eval/public.tsv"),
    "urbansed": urbansed,
}


@pytest.mark.parametrize("name", TIMED)
def test_each_set_opens_on_its_layout(name, tmp_path):
    TREES[name](tmp_path)
    task = open_timed(TIMED[name], tmp_path)
    assert len(task.truth) == len(task.source.clips) == len(task.judging())
    assert all(path.is_file() for path in task.source.paths)
    assert len(task.source.read(0, 8000)) == 800
    assert {event.label for events in task.truth for event in events} <= set(task.labels)
    for clip, events in zip(task.source.clips, task.truth, strict=True):
        assert set(clip.tags) == {event.label for event in events}


def test_desed_in_words_and_in_order_of_time(tmp_path, caplog):
    desed(tmp_path)
    with caplog.at_level(logging.WARNING):
        task = open_timed(DESED, tmp_path)
    assert "1 of 3 recordings of DESED, validation part are not there" in caplog.text
    assert task.truth == (
        (TimedEvent(0.0, 0.08, "alarm or bell ringing"), TimedEvent(0.05, 0.1, "Dog")),
        (),  # a recording without events judges too: what is found in it is wrong
    )
    assert task.missing == ("audio/validation/Y3_0.000_10.000.wav",)
    # of the one that is missing too: how many classes compete does not hang on it
    assert task.labels == ("Dog", "Running water", "alarm or bell ringing")


def test_desed_as_the_later_challenges_lay_it_out(tmp_path):
    desed(tmp_path, "audio/validation/validation")
    assert len(open_timed(DESED, tmp_path).truth) == 2


def test_urbansed_has_a_table_for_each_recording(tmp_path):
    urbansed(tmp_path)
    listed = events_listed(URBANSED, tmp_path)
    assert [entry.path for entry in listed] == [
        f"audio/test/soundscape_test_{i}.wav" for i in range(3)
    ]
    assert [event.label for event in listed[1].events] == ["drilling", "siren"]
    assert listed[2].events == ()


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("a.wav\tx\t2\tDog", "validation.tsv: audio/validation/a.wav: 'x' to '2' is not a time"),
        ("a.wav\t3\t2\tDog", "validation.tsv: audio/validation/a.wav: an event from 3 to 2 s"),
        ("a.wav\t-1\t2\tDog", "an event from -1 to 2 s"),
        ("a.wav\t1\tinf\tDog", "an event from 1 to inf s"),
        ("a.wav\t1\t2\tDog\tCat", "validation.tsv row 2: 5 fields, not 4"),
    ],
)
def test_a_wrong_row_is_named(row, line, tmp_path):
    text(tmp_path / "metadata/validation/validation.tsv", HEADER, row)
    with pytest.raises(DataError, match=line.replace("(", r"\(")):
        open_timed(DESED, tmp_path)


def test_a_missing_column_is_named(tmp_path):
    text(tmp_path / "metadata/validation/validation.tsv", "filename\tonset\toffset\tlabel", "a\t1")
    with pytest.raises(DataError, match="no column 'event_label'; it has filename, onset"):
        open_timed(DESED, tmp_path)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match=r"no such folder; DESED.* is had from https"):
        open_timed(DESED_PUBLIC, tmp_path / "none")
    with pytest.raises(DataError, match=r"lacks metadata/eval/public\.tsv"):
        open_timed(DESED_PUBLIC, tmp_path)
    text(tmp_path / "metadata/eval/public.tsv", HEADER, "a.wav\t1\t2\tDog")
    with pytest.raises(DataError, match=r"no recording .* with an event is there .first: audio"):
        open_timed(DESED_PUBLIC, tmp_path)


def test_sound_may_lack_only_where_the_set_says_so(tmp_path):
    urbansed(tmp_path)
    (tmp_path / "audio/test/soundscape_test_2.wav").unlink()
    with pytest.raises(DataError, match=r"1 of 3 recordings of URBAN-SED.* are not there"):
        open_timed(URBANSED, tmp_path)
    assert len(open_timed(replace(URBANSED, may_lack=True), tmp_path).truth) == 2


def test_what_papers_report_is_of_metrics_that_we_have():
    for spec in TIMED.values():
        for each in spec.paper:
            assert each.protocol == "events"
            assert each.metric in {*METRICS, "psds1", "psds2"}
            assert 0 < each.value < 1
