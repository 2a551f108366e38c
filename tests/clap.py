"""The smallest LAION-CLAP that is whole, with its tokenizer, its files and its sounds: for tests of
what opens and uses one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from echoic.convert.huggingface import save_huggingface
from echoic.convert.laion import to_laion
from echoic.convert.native import ModelFile
from echoic.convert.reference import reference_spec
from echoic.encoders.tokenizer import TextTokenizer
from echoic.model import LanguageAudioModel, ModelSpec, build
from tests.convert.published import fill, laion_file

RATE = 48_000
WINDOW = 480_000
WORDS = (
    "<s>", "<pad>", "</s>", "<unk>", "This", "is", "a", "sound", "of", ".", "rain", "dog", "bark",
    "bell", "the", "on", "roof",
)  # fmt: skip


def spec(*, fusion: bool = False, width: int = 16) -> ModelSpec:
    """As a .pt file says it: the heads of the text tower are not in its tensors."""
    made = reference_spec(fusion=fusion)
    audio = made.audio.model_copy(update={"int16": True, "width": width})
    text = made.text.model_copy(update={"width": 64, "heads": 1, "max_tokens": 77})
    return made.model_copy(update={"audio": audio, "text": text})


def model(*, fusion: bool = False, width: int = 16) -> LanguageAudioModel:
    """Random weights by which sounds differ, and texts."""
    made = build(spec(fusion=fusion, width=width), seed=0).eval()
    fill(made, torch.Generator().manual_seed(1))
    return made


@cache
def tokenizer_json() -> str:
    """One id for each of WORDS, framed and padded as RoBERTa's."""
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return backend.to_str()


def tokenizer() -> TextTokenizer:
    return TextTokenizer.from_json(tokenizer_json(), max_tokens=77)


def content(*, fusion: bool = False) -> ModelFile:
    return ModelFile(model(fusion=fusion), tokenizer())


def pt_file(path: Path, *, fusion: bool = False, width: int = 16) -> Path:
    """As upstream's training writes it: `module.` before each name, the optimizer beside it."""
    return laion_file(path, to_laion(model(fusion=fusion, width=width)))


def huggingface_folder(folder: Path, *, fusion: bool = False) -> Path:
    """The same model for `transformers`, with its tokenizer."""
    save_huggingface(content(fusion=fusion), folder, without_int16=True)
    return folder


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """(T,) float32 at RATE: a tone that comes and goes, and noise."""
    draw = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * RATE)) / RATE
    pitch_hz = draw.uniform(200, 3000)
    swing = 1 + np.sin(2 * np.pi * draw.uniform(0.1, 0.6) * time_s)
    tone = np.sin(2 * np.pi * pitch_hz * time_s * (1 + 0.03 * time_s))
    made = 0.2 * swing * tone + 0.02 * draw.standard_normal(len(time_s))
    return made.astype(np.float32)
