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
from pydantic import Field
from safetensors import SafetensorError
from tokenizers import Tokenizer as Backend
from torch import Tensor, nn

from echoic.config import Spec
from echoic.encoders.published import without_bar
from echoic.encoders.tokenizer import TextTokenizer
from echoic.nn.heads import MapHead
from echoic.nn.rope import rope_turns
from echoic.nn.transformer import Block, init_weights
from echoic.types import ConfigError, Ragged, TextFeatures, first_line


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
    config: dict[str, Any] = Field(default_factory=dict)
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
        turns = rope_turns(positions, self.spec.width // self.spec.heads)
        x = self.embedding(text.values)
        for block in self.blocks:
            x = block(x, text.lengths, turns)
        tokens = self.norm(x)
        return TextFeatures(tokens, text.offsets, self.head(tokens, text.offsets))


class HfTextEncoder(nn.Module):
    """The same, around a `transformers` encoder built from its config, with random weights."""

    def __init__(self, spec: HfTextSpec, *, embed_dim: int) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = _transformers_model(spec.config)
        parsed: Any = self.encoder.config  # transformers' own class for this kind of encoder
        width, heads = parsed.hidden_size, parsed.num_attention_heads
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
    """Config, weights (float32) and tokenizer of `spec.name`, a local folder or a Hub name.

    Raises ConfigError where one is absent, the weights are a pickle, or some of them are missing.
    """
    transformers = _need_transformers()
    try:
        with without_bar(), torch.random.fork_rng(devices=[]):  # what they lack is drawn, refused
            encoder, told = transformers.AutoModel.from_pretrained(
                spec.name, use_safetensors=True, output_loading_info=True
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(spec.name)
    except (OSError, ValueError, SafetensorError) as error:
        why = first_line(error)
        raise ConfigError(f"model.text.name {spec.name}: cannot be loaded ({why})") from None
    weights = _without_pooler(encoder).float().state_dict()
    if lacking := sorted(weights.keys() & set(told["missing_keys"])):
        raise ConfigError(f"model.text.name {spec.name}: its weights lack {', '.join(lacking[:5])}")
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ConfigError(f"model.text.name {spec.name}: has no fast tokenizer (tokenizer.json)")
    backend = Backend.from_str(tokenizer.backend_tokenizer.to_str())
    config = {**encoder.config.to_diff_dict(), "model_type": encoder.config.model_type}
    return PublishedText(
        spec.model_copy(update={"config": config}),
        weights,
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
    # float32 whatever the config says its file was
    return _without_pooler(transformers.AutoModel.from_config(parsed)).float()


def _without_pooler(encoder: nn.Module) -> nn.Module:
    """Our head pools; the pooler that some encoders have would never be trained, nor is it in the
    weights of a masked language model."""
    if isinstance(getattr(encoder, "pooler", None), nn.Module):
        encoder.pooler = None  # type: ignore[assignment]
    return encoder
