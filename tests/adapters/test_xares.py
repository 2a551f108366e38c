"""X-ARES's interface as its checker and its tasks (xares 0.1.3) ask for it, written down here; and
the checker itself where it is installed."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import pytest
import torch

from echoic.adapters.xares import EchoicEncoder
from echoic.convert.native import save_model
from echoic.types import AudioError
from tests.adapters import families
from tests.adapters.families import close, sounds

FAMILY = pytest.mark.parametrize("name", families.NAMES)


def faults(encoder: Any) -> list[str]:
    """What X-ARES would say against an encoder."""
    found = [] if type(encoder).__name__.endswith("Encoder") else ["its name"]
    found += [] if isinstance(encoder, torch.nn.Module) else ["no torch module"]
    found += [
        a for a in ("output_dim", "sampling_rate", "hop_size_in_ms") if not hasattr(encoder, a)
    ]
    if found:
        return found
    encoded = encoder(torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0)))
    if encoded.ndim != 3 or (len(encoded), encoded.shape[2]) != (2, encoder.output_dim):
        found.append(f"shape {tuple(encoded.shape)}")
    steps = 50_000 / encoder.sampling_rate / (encoder.hop_size_in_ms / 1000)
    if encoded.shape[1] != math.ceil(steps):  # as its tasks lay labels along time
        found.append(f"{encoded.shape[1]} steps of {steps:.2f}")
    return found


@FAMILY
def test_nothing_is_said_against_it(name):
    assert faults(EchoicEncoder(families.model(name))) == []


def test_the_check_itself_finds_faults():
    assert faults(torch.nn.Identity()) == [
        "its name", "output_dim", "sampling_rate", "hop_size_in_ms"
    ]  # fmt: skip


@FAMILY
def test_the_checker_itself(name):
    checker = pytest.importorskip("xares.audio_encoder_checker", reason="needs xares")
    assert checker.check_audio_encoder(EchoicEncoder(families.model(name)))


def test_found_by_its_path_and_made_without_arguments(tmp_path, monkeypatch):
    """X-ARES takes the path of a file for a module's name, and from there the one name that ends
    so."""
    module = import_module("echoic/adapters/xares.py".replace("/", ".")[:-3])
    (only,) = [name for name in dir(module) if name.endswith("Encoder")]
    save_model(tmp_path / "model.safetensors", families.content("slap"))
    monkeypatch.setenv("ECHOIC_MODEL", str(tmp_path / "model.safetensors"))
    encoder = getattr(module, only)()
    audio = sounds("slap", 0.8, count=2)
    assert torch.equal(encoder(audio), EchoicEncoder(families.model("slap"))(audio))


def test_vectors_of_two_models_are_kept_apart():
    """X-ARES looks for them under the class's name."""
    slap, m2d = families.model("slap"), families.model("m2d")
    made = [EchoicEncoder(slap), EchoicEncoder(slap, hop_ms=40), EchoicEncoder(m2d)]
    names = [type(encoder).__name__ for encoder in made]
    assert len(set(names)) == 3
    assert type(EchoicEncoder(slap)).__name__ == names[0]
    assert all(isinstance(encoder, EchoicEncoder) for encoder in made)


@FAMILY
def test_what_it_gives(name):
    encoder = EchoicEncoder(families.model(name), hop_ms=40)
    assert encoder.hop_size_in_ms == 40
    audio = sounds(name, 1.0, count=2).requires_grad_()
    found = encoder(audio)
    assert found.shape == (2, 25, encoder.output_dim)
    assert not found.requires_grad
    close(found, encoder.steps(audio).vectors)
    close(encoder(audio[1]), found[1:])


def test_a_minute_is_heard():
    encoder = EchoicEncoder(families.model("slap"))
    found = encoder(sounds("slap", 60.0))
    assert found.shape[1] == 375
    assert found.isfinite().all()
    with pytest.raises(AudioError, match="NaN"):
        encoder(torch.full((1, 800), torch.nan))
