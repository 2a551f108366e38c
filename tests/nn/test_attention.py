"""Every back end equals the masked reference in outputs and gradients, for any mix of lengths."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from echoic.nn import attention_gpu
from echoic.nn.attention import (
    cross_attention,
    packed_attention,
    set_backend,
)
from echoic.nn.attention_pattern import Pattern
from echoic.nn.rope import rope_turns
from echoic.nn.transformer import Block
from echoic.types import ConfigError

MIXED = (5, 5, 40, 200, 200, 13, 97, 1, 300, 290)
WORDS = (7, 1, 40, 12, 12, 90, 3, 1, 1, 20)
CPU = torch.device("cpu")

masked_attention = partial(packed_attention, backend="masked")


def packed(generator, *rows, grad=True):
    """q, k, v of so many rows each, three heads."""
    return [torch.randn(n, 3, 16, generator=generator, requires_grad=grad) for n in rows]


def assert_equal_with_gradients(ours, reference, inputs, generator):
    upstream = torch.randn(ours.shape, generator=generator)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, upstream),
        torch.autograd.grad(reference, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [MIXED, (1,), (64, 64, 64), (300, 200)])
@pytest.mark.parametrize("reach", [None, 1, 3, 16, 48, 500])
def test_packed_equals_masked(lengths, reach, causal, generator):
    q, k, v = packed(generator, *[sum(lengths)] * 3)
    ours = packed_attention(q, k, v, lengths, reach, causal=causal)
    reference = masked_attention(q, k, v, lengths, reach, causal=causal)
    assert_equal_with_gradients(ours, reference, (q, k, v), generator)


@pytest.mark.parametrize(
    ("q_lengths", "k_lengths"),
    [(WORDS, MIXED), ((1,) * 10, MIXED), ((4,) * 3, (50,) * 3), ((60, 33, 9), (33, 60, 40))],
)
def test_cross_equals_masked(q_lengths, k_lengths, generator):
    q, k, v = packed(generator, sum(q_lengths), *[sum(k_lengths)] * 2)
    ours = cross_attention(q, k, v, q_lengths, k_lengths)
    reference = cross_attention(q, k, v, q_lengths, k_lengths, backend="masked")
    assert_equal_with_gradients(ours, reference, (q, k, v), generator)


@pytest.mark.parametrize("lengths", [MIXED, (5, 3)])
def test_bfloat16_is_near(lengths, generator):
    """The products written out, with a window, with causality, with neither."""
    q, k, v = packed(generator, *[sum(lengths)] * 3, grad=False)
    half = [x.bfloat16() for x in (q, k, v)]
    for reach, causal in ((16, False), (None, True), (None, False)):
        ours = packed_attention(*half, lengths, reach, causal=causal).float()
        reference = masked_attention(q, k, v, lengths, reach, causal=causal)
        torch.testing.assert_close(ours, reference, rtol=0, atol=0.05)


def test_the_reference_itself_follows_the_definition(generator):
    """One clip's row by hand: clip 1 of three, reach 2, causal."""
    q, k, v = packed(generator, 12, 12, 12, grad=False)
    row, heard = 7, slice(5, 8)  # clip 1 is rows 4 to 9; rows 5 to 7 are near and not after
    weight = torch.einsum("he,khe->hk", q[row], k[heard]).div(4).softmax(-1)
    wanted = torch.einsum("hk,khe->he", weight, v[heard])
    found = masked_attention(q, k, v, (4, 6, 2), 2, causal=True)[row]
    torch.testing.assert_close(found, wanted)


def test_clip_does_not_see_its_neighbours(generator):
    q, k, v = (torch.randn(30, 2, 8, generator=generator) for _ in range(3))
    alone = packed_attention(q[10:20], k[10:20], v[10:20], (10,))
    k[:10], v[20:] = 1e4, -1e4
    assert torch.equal(packed_attention(q, k, v, (10, 10, 10))[10:20], alone)


def test_training_after_an_evaluation_of_the_same_lengths(generator):
    """What is kept of an inference (its index tensors) must not end up in a backward pass."""
    lengths = (71, 29)
    q = torch.randn(100, 2, 8, generator=generator)
    with torch.inference_mode():
        packed_attention(q, q, q, lengths)
    q.requires_grad_()
    packed_attention(q, q, q, lengths).sum().backward()


def test_reach_is_the_number_of_tokens_to_each_side(generator):
    """With reach 2 of 400 tokens, token 100 hears 98 to 102 and nothing else."""
    q, k = torch.zeros(2, 400, 1, 4)
    v = torch.zeros(400, 1, 4)
    v[97], v[98], v[102], v[103] = 1.0, 2.0, 4.0, 8.0
    heard = packed_attention(q, k, v, (400,), reach=2)[100]
    torch.testing.assert_close(heard, torch.full((1, 4), (2.0 + 4.0) / 5))


def test_what_is_not_finite_stays_in_its_clip(generator):
    """Also where clips are filled, and under a window that spans two of them."""
    lengths = (50, 60, 300, 280)
    q, k, v = packed(generator, *[sum(lengths)] * 3)
    with torch.no_grad():
        v[60], k[200] = torch.nan, torch.inf
    for reach in (None, 16):
        out = packed_attention(q, k, v, lengths, reach)
        clips = [out[:50], out[50:110], out[110:410], out[410:]]
        assert [bool(x.isfinite().all()) for x in clips] == [True, False, False, True]


@pytest.mark.parametrize("reach", [None, 48])
def test_what_is_kept_for_the_backward_pass_grows_with_the_tokens(reach, generator):
    """Bytes that a graph holds, 2 and 8 clips of 752 tokens: the same per token, and no (L, L)."""

    def per_token(clips):
        q, k, v = packed(generator, *[752 * clips] * 3)
        held = {}

        def count(x):
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with saved_tensors_hooks(count, lambda x: x):
            packed_attention(q, k, v, (752,) * clips, reach)
        return sum(held.values()) / (752 * clips)

    few, many = per_token(2), per_token(8)
    assert many == pytest.approx(few, rel=0.05)
    assert many < 10 * 3 * 16 * 4  # of so many vectors; a (752, 752) of three heads would be 47


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("reach", [None, 16, 48])
def test_flex_equals_masked(reach, causal, generator):
    """Forward; the CPU has no backward pass. What both passes are told is tested below."""
    q, k, v = packed(generator, *[sum(MIXED)] * 3, grad=False)
    ours = packed_attention(q, k, v, MIXED, reach, causal=causal, backend="flex")
    reference = masked_attention(q, k, v, MIXED, reach, causal=causal)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)


def test_flex_equals_masked_across(generator):
    q, k, v = packed(generator, sum(WORDS), *[sum(MIXED)] * 2, grad=False)
    ours = cross_attention(q, k, v, WORDS, MIXED, backend="flex")
    reference = cross_attention(q, k, v, WORDS, MIXED, backend="masked")
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "pattern",
    [
        Pattern(MIXED, MIXED),
        Pattern(MIXED, MIXED, 16),
        Pattern((700, 500, 3), (700, 500, 3), 300),
        Pattern((700, 500, 3), (700, 500, 3), None, causal=True),
        Pattern(WORDS, MIXED),
        Pattern((1,), (640,)),
    ],
)
def test_block_mask_is_that_of_torch(pattern):
    """The lists of blocks for both passes, partial and full, beside `create_block_mask`."""
    from torch.nn.attention.flex_attention import create_block_mask

    dense = pattern.mask(CPU)
    sizes = dense.shape
    theirs = create_block_mask(lambda b, h, i, j: dense[i, j], None, None, *sizes, device="cpu")
    ours = attention_gpu.block_mask(pattern, CPU)
    first, last = pattern.runs(CPU)
    key = torch.arange(sizes[1])
    assert torch.equal(dense, (first[:, None] <= key) & (key <= last[:, None]))
    for side in ("kv", "full_kv", "q", "full_q"):
        counts, places = (
            [getattr(mask, f"{side}_{what}") for mask in (ours, theirs)]
            for what in ("num_blocks", "indices")
        )
        assert torch.equal(*counts), side
        for count, a, b in zip(counts[0][0, 0], places[0][0, 0], places[1][0, 0], strict=True):
            assert torch.equal(a[:count], b[:count]), side


@pytest.mark.parametrize(
    ("reach", "causal", "window"),
    [(None, False, (-1, -1)), (8, False, (8, 8)), (None, True, (-1, 0)), (8, True, (8, 0))],
)
def test_fused_kernels_are_told_the_pattern(reach, causal, window, generator, monkeypatch):
    """Both kernels run on CUDA only; here stands in for them what checks their arguments."""
    lengths, calls = (5, 9), []

    def kernel(q, k, v, q_starts, k_starts, q_longest, k_longest, **options):
        assert q_starts.tolist() == k_starts.tolist() == [0, 5, 14]
        assert q_starts.dtype == torch.int32
        assert (q_longest, k_longest) == (9, 9)
        calls.append(options)
        return q

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    module = type("flash_attn", (), {"flash_attn_varlen_func": staticmethod(kernel)})
    monkeypatch.setattr(attention_gpu, "import_module", {"flash_attn": module}.__getitem__)
    q, k, v = packed(generator, 14, 14, 14, grad=False)
    pattern = Pattern(lengths, lengths, reach, causal)
    attention_gpu.varlen(q, k, v, pattern)
    attention_gpu.flash(q, k, v, pattern)
    assert calls == [{"window_size": window}, {"window_size": window, "causal": causal}]


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("varlen", "needs bfloat16 or float16 on CUDA, not float32 on cpu"),
        ("flash", "needs"),
        ("flex", "has no backward pass on cpu"),
        ("dense", "no attention back end 'dense'; there are cpu, flex"),
    ],
)
def test_a_back_end_that_cannot_run_says_why(backend, words, generator):
    q, k, v = packed(generator, 4, 4, 4)
    with pytest.raises(ConfigError, match=words):
        packed_attention(q, k, v, (4,), backend=backend)


def test_each_device_gets_what_suits_it(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(attention_gpu, "_installed", lambda package: package == "triton")
    suited = attention_gpu.suited.__wrapped__
    monkeypatch.setattr(attention_gpu, "_lacks_half", attention_gpu._lacks_half.__wrapped__)
    assert suited(cuda, torch.bfloat16, 64) == "varlen"
    assert suited(cuda, torch.bfloat16, 20) == "flex"
    assert suited(cuda, torch.float32, 64) == "flex"
    assert suited(CPU, torch.bfloat16, 64) == "cpu"
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (7, 5))
    assert suited(cuda, torch.float16, 64) == "flex"
    monkeypatch.setattr(attention_gpu, "_installed", lambda package: False)
    assert suited(cuda, torch.float32, 64) == "cpu"


def test_a_layer_is_told_its_back_end(generator):
    block = Block(width=16, heads=2, hidden=32)
    set_backend(block, "varlen")
    x, turns = torch.randn(6, 16, generator=generator), rope_turns(torch.zeros(6, 1), 8)
    with pytest.raises(ConfigError, match="varlen"):
        block(x, (6,), turns)
    set_backend(block, None)
    assert block(x, (6,), turns).shape == (6, 16)


@pytest.mark.parametrize(
    ("q_lengths", "k_lengths", "words"),
    [
        ((3, 0), (2, 2), "at least one query and one key"),
        ((1, 2), (4, 0), "at least one query and one key"),
        ((1, 2), (4,), "queries of 2 clips, keys of 1"),
        ((1, 1), (2, 2), r"lengths of \(2, 4\) queries and keys, but \(3, 4\)"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(q_lengths, k_lengths, words, generator):
    q, k, v = packed(generator, 3, 4, 4)
    with pytest.raises(ValueError, match=words):
        cross_attention(q, k, v, q_lengths, k_lengths)


def test_a_window_between_unlike_rows_is_refused():
    with pytest.raises(ValueError, match="queries and keys of the same rows"):
        Pattern((1,), (4,), reach=2)
