"""The tower that hears clips of any length as they are (SLAP, 2601.12594, section 2): no window, no
filling.

B clips, T samples, N frames, P tokens, D width.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from echoic.audio.frontend import FrontEnd, FrontEndSpec
from echoic.encoders.slap import SlapEncoder, SlapSpec
from echoic.types import AudioFeatures, FrameChange, Ragged


class PackedTower(nn.Module):
    """Ragged samples (ΣT,) at `rate_hz` -> AudioFeatures, clip (B, embed_dim).

    longest_s: of a clip given at once; max_s is the same. at_once: tokens in one inference call:
    about 40 s, few enough that its layers stay in the cache of a core (at the size of nano a tenth
    to a fifth faster than 4096).
    """

    fused = False
    at_once = 1024

    def __init__(
        self, front_end: FrontEndSpec, spec: SlapSpec, *, embed_dim: int, max_s: float
    ) -> None:
        super().__init__()
        self.rate_hz, self.max_s, self.longest_s = front_end.rate_hz, max_s, max_s
        self.front_end = FrontEnd(front_end)
        self.encoder = SlapEncoder(
            spec,
            mel_bins=front_end.mel_bins,
            frame_s=front_end.hop_samples / front_end.rate_hz,
            embed_dim=embed_dim,
        )

    def forward(
        self,
        audio: Ragged,
        augment: FrameChange | None = None,
        draw: np.random.Generator | None = None,
    ) -> AudioFeatures:
        """augment: a change of the frames, for training. draw: not used, nothing here is cut."""
        frames = self.front_end(audio)
        return self.encoder(augment(frames) if augment else frames)

    @property
    def token_width(self) -> int:
        """D of its tokens."""
        return self.encoder.spec.width

    def tokens_in(self, duration_s: float) -> int:
        """What a clip of that length costs, in tokens."""
        frames = self.front_end.spec.frames(round(min(duration_s, self.max_s) * self.rate_hz))
        return self.encoder.columns(frames) * self.encoder.rows
