"""Suites name what there is; a run gives an entry of each, whatever becomes of the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from echoic.data.tasks import open_task
from echoic.eval.bootstrap import Bootstrap
from echoic.eval.protocols import LAION, M2D, PROTOCOLS, SLAP
from echoic.evaluate import SynthSize
from echoic.listening import CHOICES
from echoic.measures import CORPUS, How, heard_as, measures_of, own_protocol, planned
from echoic.suite import FULL, QUICK, SUITES, Item, find_items, run_suite
from echoic.tasks import zero_shot
from echoic.types import ConfigError
from tests import m2d, task_trees, tiny

TINY = SynthSize(scenes=3, singles=3, pairs=3, max_s=2.0)


@pytest.fixture(scope="module")
def model():
    return tiny.model(max_s=4.0)  # the least that tags over time


@pytest.fixture
def how():
    return How(protocol=SLAP, bootstrap=Bootstrap(seed=0, resamples=20))


@pytest.fixture
def data(tmp_path):
    task_trees.esc50(tmp_path / "esc50", per_class=1)
    task_trees.clotho(tmp_path / "clotho")
    return tmp_path


def test_of_some_folds_fewer_clips_are_expected(model, how, data):
    (entry,) = run_suite(model, find_items("esc50/zero_shot"), _short(how), data=data)
    assert entry.expected == 400
    assert "clips, published are 400" in entry.heading()
    (entry,) = run_suite(model, find_items("clotho/retrieval"), how, data=data)
    assert entry.expected == 1045


def _short(how):
    return replace(how, seeds=[1], folds=["1"])


# what is asked for


def test_every_suite_names_measures_that_there_are():
    for name, items in SUITES.items():
        assert len(set(items)) == len(items), name
        for task, what in items:
            assert what in measures_of(task), (name, task, what)
    assert PROTOCOLS.keys() <= SUITES.keys()


def test_names_are_suites_tasks_and_measures():
    assert find_items("esc50") == tuple(
        Item("esc50", what) for what in ("zero_shot", "linear", "finetune")
    )
    assert find_items("clotho/retrieval, esc50/linear") == (
        Item("clotho", "retrieval"), Item("esc50", "linear"),
    )  # fmt: skip
    assert find_items("esc50/linear,esc50/linear") == (Item("esc50", "linear"),)


def test_a_papers_suite_is_by_its_protocol_and_quick_is_small():
    assert {item.protocol for item in find_items("laion")} == {"laion"}
    assert {item.protocol for item in find_items("zero_shot")} == {None}
    assert {item.size for item in find_items("quick")} == {QUICK}
    assert {item.size for item in find_items("synth")} == {FULL}


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("qick", "no suite or task 'qick'; did you mean quick"),
        ("esc51", "did you mean esc50"),
        ("quick,", "no suite or task ''"),
        ("quick/retrieval", "no suite or task 'quick/retrieval'"),
        ("esc50/retrieval", "esc50 has no measure 'retrieval'; it has zero_shot, linear, finetune"),
    ],
)
def test_an_unknown_name_is_told(asked, line):
    with pytest.raises(ConfigError, match=line):
        find_items(asked)


# running


def test_the_corpus_needs_no_data(model, how):
    items = [replace(item, size=TINY) for item in find_items("quick")]
    entries = list(run_suite(model, items, how))
    assert {entry.measure: entry.status for entry in entries} == {
        "retrieval": "measured", "zero_shot": "measured", "order": "measured",
        "attributes": "measured", "captioning": "left out", "events": "measured",
    }  # fmt: skip
    assert all(entry.task == CORPUS and entry.by == "" for entry in entries)
    figures = {f"{entry.measure}/{each.name}" for entry in entries for each in entry.figures}
    assert {"order/accuracy", "attributes/loudness", "events/psds1"} <= figures
    assert [entry.clips for entry in entries] == [3, 3, 3, 3, 0, 3]


def test_a_captioner_writes_captions(how):
    item = Item(CORPUS, "captioning", size=TINY)
    (entry,) = run_suite(tiny.captioner(), [item], how)
    assert entry.status == "measured"
    assert "cider_d" in {each.name for each in entry.shown()}
    assert any("Captions' judges: " in words for words in entry.words)


def test_what_is_lacking_or_fails_stops_nothing_else(model, how, data):
    (data / "gtzan").mkdir()
    asked = "us8k/linear,gtzan/linear,esc50/zero_shot"
    lacking, failed, done = run_suite(model, find_items(asked), how, data=data)
    assert lacking.status == "no data"
    assert lacking.reason.startswith(f"no folder {data / 'us8k'}; from https://urbansound")
    assert failed.status == "failed"
    assert "lacks train_filtered.txt" in failed.reason
    assert done.status == "measured"
    assert done.figures[0].published.model == "SLAP"
    assert done.expected == 2000
    (without,) = run_suite(model, find_items("us8k/linear"), how)
    assert "give --data DIR with a folder us8k in it" in without.reason


def test_a_model_of_sound_alone_is_measured_by_what_it_can(how, data):
    deaf_to_words = tiny.model(text=None)
    asked, learnt = run_suite(
        deaf_to_words, find_items("esc50/zero_shot,esc50/linear"), _short(how), data=data
    )
    assert (asked.status, asked.reason) == ("left out", "the model reads no text")
    assert learnt.status == "measured"
    (entry,) = run_suite(tiny.model(max_s=2.0), [Item(CORPUS, "events", size=TINY)], how)
    assert entry.status == "left out"
    assert "this model hears up to 2 s" in entry.reason


def test_an_error_of_our_own_is_not_swallowed(model, how, data, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError

    monkeypatch.setattr("echoic.measures.evaluate", broken)
    with pytest.raises(ZeroDivisionError):
        list(run_suite(model, find_items("clotho/retrieval"), how, data=data))


# the papers' choices


def test_clips_are_heard_whole_or_at_the_tasks_length(model, how, data):
    """The tree's clips are 0.1 s, ESC-50's 5 s: whole clips are not filled with zeros."""
    values = {}
    for protocol in (M2D, LAION):
        (entry,) = run_suite(
            model, find_items("esc50/zero_shot"), replace(how, protocol=protocol), data=data
        )
        scores = entry.result.answers.runs[0]
        values[protocol.name] = scores
        assert any("to 5 s" in words for words in entry.words) is (protocol is M2D)
        assert any("as long as it is" in words for words in entry.words) is (protocol is LAION)
    task = open_task("esc50", data / "esc50")
    wanted = zero_shot(model, task, prompts="m2d", bootstrap=how.bootstrap).answers.runs[0]
    np.testing.assert_allclose(values["m2d"], wanted)
    assert not np.allclose(values["laion"], wanted, atol=1e-3)


def test_whole_clips_of_the_tasks_length_are_scored_as_cut_ones(model, how, tmp_path, monkeypatch):
    """So the two ways of asking differ in what is heard alone."""
    monkeypatch.setattr(task_trees, "SECONDS", 5.0)
    task_trees.esc50(tmp_path / "esc50", per_class=1)
    slap, cut = (
        next(
            run_suite(model, find_items("esc50/zero_shot"), replace(how, **changes), data=tmp_path)
        )
        for changes in ({"protocol": SLAP}, {"protocol": M2D})
    )
    np.testing.assert_allclose(
        slap.result.answers.runs[0], cut.result.answers.runs[0], rtol=0, atol=1e-5
    )
    np.testing.assert_array_equal(slap.result.answers.truth, cut.result.answers.truth)


def test_each_paper_asks_in_its_own_words(model, how, data):
    told = {}
    for protocol in PROTOCOLS.values():
        chosen = replace(how, protocol=protocol)
        (entry,) = run_suite(model, find_items("esc50/zero_shot"), chosen, data=data)
        told[protocol.name] = " ".join(entry.words)
        assert entry.by == protocol.name
    assert "“This is a sound of {label}.”" in told["laion"]
    assert "“{label} can be heard”" in told["m2d"]
    assert "SLAP does not say its sentences" in told["slap"]


def test_a_suites_own_protocol_goes_before_the_models(model, how, data):
    items = [item for item in find_items("laion") if item.task == "clotho"]
    (entry,) = run_suite(model, items, how, data=data)
    assert entry.by == "laion"
    assert any("as LAION computes it" in words for words in entry.words)
    assert {"text_to_audio_R@1", "audio_to_text_mAP@10"} <= {each.name for each in entry.figures}


def test_laion_takes_five_captions_of_a_clip_slap_all(model, how, data):
    rows = (data / "clotho/clotho_captions_evaluation.csv").read_text().splitlines()
    assert rows[0].endswith("caption_5")
    counts = {}
    for protocol in (replace(LAION, captions=2), SLAP):
        chosen = replace(how, protocol=protocol)
        (entry,) = run_suite(model, find_items("clotho/retrieval"), chosen, data=data)
        counts[protocol.name] = entry.result.data["captions"] / entry.clips
    assert counts == {"laion": 2, "slap": 5}


def test_what_was_asked_otherwise_is_said_where_it_counts(model, how, data):
    chosen = replace(how, prompts="hear {label}", folds=["1"], seeds=[7])
    asked, learnt = run_suite(model, find_items("esc50/zero_shot,esc50/linear"), chosen, data=data)
    assert asked.by == "slap (but prompts hear {label}; folds 1)"
    assert learnt.by == "slap (but seeds 7; folds 1)"
    assert asked.clips == 2


def test_a_model_hears_long_sound_as_its_own_paper_does(how):
    """Only where the protocol is its own paper's, and unless it was loaded to hear otherwise."""
    assert set(CHOICES) >= {each.long for each in PROTOCOLS.values() if each.long}
    own = m2d.model("tokens", text="small")
    assert own_protocol(own) is M2D
    assert own_protocol(tiny.model()) is SLAP
    by_m2d = replace(how, protocol=M2D)
    heard = heard_as(own, by_m2d)
    assert (own.listening.name, heard.listening.name) == ("windows", "m2d")
    assert heard.space_id == m2d.model("tokens", text="small", long="m2d").space_id != own.space_id
    assert heard.network is own.network
    for model, changed in (
        (own, how),
        (own, replace(by_m2d, as_loaded=True)),
        (tiny.model(), by_m2d),
    ):
        assert heard_as(model, changed) is model
    words = " ".join(planned(own, "clotho", "retrieval", by_m2d).words)
    assert "Of a recording longer than 2 s is heard: all of it, in M2D's chunks." in words


def test_a_clip_that_cannot_be_heard_is_named(model, how, data):
    soundfile.write(data / "esc50/audio/1-0-A-0.wav", np.zeros(0), tiny.RATE)
    (entry,) = run_suite(model, find_items("esc50/zero_shot"), how, data=data)
    assert (entry.clips, entry.status) == (9, "measured")
    assert list(entry.bad) == ["audio/1-0-A-0.wav"]
