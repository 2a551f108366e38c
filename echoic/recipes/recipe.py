"""What a recipe is: a description of a model, its objectives, its data handling and its training,
and no code.

A recipe function returns one of these with the paper's values in it; the command line may change
any value by its dotted path (`optim.lr=3e-4`). It composes and never loops.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from echoic.audio.augment import FrameAugment, WaveAugment
from echoic.config import Spec
from echoic.model import ModelSpec
from echoic.train.loop import RunSpec
from echoic.train.optim import OptimSpec


class DataSpec(Spec):
    """How clips become batches.

    budget_tokens: audio tokens in one batch; or budget_clips: its clips, for encoders to which all
    clips cost the same. max_s: a longer clip gives one window of that length, drawn anew each
    epoch. meaning: which rows of a batch say the same: those of equal caption ("text"), or those of
    equal tags too ("tags"). captions: of a clip that has several kinds, those written by people,
    those generated of its tags, or all; None takes what there is, written first. corpora: what the
    paper trained on, for people.
    """

    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    budget_clips: Annotated[int, Field(ge=2)] | None = None
    max_s: Annotated[float, Field(gt=0)] = 30.0
    meaning: Literal["text", "tags"] = "text"
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    captions: Literal["written", "generated", "all"] | None = None
    cache_mb: Annotated[int, Field(ge=0)] = 1024
    corpora: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.budget_tokens is None) == (self.budget_clips is None):
            raise ValueError("give one of budget_tokens and budget_clips, the other null")
        return self

    def tokens(self, of_a_clip: int) -> int:
        """The budget in tokens. of_a_clip: what each clip costs, where all cost the same."""
        if self.budget_tokens is not None:
            return self.budget_tokens
        return (self.budget_clips or 0) * of_a_clip


class StartSpec(Spec):
    """From which published weights a training starts; None starts from scratch.

    model: a whole model to train on, in any form that `echoic.load` opens, by path or name; then
    `text` is only asked for a tokenizer, and only where the model brings none.
    audio: an HTSAT or Cnn14 checkpoint trained on AudioSet, a path. text: a folder or a Hub name of
    a RoBERTa, BERT or BART, which also brings its tokenizer.
    """

    model: str | None = None
    audio: str | None = None
    text: str | None = None


class ObjectiveSpec(Spec):
    """The weight of each objective in the loss."""

    contrastive: float = 1.0


class Recipe(Spec):
    """A whole training. `reported`: the paper's own figures, shown beside ours."""

    name: str
    paper: str
    model: ModelSpec
    start: StartSpec = StartSpec()
    objectives: ObjectiveSpec = ObjectiveSpec()
    data: DataSpec
    wave_augment: WaveAugment = WaveAugment()
    frame_augment: FrameAugment = FrameAugment()
    optim: OptimSpec
    run: RunSpec = RunSpec()
    reported: dict[str, float] = Field(default_factory=dict)
