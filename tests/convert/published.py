"""Small made-up checkpoints as upstream would write them: LAION-CLAP's state dicts and
`transformers` models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from echoic.audio.frontend import laion_htk, laion_slaney, mel_filters
from echoic.convert.laion import to_laion
from echoic.encoders.clap_text import ClapTextSpec
from echoic.encoders.htsat import HtsatSpec
from echoic.encoders.pann import PannSpec
from echoic.model import LanguageAudioModel, ModelSpec, build

TINY = HtsatSpec(width=16, depths=(2, 2, 6, 2), heads=(1, 2, 4, 8), classes=527)
BASE = HtsatSpec(width=32, depths=(2, 2, 12, 2), heads=(4, 8, 16, 32), classes=527)
TEXTS = {
    "roberta": {"positions": 80, "pad_id": 1, "types": 1, "norm_eps": 1e-5},
    "bert": {"positions": 80, "pad_id": 0, "types": 2, "norm_eps": 1e-12},
    "bart": {"positions": 82, "pad_id": 1, "types": 0, "norm_eps": 1e-5},
    "clip": {"positions": 77, "pad_id": 0, "types": 0, "norm_eps": 1e-5, "dropout": 0.0},
}


def spec(audio: HtsatSpec | PannSpec = TINY, text: str = "roberta", **changes: Any) -> ModelSpec:
    front_end = laion_slaney() if audio.fusion is None else laion_htk()
    described = {"vocab": 120, "width": 64, "depth": 2, "heads": 1, "hidden": 96, **TEXTS[text]}
    return ModelSpec(
        front_end=front_end.model_copy(update=changes),
        audio=audio,
        text=ClapTextSpec(kind=text, **described),  # type: ignore[arg-type]
        embed_dim=24,
        max_s=audio.window_samples / 48_000,
    )


def model(audio: HtsatSpec | PannSpec = TINY, text: str = "roberta", **changes: Any) -> Any:
    """A built model, no two of whose tensors are alike."""
    made = build(spec(audio, text, **changes), seed=0).eval()
    fill(made, torch.Generator().manual_seed(1))
    return made


@torch.no_grad()
def fill(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Random weights for which clips differ, and a batch norm fit for decibels."""
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point() or "logit_scale" in name:
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        first = ".bn0." in name or "batch_norm." in name
        if name.endswith("running_var"):
            tensor.copy_((1 + 0.1 * noise.abs()) * (400 if first else 1))
        elif name.endswith("running_mean"):
            tensor.copy_(noise * 2 - 20 if first else 0.1 * noise)
        elif tensor.ndim > 1:
            tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
        else:
            tensor.copy_(0.02 * noise + (1 if name.endswith("weight") else 0))


def laion_state(made: LanguageAudioModel) -> dict[str, Tensor]:
    """The whole state dict as upstream writes it: with its constants, dead heads and old
    buffers."""
    state = to_laion(made, logit_scale_t=2.5)
    front = made.spec.front_end
    kernel = torch.zeros(front.n_fft // 2 + 1, 1, front.n_fft)
    for part in ("real", "imag"):
        state[f"audio_branch.spectrogram_extractor.stft.conv_{part}.weight"] = kernel
    inside = laion_slaney().model_copy(
        update={"n_fft": front.n_fft, "win_samples": front.n_fft, "fmax_hz": front.fmax_hz}
    )
    state["audio_branch.logmel_extractor.melW"] = mel_filters(inside)
    for name in list(state):
        if name.endswith("relative_position_bias_table"):
            index = torch.zeros(64, 64, dtype=torch.int64)
            state[name.replace("bias_table", "index")] = index
            block = re.fullmatch(r"(.*layers\.[012]\.blocks\.\d*[13579]\.)attn.*", name)
            if block:
                state[f"{block[1]}attn_mask"] = torch.zeros(4, 64, 64)
    if made.spec.audio.kind == "htsat":
        state["audio_branch.head.weight"] = torch.zeros(527, 527)
        state["audio_branch.head.bias"] = torch.zeros(527)
    if made.spec.text.kind in ("roberta", "bert"):
        state["text_branch.embeddings.position_ids"] = torch.arange(80)[None]
    if made.spec.text.kind == "bart":
        state["text_branch.shared.weight"] = state["text_branch.encoder.embed_tokens.weight"]
        state["text_branch.decoder.embed_tokens.weight"] = state["text_branch.shared.weight"]
        state["text_branch.decoder.layers.0.fc1.weight"] = torch.zeros(96, 64)
    for tower in ("audio", "text"):
        for layer in (0, 3):
            head = f"{tower}_transform.sequential.{layer}"
            state |= {f"{head}.weight": torch.eye(24) * (layer + 1), f"{head}.bias": torch.ones(24)}
    return state


def laion_file(path: Path, state: dict[str, Tensor]) -> Path:
    """As a training writes it."""
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    adam = {i: {"step": 3, "exp_avg": torch.zeros(50)} for i in range(3)}
    content = {"epoch": 45, "name": "run", "state_dict": wrapped, "optimizer": {"state": adam}}
    torch.save(content, path)
    return path


def clap_model(*, fused: bool, **sizes: Any) -> Any:
    """A ClapModel of `transformers`, in evaluation mode; `sizes`: width, depths, heads."""
    from transformers import ClapConfig, ClapModel

    depths = sizes.get("depths", [2, 2, 2, 2])
    width = sizes.get("width", 16)
    config = ClapConfig(
        text_config={
            "vocab_size": sizes.get("vocab", 120), "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 130,
        },
        audio_config={
            "patch_embeds_hidden_size": width, "depths": depths,
            "num_attention_heads": sizes.get("heads", [1, 2, 4, 8]),
            "hidden_size": width << (len(depths) - 1), "num_hidden_layers": len(depths),
            "enable_fusion": fused, "fusion_type": "aff_2d" if fused else None,
        },
        projection_dim=24,
    )  # fmt: skip
    with torch.random.fork_rng():
        made = ClapModel(config).eval()
    fill(made, torch.Generator().manual_seed(2))
    with torch.no_grad():
        made.logit_scale_a.fill_(3.0)
    return made


def huggingface_folder(folder: Path, made: Any, *, fused: bool) -> Path:
    """`made` with the released feature extractor's values beside it."""
    from transformers import ClapFeatureExtractor

    made.save_pretrained(folder)
    truncation = "fusion" if fused else "rand_trunc"
    ClapFeatureExtractor(frequency_min=50, truncation=truncation).save_pretrained(folder)
    return folder
