"""Probing and fine-tuning: what is chosen, what is judged, and that the file predicts the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from echoic.data.clips import Clip, SubsetSource
from echoic.data.labels import Labels
from echoic.finetune import FinetuneSpec, Splits, finetune, load_classifier
from echoic.finetune.reading import Reading
from echoic.types import AudioError, CheckpointError, ConfigError, DataError
from tests import tiny

PROBE = FinetuneSpec(head="linear", freeze=True, epochs=30, batch_clips=8, lr=0.1)
TUNED = FinetuneSpec(head="mlp", epochs=4, batch_clips=6, lr=3e-3, cache_mb=1)


class Pitches:
    """Low and high tones with the labels "low" and "high", or with both where `both`."""

    def __init__(self, count: int, *, seed: int = 0, both: bool = False) -> None:
        draw = np.random.default_rng(seed)
        high = [i % 2 == 1 for i in range(count)]
        self.hz = [float(draw.uniform(3000, 3600) if h else draw.uniform(200, 260)) for h in high]
        self.two = [both and i % 4 == 3 for i in range(count)]
        tags = [
            ("low", "high") if two else ("high",) if h else ("low",)
            for h, two in zip(high, self.two, strict=True)
        ]
        self.clips = [Clip(f"{seed}-{i}", ("x",), t, 0.4 + i / 100) for i, t in enumerate(tags)]
        self.read_count = 0
        self.broken: set[str] = set()

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        self.read_count += 1
        if self.clips[i].key in self.broken:
            raise AudioError(self.clips[i].key, "damaged")
        wave = tiny.tone(self.hz[i], self.clips[i].duration_s)
        return wave + tiny.tone(300, self.clips[i].duration_s) if self.two[i] else wave


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def splits(**options) -> Splits:
    return Splits(*(Pitches(n, seed=s, **options) for s, n in enumerate((16, 8, 8))))


def weights(of) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in of.network.state_dict().items()}


def test_a_probe_learns_and_hears_each_clip_once(model, tmp_path):
    data, before = splits(), weights(model)
    done = finetune(model, data, tmp_path, PROBE)
    assert done.labels == ("high", "low")
    assert done.metrics["train"]["accuracy"] == done.metrics["test"]["accuracy"] == 1
    assert [source.read_count for source in data.named().values()] == [16, 8, 8]
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(model).items())
    written = json.loads((tmp_path / "result.json").read_text())
    assert written == done.to_json()
    assert written["classes"] == 2


def test_the_file_predicts_what_was_judged(model, tmp_path):
    data = splits()
    done = finetune(model, data, tmp_path, PROBE)
    probe = load_classifier(tmp_path, model)
    waves = [data.test.read(i, model.rate_hz) for i in range(8)]
    found = probe.probabilities(waves)
    torch.testing.assert_close(found.sum(1), torch.ones(8))
    right = [probe.labels.index(clip.tags[0]) for clip in data.test.clips]
    accuracy = (found.argmax(1) == torch.tensor(right)).float().mean()
    assert float(accuracy) == done.metrics["test"]["accuracy"]
    assert probe.card["best_epoch"] == done.best_epoch


def test_tuning_moves_the_tower_and_leaves_the_model(model, tmp_path):
    data, before = splits(), weights(model)
    done = finetune(model, data, tmp_path, TUNED)
    assert set(done.metrics) == {"valid", "test"}
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(model).items())
    tuned = load_classifier(done.file)
    moved = tuned.audio.state_dict()
    assert not torch.equal(moved["encoder.patch.weight"], before["audio.encoder.patch.weight"])
    waves = [data.test.read(i, model.rate_hz) for i in range(8)]
    right = torch.tensor([tuned.labels.index(clip.tags[0]) for clip in data.test.clips])
    accuracy = (tuned.logits(waves).argmax(1) == right).float().mean()
    assert float(accuracy) == done.metrics["test"]["accuracy"]


def test_many_labels_are_judged_by_map(model, tmp_path):
    done = finetune(model, splits(both=True), tmp_path, PROBE)
    assert done.per_clip == "many"
    assert done.metrics["test"]["mAP"] > 0.9
    probabilities = load_classifier(tmp_path, model).probabilities([tiny.tone(3000, 0.5)])
    assert float(probabilities.sum()) != pytest.approx(1)


def test_the_best_epoch_is_kept(model, tmp_path, monkeypatch):
    """Scores of the validation split that rise and fall: the weights of the top are judged."""
    scores = iter([0.25, 0.75, 0.5, 0.75])
    seen: list[torch.Tensor] = []
    real = finetune.__globals__["_judged"]

    def judged(task, *others):
        seen.append(task.head.weight.detach().clone())
        return real(task, *others)

    def figures(judged, source, labels):
        return {"accuracy": next(scores, 0.0), "top5": 1.0}

    monkeypatch.setattr("echoic.finetune.run._judged", judged)
    monkeypatch.setattr("echoic.finetune.run._figures", figures)
    spec = PROBE.model_copy(update={"epochs": 4})
    done = finetune(model, splits(), tmp_path, spec)
    assert done.best_epoch == 4.0  # of equals the last
    kept = load_classifier(tmp_path, model).head.weight
    assert torch.equal(kept, seen[3])
    assert not torch.equal(kept, seen[1])


@pytest.mark.parametrize("spec", [PROBE, TUNED], ids=["probe", "tuned"])
def test_an_interrupted_run_ends_as_one_that_was_not(model, tmp_path, monkeypatch, spec):
    spec = spec.model_copy(update={"epochs": 4})
    whole = finetune(model, splits(), tmp_path / "whole", spec)
    real, calls = finetune.__globals__["_figures"], iter(range(100))

    def figures(*arguments):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr("echoic.finetune.run._figures", figures)
    with pytest.raises(KeyboardInterrupt):
        finetune(model, splits(), tmp_path / "cut", spec)
    done = finetune(model, splits(), tmp_path / "cut", spec, resume=True)
    assert done.metrics == whole.metrics
    assert done.best_epoch == whole.best_epoch
    heads = [load_classifier(tmp_path / name, model).head for name in ("whole", "cut")]
    for a, b in zip(*(head.parameters() for head in heads), strict=True):
        assert torch.equal(a, b)


def test_a_training_is_not_overwritten_nor_mixed(model, tmp_path):
    finetune(model, splits(), tmp_path, PROBE)
    with pytest.raises(ConfigError, match="holds a training at step"):
        finetune(model, splits(), tmp_path, PROBE)
    changed = PROBE.model_copy(update={"lr": 1.0})
    with pytest.raises(ConfigError, match=r"finetune\.lr"):
        finetune(model, splits(), tmp_path, changed, resume=True)
    with pytest.raises(ConfigError, match="space_id"):
        finetune(tiny.model(seed=1), splits(), tmp_path, PROBE, resume=True)


def test_clips_that_cannot_be_heard_are_left_out_by_name(model, tmp_path):
    data = splits()
    data.test.broken.add("2-3")
    done = finetune(model, data, tmp_path, PROBE)
    assert done.bad == {"2-3": "damaged"}
    data.train.broken |= {"0-1", "0-2"}
    with pytest.raises(DataError, match=r"2 of 16 training clips are unusable.*0-1: damaged"):
        finetune(model, data, tmp_path / "b", PROBE)


def test_splits_without_a_clip_to_hear(model, tmp_path):
    data = splits()
    data.valid.broken |= {clip.key for clip in data.valid.clips}
    with pytest.raises(DataError, match="none of 8 clips can be heard"):
        finetune(model, data, tmp_path, PROBE)


def test_a_classifier_needs_its_own_model(model, tmp_path):
    finetune(model, splits(), tmp_path, PROBE)
    with pytest.raises(CheckpointError, match="a head alone"):
        load_classifier(tmp_path)
    with pytest.raises(CheckpointError, match="this one is"):
        load_classifier(tmp_path, tiny.model(seed=1))


def test_part_of_a_source_can_be_a_split(model, tmp_path):
    whole = Pitches(24)
    parts = Splits(*(SubsetSource(whole, range(i, i + 8)) for i in (0, 8, 16)))
    assert finetune(model, parts, tmp_path, PROBE).metrics["test"]["accuracy"] == 1


def test_what_the_test_clips_scored_comes_along(model, tmp_path):
    data = splits()
    data.test.broken.add("2-3")
    judged = finetune(model, data, tmp_path, PROBE).judged
    assert judged.keys == tuple(clip.key for clip in data.test.clips if clip.key != "2-3")
    probe = load_classifier(tmp_path, model)
    wave = data.test.read(4, model.rate_hz)
    torch.testing.assert_close(judged.scores[3], probe.logits([wave])[0])


def test_clips_of_one_length_learn_by_a_random_part_and_are_judged_by_the_first(
    model, tmp_path, monkeypatch
):
    """Clips of 0.4 s and more are cut to 0.2 s, or padded to 1 s."""
    heard: dict[str, set[int]] = {"learnt": set(), "judged": set()}
    parts: list[bytes] = []
    real = Reading.forward

    def forward(self, audio, change=None):
        kind = "learnt" if change is not None else "judged"
        heard[kind] |= set(audio.lengths)
        if change is not None:
            parts.extend(x.numpy().tobytes() for x in audio)
        return real(self, audio, change)

    monkeypatch.setattr(Reading, "forward", forward)
    data = splits()
    judged = finetune(model, data, tmp_path / "a", TUNED.override(["clip_s=0.2"])).judged
    assert heard == {"learnt": {3200}, "judged": {3200}}
    assert len(set(parts)) > len(data.train.clips)  # other parts in other epochs
    first = [data.test.read(i, tiny.RATE)[:3200] for i in range(8)]
    found = load_classifier(tmp_path / "a").logits(first)
    torch.testing.assert_close(judged.scores, found)
    heard.update(learnt=set(), judged=set())
    finetune(model, data, tmp_path / "b", TUNED.override(["clip_s=1", "epochs=1"]))
    assert heard == {"learnt": {16_000}, "judged": {16_000}}


def test_of_clips_of_one_length_a_silent_one_is_judged(model, tmp_path):
    data = splits()
    sound, data.test.read = data.test.read, lambda i, hz: sound(i, hz) * (i != 2)
    assert finetune(model, data, tmp_path / "a", PROBE).bad == {"2-2": "silent"}
    done = finetune(model, data, tmp_path / "b", PROBE.override(["clip_s=0.3"]))
    assert (done.bad, len(done.judged.keys)) == ({}, 8)


def test_columns_may_be_given(model, tmp_path):
    given = Labels(("middle", "low", "high"), "one")
    done = finetune(model, splits(), tmp_path, PROBE, labels=given)
    assert done.labels == given.names
    assert done.judged.scores.shape == (8, 3)
    assert done.metrics["test"]["accuracy"] == 1


def test_a_step_may_be_made_of_several_batches(model, tmp_path):
    spec = PROBE.model_copy(update={"epochs": 4, "batch_clips": 4, "accumulate": 2})
    assert finetune(model, splits(), tmp_path, spec).step == 8


@pytest.mark.parametrize(("parts", "steps"), [(2, 8), (3, 6), (4, 4), (99, 4)])
def test_a_step_is_at_most_an_epoch(parts, steps, model, tmp_path):
    spec = PROBE.model_copy(update={"epochs": 4, "batch_clips": 4, "accumulate": parts})
    assert finetune(model, splits(), tmp_path, spec).step == steps


def test_a_step_in_parts_is_the_step_at_once(model, tmp_path):
    """As LAION's preset has it: what moves is moved by the mean over all clips of the step."""
    found = []
    for parts in (1, 4, 99):
        changed = {"head": "linear", "batch_clips": 16 // min(parts, 8), "accumulate": parts}
        spec = TUNED.model_copy(update={"epochs": 2, **changed})
        file = finetune(model, splits(), tmp_path / str(parts), spec).file
        found.append({**load_classifier(file).audio.state_dict()})
    before = model.network.audio.state_dict()
    name = "encoder.patch.weight"
    assert (found[0][name] - before[name]).abs().max() > 1e-4
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-5)


def test_nothing_global_is_drawn(model, tmp_path):
    state = torch.get_rng_state()
    finetune(model, splits(), Path(tmp_path), PROBE.model_copy(update={"epochs": 1}))
    assert torch.equal(torch.get_rng_state(), state)
