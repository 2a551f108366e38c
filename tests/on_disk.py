"""The smallest model, sounds and table as files, for tests of what reads files."""

from __future__ import annotations

from pathlib import Path

import soundfile

from echoic.convert.native import save_model
from tests import tiny

CAPTIONS = ("rain on a roof", "a dog barks", "a bell rings twice", "waves on the shore")

# About the smallness of tests.tiny, as overrides of the nano recipe.
OVERRIDES = (
    "model.audio.depth=1", "model.audio.width=32", "model.audio.heads=2", "model.audio.hidden=48",
    "model.text.depth=1", "model.text.width=32", "model.text.heads=2", "model.text.hidden=48",
    "model.text.vocab=80", "model.embed_dim=16", "optim.steps=4", "optim.warmup_steps=1",
    "run.save_every=2", "run.log_every=2", "data.budget_tokens=400",
)  # fmt: skip


def save_tiny_model(path: Path, card: dict | None = None, *, seed: int = 0) -> Path:
    save_model(path, tiny.content(seed, card=card))
    return path


def write_tone(path: Path, hz: float, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tiny.tone(hz, seconds), tiny.RATE)
    return path


def write_tones(folder: Path, count: int) -> list[Path]:
    """Tones of different pitch and length."""
    return [
        write_tone(folder / f"tone{i}.wav", 200.0 * 1.3**i, 0.6 + 0.1 * (i % 5))
        for i in range(count)
    ]


def write_table(path: Path, files: list[Path]) -> Path:
    rows = [f"{file.name},{CAPTIONS[i % len(CAPTIONS)]} {i}" for i, file in enumerate(files)]
    path.write_text("\n".join(["file,caption", *rows]) + "\n", "utf-8")
    return path
