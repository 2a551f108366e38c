"""LAION-CLAP (arXiv 2211.06687): contrastive pretraining, feature fusion, keyword-to-caption.

The values are those of the released training scripts (LAION-AI/CLAP, experiment_scripts); where the
paper says otherwise, that stands beside them. What is ours is marked.
"""

from __future__ import annotations

from typing import Literal, get_args

from echoic.audio.augment import FrameAugment
from echoic.audio.frontend import laion_htk, laion_slaney
from echoic.encoders.clap_text import ClapTextSpec
from echoic.encoders.htsat import HtsatSpec
from echoic.encoders.pann import PannSpec
from echoic.model import ModelSpec
from echoic.nn.fusion import FusionKind
from echoic.recipes.recipe import DataSpec, Recipe, StartSpec
from echoic.train.loop import RunSpec
from echoic.train.optim import OptimSpec
from echoic.types import ConfigError

PAPER = "arXiv 2211.06687"
Size = Literal["toy", "tiny", "base", "large", "cnn14"]
Option = Literal["fusion", "stage1", "stage2", "stage3"]

# HTSAT's sizes (2202.00874 and the model_configs of the scripts). The released checkpoints are tiny
# and base. `toy` is ours, for two CPU cores.
HTSAT = {
    "toy": HtsatSpec(width=16, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), drop_path=0.0),
    "tiny": HtsatSpec(width=96, depths=(2, 2, 6, 2), heads=(4, 8, 16, 32)),
    "base": HtsatSpec(width=128, depths=(2, 2, 12, 2), heads=(4, 8, 16, 32)),
    "large": HtsatSpec(width=256, depths=(2, 2, 12, 2), heads=(4, 8, 16, 32)),
}
PANN = {f"cnn{layers}": PannSpec(layers=layers) for layers in (14, 10, 6)}
ROBERTA_BASE = "FacebookAI/roberta-base"  # section 2; fetched when a training starts
ROBERTA = ClapTextSpec(
    kind="roberta", vocab=50_265, positions=514, width=768, depth=12, heads=12, hidden=3072,
    pad_id=1, types=1, norm_eps=1e-5,
)  # fmt: skip
TEXT = {
    "roberta": ROBERTA,
    "bert": ROBERTA.model_copy(
        update={"kind": "bert", "vocab": 30_522, "positions": 512, "pad_id": 0, "types": 2,
                "norm_eps": 1e-12}
    ),
    "bart": ROBERTA.model_copy(
        update={"kind": "bart", "depth": 6, "positions": 1026, "types": 0}
    ),
    "clip": ROBERTA.model_copy(
        update={"kind": "clip", "vocab": 49_408, "positions": 77, "width": 512, "heads": 8,
                "hidden": 2048, "pad_id": 0, "types": 0, "dropout": 0.0}
    ),
}  # fmt: skip
TOY_TEXT = ClapTextSpec(
    kind="roberta", vocab=4096, positions=80, width=128, depth=2, heads=2, hidden=256,
    pad_id=0, types=1, norm_eps=1e-5, dropout=0.0,
)  # fmt: skip

# The paper's three training sets (section 3.1), with the pairs that each adds and its batch.
# Captions of AudioSet and Epidemic are keyword-to-caption's (section 3.3).
STAGES = {
    "stage1": (("AudioCaps", "Clotho"), 53_113, 768),
    "stage2": (("AudioCaps", "Clotho", "LAION-Audio-630K"), 630_000 + 53_113, 2304),
    "stage3": (("AudioCaps", "Clotho", "LAION-Audio-630K", "AudioSet"), 2_630_000, 2304),
}
EPOCHS = 45

# Retrieval, R@1 in per cent (table 3 of the paper, from memory where no thread confirms it).
REPORTED = {
    "stage1": (36.7, 45.3, 12.0, 15.7),
    "stage2": (32.7, 43.9, 15.6, 23.7),
    "stage2,fusion": (36.2, 45.0, 17.2, 24.2),
    "stage3": (36.1, 46.8, 16.1, 22.7),
    "stage3,fusion": (35.1, 45.8, 18.2, 25.7),
}
_REPORTED_NAMES = (
    "audiocaps/text_to_audio/R@1",
    "audiocaps/audio_to_text/R@1",
    "clotho/text_to_audio/R@1",
    "clotho/audio_to_text/R@1",
)


def laion_clap(size: Size = "tiny", *options: Option) -> Recipe:
    """The recipe in a size, with "fusion" and a data stage as options: ("tiny", "fusion",
    "stage2"). Without: no fusion, stage3. Raises ConfigError for another."""
    if size not in get_args(Size):
        raise ConfigError(
            f"recipe laion_clap has no size {size!r}; it has {', '.join(get_args(Size))}"
        )
    for option in options:
        if option not in get_args(Option):
            raise ConfigError(
                f"recipe laion_clap has no option {option!r}; it has {', '.join(get_args(Option))}"
            )
    fusion = "fusion" in options
    stage = next((option for option in options if option in STAGES), "stage3")
    corpora, pairs, batch = STAGES[stage]
    steps = EPOCHS * pairs // batch
    # stage 1 is over before the scripts' warm-up is: a tenth of it, ours
    warmup = min(500 if size == "cnn14" else 3200, steps // 10 if stage == "stage1" else steps)
    name = "-".join(["laion-clap", size, *(["fusion"] if fusion else []), stage])
    reported = REPORTED.get(f"{stage},fusion" if fusion else stage, ())
    recipe = Recipe(
        name=name,
        paper=PAPER,
        model=released_model(size, fusion="fusion" in options),
        start=StartSpec(text=ROBERTA_BASE),
        data=DataSpec(
            budget_clips=batch,  # 96 on each of 24 GPUs for stages 2 and 3
            max_s=3600.0 if fusion else 10.0,  # fusion sees the whole clip; else a random window
            corpora=corpora,
        ),
        # SpecAugment after the batch norm: 2 stripes of up to 63 frames, 2 of up to 7 mel bins
        frame_augment=FrameAugment(stripes=2, time_share=64 / 1001, freq_bins=8),
        # Adam (weight decay is forced to 0); the paper's text has betas of 0.99 and 0.9
        optim=OptimSpec(
            lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, clip_norm=None,
            warmup_steps=warmup, steps=steps,
            precision="fp32",  # amp and fp16 "cause NaN", say the scripts
        ),
        run=RunSpec(log_every=50, eval_every=1000, save_every=1000, seed=3407),
        reported=dict(zip(_REPORTED_NAMES, reported, strict=False)),
    )  # fmt: skip
    return _toy(recipe) if size == "toy" else recipe


def released_model(size: str, text: str = "roberta", *, fusion: bool = False) -> ModelSpec:
    """Upstream's model of a size ("tiny", "cnn14", ...) and text encoder ("roberta", "bert",
    "bart", "clip"). Raises ConfigError on another."""
    audio: dict[str, HtsatSpec | PannSpec] = {**HTSAT, **PANN}
    for what, known, asked in (("size", audio, size), ("text encoder", TEXT, text)):
        if asked not in known:
            raise ConfigError(f"LAION-CLAP has no {what} {asked!r}; it has {', '.join(known)}")
    kind: FusionKind | None = "aff_2d" if fusion else None
    return ModelSpec(
        # two mel banks: fusion's log-mel was made in the data code, the other inside the model
        front_end=laion_htk() if fusion else laion_slaney(),
        audio=audio[size].model_copy(update={"fusion": kind}),
        text=TEXT[text],
        embed_dim=512,
        max_s=10.0,
    )


def _toy(recipe: Recipe) -> Recipe:
    """Ours: minutes on two CPU cores, both towers from scratch. With twice the learning rate all
    vectors fell together at the start, and it took a hundred steps to part them."""
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"text": TOY_TEXT, "embed_dim": 128}),
            "start": StartSpec(),
            "data": recipe.data.model_copy(update={"budget_clips": 32, "corpora": ()}),
            "optim": OptimSpec(
                lr=5e-4, betas=(0.9, 0.98), warmup_steps=100, steps=600, precision="bf16"
            ),
            "run": RunSpec(log_every=20, eval_every=200, save_every=100, keep_last=2),
            "reported": {},
        }
    )
