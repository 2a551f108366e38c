from __future__ import annotations

import numpy as np
import pytest

from echoic.data.cleaning import clean_caption, cleaned, same_words
from echoic.data.clips import Clip
from echoic.types import DataError


class Told:
    """Clips with these captions."""

    def __init__(self, *captions: tuple[str, ...]) -> None:
        self.clips = tuple(Clip(f"{i}", each, (), None) for i, each in enumerate(captions))

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        return np.full(10, float(i))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("A dog barks.", "A dog barks."),
        ("  a\tdog \u2028 barks\n", "a dog barks"),
        ("<p>Rain &amp; wind<br/>on a roof</p>", "Rain & wind on a roof"),
        ("loud < 3 dB and > 1 dB", "loud < 3 dB and > 1 dB"),
        ("Birds, see https://x.org/a?b=1 or mail me@x.org", "Birds, see or mail"),
        ("www.sounds.com", ""),
        ("--- thunder ***", "thunder"),
        ("wind\u200bmill\ufeff \x07", "windmill"),
        ("cafe\u0301", "café"),
        ("犬が吠える", "犬が吠える"),
        ("", ""),
    ],
)
def test_a_caption(text, clean):
    assert clean_caption(text) == clean
    assert clean_caption(clean) == clean


def test_same_words():
    assert (
        same_words("A dog, barking!") == same_words("a  DOG barking") != same_words("dog barking")
    )


def test_a_source():
    source = Told(
        ("A dog barks", "a dog barks!", "<b>two barks</b>"),
        ("rain", "Sound effect"),
        ("sound effect.", "thunder rolls"),
        ("sound Effect", "word " * 101),
    )
    clean, summary = cleaned(source, most_clips=2)
    assert [clip.captions for clip in clean.clips] == [
        ("A dog barks", "two barks"),
        ("thunder rolls",),
    ]
    assert [clip.key for clip in clean.clips] == ["0", "2"]
    assert clean.read(1, 0)[0] == 2.0
    counts = {"few": 1, "many": 1, "double": 1, "common": 3}
    assert vars(summary) == {"captions": 9, "kept": 3, "changed": 1, "lost": 2, **counts}
    assert "3 of 9 captions kept, 1 of them changed; left out: 1 too few words" in str(summary)
    assert cleaned(source, most_clips=3)[1].common == 0
    assert cleaned(source)[1].common == 0


def test_nothing_is_left():
    with pytest.raises(DataError, match="no caption is left: 0 of 1 captions kept"):
        cleaned(Told(("x",)))
