"""How a classifier is trained on an audio tower: settings, and those that are published."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import Field

from echoic.audio.augment import FrameAugment
from echoic.config import Spec
from echoic.objectives.tagging import HeadKind
from echoic.types import ConfigError


class FinetuneSpec(Spec):
    """How a head, and the tower unless it is frozen, are trained.

    per_clip: labels per clip; "auto" is "one" where every clip has exactly one. A step is made of
    `accumulate` batches of `batch_clips`. final_lr_share: 1 keeps the learning rate constant, 0 is
    half a cosine down to 0.
    cache_mb: of decoded sound kept in memory, of training and of validation each.
    """

    head: HeadKind = "mlp"
    freeze: bool = False
    per_clip: Literal["auto", "one", "many"] = "auto"
    epochs: Annotated[int, Field(ge=1)] = 20
    batch_clips: Annotated[int, Field(ge=1)] = 16
    accumulate: Annotated[int, Field(ge=1)] = 1
    lr: Annotated[float, Field(ge=0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_lr_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    frame_augment: FrameAugment = FrameAugment()
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    cache_mb: Annotated[int, Field(ge=0)] = 1024
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


# As the released scripts have it: Adam without decay, 160 clips on each of 24 GPUs.
_LAION = FinetuneSpec(head="mlp", epochs=100, batch_clips=160 * 24, lr=1e-4, seed=3407)

PRESETS: dict[str, FinetuneSpec] = {
    # ours, for thousands of clips on two CPU cores
    "linear": FinetuneSpec(head="linear", freeze=True, epochs=100, batch_clips=32, lr=1e-3),
    "mlp": FinetuneSpec(head="mlp", freeze=True, epochs=50, batch_clips=32, lr=1e-3),
    "finetune": FinetuneSpec(clip_norm=1.0),
    "laion_linear": _LAION.model_copy(
        update={"head": "linear", "freeze": True, "final_lr_share": 1.0}
    ),
    "laion_mlp": _LAION.model_copy(update={"freeze": True, "final_lr_share": 1.0}),
    "laion_finetune": _LAION.model_copy(
        update={"frame_augment": FrameAugment(stripes=2, time_share=64 / 1001, freq_bins=8)}
    ),
}


def find_preset(name: str) -> FinetuneSpec:
    """Raises ConfigError that names the known ones."""
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(PRESETS)}"
        raise ConfigError(f"no preset {name!r}; {hint}")
    return PRESETS[name]
