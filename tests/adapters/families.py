"""One small model of each family that the adapters know, and sounds for it."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from echoic.api import EchoicModel
from echoic.audio.frontend import laion_slaney
from echoic.convert.native import ModelFile
from echoic.encoders.pann import PannSpec
from echoic.model import build
from tests import clap, m2d, tiny

NAMES = ("slap", "m2d", "m2d_clap", "htsat", "fused", "cnn6")
KINDS = ("slap", "m2d", "htsat", "cnn6")


@cache
def content(name: str) -> ModelFile:
    """SLAP hears 2 s at once, CNN6 1.3 s, HTSAT 10 s; an M2D any length."""
    if name == "slap":
        return tiny.content()
    if name.startswith("m2d"):
        return m2d.content("tokens" if name == "m2d_clap" else None)
    if name == "cnn6":
        audio = PannSpec(layers=6, window_samples=62_400, int16=False)
        spec = clap.spec().model_copy(
            update={"audio": audio, "front_end": laion_slaney(), "max_s": 1.3}
        )
        return ModelFile(build(spec, seed=0).eval(), clap.tokenizer())
    return clap.content(fusion=name == "fused")


@cache
def model(name: str) -> EchoicModel:
    return EchoicModel(content(name))


def sounds(name: str, seconds: float, count: int = 1, seed: int = 0) -> Tensor:
    """(count, T) at the model's rate, between -1 and 1."""
    rate_hz = model(name).rate_hz
    draw = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch_hz = draw.uniform(200, 3000, (count, 1))
    tones = np.sin(2 * np.pi * pitch_hz * time_s * (1 + 0.2 * np.sin(2 * time_s)))
    noise = draw.standard_normal((count, len(time_s)))
    return torch.from_numpy((0.3 * tones + 0.05 * noise).astype(np.float32)).clamp(-1, 1)


def close(found: Tensor, wanted: Tensor, within: float = 1e-5) -> None:
    """As a share of the largest of `wanted`."""
    scale = max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=within)
