"""SLAP (arXiv 2601.12594): scalable language-audio pretraining with variable-duration audio.

Encoder, front end and weights of the objectives are the paper's (section 2); what the paper leaves
open is marked. The contrastive objective is here; self-distillation and captioning join it with
their own modules. `nano` is the smallest size, for two CPU cores.
"""

from __future__ import annotations

from typing import Literal, get_args

from echoic.audio.augment import FrameAugment
from echoic.audio.frontend import slap as slap_front_end
from echoic.encoders.slap import SlapSpec
from echoic.encoders.text import HfTextSpec, SmallTextSpec
from echoic.model import ModelSpec, TextSpec
from echoic.recipes.recipe import DataSpec, Recipe
from echoic.train.loop import RunSpec
from echoic.train.optim import OptimSpec
from echoic.types import ConfigError

PAPER = "arXiv 2601.12594"
Size = Literal["nano", "small", "base"]

# Zero-shot and fine-tuned retrieval, R@1 in per cent (Table 1).
REPORTED = {
    "audiocaps/zero_shot/text_to_audio/R@1": 35.1,
    "audiocaps/zero_shot/audio_to_text/R@1": 44.8,
    "clotho/zero_shot/text_to_audio/R@1": 18.9,
    "clotho/zero_shot/audio_to_text/R@1": 23.5,
    "audiocaps/fine_tuned/text_to_audio/R@1": 47.5,
    "audiocaps/fine_tuned/audio_to_text/R@1": 63.4,
    "clotho/fine_tuned/text_to_audio/R@1": 27.2,
    "clotho/fine_tuned/audio_to_text/R@1": 36.8,
}

# Section 2: 12 layers, 12 heads, width 768, hidden 3072. The smaller sizes are ours.
ENCODERS = {
    "nano": SlapSpec(depth=4, width=192, heads=3, hidden=512),
    "small": SlapSpec(depth=12, width=384, heads=6, hidden=1536),
    "base": SlapSpec(depth=12, width=768, heads=12, hidden=3072),
}
MODERNBERT_BASE = "answerdotai/ModernBERT-base"  # section 2; fetched when a training starts


def slap(size: Size = "base") -> Recipe:
    """The recipe in one of its sizes. Raises ConfigError for another."""
    if size not in get_args(Size):
        raise ConfigError(f"recipe slap has no size {size!r}; it has {', '.join(get_args(Size))}")
    encoder = ENCODERS[size]
    return Recipe(
        name=f"slap-{size}",
        paper=PAPER,
        model=ModelSpec(
            front_end=slap_front_end(),
            audio=encoder,
            text=_text_encoder(size),
            embed_dim=min(encoder.width, 512),  # not in the paper
            max_s=30.0,
        ),
        data=DataSpec(budget_tokens=2048 * 252),  # 2048 pairs of 10 s
        # SpecAugment; sizes not in the paper
        frame_augment=FrameAugment(time_share=0.1, freq_bins=8),
        optim=OptimSpec(
            lr=1e-4, warmup_steps=2000, steps=106_400, betas=(0.9, 0.98), weight_decay=0.1,
            precision="bf16",
        ),
        run=RunSpec(log_every=50, eval_every=2000, save_every=1000),
        reported=REPORTED,
    )  # fmt: skip


def nano() -> Recipe:
    """SLAP at its smallest, with a budget and schedule for minutes on two CPU cores."""
    base = slap("nano")
    return base.model_copy(
        update={
            "name": "nano",
            "data": DataSpec(budget_tokens=4096),
            "optim": OptimSpec(
                lr=1e-3, warmup_steps=100, steps=800, betas=(0.9, 0.98), weight_decay=0.1,
                precision="bf16",
            ),
            "run": RunSpec(log_every=20, eval_every=200, save_every=100, keep_last=2),
        }
    )  # fmt: skip


def _text_encoder(size: Size) -> TextSpec:
    if size == "nano":
        return SmallTextSpec(vocab=4096, depth=3, width=192, heads=3, hidden=512)
    if size == "small":
        return SmallTextSpec(vocab=16_384, depth=6, width=384, heads=6, hidden=1536)
    return HfTextSpec(name=MODERNBERT_BASE)
