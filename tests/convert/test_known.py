"""The table of known checkpoints holds together."""

from __future__ import annotations

import pytest

from echoic.convert.known import KNOWN_MODELS, KNOWN_TOKENIZERS, SEE_PAGE, known_model


def test_every_name_means_one_model():
    names = [name for model in KNOWN_MODELS for name in (model.name, model.full_name)]
    assert len(names) == len(set(names))
    for model in KNOWN_MODELS:
        assert known_model(model.name) is model
        assert known_model(model.full_name) is model
    assert known_model("630k-best.pt") is known_model("630k-best")
    assert known_model("nothing") is None


def test_twins_name_each_other():
    twins = {model.name: model.same_as for model in KNOWN_MODELS if model.same_as}
    assert twins
    for name, other in twins.items():
        assert twins[other] == name
        one, two = known_model(name), known_model(other)
        assert (one.architecture, one.fusion, one.text) == (two.architecture, two.fusion, two.text)


def test_what_nobody_states_is_not_made_up():
    assert {model.licence for model in KNOWN_MODELS} == {SEE_PAGE}
    assert {model.sha256 for model in KNOWN_MODELS} == {None}


@pytest.mark.parametrize("kind", ["roberta", "bert", "bart", "clip"])
def test_every_text_encoder_has_a_tokenizer(kind):
    assert "/" in KNOWN_TOKENIZERS[kind]
    assert {model.text for model in KNOWN_MODELS} <= KNOWN_TOKENIZERS.keys()


def test_the_collapsed_model_is_marked():
    assert "collapsed" in known_model("larger_clap_music").warning
