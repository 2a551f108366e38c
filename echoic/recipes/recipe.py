"""What a recipe is: a description of a model, its objectives, its data handling and its training,
and no code.

A recipe function returns one of these with the paper's values in it; the command line may change
any value by its dotted path (`optim.lr=3e-4`). It composes and never loops.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from echoic.audio.augment import FrameAugment, WaveAugment
from echoic.config import Spec
from echoic.model import ModelSpec
from echoic.train.loop import RunSpec
from echoic.train.optim import OptimSpec


class DataSpec(Spec):
    """How clips become batches.

    budget_tokens: audio tokens in one batch. max_s: a longer clip gives one window of that length,
    drawn anew each epoch. meaning: which rows of a batch say the same: those of equal caption
    ("text"), or those of equal tags too ("tags").
    """

    budget_tokens: Annotated[int, Field(ge=1)]
    max_s: Annotated[float, Field(gt=0)] = 30.0
    meaning: Literal["text", "tags"] = "text"
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    cache_mb: Annotated[int, Field(ge=0)] = 1024


class ObjectiveSpec(Spec):
    """The weight of each objective in the loss."""

    contrastive: float = 1.0


class Recipe(Spec):
    """A whole training. `reported`: the paper's own figures, shown beside ours."""

    name: str
    paper: str
    model: ModelSpec
    objectives: ObjectiveSpec = ObjectiveSpec()
    data: DataSpec
    wave_augment: WaveAugment = WaveAugment()
    frame_augment: FrameAugment = FrameAugment()
    optim: OptimSpec
    run: RunSpec = RunSpec()
    reported: dict[str, float] = Field(default_factory=dict)
