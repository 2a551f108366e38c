"""`evaluate` gives what the parts give, leaves bad clips out by name, and writes all forms."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from echoic.api import EchoicModel
from echoic.data.clips import Clip
from echoic.data.synth import corpus
from echoic.data.synth.corpus import SceneSource, draw_scenes
from echoic.embeddings import VectorCache
from echoic.encoders.generation import Greedy
from echoic.eval.bootstrap import Bootstrap
from echoic.eval.captioning import Scores, score_captions
from echoic.eval.retrieval import retrieval_metrics
from echoic.eval.space import Space, measure_space
from echoic.evaluate import MEASURES, SYNTH_MEASURES, SynthSize, evaluate, evaluate_synth
from echoic.judges import Judges
from echoic.types import AudioError, ConfigError, DataError
from tests import tiny

BOOT = Bootstrap(seed=0, resamples=50)
SIZE = SynthSize(scenes=6, singles=6, pairs=6, max_s=2.0)


@pytest.fixture(scope="module")
def model():
    return EchoicModel(tiny.content(card={"recipe": "tiny"}))


class Tones:
    """Clips of tones; the key "bad" cannot be decoded, "silent" holds nothing."""

    def __init__(self, keys, tags=(), captions=2):
        self.clips = [
            Clip(
                key, tuple(f"tone {key} {j}" for j in range(captions)), tuple(tags[i : i + 1]), 0.5
            )
            for i, key in enumerate(keys)
        ]

    def read(self, i, rate_hz):
        key = self.clips[i].key
        if key == "bad":
            raise AudioError(key, "damaged")
        time_s = np.arange(rate_hz // 2) / rate_hz
        level = 0.0 if key == "silent" else 0.3
        return (level * np.sin(2000 * (i + 1) * time_s)).astype(np.float32)


def test_retrieval_equals_its_parts(model):
    source = Tones(["a", "b", "c"])
    found = evaluate(model, source, bootstrap=BOOT)
    audio = model.embed_audio([source.read(i, model.rate_hz) for i in range(3)])
    text = model.embed_text([caption for clip in source.clips for caption in clip.captions])
    wanted = retrieval_metrics(audio.numpy(), text.numpy(), np.repeat(np.arange(3), 2))
    got = {name: bounds.value for name, bounds in found.metrics.items()}
    assert got == pytest.approx({f"retrieval/{name}": v for name, v in wanted.items()})
    assert found.zero_shot is None
    space = measure_space(audio.numpy(), text.numpy(), np.repeat(np.arange(3), 2))
    document = found.to_json()
    wanted = {f"space/{name}": value for name, value in space.metrics().items()}
    given = {k: v for k, v in document["metrics"].items() if k.startswith("space/")}
    assert {k: v["value"] for k, v in given.items()} == pytest.approx(wanted)
    assert all(v["low"] is None and v["high"] is None for v in given.values())
    assert document["alarms"] == list(space.alarms().values())


def test_an_alarming_space_is_said_first(model):
    """In the table, the JSON and the report's head; a healthy one is no word there."""
    found = evaluate(model, Tones(["a", "b", "c"]), bootstrap=BOOT)
    healthy = Space(40, 40, 16, 0.5, 0.5, 8.0, 8.0, 0.3, 0.5, 0.1, 0.05, 0.05)
    for gap, told in ((0.3, False), (1.7, True)):
        space = replace(healthy, gap=gap)
        judged = replace(found, search=replace(found.search, space=space))
        document = judged.to_json()
        assert any("modality gap 1.70" in words for words in document["alarms"]) is told
        assert bool(judged.table().caption) is told
        assert bool(judged.report().sections[0].lead) is told


def test_one_tag_each_is_classified(model):
    found = evaluate(model, Tones(["a", "b", "c"], tags=["x", "y", "x"]), bootstrap=BOOT)
    assert found.zero_shot.labels == ["x", "y"]
    assert found.chance()["zero_shot/accuracy"] == 0.5
    assert len(found.zero_shot.result.labels) == 3


def test_clip_without_tag_is_not_classified(model):
    assert evaluate(model, Tones(["a", "b"], tags=["x"]), bootstrap=BOOT).zero_shot is None


@pytest.mark.parametrize(("alike", "told"), [(1, False), (2, True)])
def test_clips_that_share_captions_are_told(model, caplog, alike, told):
    source = Tones([*"abcdefghij"])
    for clip in range(alike):
        source.clips[clip] = replace(source.clips[clip], captions=("a sound of rain",))
    evaluate(model, source, measures=("retrieval",), bootstrap=BOOT)
    line = "2 of 10 clips have a caption that another has too"
    assert any(line in message for message in caplog.messages) == told


def test_bad_clips_are_named_and_left_out(model, caplog):
    found = evaluate(model, Tones(["a", "bad", "silent", "b"]), bootstrap=BOOT)
    assert found.data["clips"] == 2
    assert found.data["bad"] == {"bad": "damaged", "silent": "silent"}
    assert found.metrics == evaluate(model, _without_bad(), bootstrap=BOOT).metrics
    assert sum("bad" in record.message for record in caplog.records) == 1


def _without_bad():
    class Kept(Tones):
        def read(self, i, rate_hz):
            return Tones(["a", "x", "x", "b"]).read({0: 0, 1: 3}[i], rate_hz)

    return Kept(["a", "b"])


def test_nothing_to_hear_is_one_line(model):
    with pytest.raises(DataError, match=r"no clip of 1 can be heard \(bad: damaged\)"):
        evaluate(model, Tones(["bad"]))


def test_a_part_of_the_measures_is_the_same_part_of_all(captioner):
    """And no more is heard than it needs."""
    source, how = Tones(["a", "b", "c"], tags=["x", "y", "x"]), {"bootstrap": BOOT}
    whole = evaluate(captioner, source, captions=Greedy(), **how).metrics
    synth = evaluate_synth(captioner, SIZE, captions=Greedy(), **how).metrics
    for name in SYNTH_MEASURES:
        found = evaluate_synth(captioner, SIZE, measures=(name,), captions=Greedy(), **how)
        wanted = {k: v for k, v in synth.items() if k.startswith(f"{name}/")}
        assert found.metrics == wanted
        assert found.data["clips"] == 6
        if name in MEASURES:
            found = evaluate(captioner, source, measures=(name,), captions=Greedy(), **how)
            assert found.metrics == {k: v for k, v in whole.items() if k.startswith(f"{name}/")}


def test_captions_are_also_judged_by_those_handed_in(captioner):
    def long(said, wanted):
        return Scores(np.array([float(len(text)) for text in said]))

    found = evaluate(
        captioner,
        Tones(["a", "b"]),
        measures=["captioning"],
        judges=Judges({"long": long}, {"spice": "SPICE needs Java"}),
        bootstrap=BOOT,
    )
    assert found.metrics["captioning/long"].value > 0
    assert "Captions' judges: LONG; SPICE needs Java." in found.protocol
    assert found.search is None


def test_a_judge_whose_program_fails_is_told_and_left_out(captioner, caplog):
    def failing(said, wanted):
        raise ConfigError("SPICE's program ended with exit code 1")

    found = evaluate_synth(
        captioner,
        SIZE,
        measures=["captioning"],
        captions=Greedy(),
        judges=Judges({"spice": failing}),
        bootstrap=BOOT,
    )
    assert "captioning/cider_d" in found.metrics
    assert "captioning/spice" not in found.metrics
    line = "Captions' judges: none beside our own figures; SPICE's program ended with exit code 1."
    assert line in found.protocol
    assert "not judged by SPICE" in caplog.text


def test_scenes_of_the_same_sounds_are_compared_as_different_clips(model):
    scenes = SceneSource(draw_scenes(1, split="test", seed=0, max_s=2.0) * 3)
    found = evaluate_synth(model, SIZE, scenes=scenes, measures=("retrieval",))
    assert found.search.names[1:] == [f"{found.search.names[0]} ({i})" for i in (2, 3)]
    for each in found.outcomes():
        assert len(set(each.clips)) == 3


def test_synth_measures_all(model):
    found = evaluate_synth(model, SIZE, bootstrap=BOOT)
    names = set(found.metrics)
    wanted = {"zero_shot/accuracy", "order/accuracy", "attributes/accuracy", "attributes/loudness"}
    assert wanted < names
    assert found.chance()["attributes/tempo"] == 0.5
    assert found.chance()["zero_shot/accuracy"] == pytest.approx(1 / 60)
    again = evaluate_synth(
        model,
        SIZE,
        scenes=SceneSource(draw_scenes(SIZE.scenes, split="test", max_s=SIZE.max_s)),
        bootstrap=BOOT,
    )
    for name, bounds in found.metrics.items():
        assert again.metrics[name] == bounds


# captions


@pytest.fixture(scope="module")
def captioner():
    return tiny.captioner()


def test_captions_are_scored_against_all_of_a_clip(captioner):
    source = Tones(["a", "bad", "b", "c"])
    found = evaluate(captioner, source, captions=Greedy(), bootstrap=BOOT)
    waves = [source.read(i, captioner.rate_hz) for i in (0, 2, 3)]
    wanted = captioner.caption(waves, how=Greedy())
    assert found.captioned.captions == wanted
    assert list(found.captioned.names) == ["a", "b", "c"]
    scores = score_captions(wanted, [source.clips[i].captions for i in (0, 2, 3)])
    document = found.to_json()["metrics"]
    for name, value in scores.metrics().items():
        assert document[f"captioning/{name}"]["value"] == pytest.approx(value)
    assert any("3 clips, each captioned once, by Greedy" in words for words in found.protocol)


def test_no_captions_are_asked_for_or_there_is_no_decoder(model, captioner):
    for asked in (
        evaluate(captioner, Tones(["a", "b"]), captions=None, bootstrap=BOOT),
        evaluate(model, Tones(["a", "b"]), bootstrap=BOOT),
    ):
        assert asked.captioned is None
        assert not any("caption" in name for name in asked.to_json()["metrics"])
        assert not any("Captioning" in words for words in asked.protocol)


def test_captions_in_table_and_report(captioner, tmp_path):
    source = Tones([f"clip {i}" for i in range(3)])
    found = evaluate(captioner, source, captions=Greedy(), bootstrap=BOOT)
    assert found.table().row_count == len(found.metrics)
    page = found.write_report(tmp_path / "report.html").read_text()
    for words in ("Captions, CIDEr-D", "ROUGE-L", "BLEU-4", "From the best to the worst", "clip 2"):
        assert words in page


def test_synth_captions_its_scenes(captioner):
    found = evaluate_synth(captioner, SIZE, captions=Greedy(), bootstrap=BOOT)
    scenes = SceneSource(draw_scenes(SIZE.scenes, split="test", max_s=SIZE.max_s))
    assert found.captioned.references == [clip.captions for clip in scenes.clips]
    assert {"captioning/cider_d", "captioning/rouge_l", "order/accuracy"} < set(found.metrics)


# all forms


def test_json_table_and_report(model, tmp_path):
    found = evaluate_synth(model, SIZE, bootstrap=BOOT)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["metrics"]["order/accuracy"]["low"] <= 1
    assert document["model"]["recipe"] == "tiny"
    assert found.table().row_count == len(found.metrics)
    (tmp_path / "log.jsonl").write_text(
        '{"kind": "train", "step": 1, "loss": 2.0, "lr": 0.1}\n'
        '{"kind": "eval", "step": 1, "metrics": {}}\n'
    )
    (tmp_path / "recipe.yaml").write_text("name: tiny\noptim: {lr: 0.125}\n")
    page = found.write_report(tmp_path / "r" / "report.html", run_folder=tmp_path).read_text()
    words = "Loss Retrieval Similarity Embedding Confusion Order 0.125 bootstrap"
    assert all(word in page for word in words.split())


def test_report_on_unwritable_place_names_it(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/report\.html: cannot be written"):
        evaluate(model, Tones(["a", "b"]), bootstrap=BOOT).write_report(
            tmp_path / "file" / "report.html"
        )


def test_classes_may_be_more_than_the_tags(model):
    tones = Tones(["a", "b", "c"], tags=["x", "y", "x"])
    found = evaluate(model, tones, labels=["y", "z", "x"], bootstrap=BOOT)
    assert found.zero_shot.labels == ["y", "z", "x"]
    assert found.zero_shot.result.n_classes == 3
    assert found.zero_shot.result.labels.tolist() == [2, 0, 2]
    with pytest.raises(DataError, match="tag 'x' and 1 more: none of the 2 classes"):
        evaluate(model, tones, labels=["p", "q"], bootstrap=BOOT)


def test_laions_map_is_asked_for_and_said(model):
    found = evaluate(model, Tones(["a", "b", "c"]), map10="laion_legacy", bootstrap=BOOT)
    assert found.search.ranks.map10 == "laion_legacy"
    assert "as LAION computes it" in found.protocol[0]
    assert "LAION" not in evaluate(model, Tones(["a", "b", "c"]), bootstrap=BOOT).protocol[0]


def test_the_corpus_is_rendered_once(model, tmp_path, monkeypatch):
    rendered = []
    render = corpus.render
    monkeypatch.setattr(corpus, "render", lambda *given: rendered.append(1) or render(*given))
    results = []
    for _ in range(2):
        with VectorCache(tmp_path) as cache:
            results.append(evaluate_synth(model, SIZE, bootstrap=BOOT, cache=cache).metrics)
    assert results[0] == results[1]
    assert len(rendered) == 6 + 6 + 12
    assert cache.made == 0
