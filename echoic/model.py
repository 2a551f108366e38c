"""The model: an audio tower and a text tower that meet in one space, built from one description.

    samples -> front end -> encoder -> tokens, clip vector          (audio tower)
    token ids -> encoder -> tokens, text vector                      (text tower)

The front end is part of the audio tower and of its description, so rate, mel bank and normalisation
travel with the weights. B clips or texts, T samples, P tokens, D width.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from echoic.audio.frontend import FrontEndSpec
from echoic.config import Spec
from echoic.encoders.clap_text import ClapTextSpec
from echoic.encoders.htsat import FRAMES, MEL_BINS, HtsatSpec
from echoic.encoders.pann import PannSpec
from echoic.encoders.slap import SlapSpec
from echoic.encoders.text import HfTextEncoder, HfTextSpec, SmallTextEncoder, SmallTextSpec
from echoic.towers import PackedTower, PooledTextTower, WindowTower
from echoic.types import AudioFeatures, Ragged, TextFeatures

AudioSpec = Annotated[SlapSpec | HtsatSpec | PannSpec, Field(discriminator="kind")]
TextSpec = Annotated[SmallTextSpec | HfTextSpec | ClapTextSpec, Field(discriminator="kind")]


class ModelSpec(Spec):
    """Everything that fixes the function a model computes, its weights apart.

    max_s: the longest stretch of audio heard at once; longer recordings are heard in windows of
    that length. An encoder with a fixed window hears just that.
    """

    front_end: FrontEndSpec
    audio: AudioSpec
    text: TextSpec
    embed_dim: Annotated[int, Field(ge=1)]
    max_s: Annotated[float, Field(gt=0)] = 30.0

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        audio, text, front = self.audio, self.text, self.front_end
        if isinstance(audio, SlapSpec):
            if front.mel_bins % audio.patch_bins:
                raise ValueError(
                    f"{front.mel_bins} mel bins are not whole patches of {audio.patch_bins} bins"
                )
            _check_heads("audio", audio.width, audio.heads, rotary_axes=2)
        elif round(self.max_s * front.rate_hz) != audio.window_samples:
            window_s = audio.window_samples / front.rate_hz
            raise ValueError(f"max_s {self.max_s:g} is not the encoder's window of {window_s:g} s")
        else:
            _check_window(audio, front)
        if isinstance(text, SmallTextSpec):
            _check_heads("text", text.width, text.heads, rotary_axes=1)
        return self


def _check_window(audio: HtsatSpec | PannSpec, front: FrontEndSpec) -> None:
    frames, bins = front.frames(audio.window_samples), front.mel_bins
    given = f"a window of {frames} frames of {bins} mel bins: "
    if isinstance(audio, HtsatSpec):
        if frames > FRAMES or bins != MEL_BINS:
            raise ValueError(f"{given}HTSAT hears at most {FRAMES} frames, of {MEL_BINS} mel bins")
    elif min(frames, bins) < (least := 2**audio.poolings):
        raise ValueError(f"{given}CNN{audio.layers} hears at least {least} of either")


def _check_heads(tower: str, width: int, heads: int, rotary_axes: int) -> None:
    """Heads share the width, and each turns its channels in pairs, so many per axis."""
    unit = 2 * rotary_axes
    if min(width, heads) < 1 or width % heads or width // heads % unit:
        raise ValueError(f"{tower}.width {width} is not {heads} heads of a multiple of {unit}")


class LanguageAudioModel(nn.Module):
    """Both towers and the scale of their cosine. `forward` gives unit vectors (B, embed_dim) of
    each."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.audio = _audio_tower(spec)
        self.text = _text_tower(spec)
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(1 / 0.07)))

    def forward(self, audio: Ragged, text: Ragged) -> tuple[Tensor, Tensor]:
        heard: AudioFeatures = self.audio(audio)
        read: TextFeatures = self.text(text)
        return F.normalize(heard.clip.float(), dim=-1), F.normalize(read.clip.float(), dim=-1)

    def space_id(self) -> str:
        """Sixteen hex digits that name the space of the vectors: weights, front end and windowing.

        The same wherever and in whatever wider type the weights are held.
        """
        digest = hashlib.sha256(
            json.dumps(self.spec.model_dump(mode="json"), sort_keys=True).encode()
        )
        for name, tensor in sorted(self.state_dict().items()):
            values = tensor.detach().cpu().reshape(-1)
            values = values.float() if values.is_floating_point() else values
            digest.update(name.encode())
            digest.update(values.numpy())
        return digest.hexdigest()[:16]


def _audio_tower(spec: ModelSpec) -> PackedTower | WindowTower:
    if isinstance(spec.audio, SlapSpec):
        return PackedTower(spec.front_end, spec.audio, embed_dim=spec.embed_dim, max_s=spec.max_s)
    return WindowTower(spec.front_end, spec.audio, embed_dim=spec.embed_dim)


def _text_tower(spec: ModelSpec) -> nn.Module:
    if isinstance(spec.text, ClapTextSpec):
        return PooledTextTower(spec.text, embed_dim=spec.embed_dim)
    if isinstance(spec.text, HfTextSpec):
        return HfTextEncoder(spec.text, embed_dim=spec.embed_dim)
    return SmallTextEncoder(spec.text, embed_dim=spec.embed_dim)


def build(spec: ModelSpec, *, seed: int) -> LanguageAudioModel:
    """A freshly initialised model; the same spec and seed give the same weights, and no global RNG
    moves."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also move the GPUs'
        return LanguageAudioModel(spec)
