"""Retrieval: hand-made cases, the golden numbers, and what must not change them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echoic.eval.bootstrap import Bootstrap
from echoic.eval.retrieval import Retrieval, retrieval_metrics, retrieve, validation_loss
from echoic.types import EchoicError
from tests.golden import Golden, golden_tools


def naive_ranks(
    audio: np.ndarray, text: np.ndarray, owner: np.ndarray
) -> tuple[list[int], list[int]]:
    """The definition, one pair at a time; no ties."""
    scores = (audio / np.linalg.norm(audio, axis=1, keepdims=True)) @ (
        text / np.linalg.norm(text, axis=1, keepdims=True)
    ).T
    to_audio = [int((scores[:, j] > scores[c, j]).sum()) for j, c in enumerate(owner)]
    to_text = [int((scores[c] > scores[c, j]).sum()) for j, c in enumerate(owner)]
    return to_audio, to_text


def made_up(
    rng: np.random.Generator, n: int = 17, captions: int = 40
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clips with 0 to many captions, in no order, vectors of no special length."""
    owner = rng.integers(0, n, captions)
    audio = rng.standard_normal((n, 6)).astype(np.float32)
    text = (audio[owner] + 1.5 * rng.standard_normal((captions, 6))).astype(np.float32)
    return audio, text, owner


def test_by_hand() -> None:
    audio = [[1, 0], [0, 1]]
    text = [[1, 0.1], [0.1, 1], [1, 0.5]]  # the third belongs to clip 1 but is nearer to clip 0
    found = retrieve(audio, text, [0, 1, 1])
    assert found.text_to_audio.tolist() == [0, 0, 1]
    assert found.audio_to_text.tolist() == [0, 0, 1]
    metrics = found.metrics()
    assert metrics["text_to_audio_R@1"] == pytest.approx(2 / 3)
    assert metrics["text_to_audio_mean_rank"] == pytest.approx(4 / 3)
    assert metrics["audio_to_text_mAP@10"] == 1
    assert metrics["audio_to_text_R@1"] == 1


def test_equal_to_the_definition(rng: np.random.Generator) -> None:
    audio, text, owner = made_up(rng)
    found = retrieve(audio, text, owner)
    to_audio, to_text = naive_ranks(audio, text, owner)
    assert found.text_to_audio.tolist() == to_audio
    assert found.audio_to_text.tolist() == to_text
    best = [min(r for r, o in zip(to_text, owner, strict=True) if o == c) for c in np.unique(owner)]
    assert found.query_ranks("audio_to_text").tolist() == best
    assert found.query_clips("audio_to_text").tolist() == np.unique(owner).tolist()


@pytest.mark.parametrize(
    ("name", "n", "dim", "mix"), [("small", 20, 64, 0.35), ("large", 150, 128, 0.25)]
)
def test_golden_five_captions(shared: Path, name: str, n: int, dim: int, mix: float) -> None:
    rows, i = golden_tools(shared).unit_rows, 1 if name == "small" else 2
    base = rows(n, dim, 100 + i)
    audio = rows(n, dim, 110 + i, toward=base, mix=mix)
    text = rows(5 * n, dim, 120 + i, toward=np.repeat(base, 5, axis=0), mix=mix)
    golden = Golden(shared, "metrics")
    golden.check(f"audio_{name}", audio)
    golden.check(f"text_{name}", text)
    case = golden.spec["five_captions"][name]
    want = {
        key.replace("best_", "").removesuffix(" (extra)"): value
        for key, value in case["metrics"].items()
    }
    owner = np.repeat(np.arange(n), 5)
    assert want.pop("num_samples") == n
    loss = validation_loss(audio, text, owner, logit_scale=case["logit_scale"])
    assert loss == pytest.approx(want.pop("cumulative_loss"), abs=1e-4)
    # The reference is LAION's evaluation, so its audio to text mAP@10 is that of unsorted ranks.
    found = retrieval_metrics(audio, text, owner, map10="laion_legacy")
    assert found == pytest.approx(want, abs=1e-6)
    correct = retrieval_metrics(audio, text, owner)
    assert correct.pop("audio_to_text_mAP@10") < found.pop("audio_to_text_mAP@10")
    assert correct == found


@pytest.mark.parametrize("name", ["plain", "mlp"])
def test_golden_one_caption(shared: Path, name: str) -> None:
    rows, i = golden_tools(shared).unit_rows, 3 if name == "plain" else 4
    audio = rows(100, 64, 200 + i)
    text = rows(100, 64, 210 + i, toward=audio, mix=0.25)
    audio_mlp = rows(100, 64, 220 + i, toward=audio, mix=0.5)
    text_mlp = rows(100, 64, 230 + i, toward=text, mix=0.5)
    case = Golden(shared, "metrics").spec["one_caption"][name]
    scale_a, scale_t, owner = case["scale_a"], case["scale_t"], np.arange(100)
    if name == "plain":
        loss = validation_loss(audio, text, owner, logit_scale=scale_a)
        found = retrieval_metrics(audio, text, owner)
    else:
        losses = (
            validation_loss(audio, text_mlp, owner, logit_scale=scale_a),
            validation_loss(audio_mlp, text, owner, logit_scale=scale_t),
        )
        loss = sum(losses) / 2
        both = np.hstack([scale_a * audio, scale_t * audio_mlp])
        found = retrieval_metrics(both, np.hstack([text_mlp, text]), owner)
    want = dict(case["metrics"])
    assert want.pop("num_samples") == 100
    assert loss == pytest.approx(want.pop("cumulative_loss"), abs=1e-4)
    assert found == pytest.approx(want, abs=1e-6)


def test_legacy_map_overcounts_as_documented() -> None:
    ranks = np.array([4, 3, 2, 1, 0])
    owner = np.zeros(5, dtype=np.int64)
    legacy = Retrieval(1, owner, 0 * ranks, ranks, "laion_legacy").metrics()
    correct = Retrieval(1, owner, 0 * ranks, ranks).metrics()
    assert legacy["audio_to_text_mAP@10"] == pytest.approx(1.74)
    assert correct["audio_to_text_mAP@10"] == 1


def test_a_perfect_model_has_map_1_with_more_than_ten_captions() -> None:
    audio = np.eye(2)
    owner = np.repeat([0, 1], 15)
    metrics = retrieval_metrics(audio, audio[owner], owner)
    assert metrics["audio_to_text_mAP@10"] == pytest.approx(1)


def test_ties_count_against_the_model() -> None:
    n = 12
    metrics = retrieval_metrics(np.ones((n, 4)), np.ones((2 * n, 4)), np.repeat(np.arange(n), 2))
    assert metrics["text_to_audio_R@10"] == 0
    assert metrics["text_to_audio_mean_rank"] == n
    assert metrics["audio_to_text_mean_rank"] == 2 * n - 1  # its own two are not rivals
    dead = retrieval_metrics(np.zeros((n, 4)), np.ones((n, 4)), np.arange(n))
    assert dead["text_to_audio_mean_rank"] == n


def test_equal_captions_of_two_clips_tie_in_any_block(rng: np.random.Generator) -> None:
    audio = rng.standard_normal((40, 33)).astype(np.float32)
    same = np.repeat(audio[:1], 40, axis=0)  # every clip has this caption, and it fits the first
    for block in (1, 7 * 40, 10**9):
        found = retrieve(audio, same, np.arange(40), block_values=block)
        assert (found.audio_to_text == 39).all()
        assert found.text_to_audio[0] == 0


@pytest.mark.parametrize("block_values", [1, 40, 100, 333, 10**9])
def test_block_size_changes_nothing(rng: np.random.Generator, block_values: int) -> None:
    audio, text, owner = made_up(rng)
    whole, cut = (
        retrieve(audio, text, owner),
        retrieve(audio, text, owner, block_values=block_values),
    )
    assert np.array_equal(whole.text_to_audio, cut.text_to_audio)
    assert np.array_equal(whole.audio_to_text, cut.audio_to_text)


@given(st.integers(0, 2**31))
def test_order_of_clips_and_captions_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    audio, text, owner = made_up(rng)
    clips, captions = rng.permutation(len(audio)), rng.permutation(len(text))
    renamed = np.argsort(clips)[owner]
    shuffled = retrieve(audio[clips], text[captions], renamed[captions])
    straight = retrieve(audio, text, owner)
    assert shuffled.metrics() == pytest.approx(straight.metrics(), abs=1e-12)
    assert np.array_equal(shuffled.audio_to_text, straight.audio_to_text[captions])


def test_length_of_vectors_changes_nothing(rng: np.random.Generator) -> None:
    audio, text, owner = made_up(rng)
    longer = audio * rng.uniform(0.1, 9, (len(audio), 1))
    assert retrieval_metrics(longer, text, owner) == retrieval_metrics(audio, text, owner)


def test_chance_is_what_guessing_gives(rng: np.random.Generator) -> None:
    owner = np.repeat(np.arange(20), rng.integers(1, 6, 20))
    draws = [
        retrieval_metrics(
            rng.standard_normal((20, 16)), rng.standard_normal((len(owner), 16)), owner
        )
        for _ in range(150)
    ]
    found = retrieve(np.eye(20), np.eye(20)[owner], owner).chance()
    for name, chance in found.items():
        assert np.mean([d[name] for d in draws]) == pytest.approx(chance, abs=0.03), name


def test_intervals_hold_the_figures(rng: np.random.Generator) -> None:
    found = retrieve(*made_up(rng))
    bounds, metrics = found.intervals(Bootstrap(0, resamples=300)), found.metrics()
    assert bounds.keys() == metrics.keys()
    for name, interval in bounds.items():
        assert interval.value == pytest.approx(metrics[name]), name
        assert interval.low <= interval.value <= interval.high, name


def test_wrong_input_is_named() -> None:
    with pytest.raises(EchoicError, match="text vectors: row 1 "):
        retrieve(np.eye(2), [[1, 0], [np.nan, 0]], [0, 1])
    with pytest.raises(ValueError, match="clips are 0 to 1, got 0 to 2"):
        retrieve(np.eye(2), np.eye(2), [0, 2])
    with pytest.raises(ValueError, match="width 2, text vectors 3"):
        retrieve(np.eye(2), np.ones((2, 3)), [0, 1])
    with pytest.raises(ValueError, match="integers"):
        retrieve(np.eye(2), np.eye(2), [0.0, 1.0])
    with pytest.raises(ValueError, match="map10"):
        retrieve(np.eye(2), np.eye(2), [0, 1], map10="other")  # type: ignore[arg-type]


def test_validation_loss_with_uneven_captions_and_blocks(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio, text, owner = made_up(rng)
    whole = validation_loss(audio, text, owner, logit_scale=10)
    monkeypatch.setattr("echoic.eval.retrieval._BLOCK_VALUES", 5)
    assert validation_loss(audio, text, owner, logit_scale=10) == pytest.approx(whole, abs=1e-12)
    alone = validation_loss(np.eye(1), np.eye(1), [0], logit_scale=10)
    assert alone == pytest.approx(0, abs=1e-12)
