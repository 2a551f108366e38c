"""Products through oneDNN are torch's, forward and backward, and step aside where they must."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from echoic.nn import linear as module
from echoic.nn.linear import GeluMlp, Linear, gelu_mlp, linear, swiglu

# wide and narrow both ways, one row, leading dimensions
SHAPES = [((5, 7), 9), ((2, 3, 40), 300), ((6, 300), 40), ((700, 300), 400), ((1, 8), 8)]


@pytest.fixture
def made(generator):
    return lambda *shape: torch.randn(shape, generator=generator)


def grads(out, inputs, weight):
    return torch.autograd.grad((out * weight).sum(), inputs)


@pytest.mark.parametrize(("shape", "outs"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_torch(shape, outs, bias, made):
    x, weight = made(*shape).requires_grad_(), made(outs, shape[-1]).requires_grad_()
    inputs = (x, weight, made(outs).requires_grad_()) if bias else (x, weight)
    got, want = linear(*inputs), F.linear(*inputs)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
    up = made(*want.shape)
    for ours, theirs in zip(grads(got, inputs, up), grads(want, inputs, up), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(linear(*inputs), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 300)])
def test_mlp_equals_torch(shape, made):
    mlp = GeluMlp(width=shape[-1], hidden=4 * shape[-1])
    x = made(*shape).requires_grad_()
    inputs = (x, *mlp.parameters())
    got = mlp(x)
    first = F.linear(x, mlp.fc1.weight, mlp.fc1.bias)
    want = F.linear(F.gelu(first), mlp.fc2.weight, mlp.fc2.bias)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    up = made(*want.shape)
    for ours, theirs in zip(grads(got, inputs, up), grads(want, inputs, up), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 300), (1, 8)])
@pytest.mark.parametrize("values_at_once", [1, 1200, 1 << 21])  # a row, two rows, all at a time
def test_swiglu_equals_torch(shape, values_at_once, made, monkeypatch):
    monkeypatch.setattr(module, "_HIDDEN_VALUES", values_at_once)
    x = made(*shape).requires_grad_()
    gate_up, down = made(1000, shape[-1]) / 10, made(shape[-1], 500) / 10
    inputs = (x, gate_up.requires_grad_(), down.requires_grad_())
    got = swiglu(*inputs)
    gate, up = F.linear(x, gate_up).chunk(2, -1)
    want = F.linear(F.silu(gate) * up, down)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
    upstream = made(*want.shape)
    for ours, theirs in zip(
        grads(got, inputs, upstream), grads(want, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(swiglu(*inputs), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("learns", [0, 1, 2])
def test_swiglu_gives_gradients_to_what_learns_alone(learns, made):
    inputs = [made(4, 6), made(16, 6), made(6, 8)]
    inputs[learns].requires_grad_()
    gate, up = F.linear(inputs[0], inputs[1]).chunk(2, -1)
    want = torch.autograd.grad(F.linear(F.silu(gate) * up, inputs[2]).sum(), inputs[learns])
    got = torch.autograd.grad(swiglu(*inputs).sum(), inputs[learns])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frozen", ["fc1", "fc2"])
def test_half_frozen_mlp_trains_the_other_half(frozen, made):
    mlp = GeluMlp(width=6, hidden=8)
    mlp.get_submodule(frozen).requires_grad_(False)
    mlp(made(4, 6)).square().sum().backward()
    assert {name for name, p in mlp.named_parameters() if p.grad is None} == {
        f"{frozen}.weight",
        f"{frozen}.bias",
    }


def test_a_bias_learns_alone(made):
    mlp = GeluMlp(width=6, hidden=8).requires_grad_(False)
    mlp.fc1.bias.requires_grad_()
    x = made(4, 6)
    mlp(x).square().sum().backward()
    bias = mlp.fc1.bias.detach().clone().requires_grad_()
    hidden = F.gelu(F.linear(x, mlp.fc1.weight, bias))
    F.linear(hidden, mlp.fc2.weight, mlp.fc2.bias).square().sum().backward()
    torch.testing.assert_close(mlp.fc1.bias.grad, bias.grad, rtol=1e-4, atol=1e-4)


def test_dropout_is_in_training_only(made):
    mlp = GeluMlp(width=6, hidden=8, dropout=0.5)
    x = made(64, 6)
    with torch.random.fork_rng(devices=[]):
        zeros = int((mlp(x) == 0).sum())
    assert 100 < zeros < 290
    assert not (mlp.eval()(x) == 0).any()


def test_expanded_gradients_are_taken(made):
    """`sum().backward()` hands back one number, repeated without memory."""
    layer = Linear(6, 4)
    layer(made(3, 6)).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((4,), 3.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_torchs(dtype, made):
    x, weight = made(3, 6).to(dtype), made(4, 6).to(dtype)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_autocast_is_torchs(made):
    layer = nn.Linear(6, 4)
    x = made(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        got, want = linear(x, layer.weight, layer.bias), layer(x)
        mixed = gelu_mlp(x, nn.Linear(6, 4), nn.Linear(4, 6))
    assert got.dtype == mixed.dtype == torch.bfloat16
    assert torch.equal(got, want)


def test_no_rows(made):
    assert linear(made(0, 6), made(4, 6)).shape == (0, 4)
    out = GeluMlp(width=6, hidden=8)(made(2, 0, 6))
    assert out.shape == (2, 0, 6)


def test_without_onednn_it_is_torch(made, monkeypatch):
    monkeypatch.setattr(module, "_ONEDNN", None)
    layer = Linear(6, 4)
    x = made(3, 6)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
