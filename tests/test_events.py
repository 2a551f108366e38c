"""A model's tagging over time, judged: a model that knows the answer, one that knows nothing, and
what is left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from echoic.api import EchoicModel
from echoic.data.clips import Clip
from echoic.data.sources import FileSource
from echoic.data.synth.corpus import draw_scenes
from echoic.data.tasks.timed import DESED, open_timed
from echoic.eval.bootstrap import Bootstrap
from echoic.eval.events import METRICS, Span
from echoic.events import Deciding, evaluate_events, evaluate_scenes, evaluate_timed
from echoic.timeline import Steps, Timeline
from echoic.types import DataError, EchoicError
from tests import tiny
from tests.data.tasks.test_timed import desed

FINE = Steps(step_s=0.05, window_s=0.4)
QUICK = Bootstrap(seed=0, resamples=50)


class Knowing(EchoicModel):
    """Hears recordings in the order of `truth`, and knows what sounds in each."""

    def __init__(self, truth):
        super().__init__(tiny.content())
        self.truth = iter(truth)

    def timeline(self, item, labels, *, steps=None, **_):
        events, steps = next(self.truth), steps or FINE
        duration_s = len(item) / self.rate_hz
        middle = (np.arange(int(np.ceil(duration_s / steps.step_s - 1e-9))) + 0.5) * steps.step_s
        scores = np.zeros((len(middle), len(labels)))
        for event in events:
            on = (middle >= event.onset_s) & (middle < event.offset_s)
            scores[on, list(labels).index(event.label)] = 1.0
        return Timeline(tuple(labels), steps.step_s, duration_s, scores, scores)


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(4, split="test", max_s=3.0)


def test_a_model_that_knows_the_answer_finds_all(scenes):
    """But for what steps of 50 ms blur."""
    model = Knowing([scene.events for scene in scenes])
    found = evaluate_scenes(
        model, scenes, steps=FINE, deciding=Deciding(median_s=0.15), bootstrap=QUICK
    )
    assert found.metrics["event_f1"].value == 1.0
    assert found.metrics["segment_f1"].value > 0.9
    assert found.metrics["psds1"].value == pytest.approx(1.0)
    assert found.metrics["psds2"].value == pytest.approx(1.0)
    assert found.recordings == 4
    assert found.events == sum(len(scene.events) for scene in scenes)
    assert found.hours == pytest.approx(sum(scene.duration_s for scene in scenes) / 3600, rel=1e-3)
    assert set(found.per_class) == {label for scene in scenes for label in scene.labels}


def test_one_that_knows_nothing_is_far_from_that(scenes):
    found = evaluate_scenes(tiny.model(), scenes, steps=FINE, bootstrap=QUICK)
    assert found.metrics["event_f1"].value < 0.5
    assert found.metrics["psds2"].value < 0.6
    document = json.loads(json.dumps(found.to_json()))
    assert document["data"]["name"] == "synth"
    assert {f"events/{name}" for name in METRICS} < set(document["metrics"])
    said = " ".join(found.words)
    for word in ("“the sound of {label}”", "every 0.05 s", "median over 1 s", "0.3, not chosen"):
        assert word in said
    for word in ("dtc 0.7, gtc 0.7, alpha_st 1", "cttc 0.3, alpha_ct 0.5", "200 ms", "20 %"):
        assert word in said


def test_a_published_set_has_its_title_and_what_papers_say(tmp_path):
    desed(tmp_path)
    task = open_timed(DESED, tmp_path)
    found = evaluate_timed(Knowing(task.truth), task, steps=FINE, bootstrap=QUICK)
    assert (found.task, found.title) == ("desed", "DESED, validation part")
    assert (found.recordings, found.events, found.missing) == (2, 2, 1)
    assert found.published == DESED.paper


def test_what_cannot_be_heard_is_named_and_left_out(tmp_path):
    soundfile.write(tmp_path / "good.wav", tiny.noise(1.0), tiny.RATE)
    (tmp_path / "bad.wav").write_bytes(b"not a sound")
    names = ["bad.wav", "good.wav"]
    source = FileSource([Clip(n, (), (), None) for n in names], [tmp_path / n for n in names])
    truth = [[Span(0.0, 0.5, "dog")], [Span(0.2, 0.6, "bell")]]
    model = Knowing(truth[1:])
    found = evaluate_events(
        model, source, truth, ["bell", "dog"], name="mine", steps=FINE, bootstrap=QUICK
    )
    assert list(found.bad) == ["bad.wav"]
    assert (found.title, found.recordings, found.events) == ("mine", 1, 1)
    assert list(found.per_class) == ["bell"]
    (tmp_path / "good.wav").write_bytes(b"")
    with pytest.raises(DataError, match="mine: none of 2 recordings can be heard"):
        evaluate_events(model, source, truth, ["bell", "dog"], name="mine")


def test_a_label_that_is_not_asked_for_is_refused_before_anything_is_heard(scenes):
    source = FileSource([Clip("a", (), (), None)], [])
    with pytest.raises(EchoicError, match="'dog' is none"):
        evaluate_events(tiny.model(), source, [[Span(0, 1, "dog")]], ["bell"], steps=FINE)
