"""Captions of baselines: which are chosen, and that ties are settled the same way each time."""

from __future__ import annotations

import pytest

from echoic.eval.caption_baselines import most_frequent_caption, nearest_tags, tag_sentence
from echoic.eval.captioning import score_captions
from echoic.types import ConfigError, DataError

TAGS = [["rain"], ["dog", "rain"], ["dog"], ["cat", "dog", "rain"], ["dog"]]
CAPTIONS = ["Rain falls.", "A dog in the rain.", "A dog barks.", "Pets and rain.", "a dog barks"]


def test_most_frequent_caption() -> None:
    assert most_frequent_caption(CAPTIONS) == "A dog barks."  # twice, but for case and full stop
    assert most_frequent_caption(["b", "a", "a", "b"]) == "b"
    with pytest.raises(DataError, match="without captions"):
        most_frequent_caption([])


@pytest.mark.parametrize(
    ("told", "caption"),
    [
        (["dog", "rain"], "A dog in the rain."),  # the clip with a cat has both, and one more
        (["dog"], "A dog barks."),  # the first of two alike
        (["cat"], "Pets and rain."),
        (["rain", "thunder"], "Rain falls."),  # a tag that nobody knows counts for nobody
        (["thunder"], "A dog barks."),
        ([], "A dog barks."),
    ],
)
def test_nearest_tags(told: list[str], caption: str) -> None:
    assert nearest_tags([told], TAGS, CAPTIONS) == [caption]
    assert nearest_tags([[], iter(told)], TAGS, CAPTIONS)[1] == caption


def test_nearest_tags_need_training_clips() -> None:
    assert nearest_tags([], TAGS, CAPTIONS) == []
    with pytest.raises(DataError, match="without captions"):
        nearest_tags([["dog"]], [], [])
    with pytest.raises(ValueError, match="1 captions for 2 clips"):
        nearest_tags([["dog"]], [["dog"], ["cat"]], ["a dog"])


def test_tag_sentence() -> None:
    assert tag_sentence(["dog_bark", "rain"]) == "The sounds of dog bark and rain"
    assert tag_sentence(["rain"], ("there is {}", "there are {}")) == "there is rain"
    assert tag_sentence([]) == ""
    with pytest.raises(ConfigError, match="must hold"):
        tag_sentence(["rain"], ("one", "several"))


def test_tags_that_are_known_beat_hearing_nothing() -> None:
    clips = [["rain"], ["dog", "rain"], ["cat", "dog", "rain"]]
    references = [["rain is falling"], ["a dog out in the rain"], ["a cat, a dog and the rain"]]
    usual = score_captions([most_frequent_caption(CAPTIONS)] * 3, references).metrics()
    for captions in (nearest_tags(clips, TAGS, CAPTIONS), [tag_sentence(tags) for tags in clips]):
        assert score_captions(captions, references).metrics()["cider_d"] > usual["cider_d"]
