"""The reference vectors that `echoic check` carries are those of transformers, and of echoic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from echoic.convert.huggingface import save_huggingface
from echoic.convert.native import ModelFile
from echoic.convert.reference import (
    RATE_HZ,
    REFERENCE,
    TOKEN_IDS,
    TOLERANCE,
    VALUES,
    reference_gaps,
    reference_model,
    reference_sounds,
)


@pytest.mark.parametrize("name", ["unfused", "fused"])
def test_the_stored_values_are_those_of_transformers(name, tmp_path, monkeypatch):
    """Its extractor draws where the local views start; here it draws the middle, as we do."""
    monkeypatch.setattr("numpy.random.choice", lambda starts: starts[len(starts) // 2])
    found = theirs(name, tmp_path)
    np.testing.assert_allclose(np.array(REFERENCE[name]), found[:, :VALUES], rtol=0, atol=1e-6)


def test_this_machine_agrees():
    gaps = reference_gaps()
    assert gaps.keys() == {"unfused", "fused"}
    assert max(gaps.values()) < TOLERANCE / 10


def test_other_weights_do_not_agree(monkeypatch):
    made = reference_model(fusion=False)
    with torch.no_grad():
        made.audio.encoder.norm.weight[3] *= 1.5
    monkeypatch.setattr("echoic.convert.reference.reference_model", lambda fusion: made)
    monkeypatch.setattr("echoic.convert.reference.REFERENCE", {"unfused": REFERENCE["unfused"]})
    assert reference_gaps()["unfused"] > TOLERANCE


def theirs(name: str, folder) -> np.ndarray:
    """The same vectors by ClapFeatureExtractor and ClapModel."""
    import transformers as hf

    fusion = name == "fused"
    save_huggingface(ModelFile(reference_model(fusion=fusion)), folder)
    model = hf.ClapModel.from_pretrained(folder).eval()
    extractor = hf.ClapFeatureExtractor.from_pretrained(folder)
    rows = []
    with torch.no_grad():
        for sound in reference_sounds(fusion=fusion):
            long = len(sound) > 10 * RATE_HZ
            given = extractor(sound, sampling_rate=RATE_HZ, return_tensors="pt")
            given["is_longer"] = torch.tensor([[long]])
            rows.append(_vector(model.get_audio_features(**given)))
        for ids in TOKEN_IDS:
            rows.append(_vector(model.get_text_features(input_ids=torch.tensor([ids]))))
    return torch.cat(rows).numpy()


def _vector(found) -> torch.Tensor:
    return F.normalize(found if isinstance(found, torch.Tensor) else found.pooler_output, dim=-1)
