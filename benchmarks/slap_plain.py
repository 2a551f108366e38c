"""A plain SLAP (2601.12594), as one would write it straight off: what our packed step is compared
with. Clips as a dense batch filled up to one length, a mask of what is real, torch's fused
attention under it. Norms and matrices are our modules, so weights and products are the same.

The log-mel is made clip by clip, so only the network pays for the filling.

B clips, N frames, F mel bins, P patches of the longest, L text tokens of the longest, D width, H
heads, E = D / H.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from echoic.encoders.slap import SlapEncoder
from echoic.encoders.text import SmallTextEncoder
from echoic.model import LanguageAudioModel
from echoic.nn.heads import MapHead
from echoic.nn.rope import rope_turns, rotate
from echoic.nn.transformer import Block
from echoic.objectives.contrastive import contrastive_loss
from echoic.types import Batch, Ragged


class PaddedTask(nn.Module):
    """The contrastive step. frames: to which every clip is filled; None: those of the batch's
    longest. Texts are always filled to the batch's longest."""

    def __init__(self, model: LanguageAudioModel, frames: int | None = None) -> None:
        super().__init__()
        self.model, self.frames = model, frames

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        heard, read = self.hear(batch.audio), self.read(batch.text)
        with torch.autocast(heard.device.type, enabled=False):
            scale = self.model.logit_scale.exp()
            loss = contrastive_loss(heard.float(), read.float(), scale, batch.meaning)
        return {"contrastive": loss}

    def hear(self, audio: Ragged) -> Tensor:
        """Ragged (ΣT,) -> (B, embed_dim), not normalised."""
        frames = self.model.audio.front_end(audio)
        encoder = cast(SlapEncoder, self.model.audio.encoder)
        patches, real = self._patches(frames, encoder)
        places = encoder.positions((patches.shape[1],), patches.device)
        turns = rope_turns(places, encoder.spec.width // encoder.spec.heads)
        return _encoded(encoder.embed(patches), real, turns, encoder)

    def read(self, text: Ragged) -> Tensor:
        """Ragged ids (ΣL,) -> (B, embed_dim), not normalised."""
        encoder = cast(SmallTextEncoder, self.model.text)
        ids = pad_sequence(list(text), batch_first=True)
        places = torch.arange(ids.shape[1])[:, None]
        turns = rope_turns(places, encoder.spec.width // encoder.spec.heads)
        return _encoded(encoder.embedding(ids), _real(text.lengths, ids.shape[1]), turns, encoder)

    def _patches(self, frames: Ragged, encoder: SlapEncoder) -> tuple[Tensor, Tensor]:
        """Ragged (ΣN, F) -> (B, P, patch_bins x patch_frames), and which are real (B, P)."""
        step = encoder.spec.patch_frames
        columns = encoder.columns(self.frames or max(frames.lengths))
        grid = pad_sequence(list(frames), batch_first=True)  # (B, N, F)
        grid = F.pad(grid, (0, 0, 0, columns * step - grid.shape[1]))
        grid = grid.unflatten(1, (columns, step)).unflatten(3, (encoder.rows, -1))
        patches = grid.transpose(2, 3).flatten(3).flatten(1, 2)
        lengths = tuple(encoder.columns(n) * encoder.rows for n in frames.lengths)
        return patches, _real(lengths, patches.shape[1])


def _real(lengths: tuple[int, ...], longest: int) -> Tensor:
    """(B, longest)."""
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


def _encoded(
    x: Tensor, real: Tensor, turns: Tensor, encoder: SlapEncoder | SmallTextEncoder
) -> Tensor:
    """x (B, P, D), real (B, P), turns (P, 2, E / 2) -> (B, embed_dim)."""
    everywhere = real[:, None, None]  # (B, 1, 1, P)
    near: dict[int, Tensor] = {}
    for block in cast(list[Block], encoder.blocks):
        reach = block.attention.reach
        if reach is not None and reach not in near:
            near[reach] = _near(real, reach)
        x = _block(block, x, everywhere if reach is None else near[reach], turns)
    return _pooled(encoder.head, encoder.norm(x), everywhere)


def _near(real: Tensor, reach: int) -> Tensor:
    """(B, 1, P, P): which keys a query hears; one that only fills hears itself, so that no row is
    empty."""
    at = torch.arange(real.shape[1])
    apart = (at[:, None] - at).abs()
    return ((apart <= reach) & real[:, None] | (apart == 0))[:, None]


def _block(block: Block, x: Tensor, mask: Tensor, turns: Tensor) -> Tensor:
    attention = block.attention
    q, k, v = attention.qkv(block.norm1(x)).unflatten(-1, (3, attention.heads, -1)).unbind(2)
    q, k, v = (y.transpose(1, 2) for y in (rotate(q, turns), rotate(k, turns), v))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, H, P, E)
    x = x + attention.out(mixed.transpose(1, 2).flatten(2))
    return x + block.mlp(block.norm2(x))


def _pooled(head: MapHead, tokens: Tensor, mask: Tensor) -> Tensor:
    key_value = head.key_value(head.norm(tokens)).unflatten(-1, (2, head.heads, -1))
    k, v = (y.transpose(1, 2) for y in key_value.unbind(2))  # (B, H, P, E)
    q = head.query.to(k.dtype)[:, None].expand(len(k), -1, -1, -1)  # (B, H, 1, E)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    clip = head.out(mixed.transpose(1, 2).flatten(1)).float()
    found: Tensor = head.projection(clip + head.mlp(head.norm2(clip)))
    return found
