"""The ViT of M2D: packed clips do not see each other, positions are as published, class tokens go
on and off, the token projector reads a clip whatever the order of its tokens."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoic.nn.vit import (
    TokenProjector,
    Vit,
    VitBlock,
    laid,
    prepend,
    row_means,
    sin_cos_positions,
    split_first,
)
from echoic.types import Ragged

UNEQUAL = [5, 1, 9, 5]


def redrawn(module: nn.Module, generator: torch.Generator) -> nn.Module:
    for p in module.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=generator) + (p.data.ndim == 1)
    return module.eval()


def ragged(lengths: list[int], width: int, generator: torch.Generator) -> Ragged:
    return Ragged.from_lengths(torch.randn(sum(lengths), width, generator=generator), lengths)


def written_out(block: VitBlock, x: Tensor, heads: int, eps: float) -> Tensor:
    """One block on one clip (L, D), every product spelled."""
    p = dict(block.named_parameters())
    width = x.shape[1]
    h = F.layer_norm(x, (width,), p["norm1.weight"], p["norm1.bias"], eps)
    q, k, v = (h @ p["attn.qkv.weight"].T + p["attn.qkv.bias"]).split(width, 1)
    mixed = []
    for i in range(heads):
        at = slice(i * width // heads, (i + 1) * width // heads)
        scores = q[:, at] @ k[:, at].T / math.sqrt(width // heads)
        mixed.append(scores.softmax(1) @ v[:, at])
    x = x + torch.cat(mixed, 1) @ p["attn.proj.weight"].T + p["attn.proj.bias"]
    h = F.layer_norm(x, (width,), p["norm2.weight"], p["norm2.bias"], eps)
    h = F.gelu(h @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"])
    return x + h @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]


def test_each_clip_of_a_pack_equals_the_block_written_out(generator):
    block = redrawn(VitBlock(width=12, heads=3, mlp_ratio=2.0, eps=1e-3), generator)
    x = ragged(UNEQUAL, 12, generator)
    packed = Ragged(block(x.values, x.lengths), x.offsets)
    for got, clip in zip(packed, x, strict=True):
        torch.testing.assert_close(got, written_out(block, clip, 3, 1e-3), rtol=1e-4, atol=1e-4)


def test_layers_are_averaged_before_the_norm(generator):
    vit = redrawn(Vit(width=8, depth=3, heads=2), generator)
    x = ragged(UNEQUAL, 8, generator)
    first, second, third = (state.values for state in vit.states(x))
    assert torch.equal(vit.through(x).values, vit.norm(third))
    torch.testing.assert_close(vit.through(x, [0, 1]).values, vit.norm((first + second) / 2))
    with pytest.raises(ValueError, match=r"layers \[3\]: there are 0 to 2"):
        vit.through(x, [3])


def test_weights_start_as_in_mae(generator):
    vit = Vit(width=64, depth=1, heads=2)
    weight = vit.blocks[0].attn.qkv.weight
    bound = math.sqrt(6 / (64 + 192))
    assert 0.98 * bound < weight.abs().max() <= bound
    assert all(not p.any() for name, p in vit.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("lengths", [UNEQUAL, [4, 4, 4]])
def test_a_token_goes_before_each_clip_and_off_again(lengths, generator):
    x, first = ragged(lengths, 3, generator), torch.randn(len(lengths), 3, generator=generator)
    joined = prepend(first, x)
    assert joined.lengths == tuple(n + 1 for n in lengths)
    for row, clip, whole in zip(first, x, joined, strict=True):
        assert torch.equal(whole, torch.cat([row[None], clip]))
    back, rest = split_first(joined)
    assert torch.equal(back, first)
    assert torch.equal(rest.values, x.values)
    assert torch.equal(rest.offsets, x.offsets)


def test_positions_are_the_published_ones():
    """Values of the specification: row 1, column 2, width 768."""
    grid = sin_cos_positions(4, 5, 768).unflatten(0, (4, 5))
    at = grid[2, 1]
    wanted = [math.sin(2), math.cos(2), math.sin(1), math.cos(1)]
    assert at[[0, 192, 384, 576]].tolist() == pytest.approx(wanted, abs=1e-6)
    assert at[1].item() == pytest.approx(math.sin(2 * 10_000 ** (-1 / 192)), abs=1e-6)
    assert torch.equal(grid[3, :, :384], grid[3, :1, :384].expand(5, -1))  # time alone
    with pytest.raises(ValueError, match="width 6 is not a multiple of 4"):
        sin_cos_positions(2, 2, 6)


def test_a_table_is_laid_end_to_end():
    table = torch.arange(6.0).view(3, 2)
    assert laid(table, [2, 3])[:, 0].tolist() == [0, 2, 0, 2, 4]
    assert torch.equal(laid(table, [2, 2]), laid(table, [2, 2, 1])[:4])


def test_means_of_rows_by_weight(generator):
    x = ragged(UNEQUAL, 4, generator)
    torch.testing.assert_close(row_means(x), torch.stack([clip.mean(0) for clip in x]))
    weight = torch.rand(len(x.values), generator=generator)
    wanted = (x[2] * weight[6:15, None]).sum(0) / weight[6:15].sum()
    torch.testing.assert_close(row_means(x, weight)[2], wanted)


def test_token_projector_has_the_published_tensors():
    projector = TokenProjector(768)
    assert len(list(projector.parameters())) == 15  # 166 of the 2025 model, less the encoder's 151
    assert round(sum(p.numel() for p in projector.parameters()) / 1e6, 2) == 3.55
    assert not projector.sem_token.any()


def test_token_projector_reads_each_clip_in_any_order(generator):
    projector = redrawn(TokenProjector(8), generator)
    x = ragged(UNEQUAL, 8, generator)
    out = projector(x)
    for row, clip in zip(out, x, strict=True):
        whole = torch.cat([projector.sem_token[0], clip.flip(0)])
        wanted = projector.norm(written_out(projector.sem_blocks[0], whole, 1, 1e-5)[0])
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-4)
