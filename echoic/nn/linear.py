"""`nn.Linear` and the MLPs made of several, for float32 on the CPU through oneDNN, both directions.

torch multiplies float32 matrices on x86 with MKL, which on processors not made by Intel keeps to
AVX2; oneDNN, which comes with torch too, is there about twice as fast (docs/RESULTS.md). Another
type or device, autocast and torch.compile get what torch has.

P rows, D width in, E width out or hidden.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# torch gives it no public name; torch.compile puts it in the place of F.linear when it freezes
# weights. Where it is missing, all is F.linear.
_ONEDNN = (
    torch.ops.mkldnn._linear_pointwise
    if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    else None
)
# Weights with a side below this have gradients that depend on the order of the product.
_NARROW = 256
# Hidden values that SwiGLU makes at a time, 8 MiB: they stay in the cache, and in memory that
# malloc does not hand back to the system.
_HIDDEN_VALUES = 1 << 21


class Linear(nn.Linear):
    """(..., D) -> (..., E), as `nn.Linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class GeluMlp(nn.Module):
    """Linear, GELU, linear, dropout: (..., D) -> (..., D)."""

    def __init__(self, *, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = gelu_mlp(x, self.fc1, self.fc2)
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x (..., D), weight (E, D), bias (E,) -> (..., E)."""
    if not written_out(x, weight):
        return F.linear(x, weight, bias)
    learns = x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    if torch.is_grad_enabled() and learns:
        out: Tensor = _Linear.apply(x, weight, bias)
        return out
    return _product(x, weight, bias)


def gelu_mlp(x: Tensor, fc1: nn.Linear, fc2: nn.Linear) -> Tensor:
    """fc2(gelu(fc1(x))). In training what went into the GELU is kept, and not what came out: that
    costs less time to make anew than memory to hold."""
    if written_out(x, fc1.weight) and torch.is_grad_enabled() and fc1.weight.requires_grad:
        out: Tensor = _GeluMlp.apply(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
        return out
    if written_out(x, fc1.weight) and not torch.is_grad_enabled():
        return _product(_product(x, fc1.weight, fc1.bias, gelu=True), fc2.weight, fc2.bias)
    return linear(F.gelu(linear(x, fc1.weight, fc1.bias)), fc2.weight, fc2.bias)


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """SwiGLU without biases (2002.05202): x (..., D), gate_up (2 E, D), down (D, E) -> (..., D). In
    training gate x and up x are kept, and neither what comes of them nor its gradients is ever
    whole."""
    if not written_out(x, gate_up):
        gate, up = linear(x, gate_up).chunk(2, dim=-1)
        return linear(F.silu(gate) * up, down)
    learns = x.requires_grad or gate_up.requires_grad or down.requires_grad
    if torch.is_grad_enabled() and learns:
        out: Tensor = _SwiGlu.apply(x, gate_up, down)
        return out
    pieces = [_down(_product(piece, gate_up), down) for piece in _rows(x).split(_at_once(down))]
    return torch.cat(pieces).view_as(x)


def written_out(x: Tensor, weight: Tensor) -> bool:
    """Whether the forms for float32 on the CPU apply, whose backward passes are written here."""
    return (
        _ONEDNN is not None
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False
) -> Tensor:
    assert _ONEDNN is not None
    out: Tensor = _ONEDNN(x, weight, bias, "gelu" if gelu else "none", [], "none")
    return out


def _weight_grad(grad: Tensor, x: Tensor) -> Tensor:
    """grad (P, E), x (P, D) -> (E, D). A narrow result is quick along its longer side only."""
    (outs, ins), narrow = (grad.shape[1], x.shape[1]), min(grad.shape[1], x.shape[1])
    if max(outs, ins) < _NARROW:
        return grad.t() @ x
    if narrow < _NARROW and outs > ins:
        return _product(x.t(), grad.t()).t()
    return _product(grad.t(), x.t())


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        rows = _rows(grad)
        return (
            _product(rows, weight.t()).view_as(x) if need_x else None,
            _weight_grad(rows, x.reshape(-1, x.shape[-1])) if need_weight else None,
            rows.sum(0) if need_bias else None,
        )


class _GeluMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        before = _product(rows, w1, b1)
        ctx.save_for_backward(rows, before, w1, w2)
        return _product(F.gelu(before), w2, b2).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, before, w1, w2 = ctx.saved_tensors
        rows = _rows(grad)
        w2_grad = _weight_grad(rows, F.gelu(before))
        hidden = _product(rows, w2.t())
        torch.ops.aten.gelu_backward.grad_input(hidden, before, grad_input=hidden)
        x_grad = _product(hidden, w1.t()).view(*grad.shape[:-1], -1)
        return x_grad, _weight_grad(hidden, x), hidden.sum(0), w2_grad, rows.sum(0)


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        rows = _rows(x)
        before = _product(rows, gate_up)
        ctx.save_for_backward(rows, before, gate_up, down)
        return torch.cat([_down(piece, down) for piece in before.split(_at_once(down))]).view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, before, gate_up, down = ctx.saved_tensors
        need_x, need_gate_up, need_down = ctx.needs_input_grad
        x_grads = []
        gate_up_grad = torch.zeros_like(gate_up) if need_gate_up else None
        down_grad = torch.zeros_like(down) if need_down else None
        pieces = (each.split(_at_once(down)) for each in (_rows(grad), x, before))
        for upstream, given, both in zip(*pieces, strict=True):
            gate, up = both.chunk(2, dim=-1)
            gated, hidden = F.silu(gate), _product(upstream, down.t())
            both_grad = torch.empty_like(both)
            gate_grad, up_grad = both_grad.chunk(2, dim=-1)
            torch.mul(hidden, gated, out=up_grad)
            torch.ops.aten.silu_backward.grad_input(hidden.mul_(up), gate, grad_input=gate_grad)
            if down_grad is not None:
                down_grad += _weight_grad(upstream, gated.mul_(up))
            if gate_up_grad is not None:
                gate_up_grad += _weight_grad(both_grad, given)
            if need_x:
                x_grads.append(_product(both_grad, gate_up.t()))
        return torch.cat(x_grads).view_as(grad) if need_x else None, gate_up_grad, down_grad


def _down(both: Tensor, down: Tensor) -> Tensor:
    gate, up = both.chunk(2, dim=-1)
    return _product(F.silu(gate).mul_(up), down)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).contiguous()


def _at_once(down: Tensor) -> int:
    """Rows of a piece."""
    return max(1, _HIDDEN_VALUES // down.shape[1])
