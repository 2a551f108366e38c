"""Tagging over time: what a step's vector is of each kind of model, that blocks and length change
nothing, and spans out of scores."""

from __future__ import annotations

import csv
import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from echoic.api import EchoicModel
from echoic.audio.blocks import regroup
from echoic.audio.io import stream_audio
from echoic.convert.native import ModelFile
from echoic.encoders.pann import PannSpec
from echoic.eval.events import Span, event_counts, segment_counts
from echoic.model import build
from echoic.timeline import Steps, Timeline, pooled, read_timeline, stream_vectors
from echoic.types import AudioError, CheckpointError, EchoicError, Ragged
from tests import clap, m2d, tiny

FINE = Steps(step_s=0.1, window_s=0.4, context_s=1.6)
LABELS = ("a dog barks", "rain falls on a roof", "a bell rings twice")


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def pann() -> EchoicModel:
    audio = PannSpec(layers=6, window_samples=clap.WINDOW, int16=True)
    spec = clap.spec().model_copy(update={"audio": audio})
    return EchoicModel(ModelFile(build(spec, seed=0), clap.tokenizer()))


MODELS = {
    "slap": tiny.model,
    "m2d mlp": lambda: EchoicModel(ModelFile(m2d.network("mlp", text="small"), tiny.tokenizer())),
    "m2d tokens": lambda: EchoicModel(
        ModelFile(m2d.network("tokens", text="small"), tiny.tokenizer())
    ),
    "htsat": lambda: EchoicModel(clap.content()),
    "htsat fused": lambda: EchoicModel(clap.content(fusion=True)),
    "pann": pann,
}


def close(found, wanted, within=1e-5):
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=0, atol=within)


def parts(model: EchoicModel, blocks: Any, steps: Steps = FINE):
    """What `stream_vectors` hands out, and how many samples it was at once given."""
    heard = []

    def hear(pieces):
        heard.extend(len(piece.content) for piece in pieces)
        return model._features(pieces)

    return list(stream_vectors(model.network.audio, blocks, hear, steps)), heard


# -- what a step's vector is ----------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_window_over_a_whole_clip_has_the_clips_vector(name):
    """So that scores over time lie in the space, and on the scale, of the clips' own."""
    model = MODELS[name]()
    tower = model.network.audio
    # 112 frames, which are whole columns; of a window tower the whole window
    samples = clap.WINDOW if name in ("htsat", "htsat fused", "pann") else 160 * 111 + 80
    draw = np.random.default_rng(3)
    wave = (0.1 * draw.standard_normal(samples)).astype(np.float32)
    features = model.audio_features([wave])
    with torch.no_grad():
        found = pooled(tower, Ragged(features.tokens.float(), features.offsets))
    close(F.normalize(found, dim=-1), F.normalize(features.clip, dim=-1))


@pytest.mark.parametrize("name", MODELS)
def test_each_kind_of_model_tells_times_apart(name):
    """A sound in a recording's second half changes the steps there the most."""
    model = MODELS[name]()
    rate, seconds = model.rate_hz, 1.9
    quiet = 0.001 * np.random.default_rng(0).standard_normal(round(seconds * rate))
    loud = quiet.copy()
    loud[rate:] += 0.3 * np.sin(2 * np.pi * 900 * np.arange(len(loud) - rate) / rate)
    labels = ("rain", "dog bark", "bell")
    steps = Steps(step_s=0.2, window_s=0.4)
    before, after = (
        model.timeline(wave.astype(np.float32), labels, steps=steps).cosines
        for wave in (quiet, loud)
    )
    assert before.shape == after.shape == (10, 3)
    changed = np.abs(after - before).max(axis=1)
    assert changed[6:].mean() > 1.5 * changed[:3].mean()


def test_probabilities_are_those_of_classify(model):
    """Of a recording no longer than the window: one step's are the clip's."""
    wave = tiny.noise(0.4)
    line = model.timeline(wave, LABELS, steps=Steps(step_s=0.4, window_s=0.6))
    close(line.cosines[-1:], model.classify(wave, LABELS).cosines)
    close(line.probabilities[-1:], model.classify(wave, LABELS).probabilities)
    assert line.probabilities.sum(1) == pytest.approx(1)


# -- any length, any blocks -----------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.01, 0.35, 1.6, 1.65, 2.4, 7.03])
def test_how_blocks_are_cut_changes_no_bit(model, seconds):
    wave = tiny.noise(seconds)
    wanted = torch.cat([each.vectors for each in parts(model, [wave])[0]])
    assert len(wanted) == int(np.ceil(round(seconds / FINE.step_s, 6)))
    for size in (160, 4001, 30_000):
        found, heard = parts(model, regroup([wave], size))
        assert [each.first for each in found] == np.cumsum(
            [0, *(len(each.vectors) for each in found[:-1])]
        ).tolist()
        assert torch.equal(torch.cat([each.vectors for each in found]), wanted)
        assert max(heard) <= 1.6 * tiny.RATE
        assert found[-1].heard_s == pytest.approx(len(wave) / tiny.RATE)


def test_steps_come_while_the_recording_goes_on(model):
    """What came first is as if nothing followed, and an hour is not waited for."""
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            drawn += 1
            yield tiny.noise(0.1, seed=drawn)

    first = next(stream_vectors(model.network.audio, endless(), model._features, FINE))
    assert drawn == 16
    assert (first.first, len(first.vectors)) == (0, 12)
    wave = np.concatenate([tiny.noise(0.1, seed=i + 1) for i in range(40)])
    whole = parts(model, [wave])[0]
    assert torch.equal(whole[0].vectors, first.vectors)


def test_a_sound_is_heard_where_it_is_in_a_long_recording(model):
    """Many stretches in, at its own time."""
    wave = tiny.noise(7.0) / 100
    sounding = wave.copy()
    sounding[5 * tiny.RATE : round(5.6 * tiny.RATE)] += tiny.tone(900, 0.6)
    before, after = (
        torch.cat([each.vectors for each in parts(model, [each])[0]]) for each in (wave, sounding)
    )
    changed = (after - before).norm(dim=1).numpy()
    heard = np.flatnonzero(changed > 0.5 * changed.max()) * FINE.step_s
    assert 4.6 < heard.min() < 5.2
    assert 5.3 < heard.max() < 5.9
    assert changed[:33].max() == 0  # no stretch with the sound in it has steps before 3.3 s


def test_each_step_is_heard_with_half_a_window_more_on_both_sides(model):
    """Where one stretch leaves off and the next goes on."""
    found, heard = parts(model, [tiny.noise(7.03)])
    assert len(found) == len(heard) + 1 > 6  # the last stretch is read up to its end
    for each in found[:-1]:
        middles_s = (each.first + np.arange(len(each.vectors)) + 0.5) * FINE.step_s
        start_s = each.heard_s - 1.6
        assert middles_s[-1] + FINE.window_s <= each.heard_s + 1e-9
        assert each.first == 0 or middles_s[0] - FINE.window_s >= start_s - 1e-9


@pytest.mark.parametrize(
    ("samples", "count"), [(1, 1), (16_000, 10), (16_016, 10), (16_160, 10), (16_400, 11)]
)
def test_a_sliver_at_the_end_belongs_to_the_step_before(model, samples, count):
    """A resampler leaves a sample over, an encoder some."""
    line = model.timeline(tiny.noise(1.1)[:samples], LABELS, steps=FINE)
    assert len(line.cosines) == count
    assert line.spans(0.0)[-1].offset_s == line.edges_s[-1] == samples / tiny.RATE
    assert np.diff(line.edges_s[1:]).min(initial=0.1) >= 0.1 * FINE.step_s


def test_of_a_recording_with_fewer_tokens_than_steps_the_nearest_counts(model):
    line = model.timeline(tiny.noise(0.3), LABELS, steps=Steps(0.01, 0.01, 1.0))
    assert len(line.cosines) == 30
    assert np.isfinite(line.cosines).all()
    assert len(np.unique(line.cosines[:, 0].round(5))) == 2  # columns of 0.16 s


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (Steps(0.5, 0.4), "leave gaps"),
        (Steps(0.0, 0.4), "leave gaps"),
        (Steps(), "2 s at once: this model hears up to 2 s, and windows of 1 s need three"),
        (Steps(0.1, 0.4, 2.1), "2.1 s at once: this model hears up to 2 s"),
    ],
)
def test_steps_that_do_not_fit_the_model_are_refused(model, steps, words):
    with pytest.raises(EchoicError, match=words):
        model.timeline(tiny.noise(1.0), LABELS, steps=steps)


def test_what_cannot_be_heard_or_read_is_named(model, tmp_path):
    with pytest.raises(AudioError, match=r"none\.wav: no such file"):
        model.timeline(tmp_path / "none.wav", LABELS, steps=FINE)
    with pytest.raises(EchoicError, match="no labels given"):
        model.timeline(tiny.noise(1.0), [], steps=FINE)
    deaf = EchoicModel(ModelFile(m2d.network(None), None))
    with pytest.raises(CheckpointError, match="reads no text"):
        deaf.timeline(tiny.noise(1.0), LABELS, steps=FINE)


def test_vectors_of_labels_may_be_given(model):
    wave = tiny.noise(1.0)
    given = model.timeline(wave, LABELS, classes=model.embed_labels(LABELS), steps=FINE)
    assert np.array_equal(given.cosines, model.timeline(wave, LABELS, steps=FINE).cosines)


# -- spans ----------------------------------------------------------------------------------------


def line(*rows: list[float], step_s: float = 0.5, rest_s: float = 0.0) -> Timeline:
    scores = np.array(rows, dtype=np.float64).T
    labels = LABELS[: scores.shape[1]]
    return Timeline(labels, step_s, len(scores) * step_s - rest_s, scores - 1, scores)


def rows(spans: list[Span]) -> list[tuple[float, float, str, float]]:
    return [(each.onset_s, each.offset_s, each.label[2:5], each.score) for each in spans]


def test_spans_are_where_scores_reach_the_threshold():
    made = line([0.5, 0.5, 0.1, 0.9], [0.0, 0.6, 0.6, 0.6], rest_s=0.2)
    assert rows(made.spans(0.5)) == [
        (0.0, 1.0, "dog", 0.5), (0.5, 1.8, "in ", 0.6), (1.5, 1.8, "dog", 0.9),
    ]  # fmt: skip
    assert rows(made.spans(-0.45, by="cosine"))[0] == (0.5, 1.8, "in ", pytest.approx(-0.4))
    assert made.spans(2.0) == []


def test_a_span_goes_on_while_the_score_is_over_the_low_one():
    made = line([0.3, 0.8, 0.3, 0.1, 0.3, 0.3])
    assert rows(made.spans(0.5)) == [(0.5, 1.0, "dog", 0.8)]
    assert rows(made.spans(0.5, low=0.3)) == [(0.0, 1.5, "dog", 0.8)]
    with pytest.raises(EchoicError, match=r"low 0\.6 is above the threshold 0\.5"):
        made.spans(0.5, low=0.6)


def test_gaps_are_closed_before_what_is_short_is_left_out():
    made = line([0.9, 0.0, 0.8, 0.0, 0.0, 0.7])
    assert len(made.spans(0.5)) == 3
    assert rows(made.spans(0.5, gap_s=0.5)) == [(0.0, 1.5, "dog", 0.9), (2.5, 3.0, "dog", 0.7)]
    assert rows(made.spans(0.5, gap_s=0.5, min_s=1.0)) == [(0.0, 1.5, "dog", 0.9)]
    assert made.spans(0.5, min_s=0.6) == []
    two = line([0.9, 0.0], [0.0, 0.9])  # of different labels nothing is joined
    assert len(two.spans(0.5, gap_s=5.0)) == 2


def test_a_median_takes_out_what_stands_alone():
    made = line([0.0, 0.9, 0.0, 0.0, 0.7, 0.8, 0.9])
    assert made.smoothed(1.5).probabilities[:, 0].tolist() == [0, 0, 0, 0, 0.7, 0.8, 0.9]
    assert made.smoothed(1.5).cosines[:, 0].tolist()[4:] == pytest.approx([-0.3, -0.2, -0.1])
    assert np.array_equal(made.smoothed(0.5).probabilities, made.probabilities)
    with pytest.raises(EchoicError, match="median over 0 s"):
        made.smoothed(0.0)


def test_a_timeline_as_json():
    made = line([0.25, 0.5], rest_s=0.1)
    assert json.loads(json.dumps(made.to_json())) == {
        "labels": ["a dog barks"], "step_s": 0.5, "duration_s": 0.9, "scale": "probability",
        "scores": [[0.25], [0.5]],
    }  # fmt: skip
    assert made.to_json(by="cosine")["scores"] == [[-0.75], [-0.5]]


# -- a real recording of five minutes -------------------------------------------------------------


def test_five_minutes_from_a_file_are_those_of_its_blocks(shared):
    model = tiny.model(max_s=10.0)
    path = shared / "data/long/audio/timeline_300s.ogg"
    steps = Steps(step_s=0.5)
    found = model.timeline(path, LABELS, steps=steps)
    again = read_timeline(
        model.network.audio,
        stream_audio(path, rate_hz=model.rate_hz, block_s=0.7),
        model._features,
        model.embed_labels(LABELS),
        LABELS,
        scale=float(model.network.logit_scale.detach().exp()),
        steps=steps,
    )
    assert np.array_equal(found.cosines, again.cosines)
    assert found.duration_s == pytest.approx(300, abs=1)
    assert len(found.cosines) == int(np.ceil(found.duration_s / 0.5))


def test_its_known_time_line_is_found_by_scores_that_know_it(shared):
    text = (shared / "data/long/timeline_300s.csv").read_text()
    known = [
        Span(float(row["onset"]), float(row["offset"]), row["category"])
        for row in csv.DictReader(text.splitlines())
    ]
    labels = tuple(sorted({span.label for span in known}))
    end_s = max(span.offset_s for span in known)
    middle = (np.arange(int(np.ceil(end_s / 0.1))) + 0.5) * 0.1
    scores = np.array(
        [
            [any(s.label == name and s.onset_s <= t < s.offset_s for s in known) for name in labels]
            for t in middle
        ],
        dtype=np.float64,
    )
    found = Timeline(labels, 0.1, end_s, scores, scores).smoothed(0.5).spans(0.5)
    hits, true, guessed = np.split(event_counts(known, found, labels), 3)
    # two of a class, one after the other, become one
    joined = sum(a.label == b.label for a, b in itertools.pairwise(known))
    assert guessed.sum() == len(known) - joined == len(found)
    assert hits.sum() >= len(known) - 2 * joined
    hits, true, guessed = segment_counts(known, found, labels, end_s)[:-1].reshape(3, -1)
    assert 2 * hits.sum() / (true.sum() + guessed.sum()) > 0.95
