"""Fusion modules equal their formulas, written out here, and upstream's way with a single row."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from echoic.nn.fusion import make_fusion

C = 8
KINDS = ["aff_1d", "iaff_1d", "aff_2d", "iaff_2d"]


@pytest.fixture
def make(rng):
    """A module with all its numbers made up, running statistics too."""

    def made(kind, training=False):
        fusion = make_fusion(kind, C).train(training)
        for name, value in fusion.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            noise = torch.from_numpy(rng.standard_normal(value.shape)).float()
            value.copy_(1 + 0.3 * noise.abs() if "running_var" in name else 0.5 * noise)
        return fusion

    return made


def maps(kind, rows, rng):
    shape = (rows, C, 7) if kind.endswith("1d") else (rows, C, 7, 5)
    return [torch.from_numpy(rng.standard_normal(shape)).float() for _ in range(2)]


def attention(state, x, prefix, convs, norms):
    """conv, batch norm in eval, ReLU, conv, batch norm: as sums over channels."""
    for i, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
        weight = state[f"{prefix}.{conv}.weight"].flatten(1)
        spread = (1, -1) + (1,) * (x.ndim - 2)
        x = torch.einsum("oi,bi...->bo...", weight, x)
        x = x + state[f"{prefix}.{conv}.bias"].view(spread)
        mean, var = state[f"{prefix}.{norm}.running_mean"], state[f"{prefix}.{norm}.running_var"]
        x = (x - mean.view(spread)) / (var.view(spread) + 1e-5).sqrt()
        x = x * state[f"{prefix}.{norm}.weight"].view(spread)
        x = x + state[f"{prefix}.{norm}.bias"].view(spread)
        x = x.clamp(min=0) if i == 0 else x
    return x


def local(state, x, name="local_att"):
    return attention(state, x, name, (0, 3), (1, 4))


def pooled(state, x, name="global_att"):
    mean = x.mean(tuple(range(2, x.ndim)), keepdim=True)
    return attention(state, mean, name, (1, 4), (2, 5))


def formula(kind, state, x, y):
    a = torch.sigmoid(local(state, x + y) + pooled(state, x + y))
    if kind.startswith("aff"):
        return 2 * x * a + 2 * y * (1 - a)
    mixed = x * a + y * (1 - a)
    a2 = torch.sigmoid(local(state, mixed, "local_att2") + pooled(state, mixed))
    return x * a2 + y * (1 - a2)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_its_formula(kind, make, rng):
    fusion = make(kind)
    x, y = maps(kind, 3, rng)
    torch.testing.assert_close(
        fusion(x, y), formula(kind, fusion.state_dict(), x, y), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["daf_1d", "daf_2d"])
def test_direct_fusion_adds(kind, rng):
    x, y = maps(kind, 2, rng)
    assert torch.equal(make_fusion(kind, C)(x, y), x + y)
    assert not make_fusion(kind, C).state_dict()


@pytest.mark.parametrize("kind", [*KINDS, "daf_2d"])
@pytest.mark.parametrize("rows", [0, 1, 4])
def test_rows_do_not_depend_on_each_other(kind, rows, make, rng):
    fusion = make(kind)
    x, y = maps(kind, rows, rng)
    together = fusion(x, y)
    assert together.shape == x.shape
    for i in range(rows):
        alone = fusion(x[i : i + 1], y[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_row_trains_as_if_it_came_twice(kind, make, rng):
    fusion, twice = make(kind, training=True), make_fusion(kind, C).train()
    twice.load_state_dict(fusion.state_dict())
    x, y = maps(kind, 1, rng)
    out = fusion(x, y)
    assert out.shape == x.shape
    torch.testing.assert_close(out, twice(torch.cat([x, x]), torch.cat([y, y]))[:1])
    out.sum().backward()
    used = {name for name, p in fusion.named_parameters() if p.grad is not None}
    assert used == {name for name in dict(fusion.named_parameters()) if "global_att2" not in name}
    for name, value in fusion.state_dict().items():  # the running statistics move alike
        torch.testing.assert_close(value, twice.state_dict()[name], msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_upstreams(kind):
    stacks = {"local_att": (0, 1, 3, 4), "global_att": (1, 2, 4, 5)}
    if kind.startswith("iaff"):
        stacks |= {"local_att2": stacks["local_att"], "global_att2": stacks["global_att"]}
    state = make_fusion(kind, C).state_dict()
    assert {tuple(name.split(".")[:2]) for name in state} == {
        (stack, str(i)) for stack, places in stacks.items() for i in places
    }
    inner = (C // 4, C, 1) if kind.endswith("1d") else (C // 4, C, 1, 1)
    assert state["local_att.0.weight"].shape == inner
    assert state["global_att.2.running_mean"].shape == (C // 4,)


def test_mixed_precision(make, rng):
    """Under autocast one map may come in float32, from a batch norm, and the other in bfloat16."""
    fusion = make("iaff_1d", training=True)
    x, y = maps("iaff_1d", 2, rng)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(fusion(x, nn.functional.conv1d(y, torch.eye(C)[:, :, None]))).all()


def test_channel_map_has_no_module():
    with pytest.raises(ValueError, match="input channels"):
        make_fusion("channel_map", C)
