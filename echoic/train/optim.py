"""The optimizers, their learning-rate schedule, and which parameters they decay.

Loshchilov & Hutter 1711.05101 (AdamW), 1608.03983 (half cosine); LARS in train/lars.py. Schedules
as LAION-CLAP's and M2D's training code has them; where the two differ, `warmup_cosine` has a named
argument.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from echoic.config import Spec
from echoic.train.lars import Lars

Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSpec(Spec):
    """The rule by which a gradient moves the weights.

    betas, eps, amsgrad: of AdamW. momentum: of SGD and LARS, whose decay joins the gradient.
    """

    kind: Literal["adamw", "sgd", "lars"] = "adamw"
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    amsgrad: bool = False
    momentum: Decay = 0.9


class OptimSpec(OptimizerSpec):
    """How the weights move. A step is one update of the weights, made from `accumulate` batches.

    lr: the peak, reached after `warmup_steps`; the last step ends near lr * final_lr_share.
    warmup_from_zero: the first step has learning rate 0 (M2D) instead of lr / warmup_steps (LAION).
    clip_norm: largest L2 norm of the whole gradient; None leaves it as it is. Logged either way.
    precision: bf16 runs the forward pass under autocast; weights, gradients and moments stay fp32.
    ema: decay of a running average of the weights, for evaluation and export; None keeps none.
    """

    lr: Annotated[float, Field(ge=0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    warmup_from_zero: bool = False
    steps: Annotated[int, Field(ge=1)]
    final_lr_share: Share = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    accumulate: Annotated[int, Field(ge=1)] = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    ema: Decay | None = None

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} is more than steps {self.steps}: lower it too"
            )
        return self

    def lr_at(self, step: int) -> float:
        """Learning rate of the step with that number, counted from 0."""
        return warmup_cosine(
            step,
            peak=self.lr,
            warmup=self.warmup_steps,
            total=self.steps,
            final=self.lr * self.final_lr_share,
            ramp_offset=0.0 if self.warmup_from_zero else 1.0,
        )


def warmup_cosine(
    now: float,
    *,
    peak: float,
    warmup: float,
    total: float,
    final: float = 0.0,
    ramp_offset: float = 1.0,
) -> float:
    """A line up to `peak`, then half a cosine down to `final`; a pure function of `now`.

    now, warmup, total: in steps, or all three in (fractional) epochs.
    ramp_offset: the line is peak * (now + ramp_offset) / warmup: 1 in LAION-CLAP, so that step 0
    already learns and the peak comes twice; 0 in M2D, which starts at 0 and counts in epochs.
    """
    if now < warmup:
        return peak * (now + ramp_offset) / warmup
    done = (now - warmup) / max(total - warmup, 1e-12)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def decays(parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: matrices yes; biases, gains, scales and what is marked no.

    A module marks a parameter of 2 or more dimensions (a table of relative positions, a class
    token) by setting `parameter.no_weight_decay = True`.
    """
    return parameter.ndim >= 2 and not getattr(parameter, "no_weight_decay", False)


def make_optimizer(task: nn.Module, spec: OptimSpec) -> torch.optim.Optimizer:
    """Over the trainable parameters, decayed and not; the loop sets `lr` before each step."""
    trainable = [(name, p) for name, p in task.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [(n, p) for n, p in trainable if decays(p)], "weight_decay": spec.weight_decay},
        {"params": [(n, p) for n, p in trainable if not decays(p)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if spec.kind == "sgd":
        return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum)
    if spec.kind == "lars":
        return Lars(groups, lr=spec.lr, momentum=spec.momentum)
    return torch.optim.AdamW(
        groups,
        lr=spec.lr,
        betas=spec.betas,
        eps=spec.eps,
        amsgrad=spec.amsgrad,
        fused=True,  # one kernel per step instead of several per parameter, on CPU too
    )
