"""Heads that turn a clip's tokens into one vector.

Multi-head attention pooling (MAP): one learned query per clip attends to its tokens (Set
Transformer, 1810.00825; as used by SigLIP, 2303.15343). SLAP (2601.12594, section 2) puts one on
the audio and one on the text tower.

`NormedLinear` is what M2D is tuned on labels with (2210.14648, section IV-A).

P tokens of all clips, B clips, D width, H heads, E = D / H, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from echoic.nn.linear import Linear
from echoic.nn.transformer import SwiGLU


class MapHead(nn.Module):
    """Attention pooling, then a residual MLP and a projection. (P, D) packed tokens -> (B,
    out_width)."""

    def __init__(self, *, width: int, heads: int, hidden: int, out_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width)
        self.query = nn.Parameter(torch.empty(heads, width // heads))
        self.key_value = Linear(width, 2 * width, bias=False)
        self.out = Linear(width, width, bias=False)
        self.norm2 = nn.RMSNorm(width)
        self.mlp = SwiGLU(width=width, hidden=hidden)
        self.projection = Linear(width, out_width, bias=False)

    def forward(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        count = len(offsets) - 1
        segment = torch.repeat_interleave(torch.arange(count), offsets.diff()).to(tokens.device)
        key, value = self.key_value(self.norm(tokens)).unflatten(-1, (2, self.heads, -1)).unbind(1)
        scores = (key.float() * self.query).sum(-1) * self.query.shape[1] ** -0.5  # (P, H)
        weight = segment_softmax(scores, segment, count)
        pooled = value.new_zeros(count, *value.shape[1:], dtype=torch.float32)
        pooled = pooled.index_add(0, segment, weight[..., None] * value.float())  # (B, H, E)
        clip = self.out(pooled.flatten(1)).float()
        return self.projection(clip + self.mlp(self.norm2(clip)))


class NormedLinear(nn.Module):
    """Each feature brought to mean 0 and variance 1 over the batch, in inference over all that was
    met in training; then a linear layer. (B, D) -> (B, C)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.linear = nn.Linear(width, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, clip: Tensor) -> Tensor:
        out: Tensor = self.linear(self.norm(clip))
        return out


def segment_softmax(scores: Tensor, segment: Tensor, count: int) -> Tensor:
    """Softmax over the tokens of each clip. scores: (P, H); segment: (P,) clip of each token.
    Returns (P, H)."""
    index = segment[:, None].expand_as(scores)
    top = scores.new_full((count, scores.shape[1]), -torch.inf)
    top = top.scatter_reduce(0, index, scores.detach(), "amax")
    weight = (scores - top[segment]).exp()
    total = weight.new_zeros(count, scores.shape[1]).index_add(0, segment, weight)
    return weight / total[segment]
