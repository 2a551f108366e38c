"""LAION-CLAP's MLP: its names, and its value written out."""

from __future__ import annotations

import torch

from echoic.nn.mlp import TwoLayer


def test_value_and_names(generator):
    mlp = TwoLayer(8, 16, 3).eval()
    sizes = {name: tuple(p.shape) for name, p in mlp.named_parameters()}
    assert sizes == {
        "sequential.0.weight": (16, 8), "sequential.0.bias": (16,),
        "sequential.3.weight": (3, 16), "sequential.3.bias": (3,),
    }  # fmt: skip
    p = dict(mlp.named_parameters())
    x = torch.randn(5, 8, generator=generator)
    hidden = (x @ p["sequential.0.weight"].T + p["sequential.0.bias"]).clamp(min=0)
    wanted = hidden @ p["sequential.3.weight"].T + p["sequential.3.bias"]
    torch.testing.assert_close(mlp(x), wanted)


def test_a_tenth_is_dropped_in_training(generator):
    mlp = TwoLayer(4, 4000, 1)
    kept = mlp.train().sequential[:3](torch.ones(1, 4)) != 0
    alive = mlp.eval().sequential[:3](torch.ones(1, 4)) != 0
    assert 0.85 < kept.sum() / alive.sum() < 0.95
