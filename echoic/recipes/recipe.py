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
from echoic.nn.masking import MaskingSpec, RandomMask
from echoic.objectives.masked_duo import DecaySpec, PredictorSpec
from echoic.objectives.self_distillation import DistillationSpec
from echoic.train.loop import RunSpec
from echoic.train.optim import OptimSpec


class DataSpec(Spec):
    """How clips become batches.

    budget_tokens: audio tokens in one batch; or budget_clips: its clips, each counted as long as
    the longest. max_s: a longer clip gives one window of that length, or of what the objective
    hears where that is less, drawn anew each epoch. meaning: which rows of a batch say the same:
    those of equal caption ("text"), or those of equal tags too ("tags"). captions: of a clip that
    has several kinds, those written by people, those generated of its tags, or all; None takes what
    there is, written first. corpora: what the paper trained on, for people.

    sentences: a folder of caption vectors (`echoic data embed-captions`), for a model that reads
    those; None makes them in the run's folder, by the model's own sentence encoder. measured_clips:
    of how many clips the front end's mean and deviation are measured before training (M2D); None
    leaves them as they stand in the model.
    """

    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    budget_clips: Annotated[int, Field(ge=2)] | None = None
    max_s: Annotated[float, Field(gt=0)] = 30.0
    meaning: Literal["text", "tags"] = "text"
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    captions: Literal["written", "generated", "all"] | None = None
    cache_mb: Annotated[int, Field(ge=0)] = 1024
    corpora: tuple[str, ...] = ()
    sentences: str | None = None
    measured_clips: Annotated[int, Field(ge=1)] | None = None

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
    encoder: a model whose audio encoder is taken, with its front end, and nothing else (M2D).
    audio: an HTSAT or Cnn14 checkpoint trained on AudioSet, a path. text: a folder or a Hub name of
    a RoBERTa, BERT or BART, which also brings its tokenizer.
    """

    model: str | None = None
    encoder: str | None = None
    audio: str | None = None
    text: str | None = None


Weight = Annotated[float, Field(ge=0)]


class SecondSpec(Spec):
    """A second task on the forward pass of masked modelling. teacher: whose features are predicted,
    as `echoic.teachers` names it: an M2D's file (M2D-X) or "hubert:NAME@LAYER" (M2D-S); None: the
    clips' tags are (M2D-AS)."""

    teacher: str | None = None
    weight: Weight = 1.0


class NoiseSpec(Spec):
    """What the student hears over the sound, while its teacher hears it clean (M2D-X). data: a
    table, a folder or shards. share: of the noise in the mixture's power."""

    data: str
    share: Annotated[float, Field(ge=0, le=1)] = 0.2


class MaskedSpec(Spec):
    """Masked modelling duo (2210.14648). target_layers: blocks, from 0, whose mean is the target;
    None: the last."""

    weight: Weight = 1.0
    mask: MaskingSpec = RandomMask(ratio=0.7)
    predictor: PredictorSpec = PredictorSpec()
    decay: DecaySpec = DecaySpec()
    target_layers: tuple[int, ...] | None = None
    second: SecondSpec | None = None
    noise: NoiseSpec | None = None

    @model_validator(mode="after")
    def _something_is_masked(self) -> Self:
        if not self.mask.ratio:
            raise ValueError("mask.ratio 0: of what is all visible nothing can be predicted")
        return self


class ObjectiveSpec(Spec):
    """What is learnt. contrastive: the weight of sound against text; 0 leaves it out. pairs: by
    which loss. logit_scale: at which the cosine's factor starts (SigLIP's sigmoid: 10); None: as
    the model has it. negatives: what else a clip is told from, the clips of its "batch", of all
    processes, or of the whole "step", of all its batches (gradient caching: the memory of one
    batch, and a second pass through the encoders without gradient). scores: how those of all pairs
    are held, "whole", "chunked" (some at a time), or by a "ring" (nor are all rows on any process);
    loss and gradient are the same.

    captioning: the weight of what the model's decoder says; distillation: SLAP's self-distillation.
    0 and None leave them out. parallel_captions: the share of batches in which all words are
    foretold at once. shared_view: all losses hear the masked view, at half the cost.

    masked: M2D's objective; None leaves it out. visible: without it, which patches of an M2D the
    contrastive loss hears; None: all of each clip. frozen: the audio encoder stays as it is."""

    contrastive: Weight = 1.0
    pairs: Literal["softmax", "sigmoid"] = "softmax"
    negatives: Literal["batch", "step"] = "batch"
    scores: Literal["whole", "chunked", "ring"] = "whole"
    captioning: Weight = 0.0
    parallel_captions: Annotated[float, Field(ge=0, le=1)] = 0.0
    distillation: DistillationSpec | None = None
    shared_view: bool = False
    masked: MaskedSpec | None = None
    visible: MaskingSpec | None = None
    frozen: bool = False
    logit_scale: Annotated[float, Field(ge=1, le=100)] | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not (self.contrastive or self.captioning or self.masked or self.distillation):
            raise ValueError("contrastive 0 and nothing else: nothing is learnt")
        if self.negatives == "step" and not self.contrastive:
            raise ValueError("negatives of the step without contrastive: nothing is told apart")
        if self.shared_view and self.distillation is None:
            raise ValueError("shared_view without distillation: nothing is masked")
        if self.parallel_captions and not self.captioning:
            raise ValueError("parallel_captions without captioning: no word is foretold")
        if self.masked is not None and (self.visible is not None or self.frozen):
            raise ValueError("visible and frozen are for trainings without masked")
        return self


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


class TuningSpec(Spec):
    """Tuning of an audio encoder on labels. preset: of `echoic finetune`; changes: to its settings,
    as `epochs=30`. reported: as in a recipe."""

    preset: str
    changes: tuple[str, ...] = ()
    reported: dict[str, float] = Field(default_factory=dict)


class Stage(Spec):
    """One training of several: by a recipe, or tuning on labels. takes: what of the file of the
    stage before it starts from."""

    name: str
    recipe: Recipe | None = None
    tuning: TuningSpec | None = None
    takes: Literal["encoder", "model"] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.recipe is None) == (self.tuning is None):
            raise ValueError("a stage has a recipe or a tuning")
        return self
