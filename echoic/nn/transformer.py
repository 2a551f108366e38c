"""The pre-norm block that our own encoders share: RMSNorm, packed attention with RoPE, SwiGLU, no
biases.

SLAP (2601.12594, section 2) names the parts: RMSNorm (1910.07467), SwiGLU (2002.05202), rotary
positions (2104.09864).

P tokens, D width, H heads, E = D / H.
"""

from __future__ import annotations

from torch import Tensor, nn

from echoic.nn.attention import AttentionLayer, Lengths, packed_attention
from echoic.nn.linear import Linear, swiglu
from echoic.nn.rope import rotate


class SwiGLU(nn.Module):
    """(P, D) -> (P, D): down(silu(gate x) * up x), three matrices without bias."""

    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return swiglu(x, self.gate_up.weight, self.down.weight)


class Attention(AttentionLayer):
    """Self-attention over a packed batch. `reach` in tokens to each side; None attends to the whole
    clip."""

    def __init__(self, *, width: int, heads: int, reach: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads, self.reach = heads, reach
        self.qkv = Linear(width, 3 * width, bias=False)
        self.out = Linear(width, width, bias=False)

    def forward(self, x: Tensor, lengths: Lengths, turns: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)  # (P, H, E) each
        mixed = packed_attention(
            rotate(q, turns), rotate(k, turns), v, lengths, self.reach, backend=self.backend
        )
        return self.out(mixed.flatten(1))


class Block(nn.Module):
    """One pre-norm transformer block, (P, D) -> (P, D)."""

    def __init__(self, *, width: int, heads: int, hidden: int, reach: int | None = None) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(width)
        self.attention = Attention(width=width, heads=heads, reach=reach)
        self.norm2 = nn.RMSNorm(width)
        self.mlp = SwiGLU(width=width, hidden=hidden)

    def forward(self, x: Tensor, lengths: Lengths, turns: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), lengths, turns)
        return x + self.mlp(self.norm2(x))


def init_weights(module: nn.Module, depth: int) -> None:
    """Matrices keep the variance of what they are given (std fan_in^-0.5); those that write into
    the residual stream shrink with depth (GPT-2), so that the stream neither grows nor vanishes at
    any width."""
    for name, parameter in module.named_parameters():
        if parameter.ndim >= 2:
            into_residual = name.endswith(("out.weight", "down.weight"))
            std = parameter.shape[1] ** -0.5 / ((2 * depth) ** 0.5 if into_residual else 1)
            nn.init.normal_(parameter, std=std)
