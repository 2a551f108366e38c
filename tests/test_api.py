"""The promises to a user: the same item gives the same vector, and audio of any length is heard in
full."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import torch.nn.functional as F

import echoic
from echoic import api, text_side
from echoic.audio.windows import plan_windows, window_weights
from echoic.convert.native import ModelFile, save_model
from echoic.encoders.m2d import m2d_chunks
from echoic.encoders.sentences import sentence_encoder
from echoic.towers import PackedTower
from echoic.types import AudioError, CheckpointError, ConfigError, EchoicError, Ragged
from tests import m2d
from tests.tiny import RATE, SENTENCES, content, model, noise, tone

TOLERANCE = 1e-5
LONG_S = 5.3  # of a model that hears 2 s at once


@pytest.fixture(scope="module")
def listener() -> api.EchoicModel:
    return model(max_s=2.0)


@pytest.fixture
def eager(monkeypatch) -> None:
    """Every encoder call holds a few windows only, so that long items span several."""
    monkeypatch.setattr(PackedTower, "at_once", 100)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)


def by_hand(listener: api.EchoicModel, wave: np.ndarray) -> torch.Tensor:
    """The vector of a wave at RATE by the definition, window by window."""
    length = round(listener.network.audio.max_s * RATE)
    plan = plan_windows(len(wave), window_samples=length, hop_samples=length)
    with torch.no_grad():
        heard = [
            listener.network.audio(Ragged.from_rows([torch.from_numpy(wave[a:b])])).clip[0]
            for a, b in plan
        ]
    vectors = F.normalize(torch.stack(heard), dim=1)
    weights = torch.from_numpy(window_weights(plan)).float()
    return F.normalize((weights[:, None] * vectors).sum(0), dim=0)


def mixed() -> list[np.ndarray]:
    lengths = (0.5, LONG_S, 0.001, 2.0, 1.3, 2.0001, 0.02, 7.9, 0.5)
    return [noise(seconds, seed=i) for i, seconds in enumerate(lengths)]


# promise 1: the same item gives the same vector


def test_two_calls_are_bit_equal(listener):
    assert torch.equal(listener.embed_audio(mixed()), listener.embed_audio(mixed()))
    assert torch.equal(listener.embed_text(SENTENCES), listener.embed_text(SENTENCES))


def test_vectors_are_unit_float32_on_the_cpu(listener):
    for vectors in (listener.embed_audio(mixed()), listener.embed_text(SENTENCES)):
        assert vectors.dtype == torch.float32
        assert vectors.device.type == "cpu"
        assert not vectors.requires_grad
        close(vectors.norm(dim=1), torch.ones(len(vectors)))


@pytest.mark.parametrize("batch_tokens", [1, 30, 100, 4096])
def test_neighbours_and_order_change_nothing(listener, monkeypatch, batch_tokens):
    waves = mixed()
    alone = torch.cat([listener.embed_audio(wave) for wave in waves])
    monkeypatch.setattr(PackedTower, "at_once", batch_tokens)
    order = [4, 7, 0, 8, 1, 3, 2, 6, 5]
    close(listener.embed_audio(waves), alone)
    close(listener.embed_audio([waves[i] for i in order]), alone[order])


def test_all_kinds_of_item_are_heard_alike(listener, tmp_path):
    wave = tone(440, 1.5)
    path = tmp_path / "tone.wav"
    sf.write(path, wave, RATE, subtype="FLOAT")
    with path.open("rb") as opened:
        items = [
            path, str(path), path.read_bytes(), memoryview(path.read_bytes()),
            io.BytesIO(path.read_bytes()), opened, (wave, RATE), (torch.from_numpy(wave), RATE),
            wave, torch.from_numpy(wave), wave[None], np.stack([wave, wave], axis=1),
            *os.scandir(tmp_path),
        ]  # fmt: skip
        together = listener.embed_audio(items)
        for i, item in enumerate(items):
            alone = listener.embed_audio(item)
            assert alone.shape == (1, 16)
            close(alone[0], together[0])
            close(together[i], together[0])


def test_a_tuple_of_items_is_many_and_a_pair_with_a_rate_is_one(listener, tmp_path):
    wave = tone(440, 0.5)
    sf.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    path = tmp_path / "a.wav"
    assert len(listener.embed_audio((path, path))) == 2
    assert len(listener.embed_audio((wave, wave))) == 2
    assert len(listener.embed_audio((path, path, wave))) == 3
    for rate_hz in (RATE, float(RATE), np.int64(RATE)):
        assert len(listener.embed_audio((wave, rate_hz))) == 1


def test_another_rate_is_resampled(listener):
    time_s = np.arange(44_100) / 44_100
    wave = (0.3 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
    a, b = listener.embed_audio([(wave, 44_100), tone(440, 1.0)])
    assert float(a @ b) > 0.999


def test_texts_do_not_hang_on_their_neighbours(listener, monkeypatch):
    texts = [*SENTENCES, "", "rain " * 200]
    together = listener.embed_text(texts)
    close(torch.cat([listener.embed_text(text) for text in texts]), together)
    close(listener.embed_text(texts[::-1]), together.flip(0))
    many = listener.embed_text(texts * 40)  # more than one call of the encoder
    close(many, together.repeat(40, 1))


def test_a_loaded_model_gives_the_same_vectors(tmp_path, listener):
    save_model(tmp_path / "model.safetensors", content(max_s=2.0, card={"recipe": "tiny"}))
    loaded = echoic.load(tmp_path)
    assert torch.equal(loaded.embed_audio(mixed()), listener.embed_audio(mixed()))
    assert torch.equal(loaded.embed_text(SENTENCES), listener.embed_text(SENTENCES))
    assert loaded.space_id == listener.space_id
    assert loaded.card == {"recipe": "tiny"}
    assert (loaded.rate_hz, loaded.embed_dim) == (RATE, 16)


def test_a_model_stays_where_it_is_unless_told(listener):
    """An evaluation inside a training wraps the network that is being trained."""
    network = content().model.to("meta")
    assert api.EchoicModel(api.ModelFile(network, listener.tokenizer)).device.type == "meta"


def test_inference_draws_no_random_number(listener):
    state = torch.get_rng_state()
    listener.classify(mixed(), ["rain", "dog"])
    assert torch.equal(torch.get_rng_state(), state)


# promise 3: audio of any length is heard in full


@pytest.mark.parametrize("seconds", [2.0, 2.0001, 3.0, 4.0, LONG_S, 20.01])
def test_long_audio_is_the_pooling_of_its_windows(listener, eager, seconds):
    wave = noise(seconds, seed=1)
    close(listener.embed_audio(wave)[0], by_hand(listener, wave))


def test_the_end_of_a_long_recording_is_heard(listener):
    wave = noise(LONG_S)
    changed = wave.copy()
    changed[-800:] = tone(3000, 0.05)
    assert not torch.allclose(listener.embed_audio(wave), listener.embed_audio(changed), atol=1e-4)


def test_long_and_short_items_mix(listener, eager):
    waves = mixed() * 3
    wanted = torch.stack([by_hand(listener, wave) for wave in waves])
    close(listener.embed_audio(waves), wanted)
    found = dict(listener.iter_audio(iter(waves)))
    assert sorted(found) == list(range(len(waves)))
    close(torch.stack([found[i] for i in range(len(waves))]), wanted)


def test_results_come_while_items_are_drawn(listener, eager):
    """Nothing waits for the end of the list, which may have no end."""
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            drawn += 1
            yield noise(0.5, seed=drawn)

    results = listener.iter_audio(endless())
    taken = [next(results) for _ in range(40)]
    results.close()
    assert [i for i, _ in taken] == list(range(40))
    assert drawn < 60


def test_windows_cover_a_recording(listener):
    wave = noise(LONG_S)
    found = list(listener.embed_windows(wave, window_s=1.0, hop_s=0.5))
    plan = plan_windows(len(wave), window_samples=RATE, hop_samples=RATE // 2)
    assert [(round(a * RATE), round(b * RATE)) for a, b, _ in found] == plan
    for (a, b), (_, _, vector) in zip(plan, found, strict=True):
        close(vector, listener.embed_audio(wave[a:b])[0])
    assert len(list(listener.embed_windows(wave, window_s=2.0))) == 3


@pytest.mark.parametrize(("window_s", "hop_s"), [(2.5, None), (1.0, 1.5), (1.0, 0.0), (-1.0, None)])
def test_windows_that_cannot_be_heard_are_refused(listener, window_s, hop_s):
    with pytest.raises(EchoicError, match="hears windows of up to 2 s"):
        next(listener.embed_windows(noise(3), window_s=window_s, hop_s=hop_s))


HOUR = """
import resource, sys, tracemalloc
import numpy as np, soundfile as sf, torch
torch.set_num_threads(1)
from echoic.encoders.slap import SlapSpec
from tests.tiny import RATE, model, noise
path = sys.argv[1]
listener = model(max_s=10.0, audio=SlapSpec(depth=1, width=16, heads=2, hidden=16))
listener.embed_audio(np.tile(noise(10), 20))
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
tracemalloc.start()
vector = listener.embed_audio(path)
print(vector.norm().item(), tracemalloc.get_traced_memory()[1] / 2**20, peak() - before)
"""


@pytest.fixture(scope="module")
def hour(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hour") / "hour.wav"
    minute = noise(60)
    with sf.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(60):
            file.write(minute)
    return path


def test_an_hour_takes_no_more_memory_than_a_minute(hour):
    ran = subprocess.run(
        [sys.executable, "-c", HOUR, str(hour)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    norm, traced_mb, grown_mb = map(float, ran.stdout.split())
    assert norm == pytest.approx(1)
    assert traced_mb < 30  # the whole hour is 220 MiB as float32
    assert grown_mb < 30


# what goes wrong


def broken(path: Path, seconds: float, good_s: float) -> Path:
    """A wav of `seconds` whose samples are NaN from `good_s` on."""
    wave = noise(seconds)
    wave[round(good_s * RATE) :] = np.nan
    sf.write(path, wave, RATE, subtype="FLOAT")
    return path


def test_an_error_is_raised_and_names_the_item(listener, tmp_path):
    with pytest.raises(AudioError, match=r"none\.wav: no such file"):
        listener.embed_audio([noise(1), tmp_path / "none.wav"])
    with pytest.raises(AudioError, match=r"^item 1: is empty"):
        listener.embed_audio([noise(1), b""])
    with pytest.raises(AudioError, match=r"^item 0: .*holds NaN"):
        listener.embed_audio(np.full(100, np.nan, np.float32))


@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
def test_an_error_leaves_the_other_items_alone(listener, tmp_path, monkeypatch, batch_tokens):
    """Among them errors in the middle of a long file, when some of its windows were encoded."""
    monkeypatch.setattr(PackedTower, "at_once", batch_tokens)
    waves = mixed()
    items = [
        broken(tmp_path / "late.wav", 30, good_s=25), waves[0], tmp_path / "none.wav", waves[1],
        waves[2], broken(tmp_path / "soon.wav", 3, good_s=2.5), waves[3], b"not audio at all",
        waves[4], 3.5, broken(tmp_path / "last.wav", 12, good_s=11),
    ]  # fmt: skip
    errors = {}
    rows = listener.embed_audio(iter(items), on_error=lambda i, error: errors.update({i: error}))
    assert sorted(errors) == [0, 2, 5, 7, 9, 10]
    assert all(isinstance(error, AudioError) for error in errors.values())
    assert rows.shape == (len(items), 16)
    assert rows[list(errors)].isnan().all()
    close(rows[[1, 3, 4, 6, 8]], torch.stack([by_hand(listener, wave) for wave in waves[:5]]))


def test_nothing_gives_no_rows(listener):
    assert listener.embed_audio([]).shape == (0, 16)
    assert listener.embed_audio(iter(())).shape == (0, 16)
    assert listener.embed_text([]).shape == (0, 16)
    assert list(listener.iter_audio([])) == []
    assert listener.embed_tokens(torch.zeros(0, 3).long(), torch.zeros(0, 3)).shape == (0, 16)


@pytest.mark.parametrize("wrong", [None, 3, object()])
def test_what_is_no_audio_is_one_line(listener, wrong):
    with pytest.raises(AudioError, match="item 0: is not audio"):
        listener.embed_audio(wrong)


def test_silence_is_told_and_has_a_vector(listener, tmp_path, caplog):
    sf.write(tmp_path / "still.wav", np.zeros(1000), RATE)
    rows = listener.embed_audio([tmp_path / "still.wav", noise(0.5), np.zeros(100, np.float32)])
    assert torch.isfinite(rows).all()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith(f"{tmp_path / 'still.wav'}: silent")
    assert told[1].startswith("item 2: silent")


# labels and texts


def test_classify_is_the_softmax_of_the_cosines(listener):
    labels = ["rain", "dog_bark", "bell"]
    scores = listener.classify(mixed(), labels)
    texts = [f"This is a sound of {name}." for name in ("rain", "dog bark", "bell")]
    cosines = listener.similarity(mixed(), texts)
    assert scores.labels == tuple(labels)
    close(scores.cosines, cosines)
    close(scores.probabilities, (cosines / 0.07).softmax(dim=1))
    again = listener.score_labels(listener.embed_audio(mixed()), labels)
    assert torch.equal(again.probabilities, scores.probabilities)


def test_top_is_sorted_and_no_longer_than_the_labels(listener):
    scores = listener.classify([noise(1), tone(440, 1)], ["rain", "dog", "bell"])
    for row, probabilities in zip(scores.top(9), scores.probabilities, strict=True):
        assert len(row) == 3
        assert [p for _, p in row] == sorted(probabilities.tolist(), reverse=True)
        for label, p in row:
            assert p == float(probabilities[scores.labels.index(label)])
    assert [len(row) for row in scores.top(1)] == [1, 1]


def test_several_templates_are_an_ensemble(listener):
    templates = ["{label}", "I hear {label}"]
    parts = [listener.embed_text([t.replace("{label}", "rain")])[0] for t in templates]
    wanted = F.normalize(torch.stack(parts).mean(0), dim=0)
    close(listener.embed_labels(["rain"], templates)[0], wanted)
    close(listener.embed_labels(["rain"], templates[:1])[0], parts[0])


def test_one_label_alone_is_a_label_not_its_letters(listener):
    assert listener.classify(noise(1), "rain").labels == ("rain",)
    assert listener.classify(noise(1), ("rain", "dog")).labels == ("rain", "dog")
    assert listener.embed_labels("rain").shape == (1, 16)


@pytest.mark.parametrize(
    ("labels", "templates", "wanted"),
    [
        ([], "{label}", "no labels"),
        (["rain", " "], "{label}", "label 1 is empty"),
        (["rain"], "no hole", "no {label}"),
        (["rain"], [], "at least one label and one prompt template"),
    ],
)
def test_wrong_labels_are_refused_before_anything_is_heard(listener, labels, templates, wanted):
    def never():
        raise AssertionError("listened")
        yield

    with pytest.raises(EchoicError) as caught:
        listener.classify(never(), labels, templates=templates)
    assert wanted in str(caught.value)


@pytest.mark.parametrize("padded", ["right", "left"])
def test_ready_tokens_equal_their_text(listener, padded):
    rows = listener.tokenizer(list(SENTENCES))
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros(len(rows), longest)
    for i, row in enumerate(rows):
        at = slice(0, len(row)) if padded == "right" else slice(longest - len(row), longest)
        ids[i, at], mask[i, at] = torch.tensor(row), 1
    assert torch.equal(listener.embed_tokens(ids, mask), listener.embed_text(SENTENCES))
    mask[3] = 0
    with pytest.raises(EchoicError, match="row 3 has no token"):
        listener.embed_tokens(ids, mask)


@pytest.mark.parametrize(("ids", "mask"), [((3,), (3,)), ((2, 3), (1, 3)), ((2, 3), (2, 4))])
def test_ready_tokens_of_another_shape_are_refused(listener, ids, mask):
    with pytest.raises(EchoicError, match=r"embed_tokens: ids .* must both be \(B, L\)"):
        listener.embed_tokens(torch.ones(ids, dtype=torch.int64), torch.ones(mask))


def test_what_is_handed_out_may_be_trained_on(listener):
    """Vectors and tokens are ordinary tensors: a probe or a captioner learns from them."""
    ids, mask = torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3)
    handed = [
        listener.embed_audio(mixed()), listener.embed_text(SENTENCES),
        listener.embed_tokens(ids, mask), next(listener.embed_windows(noise(1), window_s=1.0))[2],
        listener.audio_features([noise(1)]).tokens, listener.audio_features([noise(1)]).clip,
    ]  # fmt: skip
    for vectors in handed:
        weight = torch.ones(vectors.shape[-1], requires_grad=True)
        (vectors @ weight).square().sum().backward()
        assert weight.grad.abs().sum() > 0


def test_listening_does_not_disturb_a_training(listener):
    """What is kept for batches of equal lengths serves an evaluation and the next step alike."""
    waves = [noise(0.31), noise(1.93), noise(1.21)]
    listener.embed_audio(waves)
    by_length = Ragged.from_rows([torch.from_numpy(w) for w in sorted(waves, key=len)])
    listener.network.audio(by_length).clip.sum().backward()
    listener.network.zero_grad()


# M2D's features


def relative(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Features of an M2D are a few units: equal to a millionth of the largest."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))


@pytest.fixture(scope="module")
def m2d_listener() -> api.EchoicModel:
    return m2d.model("mlp", classes=7)


def test_features_of_whole_recordings_read_three_ways(m2d_listener):
    waves = mixed()
    stacked, flat, frames = (
        m2d_listener.features(waves, reading) for reading in ("stacked", "flat", "frames")
    )
    columns = int(stacked.offsets[-1])
    assert stacked.tokens.shape == (columns, 160)
    assert flat.tokens.shape == (5 * columns, 32)
    assert frames.tokens.shape == (columns, 32)
    assert torch.equal(stacked.tokens.view(5 * columns, 32), flat.tokens)
    relative(frames.tokens, flat.tokens.view(columns, 5, 32).mean(1))
    relative(frames.clip, flat.clip)
    relative(stacked.clip.view(-1, 5, 32).mean(1), flat.clip)
    assert torch.equal(flat.offsets, 5 * stacked.offsets)
    assert torch.equal(flat.time_s[::5], stacked.time_s)
    for i, wave in enumerate(waves):
        at = slice(*stacked.offsets[i : i + 2].tolist())
        filled = max(len(wave), 201) // 160 + 1
        share = (filled - 16 * torch.arange(len(stacked.tokens[at]))).clamp(max=16) / 16
        mean = (stacked.tokens[at] * share[:, None]).sum(0) / share.sum()
        relative(stacked.clip[i], mean)
        relative(m2d_listener.features(wave).tokens, stacked.tokens[at])
    assert not stacked.tokens.requires_grad
    assert torch.equal(m2d_listener.features(waves).clip, stacked.clip)  # the default


def test_features_of_every_layer_end_with_those_of_the_model(m2d_listener):
    for reading in ("stacked", "flat", "frames"):
        layers = m2d_listener.layer_features(mixed(), reading)
        assert len(layers) == 2
        last = m2d_listener.features(mixed(), reading)
        assert torch.equal(layers[-1].tokens, last.tokens)
        assert torch.equal(layers[-1].clip, last.clip)
        assert not torch.allclose(layers[0].clip, last.clip, atol=0.1)


def test_features_as_upstream_parts_a_recording():
    listener = m2d.model("mlp", long="m2d", frames=72)  # the last 8 of 72 frames are dropped
    wave = noise(3.0)
    found, tower = listener.features(wave, "flat"), listener.network.audio
    with torch.no_grad():
        wanted = tower.read(Ragged.from_rows([torch.from_numpy(wave)]), "flat", m2d_chunks)
    assert torch.equal(found.tokens, wanted.tokens)
    assert len(found.tokens) == 5 * (4 * 4 + 1)  # 301 frames
    relative(found.clip[0], found.tokens.mean(0))  # filling weighs as much
    assert torch.equal(listener.layer_features(wave, "flat")[-1].tokens, found.tokens)


def test_features_that_are_not_there_are_one_line(listener, m2d_listener, tmp_path):
    for call in (listener.features, listener.layer_features):
        with pytest.raises(ConfigError, match=r"features 'stacked' are M2D's; this .* is slap"):
            call(noise(1))
    with pytest.raises(ConfigError, match="features 'clip': there are stacked, flat, frames"):
        m2d_listener.features(noise(1), "clip")
    with pytest.raises(EchoicError, match="no sound given"):
        m2d_listener.features([])
    for call in (m2d_listener.features, m2d_listener.tag):
        with pytest.raises(AudioError, match=r"none\.wav: no such file"):
            call([noise(1), tmp_path / "none.wav"])
        with pytest.raises(AudioError, match=r"^item 1: is empty"):
            call([noise(1), b""])


def test_a_probe_sees_the_mean_of_stacked_columns():
    probed = m2d.model("tokens")
    waves = [wave for wave in mixed() if len(wave) <= 2 * RATE]
    found = probed.probe_vectors(iter(waves))
    assert found.shape == (len(waves), 160)
    relative(found, probed.features(waves).clip)
    parts = probed.features([noise(4.0, seed=1)[:32_000], noise(4.0, seed=1)[32_000:]]).clip
    relative(probed.probe_vectors([noise(4.0, seed=1)])[0], parts.mean(0))  # windows of 2 s


def test_a_probe_sees_the_chunks_where_the_model_is_heard_so():
    """Of all lengths, beyond max_s too."""
    probed, tagger = m2d.model(long="m2d"), m2d.model(long="m2d", classes=7)
    relative(probed.probe_vectors(mixed()), probed.features(mixed()).clip)
    assert not torch.allclose(probed.probe_vectors(mixed()), m2d.model().probe_vectors(mixed()))
    logits = tagger.network.audio.tagger(tagger.features(mixed(), "flat").clip)
    close(tagger.tag(mixed()), logits.sigmoid())


def test_a_probe_of_another_model_sees_its_clip_vector(listener):
    waves = [wave for wave in mixed() if len(wave) <= 2 * RATE]
    found = listener.probe_vectors(waves)
    close(F.normalize(found), listener.embed_audio(waves))
    assert not torch.allclose(found.norm(dim=1), torch.ones(len(waves)), atol=0.01)


def test_tags_are_probabilities_of_their_own(m2d_listener):
    waves = mixed()
    found = m2d_listener.tag(waves)
    assert found.shape == (len(waves), 7)
    assert ((found >= 0) & (found <= 1)).all()
    tower = m2d_listener.network.audio
    with torch.no_grad():
        first = tower.tagger(m2d_listener.features(waves[0], "flat").clip)[0]
    close(found[0], 1 / (1 + (-first).exp()))
    assert not torch.allclose(found.sum(1), torch.ones(len(waves)), atol=0.1)  # no softmax
    close(torch.cat([m2d_listener.tag(wave) for wave in waves]), found)
    close(m2d_listener.tag(waves[::-1]).flip(0), found)
    assert m2d_listener.tag([]).shape == (0, 7)


def test_tags_of_one_label_per_clip_sum_to_1():
    content = m2d.content(classes=7)
    one = api.EchoicModel(replace(content, card={"labels_per_clip": "one"}))
    many = api.EchoicModel(replace(content, card={"labels_per_clip": "many"}))
    waves = [noise(1), noise(2, seed=1)]
    with torch.no_grad():
        logits = one.network.audio.tagger(one.features(waves, "flat").clip)
    close(one.tag(waves), logits.softmax(1))
    close(many.tag(waves), logits.sigmoid())


@pytest.mark.parametrize("text", ["none", "small"])
def test_a_model_without_a_head_says_so(listener, text):
    instead = ": classify() takes words instead" if text == "small" else ""
    for each in (m2d.model(text=text), *([listener] if instead else [])):
        with pytest.raises(ConfigError) as caught:
            each.tag(noise(1))
        assert str(caught.value) == f"this model has no head for labels{instead}"


def test_m2d_draws_nothing_and_repeats_itself(m2d_listener):
    state, waves = torch.get_rng_state(), mixed()
    for call in (m2d_listener.tag, m2d_listener.probe_vectors, m2d_listener.embed_audio):
        assert torch.equal(call(waves), call(waves))
    assert torch.equal(m2d_listener.features(waves).clip, m2d_listener.features(waves).clip)
    assert torch.equal(torch.get_rng_state(), state)


# models without a text side, and with half of one

LABELS = ["rain", "dog bark"]


def refusals(model: api.EchoicModel) -> dict[str, str]:
    """What each way to give it a text says."""
    ids = torch.ones(1, 3, dtype=torch.int64)
    calls = {
        "embed_text": lambda: model.embed_text("rain"),
        "embed_labels": lambda: model.embed_labels(LABELS),
        "classify": lambda: model.classify(noise(1), LABELS),
        "score_labels": lambda: model.score_labels(torch.zeros(1, model.embed_dim), LABELS),
        "similarity": lambda: model.similarity(noise(1), "rain"),
        "require_text": model.require_text,
        "tokenizer": lambda: model.tokenizer,
        "embed_tokens": lambda: model.embed_tokens(ids, ids),
    }
    told = {}
    for name, call in calls.items():
        with pytest.raises(CheckpointError) as caught:
            call()
        told[name] = str(caught.value)
        assert "\n" not in told[name]
    return told


@pytest.mark.parametrize("projector", [None, "mlp", "tokens"])
def test_a_model_of_sound_alone_refuses_texts(projector):
    alone = m2d.model(projector)
    assert (alone.reads, alone.reads_text) == ("nothing", False)
    told = refusals(alone)
    assert told.pop("embed_tokens") == "embed_tokens: this model reads no text, and no token ids"
    assert set(told.values()) == {"this is a model of sound alone: it reads no text"}
    assert alone.embed_text([]).shape == (0, alone.embed_dim)
    assert alone.embed_audio(noise(1)).shape == (1, alone.embed_dim)


def test_a_tokenizer_does_not_make_a_reader(listener):
    alone = api.EchoicModel(ModelFile(m2d.network(), listener.tokenizer))
    half = m2d.network("mlp", text="sentence", encoder=None)
    half = api.EchoicModel(ModelFile(half, listener.tokenizer))
    for each in (alone, half):
        assert (each.reads, each.reads_text) == ("nothing", False)
        with pytest.raises(CheckpointError):
            each.embed_text("rain")


@pytest.mark.parametrize("projection", ["linear", "mlp", "none"])
def test_texts_are_read_by_an_encoder_that_is_at_hand(projection):
    described = m2d.spec("tokens", text="sentence").model_dump()
    width = 32 if projection == "none" else 64
    described["text"] |= {"projection": projection, "width": width, "encoder": f"words:{width}"}
    network = m2d.build(m2d.ModelSpec.parse(described, where="model"), seed=0)
    reader = api.EchoicModel(ModelFile(network))
    assert (reader.reads, reader.reads_text) == ("words", True)
    found = reader.embed_text(SENTENCES)
    given = sentence_encoder(f"words:{width}")(SENTENCES)
    with torch.no_grad():
        close(found, F.normalize(network.project_sentence(given), dim=1))
    assert found.dtype == torch.float32
    assert torch.equal(found, reader.embed_text(SENTENCES))
    close(torch.cat([reader.embed_text(text) for text in SENTENCES]), found)
    assert reader.classify([noise(1), noise(2)], LABELS).probabilities.shape == (2, 2)
    with pytest.raises(CheckpointError, match="its sentence encoder reads texts"):
        _ = reader.tokenizer
    ids = torch.ones(1, 3, dtype=torch.int64)
    with pytest.raises(CheckpointError, match="reads vectors of sentences, and no token ids"):
        reader.embed_tokens(ids, ids)


def test_an_encoder_that_is_not_at_hand_has_to_be_given(tmp_path):
    away = m2d.content("mlp", text="sentence", encoder="thenlper/gte-base")
    reader = api.EchoicModel(away)
    assert (reader.reads, reader.reads_text) == ("nothing", False)
    told = refusals(reader)
    assert "no token ids" in told.pop("embed_tokens")
    (line,) = set(told.values())
    assert "vectors of 64 of a sentence encoder that its file leaves out" in line
    assert 'give text_encoder="thenlper/gte-base" (--text-encoder)' in line
    nameless = m2d.model("mlp", text="sentence", encoder=None)
    with pytest.raises(CheckpointError, match=r"give text_encoder=\.\.\."):
        nameless.embed_text("rain")

    save_model(tmp_path / "m.safetensors", away)
    given = echoic.load(tmp_path / "m.safetensors", text_encoder="words:64")
    own = api.EchoicModel(away, sentences=sentence_encoder("words:64"))
    assert given.reads == own.reads == "words"
    assert torch.equal(given.embed_text(SENTENCES), own.embed_text(SENTENCES))


def test_an_encoder_that_does_not_fit_is_refused(tmp_path, listener):
    half = m2d.content("mlp", text="sentence")
    save_model(tmp_path / "half", half)
    save_model(tmp_path / "alone", m2d.content("mlp"))
    save_model(tmp_path / "own", m2d.content("mlp", text="small"))
    for name, encoder, wanted in (
        ("half", "words:32", "text_encoder words:32: gives vectors of 32; this model reads 64"),
        ("half", "words:no", "encoder 'words:no': wanted words:WIDTH"),
        ("alone", "words:64", "text_encoder words:64: this model reads no text"),
        ("own", "words:64", "text_encoder words:64: this model reads texts by a text encoder of"),
    ):
        with pytest.raises(ConfigError) as caught:
            echoic.load(tmp_path / name, text_encoder=encoder)
        assert str(caught.value).startswith(wanted)
    for content_, encoder in ((half, "words:32"), (m2d.content(), "words:64")):
        with pytest.raises(ConfigError, match="text_encoder words"):
            api.EchoicModel(content_, sentences=sentence_encoder(encoder))


def test_the_file_says_how_its_encoder_is_asked(monkeypatch, tmp_path):
    """pooling and prompt, but not the pooling of an encoder that pools by itself."""
    asked = []

    def found(name, **options):
        asked.append((name, options["pooling"], options["prompt"]))
        return sentence_encoder("words:64")

    monkeypatch.setattr(text_side, "sentence_encoder", found)
    described = m2d.spec("mlp", text="sentence").model_dump()
    described["text"] |= {"encoder": str(tmp_path), "pooling": "cls", "prompt": "query: {}"}
    network = m2d.build(m2d.ModelSpec.parse(described, where="model"), seed=0)
    save_model(tmp_path / "m.safetensors", ModelFile(network))
    api.EchoicModel(ModelFile(network)).embed_text("rain")
    for name in ("thenlper/gte-base", "st:thenlper/gte-base"):
        echoic.load(tmp_path / "m.safetensors", text_encoder=name)
    assert asked == [
        (str(tmp_path), "cls", "query: {}"),
        ("thenlper/gte-base", "cls", "query: {}"),
        ("st:thenlper/gte-base", None, "query: {}"),
    ]


def test_a_sentence_encoder_of_our_own_is_found_by_its_file(tmp_path):
    """As `echoic data embed-captions --encoder FILE` names it in a store, and a training after it
    in its model."""
    save_model(tmp_path / "text.safetensors", m2d.content("tokens", text="small"))
    file = str(tmp_path / "text.safetensors")
    wide = m2d.spec("tokens", text="sentence", encoder=file).model_dump()
    wide["text"] |= {"width": m2d.WIDTH}
    network = m2d.build(m2d.ModelSpec.parse(wide, where="model"), seed=0)
    save_model(tmp_path / "clap.safetensors", ModelFile(network))
    given = echoic.load(file).embed_text(SENTENCES)
    with torch.no_grad():
        wanted = F.normalize(network.project_sentence(given), dim=1)
    for options in ({}, {"text_encoder": file}):
        clap = echoic.load(tmp_path / "clap.safetensors", **options)
        assert clap.reads_text
        close(clap.embed_text(SENTENCES), wanted)


@pytest.mark.parametrize("text", ["none", "sentence", "small"])
@pytest.mark.parametrize("projector", [None, "mlp", "tokens"])
def test_a_saved_m2d_gives_the_same_bits(tmp_path, projector, text):
    made = m2d.content(projector, text=text, classes=3)
    save_model(tmp_path / "m.safetensors", made)
    loaded, before = echoic.load(tmp_path / "m.safetensors"), api.EchoicModel(made)
    assert loaded.space_id == before.space_id
    for call in ("embed_audio", "tag", "probe_vectors"):
        assert torch.equal(getattr(loaded, call)(mixed()), getattr(before, call)(mixed()))
    if text != "none":
        assert torch.equal(loaded.embed_text(SENTENCES), before.embed_text(SENTENCES))
    assert loaded.reads == before.reads


def test_a_saved_folder_opens_as_the_same_model(tmp_path):
    ours = model()
    ours.save_pretrained(tmp_path / "folder")
    again = echoic.load(tmp_path / "folder")
    assert again.space_id == ours.space_id
    sound = noise(0.5)
    torch.testing.assert_close(
        again.embed_audio([(sound, RATE)]), ours.embed_audio([(sound, RATE)]), rtol=0, atol=0
    )
