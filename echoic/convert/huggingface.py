"""LAION-CLAP as Hugging Face's `transformers` keeps it: a folder with config.json,
model.safetensors (or pytorch_model.bin), preprocessor_config.json and a tokenizer.

Read, and written so that `ClapModel.from_pretrained` and `ClapProcessor.from_pretrained` take it.
Sizes are read off the tensors; what the configuration says beside them must agree. It adds what
tensors cannot say: text heads, epsilons, dropout, and how sound is prepared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer as Backend
from torch import Tensor

from echoic.audio.frontend import FrontEndSpec, laion_htk, laion_slaney
from echoic.config import parse_json
from echoic.convert.clap_names import INDEX_TABLE, TEXT, from_clap, ours_audio, to_clap
from echoic.convert.laion import INITIAL_SCALE, architecture, audio_spec
from echoic.convert.native import ModelFile, give, replacing, require_fit, unfilled
from echoic.convert.text import spec_of_text
from echoic.convert.torch_file import read_state_dict
from echoic.encoders.clap_text import ClapTextSpec, first_position
from echoic.encoders.htsat import HtsatSpec
from echoic.encoders.tokenizer import TextTokenizer
from echoic.model import LanguageAudioModel, ModelSpec
from echoic.types import CheckpointError, ConfigError, EchoicError

CONFIG, PREPROCESSOR, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
TOKENIZER_FILES = (TOKENIZER, "vocab.json")  # any of these makes a tokenizer

# What our encoders compute and the configuration could ask otherwise.
_FIXED_AUDIO: dict[str, tuple[Any, ...]] = {
    "window_size": (8,), "num_mel_bins": (64,), "spec_size": (256, [256, 256]),
    "hidden_act": ("gelu",), "patch_size": (4, [4, 4]), "patch_stride": (4, [4, 4]),
    "patch_embed_input_channels": (1,), "flatten_patch_embeds": (True,),
    "enable_patch_layer_norm": (True,), "qkv_bias": (True,), "aff_block_r": (4,),
    "layer_norm_eps": (1e-5,), "fusion_type": (None, "aff_2d"),
}  # fmt: skip
_FIXED_TEXT: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",), "position_embedding_type": ("absolute", None),
}  # fmt: skip
_FIXED_TOP: dict[str, tuple[Any, ...]] = {"projection_hidden_act": ("relu",)}
_FILLS = ("repeatpad", "repeat", "pad")


class _Described(NamedTuple):
    """The three parts of config.json, and the feature extractor's description."""

    top: dict[str, Any]
    audio: dict[str, Any]
    text: dict[str, Any]
    sound: dict[str, Any]


_LONGEST_S = 86_400
_QKV = re.compile(r"\.(query|key|value)\.(weight|bias)$")


def is_huggingface(folder: Path) -> bool:
    """Whether a folder holds a model of `transformers`, of any kind."""
    return folder.is_dir() and (folder / CONFIG).is_file()


def load_huggingface(folder: Path) -> ModelFile:
    """Raises CheckpointError where a file is missing or damaged, the model is none of CLAP's, a
    tensor does not fit, or the configuration contradicts the tensors."""
    described = _read_description(folder)
    state, file = _read_tensors(folder)
    kept = {name: tensor for name, tensor in state.items() if not INDEX_TABLE.fullmatch(name)}
    try:
        spec, notes = _spec(kept, described, _most_tokens(folder))
        model = unfilled(spec)
    except EchoicError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    _require_agreement(spec, described, folder)
    wanted = {n: t for n, t in to_clap(model).items() if not INDEX_TABLE.fullmatch(n)}
    kept.setdefault("logit_scale_t", torch.tensor(INITIAL_SCALE))
    require_fit(wanted, kept, str(folder / file))
    give(model, from_clap(kept))
    assert isinstance(spec.audio, HtsatSpec)
    source = {
        "kind": "huggingface",
        "file": f"{folder.name}/{file}",
        "architecture": architecture(spec.audio),
        "fusion": spec.audio.fusion,
        "text": spec.text_kind,
        "tensors": len(kept),
        "dropped": {"tables of indices": sorted(state.keys() - kept.keys())},
        "notes": notes,
        "logit_scale_t": float(kept["logit_scale_t"]),
    }
    return ModelFile(model.eval(), folder_tokenizer(folder, spec), {"source": source})


def folder_tokenizer(folder: Path, spec: ModelSpec) -> TextTokenizer | None:
    """The tokenizer in a folder; None where there is none. Raises CheckpointError."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    return TextTokenizer.published(folder, max_tokens=spec.max_tokens)


def to_huggingface(
    model: LanguageAudioModel, *, logit_scale_t: float | None = None
) -> dict[str, Tensor]:
    """The tensors as ClapModel names them, its tables of indices too. logit_scale_t: ClapModel's
    scale from text to audio; None: the one that the model was trained with.

    Raises ConfigError where ClapModel has no place for `model`.
    """
    _require_expressible(model.spec)
    return to_clap(model, logit_scale_t=logit_scale_t)


def save_huggingface(
    content: ModelFile, folder: Path, *, without_int16: bool = False
) -> tuple[str, ...]:
    """Write `content` into `folder` for ClapModel and, where there is a tokenizer, ClapProcessor.

    without_int16: export a model that rounds samples to 16 bits (LAION's do) although
    `transformers` does not. Vectors then differ: little for most sounds, more for quiet or
    synthetic ones, whose empty bands the rounding fills with noise. Returns what had to stay
    behind, a line each. Raises ConfigError where ClapModel has no place for the model,
    CheckpointError where the disk refuses.
    """
    spec = content.model.spec
    scale_t = content.card.get("source", {}).get("logit_scale_t")
    tensors = to_huggingface(content.model, logit_scale_t=scale_t)
    assert isinstance(spec.audio, HtsatSpec)
    if spec.audio.int16 and not without_int16:
        raise ConfigError(
            "this model rounds samples to 16 bits, and transformers does not; to export it all "
            "the same: without_int16, or --without-int16 (vectors then differ, most for quiet or "
            "synthetic sounds)"
        )
    frame = _frame(content.tokenizer)
    files = {
        PREPROCESSOR: _preprocessor(spec),
        **(_tokenizer_files(content.tokenizer, spec) if content.tokenizer else {}),
        CONFIG: _config(spec, frame),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / SAFE) as unfinished:
            whole = {n: t.cpu().clone(memory_format=torch.contiguous_format)
                     for n, t in tensors.items()}  # fmt: skip
            save_file(whole, unfinished, metadata={"format": "pt"})
        for name, tree in files.items():
            with replacing(folder / name) as unfinished:
                unfinished.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the model cannot be written ({error})") from None
    return _left_behind(content)


# -- reading -------------------------------------------------------------------------------------


def _read_description(folder: Path) -> _Described:
    top = _read_json(folder / CONFIG)
    if top.get("model_type") != "clap":
        raise CheckpointError(
            f"{folder}: its {CONFIG} is of model_type {top.get('model_type')!r}, not clap"
        )
    sound: dict[str, Any] = {}
    if (folder / PREPROCESSOR).is_file():
        sound = _read_json(folder / PREPROCESSOR)
    elif (folder / PROCESSOR).is_file():  # where transformers 5 may put it
        sound = _section(_read_json(folder / PROCESSOR), "feature_extractor", folder / PROCESSOR)
    audio, text = (_section(top, f"{x}_config", folder / CONFIG) for x in ("audio", "text"))
    described = _Described(top, audio, text, sound)
    _require_fixed(described, folder)
    return described


def _section(tree: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    found = tree.get(name) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: {name} is not a table")
    return found


def _require_fixed(described: _Described, folder: Path) -> None:
    """What our encoders cannot compute is refused, not left out."""
    for part, tree, fixed in (
        ("audio_config.", described.audio, _FIXED_AUDIO),
        ("text_config.", described.text, _FIXED_TEXT),
        ("", described.top, _FIXED_TOP),
    ):
        for key, allowed in fixed.items():
            if key in tree and tree[key] not in allowed:
                raise CheckpointError(
                    f"{folder}: {part}{key} is {tree[key]!r}; only {allowed[0]!r} can be read"
                )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        tree = parse_json(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error})") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{file}: not a table of settings")
    return tree


def _read_tensors(folder: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors, and the name of their file."""
    file = folder / SAFE
    if not file.is_file():
        if not (folder / PICKLED).is_file():
            raise CheckpointError(f"{folder}: has neither {SAFE} nor {PICKLED}")
        return read_state_dict(folder / PICKLED), PICKLED
    try:
        # Tensors are parts of the mapped file, read when they are needed. Queries, keys and values
        # are copied when they are joined: out of a mapping of their own, which then goes.
        with safe_open(file, framework="pt") as held, safe_open(file, framework="pt") as copied:
            names: list[str] = list(held.keys())
            return {n: (copied if _QKV.search(n) else held).get_tensor(n) for n in names}, SAFE
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not a whole safetensors file ({error})") from None


def _most_tokens(folder: Path) -> int | None:
    """Where the tokenizer cuts; None where nothing says so."""
    file = folder / TOKENIZER_CONFIG
    most = _read_json(file).get("model_max_length") if file.is_file() else None
    return most if isinstance(most, int) and 0 < most < 1_000_000 else None


def _spec(
    kept: Mapping[str, Tensor], described: _Described, most_tokens: int | None
) -> tuple[ModelSpec, list[str]]:
    """The description, and what in the configuration does not count."""
    audio_config, text_config, sound = described.audio, described.text, described.sound
    fill = sound.get("padding", "repeatpad")
    if fill not in _FILLS:
        raise CheckpointError(f"{PREPROCESSOR}: padding {fill!r} is none of {', '.join(_FILLS)}")
    ours = ours_audio(kept)
    audio = audio_spec(
        ours,
        drop_path=audio_config.get("drop_path_rate", 0.0),
        mlp_dropout=audio_config.get("hidden_dropout_prob", 0.1),
        fill=fill,
        int16=False,
    )
    fused = audio.fusion is not None
    front_end, window_samples = _front_end(sound, fused=fused)
    theirs = {n.removeprefix(TEXT): t for n, t in kept.items() if n.startswith(TEXT)}
    text = spec_of_text(
        "roberta",
        theirs,
        heads=text_config.get("num_attention_heads", 12),
        norm_eps=text_config.get("layer_norm_eps", 1e-12),
        dropout=text_config.get("hidden_dropout_prob", 0.1),
        pad_id=text_config.get("pad_token_id", 1),
        max_tokens=1,
    )
    room = text.positions - first_position(text.kind, text.pad_id)
    text = text.model_copy(update={"max_tokens": min(most_tokens or room, room)})
    if "audio_projection.linear2.weight" not in kept:
        raise CheckpointError("audio_projection.linear2.weight is missing")
    tree = {
        "front_end": front_end.model_dump(),
        "audio": {**audio.model_dump(), "window_samples": window_samples},
        "text": text.model_dump(),
        "embed_dim": len(kept["audio_projection.linear2.weight"]),
        "max_s": window_samples / front_end.rate_hz,
    }
    usual = "fusion" if fused else "rand_trunc"
    notes = []
    if sound.get("truncation", usual) != usual:
        with_or_without = "with" if fused else "without"
        notes.append(
            f"truncation {sound['truncation']!r} does not fit a model {with_or_without} fusion; "
            f"{usual!r} is meant"
        )
    return ModelSpec.parse(tree, where="read off its tensors"), notes


def _front_end(sound: Mapping[str, Any], *, fused: bool) -> tuple[FrontEndSpec, int]:
    """The released feature extractor's values where `sound` says nothing."""
    released = laion_htk() if fused else laion_slaney()
    n_fft = sound.get("fft_window_size", released.n_fft)
    change = {
        "rate_hz": sound.get("sampling_rate", released.rate_hz),
        "n_fft": n_fft,
        "win_samples": n_fft,
        "hop_samples": sound.get("hop_length", released.hop_samples),
        "mel_bins": sound.get("feature_size", released.mel_bins),
        "fmin_hz": sound.get("frequency_min", released.fmin_hz),
        "fmax_hz": sound.get("frequency_max", released.fmax_hz),
    }
    spec = FrontEndSpec.parse({**released.model_dump(), **change}, where=PREPROCESSOR)
    seconds = sound.get("max_length_s", 10)
    if not isinstance(seconds, int | float) or not 0 < seconds <= _LONGEST_S:
        raise CheckpointError(f"{PREPROCESSOR}: max_length_s is {seconds!r}, not a length")
    return spec, round(seconds * spec.rate_hz)


def _require_agreement(spec: ModelSpec, described: _Described, folder: Path) -> None:
    """Raises CheckpointError where the configuration says another size than the tensors have."""
    audio, text = spec.audio, spec.text
    if not isinstance(audio, HtsatSpec) or not isinstance(text, ClapTextSpec):
        raise CheckpointError(f"{folder}: its audio encoder is not HTSAT")
    found: dict[str, Any] = {
        "audio_config.patch_embeds_hidden_size": audio.width,
        "audio_config.depths": list(audio.depths),
        "audio_config.num_attention_heads": list(audio.heads),
        "audio_config.enable_fusion": audio.fusion is not None,
        "audio_config.mlp_ratio": audio.mlp_ratio,
        "text_config.vocab_size": text.vocab,
        "text_config.hidden_size": text.width,
        "text_config.num_hidden_layers": text.depth,
        "text_config.intermediate_size": text.hidden,
        "text_config.max_position_embeddings": text.positions,
        "text_config.type_vocab_size": text.types,
        "projection_dim": spec.embed_dim,
    }
    wrong = []
    for path, value in found.items():
        part, _, key = path.rpartition(".")
        tree = {"audio_config": described.audio, "text_config": described.text}
        said = tree.get(part, described.top).get(key, value)
        if said != value:
            wrong.append(f"{path} is {said!r}, but the tensors have {value!r}")
    if wrong:
        raise CheckpointError(f"{folder}: {CONFIG} contradicts the tensors: {'; '.join(wrong)}")


# -- writing -------------------------------------------------------------------------------------


def _require_expressible(spec: ModelSpec) -> None:
    """Raises ConfigError, saying what ClapModel has no place for."""
    audio, text = spec.audio, spec.text
    why = None
    if not isinstance(audio, HtsatSpec):
        why = f"an audio encoder of kind {audio.kind}; only HTSAT"
    elif not isinstance(text, ClapTextSpec) or text.kind != "roberta":
        why = f"a text encoder of kind {spec.text_kind}; only RoBERTa"
    elif audio.fusion not in (None, "aff_2d"):
        why = f"feature fusion {audio.fusion}; only aff_2d"
    elif audio.norm_eps != 1e-5:
        why = f"an epsilon of {audio.norm_eps:g} in HTSAT's norms; only 1e-5"
    elif audio.window_samples % spec.front_end.rate_hz:
        why = f"a window of {spec.max_s:g} s; only whole seconds"
    elif spec.front_end != _expressible_front_end(spec):
        why = "this front end; only LAION-CLAP's, in its rate, transform, hop and band"
    if why:
        raise ConfigError(f"Hugging Face's ClapModel has no place for {why}")


def _expressible_front_end(spec: ModelSpec) -> FrontEndSpec:
    fused = isinstance(spec.audio, HtsatSpec) and spec.audio.fusion is not None
    front = spec.front_end
    return (laion_htk() if fused else laion_slaney()).model_copy(
        update={
            "rate_hz": front.rate_hz, "n_fft": front.n_fft, "win_samples": front.n_fft,
            "hop_samples": front.hop_samples, "fmin_hz": front.fmin_hz, "fmax_hz": front.fmax_hz,
        }
    )  # fmt: skip


def _config(spec: ModelSpec, frame: tuple[int, int]) -> dict[str, Any]:
    audio, text = spec.audio, spec.text
    assert isinstance(audio, HtsatSpec)
    assert isinstance(text, ClapTextSpec)
    shared = {"projection_dim": spec.embed_dim, "projection_hidden_act": "relu"}
    return {
        "architectures": ["ClapModel"],
        "model_type": "clap",
        "dtype": "float32",
        **shared,
        "audio_config": {
            **shared,
            **{key: allowed[0] for key, allowed in _FIXED_AUDIO.items()},
            "model_type": "clap_audio_model",
            "patch_stride": [4, 4],
            "patch_embeds_hidden_size": audio.width,
            "hidden_size": audio.width << (len(audio.depths) - 1),
            "depths": list(audio.depths),
            "num_attention_heads": list(audio.heads),
            "num_hidden_layers": len(audio.depths),
            "mlp_ratio": audio.mlp_ratio,
            "drop_path_rate": audio.drop_path,
            "hidden_dropout_prob": audio.mlp_dropout,
            "attention_probs_dropout_prob": 0.0,
            "enable_fusion": audio.fusion is not None,
            "fusion_type": audio.fusion,
        },
        "text_config": {
            **shared,
            "model_type": "clap_text_model",
            "hidden_act": "gelu",
            "vocab_size": text.vocab,
            "max_position_embeddings": text.positions,
            "hidden_size": text.width,
            "num_hidden_layers": text.depth,
            "num_attention_heads": text.heads,
            "intermediate_size": text.hidden,
            "type_vocab_size": text.types,
            "layer_norm_eps": text.norm_eps,
            "hidden_dropout_prob": text.dropout,
            "attention_probs_dropout_prob": text.dropout,
            "pad_token_id": text.pad_id,
            "bos_token_id": frame[0],
            "eos_token_id": frame[1],
        },
    }


def _preprocessor(spec: ModelSpec) -> dict[str, Any]:
    front, audio = spec.front_end, spec.audio
    assert isinstance(audio, HtsatSpec)
    return {
        "feature_extractor_type": "ClapFeatureExtractor",
        "processor_class": "ClapProcessor",
        "feature_size": front.mel_bins,
        "sampling_rate": front.rate_hz,
        "fft_window_size": front.n_fft,
        "hop_length": front.hop_samples,
        "frequency_min": front.fmin_hz,
        "frequency_max": front.fmax_hz,
        "max_length_s": audio.window_samples // front.rate_hz,
        "nb_max_samples": audio.window_samples,
        "padding": audio.fill,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "top_db": None,
        "truncation": "rand_trunc" if audio.fusion is None else "fusion",
    }


def _frame(tokenizer: TextTokenizer | None) -> tuple[int, int]:
    """Ids of the tokens that begin and end a text; RoBERTa's where there is no tokenizer."""
    ids = tokenizer([""])[0] if tokenizer else []
    return (ids[0], ids[-1]) if len(ids) > 1 else (0, 2)


def _tokenizer_files(tokenizer: TextTokenizer, spec: ModelSpec) -> dict[str, Any]:
    assert isinstance(spec.text, ClapTextSpec)
    backend = Backend.from_str(tokenizer.to_json())
    backend.no_truncation()
    start, end = map(backend.id_to_token, _frame(tokenizer))
    tokens = {
        "bos_token": start, "cls_token": start, "eos_token": end, "sep_token": end,
        "pad_token": backend.id_to_token(spec.text.pad_id),
    }  # fmt: skip
    for name, token in (("unk_token", "<unk>"), ("mask_token", "<mask>")):
        if backend.token_to_id(token) is not None:
            tokens[name] = token
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "ClapProcessor",
        "model_max_length": tokenizer.max_tokens,
        "model_input_names": ["input_ids", "attention_mask"],
        **tokens,
    }
    return {TOKENIZER: json.loads(backend.to_str()), TOKENIZER_CONFIG: described}


def _left_behind(content: ModelFile) -> tuple[str, ...]:
    audio = content.model.spec.audio
    assert isinstance(audio, HtsatSpec)
    lines = []
    if audio.classes is not None:
        lines.append(f"the tagging head of {audio.classes} classes: ClapModel has none")
    if audio.int16:
        lines.append("samples rounded to 16 bits: transformers takes them as they are")
    if content.tokenizer is None:
        lines.append("the tokenizer: this model brought none, so ClapProcessor will not load")
    return tuple(lines)
