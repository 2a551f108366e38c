"""The look-alike of transformers' pipeline gives what transformers' own gives."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from echoic.api import EchoicModel, load
from echoic.compat.pipeline import pipeline
from echoic.types import ConfigError, DataError
from tests import clap, tiny

LABELS = ["rain", "dog bark", "bell"]


@pytest.fixture(scope="module")
def classifier():
    return pipeline(model=tiny.model())


def test_it_equals_transformers_own(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = clap.huggingface_folder(tmp_path / "clap")
    theirs = transformers.pipeline(
        "zero-shot-audio-classification",
        model=transformers.ClapModel.from_pretrained(folder),
        feature_extractor=transformers.ClapFeatureExtractor.from_pretrained(folder),
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder),
    )
    ours = pipeline("zero-shot-audio-classification", model=folder)
    sounds = [clap.sound(seconds, i) for i, seconds in enumerate((0.5, 4.0, 10.0))]
    for options in ({}, {"hypothesis_template": "the {} of a roof"}):
        for sound in sounds:
            wanted = theirs(sound, candidate_labels=LABELS, **options)
            found = ours(sound, candidate_labels=LABELS, **options)
            assert [set(each) for each in found] == [set(each) for each in wanted]
            np.testing.assert_allclose(by_label(found), by_label(wanted), atol=1e-5)
            assert found[0]["score"] >= found[1]["score"] >= found[2]["score"]
    several = ours(sounds, candidate_labels=LABELS)
    assert [len(each) for each in several] == [3, 3, 3]
    assert by_label(several[0]) == pytest.approx(
        by_label(theirs(sounds, candidate_labels=LABELS)[0]), abs=1e-5
    )


def by_label(scores) -> list[float]:
    return [each["score"] for each in sorted(scores, key=lambda each: each["label"])]


def test_it_equals_classify(classifier, tmp_path):
    soundfile.write(tmp_path / "a.wav", tiny.noise(1.0), tiny.RATE)
    scores = classifier(str(tmp_path / "a.wav"), candidate_labels="rain,dog bark, bell")
    model: EchoicModel = classifier.model
    wanted = model.classify(tmp_path / "a.wav", LABELS, templates="This is a sound of {label}.")
    assert [x["label"] for x in scores] == [label for label, _ in wanted.top()[0]]
    assert [x["score"] for x in scores] == pytest.approx([p for _, p in wanted.top()[0]])
    assert sum(x["score"] for x in scores) == pytest.approx(1)


def test_forms_of_a_sound(classifier):
    wave = tiny.noise(1.0)
    first = classifier(wave, candidate_labels=LABELS)
    for key in ("array", "raw"):
        as_dict = {key: wave, "sampling_rate": tiny.RATE}
        assert classifier(as_dict, candidate_labels=LABELS) == first
        assert classifier([as_dict], candidate_labels=LABELS) == [first]


def test_what_makes_no_sense_is_told(classifier):
    wave = tiny.noise(0.5)
    for labels in (None, [], ["rain", ""]):
        with pytest.raises(DataError, match="candidate_labels"):
            classifier(wave, candidate_labels=labels)
    with pytest.raises(DataError, match="hypothesis_template 'a sound'"):
        classifier(wave, candidate_labels=LABELS, hypothesis_template="a sound")
    for template in ("This is a sound of {label}.", "{} {}", "{"):
        with pytest.raises(DataError, match=r"the label stands where \{\} is"):
            classifier(wave, candidate_labels=LABELS, hypothesis_template=template)
    twice = classifier(wave, candidate_labels=["rain", "rain"])
    assert [each["label"] for each in twice] == ["rain", "rain"]
    with pytest.raises(DataError, match="nothing is fetched"):
        classifier("https://example.org/a.wav", candidate_labels=LABELS)
    with pytest.raises(DataError, match=r"\(2, 8000\)"):
        classifier(np.stack([wave, wave]), candidate_labels=LABELS)
    with pytest.raises(ConfigError, match="task 'asr'"):
        pipeline("asr", model=classifier.model)
    with pytest.raises(ConfigError, match="name a model"):
        pipeline()


def test_a_name_is_opened_as_load_does(tmp_path):
    folder = clap.huggingface_folder(tmp_path / "clap")
    assert pipeline(model=folder).model.space_id == load(folder).space_id
