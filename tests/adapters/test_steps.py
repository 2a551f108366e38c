"""Vectors along time are the model's own, at the model's own times, whatever the length."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from echoic.adapters.steps import StepModel
from echoic.convert.native import save_model
from echoic.types import AudioError, ConfigError, EchoicError
from tests.adapters import families
from tests.adapters.families import close, sounds

KIND = pytest.mark.parametrize("name", families.KINDS)
FAMILY = pytest.mark.parametrize("name", families.NAMES)
STEP_MS = {
    "slap": 160, "m2d": 160, "m2d_clap": 160, "htsat": 78.2014, "fused": 78.2014, "cnn6": 160
}  # fmt: skip
WIDTH = {"slap": 4 * 32, "m2d": 5 * 32, "m2d_clap": 5 * 32, "htsat": 32, "fused": 32, "cnn6": 512}


def own(name: str, wave: Tensor) -> tuple[Tensor, Tensor]:
    """(S, W) and (S,) s of a sound (T,), by the tower itself."""
    model = families.model(name)
    if name.startswith("m2d"):
        heard = model.features(wave, "stacked")
        return heard.tokens, heard.time_s
    heard = model.audio_features([wave.numpy()])
    if name != "slap":
        return heard.tokens, heard.time_s
    return heard.tokens.unflatten(0, (-1, 4)).flatten(1), heard.time_s[::4]


@FAMILY
def test_steps_are_the_towers_own_at_its_own_times(name):
    wave = sounds(name, 1.27)[0]
    stepwise = StepModel(families.model(name))
    vectors, time_s = stepwise.steps(wave)
    wanted, wanted_s = own(name, wave)
    assert vectors.shape == (1, len(time_s), WIDTH[name])
    assert stepwise.step_width == WIDTH[name]
    assert stepwise.hop_s * 1000 == pytest.approx(STEP_MS[name], abs=1e-3)
    assert time_s.diff().sub(stepwise.hop_s).abs().max() < 1e-9
    whole = int(1.27 / stepwise.hop_s)  # those that lie in the sound as a whole
    close(vectors[0, :whole], wanted[:whole])
    close(time_s[:whole].float(), wanted_s[:whole], 1e-4)


def test_windows_of_a_long_recording_end_to_end():
    """SLAP hears 2 s at once, 12 whole steps: windows from step 0, 12, and 21, with which it
    ends."""
    wave = sounds("slap", 5.3)[0]
    starts = [round(step * 0.16 * 16_000) for step in (0, 12, 21)]
    first, second, third = (own("slap", wave[s : s + 32_000])[0] for s in starts)
    both = (second[9:12] + third[:3]) / 2
    vectors, time_s = StepModel(families.model("slap")).steps(wave)
    close(vectors[0], torch.cat([first[:12], second[:9], both, third[3:13]]))
    close(time_s, torch.arange(34, dtype=torch.float64) * 0.16 + 0.08)
    assert len(wave) == starts[-1] + len(wave[starts[-1] :]) <= starts[-1] + 32_000


@pytest.mark.parametrize("name", ["htsat", "fused", "cnn6"])
def test_windows_of_one_length_end_to_end(name):
    """A window, and one that ends with the recording, from the first step on with which it can."""
    stepwise = StepModel(families.model(name))
    rate, window = stepwise.model.rate_hz, round(stepwise.network.audio.max_s * 48_000)
    wave = sounds(name, window / rate + 0.9)[0]
    late = math.ceil(0.9 / stepwise.hop_s)
    first = own(name, wave[:window])[0]
    second = own(name, wave[round(late * stepwise.hop_s * rate) :])[0]
    whole = int(window / rate / stepwise.hop_s)
    vectors, time_s = stepwise.steps(wave)
    close(vectors[0, :late], first[:late])
    close(vectors[0, late:whole], (first[late:whole] + second[: whole - late]) / 2)
    close(vectors[0, len(first) : late + len(second)], second[len(first) - late :])
    assert abs(len(time_s) * stepwise.hop_s - len(wave) / rate) < stepwise.hop_s


@pytest.mark.parametrize("name", ["m2d", "m2d_clap"])
def test_an_m2d_hears_a_long_recording_as_it_always_does(name):
    wave = sounds(name, 7.77)[0]
    vectors, _ = StepModel(families.model(name)).steps(wave)
    wanted, _ = own(name, wave)
    close(vectors[0, :48], wanted[:48])


@KIND
def test_a_step_says_what_sounds_at_its_time(name):
    """A click changes the steps around it more than all others."""
    stepwise = StepModel(families.model(name))
    rate = stepwise.model.rate_hz
    quiet = sounds(name, 3.0) * 0.01
    before = stepwise.steps(quiet)
    for click_s in (0.6, 2.35):
        loud = quiet.clone()
        loud[0, round(click_s * rate) : round((click_s + 0.03) * rate)] += 0.9
        changed = (stepwise.steps(loud).vectors - before.vectors)[0].norm(dim=1)
        found_s = float(before.time_s[changed.argmax()])
        assert abs(found_s - click_s - 0.015) <= 2 * stepwise.hop_s


@KIND
def test_a_finer_step_lies_between_the_models_own(name):
    coarse = StepModel(families.model(name))
    fine = StepModel(families.model(name), hop_ms=25)
    wave = sounds(name, 1.2)
    vectors, time_s = fine.steps(wave)
    known, known_s = coarse.steps(wave)
    assert len(time_s) == 48
    close(time_s, torch.arange(48, dtype=torch.float64) * 0.025 + 0.0125)
    before = time_s < known_s[0]
    assert before.any()
    close(vectors[0, before], known[0, :1].expand(int(before.sum()), -1))
    i = 20
    left = int((known_s <= time_s[i]).sum()) - 1
    share = float((time_s[i] - known_s[left]) / (known_s[left + 1] - known_s[left]))
    close(vectors[0, i], (1 - share) * known[0, left] + share * known[0, left + 1])


@KIND
def test_same_vectors_always_alone_or_in_a_batch(name):
    stepwise = StepModel(families.model(name))
    batch = sounds(name, 1.7, count=3)
    found = stepwise.steps(batch).vectors
    assert torch.equal(found, stepwise.steps(batch).vectors)
    assert torch.equal(found, StepModel(families.model(name)).steps(batch).vectors)
    for i in range(3):
        close(stepwise.steps(batch[i]).vectors[0], found[i])
    close(stepwise.steps(batch.flip(0)).vectors.flip(0), found)
    assert (found[0] - found[1]).abs().max() > 1e-3


@KIND
def test_frozen(name):
    stepwise = StepModel(families.model(name)).train()
    assert not any(module.training for module in stepwise.modules())
    audio = sounds(name, 1.0).requires_grad_()
    found = stepwise.steps(audio).vectors
    assert not found.requires_grad
    assert found.dtype == torch.float32
    with torch.inference_mode():
        assert torch.equal(stepwise.steps(audio).vectors, found)


@KIND
def test_a_very_short_sound_is_one_step(name):
    vectors, time_s = StepModel(families.model(name)).steps(torch.full((2, 1), 0.1))
    assert vectors.shape == (2, 1, WIDTH[name])
    assert vectors.isfinite().all()
    assert len(time_s) == 1


def test_what_cannot_be_heard_is_told():
    stepwise = StepModel(families.model("slap"))
    for shape in ((2, 1, 800), (2, 0), (0, 800)):
        with pytest.raises(EchoicError, match="n_sounds, n_samples"):
            stepwise.steps(torch.zeros(shape))
    broken = torch.zeros(3, 800)
    broken[1, 5] = torch.nan
    with pytest.raises(AudioError, match="sound 1 of the batch"):
        stepwise.steps(broken)


def test_a_model_by_path_by_name_of_the_environment_or_none(tmp_path, monkeypatch):
    monkeypatch.delenv("ECHOIC_MODEL", raising=False)
    with pytest.raises(ConfigError, match="set ECHOIC_MODEL"):
        StepModel()
    path = tmp_path / "model.safetensors"
    save_model(path, families.content("slap"))
    wanted = StepModel(families.model("slap")).steps(sounds("slap", 1.0)).vectors
    assert torch.equal(StepModel(path).steps(sounds("slap", 1.0)).vectors, wanted)
    monkeypatch.setenv("ECHOIC_MODEL", str(path))
    assert torch.equal(StepModel().steps(sounds("slap", 1.0)).vectors, wanted)


@pytest.mark.parametrize("hop_ms", [0, -5, 161])
def test_a_step_that_would_leave_something_out(hop_ms):
    with pytest.raises(ConfigError, match="at most this model's own 160"):
        StepModel(families.model("slap"), hop_ms=hop_ms)
