"""The cross-entropy of a student's assignment of patches to prototypes against a teacher's, without
the (M, K) tensors that it runs over.

Some rows at a time both assignments are made, and with them the gradient by the student's rows and
prototypes, as the loss is a sum of rows; the backward pass only scales it (as Liger, 2410.10989,
does for a vocabulary). Nothing is computed twice, and no more is held than some rows of (M, K).

M patches, K prototypes, E width of the bottleneck, n rows at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from echoic.objectives.prototypes import Scores, chunk_rows, product

MONITORS = ("prototype_use", "prototypes_won", "teacher_entropy", "student_entropy", "teacher_kl")


@dataclass(frozen=True)
class Teacher:
    """A teacher's assignment of each patch: softmax(scores + bias). scores: (M, K) in parts. bias:
    (K,)."""

    scores: Scores
    bias: Tensor


def cross_entropy_sum(
    student: Tensor, prototypes: Tensor, teacher: Teacher, temperature: float
) -> tuple[Tensor, Tensor]:
    """student: unit rows (M, E); prototypes: its own, unit rows (K, E); temperature: its own.
    Returns the sum over the M patches of the cross-entropy in nats, which has a gradient, and the
    MONITORS (5,) of this process's patches, which have none:

    prototype_use: exp(entropy of the mean assignment) / K; 1 where all are used alike, 1 / K where
        all patches are assigned to one.
    prototypes_won: how many prototypes are some patch's first, of as many as could be, min(M, K).
    teacher_entropy, student_entropy: of a patch's assignment, mean over patches, over log K.
    teacher_kl: what of the cross-entropy is not the teacher's own entropy, mean, in nats.
    """
    found: tuple[Tensor, Tensor] = _CrossEntropySum.apply(student, prototypes, teacher, temperature)
    return found


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, prototypes: Tensor, teacher: Teacher, temperature: float
    ) -> tuple[Tensor, Tensor]:
        learns, low = any(ctx.needs_input_grad), teacher.scores.low
        tally = _Tally(prototypes)
        row_grads, prototype_grad = [], torch.zeros_like(prototypes)
        for rows, scores in zip(
            student.split(chunk_rows(student, prototypes)), teacher.scores, strict=True
        ):
            log_target = (scores + teacher.bias).log_softmax(1)
            log_found = product(rows / temperature, prototypes, low).log_softmax(1)
            target, found = log_target.exp(), log_found.exp()
            tally.add(target, log_target, found, log_found)
            if learns:
                grad = found.sub_(target)  # by the scores
                row_grads.append(product(grad, prototypes.t(), low))
                prototype_grad += product(grad.t(), rows.t(), low)
        if learns:
            ctx.save_for_backward(torch.cat(row_grads) / temperature, prototype_grad / temperature)
        monitors = tally.monitors()
        ctx.mark_non_differentiable(monitors)
        return tally.cross, monitors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        row_grads, prototype_grad = ctx.saved_tensors
        return grads[0] * row_grads, grads[0] * prototype_grad, None, None


class _Tally:
    """What is summed up over the patches."""

    def __init__(self, prototypes: Tensor) -> None:
        self.rows, count = 0, len(prototypes)
        self.taken, self.won = prototypes.new_zeros(2, count)
        self.cross, self.teacher, self.student = prototypes.new_zeros(3)

    def add(self, target: Tensor, log_target: Tensor, found: Tensor, log_found: Tensor) -> None:
        """Each (n, K)."""
        self.rows += len(target)
        self.cross = self.cross - (target * log_found).sum()
        self.teacher = self.teacher - (target * log_target).sum()
        self.student = self.student - (found * log_found).sum()
        self.taken += target.sum(0)
        self.won.index_fill_(0, target.argmax(1), 1)

    def monitors(self) -> Tensor:
        rows, count = max(1, self.rows), len(self.taken)
        share = self.taken / rows
        use = torch.special.entr(share).sum().exp() / count
        won = self.won.sum() / min(rows, count)
        entropies = torch.stack([self.teacher, self.student]) / (rows * math.log(count))
        kl = (self.cross - self.teacher) / rows
        return torch.stack([use, won, *entropies, kl])
