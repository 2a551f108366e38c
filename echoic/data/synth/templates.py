"""The caption templates: (style, text) by split and relation. No text stands in two splits (a test
proves it).

Styles: noun "a barking dog", clause "a dog barks", gerund "a dog barking". The words of valid and
test templates occur in train templates wherever the language allows it.
"""

from __future__ import annotations

Template = tuple[str, str]


def _styled(**texts: tuple[str, ...]) -> tuple[Template, ...]:
    return tuple((style, text) for style, lines in texts.items() for text in lines)


TRAIN: dict[str, tuple[Template, ...]] = {
    "single": _styled(
        noun=("{a}", "the sound of {a}", "a recording of {a}", "{a} can be heard"),
        clause=("here {a}", "in this recording {a}"),
        gerund=("we hear {a}", "this is the sound of {a}"),
    ),
    "sequence2": _styled(
        noun=(
            "{a} followed by {b}",
            "{a} then {b}",
            "{b} after {a}",
            "{a} before {b}",
            "first {a}, then {b}",
            "we hear {a} and later {b}",
        ),
        clause=(
            "{a} and then {b}",
            "{a}, and next {b}",
            "before {b}, {a}",
            "first {a} and after that {b}",
        ),
        gerund=("{a}, followed by {b}", "the sound of {a}, then {b}"),
    ),
    "sequence3": _styled(
        noun=(
            "{a}, then {b}, then {c}",
            "{a} followed by {b} and then {c}",
            "first {a}, then {b}, and last {c}",
            "we hear {a}, later {b}, and next {c}",
        ),
        clause=("{a}, then {b}, and then {c}", "first {a}, next {b}, and last {c}"),
        gerund=("{a}, followed by {b}, followed by {c}",),
    ),
    "overlap": _styled(
        noun=(
            "{a} and {b} at the same time",
            "{a} together with {b}",
            "{a} mixed with {b}",
            "both {a} and {b} at once",
        ),
        clause=("{a} while {b}", "{a}, and meanwhile {b}"),
        gerund=("the sound of {a} and {b} together",),
    ),
    "during": _styled(
        noun=(
            "{b} during {a}",
            "{a} with {b} in the middle",
            "{a} all along, and {b} in between",
            "{a}, and in the middle {b}",
        ),
        clause=("while {a}, {b}", "{b} while {a} all along"),
        gerund=("the sound of {a}, with {b} in between",),
    ),
    "backdrop": _styled(
        noun=(
            "{a} all along, with {b} and then {c}",
            "{b} followed by {c} over {a}",
            "{b} then {c}, with {a} all along",
            "first {b}, then {c}, during {a}",
        ),
        clause=("while {a}, {b} and then {c}", "{b} and next {c} while {a} all along"),
        gerund=("the sound of {a}, with {b} and later {c}",),
    ),
}

VALID: dict[str, tuple[Template, ...]] = {
    "single": _styled(
        noun=("here we hear {a}", "this is a recording of {a}", "here {a} can be heard"),
        clause=("we hear how {a}",),
        gerund=("a recording of {a} is heard", "the sound here is {a}"),
    ),
    "sequence2": _styled(
        noun=("{a}, later followed by {b}", "{b}, but first {a}", "{a} at first, {b} next"),
        clause=("first {a}, later {b}", "{a}; after that {b}", "later {b}, but first {a}"),
    ),
    "sequence3": _styled(
        noun=("{a}, next {b}, later {c}", "first {a} and then {b}, followed by {c}"),
        clause=(
            "{a}, next {b}, and later {c}",
            "{a}; after that {b}; last {c}",
            "first {a}, later {b}, then {c}",
        ),
    ),
    "overlap": _styled(
        noun=("{a} along with {b}", "at once {a} and {b}", "we hear {a} together with {b}"),
        clause=("meanwhile {a} and {b}", "{a} and {b} both at once"),
    ),
    "during": _styled(
        noun=(
            "{b} in the middle of {a}",
            "we hear {a} and during it {b}",
            "{a} with {b} in between",
        ),
        clause=("{a} all along; meanwhile {b}", "{a}, and in between {b}"),
    ),
    "backdrop": _styled(
        noun=(
            "{b} and next {c}, over {a}",
            "{a}, and over it {b}, then {c}",
            "{a} with first {b} and later {c}",
        ),
        clause=("{a} all along while {b}, then {c}", "while {a}, first {b} and after that {c}"),
    ),
}

TEST: dict[str, tuple[Template, ...]] = {
    "single": _styled(
        noun=(
            "in this recording we hear {a}",
            "the sound heard is {a}",
            "here is the sound of {a}",
        ),
        clause=("in this recording we hear how {a}",),
        gerund=("what can be heard is {a}", "we hear the sound of {a}"),
    ),
    "sequence2": _styled(
        noun=(
            "after {a} we hear {b}",
            "before {b} we hear {a}",
            "we hear first {a} and then {b}",
            "{a}, and next {b} can be heard",
        ),
        clause=("after {a}, {b}", "first {a}, then {b} after that", "{a}, and later {b}"),
    ),
    "sequence3": _styled(
        noun=(
            "first {a}, next {b}, then {c}",
            "{a} and then {b}, followed by {c}",
            "after {a} we hear {b} and then {c}",
        ),
        clause=("{a}, later {b}, and last {c}", "first {a}, and after that {b}, then {c}"),
    ),
    "overlap": _styled(
        noun=(
            "we hear {a} and {b} at once",
            "{a} with {b} at the same time",
            "{a} mixed together with {b}",
        ),
        clause=("at the same time {a} and {b}", "{a} while, at the same time, {b}"),
    ),
    "during": _styled(
        noun=(
            "during {a} we hear {b}",
            "in the middle of {a}, {b}",
            "{a} all along with {b} in the middle",
        ),
        clause=("{a} and, in the middle, {b}", "all along {a}, and meanwhile {b}"),
    ),
    "backdrop": _styled(
        noun=(
            "during {a} we hear {b} and then {c}",
            "over {a}, first {b}, then {c}",
            "{a} with {b} followed by {c}",
        ),
        clause=("all along {a} while {b} and later {c}", "{a}, and meanwhile {b}, then {c}"),
    ),
}

TEMPLATES: dict[str, dict[str, tuple[Template, ...]]] = {
    "train": TRAIN,
    "valid": VALID,
    "test": TEST,
}
