"""LAION-CLAP's own checkpoints (2211.06687; the .pt files of LAION-AI/CLAP): read, and written
again.

Such a file names no architecture: encoder, size, fusion, text encoder and mel bank are read off its
tensors. Below `audio_branch.` our names are upstream's; the text encoder's are turned by
`convert.text`. What a model computes without is dropped, by name, in the report; every other name
must be known and fit. A checkpoint of HTSAT or Cnn14 trained on AudioSet, from which a training may
start, is read the same way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from echoic.audio.frontend import FrontEndSpec, laion_htk, laion_slaney, mel_filters
from echoic.convert.native import give, require_fit, unfilled
from echoic.convert.shapes import numbers_in, shape_of
from echoic.convert.text import from_published, spec_of_text, to_published
from echoic.convert.torch_file import read_state_dict
from echoic.encoders.clap_text import ClapTextKind, ClapTextSpec
from echoic.encoders.htsat import HtsatSpec
from echoic.encoders.pann import PannSpec
from echoic.model import LanguageAudioModel, ModelSpec
from echoic.types import CheckpointError, ConfigError, EchoicError

INITIAL_SCALE = math.log(1 / 0.07)  # of logit_scale_t, which no released training moved
READ = "read off its tensors"
AUDIO = "audio_branch."
TEXT = "text_branch."
_LOSS_HEADS = ("audio_transform.", "text_transform.")
# Names that a model computes without, by the reason.
_DROPPED = {
    "front end, made anew": re.compile(r"audio_branch\.(spectrogram|logmel)_extractor\..*"),
    "tables of indices": re.compile(
        r".*\.(relative_position_index|attn_mask|position_ids|token_type_ids)"
    ),
    "head that nothing uses": re.compile(r"audio_branch\.head\.(weight|bias)"),
    "heads of the four-term loss": re.compile(r"(audio|text)_transform\.sequential\.[03]\..*"),
    "second scale, of the four-term loss": re.compile(r"logit_scale_t"),
    "decoder of BART, unused": re.compile(r"text_branch\.(decoder\..*|shared\.weight)"),
}
_SIZES: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "HTSAT-tiny",
    (128, (2, 2, 12, 2)): "HTSAT-base",
    (256, (2, 2, 12, 2)): "HTSAT-large",
}


def laion_model(
    state: Mapping[str, Tensor], where: str
) -> tuple[LanguageAudioModel, dict[str, Any]]:
    """The model that a state dict holds, and the report: what it is, and what was dropped.

    `state` as `read_state_dict` gives it. Raises CheckpointError with the names that do not fit.
    """
    kept, dropped = _sorted_out(state)
    try:
        kind = _text_kind(kept)
        text = {name: kept[name] for name in kept if _is_text(name)}
        spec = _spec(state, kept, spec_of_text(kind, _text_names(kind, text)))
    except EchoicError as error:
        raise CheckpointError(f"{where}: {error}") from None
    model = unfilled(spec)
    second = state.get("logit_scale_t", torch.tensor(INITIAL_SCALE))
    require_fit(to_laion(model), {**kept, "logit_scale_t": second}, where)
    give(model, _ours(kind, kept))
    report = _report(spec, len(kept), dropped)
    if "logit_scale_t" in state:
        report["logit_scale_t"] = float(second)
    return model.eval(), report


def to_laion(
    model: LanguageAudioModel, *, logit_scale_t: float = INITIAL_SCALE
) -> dict[str, Tensor]:
    """The tensors under upstream's names; what upstream makes anew or never uses is not there.

    Raises ConfigError where `model` is not of LAION-CLAP's kind.
    """
    ours = isinstance(model.spec.audio, HtsatSpec | PannSpec)
    if not ours or not isinstance(model.spec.text, ClapTextSpec):
        raise ConfigError(f"a model of {_what(model)} is none of LAION-CLAP's")
    kind = model.spec.text.kind
    named: dict[str, Tensor] = {}
    text: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("text.encoder."):
            text[name.removeprefix("text.encoder.")] = tensor
        elif name != "logit_scale":
            named[_theirs(name)] = tensor
    below = "" if kind == "clip" else TEXT
    named |= {below + name: tensor for name, tensor in to_published(kind, text).items()}
    named["logit_scale_a"] = model.logit_scale.detach()[0]
    named["logit_scale_t"] = torch.tensor(logit_scale_t)
    return named


def loss_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The MLPs and the second scale of the four-term loss, as `MlpHeads` names them; none where the
    checkpoint has none."""
    heads = {name: tensor for name, tensor in state.items() if name.startswith(_LOSS_HEADS)}
    if heads and "logit_scale_t" in state:
        heads["logit_scale_t"] = state["logit_scale_t"].reshape(1)
    return heads


def audio_init(path: Path) -> tuple[HtsatSpec | PannSpec, dict[str, Tensor]]:
    """An audio encoder to start from: HTSAT's (`sed_model.`) or Cnn14's checkpoint of AudioSet, or
    LAION-CLAP's own. Its description, and its tensors as the encoder names them.

    Raises CheckpointError where there is no such encoder in it.
    """
    state = read_state_dict(path)
    for prefix in ("sed_model.", AUDIO):
        below = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        if below:
            break
    else:
        below = dict(state)
    kept, _ = _sorted_out({AUDIO + name: tensor for name, tensor in below.items()})
    tensors = {name.removeprefix(AUDIO): tensor for name, tensor in kept.items()}
    try:
        return audio_spec(tensors), tensors
    except EchoicError as error:
        raise CheckpointError(f"{path}: {error}") from None


# -- names ---------------------------------------------------------------------------------------


def _sorted_out(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """What is kept, and the names of what is dropped by the reason."""
    kept: dict[str, Tensor] = {}
    dropped: dict[str, list[str]] = {}
    for name, tensor in state.items():
        reason = next((why for why, names in _DROPPED.items() if names.fullmatch(name)), None)
        if reason is None:
            kept[name] = tensor
        else:
            dropped.setdefault(reason, []).append(name)
    table = f"{TEXT}encoder.embed_tokens.weight"
    if f"{TEXT}shared.weight" in state and table not in kept:  # a file may hold it once
        kept[table] = state[f"{TEXT}shared.weight"]
    return kept, dropped


def _theirs(name: str) -> str:
    """Upstream's name of a tensor outside the text encoder."""
    for ours, theirs in (("audio.encoder.", AUDIO), ("audio.projection.", "audio_projection.")):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name.replace("text.projection.", "text_projection.")


def _ours(kind: ClapTextKind, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names of what is kept."""
    text = {name: tensor for name, tensor in kept.items() if _is_text(name)}
    read = from_published(kind, _text_names(kind, text))
    named = {f"text.encoder.{name}": tensor for name, tensor in read.items()}
    for name, tensor in kept.items():
        for theirs, ours in (
            (AUDIO, "audio.encoder."),
            ("audio_projection.", "audio.projection."),
            ("text_projection.", "text.projection."),
        ):
            if name.startswith(theirs):
                named[ours + name.removeprefix(theirs)] = tensor
    named["logit_scale"] = kept["logit_scale_a"].reshape(1)
    return named


def _is_text(name: str) -> bool:
    return name.startswith((TEXT, "token_embedding.", "positional_embedding", "ln_final."))


def _text_names(kind: ClapTextKind, text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As `convert.text` wants them: CLIP's parts lie at the top of a checkpoint."""
    if kind == "clip":
        return dict(text)
    return {name.removeprefix(TEXT): tensor for name, tensor in text.items()}


# -- the description -----------------------------------------------------------------------------


def _spec(state: Mapping[str, Tensor], kept: Mapping[str, Tensor], text: ClapTextSpec) -> ModelSpec:
    audio = audio_spec({n.removeprefix(AUDIO): t for n, t in kept.items() if n.startswith(AUDIO)})
    front_end, window_samples = _front_end(state, fused=audio.fusion is not None)
    tree = {
        "front_end": front_end.model_dump(),
        "audio": {**audio.model_dump(), "window_samples": window_samples},
        "text": text.model_dump(),
        "embed_dim": shape_of(kept, "audio_projection.2.weight", 2)[0],
        "max_s": window_samples / front_end.rate_hz,
    }
    return ModelSpec.parse(tree, where=READ)


def audio_spec(tensors: Mapping[str, Tensor], **known: Any) -> HtsatSpec | PannSpec:
    """Which encoder the tensors (names below `audio_branch.`) are of; `known`: what they do not
    say. Raises CheckpointError, ConfigError."""
    fusion = _fusion(tensors)
    tree: dict[str, Any]
    if "patch_embed.proj.weight" in tensors:
        width = shape_of(tensors, "patch_embed.proj.weight", 4)[0]
        depths, heads = _stages(tensors)
        hidden = shape_of(tensors, "layers.0.blocks.0.mlp.fc1.weight", 2)[0]
        tree = {"width": width, "depths": depths, "heads": heads, "mlp_ratio": hidden / width}
        tree |= {"classes": _classes(tensors, "tscam_conv.weight", 4), "fusion": fusion, **known}
        return HtsatSpec.parse(tree, where=READ)
    if "conv_block1.conv1.weight" in tensors:
        blocks = len(numbers_in(r"conv_block(\d+)\.", tensors))
        tree = {"layers": {4: 6, 5: 10, 6: 14}.get(blocks, blocks), "fusion": fusion}
        tree |= {"classes": _classes(tensors, "fc_audioset.weight", 2), **known}
        return PannSpec.parse(tree, where=READ)
    raise CheckpointError(
        "has neither HTSAT's patch_embed.proj.weight nor CNN14's conv_block1.conv1.weight"
    )


def _classes(tensors: Mapping[str, Tensor], head: str, dimensions: int) -> int | None:
    return shape_of(tensors, head, dimensions)[0] if head in tensors else None


def _stages(tensors: Mapping[str, Tensor]) -> tuple[list[int], list[int]]:
    """HTSAT's blocks and heads per stage."""
    depths, heads = [], []
    for stage in range(len(numbers_in(r"layers\.(\d+)\.", tensors))):
        depths.append(len(numbers_in(rf"layers\.{stage}\.blocks\.(\d+)\.", tensors)))
        table = f"layers.{stage}.blocks.0.attn.relative_position_bias_table"
        heads.append(shape_of(tensors, table, 2)[1])
    return depths, heads


def _fusion(tensors: Mapping[str, Tensor]) -> str | None:
    """The kind of feature fusion; DAF's module has no tensors."""
    first = tensors.get("patch_embed.proj.weight", tensors.get("conv_block1.conv1.weight"))
    if first is not None and first.ndim == 4 and first.shape[1] == 4:
        return "channel_map"
    module = "".join(name + " " for name in tensors if "fusion_model." in name)
    kind = "iaff" if "local_att2." in module else "aff" if "local_att." in module else "daf"
    for dimensions in ("2d", "1d"):
        if any(f"mel_conv{dimensions}." in name for name in tensors):
            return f"{kind}_{dimensions}"
    return None


def _front_end(state: Mapping[str, Tensor], *, fused: bool) -> tuple[FrontEndSpec, int]:
    """The front end and the samples of its window. The mel bank inside a checkpoint is Slaney's
    with fusion too, where the data code made another; it tells the band in either case."""
    kernel = f"{AUDIO}spectrogram_extractor.stft.conv_real.weight"
    bank = state.get(f"{AUDIO}logmel_extractor.melW")
    n_fft = shape_of(state, kernel, 3)[-1] if kernel in state else 1024
    for fmax_hz, hop_samples, window_samples in (
        (14_000, 480, 480_000), (18_000, 480, 480_000), (8_000, 360, 960_000),
    ):  # fmt: skip
        change = {
            "fmax_hz": float(fmax_hz), "hop_samples": hop_samples, "n_fft": n_fft,
            "win_samples": n_fft,
        }  # fmt: skip
        if bank is None or _same_bank(bank, laion_slaney().model_copy(update=change)):
            chosen = laion_htk() if fused else laion_slaney()
            return chosen.model_copy(update=change), window_samples
    raise CheckpointError(f"{AUDIO}logmel_extractor.melW is none of LAION-CLAP's mel banks")


def _same_bank(bank: Tensor, spec: FrontEndSpec) -> bool:
    ours = mel_filters(spec)
    return ours.shape == bank.shape and torch.allclose(bank.float(), ours, atol=1e-5)


def _text_kind(state: Mapping[str, Tensor]) -> ClapTextKind:
    if f"{TEXT}embeddings.word_embeddings.weight" in state:
        types = shape_of(state, f"{TEXT}embeddings.token_type_embeddings.weight", 2)[0]
        return "bert" if types == 2 else "roberta"
    if f"{TEXT}encoder.embed_tokens.weight" in state:
        return "bart"
    if "token_embedding.weight" in state:
        return "clip"
    raise CheckpointError(f"has no text encoder known ({', '.join(get_args(ClapTextKind))})")


# -- the report ----------------------------------------------------------------------------------


def _report(spec: ModelSpec, taken: int, dropped: Mapping[str, list[str]]) -> dict[str, Any]:
    assert isinstance(spec.audio, HtsatSpec | PannSpec)
    return {
        "kind": "laion",
        "architecture": architecture(spec.audio),
        "fusion": spec.audio.fusion,
        "text": spec.text_kind,
        "tensors": taken,
        "dropped": dict(dropped),
    }


def architecture(spec: HtsatSpec | PannSpec) -> str:
    """HTSAT-tiny, CNN14: what people call it."""
    if isinstance(spec, PannSpec):
        return f"CNN{spec.layers}"
    other = f"HTSAT of width {spec.width}, depths {'-'.join(map(str, spec.depths))}"
    return _SIZES.get((spec.width, spec.depths), other)


def in_words(architecture: str, fusion: str | None, text: str) -> str:
    """What a caller chooses of a model: HTSAT-tiny, no fusion, text roberta."""
    return f"{architecture}, {f'fusion {fusion}' if fusion else 'no fusion'}, text {text}"


def _what(model: LanguageAudioModel) -> str:
    return f"{model.spec.audio.kind} and {model.spec.text_kind}"
