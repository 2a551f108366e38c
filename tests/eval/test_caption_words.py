"""A caption becomes the words of the Penn Treebank, without its punctuation."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from echoic.eval.caption_words import tokenize
from tests.golden import Golden


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog barks, then stops.", "a dog barks then stops"),
        (
            "A man's dogs' bowl isn't full; they're fed",
            "a man 's dogs bowl is n't full they 're fed",
        ),
        ("Can't, won't, cannot", "ca n't wo n't can not"),
        ("A ‘high-pitched’ tone—“beep” …", "a high-pitched tone beep"),
        ("10:30, 1,000 of 3.5 kHz at .50", "10:30 1,000 of 3.5 khz at .50"),
        ("R&B/soul, drum&bass on TV/radio", "r&b / soul drum & bass on tv/radio"),
        ("The P.A. (loud) rings at 5 o'clock", "the p.a. loud rings at 5 o'clock"),
        ("'A medium speed.and then 'em", "a medium speed and then 'em"),
        ("café 'naïve'", "café naïve"),
        ("... -- !?", ""),
    ],
)
def test_by_hand(caption: str, words: str) -> None:
    assert tokenize(caption) == words.split()


def test_golden_texts(shared: Path) -> None:
    for item in Golden(shared, "captioning").spec["items"]:
        texts = [item["hypothesis"], *item["references"]]
        wanted = [item["hypothesis_tokens"], *item["reference_tokens"]]
        assert [" ".join(tokenize(text)) for text in texts] == wanted


def test_what_is_tokenised_stays(shared: Path) -> None:
    with (shared / "data" / "text" / "clotho_v2.1_test.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for words in (tokenize(row["caption_1"]) for row in rows):
        assert words
        assert tokenize(" ".join(words)) == words
