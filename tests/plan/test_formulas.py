"""What follows from the formulas of one layer, and how memory and traffic are divided."""

from __future__ import annotations

import numpy as np
import pytest

from echoic.plan.formulas import (
    CPU_FP32,
    GPU_BF16,
    GPU_FP32,
    Cost,
    all_reduce_s,
    contrastive_scores,
    gather_s,
    heard_pairs,
    linear,
    memory,
    packed_block,
    total,
)


def test_a_product_is_made_three_times():
    once = linear(10, 3, 5)
    assert (once.forward, once.backward, once.weights) == (300, 600, 20)
    assert linear(10, 3, 5, deep=False).backward == 300


def test_a_window_costs_no_more_than_the_clip():
    lengths = np.array([100, 1000])
    assert heard_pairs(CPU_FP32, lengths) == 100**2 + 1000**2
    assert heard_pairs(CPU_FP32, lengths, reach=48) == 100**2 + 1000 * 144


def test_costs_add_up_and_the_largest_block_is_kept():
    small, large = (packed_block(GPU_BF16, np.array([50]), width, 64) for width in (8, 16))
    both = total([small, large])
    assert both.weights == small.weights + large.weights
    assert (both.largest, both.block_weights) == (large.kept, large.weights)
    assert both.kept_checkpointed() == pytest.approx(50 * (8 + 16) * 4 + large.kept)
    frozen = both.frozen()
    assert (frozen.weights, frozen.held, frozen.backward, frozen.kept) == (0, both.weights, 0, 0)


def test_half_precision_halves_what_products_keep():
    low, wide = (packed_block(k, np.array([50]), 64, 256).kept for k in (GPU_BF16, GPU_FP32))
    stream = 2 * 50 * 64 * 4
    assert low - stream == (wide - stream) / 2


def test_memory_of_adamw_is_sixteen_bytes_a_weight_and_shards_divide_it():
    cost = Cost(weights=1000.0, held=500.0, kept=64.0, block_weights=10.0)
    given = {"moments": 2, "average": True, "scores": 0.0, "working": 0.0}
    whole = memory(cost, GPU_FP32, **given)
    assert whole.peak == 4 * 500 + 20 * 1000 + 64
    assert whole.peak_alone == 4 * 500 + 16 * 1000 + 4000  # gradients come as what is kept goes
    cut = memory(cost, GPU_FP32, **given, shards=4)
    assert cut.peak == (4 * 500 + 20 * 1000) / 4 + 2 * 4 * 10 + 64
    low = memory(cost, GPU_BF16, **given)
    assert low.weights - whole.weights == 2 * 1500  # autocast's copies


def test_scores_in_blocks_take_less_of_both():
    (whole, held), (blocks, some) = (
        contrastive_scores(4096, 65536, 512, form) for form in ("whole", "chunked")
    )
    assert (whole.forward, blocks.flop / whole.flop) == (2 * 2 * 4096 * 65536 * 512, 2 / 3)
    assert held == 7 * 4 * 4096 * 65536 > 50 * some


@pytest.mark.parametrize(("ranks", "nodes"), [(1, 1), (8, 1), (2, 2), (64, 8)])
def test_an_all_reduce_is_bound_by_the_slower_of_two_links(ranks, nodes):
    found = all_reduce_s(8e9, ranks, nodes, link=100e9, network=10e9)
    local = ranks // nodes
    assert found == max(2 * (local - 1) / local * 8e9 / 100e9, 2 * (nodes - 1) / nodes * 8e9 / 10e9)
    assert gather_s(8e9, ranks, nodes, 100e9, 10e9) == found / 2
