"""Our names of a LAION-CLAP model's tensors, and those of `transformers`' ClapModel.

There query, key and value are three tensors, where ours (and upstream's, 2211.06687) are one, and
tables of indices, which follow from the sizes, are kept with the weights. Both ways are exact.

S = 64 tokens of a window.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from echoic.convert.text import from_published, to_published
from echoic.encoders.clap_text import ClapTextSpec
from echoic.encoders.htsat import HtsatSpec
from echoic.model import LanguageAudioModel, ModelSpec
from echoic.nn.swin import WINDOW

AUDIO = "audio_model.audio_encoder."
TEXT = "text_model."
INDEX_TABLE = re.compile(r".*\.(relative_position_index|position_ids|token_type_ids)")
_QKV = ("query", "key", "value")
_MODULES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
# Inside a block, our name of a tensor -> theirs, three for query, key and value.
_BLOCK: dict[str, tuple[str, ...]] = {
    f"{ours}.{end}": (f"{theirs}.{end}",)
    for ours, theirs in _MODULES.items()
    for end in ("weight", "bias")
} | {
    f"attn.qkv.{end}": tuple(f"attention.self.{each}.{end}" for each in _QKV)
    for end in ("weight", "bias")
}
_TABLE = "relative_position_bias_table"
_BLOCK[f"attn.{_TABLE}"] = (f"attention.self.{_TABLE}",)
_OURS = {theirs: (ours, i) for ours, several in _BLOCK.items() for i, theirs in enumerate(several)}
_BEFORE_BLOCK = re.compile(r"(layers\.\d+\.blocks\.\d+\.)(.*)")
_LINEAR = {"0": "linear1", "2": "linear2"}


def to_clap(model: LanguageAudioModel, *, logit_scale_t: float | None = None) -> dict[str, Tensor]:
    """All that ClapModel keeps, by its names; a tagging head, for which it has none, is left out.

    logit_scale_t: its scale from text to audio; None: the one that the model was trained with.
    """
    named: dict[str, Tensor] = {}
    text: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("text.encoder."):
            text[name.removeprefix("text.encoder.")] = tensor
        elif name.startswith("audio.encoder.") and "tscam_conv" not in name:
            named |= _theirs_audio(name.removeprefix("audio.encoder."), tensor)
        elif ".projection." in name:
            tower, _, layer, end = name.split(".")
            named[f"{tower}_projection.{_LINEAR[layer]}.{end}"] = tensor
    named |= {TEXT + name: tensor for name, tensor in to_published("roberta", text).items()}
    scale = model.logit_scale.detach()[0]
    named["logit_scale_a"] = scale
    named["logit_scale_t"] = scale if logit_scale_t is None else torch.tensor(logit_scale_t)
    return named | _index_tables(model.spec)


def from_clap(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors of ClapModel's without its tables of indices, all of which must be there."""
    text = {n.removeprefix(TEXT): t for n, t in kept.items() if n.startswith(TEXT)}
    named = {f"audio.encoder.{n}": t for n, t in ours_audio(kept).items()}
    named |= {f"text.encoder.{n}": t for n, t in from_published("roberta", text).items()}
    for tower in ("audio", "text"):
        for ours, theirs in _LINEAR.items():
            for end in ("weight", "bias"):
                tensor = kept[f"{tower}_projection.{theirs}.{end}"]
                named[f"{tower}.projection.{ours}.{end}"] = tensor
    named["logit_scale"] = kept["logit_scale_a"].reshape(1)
    return named


def ours_audio(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their audio encoder's tensors under our names; a name that we do not know stays as it is."""
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in kept.items():
        if name.startswith(AUDIO):
            below = name.removeprefix(AUDIO)
            match = _BEFORE_BLOCK.fullmatch(below)
            ours, i = re.sub(r"^batch_norm\.", "bn0.", below), 0
            if match and match[2] in _OURS:
                inside, i = _OURS[match[2]]
                ours = match[1] + inside
            parts.setdefault(ours, {})[i] = tensor
    return {name: _joined(several) for name, several in parts.items()}


def _joined(parts: Mapping[int, Tensor]) -> Tensor:
    """Query, key and value as one; what does not fit together is told of later, by name."""
    ordered = [parts[i] for i in sorted(parts)]
    alike = len({part.shape for part in ordered}) == 1 and ordered[0].ndim > 0
    return torch.cat(ordered) if len(ordered) > 1 and alike else ordered[0]


def _theirs_audio(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor of our audio encoder under their name, or three."""
    match = _BEFORE_BLOCK.fullmatch(name)
    if match is None:
        return {AUDIO + re.sub(r"^bn0\.", "batch_norm.", name): tensor}
    names = _BLOCK[match[2]]
    parts = tensor.chunk(len(names))
    return {AUDIO + match[1] + each: part for each, part in zip(names, parts, strict=True)}


def _index_tables(spec: ModelSpec) -> dict[str, Tensor]:
    """The tables of indices that ClapModel keeps with its weights."""
    assert isinstance(spec.audio, HtsatSpec)
    assert isinstance(spec.text, ClapTextSpec)
    cell = torch.stack(torch.meshgrid(*[torch.arange(WINDOW)] * 2, indexing="ij")).flatten(1)
    step = cell[:, :, None] - cell[:, None] + WINDOW - 1  # (2, S, S), cells row by row
    index = step[0] * (2 * WINDOW - 1) + step[1]
    places = torch.arange(spec.text.positions)[None]
    blocks = [(s, b) for s, depth in enumerate(spec.audio.depths) for b in range(depth)]
    return {
        f"{TEXT}embeddings.position_ids": places,
        f"{TEXT}embeddings.token_type_ids": torch.zeros_like(places),
    } | {
        f"{AUDIO}layers.{s}.blocks.{b}.attention.self.relative_position_index": index
        for s, b in blocks
    }
