"""Text sides as graphs for export: token ids in, unit vectors out; or, of a model that reads
vectors of sentences, those.

Texts of a batch are filled up to the longest at their end, with any id, where the mask is 0. The
weights are those of the model, not a copy. B texts, L tokens, D width, E width of a sentence's
vector.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoic.encoders.clap_text import ClapTextEncoder, Grid, first_position
from echoic.encoders.text import HfTextEncoder, SmallTextEncoder
from echoic.export.dense import pooled, through_block
from echoic.model import LanguageAudioModel
from echoic.nn.rope import rope_turns
from echoic.nn.transformer import Block
from echoic.towers import PooledTextTower, SentenceTower
from echoic.types import CheckpointError


class TextGraph(nn.Module):
    """Token ids (B, L) int64, and which of them stand (B, L) int64, 1 or 0 -> unit vectors
    (B, D). L: from 2 (a text has a start and an end) to `longest`."""

    part: ClassVar = "text"
    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    strict = False

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest

    def clip(self, ids: Tensor, real: Tensor) -> Tensor:
        """(B, L), and bool (B, L) -> (B, D), not normalised."""
        raise NotImplementedError

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return F.normalize(self.clip(input_ids, attention_mask.bool()), dim=-1)

    def example(self) -> tuple[Tensor, ...]:
        ids = torch.ones(2, 7, dtype=torch.int64)
        return ids, torch.ones_like(ids)


def text_graph(model: LanguageAudioModel) -> TextGraph | SentenceText:
    """Raises CheckpointError of a model that reads no text."""
    tower = model.text.eval()
    if isinstance(tower, SmallTextEncoder):
        return SmallText(tower)
    if isinstance(tower, HfTextEncoder):
        return HfText(tower)
    if isinstance(tower, PooledTextTower):
        return ClapText(tower)
    if isinstance(tower, SentenceTower):
        return SentenceText(tower, width=model.spec.text.width)  # type: ignore[union-attr]
    raise CheckpointError("this is a model of sound alone: it has no text side to export")


class SmallText(TextGraph):
    """Our own encoder."""

    def __init__(self, encoder: SmallTextEncoder) -> None:
        super().__init__(encoder.spec.max_tokens)
        self.encoder = encoder

    def clip(self, ids: Tensor, real: Tensor) -> Tensor:
        encoder = self.encoder
        positions = torch.arange(ids.shape[1])[:, None]
        turns = rope_turns(positions, encoder.spec.width // encoder.spec.heads)
        x = encoder.embedding(ids)
        for block in encoder.blocks:
            assert isinstance(block, Block)
            x = through_block(block, x, turns, real[:, None, None])
        return pooled(encoder.head, encoder.norm(x), real)


class HfText(TextGraph):
    """An encoder of `transformers`."""

    def __init__(self, encoder: HfTextEncoder) -> None:
        super().__init__(encoder.spec.max_tokens)
        self.encoder: Any = encoder.encoder
        self.head = encoder.head

    def clip(self, ids: Tensor, real: Tensor) -> Tensor:
        hidden = self.encoder(ids, attention_mask=real.long()).last_hidden_state
        return pooled(self.head, hidden, real)


class ClapText(TextGraph):
    """RoBERTa, BERT, BART's encoder, CLIP's transformer."""

    def __init__(self, tower: PooledTextTower) -> None:
        super().__init__(tower.encoder.spec.longest)
        self.encoder, self.projection = tower.encoder, tower.projection

    def clip(self, ids: Tensor, real: Tensor) -> Tensor:
        spec = self.encoder.spec
        if spec.kind == "bart":  # its mean runs over all places, and no empty one is heard
            missing = spec.max_tokens - ids.shape[1]
            ids = F.pad(torch.where(real, ids, spec.pad_id), (0, missing), value=spec.pad_id)
            real = F.pad(real, (0, missing), value=False)
        tokens = self._tokens(ids, real)
        vector: Tensor = self.projection(self._pooled(tokens, ids, real))
        return vector

    def _tokens(self, ids: Tensor, real: Tensor) -> Tensor:
        """(B, L) -> (B, L, D)."""
        encoder, rows, places = self.encoder, *ids.shape
        causal = encoder.spec.kind == "clip"
        heard = None if causal else real[:, None, None]
        grid = Grid(rows, places, None, heard, causal)
        x = _embedded(encoder, ids).flatten(0, 1)
        for block in encoder.blocks:
            x = block(x, grid)
        return x.unflatten(0, (rows, places))

    def _pooled(self, tokens: Tensor, ids: Tensor, real: Tensor) -> Tensor:
        """(B, L, D) -> (B, D)."""
        encoder, spec = self.encoder, self.encoder.spec
        if spec.kind == "bart":
            return tokens.mean(1)
        if spec.kind == "clip":
            end = torch.where(real, ids, 0).argmax(1)  # the end token has the largest id
            chosen = end[:, None, None].expand(-1, 1, tokens.shape[2])
            return encoder.norm(tokens.gather(1, chosen)[:, 0])
        if spec.pool == "mean":
            weight = real[..., None].to(tokens.dtype)
            return (tokens * weight).sum(1) / weight.sum(1)
        first = tokens[:, 0]
        return encoder.pooler(first).tanh() if spec.has_pooler else first


def _embedded(encoder: ClapTextEncoder, ids: Tensor) -> Tensor:
    """Word, type 0 and position, then the norm: (B, L) -> (B, L, D)."""
    embedding, spec = encoder.embedding, encoder.spec
    first = first_position(spec.kind, spec.pad_id)
    x = embedding.token(ids)
    if spec.types:
        x = x + embedding.token_type.weight[0]
    x = x + embedding.position(torch.arange(first, first + ids.shape[1]))
    return x if spec.kind == "clip" else embedding.norm(x)


class SentenceText(nn.Module):
    """Vectors of a sentence encoder (B, E) -> unit vectors (B, D)."""

    part: ClassVar = "text"
    inputs: ClassVar[tuple[str, ...]] = ("vectors",)
    strict = False

    def __init__(self, tower: SentenceTower, *, width: int) -> None:
        super().__init__()
        self.tower, self.width = tower, width

    def forward(self, vectors: Tensor) -> Tensor:
        return F.normalize(self.tower(vectors), dim=-1)

    def example(self) -> tuple[Tensor, ...]:
        return (torch.ones(2, self.width),)
