"""A card says what its model file says, and marks what a person must fill in."""

from __future__ import annotations

import yaml

from echoic.export.card import model_card
from tests import m2d, tiny


def test_a_card_tells_what_the_file_holds():
    made = {"recipe": "nano", "paper": "arXiv 2601.12594", "clips": 4000, "hours": 4.5,
            "steps": 600, "metrics": {"text_to_audio_R@1": 0.448, "odd": "x"},
            "self_test": {"vectors": {}}}  # fmt: skip
    content = tiny.content(card=made)
    card = model_card(content, name="someone/nano")
    _, front, rest = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "echoic", "license": "unknown",
        "pipeline_tag": "zero-shot-audio-classification", "tags": ["audio", "echoic", "slap"],
    }  # fmt: skip
    for told in ("# someone/nano", "| recipe | nano |", "| paper | arXiv 2601.12594 |",
                 "| clips | 4000 |", "| text_to_audio_R@1 | 0.448 |", "16000 Hz",
                 f"`{content.model.space_id()}`", 'echoic.load("someone/nano")'):  # fmt: skip
        assert told in rest
    assert rest.count("TODO:") == 3  # data, licence, limits
    assert "self_test" not in card
    assert card.isascii()


def test_a_model_of_sound_alone_promises_no_words():
    card = model_card(m2d.content())
    assert "embed_text" not in card
    assert "pipeline_tag: feature-extraction" in card
    assert "TODO: none are in its file" in card
