"""Published prompts: the sentences, the classes, and how they are asked for."""

from __future__ import annotations

import csv

import pytest

from echoic.data.captions import words
from echoic.data.tasks import TASKS
from echoic.eval.prompts import ESC50_LABELS, PAPERS, PROMPTS, SETS, find_prompts, paper_prompts
from echoic.eval.zeroshot import prompt
from echoic.types import ConfigError


@pytest.mark.parametrize(
    ("name", "label", "sentence"),
    [
        ("esc50", "chirping_birds", "This is a sound of chirping birds."),
        ("us8k_readme", "gun shot", "This is a sound of gun shot"),
        ("gtzan", "jazz", "This is a jazz song."),
        ("GTZAN_readme", "jazz", "This audio is a jazz song."),
        ("a {label} here", "cat", "a cat here"),
        ("m2d/esc50", "chirping_birds", "chirping birds can be heard"),
        ("M2D/US8K", "gun shot", "gun shot can be heard"),
        ("m2d/audioset", "Male speech, man speaking", "Male speech, man speaking can be heard"),
        ("m2d/gtzan", "jazz", "jazz music can be heard"),
        (
            "m2d/nsynth",
            "synth_lead",
            "the musical instrument sound of synth lead can be heard",
        ),
    ],
)
def test_sentences(name, label, sentence):
    assert prompt(find_prompts(name).template, label) == sentence


def test_every_data_set_has_a_hole_and_its_classes_once():
    sizes = {"esc50": 50, "us8k": 10, "gtzan": 10, "cremad": 6}
    for name, found in PROMPTS.items():
        assert found.template.count("{label}") == 1
        labels = found.labels
        assert (labels and len(set(labels))) == sizes.get(
            name.removesuffix("_readme").removeprefix("m2d/")
        )
        assert all("_" not in label for label in labels or ())


def test_m2d_words_the_labels_of_cremad():
    found = find_prompts("m2d/cremad")
    words = {label: prompt(found.template, found.worded([label])[0]) for label in found.labels}
    assert words == {
        "anger": "angry person talking can be heard",
        "disgust": "someone talking in disgust can be heard",
        "fear": "someone talking with a sense of fear can be heard",
        "happiness": "someone talking happily and joyfully can be heard",
        "neutral": "someone talking calmly can be heard",
        "sadness": "someone talking sadly can be heard",
    }
    assert find_prompts("esc50").worded(["dog"]) == ["dog"]


@pytest.mark.parametrize(
    ("paper", "name", "label", "sentence", "source"),
    [
        (
            "laion",
            "vggsound",
            "people marching",
            "This is a sound of people marching.",
            "evaluation",
        ),
        ("laion", "ravdess", "anger", "This is a sound of anger.", "reports no figure"),
        ("m2d", "gtzan", "jazz", "jazz music can be heard", "EVAR"),
        ("m2d", "vggsound", "people marching", "people marching can be heard", "ours: M2D-CLAP"),
        ("m2d", "spcv2", "yes", "someone saying yes can be heard", "ours: M2D-CLAP"),
        ("slap", "gtzan", "jazz", "jazz music can be heard", "ours, as M2D-CLAP asks: SLAP"),
        ("slap", "cremad", "anger", "angry person talking can be heard", "ours, as M2D-CLAP asks"),
        ("slap", "ravdess", "calm", "someone talking calmly can be heard", "ours: SLAP"),
    ],
)
def test_papers_ask_by_their_rule_or_what_stands_nearest(paper, name, label, sentence, source):
    asked = paper_prompts(paper, name)
    assert prompt(asked.template, asked.worded([label])[0]) == sentence
    assert source in asked.source


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("name", ["cremad", "ravdess"])
def test_no_two_emotions_are_asked_for_alike(paper, name):
    labels = TASKS[name].names.values()
    words = paper_prompts(paper, name).worded(labels)
    assert len({*words}) == len(words) == TASKS[name].classes
    assert paper == "laion" or not {*words} & {*labels}


def test_every_set_is_asked_by_each_paper_and_by_name():
    known = {spec.prompts for spec in TASKS.values()}
    for paper in PAPERS:
        for name in SETS:
            assert name in known
            assert find_prompts(f"{paper}/{name}") == paper_prompts(paper, name)
    assert find_prompts("m2d/esc50") is PROMPTS["m2d/esc50"]
    assert find_prompts("laion/gtzan") is PROMPTS["gtzan"]
    with pytest.raises(ConfigError, match="did you mean m2d/esc50"):
        find_prompts("m2d/esc5")
    with pytest.raises(ConfigError, match="no paper 'clap'; there are laion, m2d, slap"):
        paper_prompts("clap", "esc50")


def test_classes_are_those_of_the_data_in_its_order(shared):
    with (shared / "data" / "esc" / "meta.csv").open(encoding="utf-8") as file:
        rows = {int(row["target"]): words(row["category"]) for row in csv.DictReader(file)}
    assert rows
    assert all(ESC50_LABELS[target] == label for target, label in rows.items())


@pytest.mark.parametrize(
    ("asked", "line"),
    [("esc5", "did you mean esc50"), ("a dog", "there are esc50, us8k"), ("ESC 50", "esc50")],
)
def test_unknown_prompts_name_the_known_ones(asked, line):
    with pytest.raises(ConfigError, match=line):
        find_prompts(asked)
