"""Captions: an event becomes a phrase with its attributes, phrases go into the templates of a
relation.

The template sets of train, valid and test are disjoint; the words for the classes and the
attributes are shared, so that a held-out caption asks for composition, not for unknown words. In a
template, a and b (and c) are the events in the order of the scene; for during and backdrop a is the
long one below.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from echoic.data.synth.events import AXES, Event
from echoic.data.synth.registry import REGISTRY
from echoic.data.synth.templates import TEMPLATES

# How a pole is said beside a noun: "<" goes in front of it, anything else after it. Variant i of
# one pole has the form of variant i of its opposite, so a caption can be turned into its contrary.
NOUN_WORDS: dict[str, tuple[str, str, str]] = {
    "loud": ("<loud", "<very loud", "at high volume"),
    "soft": ("<faint", "<very quiet", "at low volume"),
    "near": ("<nearby", "close by", "very near"),
    "far": ("<distant", "in the distance", "far away"),
    "fast": ("<fast", "<rapid", "at a fast pace"),
    "slow": ("<slow", "<slow", "at a slow pace"),
    "high": ("<high-pitched", "<high-pitched", "at a high pitch"),
    "low": ("<low-pitched", "<low-pitched", "at a low pitch"),
    "rising": ("rising in pitch", "with rising pitch", "going up in pitch"),
    "falling": ("falling in pitch", "with falling pitch", "going down in pitch"),
    "growing": ("growing louder", "getting louder", "becoming louder"),
    "fading": ("growing quieter", "getting quieter", "fading away"),
}
CLAUSE_WORDS: dict[str, tuple[str, str, str]] = {
    **{pole: NOUN_WORDS[pole] for pole in AXES["level motion"]},
    "rising": ("with rising pitch", "at a rising pitch", "going up in pitch"),
    "falling": ("with falling pitch", "at a falling pitch", "going down in pitch"),
    "loud": ("loudly", "very loudly", "at high volume"),
    "soft": ("faintly", "very quietly", "at low volume"),
    "near": ("nearby", "close by", "very near"),
    "far": ("in the distance", "far off", "far away"),
    "fast": ("quickly", "rapidly", "at a fast pace"),
    "slow": ("slowly", "slowly", "at a slow pace"),
    "high": ("at a high pitch", "high in pitch", "at a high pitch"),
    "low": ("at a low pitch", "low in pitch", "at a low pitch"),
}
_ARTICLES = ("a", "an", "the")
_KEEP_ATTRIBUTE = 0.85  # share of attributes said by every caption after the first


def phrase(event: Event, style: str, attributes: Sequence[str], choice: int, word: int) -> str:
    """The event as a noun phrase, a clause or an -ing phrase (`style`), saying `attributes`.

    choice picks among the class's wordings, word among the words for an attribute.
    """
    known = REGISTRY[event.label]
    if style == "noun":
        return _noun_phrase(known.nouns[choice % len(known.nouns)], attributes, word)
    subject, verb, gerund = known.clauses[choice % len(known.clauses)]
    tail = [CLAUSE_WORDS[pole][word % 3] for pole in attributes]
    return " ".join([subject, verb if style == "clause" else gerund, *_joined(tail)])


def _noun_phrase(noun: str, attributes: Sequence[str], word: int) -> str:
    said = [NOUN_WORDS[pole][word % 3] for pole in attributes]
    before = [text[1:] for text in said if text.startswith("<")]
    after = _joined([text for text in said if not text.startswith("<")])
    first, *rest = noun.split(" ")
    article, core = ([first], rest) if first in _ARTICLES else ([], [first, *rest])
    words = [*before, *core]
    if article in (["a"], ["an"]):
        article = ["an" if words[0][0] in "aeiou" else "a"]
    return " ".join([*article, *words, *after])


def _joined(parts: list[str]) -> list[str]:
    return [" and ".join(parts)] if parts else []


def family(relation: str, events: Sequence[Event]) -> str:
    """The name of the template set: sequences of two and of three are worded differently."""
    return f"{relation}{len(events)}" if relation == "sequence" else relation


def captions(
    events: Sequence[Event], relation: str, split: str, count: int, rng: np.random.Generator
) -> tuple[str, ...]:
    """`count` different captions from the split's templates; the first says every attribute."""
    templates = TEMPLATES[split][family(relation, events)]
    said: dict[str, None] = {}
    order = [int(i) for i in rng.permutation(len(templates))]
    for i in order + order:
        order_of = events[::-1] if relation == "overlap" and rng.random() < 0.5 else events
        keep = 1.0 if not said else _KEEP_ATTRIBUTE
        style, text = templates[i]
        phrases = []
        for event in order_of:
            kept = [pole for pole in event.attributes if rng.random() < keep]
            choice, word = (int(value) for value in rng.integers(6, size=2))
            phrases.append(phrase(event, style, kept, choice, word))
        said[text.format(**dict(zip("abc", phrases, strict=False)))] = None
        if len(said) == count:
            break
    return tuple(said)
