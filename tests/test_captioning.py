"""`model.caption`: any audio, of any length, alone or among others, one text each; `whole_text`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

import echoic
from echoic.api import EchoicModel
from echoic.captioning import CaptionedSpan, whole_text
from echoic.convert.native import ModelFile, save_model
from echoic.encoders.generation import Beam, Greedy, Sampling, generate
from echoic.model import build
from echoic.towers import PackedTower
from echoic.types import AudioError, CheckpointError, ConfigError, Ragged
from tests import clap, tiny
from tests.tiny import RATE, noise, tone

WINDOW_S = 2.0
LENGTHS_S = (0.5, 5.3, 0.02, 2.0, 1.3, 7.9, 0.5)
SHORT = 10  # tokens: enough to differ


@pytest.fixture(scope="module")
def captioner() -> EchoicModel:
    """Whose words hang on the sound: the tokens of an untrained encoder are nearly all alike."""
    model = tiny.captioner(max_s=WINDOW_S)
    with torch.no_grad():
        for block in model.network.decoder.blocks:
            block.sound_key_value.weight.mul_(30)
            block.sound_out.weight.mul_(30)
    return model


@pytest.fixture(scope="module")
def waves() -> list[np.ndarray]:
    return [noise(s, i) if i % 2 else tone(300 * (i + 1), s) for i, s in enumerate(LENGTHS_S)]


def by_hand(model: EchoicModel, wave: np.ndarray, how=Beam(), max_tokens: int = SHORT) -> list[str]:
    """The caption of one clip that is no longer than the window, by the definition."""
    with torch.no_grad():
        heard = model.network.audio(Ragged.from_rows([torch.from_numpy(wave)]))
    found = generate(
        model.network.decoder, Ragged(heard.tokens, heard.offsets), how, max_tokens=max_tokens
    )
    return [model.tokenizer.decode(each.ids) for each in found[0]]


def spans_of(model: EchoicModel, items, **options) -> list[list[CaptionedSpan]]:
    found = dict(model.iter_captions(items, **{"max_tokens": SHORT} | options))
    return [found[i] for i in range(len(found))]


def assert_same_captions(found: list[CaptionedSpan], expected: list[CaptionedSpan]) -> None:
    """In words and times; a sum of logarithms is rounded by where in its batch a clip lies."""
    for a, b in zip(found, expected, strict=True):
        assert replace(a, log_probability=0.0) == replace(b, log_probability=0.0)
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)


def sampling(seed: int = 0, **options) -> Sampling:
    return Sampling(torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("how", [Greedy(), Beam(), Beam(width=2)])
def test_a_caption_is_what_the_decoder_says_of_the_tokens(captioner, how):
    wave = noise(1.3)
    assert captioner.caption(wave, how=how, max_tokens=SHORT) == by_hand(captioner, wave, how)[:1]


def test_different_sounds_have_different_captions(captioner, waves):
    """Otherwise the tests of this file would prove little."""
    assert len(set(captioner.caption(waves, max_tokens=SHORT))) >= len(waves) - 2


@pytest.mark.parametrize("at_once", [1, 60, 4096])
def test_neighbours_order_and_batch_change_nothing(captioner, waves, monkeypatch, at_once):
    alone = [captioner.caption(wave, max_tokens=SHORT)[0] for wave in waves]
    monkeypatch.setattr(PackedTower, "at_once", at_once)
    assert captioner.caption(waves, max_tokens=SHORT) == alone
    order = [4, 2, 0, 6, 1, 3, 5]
    found = captioner.caption([waves[i] for i in order], max_tokens=SHORT)
    assert found == [alone[i] for i in order]


def test_a_long_recording_has_a_caption_for_each_window(captioner):
    wave = np.concatenate([noise(2.0), tone(440, 2.0), tone(3000, 1.3)])
    (spans,) = spans_of(captioner, wave)
    assert [(s.start_s, s.end_s) for s in spans] == [(0, 2), (2, 4), (3.3, 5.3)]
    cuts = [wave[round(s.start_s * RATE) : round(s.end_s * RATE)] for s in spans]
    assert [s.text for s in spans] == [by_hand(captioner, cut)[0] for cut in cuts]
    assert len({s.text for s in spans}) > 1
    assert captioner.caption(wave, max_tokens=SHORT) == [whole_text(spans)]


def test_captions_come_while_items_are_drawn(captioner, monkeypatch):
    monkeypatch.setattr(PackedTower, "at_once", 60)
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            drawn += 1
            yield noise(0.5, seed=drawn)

    found = captioner.iter_captions(endless(), how=Greedy(), max_tokens=5)
    taken = [next(found) for _ in range(10)]
    assert [index for index, _ in taken] == list(range(10))
    assert drawn < 15


def test_several_captions_of_a_stretch(captioner):
    wave = noise(1.0)
    ((span,),) = spans_of(captioner, wave, how=Beam(captions=3))
    texts = [span.text, *(other.text for other in span.others)]
    assert texts == by_hand(captioner, wave, Beam(captions=3))
    assert len(texts) == 3
    assert spans_of(captioner, wave)[0][0].others == ()


def test_a_log_probability_is_the_decoders(captioner):
    wave = noise(1.0)
    ((span,),) = spans_of(captioner, wave, how=Greedy())
    with torch.no_grad():
        heard = captioner.network.audio(Ragged.from_rows([torch.from_numpy(wave)]))
    tokens = Ragged(heard.tokens, heard.offsets)
    (best,) = generate(captioner.network.decoder, tokens, Greedy(), max_tokens=SHORT)[0]
    assert span.log_probability == pytest.approx(best.log_probability, abs=1e-4)
    assert span.log_probability < 0


# random numbers


def test_captioning_draws_no_random_number(captioner, waves):
    state = torch.get_rng_state()
    captioner.caption(waves, max_tokens=SHORT)
    captioner.caption(waves, how=sampling(), max_tokens=SHORT)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("at_once", [1, 60, 4096])
def test_a_sample_hangs_on_its_generator_alone(captioner, waves, monkeypatch, at_once):
    usual = captioner.caption(waves, how=sampling(), max_tokens=SHORT)
    monkeypatch.setattr(PackedTower, "at_once", at_once)
    assert captioner.caption(waves, how=sampling(), max_tokens=SHORT) == usual
    assert captioner.caption(waves[:3], how=sampling(), max_tokens=SHORT) == usual[:3]
    assert captioner.caption(waves, how=sampling(1), max_tokens=SHORT) != usual


# what is given


def test_all_kinds_of_item_are_captioned_alike(captioner, tmp_path):
    wave = tone(440, 1.5)
    soundfile.write(tmp_path / "tone.wav", wave, RATE, subtype="FLOAT")
    path = tmp_path / "tone.wav"
    items = [path, path.read_bytes(), (wave, RATE), torch.from_numpy(wave)]
    found = captioner.caption(items, max_tokens=SHORT)
    assert set(found) == set(captioner.caption(wave, max_tokens=SHORT))
    assert len(found) == 4
    assert captioner.caption([]) == []


def test_what_cannot_be_heard_is_told(captioner, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    items = [noise(0.5), tmp_path / "bad.wav", noise(0.5)]
    with pytest.raises(AudioError, match=r"bad\.wav"):
        captioner.caption(items)
    first, error, second = spans_of(captioner, items)
    assert isinstance(error, AudioError)
    assert_same_captions(first, second)


def test_silence_is_told(captioner, caplog):
    assert len(captioner.caption(np.zeros(RATE, np.float32), max_tokens=SHORT)) == 1
    assert caplog.messages == ["item 0: silent; its caption says nothing"]


def test_half_precision_captions_too(waves):
    model = EchoicModel(tiny.content(decoder=tiny.decoder()), precision="bf16")
    assert len(model.caption(waves, max_tokens=SHORT)) == len(waves)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("long", ["windows", "centred"])
def test_an_encoder_of_fixed_windows_captions_too(precision, long):
    """Its tokens are other than SLAP's, and with fusion it hears views of the whole."""
    plain = clap.content(fusion=True)
    decoder = tiny.decoder().model_copy(update={"vocab": plain.tokenizer.vocab})
    spec = plain.model.spec.model_copy(update={"decoder": decoder})
    content = ModelFile(build(spec, seed=0), plain.tokenizer, {})
    model = EchoicModel(content, long=long, precision=precision)
    (spans,) = spans_of(model, clap.sound(12.3), how=Greedy())
    times = [(0, 10), (2.3, 12.3)] if long == "windows" else [(0, 12.3)]
    assert [(s.start_s, s.end_s) for s in spans] == times


def test_a_captioner_survives_its_file(captioner, waves, tmp_path):
    content = ModelFile(captioner.network, captioner.tokenizer, {})
    save_model(tmp_path / "model.safetensors", content)
    loaded = echoic.load(tmp_path)
    assert loaded.space_id == captioner.space_id
    assert loaded.caption(waves, max_tokens=SHORT) == captioner.caption(waves, max_tokens=SHORT)


def test_without_a_decoder_it_is_told_at_once():
    with pytest.raises(ConfigError, match=r"no decoder to write captions; echoic train slap"):
        tiny.model().iter_captions("nowhere.wav")


def test_without_a_tokenizer_it_is_told_at_once():
    content = tiny.content(decoder=tiny.decoder())
    model = EchoicModel(ModelFile(content.model, None, {}))
    with pytest.raises(CheckpointError, match="brought no tokenizer"):
        model.iter_captions("nowhere.wav")


def test_a_caption_of_no_words_is_refused(captioner):
    with pytest.raises(ConfigError, match="max_tokens 2"):
        captioner.caption(noise(0.5), max_tokens=2)


# the text of the whole


def span(text: str) -> CaptionedSpan:
    return CaptionedSpan(0.0, 1.0, text, -1.0)


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        (["a dog barks"], "a dog barks"),
        (["a dog barks", "rain falls"], "a dog barks; rain falls"),
        (["Rain falls.", "Rain falls.", "A dog."], "Rain falls; A dog."),
        (["a", "b", "a"], "a; b; a"),
        (["a", "", "a", ""], "a"),
        ([""], ""),
        ([], ""),
    ],
)
def test_the_text_of_the_whole(texts, whole):
    assert whole_text(map(span, texts)) == whole
