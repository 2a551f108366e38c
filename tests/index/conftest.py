"""A model, and a folder of sounds that differ in pitch."""

from __future__ import annotations

import pytest
import soundfile as sf

from tests import tiny


@pytest.fixture(scope="package")
def model():
    return tiny.model()


@pytest.fixture
def sounds(tmp_path):
    """Five tones in two folders, with names of all kinds."""
    root = tmp_path / "sounds"
    names = ("a.wav", "b.WAV", "deep/er/c.flac", "deep/lång ☂ [x] 'q\".ogg", "deep/-e\n.wav")
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        kind = "WAV" if name.lower().endswith("wav") else None
        sf.write(root / name, tiny.tone(200 * 1.5**i, 0.4), tiny.RATE, format=kind)
    return root
