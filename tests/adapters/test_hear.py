"""HEAR's API as its page and its validator (hearvalidator at 8c2cb84, June 2022) ask for it,
written down here; and the validator itself where it is installed."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch

from echoic.adapters import hear
from echoic.convert.native import save_model
from echoic.types import ConfigError, EchoicError
from tests.adapters import families
from tests.adapters.families import close, sounds

FAMILY = pytest.mark.parametrize("name", families.NAMES)
RATES = (16_000, 22_050, 32_000, 44_100, 48_000)
MODULE = "echoic.adapters.hear"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The file of each family."""
    folder = tmp_path_factory.mktemp("hear")
    for name in families.NAMES:
        save_model(folder / f"{name}.safetensors", families.content(name))
    return lambda name: str(folder / f"{name}.safetensors")


def faults(module: Any, path: str, lengths_s: tuple[float, ...]) -> list[str]:
    """What HEAR would say against a module and its model."""
    model = module.load_model(path)
    model.to("cpu")
    found = [] if isinstance(model, torch.nn.Module) else ["the model is no torch module"]
    if model.sample_rate not in RATES:
        found.append(f"rate {model.sample_rate}")
    for size in (model.scene_embedding_size, model.timestamp_embedding_size):
        if type(size) is not int:
            found.append(f"a size is {size!r}")
    draw = torch.Generator().manual_seed(0)
    for length_s in lengths_s:
        audio = torch.rand(2, int(length_s * model.sample_rate), generator=draw) * 2 - 1
        scene = module.get_scene_embeddings(audio, model)
        if scene.dtype != torch.float32 or scene.shape != (2, model.scene_embedding_size):
            found.append(f"scene: {scene.dtype} {tuple(scene.shape)}")
        vectors, stamps = module.get_timestamp_embeddings(audio, model)
        if vectors.dtype != torch.float32 or vectors.shape != (
            *stamps.shape,
            model.timestamp_embedding_size,
        ):
            found.append(f"time stamps: {vectors.dtype} {tuple(vectors.shape)}")
        if stamps.ndim != 2 or len(stamps) != 2:
            found.append(f"stamps {tuple(stamps.shape)}")
        steps_ms = stamps.diff(dim=1)
        if steps_ms.numel() and (steps_ms - steps_ms.mean()).abs().max() > 1:
            found.append("stamps at unequal distances")
        if stamps.min() < 0 or stamps.max() > 1000 * length_s:
            found.append("stamps outside the sound")
        if stamps.max() < 1000 * length_s - 1.5 * steps_ms.mean():
            found.append("the end of the sound has no stamp")
    return found


@FAMILY
def test_nothing_is_said_against_it(name, files):
    assert faults(import_module(MODULE), files(name), (1.07, 2.58)) == []


def test_the_check_itself_finds_faults(files):
    class Worse(ModuleType):
        load_model = staticmethod(hear.load_model)
        get_scene_embeddings = staticmethod(hear.get_scene_embeddings)

        @staticmethod
        def get_timestamp_embeddings(audio, model):
            vectors, stamps = hear.get_timestamp_embeddings(audio, model)
            return vectors[:, :-4], stamps[:, :-4] + 0.01 * stamps[:, :-4] ** 2

    said = faults(Worse("worse"), files("slap"), (3.98,))
    assert said == ["stamps at unequal distances", "stamps outside the sound"]


@FAMILY
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # its advice, of steps above 50 ms
def test_the_validator_itself(name, files, monkeypatch):
    pytest.importorskip("hearvalidator", reason="needs hearvalidator (pip install --no-deps)")
    if "tensorflow" not in sys.modules:  # which it imports, for models that are none of ours
        absent: Any = ModuleType("tensorflow")
        absent.Module = type("Module", (), {})
        monkeypatch.setitem(sys.modules, "tensorflow", absent)
    validate = import_module("hearvalidator.validate")
    validate.ValidateModel(MODULE, files(name), "cpu")()


@FAMILY
def test_a_scene_is_what_a_linear_probe_sees(name):
    model = hear.HearModel(families.model(name))
    audio = sounds(name, 1.2, count=3)
    found = hear.get_scene_embeddings(audio, model)
    close(found, families.model(name).probe_vectors(audio.numpy()))
    assert torch.equal(found, hear.get_scene_embeddings(audio, model))
    close(hear.get_scene_embeddings(audio[1:2], model)[0], found[1])
    assert not hear.get_scene_embeddings(audio.requires_grad_(), model).requires_grad


def test_stamps_are_the_centres_of_steps_within_the_sound():
    model = hear.HearModel(families.model("slap"))
    audio = sounds("slap", 1.99, count=2)
    vectors, stamps = hear.get_timestamp_embeddings(audio, model)
    close(stamps, (torch.arange(12) * 160.0 + 80).expand(2, -1))
    assert torch.equal(vectors, model.steps(audio).vectors[:, :12])
    fine = hear.HearModel(families.model("slap"), hop_ms=50)
    _, stamps = hear.get_timestamp_embeddings(audio, fine)
    close(stamps, (torch.arange(40) * 50.0 + 25).expand(2, -1))


def test_the_stamp_of_a_sound_shorter_than_half_a_step():
    model = hear.HearModel(families.model("slap"))
    vectors, stamps = hear.get_timestamp_embeddings(torch.full((2, 160), 0.1), model)
    assert vectors.shape == (2, 1, model.timestamp_embedding_size)
    assert stamps.tolist() == [[10.0], [10.0]]


def test_options_and_errors(files, monkeypatch):
    monkeypatch.delenv("ECHOIC_MODEL", raising=False)
    assert hear.load_model(files("slap"), hop_ms=50).hop_s == 0.05
    with pytest.raises(ConfigError, match="set ECHOIC_MODEL"):
        hear.load_model()
    with pytest.raises(EchoicError, match="n_sounds"):
        hear.get_scene_embeddings(torch.zeros(2, 2, 2), hear.load_model(files("slap")))
