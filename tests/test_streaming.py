"""Live sound: what comes out is what the whole recording gives, in time, and nothing is kept."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
import torch

from echoic.streaming import low_delay
from echoic.timeline import Steps, stream_vectors
from echoic.types import AudioError, CheckpointError, EchoicError
from tests import m2d, tiny
from tests.test_timeline import FINE, LABELS, MODELS


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def at_random(wave: np.ndarray, seed: int, most: int = 9000):
    """The same in blocks of any size, some of them empty."""
    draw, place = np.random.default_rng(seed), 0
    while place < len(wave):
        size = int(draw.choice([0, 1, 3, 160, draw.integers(1, most)]))
        yield wave[place : place + size]
        place += size


def offline(model, wave, steps=FINE) -> torch.Tensor:
    found = stream_vectors(model.network.audio, [wave], model._features, steps)
    return torch.cat([each.vectors for each in found])


# -- the same as offline --------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.02, 1.6, 3.47])
@pytest.mark.parametrize("seed", range(3))
def test_vectors_are_those_of_the_whole_for_any_blocks(model, seconds, seed):
    wave = tiny.noise(seconds, seed)
    times, vectors = zip(*model.stream(at_random(wave, seed), steps=FINE), strict=True)
    assert torch.equal(torch.stack(vectors), offline(model, wave))
    assert times == tuple(np.arange(len(times)) * FINE.step_s)


@pytest.mark.parametrize("name", ["m2d tokens", "htsat fused"])
def test_so_they_are_of_other_models(name):
    model = MODELS[name]()
    steps = Steps(step_s=0.2, window_s=0.4)
    wave = np.random.default_rng(1).normal(0, 0.1, round(2.3 * model.rate_hz)).astype(np.float32)
    found = [vector for _, vector in model.stream(at_random(wave, 2), steps=steps)]
    assert torch.equal(torch.stack(found), offline(model, wave, steps))


@pytest.mark.parametrize("by", ["probability", "cosine"])
def test_scores_are_those_of_the_time_line(model, by):
    wave = tiny.noise(3.3)
    line = model.timeline(wave, LABELS, steps=FINE)
    found = list(model.stream(at_random(wave, 4), LABELS, by=by, steps=FINE))
    assert [time_s for time_s, _ in found] == line.times_s.tolist()
    assert np.array_equal(torch.stack([scores for _, scores in found]), line.scores(by))
    given = model.stream([wave], classes=model.embed_labels(LABELS), by=by, steps=FINE)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(found, given, strict=True))


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_another_rate_is_resampled_as_a_file_is(model, rate_hz):
    wave = np.random.default_rng(5).normal(0, 0.1, round(2.7 * rate_hz)).astype(np.float32)
    line = model.timeline((wave, rate_hz), LABELS, steps=FINE)
    blocks = at_random(wave, 6, most=20_000)
    found = list(model.stream(blocks, LABELS, rate_hz=rate_hz, steps=FINE))
    assert np.array_equal(torch.stack([scores for _, scores in found]), line.probabilities)


@pytest.mark.parametrize("kind", [np.int16, np.uint8, torch.float32])
def test_channels_integers_and_tensors(model, kind):
    stereo = np.random.default_rng(7).uniform(-0.4, 0.4, (round(2.1 * tiny.RATE), 2))
    if kind is torch.float32:
        blocks = [torch.from_numpy(block).float() for block in np.array_split(stereo, 9)]
        whole = np.concatenate(blocks)
    else:
        info = np.iinfo(kind)
        whole = np.round(stereo * info.max / 2 + (info.max / 2 + 1) * (info.min == 0)).astype(kind)
        blocks = np.array_split(whole, 9)
    found = [scores for _, scores in model.stream(blocks, LABELS, steps=FINE)]
    line = model.timeline((whole, tiny.RATE), LABELS, steps=FINE)
    assert np.array_equal(torch.stack(found), line.probabilities)


# -- in time --------------------------------------------------------------------------------------


def delays(model, steps: Steps, seconds: float = 6.0) -> list[float]:
    """How far behind live the middle of each step is when it comes, of a stream of 10 ms blocks."""
    heard_s = 0.0

    def live():
        nonlocal heard_s
        while heard_s < seconds:
            heard_s = round(heard_s + 0.01, 2)
            yield tiny.noise(0.01, seed=round(100 * heard_s))
        heard_s = np.nan  # what comes at the end came early

    found = [(heard_s, time_s) for time_s, _ in model.stream(live(), steps=steps)]
    return [now_s - time_s - steps.step_s / 2 for now_s, time_s in found if np.isfinite(now_s)]


@pytest.mark.parametrize("steps", [FINE, Steps(0.1, 0.4, 1.2), Steps(0.05, 0.1, 0.3)])
def test_the_delay_is_the_one_stated(model, steps):
    first = round((steps.context_s - steps.window_s) / steps.step_s)
    least_s, most_s = steps.delay_s(model.network.audio)
    found = delays(model, steps)
    assert found[0] == pytest.approx(steps.context_s - steps.step_s / 2, abs=0.011)
    assert least_s - 1e-6 <= min(found)
    assert max(found[first:]) <= most_s + 0.011
    assert max(found[first:]) > most_s - steps.step_s - 0.011  # no looser than it is
    assert min(found[first:]) < least_s + steps.step_s + 0.011


def test_a_live_stream_has_a_short_context(model):
    tower = model.network.audio
    assert low_delay(tower, Steps(0.1, 0.3)).context_s == pytest.approx(1.5)
    assert low_delay(tower, Steps(0.1, 0.5)).context_s == 2.0  # all that the model hears
    assert low_delay(tower, FINE) is FINE


# -- what is held ---------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_stream(model):
    """By what Python and numpy hold after 3 and after 12 seconds; a recording kept would be 580 kB,
    and its frames more."""
    held = {}

    def live():
        for second in range(13):
            if second in (3, 12):
                gc.collect()
                held[second] = tracemalloc.get_traced_memory()[0]
            yield tiny.noise(1.0, seed=second)

    tracemalloc.start()
    try:
        for _ in model.stream(live(), LABELS, steps=FINE):
            pass
    finally:
        tracemalloc.stop()
    assert held[12] - held[3] < 50_000


def test_blocks_are_drawn_only_when_steps_are_wanted(model):
    drawn = []
    blocks = (drawn.append(i) or tiny.noise(0.1, seed=i) for i in range(100))
    stream = model.stream(blocks, steps=FINE)
    assert drawn == []
    next(stream)
    assert len(drawn) == 16


# -- what is no sound -----------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [[], [np.zeros(0, np.float32)], [np.zeros((0, 2), np.int16)]])
def test_an_empty_stream_gives_nothing(model, blocks):
    assert list(model.stream(blocks, steps=FINE)) == []
    assert list(model.stream(blocks, LABELS, rate_hz=44_100, steps=FINE)) == []


def with_nan():
    wave = tiny.noise(2.5)
    wave[round(2.0 * tiny.RATE)] = np.nan
    return np.array_split(wave, 7)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        (with_nan(), r"stream: holds NaN or infinite samples, the first at 2\.000 s"),
        ([np.zeros((2, 900), np.float32)], r"a block has the shape \(2, 900\): give \(T,\) or"),
        ([np.zeros((4, 1, 1), np.float32)], r"a block has the shape \(4, 1, 1\)"),
        ([np.zeros((4, 0), np.float32)], r"a block has the shape \(4, 0\)"),
        ([np.zeros(4, np.float32), np.zeros((4, 2), np.float32)], "2 channels, those before it 1"),
        ([np.zeros(4, np.int64)], "samples of type int64 have no known scale"),
        ([[0.0, 0.1]], "a block is list: give arrays of samples"),
        ([b"\0\0"], "a block is bytes: give arrays of samples"),
    ],
)
def test_what_is_no_sound_is_one_error(model, blocks, words):
    with pytest.raises(AudioError, match=words):
        list(model.stream(blocks, steps=FINE))


def test_mistakes_are_told_before_any_sound(model):
    with pytest.raises(EchoicError, match="leave gaps"):
        model.stream([], steps=Steps(0.5, 0.4))
    with pytest.raises(AudioError, match="stream: a rate of 5 Hz"):
        model.stream([], rate_hz=5, steps=FINE)
    with pytest.raises(EchoicError, match="no labels given"):
        model.stream([], [], steps=FINE)
    deaf = m2d.model(None)
    with pytest.raises(CheckpointError, match="reads no text"):
        deaf.stream([], LABELS)
