"""SLAP (arXiv 2601.12594): scalable language-audio pretraining with variable-duration audio and
several objectives in one stage.

    pretrain                 contrastive, self-distillation and captioning, all from the first step
    wavcaps                  the same again on WavCaps: the zero-shot figures of Table 2
    audiocaps, clotho        retrieval and captioning on one data set (Tables 1 and 3)
    audioset, esc50, spcv2   the encoder tuned on labels (Table 4)

Without a stage `pretrain` runs; each of the others goes on from its file. Encoder, front end,
decoder and weights of the objectives are the paper's (section 2); what the paper leaves open is
marked, and all of the fine-tuning is ours. `nano` is the smallest size with the contrastive loss
alone, for minutes on two CPU cores; `slap:nano` has all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from echoic.audio.augment import FrameAugment
from echoic.audio.frontend import slap as slap_front_end
from echoic.encoders.decoder import DecoderSpec
from echoic.encoders.slap import SlapSpec
from echoic.encoders.text import HfTextSpec, SmallTextSpec
from echoic.model import ModelSpec, TextSpec
from echoic.objectives.prototypes import HeadSpec
from echoic.objectives.self_distillation import DistillationSpec, TeacherTemperatureSpec
from echoic.recipes.recipe import DataSpec, ObjectiveSpec, Recipe, Stage, TuningSpec
from echoic.train.loop import RunSpec
from echoic.train.optim import OptimSpec
from echoic.types import ConfigError

PAPER = "arXiv 2601.12594"
Size = Literal["nano", "small", "base"]
Step = Literal["pretrain", "wavcaps", "audiocaps", "clotho", "audioset", "esc50", "spcv2"]

# In per cent; R@1 (Table 1), accuracy (Tables 2 and 4), CIDEr and SPICE (Table 3).
REPORTED: Mapping[Step, dict[str, float]] = {
    "pretrain": {
        "audiocaps/zero_shot/text_to_audio/R@1": 35.1,
        "audiocaps/zero_shot/audio_to_text/R@1": 44.8,
        "clotho/zero_shot/text_to_audio/R@1": 18.9,
        "clotho/zero_shot/audio_to_text/R@1": 23.5,
        "esc50/zero_shot": 88.6, "us8k/zero_shot": 81.6, "crema_d/zero_shot": 28.1,
        "ravdess/zero_shot": 26.4, "gtzan/zero_shot": 56.8,
    },
    "wavcaps": {
        "esc50/zero_shot": 95.5, "us8k/zero_shot": 83.5, "crema_d/zero_shot": 32.2,
        "ravdess/zero_shot": 29.8, "gtzan/zero_shot": 80.5,
    },
    "audiocaps": {
        "audiocaps/fine_tuned/text_to_audio/R@1": 47.5,
        "audiocaps/fine_tuned/audio_to_text/R@1": 63.4,
        "audiocaps/captioning/CIDEr": 75.1, "audiocaps/captioning/SPICE": 18.1,
    },
    "clotho": {
        "clotho/fine_tuned/text_to_audio/R@1": 27.2,
        "clotho/fine_tuned/audio_to_text/R@1": 36.8,
        "clotho/captioning/CIDEr": 43.7, "clotho/captioning/SPICE": 13.1,
    },
    "esc50": {"esc50/fine_tuned": 98.2},
    "spcv2": {"spcv2/fine_tuned": 98.5},
}  # fmt: skip

# Zero-shot on AudioCaps, R@1 text to audio / audio to text (Table 5).
ABLATION = {
    "full": (35.1, 44.8),
    "no_distillation": (32.8, 42.4),
    "no_captioning": (34.7, 43.0),
    "contrastive_only": (32.6, 41.7),
    "no_local_attention": (34.2, 43.4),
}

# Section 2: 12 layers, 12 heads, width 768, hidden 3072. The smaller sizes are ours.
ENCODERS = {
    "nano": SlapSpec(depth=4, width=192, heads=3, hidden=512),
    "small": SlapSpec(depth=12, width=384, heads=6, hidden=1536),
    "base": SlapSpec(depth=12, width=768, heads=12, hidden=3072),
}
# Section 2: 8 layers, 8 heads, width 512. The vocabulary is the tokenizer's.
DECODERS = {
    "nano": DecoderSpec(vocab=4096, depth=2, width=192, heads=3, hidden=512),
    "small": DecoderSpec(vocab=16_384, depth=4, width=384, heads=6, hidden=1024),
    "base": DecoderSpec(vocab=50_368),
}
# 65536 prototypes as SynCLR and DINOv2 have them; the paper does not say.
DISTILLATIONS = {
    "nano": DistillationSpec(
        head=HeadSpec(hidden=512, bottleneck=128, prototypes=1024),
        teacher_temperature=TeacherTemperatureSpec(warmup_steps=300),
    ),
    "small": DistillationSpec(head=HeadSpec(hidden=1024, prototypes=4096)),
    "base": DistillationSpec(),
}
MODERNBERT_BASE = "answerdotai/ModernBERT-base"  # section 2; fetched when a training starts
PAIRS_10_S = 252  # tokens of 10 s


def slap(size: Size = "base", step: Step = "pretrain") -> tuple[Stage]:
    """The one stage of that name, in a size. Raises ConfigError on another."""
    for what, asked, known in (("size", size, get_args(Size)), ("stage", step, get_args(Step))):
        if asked not in known:
            raise ConfigError(f"recipe slap has no {what} {asked!r}; it has {', '.join(known)}")
    if step == "pretrain":
        recipe = _pretraining(size)
        return (Stage(name=recipe.name, recipe=recipe),)
    if step in ("audioset", "esc50", "spcv2"):
        reported = {} if size == "nano" else REPORTED.get(step, {})
        tuning = TuningSpec(preset=f"slap_{step}", reported=reported)
        return (Stage(name=step, tuning=tuning, takes="model"),)
    return (Stage(name=step, recipe=_tuned_on_captions(size, step), takes="model"),)


def nano() -> Recipe:
    """SLAP at its smallest, by the contrastive loss alone, in minutes on two CPU cores."""
    whole = _pretraining("nano")
    optim = whole.optim.model_copy(update={"steps": 800})
    return whole.model_copy(
        update={
            "name": "nano",
            "model": whole.model.model_copy(update={"decoder": None}),
            "objectives": ObjectiveSpec(),
            "optim": optim,
            "run": RunSpec(log_every=20, eval_every=200, save_every=100, keep_last=2),
        }
    )


def _pretraining(size: Size) -> Recipe:
    encoder = ENCODERS[size]
    recipe = Recipe(
        name=f"slap-{size}",
        paper=PAPER,
        model=ModelSpec(
            front_end=slap_front_end(),
            audio=encoder,
            text=_text_encoder(size),
            decoder=DECODERS[size],
            embed_dim=min(encoder.width, 512),  # not in the paper
            max_s=30.0,
        ),
        # section 2: all three from the first step, 1.0, 1.0 and 0.5
        objectives=ObjectiveSpec(
            contrastive=1.0, distillation=DISTILLATIONS[size], captioning=0.5
        ),
        data=DataSpec(budget_tokens=2048 * PAIRS_10_S),
        # SpecAugment; sizes not in the paper
        frame_augment=FrameAugment(time_share=0.1, freq_bins=8),
        optim=OptimSpec(
            lr=1e-4, warmup_steps=2000, steps=106_400, betas=(0.9, 0.98), weight_decay=0.1,
            precision="bf16",
        ),
        run=RunSpec(log_every=50, eval_every=2000, save_every=1000),
        reported=REPORTED["pretrain"],
    )  # fmt: skip
    return recipe.model_copy(update=NANO) if size == "nano" else recipe


# Ours: an hour on two CPU cores.
NANO: dict[str, Any] = {
    "data": DataSpec(budget_tokens=4096),
    "optim": OptimSpec(
        lr=1e-3, warmup_steps=100, steps=3000, betas=(0.9, 0.98), weight_decay=0.1, precision="bf16"
    ),
    "run": RunSpec(log_every=20, eval_every=500, save_every=100, keep_last=2),
    "reported": {},
}


def _tuned_on_captions(size: Size, step: Step) -> Recipe:
    """Ours: a tenth of the learning rate. On WavCaps all three objectives go on; on one small data
    set there is nothing to distil, and sound and its captions are what is measured."""
    whole = _pretraining(size)
    nano = size == "nano"
    objectives = whole.objectives
    if step != "wavcaps":
        objectives = objectives.model_copy(update={"distillation": None})
    pairs, steps = (16, 300) if nano else {"wavcaps": (1024, 4000)}.get(step, (256, 2000))
    optim = whole.optim.model_copy(
        update={"lr": whole.optim.lr / 10, "warmup_steps": steps // 20, "steps": steps}
    )
    return whole.model_copy(
        update={
            "name": f"slap-{size}-{step}",
            "objectives": objectives,
            "data": DataSpec(budget_tokens=pairs * PAIRS_10_S),
            "optim": optim,
            "run": RunSpec(log_every=20, eval_every=200, save_every=200, keep_last=2),
            "reported": {} if nano else REPORTED[step],
        }
    )


def _text_encoder(size: Size) -> TextSpec:
    if size == "nano":
        return SmallTextSpec(vocab=4096, depth=3, width=192, heads=3, hidden=512)
    if size == "small":
        return SmallTextSpec(vocab=16_384, depth=6, width=384, heads=6, hidden=1536)
    return HfTextSpec(name=MODERNBERT_BASE)
