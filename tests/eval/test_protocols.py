"""The papers' choices hang together with what they are used by."""

from __future__ import annotations

import pytest

from echoic.data.tasks import CAPTIONED, TASKS
from echoic.eval.prompts import PAPERS
from echoic.eval.protocols import MEASURES, PROTOCOLS, family_protocol, find_protocol
from echoic.listening import CHOICES
from echoic.types import ConfigError


@pytest.fixture(params=PROTOCOLS.values(), ids=PROTOCOLS)
def protocol(request):
    return request.param


def test_every_measure_is_told_in_one_line_and_in_words(protocol):
    assert protocol.told.keys() == set(MEASURES)
    for line, words in protocol.told.values():
        assert len(line) <= 75
        assert "\n" not in line
        assert words.endswith(".")


def test_names_are_those_of_prompts_and_listening(protocol):
    assert protocol.name in PAPERS
    assert protocol.long is None or protocol.long in CHOICES


def test_its_own_models_have_published_values(protocol):
    papers = [spec.paper for spec in (*TASKS.values(), *CAPTIONED.values())]
    assert set(protocol.models) <= {each.model for paper in papers for each in paper}


def test_a_models_encoder_tells_its_paper():
    found = [family_protocol(kind).name for kind in ("htsat", "pann", "m2d", "slap", "another")]
    assert found == ["laion", "laion", "m2d", "slap", "m2d"]


def test_an_unknown_one_is_told():
    assert find_protocol("laion").map10 == "laion_legacy"
    with pytest.raises(ConfigError, match="did you mean laion"):
        find_protocol("lion")
