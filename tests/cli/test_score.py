from __future__ import annotations

import pytest

import echoic
from tests import on_disk


@pytest.mark.usefixtures("elsewhere")
def test_scores_are_the_models_and_filter(documented, tmp_path):
    model = on_disk.save_tiny_model(tmp_path / "model.safetensors")
    files = on_disk.write_tones(tmp_path / "sounds", 4)
    on_disk.write_table(tmp_path / "sounds" / "captions.csv", files)
    command = ["data", "score", "sounds", "--out", "scores", "-m", model, "--batch", 3]
    found = documented(*command)
    assert (found["captions"], found["bad"]) == (4, {})
    opened = echoic.load(model)
    captions = [f"{on_disk.CAPTIONS[i % len(on_disk.CAPTIONS)]} {i}" for i in range(4)]
    cosines = (opened.embed_audio(files) * opened.embed_text(captions)).sum(1)
    assert found["mean"] == pytest.approx(float(cosines.mean()), abs=1e-4)
    assert documented(*command) == found
    least = float(cosines.sort().values[1:3].mean())
    packed = ["data", "shards", "sounds", "packed", "--rate", 8000, "--scores", "scores"]
    assert documented(*packed, "--least-score", least)["clips"] == 2
