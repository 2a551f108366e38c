"""What an evaluation keeps of each clip, and how sure its zero-shot classification is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from echoic.eval.bootstrap import Bootstrap
from echoic.eval.captioning import score_captions
from echoic.eval.comparison import compare_results
from echoic.eval.evaluation import Captioned, Evaluation, Search, ZeroShot
from echoic.eval.outcomes import read_result, result_of, write_result
from echoic.eval.retrieval import DIRECTIONS, retrieve
from echoic.eval.space import measure_space
from echoic.eval.zeroshot import classify
from echoic.types import DataError

BOOT = Bootstrap(seed=0, resamples=50)
NAMES = [f"{i:02}.wav" for i in range(12)]
PEOPLE = [[f"a sound of kind {i}", "a sound"] for i in range(12)]
OWNER = np.repeat(np.arange(12), 2)


def evaluation(seed, noise=1.0, captions=None):
    rng = np.random.default_rng(seed)
    audio = np.random.default_rng(9).standard_normal((12, 6))
    text = audio[OWNER] + noise * rng.standard_normal((24, 6))
    ranks, space = retrieve(audio, text, OWNER), measure_space(audio, text, OWNER)
    told = captions or [texts[0] for texts in PEOPLE]
    search = Search(ranks, NAMES, told, torch.tensor(audio), torch.tensor(text[::2]), space)
    scores = 3 * rng.standard_normal((12, 3))
    shot = ZeroShot(classify(scores, np.arange(12) % 3), ["x", "y", "z"], scores, NAMES)
    said = [texts[int(rng.integers(2))] for texts in PEOPLE]
    captioned = Captioned(score_captions(said, PEOPLE), NAMES, said, PEOPLE)
    data = {"name": "my.csv", "clips": 12, "captions": 24, "hours": 0.1, "bad": {}}
    return Evaluation({}, data, ("as told",), BOOT, search, shot, captioned)


def test_every_mean_is_compared_and_is_that_of_the_table(tmp_path):
    a, b = evaluation(0, 0.5), evaluation(1, 2.0)
    for name, each in (("a", a), ("b", b)):
        write_result(tmp_path / f"{name}.json", each)
    sides = [read_result(tmp_path / f"{name}.json") for name in "ab"]
    found = {each.figure: each for each in compare_results(*sides, bootstrap=BOOT).figures}
    ways = {f"retrieval/{w}_{k}" for w in ("text_to_audio", "audio_to_text")
            for k in ("R@1", "R@5", "R@10", "mAP@10")}  # fmt: skip
    others = {"zero_shot/accuracy", "captioning/cider_d", "captioning/rouge_l"}
    others |= {f"captioning/bleu_{n}" for n in (1, 2, 3, 4)}
    assert set(found) == ways | others
    for name, each in found.items():
        assert each.a == pytest.approx(a.metrics[name].value)
        assert each.b == pytest.approx(b.metrics[name].value)
        assert each.clips == 12
    assert found["retrieval/text_to_audio_R@1"].queries == 24
    for way in DIRECTIONS:
        x, y = a.search.ranks, b.search.ranks
        clips = x.query_clips(way)
        for name, values in x.per_query(way).items():
            gap, each = (
                BOOT.difference(values, y.per_query(way)[name], clips),
                found[f"retrieval/{way}_{name}"],
            )
            assert (each.difference, each.low, each.high) == (gap.value, gap.low, gap.high)


def test_captions_of_other_words_are_refused():
    a, b = evaluation(0), evaluation(1, captions=["other words"] * 12)
    with pytest.raises(DataError, match="not held against the same labels or captions"):
        compare_results(result_of(a, "a"), result_of(b, "b"))


def test_clips_without_names_are_numbered():
    found = evaluation(0)
    unnamed = replace(
        found, search=None, captioned=None, zero_shot=replace(found.zero_shot, names=())
    )
    (outcomes,) = unnamed.outcomes()
    assert list(outcomes.clips) == [str(i) for i in range(12)]


def test_reliability_of_zero_shot_is_in_report_and_json():
    found = evaluation(0)
    assert "Reliability" in found.report().html()
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert 0 < document["calibration"]["confidence"] < 1
    unsure = replace(found, zero_shot=replace(found.zero_shot, logits=None))
    assert "Reliability" not in unsure.report().html()
    assert unsure.to_json()["calibration"] is None
