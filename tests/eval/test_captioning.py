"""Caption figures: the golden numbers, hand-made cases, and what must not change them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.captioning import AsWritten, Scores, score_captions
from echoic.types import DataError
from tests.golden import Golden

NAMES = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"]
RAIN = ["rain falls on a roof", "heavy rain on a tin roof"]
DOG = ["a dog barks twice", "a dog is barking", "barking dog"]


def made_up(rng: np.random.Generator, clips: int = 30) -> tuple[list[str], list[list[str]]]:
    """Texts of few words, so that they have n-grams in common; clips of 1 to 3 references."""

    def text() -> str:
        return " ".join(rng.choice(list("abcde"), rng.integers(1, 9)))

    return [text() for _ in range(clips)], [
        [text() for _ in range(rng.integers(1, 4))] for _ in range(clips)
    ]


def test_golden(shared: Path) -> None:
    golden = Golden(shared, "captioning")
    items = golden.spec["items"]
    captions = [item["hypothesis_tokens"] for item in items]
    references = [item["reference_tokens"] for item in items]
    found = score_captions(captions, references, tokenize=str.split)
    assert list(found.scores) == NAMES
    for name, score in found.scores.items():
        golden.check(name, score.clips)
        assert score.value == pytest.approx(golden.spec["corpus"][name], abs=1e-9), name
    raw = score_captions([i["hypothesis"] for i in items], [i["references"] for i in items])
    assert raw.metrics() == found.metrics()


def test_bleu_by_hand() -> None:
    """ "the" is allowed as often as one reference has it; too short a caption pays."""
    found = score_captions(["the the the the", "a b"], [["the cat", "the the dog"], ["a b c d"]])
    assert found.scores["bleu_1"].clips == pytest.approx([2 / 4, math.exp(1 - 4 / 2)], abs=1e-6)
    # together: 4 of 6 words match, and the captions have 6 words for 3 + 4 of the references
    whole = found.metrics()["bleu_1"]
    assert whole == pytest.approx(4 / 6 * math.exp(1 - 7 / 6), abs=1e-6)
    assert whole != pytest.approx(found.scores["bleu_1"].clips.mean(), abs=0.05)


def test_rouge_l_by_hand() -> None:
    """Subsequence a c of both; best precision by one reference, best recall by the other."""
    found = score_captions(["a b c"], [["a x c y", "c"]]).scores["rouge_l"].clips[0]
    precision, recall, weight = 2 / 3, 1.0, 1.2**2
    assert found == pytest.approx((1 + weight) * precision * recall / (recall + weight * precision))


def test_cider_d_by_hand() -> None:
    """Two clips, words only in one of them: each n-gram weighs log 2."""
    found = score_captions(["a b", "c c c"], [["a b"], ["c d"]]).scores["cider_d"].clips
    # one and two words match wholly, and of longer n-grams there are none
    assert found[0] == pytest.approx(10 * 2 / 4)
    # c counts once however often it is said; lengths differ by one
    cosine = 1 / (3 * math.sqrt(2))
    assert found[1] == pytest.approx(10 * cosine / 4 * math.exp(-1 / 72))


def test_common_words_weigh_nothing_in_cider_d() -> None:
    found = score_captions(["a", "a"], [["a dog"], ["a cat"]])
    assert found.metrics()["cider_d"] == 0
    assert found.metrics()["bleu_1"] > 0


def test_better_captions_score_better() -> None:
    references = [RAIN, DOG, ["wind blows through trees", "the wind in the trees"]]
    right = score_captions([texts[0] for texts in references], references).metrics()
    wrong = score_captions([references[i][0] for i in (1, 2, 0)], references).metrics()
    assert right["rouge_l"] == pytest.approx(1)
    assert all(right[name] > 2 * wrong[name] for name in NAMES)


@pytest.mark.parametrize("caption", ["", "...", "zebra"])
def test_a_caption_that_says_nothing_scores_nothing(caption: str) -> None:
    found = score_captions([caption, DOG[0]], [RAIN, DOG])
    assert all(score.clips[0] < 1e-6 for score in found.scores.values())


def test_order_of_clips_and_references_changes_nothing(rng: np.random.Generator) -> None:
    captions, references = made_up(rng)
    order = rng.permutation(len(captions))
    straight = score_captions(captions, references)
    turned = score_captions([captions[i] for i in order], [references[i][::-1] for i in order])
    assert turned.metrics() == pytest.approx(straight.metrics(), abs=1e-12)
    for name, score in straight.scores.items():
        assert turned.scores[name].clips == pytest.approx(score.clips[order], abs=1e-12)


def test_judges_read_tokenised_texts_and_spice_gives_spider() -> None:
    heard: list[object] = []

    def spice(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        heard.extend((captions, references))
        return Scores(np.array([0.5, 0.25]))

    def whole(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        return Scores(np.zeros(2), 0.125)

    judges = {"meteor": whole, "spice": spice}
    found = score_captions(["Rain!", "A dog."], [["Rain."], ["The dog."]], judges=judges)
    assert heard == [["rain", "a dog"], [["rain"], ["the dog"]]]
    assert list(found.scores) == [*NAMES, "meteor", "spice", "spider"]
    metrics = found.metrics()
    assert metrics["meteor"] == 0.125
    assert metrics["spider"] == pytest.approx((metrics["cider_d"] + metrics["spice"]) / 2)
    assert list(found.means()) == ["rouge_l", "cider_d", "spice", "spider"]
    bounds = found.intervals(Bootstrap(0, resamples=50))
    assert list(bounds) == list(found.scores)
    assert bounds["meteor"] == Interval(0.125, 0.125, 0.125, 0.95)


def test_of_a_figure_that_is_no_mean_the_interval_is_moved_to_it(rng: np.random.Generator) -> None:
    clips = rng.random(40)
    scores = score_captions(["rain"] * 40, [["rain falls"]] * 40)
    mean, moved, low = (
        scores.judged_by("meteor", lambda *_, whole=whole: Scores(clips, whole), ["a"] * 40, [])
        .intervals(Bootstrap(0, resamples=50))["meteor"]
        for whole in (None, clips.mean() + 0.1, 0.01)
    )  # fmt: skip
    assert mean.value == clips.mean()
    assert (moved.value, moved.low) == pytest.approx((mean.value + 0.1, mean.low + 0.1))
    assert (low.value, low.low) == (0.01, 0.0)


def test_a_judge_may_read_what_was_written() -> None:
    heard: list[object] = []

    def judge(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        heard.append((list(captions), [list(texts) for texts in references]))
        return Scores(np.array([0.5]))

    judges = {"fense": AsWritten(judge), "other": judge}
    found = score_captions(["Rain!"], [["It's raining."]], judges=judges)
    assert heard == [(["Rain!"], [["It's raining."]]), (["rain"], [["it 's raining"]])]
    assert list(found.means())[-2:] == ["fense", "other"]


def test_intervals_hold_the_figures(rng: np.random.Generator) -> None:
    found = score_captions(*made_up(rng))
    bounds = found.intervals(Bootstrap(0, resamples=300))
    assert list(bounds) == NAMES
    for name, interval in bounds.items():
        assert interval.value == pytest.approx(found.metrics()[name])
        assert interval.low < interval.value < interval.high


def test_wrong_input_is_named() -> None:
    with pytest.raises(DataError, match="clip 1 has no reference"):
        score_captions(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="not one text"):
        score_captions(["a", "b"], ["ab", "b"])
    with pytest.raises(ValueError, match="2 captions for 1 clips"):
        score_captions(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="0 captions"):
        score_captions([], [])
