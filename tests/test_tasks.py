"""Any model through any task: what it hears of each clip, what learns and what judges, and what is
said of it. A stand-in model shows what it is given; a tiny one shows that real ones fit."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from echoic.data.tasks import TASKS, open_task
from echoic.embeddings import Part, VectorCache, cut
from echoic.eval.bootstrap import Bootstrap
from echoic.eval.linear import LinearSettings
from echoic.eval.zeroshot import LAION_TEMPLATE
from echoic.tasks import CROP_SEED, linear, random_part, task_prompts, zero_shot
from echoic.types import CheckpointError, DataError
from tests import task_trees, tiny

BOOT = Bootstrap(seed=0, resamples=50)
QUICK = LinearSettings(lr=0.1, epochs=30)


class StandIn:
    """Hears loudness, length and zero crossings; reads the length of a sentence. Keeps what it was
    given."""

    rate_hz, space_id, card = 8000, "stand-in", {"recipe": "stand-in"}
    network = SimpleNamespace(parameters=lambda: iter(()), logit_scale=torch.tensor([2.0]))

    def __init__(self):
        self.waves, self.texts = [], []

    def probe_vectors(self, waves):
        rows = [self._vector(wave) for wave in waves]
        return torch.stack(rows) if rows else torch.empty(0, 3)

    embed_audio = probe_vectors

    def _vector(self, wave):
        self.waves.append(wave)
        crossings = np.count_nonzero(np.diff(np.signbit(wave)))
        return torch.tensor([float(crossings), float(np.abs(wave).mean()), 1.0])

    def embed_text(self, texts):
        self.texts += texts
        return torch.tensor([[float(len(text)), 1.0, 0.0] for text in texts])


@pytest.fixture
def esc50(tmp_path):
    task_trees.esc50(tmp_path)
    return open_task("esc50", tmp_path)


@pytest.fixture
def opened(tmp_path):
    def make(name):
        task_trees.TREES[name](tmp_path)
        return open_task(name, tmp_path)

    return make


def test_pitch_is_learnt_and_judged_over_all_folds(esc50):
    found = linear(StandIn(), esc50, settings=QUICK, bootstrap=BOOT)
    assert found.value == 1.0
    assert found.spread == 0.0
    assert tuple(found.by_seed) == (42, 43, 44)
    assert tuple(found.by_fold) == ("1", "2", "3", "4", "5")
    assert found.clips == 20
    assert found.chance == 0.5
    assert found.per_class == {"dog": 1.0, "sea waves": 1.0}
    assert (found.interval.low, found.interval.high) == (1.0, 1.0)


def test_waves_are_cut_and_padded_to_the_task(esc50):
    model = StandIn()
    linear(model, esc50, seeds=[42], settings=QUICK, bootstrap=BOOT)
    assert {len(wave) for wave in model.waves} == {5 * 8000}
    assert len(model.waves) == 20  # a short clip is heard once, though it learns and judges
    assert all(not wave[800:].any() and wave[:800].any() for wave in model.waves)


def lengthen(folder, seconds):
    """Clips of which each second sounds differently."""
    for path in sorted(folder.rglob("*.wav")):
        wave = np.concatenate([tiny.tone(200.0 * (1 + s), 1.0) for s in range(seconds)])
        soundfile.write(path, wave, tiny.RATE)


def test_long_clips_learn_by_a_random_part_and_judge_by_the_first(tmp_path):
    task_trees.us8k(tmp_path)
    lengthen(tmp_path / "audio", 7)
    task = open_task("us8k", tmp_path)
    runs = [StandIn() for _ in range(3)]
    for model, seed in zip(runs, (1, 1, 2), strict=True):
        draw = np.random.default_rng(seed)
        linear(model, task, seeds=[42], generator=draw, settings=QUICK, bootstrap=BOOT)
    waves = runs[0].waves
    assert len(waves) == 40  # of each clip a random part, then the first
    whole = task.source.read(0, 8000)
    for drawn, first in zip(waves[::2], waves[1::2], strict=True):
        np.testing.assert_array_equal(first, whole[:32_000])
        assert len(drawn) == 32_000
    assert any(not np.array_equal(drawn, whole[:32_000]) for drawn in waves[::2])
    for first, again in zip(waves, runs[1].waves, strict=True):
        np.testing.assert_array_equal(first, again)
    others = zip(waves[::2], runs[2].waves[::2], strict=True)
    assert any(not np.array_equal(one, other) for one, other in others)


def test_parts_of_a_fixed_split_are_heard_once(opened):
    model = StandIn()
    found = linear(model, opened("spcv2"), settings=QUICK, bootstrap=BOOT)
    assert len(model.waves) == 6
    assert tuple(found.by_fold) == ("test",)
    assert "data's own validation part chooses" in found.words[0]


def test_the_test_part_leaves_no_trace_in_training(tmp_path, monkeypatch):
    """What judges may be turned around: the layer that it is scored by stays the same."""
    import echoic.tasks as module

    seen = []
    real = module.fit_linear

    def watched(train, valid, test_x, **options):
        fit = real(train, valid, test_x, **options)
        seen.append((np.asarray(train[0]), np.asarray(valid[0]), fit.best_epoch))
        return fit

    monkeypatch.setattr(module, "fit_linear", watched)
    task_trees.spcv2(tmp_path)
    task = open_task("spcv2", tmp_path)
    linear(StandIn(), task, seeds=[42], settings=QUICK, bootstrap=BOOT)
    task_trees.wavs(tmp_path, ["no/bb_nohash_0.wav", "yes/bb_nohash_0.wav"])  # pitches changed
    linear(StandIn(), task, seeds=[42], settings=QUICK, bootstrap=BOOT)
    for first, second in zip(seen[0], seen[1], strict=True):
        np.testing.assert_array_equal(first, second)


def test_several_labels_give_map(opened):
    found = linear(StandIn(), opened("fsd50k"), settings=QUICK, bootstrap=BOOT)
    assert found.metric == "mAP"
    assert found.chance is None
    assert 0 < found.value <= 1
    assert np.isnan(found.per_class["Electric guitar"])
    assert found.to_json()["per_class"]["Electric guitar"] is None


def test_folds_and_seeds_can_be_chosen(esc50):
    found = linear(StandIn(), esc50, seeds=[7], folds=["2", "4"], settings=QUICK, bootstrap=BOOT)
    assert (tuple(found.by_fold), tuple(found.by_seed)) == (("2", "4"), (7,))
    assert (found.clips, found.spread) == (8, None)
    assert "folds 2, 4 of 5 judge" in found.words[2]
    with pytest.raises(DataError, match="no fold '6'"):
        linear(StandIn(), esc50, folds=["6"])


def test_what_cannot_be_heard_is_named_and_left_out(esc50, caplog):
    esc50.source.paths[0].write_bytes(b"")
    soundfile.write(esc50.source.paths[1], np.zeros(800), 8000)  # silence is heard: it is a clip
    found = linear(StandIn(), esc50, settings=QUICK, bootstrap=BOOT)
    assert found.bad == {"audio/1-0-A-0.wav": "is empty (0 bytes)"}
    assert found.clips == 19
    assert "clip audio/1-0-A-0.wav left out: is empty" in caplog.text
    zero = zero_shot(StandIn(), esc50, bootstrap=BOOT)
    assert (zero.clips, zero.bad) == (19, found.bad)


def test_a_part_without_sound_is_refused(opened):
    task = opened("spcv2")
    for i in task.indices()["test"]:
        task.source.paths[i].write_bytes(b"")
    for act in (linear, lambda *given: zero_shot(*given, prompts="laion")):
        with pytest.raises(DataError, match=r"spcv2: no clip of test can be heard \("):
            act(StandIn(), task)


# -- zero-shot -----------------------------------------------------------------------------------


def test_zero_shot_asks_m2ds_sentences_and_pools_all_folds(esc50):
    model = StandIn()
    found = zero_shot(model, esc50, bootstrap=BOOT)
    assert model.texts == ["dog can be heard", "sea waves can be heard"]
    assert len(model.waves) == found.clips == 20
    assert {len(wave) for wave in model.waves} == {40_000}
    assert (found.by_seed, found.spread, tuple(found.by_fold)) == ({}, None, ("all",))
    assert found.value == pytest.approx(np.mean(list(found.per_class.values())))
    assert {"M2D-CLAP 2024", "LAION-CLAP"} <= {each.model for each in found.published}


@pytest.mark.parametrize(
    ("task", "asked", "template"),
    [
        ("esc50", "m2d", "{label} can be heard"),
        ("as", "m2d", "{label} can be heard"),
        ("as20k", "laion", LAION_TEMPLATE),
        ("gtzan", "laion", "This is a {label} song."),
        ("gtzan", "m2d", "{label} music can be heard"),
        ("spcv2", "laion", LAION_TEMPLATE),
        ("spcv2", "the word {label}", "the word {label}"),
        ("esc50", "esc50_readme", "This is a sound of {label}"),
    ],
)
def test_prompts_by_paper(task, asked, template):
    assert task_prompts(TASKS[task], asked).template == template


def test_what_a_paper_does_not_ask_is_marked_as_ours():
    assert task_prompts(TASKS["spcv2"], "m2d").source.startswith("ours")
    assert task_prompts(TASKS["esc50"], "slap").source.startswith("ours, as M2D-CLAP asks")


@pytest.mark.parametrize("name", ["esc50", "us8k", "fsd50k", "gtzan", "nsynth", "cremad", "as"])
def test_m2d_has_prompts_for_what_it_reports(name, opened):
    reported = {each.protocol for each in TASKS[name].paper}
    assert "zero_shot" in reported
    model, task = StandIn(), opened(name)
    found = zero_shot(model, task, bootstrap=BOOT)
    assert len(model.texts) == len(task.labels.names)
    assert all(text.endswith(" can be heard") for text in model.texts)
    assert 0 <= found.interval.low <= found.value <= found.interval.high <= 1


def test_labels_of_m2ds_wording_are_those_of_the_task():
    found = task_prompts(TASKS["cremad"], "m2d")
    assert set(found.wording) == set(TASKS["cremad"].names.values())


def test_a_model_of_sound_alone_says_so_before_it_listens(esc50):
    model = StandIn()

    def none(texts):
        raise CheckpointError("this is a model of sound alone: it reads no text")

    model.embed_text = none
    with pytest.raises(CheckpointError, match="sound alone"):
        zero_shot(model, esc50)
    assert not model.waves


# -- what is said --------------------------------------------------------------------------------


def test_mean_over_folds_is_the_value_and_the_interval_goes_with_it(tmp_path):
    task_trees.esc50(tmp_path)
    lists = tmp_path / "meta/esc50.csv"
    rows = lists.read_text().splitlines()
    lists.write_text("\n".join(row for row in rows if not row.startswith("1-1-")) + "\n")
    task = open_task("esc50", tmp_path)
    found = linear(StandIn(), task, settings=LinearSettings(epochs=1), bootstrap=BOOT)
    assert found.clips == 18  # fold 1 is half as large
    assert found.value == pytest.approx(np.mean(list(found.by_fold.values())))
    assert found.value == pytest.approx(np.mean(list(found.by_seed.values())))
    assert found.interval.low <= found.interval.value == found.value <= found.interval.high


def test_json_and_table(esc50):
    found = linear(StandIn(), esc50, settings=QUICK, bootstrap=BOOT)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["metrics"]["linear/accuracy"]["value"] == 1.0
    assert document["by_seed"] == {"42": 1.0, "43": 1.0, "44": 1.0}
    published = {each["model"]: each["value"] for each in document["published"]}
    assert published["M2D-CLAP 2024"] == 0.963
    assert all(each["protocol"] == "linear" for each in document["published"])
    assert document["model"]["recipe"] == "stand-in"
    assert any("random part to learn from" in words for words in document["protocol"])
    assert any("folds all of 5 judge" in words for words in document["protocol"])
    assert found.table().row_count == 2 + 5 + 5


def test_parts_that_are_not_the_papers_are_said(opened):
    found = linear(StandIn(), opened("cremad"), seeds=[42], settings=QUICK, bootstrap=BOOT)
    assert any("Differs from the paper: parts by a hash of the speaker" in w for w in found.words)


def test_parts(rng):
    wave = np.arange(10, dtype=np.float32)
    np.testing.assert_array_equal(cut(wave, Part(0, 4)), wave[:4])
    np.testing.assert_array_equal(cut(wave, random_part(10, 12, rng)), np.append(wave, [0, 0]))
    starts = {int(cut(wave, random_part(10, 8, rng))[0]) for _ in range(60)}
    assert starts == {0, 1, 2}
    np.testing.assert_array_equal(cut(wave, random_part(10, 10, rng)), wave)


def test_a_real_model_goes_through(opened):
    model = tiny.model()
    task = opened("spcv2")
    found = linear(model, task, seeds=[42], settings=QUICK, bootstrap=BOOT)
    assert found.clips == 2
    assert found.model["space_id"] == model.space_id
    zero = zero_shot(model, task, prompts="laion", bootstrap=BOOT)
    assert zero.to_json()["metrics"].keys() == {"zero_shot/accuracy"}


def test_a_second_run_hears_nothing_again(tmp_path):
    """The random parts that are learnt from are the same ones; another draw is heard."""
    task_trees.us8k(tmp_path / "us8k")
    lengthen(tmp_path / "us8k/audio", 5)
    task, model = open_task("us8k", tmp_path / "us8k"), tiny.model()
    plain = linear(model, task, seeds=[42], folds=["1"], settings=QUICK, bootstrap=BOOT)
    counts, values = [], []
    for seed in (CROP_SEED, CROP_SEED, 1):
        with VectorCache(tmp_path / "cache") as cache:
            options = {"generator": np.random.default_rng(seed), "cache": cache}
            found = linear(
                model, task, seeds=[42], folds=["1"], settings=QUICK, bootstrap=BOOT, **options
            )
            counts.append((cache.found, cache.made))
            values.append(found.to_json()["metrics"])
    assert plain.to_json()["metrics"] == values[0] == values[1]
    learnt, judged = len(task.learning("1")), len(task.judging("1"))
    assert counts == [(0, learnt + judged), (learnt + judged, 0), (judged, learnt)]
    with VectorCache(tmp_path / "cache") as cache:
        for _ in range(2):
            zero_shot(model, task, prompts="laion", folds=["1"], bootstrap=BOOT, cache=cache)
        assert (cache.found, cache.made) == (judged, judged)
