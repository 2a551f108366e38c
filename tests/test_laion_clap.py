"""LAION-CLAP as a whole, from samples to loss and gradients, against the numbers of upstream's own
program (golden clap_htsat_tiny): the same made-up checkpoint, read as a released one is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from echoic.audio.frontend import laion_slaney, mel_filters
from echoic.audio.views import fill_window, int16_round_trip
from echoic.convert.laion import laion_model, loss_heads, to_laion
from echoic.convert.torch_file import read_state_dict
from echoic.model import LanguageAudioModel, build
from echoic.objectives.four_term import MlpHeads
from echoic.objectives.task import ContrastiveTask, FourTermTask
from echoic.types import Batch, Ragged
from tests.golden import Golden, golden_tools

NAME = "clap_htsat_tiny"
WINDOW = 480_000
OF_HEADS = {
    f"{side}_transform.sequential.{i}.{what}"
    for side in ("audio", "text")
    for i in (0, 3)
    for what in ("weight", "bias")
}


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    return Golden(shared, NAME)


@pytest.fixture(scope="module")
def state(shared, golden, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The made-up checkpoint, written and read as upstream's training writes them."""
    listed = {
        name: (tuple(t["shape"]), t["dtype"]) for name, t in golden.spec["state_dict"].items()
    }
    made = golden_tools(shared).fill(listed)
    kept = {
        name: torch.zeros(shape, dtype=getattr(torch, dtype))
        for name, (shape, dtype) in listed.items()
        if name not in made
    }
    kept["audio_branch.logmel_extractor.melW"] = mel_filters(laion_slaney())
    tensors = {name: torch.from_numpy(value) for name, value in made.items()} | kept
    file: Path = tmp_path_factory.mktemp("laion") / "made-up.pt"
    content = {
        "epoch": 3, "name": "made-up", "optimizer": {"state": {0: {"step": torch.tensor(5.0)}}},
        "state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()},
    }  # fmt: skip
    torch.save(content, file)
    return read_state_dict(file)


@pytest.fixture(scope="module")
def model(state) -> LanguageAudioModel:
    return laion_model(state, "made-up.pt")[0]


@pytest.fixture(scope="module")
def waves(shared, golden) -> list[torch.Tensor]:
    """The prepared recordings (T,), cropped where upstream's generator cropped them."""
    tools = golden_tools(shared)
    made = [
        torch.from_numpy(tools.make_audio(seconds, 48_000, seed))
        for seconds, seed in ((1.0, 0), (5.0, 1), (10.0, 2), (12.34, 3), (25.0, 4))
    ]
    starts = golden.arrays["crop_start"]
    return [
        wave[max(0, start) :][:WINDOW] if start >= 0 else wave
        for wave, start in zip(made, starts, strict=True)
    ]


@pytest.fixture(scope="module")
def batch(golden, waves) -> Batch:
    return Batch(Ragged.from_rows(waves), Ragged.from_rows(token_rows(golden)), torch.arange(5),
                 tuple("abcde"))  # fmt: skip


def token_rows(golden: Golden) -> list[torch.Tensor]:
    ids, mask = golden.arrays["token_ids"], golden.arrays["token_mask"]
    return [torch.from_numpy(row[kept == 1]) for row, kept in zip(ids, mask, strict=True)]


def test_prepared_waves(golden, waves):
    ready = torch.stack([fill_window(int16_round_trip(w), WINDOW, "repeatpad") for w in waves])
    golden.check("wave", ready)
    golden.check("wave_energy", ready.double().square().mean(1).float())


def test_audio_from_samples_to_vector(golden, model, batch):
    with torch.no_grad():
        heard = model.audio(batch.audio)
    golden.check("audio_projected", heard.clip)
    golden.check("audio_embed", F.normalize(heard.clip, dim=-1))


def test_text_from_token_ids_to_vector(golden, model, batch):
    with torch.no_grad():
        read = model.text(batch.text)
    golden.check("text_projected", read.clip)
    golden.check("text_embed", F.normalize(read.clip, dim=-1))


def test_embedding_and_tags(golden, model, waves):
    tower: Any = model.audio
    ready = Ragged.from_rows([tower.prepared(wave) for wave in waves])
    with torch.no_grad():
        frames = torch.stack(list(tower.front_end(ready)))
        heard = tower.encoder(frames)
        clipwise, framewise = tower.encoder.tag(frames)
    golden.check("embedding", heard.clip)
    golden.check("fine_grained", tower.encoder.fine_grained(heard.tokens))
    golden.check("clipwise", clipwise)
    golden.check("framewise", framewise)


def gradients(model: LanguageAudioModel) -> dict[str, torch.Tensor]:
    """Those of the parameters, by upstream's names: a model that holds gradients for weights."""
    holder = build(model.spec, seed=0)
    with torch.no_grad():
        for name, tensor in holder.named_parameters():
            grad = model.get_parameter(name).grad
            tensor.copy_(torch.zeros_like(tensor) if grad is None else grad)
    return to_laion(holder)


def test_loss_and_gradients(golden, model, batch):
    task = ContrastiveTask(model.eval())
    task.zero_grad()
    loss = sum(task(batch).values())
    golden.check("loss", loss.detach())
    loss.backward()
    found = gradients(model)
    golden.check("grad_norm", np.array([found[n].norm() for n in golden.spec["grad_names"]]))


def test_loss_and_gradients_with_the_mlp_heads(golden, state, model, batch):
    heads = MlpHeads(width=512)
    heads.load_state_dict(loss_heads(state))
    task = FourTermTask(model, heads).eval()
    task.zero_grad()
    loss = sum(task(batch).values())
    with torch.no_grad():
        unit = F.normalize(model.audio(batch.audio).clip, dim=-1)
        golden.check("audio_mlp", heads.audio_transform(unit))
        golden.check("text_mlp", heads.text_transform(F.normalize(model.text(batch.text).clip)))
    golden.check("loss_mlp", loss.detach())
    loss.backward()
    found = gradients(model) | {
        name: heads.get_parameter(name).grad for name in OF_HEADS | {"logit_scale_t"}
    }
    golden.check(
        "grad_norm_mlp", np.array([found[n].norm() for n in golden.spec["grad_names_mlp"]])
    )
