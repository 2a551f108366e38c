"""Prototypes, to which a student and a teacher assign patches: the head that leads to them, and
what keeps the teacher from assigning all patches alike.

The head is that of DINO and iBOT (2104.14294, 2111.07832, section 3.3). SwAV's Sinkhorn-Knopp
(2006.09882, section 3.1; as in DINOv2, 2304.07193) and DINO's centring both come down to one number
per prototype, the bias b of

    target of a patch = softmax over prototypes of (cosine / temperature + b)

so that the (M, K) scores, gigabytes at the published sizes, need never be held whole.

M patches, K prototypes, D width, E width of the bottleneck.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from echoic.config import Spec
from echoic.nn.linear import Linear, linear
from echoic.objectives.gather import processes

Count = Annotated[int, Field(ge=1)]


class HeadSpec(Spec):
    """Size of a head; the defaults are those of iBOT and DINOv2, `prototypes` SynCLR's too."""

    layers: Count = 3
    hidden: Count = 2048
    bottleneck: Count = 256
    prototypes: Annotated[int, Field(ge=2)] = 65536


class PrototypeHead(nn.Module):
    """An MLP into the bottleneck, and the prototypes there: tokens (M, D) -> unit rows (M, E)."""

    def __init__(self, spec: HeadSpec, *, width: int) -> None:
        super().__init__()
        widths = [width, *[spec.hidden] * (spec.layers - 1), spec.bottleneck]
        self.layers = nn.ModuleList(Linear(*sides) for sides in pairwise(widths))
        self.prototypes = nn.Parameter(torch.empty(spec.prototypes, spec.bottleneck))
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.layers[0](tokens)
        for layer in self.layers[1:]:
            x = layer(F.gelu(x))
        return F.normalize(x.float(), dim=-1)

    def unit_prototypes(self) -> Tensor:
        """(K, E) of length 1: the weight norm of the published heads with its gain held at 1."""
        return F.normalize(self.prototypes, dim=-1)


# -- scores ----------------------------------------------------------------------------------------

# Elements of (M, K) worked on at a time: what a core's cache holds; what fills a GPU. With fewer
# rows than the last, reading the prototypes is what costs.
CPU_CHUNK, GPU_CHUNK, FEWEST_ROWS = 2**19, 2**25, 128
# Elements up to which the teacher's are kept between passes (256 MB); beyond they are made anew.
KEPT = 2**26


def chunk_rows(rows: Tensor, prototypes: Tensor) -> int:
    """How many rows of (M, K) are worked on at a time."""
    chunk = CPU_CHUNK if rows.device.type == "cpu" else GPU_CHUNK
    return max(FEWEST_ROWS, chunk // len(prototypes))


def product(a: Tensor, b: Tensor, low: torch.dtype | None) -> Tensor:
    """a (n, m) @ b (l, m).T, summed up in float32. low: to which both are rounded before, on a
    GPU: rounding the result to it would move a score of 1 / 0.04 by a tenth."""
    if low is None:
        return linear(a, b)
    return torch.mm(a.to(low), b.to(low).t(), out_dtype=torch.float32)


def autocast_type(device: torch.device) -> torch.dtype | None:
    """What `product` may round to: autocast's type on a GPU of NVIDIA or AMD, whose products have
    a float32 result; None without autocast, or elsewhere."""
    on = device.type == "cuda" and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None


class Scores:
    """A teacher's: cosine / temperature of unit rows (M, E) with unit prototypes (K, E), some rows
    at a time: iterated over, it gives (n, K) after (n, K). temperature: scalar."""

    def __init__(
        self,
        rows: Tensor,
        prototypes: Tensor,
        temperature: Tensor,
        *,
        low: torch.dtype | None = None,
    ) -> None:
        self.rows, self.prototypes, self.temperature, self.low = rows, prototypes, temperature, low
        small = len(rows) * len(prototypes) <= KEPT
        self._kept = list(self._made()) if small else None

    def __iter__(self) -> Iterator[Tensor]:
        return self._made() if self._kept is None else iter(self._kept)

    def _made(self) -> Iterator[Tensor]:
        for rows in self.rows.split(chunk_rows(self.rows, self.prototypes)):
            yield product(rows / self.temperature, self.prototypes, self.low)


# -- against collapse ------------------------------------------------------------------------------


class Sinkhorn(nn.Module):
    """The bias with which all prototypes get the same share of the patches of all processes, nearly
    so after a few iterations.

    An iteration of Sinkhorn-Knopp scales prototypes to equal sums, then patches to sums of 1. The
    scale of a prototype is exp(bias); that of a patch is the softmax.
    """

    def __init__(self, iterations: int = 3) -> None:
        super().__init__()
        self.iterations = iterations

    def forward(self, scores: Scores) -> Tensor:
        """-> (K,)."""
        bias = -_log_sums(scores)
        for _ in range(self.iterations - 1):
            taken = torch.zeros_like(bias)
            for chunk in scores:
                taken += (chunk + bias).softmax(1).sum(0)
            bias = bias - _summed(taken).log()
        return bias


class Centred(nn.Module):
    """The bias that takes off each prototype's running mean cosine (DINO): what all patches have in
    common does not tell them apart."""

    centre: Tensor  # (K,)

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(prototypes))

    def forward(self, scores: Scores) -> Tensor:
        """-> (K,), by the patches of the calls before. In training these are then reckoned in."""
        bias = -self.centre / scores.temperature
        if self.training:
            self._reckon(scores)
        return bias

    def _reckon(self, scores: Scores) -> None:
        # the mean cosine is the mean row's product: no score is needed for it
        rows = scores.rows
        sums = _summed(torch.cat([rows.new_tensor([len(rows)]), rows.sum(0)]))
        mean = linear(sums[None, 1:] / sums[0].clamp(min=1), scores.prototypes)[0]
        self.centre.lerp_(mean, 1 - self.momentum)


def _log_sums(scores: Scores) -> Tensor:
    """(K,): log of the sum over the patches of all processes of exp(score)."""
    total = scores.rows.new_full((len(scores.prototypes),), -torch.inf)
    for chunk in scores:
        total = total.logaddexp(chunk.logsumexp(0))
    if processes() == 1:
        return total
    most = total.clone()
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return most + _summed((total - most).exp()).log()


def _summed(sums: Tensor) -> Tensor:
    """Over all processes, in place."""
    if processes() > 1:
        dist.all_reduce(sums)
    return sums
