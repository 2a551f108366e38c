"""Our models by HEAR's common API (hearbenchmark.com/hear-api.html; 2203.03022): one vector of a
sound, and one per time stamp.

    hear-validator echoic.adapters.hear --model model.safetensors
    python -m heareval.embeddings.runner echoic.adapters.hear --model model.safetensors \\
        --embeddings-dir embeddings/model

A folder of embeddings for each model: heareval names what it keeps by this module, and takes what
it finds there for the model's. A small model of each family passes hearvalidator, 2021.0.2 and at
its last commit (8c2cb84), and heareval 2021.1.3 reads it. The vector of a sound is what our own
linear evaluation learns on (`EchoicModel.probe_vectors`); what one per time stamp is says
`echoic.adapters.steps`.

B sounds, T samples, S time stamps, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from echoic.adapters.steps import StepModel, as_waves
from echoic.towers import M2dTower


class HearModel(StepModel):
    """What `load_model` gives: a module with HEAR's attributes."""

    @property
    def sample_rate(self) -> int:
        """In Hz. HEAR's data are had at 16000, 22050, 32000, 44100 and 48000."""
        return self.model.rate_hz

    @property
    def scene_embedding_size(self) -> int:
        tower = self.network.audio
        return self.step_width if isinstance(tower, M2dTower) else self.model.embed_dim

    @property
    def timestamp_embedding_size(self) -> int:
        return self.step_width


def load_model(model_file_path: str = "", *, hop_ms: float | None = None) -> HearModel:
    """model_file_path: a path or name, as `echoic.load` takes it; "": what ECHOIC_MODEL names.
    hop_ms: from one time stamp to the next, at most the model's own (None); HEAR advises 50 for the
    onsets of notes, `--model-options '{"hop_ms": 50}'`.

    Raises ConfigError, CheckpointError.
    """
    return HearModel(model_file_path, hop_ms=hop_ms)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """Sounds (B, T) at the model's rate -> (B, D) float32, on the device of `audio`. Raises
    EchoicError, AudioError."""
    return model.model.probe_vectors(as_waves(audio)).float().to(audio.device)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Sounds (B, T) at the model's rate -> vectors (B, S, D) float32, and their centres (B, S) in
    milliseconds, at equal distances and within the sound; on the device of `audio`. Raises
    EchoicError, AudioError."""
    vectors, time_s = model.steps(audio)
    end_s = audio.shape[-1] / model.sample_rate
    count = max(1, int((time_s <= end_s).sum()))
    stamps = time_s[:count].clamp(max=end_s) * 1000
    stamps = stamps.to(audio.device, torch.float32).expand(len(vectors), -1)
    return vectors[:, :count].to(audio.device), stamps.contiguous()
