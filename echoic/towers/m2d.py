"""The tower of M2D and M2D-CLAP (2210.14648; 2406.02032, 2503.22104): a clip of any length, heard
column by column, projected into the joint space where the model has one.

B clips, T samples, F mel bins, N frames, P patches, R patch rows of a column, C columns, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

from echoic.audio.frontend import FrontEnd, FrontEndSpec
from echoic.encoders.m2d import Columns, Cutting, M2dEncoder, M2dSpec, whole_columns
from echoic.nn.heads import NormedLinear
from echoic.nn.mlp import two_layers
from echoic.nn.vit import TokenProjector, init_vit, row_means
from echoic.types import AudioFeatures, FrameChange, Ragged

# How what was heard is read: a clip's vector is in each the mean over its columns.
READINGS: dict[str, Callable[[Columns], AudioFeatures]] = {
    "stacked": Columns.stacked,
    "flat": Columns.patches,
    "frames": Columns.frames,
}


class M2dTower(nn.Module):
    """Ragged samples (ΣT,) at `rate_hz` -> AudioFeatures.

    With a projector: tokens (P, D), the patches in order of time; clip (B, embed_dim). Without, as
    M2D's own features: tokens (C, R D), stacked columns; clip (B, R D), their mean.
    max_s, longest_s: what callers give it at once of a longer clip; it hears any length. tagger:
    the head of a model that was tuned on labels, on the mean over patches; or None. at_once: tokens
    in one inference call (at base size on one core 4096 took a tenth longer, 512 a twentieth).
    """

    fused = False
    at_once = 2048

    def __init__(
        self, front_end: FrontEndSpec, spec: M2dSpec, *, embed_dim: int, max_s: float
    ) -> None:
        super().__init__()
        self.spec = spec
        self.rate_hz, self.max_s, self.longest_s = front_end.rate_hz, max_s, max_s
        self.front_end = FrontEnd(front_end)
        frame_s = front_end.hop_samples / front_end.rate_hz
        self.encoder = M2dEncoder(spec, mel_bins=front_end.mel_bins, frame_s=frame_s)
        self.projection = _projection(spec, embed_dim)
        self.tagger = NormedLinear(spec.width, spec.classes) if spec.classes else None

    def forward(
        self,
        audio: Ragged,
        augment: FrameChange | None = None,
        draw: np.random.Generator | None = None,
        cutting: Cutting = whole_columns,
    ) -> AudioFeatures:
        """augment: a change of the frames, for training. draw: not used, nothing here is cut at
        random. cutting: how long clips are parted, see encoders.m2d."""
        frames = self.front_end(audio)
        columns = self.encoder.hear(augment(frames) if augment else frames, cutting)
        if self.projection is None:
            return columns.stacked()
        flat = columns.patches()
        if self.spec.projector == "mlp":
            clip: Tensor = self.projection(flat.clip)
        else:
            clip = self.projection(Ragged(flat.tokens, flat.offsets))
        return AudioFeatures(flat.tokens, flat.offsets, flat.time_s, clip)

    def read(self, audio: Ragged, reading: str, cutting: Cutting = whole_columns) -> AudioFeatures:
        """Features before any projection, by one of READINGS: "stacked" (C, R D), "flat" (P, D) or
        "frames" (C, D), one token per column."""
        return READINGS[reading](self.encoder.hear(self.front_end(audio), cutting))

    def read_layers(
        self, audio: Ragged, reading: str, cutting: Cutting = whole_columns
    ) -> list[AudioFeatures]:
        """The same of every block; the last is `read`'s."""
        layers = self.encoder.layers(self.front_end(audio), cutting)
        return [READINGS[reading](columns) for columns in layers]

    def project(self, tokens: Ragged) -> Tensor:
        """Encoded patches, ragged (V, D), all of a clip's or some -> (B, embed_dim). Raises
        ValueError on a model without projector."""
        if self.projection is None:
            raise ValueError("this M2D has no projector into a joint space")
        wanted = row_means(tokens) if self.spec.projector == "mlp" else tokens
        clip: Tensor = self.projection(wanted)
        return clip

    def logits(self, audio: Ragged, cutting: Cutting = whole_columns) -> Tensor:
        """(B, classes). Raises ValueError on a model without a head for labels."""
        if self.tagger is None:
            raise ValueError("this M2D has no head for labels")
        scores: Tensor = self.tagger(self.read(audio, "flat", cutting).clip.float())
        return scores

    @property
    def token_width(self) -> int:
        """D of its tokens."""
        return self.spec.width * (self.encoder.rows if self.projection is None else 1)

    def tokens_in(self, duration_s: float) -> int:
        """What a clip of that length costs, in patches; all of it, however long."""
        frames = self.front_end.spec.frames(round(duration_s * self.rate_hz))
        return -(-frames // self.spec.patch_frames) * self.encoder.rows


def _projection(spec: M2dSpec, embed_dim: int) -> nn.Module | None:
    """audio_proj of the published models, by the same names."""
    if spec.projector is None:
        return None
    if spec.projector == "mlp":
        layers = two_layers(spec.width, embed_dim)
        init_vit(layers)
        return layers
    return TokenProjector(
        spec.width, depth=spec.projector_depth, mlp_ratio=spec.projector_mlp_ratio
    )
