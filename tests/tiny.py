"""The smallest model, tokenizer, sounds and source that are whole: for tests of what uses them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from echoic.api import EchoicModel
from echoic.audio.frontend import slap
from echoic.convert.native import ModelFile
from echoic.data.clips import Clip
from echoic.data.sources import FileSource
from echoic.encoders.decoder import DecoderSpec
from echoic.encoders.slap import SlapSpec
from echoic.encoders.text import SmallTextSpec
from echoic.encoders.tokenizer import TextTokenizer
from echoic.model import ModelSpec, build
from echoic.recipes.recipe import DataSpec, Recipe
from echoic.train.loop import RunSpec
from echoic.train.optim import OptimSpec

RATE = 16_000
SENTENCES = (
    "a dog barks", "rain falls on a roof", "a bell rings twice", "wind in the trees",
    "an engine starts", "a siren far away", "someone knocks at a door", "a clock ticks",
    "waves on a beach", "a bird sings",
)  # fmt: skip


@cache
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(SENTENCES, vocab=300, max_tokens=32)


def spec(*, max_s: float = 2.0, **changes: Any) -> ModelSpec:
    parts: dict[str, Any] = {
        "front_end": slap(),
        "audio": SlapSpec(depth=2, width=32, heads=2, hidden=48, window_columns=4, global_every=2),
        "text": SmallTextSpec(
            vocab=tokenizer().vocab, depth=1, width=32, heads=2, hidden=48, max_tokens=32
        ),
        "embed_dim": 16,
        "max_s": max_s,
    }
    return ModelSpec(**(parts | changes))


def content(seed: int = 0, *, card: dict[str, Any] | None = None, **changes: Any) -> ModelFile:
    return ModelFile(build(spec(**changes), seed=seed), tokenizer(), card or {})


def model(**changes: Any) -> EchoicModel:
    return EchoicModel(content(**changes))


def captioner(seed: int = 0, **changes: Any) -> EchoicModel:
    """With a decoder, whose words are as good as drawn."""
    return EchoicModel(content(seed, decoder=decoder(), **changes))


def decoder() -> DecoderSpec:
    return DecoderSpec(
        vocab=tokenizer().vocab, depth=2, width=32, heads=2, hidden=48, max_tokens=32
    )


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """(T,) float32 at RATE."""
    draw = np.random.default_rng(seed)
    return (0.1 * draw.standard_normal(round(seconds * RATE))).astype(np.float32)


def tone(hz: float, seconds: float) -> np.ndarray:
    time_s = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)


NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"
)  # fmt: skip


def tones(folder: Path) -> FileSource:
    """Twelve wavs of different pitch and length, each with its own caption."""
    folder.mkdir(parents=True, exist_ok=True)
    clips, paths = [], []
    for i, number in enumerate(NUMBERS):
        wave = tone(150 * 1.35**i, 0.3 + 0.02 * i)
        paths.append(folder / f"{number}.wav")
        sf.write(paths[-1], wave, RATE, subtype="PCM_16")
        clips.append(Clip(f"{number}.wav", (f"tone number {number}",), (), len(wave) / RATE))
    return FileSource(clips, paths)


def recipe(*, steps: int = 6, precision: str = "fp32", **run: Any) -> Recipe:
    text = SmallTextSpec(vocab=300, depth=1, width=32, heads=2, hidden=48, max_tokens=32)
    return Recipe(
        name="tiny", paper="none", model=spec(text=text),
        data=DataSpec(budget_tokens=160),
        optim=OptimSpec(lr=3e-3, warmup_steps=2, steps=steps, precision=precision),
        run=RunSpec(**{"log_every": 2, "save_every": 2, "seed": 3} | run),
    )  # fmt: skip
