"""Shifted windows along a Z curve are those of the paper on the grid, in outputs and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from echoic.nn import swin
from echoic.nn.swin import (
    PatchMerging,
    SwinBlock,
    fused_attention,
    shift_mask,
    shift_order,
    window_attention,
    z_cells,
    z_order,
    z_places,
)


@pytest.fixture
def made(generator):
    return lambda *shape: torch.randn(shape, generator=generator)


def block_of(width=12, heads=3, side=16, shifted=False, **rest) -> SwinBlock:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = SwinBlock(
            width=width, heads=heads, hidden=20, side=side, shifted=shifted, **rest
        ).eval()
        block.attn.relative_position_bias_table.data.normal_()
        return block


# -- plain, on the grid ----------------------------------------------------------------------------


def plain_block(block, x, side, shift):
    """(B, side, side, D) -> the same, window by window and pair by pair."""
    y = plain_attention(block, block.norm1(x), side, shift)
    x = x + y
    return x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))


def plain_attention(block, x, side, shift):
    """Two tokens meet when they lie in one window of the shifted tiling and neither came there over
    the edge without the other."""
    attn = block.attn
    at = torch.arange(side)
    tile, over = (at - shift) % side // 8, at < shift  # of each row, or column
    row, column = (axis.flatten() for axis in torch.meshgrid(at, at, indexing="ij"))

    def same(of):
        return (of[row][:, None] == of[row]) & (of[column][:, None] == of[column])

    meet, near = same(tile), same(over)
    # where in its window; the difference there is the difference on the grid, also over the edge
    place = (at - shift) % side % 8
    step_row = place[row][:, None] - place[row] + 7
    step_column = place[column][:, None] - place[column] + 7
    bias = attn.relative_position_bias_table[step_row * 15 + step_column].permute(2, 0, 1)
    bias = bias + torch.where(meet, torch.where(near, 0.0, -100.0), -torch.inf)
    q, k, v = attn.qkv(x.flatten(1, 2)).unflatten(-1, (3, attn.heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias).softmax(-1)
    return attn.proj((weights @ v).transpose(1, 2).flatten(2)).view_as(x)


@pytest.mark.parametrize("shifted", [False, True])
def test_block_is_the_plain_one_on_the_grid(shifted, made):
    block = block_of(shifted=shifted)
    grid = made(2, 16, 16, 12).requires_grad_()
    along = grid.flatten(1, 2)[:, z_cells(16)]
    got = block(along)[:, z_places(16)].view_as(grid)
    want = plain_block(block, grid, 16, 4 if shifted else 0)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    weight = made(*grid.shape)
    inputs = [grid, *block.parameters()]
    for ours, plain in zip(
        torch.autograd.grad((got * weight).sum(), inputs),
        torch.autograd.grad((want * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(block(along), got.detach().flatten(1, 2)[:, z_cells(16)])


def test_the_last_grid_is_one_window_and_never_shifts(made):
    whole, shifted = block_of(side=8), block_of(side=8, shifted=True)
    x = made(1, 64, 12)
    assert torch.equal(whole(x), shifted(x))


@torch.no_grad()
def test_merging_concatenates_as_upstream(made):
    merge = PatchMerging(4)
    grid = made(2, 16, 16, 4)
    parts = [grid[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    want = merge.reduction(merge.norm(torch.cat(parts, -1))).flatten(1, 2)[:, z_cells(8)]
    got = merge(grid.flatten(1, 2)[:, z_cells(16)])
    torch.testing.assert_close(got, want)


# -- the Z curve -----------------------------------------------------------------------------------


def test_z_order_begins_down_then_right():
    assert z_order(4)[:8].tolist() == [
        [0, 0], [1, 0], [0, 1], [1, 1], [2, 0], [3, 0], [2, 1], [3, 1],
    ]  # fmt: skip
    assert torch.equal(z_cells(16)[z_places(16)], torch.arange(256))
    with pytest.raises(ValueError, match="power of two, not 12"):
        z_order(12)


def test_windows_and_what_merges_are_contiguous():
    cells = z_order(32)
    for size in (2, 8, 16):
        squares = cells.view(-1, size * size, 2) // size
        assert (squares == squares[:, :1]).all()


def test_shift_takes_every_token_once_and_masks_the_edge_only():
    into = shift_order(32)
    assert torch.equal(into.sort().values, torch.arange(32 * 32))
    assert z_order(32)[into[0]].tolist() == [4, 4]
    mask = shift_mask(32)
    assert set(mask.unique().tolist()) == {-100.0, 0.0}
    window = z_order(32).view(-1, 64, 2)[:, 0] // 8
    edge = (window == 3).any(1)
    assert torch.equal(mask.flatten(1).any(1), edge)


# -- attention -------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_window", [False, True])
def test_attention_equals_the_fused_kernel_with_gradients(per_window, made):
    qkv = made(2, 4, 64, 3, 2, 6).requires_grad_()
    bias = made(4 if per_window else 1, 2, 64, 64).requires_grad_()
    q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(2, 3)
    got = window_attention(qkv, bias)
    torch.testing.assert_close(got, want)
    weight = made(*want.shape)
    for ours, theirs in zip(
        torch.autograd.grad((got * weight).sum(), (qkv, bias)),
        torch.autograd.grad((want * weight).sum(), (qkv, bias)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(window_attention(qkv, bias), want)
    torch.testing.assert_close(fused_attention(qkv, bias), want)


def test_attention_gradient_in_float64(made, monkeypatch):
    monkeypatch.setattr(swin, "WINDOW", 2)
    qkv, bias = made(2, 2, 4, 3, 2, 3).double(), made(1, 2, 4, 4).double()
    assert gradcheck(window_attention, (qkv.requires_grad_(), bias.requires_grad_()))


def test_a_bias_alone_can_learn(made):
    """With everything else frozen."""
    bias = made(1, 2, 64, 64).requires_grad_()
    window_attention(made(1, 4, 64, 3, 2, 6), bias).square().sum().backward()
    assert bias.grad is not None
    assert bias.grad.abs().max() > 0


def test_other_devices_take_the_fused_kernel(made):
    block = copy.deepcopy(block_of(shifted=True)).to("meta")
    assert block(torch.empty(2, 256, 12, device="meta")).shape == (2, 256, 12)


def test_drop_path_leaves_out_whole_branches_of_clips(made):
    block = block_of(drop_path=0.5).train()
    x = made(64, 256, 12)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        dropped = (block(x) - x).flatten(1).abs().amax(1) == 0
    assert 6 < int(dropped.sum()) < 28  # a quarter of 64 lose both branches
