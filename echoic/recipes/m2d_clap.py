"""M2D (arXiv 2210.14648) and M2D-CLAP (2406.02032; 2503.22104): masked modelling duo, then sound
and language, in stages.

    m2d            M2D alone, 2022
    2024           M2D and CLAP at once, on vectors of a sentence encoder
    stage1         the same on an LLM's vectors, with a projector that attends to the patches, 2025
    stage1.1       the encoder tuned on the clips' labels, with a window of 10 s
    stage2         the encoder frozen; a new projector and BERT learn
    stage2.1       the same again on less data, nothing masked

Without a stage the four of 2025 run one after the other, each from the file of the one before. The
values are the papers'; what is ours is marked.

differs from the code: a clip shorter than the crop is heard as long as it is, not filled up; rows
of a batch with the same caption are no negatives of each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from echoic.audio.frontend import m2d as m2d_front_end
from echoic.encoders.clap_text import ClapTextSpec
from echoic.encoders.m2d import M2dSpec
from echoic.encoders.text import SmallTextSpec
from echoic.model import ModelSpec, TextSpec
from echoic.nn.masking import RandomMask, StructuredMask
from echoic.objectives.masked_duo import DecaySpec, PredictorSpec
from echoic.recipes.recipe import (
    DataSpec,
    MaskedSpec,
    ObjectiveSpec,
    Recipe,
    SecondSpec,
    Stage,
    StartSpec,
    TuningSpec,
)
from echoic.towers import SentenceTextSpec
from echoic.train.loop import RunSpec
from echoic.train.optim import OptimSpec
from echoic.types import ConfigError

PAPER_2022, PAPER_2024, PAPER = "arXiv 2210.14648", "arXiv 2406.02032", "arXiv 2503.22104"
Size = Literal["nano", "small", "base", "large"]
Step = Literal["m2d", "m2d_as", "2024", "stage1", "stage1.1", "stage2", "stage2.1"]

# base and large as published (section III-C of 2210.14648); the smaller ones are ours.
ENCODERS = {
    "nano": M2dSpec(width=128, depth=4, heads=4, frames=208, patch_frames=8),
    "small": M2dSpec(width=384, depth=12, heads=6),
    "base": M2dSpec(),
    "large": M2dSpec(width=1024, depth=24, heads=16),
}
PREDICTORS = {
    "nano": PredictorSpec(width=128, depth=2, heads=4),
    "small": PredictorSpec(width=256, depth=4, heads=8),
    "base": PredictorSpec(),
    "large": PredictorSpec(),
}

BERT_BASE = "google-bert/bert-base-uncased"  # fetched when stage 2 starts
BERT = ClapTextSpec(
    kind="bert", vocab=30_522, positions=512, width=768, depth=12, heads=12, hidden=3072, pad_id=0,
    types=2, norm_eps=1e-12, pool="cls", projection="none",
)  # fmt: skip
GTE = SentenceTextSpec(width=768, encoder="thenlper/gte-base")  # 2024
NV_EMBED = SentenceTextSpec(width=4096, projection="linear", encoder="st:nvidia/NV-Embed-v2")
WORDS = SentenceTextSpec(width=256, projection="linear", encoder="words:256")  # ours, no download

AUDIOSET = 2_005_000  # clips
BATCH = 2048
# Clips, and what they are of (2503.22104). The first leaves out all of AudioCaps, Clotho, ESC-50
# and UrbanSound8K.
CORPORA = {
    "stage1": (2_532_215, ("AudioSet", "VGGSound", "WavCaps")),
    "stage2": (2_585_227, ("AudioSet", "VGGSound", "WavCaps", "AudioCaps", "Clotho")),
    "stage2.1": (439_743, ("WavCaps (part)", "AudioCaps", "Clotho")),
}

# In per cent, of the paper that a stage is of.
REPORTED = {
    "m2d": {"esc50/linear": 91.3, "us8k/linear": 87.6, "spcv2/linear": 96.0, "vc1/linear": 73.4,
            "average/linear": 80.2},
    "m2d_as": {"esc50/linear": 96.1, "us8k/linear": 89.8, "average/linear": 80.6},
    "2024": {"esc50/linear": 96.3, "us8k/linear": 88.8, "average/linear": 80.8,
             "esc50/zero_shot": 75.45, "us8k/zero_shot": 72.4, "gtzan/zero_shot": 75.17},
    "stage1.1": {"as/finetune": 49.0},
    "stage2.1": {"esc50/zero_shot": 94.3},
}  # fmt: skip


def m2d_clap(size: Size = "base", step: Step | None = None) -> tuple[Stage, ...]:
    """The stages in a size; of the four of 2025 each takes what the one before made. step: one
    alone. Raises ConfigError on another."""
    for what, asked, known in (("size", size, get_args(Size)), ("stage", step, get_args(Step))):
        if asked is not None and asked not in known:
            raise ConfigError(f"recipe m2d_clap has no {what} {asked!r}; it has {', '.join(known)}")
    steps: tuple[Step, ...] = (step,) if step else ("stage1", "stage1.1", "stage2", "stage2.1")
    return tuple(_STAGES[each](size) for each in steps)


# -- stages with masked modelling ------------------------------------------------------------------


def _m2d(size: Size) -> Stage:
    return Stage(name="m2d", recipe=_masked(size, "m2d", PAPER_2022, None, None, AUDIOSET))


def _m2d_as(size: Size) -> Stage:
    """M2D-X's case of labels (2404.06095): the clips' tags are the second task."""
    recipe = _masked(size, "m2d_as", "arXiv 2404.06095", None, None, AUDIOSET)
    assert recipe.objectives.masked
    masked = recipe.objectives.masked.model_copy(update={"second": SecondSpec(weight=1.0)})
    objectives = recipe.objectives.model_copy(update={"masked": masked})
    return Stage(name="m2d_as", recipe=recipe.model_copy(update={"objectives": objectives}))


def _2024(size: Size) -> Stage:
    text = GTE if size in ("base", "large") else WORDS
    return Stage(name="2024", recipe=_masked(size, "2024", PAPER_2024, "mlp", text, AUDIOSET))


def _stage1(size: Size) -> Stage:
    text = NV_EMBED if size in ("base", "large") else WORDS
    clips, corpora = CORPORA["stage1"]
    recipe = _masked(size, "stage1", PAPER, "tokens", text, clips)
    data = recipe.data.model_copy(update={"corpora": corpora})
    return Stage(name="stage1", recipe=recipe.model_copy(update={"data": data}))


def _masked(
    size: Size,
    step: Step,
    paper: str,
    projector: Literal["mlp", "tokens"] | None,
    text: TextSpec | None,
    clips: int,
) -> Recipe:
    encoder = ENCODERS[size].model_copy(update={"projector": projector})
    per_epoch = clips // BATCH  # what does not fill a batch is left out
    recipe = Recipe(
        name=f"m2d-clap-{size}-{step}",
        paper=paper,
        model=_model(encoder, text),
        objectives=ObjectiveSpec(
            contrastive=_clap_weight(size) if text else 0.0,
            masked=MaskedSpec(
                mask=RandomMask(ratio=0.7),
                predictor=PREDICTORS[size],
                decay=_decay(size),
            ),
        ),
        data=DataSpec(
            budget_clips=BATCH,
            max_s=6.07,  # 608 frames: a random crop of each clip
            corpora=("AudioSet",),
            measured_clips=5000,
        ),
        # fp16 with a scaler in the paper; bf16 needs none
        optim=OptimSpec(
            lr=2.4e-3, betas=(0.9, 0.95), weight_decay=0.05, clip_norm=3.0, precision="bf16",
            warmup_steps=20 * per_epoch, warmup_from_zero=True, steps=300 * per_epoch,
        ),
        run=RunSpec(log_every=50, eval_every=5000, save_every=1000),
        reported=REPORTED.get(step, {}),
    )  # fmt: skip
    return _nano(recipe, NANO_MASKED, max_s=2.07) if size == "nano" else recipe


def _decay(size: Size) -> DecaySpec:
    """nano's is ours: in its few steps the paper's target would not move."""
    if size == "nano":
        return DecaySpec(first=0.9999, last=0.9999)
    return DecaySpec(first=0.99995, last=0.99999)


def _clap_weight(size: Size) -> float:
    """Of CLAP beside M2D. nano's is ours: in its few steps 0.01 teaches the encoder no words."""
    return 0.05 if size == "nano" else 0.01


# -- the stages after it ---------------------------------------------------------------------------


def _stage11(size: Size) -> Stage:
    """AudioSet's 527 labels in the paper; the tags of the clips that are given."""
    nano = size == "nano"
    tuning = TuningSpec(
        preset="m2d_nano" if nano else "m2d_as2m", reported={} if nano else REPORTED["stage1.1"]
    )
    return Stage(name="stage1.1", tuning=tuning, takes="model")


def _stage2(size: Size) -> Stage:
    clips, corpora = CORPORA["stage2"]
    recipe = _frozen(size, "stage2", clips, corpora, StructuredMask(ratio=0.3))
    return Stage(name="stage2", recipe=recipe, takes="encoder")


def _stage21(size: Size) -> Stage:
    clips, corpora = CORPORA["stage2.1"]
    recipe = _frozen(size, "stage2.1", clips, corpora, StructuredMask(ratio=0.0))
    # all is in the file of stage 2, the scale too
    start = recipe.start.model_copy(update={"text": None})
    objectives = recipe.objectives.model_copy(update={"logit_scale": None})
    recipe = recipe.model_copy(update={"start": start, "objectives": objectives})
    return Stage(name="stage2.1", recipe=recipe, takes="model")


def _frozen(
    size: Size, step: Step, clips: int, corpora: tuple[str, ...], visible: StructuredMask
) -> Recipe:
    published = size in ("base", "large")
    window = {"frames": 401 if size == "nano" else 1001, "positions": "stored"}
    encoder = ENCODERS[size].model_copy(update={"projector": "tokens", **window})
    text: TextSpec = BERT
    if size == "large":  # wider than BERT's vectors
        text = BERT.model_copy(update={"projection": "two_layers"})
    if not published:
        text = SmallTextSpec(vocab=4096, depth=3, width=192, heads=3, hidden=512)
    per_epoch = clips // BATCH
    recipe = Recipe(
        name=f"m2d-clap-{size}-{step}",
        paper=PAPER,
        model=_model(encoder, text),
        start=StartSpec(text=BERT_BASE if published else None),
        objectives=ObjectiveSpec(visible=visible, frozen=True, logit_scale=100.0),
        data=DataSpec(budget_clips=BATCH, max_s=10.0, corpora=corpora),
        optim=OptimSpec(
            lr=2.4e-5 if published else 5e-4,  # ours: for a text encoder from scratch
            betas=(0.9, 0.95), weight_decay=0.05, clip_norm=3.0, precision="bf16",
            warmup_steps=5 * per_epoch, warmup_from_zero=True, steps=30 * per_epoch,
        ),
        run=RunSpec(log_every=50, eval_every=2000, save_every=1000),
        reported=REPORTED.get(step, {}),
    )  # fmt: skip
    return _nano(recipe, NANO_FROZEN, max_s=4.0) if size == "nano" else recipe


def _model(encoder: M2dSpec, text: TextSpec | None) -> ModelSpec:
    front_end = m2d_front_end()
    rows = front_end.mel_bins // encoder.patch_bins
    own = encoder.width if encoder.projector else rows * encoder.width
    if isinstance(text, SentenceTextSpec) and text.projection == "none":
        own = text.width  # the space is the sentence encoder's
    return ModelSpec(front_end=front_end, audio=encoder, text=text, embed_dim=own, max_s=30.0)


# -- ours: minutes on two CPU cores ----------------------------------------------------------------

NANO_MASKED = OptimSpec(
    lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, clip_norm=3.0, precision="bf16",
    warmup_steps=100, warmup_from_zero=True, steps=1500,
)  # fmt: skip
NANO_FROZEN = OptimSpec(
    lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05, clip_norm=1.0, precision="bf16",
    warmup_steps=50, steps=600,
)  # fmt: skip


def _nano(recipe: Recipe, optim: OptimSpec, *, max_s: float) -> Recipe:
    # AudioSet's mean and deviation, which are the front end's, did better than those of a few hours
    data = {"budget_clips": 32, "max_s": max_s, "corpora": (), "measured_clips": None}
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update=data),
            "optim": optim,
            "run": RunSpec(log_every=20, eval_every=500, save_every=200, keep_last=2),
            "reported": {},
        }
    )


_STAGES: dict[Step, Callable[[Size], Stage]] = {
    "m2d": _m2d,
    "m2d_as": _m2d_as,
    "2024": _2024,
    "stage1": _stage1,
    "stage1.1": _stage11,
    "stage2": _stage2,
    "stage2.1": _stage21,
}
