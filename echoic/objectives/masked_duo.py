"""Masked modelling duo (M2D, 2210.14648, section III): what a target encoder makes of the masked
patches alone is predicted from what the online encoder makes of the visible ones alone.

The target is a running average of the online encoder's blocks; the patch embedding, positions and
class token are the online ones. M2D-X (2404.06095) adds a second task on the same forward pass, and
a student that hears noise; M2D-S (2305.14079) is its case of another model's features as targets.
`objectives/contrastive.py` gives the other loss of M2D-CLAP (2406.02032, 2503.22104).

B clips, P patches of all clips, V visible, M masked, R patch rows of a column, C columns of all
clips, D width, E width of the second task's targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from echoic.config import Spec
from echoic.nn.linear import Linear
from echoic.nn.masking import Mask, take
from echoic.nn.vit import (
    Vit,
    init_vit,
    laid,
    prepend,
    row_means,
    sin_cos_positions,
    split_first,
)
from echoic.objectives.gather import mean_over_all
from echoic.types import Ragged

Distance = Callable[[Tensor, Tensor], Tensor]
Decay = Annotated[float, Field(ge=0, le=1)]


class PatchEncoder(Protocol):
    """What the objective needs of an encoder. Patches are ragged (P, D), column after column."""

    @property
    def rows(self) -> int:
        """R."""
        ...

    def columns_in(self, frames: int) -> int:
        """How many columns `patches` makes of that many frames."""
        ...

    def patches(self, frames: Ragged) -> Ragged:
        """Frames (ΣN, F) -> patches (P, D), embedded, with their positions."""
        ...

    def with_class(self, patches: Ragged) -> Ragged:
        """The class token before each clip's: (P + B, D)."""
        ...

    def encode(self, patches: Ragged) -> Ragged:
        """Some of them -> the same encoded, the class token first: (V + B, D)."""
        ...

    def get_parameter(self, target: str, /) -> nn.Parameter:
        """That of this name; `blocks` and `norm` are named as in `Vit`."""
        ...


# -- the loss ------------------------------------------------------------------------------------


def standardised(target: Tensor) -> Tensor:
    """(M, D), each row with mean 0 and variance 1: (x - mean) / (var + 1e-6).sqrt(), by the kernel
    of LayerNorm, whose variance is over D and not D - 1."""
    width = target.shape[-1]
    share = (width - 1) / width
    return F.layer_norm(target, (width,), eps=1e-6 * share) * share**0.5


def cosine_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """2 - 2 cos of each row: (M, D) twice -> (M,). The squared distance of unit vectors."""
    return 2 - 2 * F.cosine_similarity(predicted, target, dim=-1)


def square_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean square of each row: (M, D) twice -> (M,)."""
    return (predicted - target).square().mean(-1)


# -- the networks --------------------------------------------------------------------------------


class PredictorSpec(Spec):
    """Size of the predictor; the defaults are M2D's."""

    width: Annotated[int, Field(ge=4, multiple_of=4)] = 512
    depth: Annotated[int, Field(ge=1)] = 8
    heads: Annotated[int, Field(ge=1)] = 16
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        return self


class Predictor(Vit):
    """What was encoded of the visible patches, class token first (V + B, D) -> what is expected at
    the masked ones (M, D). width: D; rows, columns: of the largest grid.

    Parameter names are the published ones without their `decoder_`.
    """

    places: Tensor  # (R columns, width inside), column after column

    def __init__(self, spec: PredictorSpec, *, width: int, rows: int, columns: int) -> None:
        super().__init__(
            width=spec.width,
            depth=spec.depth,
            heads=spec.heads,
            mlp_ratio=spec.mlp_ratio,
            eps=spec.norm_eps,
        )
        self.embed = Linear(width, spec.width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, spec.width))
        self.pred = Linear(spec.width, width)
        init_vit(self)
        nn.init.normal_(self.mask_token, std=0.02)
        places = sin_cos_positions(columns, rows, spec.width)
        self.register_buffer("places", places, persistent=False)

    def forward(self, encoded: Ragged, mask: Mask) -> Tensor:
        first, visible = split_first(Ragged(self.embed(encoded.values), encoded.offsets))
        lengths = [v + m for v, m in zip(mask.visible.lengths, mask.masked.lengths, strict=True)]
        gaps = self.mask_token[0].to(visible.values.dtype).expand(sum(lengths), -1)
        whole = gaps.index_copy(0, mask.visible.values, visible.values)
        patches = Ragged.from_lengths(whole + laid(self.places, lengths), lengths)
        _, state = split_first(self.through(prepend(first, patches)))
        predicted: Tensor = self.pred(take(state, mask.masked).values)
        return predicted


@dataclass(frozen=True)
class Duo:
    """One forward pass. loss: scalar. visible: what the online encoder made of the visible patches,
    ragged (V, D), no class token. predicted, target: (M, D); target before it is standardised."""

    loss: Tensor
    visible: Ragged
    predicted: Tensor
    target: Tensor
    mask: Mask

    def clip(self) -> Tensor:
        """(B, D): the mean over each clip's visible patches, which M2D-CLAP projects."""
        return row_means(self.visible)

    def stacked(self, rows: int) -> Ragged:
        """Ragged (C, R D): of each column its patches end to end, as encoded where visible, as
        predicted where masked."""
        shape = (len(self.visible.values) + len(self.predicted), self.predicted.shape[1])
        grid = self.predicted.new_empty(shape)
        grid = grid.index_copy(0, self.mask.masked.values, self.predicted)
        grid = grid.index_copy(0, self.mask.visible.values, self.visible.values.to(grid.dtype))
        offsets = (self.mask.visible.offsets + self.mask.masked.offsets) // rows
        return Ragged(grid.unflatten(0, (-1, rows)).flatten(1), offsets)


class MaskedDuo(nn.Module):
    """The target encoder and the predictor, which belong to the objective and are not exported; the
    online encoder is handed to each call.

    target: blocks and norm like the online encoder's; they get no gradient, and `follow` it.
    target_layers: the blocks whose mean is the target; None: the last. prepare: what is done to the
    targets; distance: (M, D) twice -> (M,).
    """

    def __init__(
        self,
        target: Vit,
        predictor: Predictor,
        *,
        target_layers: Sequence[int] | None = None,
        prepare: Callable[[Tensor], Tensor] = standardised,
        distance: Distance = cosine_distance,
    ) -> None:
        super().__init__()
        self.target = target.requires_grad_(False)
        self.predictor = predictor
        self.target_layers, self.prepare, self.distance = target_layers, prepare, distance

    def forward(
        self, encoder: PatchEncoder, frames: Ragged, mask: Mask, *, clean: Ragged | None = None
    ) -> Duo:
        """frames: (ΣN, F), as the online encoder hears them. mask: of their patches. clean: the
        same as the target encoder hears them, where that differs (M2D-X)."""
        patches = encoder.patches(frames)
        mask = mask.to(patches.values.device)
        encoded = encoder.encode(take(patches, mask.visible))
        predicted = self.predictor(encoded, mask)
        with torch.no_grad():
            heard = patches if clean is None else encoder.patches(clean)
            target = self.targets(encoder, take(heard, mask.masked))
        loss = self.loss(predicted, target)
        return Duo(loss, split_first(encoded)[1], predicted, target, mask)

    @torch.no_grad()
    def targets(self, encoder: PatchEncoder, masked: Ragged) -> Tensor:
        """Embedded patches (M, D), all masked -> (M, D)."""
        encoded = self.target.through(encoder.with_class(masked), self.target_layers)
        return split_first(encoded)[1].values

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Mean over all masked patches, in float32. (M, D) twice -> scalar."""
        with torch.autocast(predicted.device.type, enabled=False):
            return mean_over_all(self.distance(predicted.float(), self.prepare(target.float())))

    @torch.no_grad()
    def start(self, encoder: PatchEncoder) -> None:
        """Let the target be the encoder as it is.

        differs from the code: upstream draws other random weights for it; the paper says neither.
        """
        self.follow(encoder, 0.0)

    @torch.no_grad()
    def follow(self, encoder: PatchEncoder, decay: float) -> None:
        """After each step."""
        follow(self.target, encoder, decay)


class Named(Protocol):
    """What has parameters by name, as a module has."""

    def get_parameter(self, target: str, /) -> nn.Parameter: ...


def follow(teacher: nn.Module, student: Named, decay: float) -> None:
    """teacher <- decay * teacher + (1 - decay) * student, of the parameters that the teacher
    has."""
    names, parameters = zip(*teacher.named_parameters(), strict=True)
    torch._foreach_lerp_(parameters, [student.get_parameter(name) for name in names], 1 - decay)


class DecaySpec(Spec):
    """How slowly the target follows, on a line from the first step to the last."""

    first: Decay = 0.99995
    last: Decay = 0.99999

    def at(self, step: int, steps: int) -> float:
        """step: from 0 to steps - 1."""
        return self.first + (self.last - self.first) * step / max(1, steps - 1)


# -- the second task -----------------------------------------------------------------------------


class ColumnPredictor(nn.Module):
    """The second task's one linear layer on stacked columns (C, R D) -> (C, E)."""

    def __init__(self, *, width: int, rows: int, out_width: int) -> None:
        super().__init__()
        self.rows = rows
        self.linear = Linear(rows * width, out_width)
        init_vit(self)

    def forward(self, duo: Duo) -> Ragged:
        columns = duo.stacked(self.rows)
        return Ragged(self.linear(columns.values), columns.offsets)


def column_loss(predicted: Ragged, target: Tensor) -> Tensor:
    """Features of a teacher as targets, one row per column (M2D-X: a frozen M2D's stacked ones;
    M2D-S: HuBERT's): ragged (C, E), (C, E) -> scalar."""
    each = cosine_distance(predicted.values.float(), standardised(target.float()))
    return mean_over_all(each)


def label_loss(predicted: Ragged, labels: Tensor) -> Tensor:
    """Labels as targets (M2D-AS): ragged (C, E), labels (B, E) of 0 and 1 -> scalar. The logits of
    a clip are the mean over its columns."""
    logits = row_means(Ragged(predicted.values.float(), predicted.offsets))
    each = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    return mean_over_all(each.mean(1))


def at_columns(features: Ragged, columns: Sequence[int]) -> Tensor:
    """A teacher's features, ragged (Σn, E) at its own rate, averaged to each clip's columns: (C,
    E)."""
    pairs = zip(features, columns, strict=True)
    return torch.cat([F.adaptive_avg_pool1d(x.T, count).T for x, count in pairs])


def with_noise(clean: Tensor, noise: Tensor, share: float, std: float) -> Tensor:
    """Log-mels (N, F) as the front end gives them, (x - mean) / std, mixed as power (M2D-X):
    `share` of the noise, the rest of the clean one. Each has the mean of its own corpus taken off.

    Raises ValueError where share is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share of {share} is not in [0, 1]")
    power = share * (noise * std).exp() + (1 - share) * (clean * std).exp()
    return power.clamp(min=torch.finfo(torch.float32).eps).log() / std
