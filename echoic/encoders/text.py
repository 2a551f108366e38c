"""Text encoders: a small one of ours, and any `transformers` encoder, both pooled by attention
(SLAP, 2601.12594).

Texts of a batch are ragged like clips: token ids lie end to end. The wrapped encoder pads inside,
and hands back packed tokens.

B texts, L tokens, D width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor, nn

from echoic.config import Spec
from echoic.encoders.tokenizer import TextTokenizer
from echoic.nn.attention import rope_angles
from echoic.nn.heads import MapHead
from echoic.nn.transformer import Block, init_weights
from echoic.types import ConfigError, Ragged, TextFeatures


class SmallTextSpec(Spec):
    """Our own encoder: a few blocks of the kind that the audio encoder has, trained from
    scratch."""

    kind: Literal["small"] = "small"
    vocab: int
    depth: int
    width: int
    heads: int
    hidden: int
    max_tokens: int = 77


class HfTextSpec(Spec):
    """An encoder of `transformers`, with attention pooling on top.

    config: as in its config.json. name: a folder or a Hub name from which a training takes config,
    weights and tokenizer; a trained model needs it no more.
    """

    kind: Literal["hf"] = "hf"
    config: dict[str, Any] = {}
    name: str | None = None
    max_tokens: int = 77


class SmallTextEncoder(nn.Module):
    """Ragged token ids (ΣL,) -> TextFeatures: tokens (ΣL, D), clip (B, embed_dim)."""

    def __init__(self, spec: SmallTextSpec, *, embed_dim: int) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(spec.vocab, spec.width)
        self.blocks = nn.ModuleList(
            Block(width=spec.width, heads=spec.heads, hidden=spec.hidden) for _ in range(spec.depth)
        )
        self.norm = nn.RMSNorm(spec.width)
        self.head = MapHead(
            width=spec.width, heads=spec.heads, hidden=spec.hidden, out_width=embed_dim
        )
        init_weights(self, spec.depth)
        nn.init.normal_(self.embedding.weight, std=0.5)  # a table has no fan-in

    def forward(self, text: Ragged) -> TextFeatures:
        steps = torch.arange(max(text.lengths), device=text.values.device)
        positions = torch.cat([steps[:n] for n in text.lengths])[:, None]
        angles = rope_angles(positions, self.spec.width // self.spec.heads)
        x = self.embedding(text.values)
        for block in self.blocks:
            x = block(x, text.lengths, angles)
        tokens = self.norm(x)
        return TextFeatures(tokens, text.offsets, self.head(tokens, text.offsets))


class HfTextEncoder(nn.Module):
    """The same, around a `transformers` encoder built from its config, with random weights."""

    def __init__(self, spec: HfTextSpec, *, embed_dim: int) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = _transformers_model(spec.config)
        width, heads = self.encoder.config.hidden_size, self.encoder.config.num_attention_heads
        self.head = MapHead(width=width, heads=heads, hidden=2 * width, out_width=embed_dim)
        init_weights(self.head, depth=1)

    def forward(self, text: Ragged) -> TextFeatures:
        lengths = torch.tensor(text.lengths, device=text.values.device)
        padded = nn.utils.rnn.pad_sequence(list(text), batch_first=True)
        mask = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
        hidden: Tensor = self.encoder(padded, attention_mask=mask.long()).last_hidden_state
        tokens = hidden[mask]
        return TextFeatures(tokens, text.offsets, self.head(tokens, text.offsets))


@dataclass(frozen=True)
class PublishedText:
    """A published encoder: its description with the config filled in, its weights, its
    tokenizer."""

    spec: HfTextSpec
    weights: dict[str, Tensor]
    tokenizer: TextTokenizer


def published_text(spec: HfTextSpec) -> PublishedText:
    """Config, weights and tokenizer of `spec.name`, a local folder or a Hub name. Raises
    ConfigError."""
    transformers = _need_transformers()
    try:
        encoder = transformers.AutoModel.from_pretrained(spec.name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(spec.name)
    except (OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        raise ConfigError(f"text.name {spec.name}: cannot be loaded ({why})") from None
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ConfigError(f"text.name {spec.name}: has no fast tokenizer (tokenizer.json)")
    backend = Backend.from_str(tokenizer.backend_tokenizer.to_str())
    config = {k: v for k, v in encoder.config.to_diff_dict().items() if v is not None}
    return PublishedText(
        spec.model_copy(update={"config": {**config, "model_type": encoder.config.model_type}}),
        encoder.state_dict(),
        TextTokenizer(backend, max_tokens=spec.max_tokens),
    )


def _need_transformers() -> ModuleType:
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            'a text encoder of kind "hf" needs transformers: pip install "echoic[hf]"'
        ) from None
    return transformers


def _transformers_model(config: dict[str, Any]) -> nn.Module:
    transformers = _need_transformers()
    if "model_type" not in config:
        raise ConfigError("text.config: has no model_type (bert, roberta, modernbert, ...)")
    rest = {name: value for name, value in config.items() if name != "model_type"}
    try:
        parsed = transformers.AutoConfig.for_model(config["model_type"], **rest)
    except ValueError as error:
        raise ConfigError(f"text.config: {str(error).splitlines()[0]}") from None
    return transformers.AutoModel.from_config(parsed)
