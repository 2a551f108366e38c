"""The ablation of SLAP: its variants differ in one part and hear the same batches; runs are shared,
kept and told as they should be."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from benchmarks import slap_ablation
from benchmarks.held_sound import FilledSource, HeldSource, at_length, filled
from benchmarks.probes import Probe, probe_vector
from benchmarks.slap_ablation import (
    VARIANTS,
    Study,
    all_scores,
    claimed,
    recipe_of,
)
from benchmarks.slap_measures import Sets, caption_baselines, scenes_to_find
from benchmarks.slap_tables import summary, tell
from echoic.data.synth.corpus import SceneSource, draw_scenes
from echoic.model import build
from echoic.pretrain import make_loader
from echoic.types import ConfigError
from tests import tiny

RATE_HZ = 16_000
SMALL = (
    "model.audio.width=32", "model.audio.heads=2", "model.text.depth=1", "model.decoder.depth=1",
    "model.decoder.max_tokens=8", "model.text.vocab=300", "data.budget_clips=3",
)  # fmt: skip


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(6, split="train", seed=0, max_s=2.0)


@pytest.fixture
def held(scenes, tmp_path):
    return HeldSource(SceneSource(scenes), tmp_path / "sound", RATE_HZ)


@pytest.fixture
def study(scenes, held, tmp_path):
    tested, waves = scenes_to_find(2, 2.0)
    labels = np.array([0, 1])
    probe = Probe("two", (waves, labels), (waves, labels), ("dog", "rain"), ("{label}",), 2)
    return Study(held, Sets(tested, waves, scenes, [probe]), tmp_path, steps=1, changes=SMALL)


# -- sound -----------------------------------------------------------------------------------------


class Deaf(SceneSource):
    def read(self, i, rate_hz):
        raise AssertionError("read again")


def test_held_sound_is_the_same_and_read_once(scenes, held, tmp_path):
    source = SceneSource(scenes)
    again = HeldSource(Deaf(scenes), tmp_path / "sound", RATE_HZ)
    for i in range(len(scenes)):
        np.testing.assert_array_equal(held.read(i, RATE_HZ), source.read(i, RATE_HZ))
        np.testing.assert_array_equal(again.read(i, RATE_HZ), source.read(i, RATE_HZ))
    assert not [file for file in (tmp_path / "sound").iterdir() if file.name.endswith(".part")]
    with pytest.raises(ValueError, match="16000 Hz"):
        held.read(0, 32_000)


def test_a_fixed_length_is_filled_after_the_sound_and_cut_to_its_middle():
    wave = np.arange(1.0, 5.0, dtype=np.float32)
    assert filled(wave, 6).tolist() == [1, 2, 3, 4, 0, 0]
    assert filled(wave, 2).tolist() == wave.tolist()
    assert at_length(wave, 6).tolist() == [1, 2, 3, 4, 0, 0]
    assert at_length(wave, 2).tolist() == [2, 3]


def test_a_filled_source_tells_the_length_that_it_gives(scenes):
    source = FilledSource(SceneSource(scenes), 10.0)
    assert {clip.duration_s for clip in source.clips} == {10.0}
    assert len(source.read(0, RATE_HZ)) == 10 * RATE_HZ


def test_a_probe_does_not_see_the_filling(rng):
    model = tiny.model()
    wave = rng.standard_normal(RATE_HZ).astype(np.float32)
    features = model.audio_features([filled(wave, 2 * RATE_HZ)])
    seen, all_ = (probe_vector(features, 1, sound_s) for sound_s in (1.0, 2.0))
    dim, tokens = model.embed_dim, features.tokens.numpy()
    own = tokens[features.time_s.numpy() <= 1.0]
    assert 0 < len(own) < len(tokens)
    np.testing.assert_allclose(seen[dim : dim + own.shape[1]], own.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(all_[dim : dim + own.shape[1]], tokens.mean(0), rtol=1e-5, atol=1e-6)


# -- variants --------------------------------------------------------------------------------------


def test_variants_differ_in_their_part_alone():
    full = recipe_of(VARIANTS["full"], 0, 10)
    assert full.objectives.distillation
    assert full.objectives.captioning
    assert full.model.audio.global_every == full.model.audio.depth == 3  # two local, one global

    def parts(name):
        found = recipe_of(VARIANTS[name], 0, 10)
        one, other = (recipe.model_dump(mode="json") for recipe in (full, found))
        return {
            f"{key}.{sub}"
            for key in ("model", "objectives", "data", "optim", "run", "frame_augment")
            for sub in one[key]
            if one[key][sub] != other[key][sub]
        }

    assert parts("no_distillation") == {"objectives.distillation"}
    assert parts("no_captioning") == {"objectives.captioning", "model.decoder"}
    assert parts("contrastive_only") == parts("no_distillation") | parts("no_captioning")
    assert parts("no_local_attention") == {"model.audio"}
    assert parts("fixed_10_s") == {"model.max_s", "data.max_s"}


def test_all_variants_hear_the_same_clips_in_the_same_batches(scenes):
    def keys(name):
        variant = VARIANTS[name]
        recipe = recipe_of(variant, 5, 10, ("data.budget_clips=2",))
        source = SceneSource(scenes)
        if variant.fixed_s:
            source = FilledSource(source, variant.fixed_s)
        model = build(recipe.model, seed=0)
        loader = make_loader(recipe, source, model, lambda texts: [[1, 2]] * len(texts))
        batches = loader.batches()
        return [next(batches).keys for _ in range(4)]

    assert keys("full") == keys("no_local_attention") == keys("fixed_10_s")


# -- runs ------------------------------------------------------------------------------------------


def test_a_run_is_trained_once_and_then_read(study, monkeypatch):
    found = study.scores("full", 0)
    assert set(found) == {"full", "untrained"}
    assert {"text_to_audio_R@1", "zero_shot_two", "probe", "cider_d"} <= set(found["full"])
    assert "cider_d" not in found["untrained"]
    kept = json.loads((study.out / "seed0" / "full" / "scores.json").read_text())
    assert len(kept["captions"]) == 2

    monkeypatch.setattr(slap_ablation, "pretrain", None)
    assert study.scores("full", 0) == found
    other = Study(study.source, study.sets, study.out, steps=2, changes=SMALL)
    with pytest.raises(ConfigError, match=r"seed0/full: holds a run of other settings"):
        other.scores("full", 0)


def test_what_was_trained_is_measured_anew_on_other_sets(study, monkeypatch):
    study.scores("contrastive_only", 0)
    monkeypatch.setattr(slap_ablation, "pretrain", None)
    scenes, waves = scenes_to_find(3, 2.0)
    more = Sets(scenes, waves, study.sets.training, study.sets.probes)
    found = Study(study.source, more, study.out, steps=1, changes=SMALL).scores(
        "contrastive_only", 0
    )
    assert "train_s" not in found["contrastive_only"]
    assert "cider_d" not in found["contrastive_only"]


def test_a_folder_is_claimed_once_at_a_time(tmp_path):
    run = tmp_path / "run"
    with claimed(run, wait=False) as mine, claimed(run, wait=False) as two:
        assert mine
        assert not two
    with claimed(run, wait=False) as mine:
        assert mine


def test_work_of_another_process_is_left_to_it_until_the_end(tmp_path):
    done = []
    let_go = threading.Event()

    def scores(name, seed):
        done.append((name, seed))
        if len(done) == 3:
            let_go.set()
        return {name: {"x": float(seed)}}

    holding = threading.Event()

    def other():
        with claimed(tmp_path / "seed0" / "a", wait=False):
            holding.set()
            let_go.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    holding.wait(10)
    rows = all_scores(tmp_path, ["a", "b"], [0, 1], scores)
    thread.join()
    assert done == [("b", 0), ("a", 1), ("b", 1), ("a", 0)]
    assert rows == {name: [{"x": 0.0}, {"x": 1.0}] for name in ("a", "b")}


# -- figures ---------------------------------------------------------------------------------------


def test_differences_are_taken_seed_by_seed():
    rows = {
        "full": [{"probe": 0.5, "train_s": 9.0}, {"probe": 0.7, "train_s": 9.0}],
        "fixed_10_s": [{"probe": 0.4, "train_s": 1.0}, {"probe": 0.6, "only": 1.0}],
    }
    found = summary(rows)
    assert found["full_probe"] == pytest.approx(0.6)
    assert found["full_probe_std"] == pytest.approx(0.1)
    assert found["full_minus_fixed_10_s_probe"] == pytest.approx(0.1)
    assert found["full_minus_fixed_10_s_probe_std"] == pytest.approx(0.0)
    assert not [name for name in found if name.endswith(("only", "minus_fixed_10_s_train_s"))]


def test_the_tables_hold_each_row_and_the_papers_figures(study, capsys):
    figures = {"text_to_audio_R@1": 0.25, "cider_d": 0.5}
    rows = {"full": [figures] * 2, "no_captioning": [{"text_to_audio_R@1": 0.2}] * 2}
    baselines = caption_baselines(study.sets)
    assert baselines["known_tags_rouge_l"] > 0
    tell(summary(rows) | baselines, list(rows), ["two"], "test")
    out = capsys.readouterr().out
    for cell in ("25.0 ± 0.0", "+5.0 ± 0.0", "34.7 / 43.0", "+0.4 / +1.8", "50.0 ± 0.0"):
        assert cell in out
