"""The text encoders of LAION-CLAP under their published names, and back.

RoBERTa, BERT and BART (its encoder) are named as in Hugging Face's RobertaModel, BertModel and
BartModel; CLIP's transformer as at the top of LAION's own files. Here query, key and value are one
tensor, which Hugging Face holds in three. Both directions are strict and exact: every name is
known, and no value changes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from echoic.config import parse_json
from echoic.convert.shapes import depth_of
from echoic.encoders.clap_text import ClapTextKind, ClapTextSpec, first_position
from echoic.encoders.published import published_file
from echoic.types import CheckpointError, EchoicError


@dataclass(frozen=True)
class _Names:
    """What a kind calls our parts: those outside the blocks, what stands before a block's number,
    and those inside. `ignored` matches the names that the encoder does without."""

    outside: Mapping[str, str]
    blocks: str
    inside: Mapping[str, str]
    ignored: str


_BERT = _Names(
    outside={
        "embedding.token": "embeddings.word_embeddings",
        "embedding.position": "embeddings.position_embeddings",
        "embedding.token_type": "embeddings.token_type_embeddings",
        "embedding.norm": "embeddings.LayerNorm",
        "pooler": "pooler.dense",
    },
    blocks="encoder.layer.",
    inside={
        "qkv": "attention.self.query attention.self.key attention.self.value",
        "out": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
        "norm2": "output.LayerNorm",
    },
    ignored=r"embeddings\.(position|token_type)_ids",
)
_BART = _Names(
    outside={
        "embedding.token": "encoder.embed_tokens",
        "embedding.position": "encoder.embed_positions",
        "embedding.norm": "encoder.layernorm_embedding",
    },
    blocks="encoder.layers.",
    inside={
        "qkv": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
        "out": "self_attn.out_proj",
        "norm1": "self_attn_layer_norm",
        "fc1": "fc1",
        "fc2": "fc2",
        "norm2": "final_layer_norm",
    },
    ignored=r"decoder\..*|shared\.weight",
)
_CLIP = _Names(
    outside={
        "embedding.token": "token_embedding",
        "embedding.position.weight": "positional_embedding",
        "norm": "ln_final",
    },
    blocks="text_branch.resblocks.",
    inside={
        "qkv.weight": "attn.in_proj_weight",
        "qkv.bias": "attn.in_proj_bias",
        "out": "attn.out_proj",
        "norm1": "ln_1",
        "fc1": "mlp.c_fc",
        "fc2": "mlp.c_proj",
        "norm2": "ln_2",
    },
    ignored="(?!)",
)
_KINDS: Mapping[ClapTextKind, _Names] = {
    "roberta": _BERT, "bert": _BERT, "bart": _BART, "clip": _CLIP,
}  # fmt: skip
_TABLES = {"embedding.token", "embedding.position", "embedding.token_type"}
_POOLER = ("pooler.weight", "pooler.bias")

# What the tensors do not say, as published.
_KNOWN: Mapping[ClapTextKind, dict[str, Any]] = {
    "roberta": {"pad_id": 1, "norm_eps": 1e-5},
    "bert": {"pad_id": 0, "norm_eps": 1e-12},
    "bart": {"pad_id": 1, "norm_eps": 1e-5},
    "clip": {"pad_id": 0, "norm_eps": 1e-5, "dropout": 0.0},
}


def from_published(
    kind: ClapTextKind, tensors: Mapping[str, Tensor], *, pool: str = "pooler"
) -> dict[str, Tensor]:
    """Tensors under our names. Left out are index buffers, BART's decoder and the second copy of
    its word table, and the pooler where `pool` (of ClapTextSpec) does without. Raises
    CheckpointError with the names that are unknown or missing."""
    return _ours(kind, tensors, pool=pool)[0]


def to_published(kind: ClapTextKind, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse: our tensors under the published names. Raises CheckpointError as above."""
    names = _names(kind, depth_of("blocks.", tensors))
    _complain(kind, missing=names.keys() - tensors.keys(), unknown=tensors.keys() - names.keys())
    return {
        theirs: part
        for ours, several in names.items()
        for theirs, part in zip(several, _cut(tensors[ours], len(several)), strict=True)
    }


def spec_of_text(kind: ClapTextKind, tensors: Mapping[str, Tensor], **known: Any) -> ClapTextSpec:
    """The description of published tensors, read off them. What they do not say is as published
    (heads: of width 64; max_tokens: 77, or what fits) unless `known`. Raises CheckpointError, or
    ConfigError where the values do not go together."""
    ours = from_published(kind, tensors, pool=known.get("pool", "pooler"))
    return _spec(kind, ours, known)


@dataclass(frozen=True)
class PublishedWeights:
    """A text encoder to start a training from. weights: float32, by our names. lacking: our names
    that the file has not; they keep their fresh values, as LAION's did (roberta-base has no
    pooler)."""

    spec: ClapTextSpec
    weights: dict[str, Tensor]
    lacking: tuple[str, ...]


def published_weights(
    name: str | Path, *, max_tokens: int = 77, pool: str = "pooler"
) -> PublishedWeights:
    """Read roberta-base, bert-base, bart-base or their like: a folder with config.json and
    model.safetensors, or a name on the Hub. pool: see ClapTextSpec. Raises CheckpointError."""
    config = _read_config(published_file(name, "config.json"))
    kind = _kind_of(config, str(name))
    file = published_file(name, "model.safetensors")
    try:
        ours, lacking = _ours(kind, _read_encoder(kind, file), may_lack=_POOLER, pool=pool)
        known = {**_known_from(kind, config), "max_tokens": max_tokens, "pool": pool}
        spec = _spec(kind, ours, known)
    except EchoicError as error:
        raise CheckpointError(f"{name}: {error}") from None
    return PublishedWeights(spec, ours, lacking)


# -- names ---------------------------------------------------------------------------------------


def _names(kind: ClapTextKind, depth: int) -> dict[str, tuple[str, ...]]:
    """Our name of each tensor -> the published ones, three for query, key and value."""
    names = _KINDS[kind]
    parts = dict(names.outside)
    for i in range(depth):
        for ours, theirs in names.inside.items():
            before = f"{names.blocks}{i}."
            parts[f"blocks.{i}.{ours}"] = " ".join(before + each for each in theirs.split())
    return {
        ours + end: tuple(each + end for each in theirs.split())
        for ours, theirs in parts.items()
        for end in _ends(ours)
    }


def _ends(part: str) -> tuple[str, ...]:
    if part.endswith((".weight", ".bias")):
        return ("",)
    return (".weight",) if part in _TABLES else (".weight", ".bias")


def _complain(kind: str, *, missing: Collection[str], unknown: Collection[str]) -> None:
    wrong = sorted(f"{name} is missing" for name in missing)
    wrong += sorted(f"{name} is unknown" for name in unknown)
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(
            f"the tensors are not those of a {kind} text encoder: {'; '.join(wrong[:5])}{more}"
        )


# -- tensors -------------------------------------------------------------------------------------


def _ours(
    kind: ClapTextKind,
    tensors: Mapping[str, Tensor],
    *,
    may_lack: tuple[str, ...] = (),
    pool: str = "pooler",
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Our tensors, and those of `may_lack` that are not given: all of them, or none."""
    names, ignored = _names(kind, depth_of(_KINDS[kind].blocks, tensors)), _KINDS[kind].ignored
    if pool != "pooler":
        names = {ours: several for ours, several in names.items() if ours not in _POOLER}
        ignored += r"|pooler\..*"
    given = {n: tensor for n, tensor in tensors.items() if not re.fullmatch(ignored, n)}
    if kind == "bart" and "shared.weight" in tensors:  # a file may hold the tied table once
        given.setdefault("encoder.embed_tokens.weight", tensors["shared.weight"])
    lacking = tuple(ours for ours in may_lack if ours in names)
    if not given.keys().isdisjoint(each for ours in lacking for each in names[ours]):
        lacking = ()
    wanted = {each for ours, several in names.items() if ours not in lacking for each in several}
    _complain(kind, missing=wanted - given.keys(), unknown=given.keys() - wanted)
    ours = {
        ours: _joined([given[each] for each in several], several)
        for ours, several in names.items()
        if ours not in lacking
    }
    return ours, lacking


def _joined(parts: list[Tensor], names: tuple[str, ...]) -> Tensor:
    if len({(part.shape, part.dtype) for part in parts}) > 1:
        raise CheckpointError(f"{', '.join(names)} differ in shape or type")
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _cut(tensor: Tensor, count: int) -> list[Tensor]:
    return [tensor] if count == 1 else [part.clone() for part in tensor.chunk(count)]


# -- the description -----------------------------------------------------------------------------


def _spec(kind: ClapTextKind, ours: Mapping[str, Tensor], known: Mapping[str, Any]) -> ClapTextSpec:
    vocab, width = _shape(ours, "embedding.token.weight")
    positions, _ = _shape(ours, "embedding.position.weight")
    types = "embedding.token_type.weight"
    tree: dict[str, Any] = {
        "kind": kind,
        "vocab": vocab,
        "positions": positions,
        "width": width,
        "depth": depth_of("blocks.", ours),
        "heads": max(1, width // 64),
        "hidden": _shape(ours, "blocks.0.fc1.weight")[0],
        "types": _shape(ours, types)[0] if types in ours else 0,
        **_KNOWN[kind],
        **known,
    }
    spec = ClapTextSpec.parse({"max_tokens": 1, **tree}, where=f"{kind} text encoder")
    if "max_tokens" in known:
        return spec
    room = positions - first_position(kind, spec.pad_id)
    return spec.model_copy(update={"max_tokens": min(77, room)})


def _shape(ours: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    tensor = ours[name]
    if tensor.ndim != 2:
        raise CheckpointError(f"{name} is {tuple(tensor.shape)}, wanted two dimensions")
    return tensor.shape[0], tensor.shape[1]


# -- published files -----------------------------------------------------------------------------

_PREFIX: dict[ClapTextKind, str] = {"roberta": "roberta.", "bert": "bert.", "bart": "model."}
_HEADS = {"roberta": "lm_head.", "bert": "cls.", "bart": ("lm_head.", "final_logits_bias")}


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = parse_json(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: holds no description of a model")
    return config


def _kind_of(config: Mapping[str, Any], where: str) -> ClapTextKind:
    """Raises CheckpointError where the encoder is none of ours, or computes something else."""
    told = config.get("model_type")
    kind = next((kind for kind in _PREFIX if kind == told), None)
    if kind is None:
        raise CheckpointError(
            f"{where}: model_type is {told!r}; roberta, bert and bart can be read"
        )
    wanted = {
        "hidden_act": "gelu",
        "activation_function": "gelu",
        "position_embedding_type": "absolute",
        "scale_embedding": False,
    }
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise CheckpointError(f"{where}: {key} is {config[key]!r}; only {value!r} can be read")
    return kind


def _known_from(kind: ClapTextKind, config: Mapping[str, Any]) -> dict[str, Any]:
    """What its config says beyond its tensors."""
    keys = {"heads": "num_attention_heads", "dropout": "hidden_dropout_prob"}
    if kind == "bart":
        keys = {"heads": "encoder_attention_heads", "dropout": "dropout"}
    keys |= {"norm_eps": "layer_norm_eps", "pad_id": "pad_token_id"}
    return {ours: config[theirs] for ours, theirs in keys.items() if theirs in config}


def _read_encoder(kind: ClapTextKind, file: Path) -> dict[str, Tensor]:
    """The encoder's tensors by their plain names, float32; a head on top is left where it is."""
    tensors = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                if not name.startswith(_HEADS[kind]):
                    tensors[_plain(kind, name)] = opened.get_tensor(name).float()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not a whole safetensors file ({error})") from None
    return tensors


def _plain(kind: ClapTextKind, name: str) -> str:
    """Without the prefix of a model with a head; gamma and beta are what BERT's first files say."""
    name = name.removeprefix(_PREFIX[kind])
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
