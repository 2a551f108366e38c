"""The audio encoder of SLAP (2601.12594, section 2): a ViT over packed patches of clips of any
length.

Patches of 16 x 16 without overlap become tokens, ordered time then frequency; 2-D rotary positions;
RMSNorm, SwiGLU, no biases; two local blocks, then a global one; attention pooling. Clips of a batch
lie end to end, so none is padded, and none depends on another.

N frames, F mel bins, P patches (all clips), R = F / 16 patch rows per column, D width, H heads.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from echoic.config import Spec
from echoic.nn.heads import MapHead
from echoic.nn.linear import Linear
from echoic.nn.rope import rope_turns
from echoic.nn.transformer import Block, init_weights
from echoic.types import AudioFeatures, Ragged


class SlapSpec(Spec):
    """Size and shape of the encoder. `window_columns`: the local window, in patch columns, both
    sides together."""

    kind: Literal["slap"] = "slap"
    depth: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    heads: Annotated[int, Field(ge=1)]
    hidden: Annotated[int, Field(ge=1)]
    patch_frames: Annotated[int, Field(ge=1)] = 16
    patch_bins: Annotated[int, Field(ge=1)] = 16
    window_columns: Annotated[int, Field(ge=1)] = 24
    global_every: Annotated[int, Field(ge=1)] = 3
    rope_base: float = 10_000.0


class SlapEncoder(nn.Module):
    """Ragged log-mel frames (ΣN, F) -> AudioFeatures: tokens (P, D), clip (B, embed_dim)."""

    def __init__(self, spec: SlapSpec, *, mel_bins: int, frame_s: float, embed_dim: int) -> None:
        super().__init__()
        if mel_bins % spec.patch_bins:
            raise ValueError(f"{mel_bins} mel bins are not whole patches of {spec.patch_bins}")
        self.spec, self.frame_s = spec, frame_s
        self.rows = mel_bins // spec.patch_bins
        self.patch = Linear(spec.patch_frames * spec.patch_bins, spec.width, bias=False)
        self.blocks = nn.ModuleList(self._block(i) for i in range(spec.depth))
        self.norm = nn.RMSNorm(spec.width)
        self.head = MapHead(
            width=spec.width, heads=spec.heads, hidden=spec.hidden, out_width=embed_dim
        )
        init_weights(self, spec.depth)

    def _block(self, i: int) -> Block:
        spec = self.spec
        # The paper leaves the unit of its window of 24 open (columns or tokens); columns here, so
        # 3.84 s. Tokens run frequency first, so a window over columns is one over the packed
        # sequence.
        reach = None if (i + 1) % spec.global_every == 0 else spec.window_columns * self.rows // 2
        return Block(width=spec.width, heads=spec.heads, hidden=spec.hidden, reach=reach)

    def columns(self, frames: int) -> int:
        """Patch columns of a clip of that many frames; the last may be part silence."""
        return -(-frames // self.spec.patch_frames)

    def patchify(self, frames: Ragged) -> Ragged:
        """Ragged (ΣN, F) -> ragged patches (P, patch_bins x patch_frames), time then frequency.

        A last column that is not full is filled with 0, the mean of the normalised spectrogram.
        """
        step = self.spec.patch_frames
        columns = [self.columns(n) for n in frames.lengths]
        filled = [nn.functional.pad(x, (0, 0, 0, -len(x) % step)) for x in frames]
        grid = torch.cat(filled).unflatten(0, (-1, step)).unflatten(-1, (self.rows, -1))
        patches = grid.transpose(1, 2).flatten(2).flatten(0, 1)  # (columns, R, t, f) -> (P, t f)
        return Ragged.from_lengths(patches, [c * self.rows for c in columns])

    def positions(self, lengths: tuple[int, ...], device: torch.device) -> Tensor:
        """(P, 2): the column and the row of every patch in its own clip."""
        grid = torch.arange(max(lengths), device=device)
        grid = torch.stack([grid // self.rows, grid % self.rows], dim=1)
        return torch.cat([grid[:n] for n in lengths])

    def embed(self, patches: Tensor) -> Tensor:
        """(P, patch_bins x patch_frames) -> (P, D) float32, what the blocks take in."""
        return self.patch(patches).float()  # the residual stream stays float32 under autocast

    def encode(self, x: Ragged) -> Ragged:
        """Embedded patches of clips (P, D), whole or with some replaced -> tokens (P, D)."""
        positions = self.positions(x.lengths, x.values.device)
        turns = rope_turns(positions, self.spec.width // self.spec.heads, self.spec.rope_base)
        values = x.values
        for block in self.blocks:
            values = block(values, x.lengths, turns)
        return Ragged(self.norm(values), x.offsets)

    def features(self, tokens: Ragged) -> AudioFeatures:
        """Tokens of whole clips -> with their times and the clips' vectors."""
        column = self.positions(tokens.lengths, tokens.values.device)[:, 0]
        time_s = (column + 0.5) * (self.spec.patch_frames * self.frame_s)
        clip = self.head(tokens.values, tokens.offsets)
        return AudioFeatures(tokens.values, tokens.offsets, time_s, clip)

    def forward(self, frames: Ragged) -> AudioFeatures:
        patches = self.patchify(frames)
        return self.features(self.encode(Ragged(self.embed(patches.values), patches.offsets)))
