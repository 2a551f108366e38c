"""The model: an audio tower and a text tower that meet in one space, built from one description.

    samples -> front end -> encoder -> tokens, clip vector          (audio tower)
    token ids -> encoder -> tokens, text vector                      (text tower)
    tokens of sound, token ids -> what comes next                    (decoder, if it has one)

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
from echoic.encoders.decoder import CaptionDecoder, DecoderSpec
from echoic.encoders.htsat import FRAMES, MEL_BINS, HtsatSpec
from echoic.encoders.m2d import M2dSpec
from echoic.encoders.pann import PannSpec
from echoic.encoders.slap import SlapSpec
from echoic.encoders.text import HfTextEncoder, HfTextSpec, SmallTextEncoder, SmallTextSpec
from echoic.towers import (
    M2dTower,
    NoText,
    PackedTower,
    PooledTextTower,
    SentenceTextSpec,
    SentenceTower,
    WindowTower,
)
from echoic.types import AudioFeatures, Ragged, TextFeatures

AudioSpec = Annotated[SlapSpec | HtsatSpec | PannSpec | M2dSpec, Field(discriminator="kind")]
TextSpec = Annotated[
    SmallTextSpec | HfTextSpec | ClapTextSpec | SentenceTextSpec, Field(discriminator="kind")
]


class ModelSpec(Spec):
    """Everything that fixes the function a model computes, its weights apart.

    max_s: the longest stretch of audio heard at once; longer recordings are heard in windows of
    that length. An encoder with a fixed window hears just that. text: None for a model of sound
    alone. decoder: for a model that captions, in the words of its text tower.
    """

    front_end: FrontEndSpec
    audio: AudioSpec
    text: TextSpec | None
    decoder: DecoderSpec | None = None
    embed_dim: Annotated[int, Field(ge=1)]
    max_s: Annotated[float, Field(gt=0, le=86_400)] = 30.0

    @property
    def text_kind(self) -> str:
        """'none' for a model of sound alone."""
        return self.text.kind if self.text else "none"

    @property
    def max_tokens(self) -> int:
        """Where its tokenizer cuts a text."""
        return self.text.max_tokens if self.text else 77

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        audio, text, front = self.audio, self.text, self.front_end
        if isinstance(audio, SlapSpec):
            if front.mel_bins % audio.patch_bins:
                raise ValueError(
                    f"{front.mel_bins} mel bins are not whole patches of {audio.patch_bins} bins"
                )
            _check_heads("audio", audio.width, audio.heads, rotary_axes=2)
        elif isinstance(audio, M2dSpec):
            _check_m2d(audio, front, self.embed_dim)
        elif round(self.max_s * front.rate_hz) != audio.window_samples:
            window_s = audio.window_samples / front.rate_hz
            raise ValueError(f"max_s {self.max_s:g} is not the encoder's window of {window_s:g} s")
        else:
            _check_window(audio, front)
        if isinstance(text, SmallTextSpec):
            _check_heads("text", text.width, text.heads, rotary_axes=1)
        if self.decoder is not None and isinstance(text, SentenceTextSpec | None):
            raise ValueError(
                f"decoder: writes the words that a text tower reads; text is {self.text_kind}"
            )
        if (vector := _given_width(text)) not in (None, self.embed_dim):
            raise ValueError(f"text vectors of {vector} in a space of {self.embed_dim}")
        return self


def _check_window(audio: HtsatSpec | PannSpec, front: FrontEndSpec) -> None:
    frames, bins = front.frames(audio.window_samples), front.mel_bins
    given = f"a window of {frames} frames of {bins} mel bins: "
    if isinstance(audio, HtsatSpec):
        if frames > FRAMES or bins != MEL_BINS:
            raise ValueError(f"{given}HTSAT hears at most {FRAMES} frames, of {MEL_BINS} mel bins")
    elif min(frames, bins) < (least := 2**audio.poolings):
        raise ValueError(f"{given}CNN{audio.layers} hears at least {least} of either")


def _check_m2d(audio: M2dSpec, front: FrontEndSpec, embed_dim: int) -> None:
    rows, rest = divmod(front.mel_bins, audio.patch_bins)
    if rest:
        raise ValueError(
            f"{front.mel_bins} mel bins are not whole patches of {audio.patch_bins} bins"
        )
    own = {"mlp": embed_dim, "tokens": audio.width, None: rows * audio.width}[audio.projector]
    if embed_dim != own:
        raise ValueError(f"embed_dim {embed_dim}: this M2D gives vectors of {own}")


def _given_width(text: TextSpec | None) -> int | None:
    """Of text vectors that no projection brings to the width of the space."""
    if isinstance(text, SentenceTextSpec | ClapTextSpec) and text.projection == "none":
        return text.width
    return None


def _check_heads(tower: str, width: int, heads: int, rotary_axes: int) -> None:
    """Heads share the width, and each turns its channels in pairs, so many per axis."""
    unit = 2 * rotary_axes
    if min(width, heads) < 1 or width % heads or width // heads % unit:
        raise ValueError(f"{tower}.width {width} is not {heads} heads of a multiple of {unit}")


class LanguageAudioModel(nn.Module):
    """Both towers and the scale of their cosine. `forward` gives unit vectors (B, embed_dim) of
    each; of a model that reads vectors of sentences, `project_sentence` is its text side."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.audio = _audio_tower(spec)
        self.text = _text_tower(spec.text, spec.embed_dim)
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(1 / 0.07)))
        self.decoder = (
            CaptionDecoder(spec.decoder, audio_width=self.audio.token_width)
            if spec.decoder
            else None
        )

    def forward(self, audio: Ragged, text: Ragged) -> tuple[Tensor, Tensor]:
        if isinstance(self.text, SentenceTower):
            raise ValueError("this model reads vectors of sentences: call project_sentence")
        heard: AudioFeatures = self.audio(audio)
        read: TextFeatures = self.text(text)
        return F.normalize(heard.clip.float(), dim=-1), F.normalize(read.clip.float(), dim=-1)

    def project_sentence(self, vectors: Tensor) -> Tensor:
        """Of a sentence encoder (B, E) -> (B, embed_dim). Raises ValueError on a model that reads
        none."""
        if not isinstance(self.text, SentenceTower):
            raise ValueError("this model reads no vectors of sentences")
        projected: Tensor = self.text(vectors)
        return projected

    def space_id(self) -> str:
        """Sixteen hex digits that name the space of the vectors: weights, front end and windowing.

        The same wherever and in whatever wider type the weights are held, with a decoder or
        without.
        """
        digest = hashlib.sha256(_described(self.spec).encode())
        for name, tensor in sorted(self.state_dict().items()):
            if name.startswith("decoder."):
                continue
            values = tensor.detach().cpu().reshape(-1)
            values = values.float() if values.is_floating_point() else values
            digest.update(name.encode())
            digest.update(values.numpy())
        return digest.hexdigest()[:16]


# Fields that descriptions did not always have, and what every model did before: one that does so
# keeps the name of its space, by which vectors made then are known.
_ADDED = {("text", "pool"): "pooler", ("text", "projection"): "two_layers"}


def _described(spec: ModelSpec) -> str:
    """As JSON, for `space_id`."""
    tree = spec.model_dump(mode="json", exclude={"decoder"})
    for (part, name), before in _ADDED.items():
        if tree[part] and tree[part].get(name) == before:
            del tree[part][name]
    return json.dumps(tree, sort_keys=True)


def _audio_tower(spec: ModelSpec) -> PackedTower | WindowTower | M2dTower:
    if isinstance(spec.audio, SlapSpec):
        return PackedTower(spec.front_end, spec.audio, embed_dim=spec.embed_dim, max_s=spec.max_s)
    if isinstance(spec.audio, M2dSpec):
        return M2dTower(spec.front_end, spec.audio, embed_dim=spec.embed_dim, max_s=spec.max_s)
    return WindowTower(spec.front_end, spec.audio, embed_dim=spec.embed_dim)


def _text_tower(spec: TextSpec | None, embed_dim: int) -> nn.Module:
    if isinstance(spec, ClapTextSpec):
        return PooledTextTower(spec, embed_dim=embed_dim)
    if isinstance(spec, SentenceTextSpec):
        return SentenceTower(spec, embed_dim=embed_dim)
    if isinstance(spec, HfTextSpec):
        return HfTextEncoder(spec, embed_dim=embed_dim)
    return NoText() if spec is None else SmallTextEncoder(spec, embed_dim=embed_dim)


def build(spec: ModelSpec, *, seed: int) -> LanguageAudioModel:
    """A freshly initialised model; the same spec and seed give the same weights, and no global RNG
    moves."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also move the GPUs'
        return LanguageAudioModel(spec)
