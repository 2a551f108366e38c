"""Blocks and heads of packed models over rows of one length: the form that is exported.

A packed batch knows the length of each clip as a number in Python, which no exported graph can. Of
rows that are all as long as the longest, nothing has to be known: the same weights over (B, P, D),
with a mask where a row is shorter. Nothing here has weights of its own.

B rows, P tokens of a row, D width, H heads, E = D / H; of HTSAT N frames, F mel bins, W windows of
S tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from echoic.encoders.htsat import HtsatEncoder, image
from echoic.nn.heads import MapHead
from echoic.nn.rope import rotate
from echoic.nn.swin import WINDOW, Stage, SwinBlock
from echoic.nn.transformer import Block
from echoic.nn.vit import VitBlock


def through_block(block: Block, x: Tensor, turns: Tensor, heard: Tensor | None) -> Tensor:
    """(B, P, D) -> (B, P, D). turns: of `rope_turns`, (P, 2, E/2). heard: bool, what each token may
    attend to, as (B or 1, 1, P or 1, P); None: all. The block's own reach is in it (`near`)."""
    layer = block.attention
    q, k, v = layer.qkv(block.norm1(x)).unflatten(-1, (3, layer.heads, -1)).unbind(2)
    x = x + layer.out(_attend(rotate(q, turns), rotate(k, turns), v, heard))
    mixed: Tensor = block.mlp(block.norm2(x))
    return x + mixed


def through_vit_block(block: VitBlock, x: Tensor, heard: Tensor | None = None) -> Tensor:
    """(B, P, D) -> (B, P, D). heard: as of `through_block`."""
    q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, block.attn.heads, -1)).unbind(2)
    x = x + block.attn.proj(_attend(q, k, v, heard))
    mixed: Tensor = block.mlp(block.norm2(x))
    return x + mixed


def htsat_clip(encoder: HtsatEncoder, frames: Tensor) -> Tensor:
    """One view of each clip, (B, N, F) -> (B, D): the mean over the last grid."""
    normed = encoder.bn0(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])[:, None]
    if encoder.spec.fusion == "channel_map":
        normed = normed.expand(-1, 4, -1, -1)
    x = encoder.patch_embed(image(normed))
    for stage in encoder.layers:
        assert isinstance(stage, Stage)
        for block in stage.blocks:
            assert isinstance(block, SwinBlock)
            x = through_swin_block(block, x)
        if stage.downsample is not None:
            merged = x.unflatten(1, (-1, 4)).flatten(2)
            x = stage.downsample.reduction(stage.downsample.norm(merged))
    return encoder.norm(x).mean(1)


def through_swin_block(block: SwinBlock, x: Tensor) -> Tensor:
    """(B, P, D) -> (B, P, D)."""
    layer = block.attn
    if block.shifted:
        x = x.index_select(1, block.into)
    windows = layer.qkv(block.norm1(x)).unflatten(1, (-1, WINDOW**2))
    q, k, v = windows.unflatten(-1, (3, layer.heads, -1)).permute(3, 0, 1, 4, 2, 5).unbind(0)
    bias = layer.bias()[None] + block.apart if block.shifted else layer.bias()[None]
    mixed = _mixed(q, k, v, bias)  # (B, W, H, S, E)
    x = x + layer.proj(mixed.transpose(2, 3).flatten(3).flatten(1, 2))
    x = x + block.mlp(block.norm2(x))
    return x.index_select(1, block.back) if block.shifted else x


def near(tokens: int, reach: int | None) -> Tensor | None:
    """(1, 1, P, P) bool: which tokens are at most `reach` apart; None where that is all."""
    if reach is None:
        return None
    at = torch.arange(tokens)
    return ((at[:, None] - at[None]).abs() <= reach)[None, None]


def pooled(head: MapHead, tokens: Tensor, real: Tensor | None = None) -> Tensor:
    """`MapHead` of each row: (B, P, D) -> (B, out_width). real: (B, P) bool, which tokens are."""
    key, value = head.key_value(head.norm(tokens)).unflatten(-1, (2, head.heads, -1)).unbind(2)
    scores = (key * head.query).sum(-1) * head.query.shape[1] ** -0.5  # (B, P, H)
    if real is not None:
        scores = scores.masked_fill(~real[..., None], -torch.inf)
    mixed = (scores.softmax(1)[..., None] * value).sum(1).flatten(1)
    clip = head.out(mixed)
    projected: Tensor = head.projection(clip + head.mlp(head.norm2(clip)))
    return projected


def _attend(q: Tensor, k: Tensor, v: Tensor, heard: Tensor | None) -> Tensor:
    """(B, P, H, E) each -> (B, P, D)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    bias = None if heard is None else torch.zeros_like(heard, dtype=q.dtype)
    if heard is not None and bias is not None:
        bias = bias.masked_fill(~heard, -torch.inf)
    return _mixed(q, k, v, bias).transpose(1, 2).flatten(2)


def _mixed(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attention, (..., P, E) each. Written out: torch's kernel asks whether the bias is for one row
    or for all, and the answer for the example would become a law of the graph."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores if bias is None else scores + bias).softmax(-1) @ v
