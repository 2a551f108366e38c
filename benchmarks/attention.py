"""Packed attention on the CPU beside the ways it could be done, forward and forward + backward.

    python -m benchmarks.attention            # half a minute
    python -m benchmarks.attention --quick    # a few seconds

Ratios are of one run, two threads: time of the other way over time of ours. Lengths are
tokens per clip: 0.4 to 2.5 s of speech by patches of 4 frames, 5 s clips, and up to 30 s mixed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.output import finish, show
from echoic.nn.attention import packed_attention

Attention = Callable[[Tensor, Tensor, Tensor, tuple[int, ...], int | None], Tensor]
Case = tuple[tuple[int, ...], int | None]  # lengths, reach
HEADS, WIDTH = 3, 64


def fused_loop(
    q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], reach: int | None
) -> Tensor:
    """One call of the fused kernel per clip."""
    rows = []
    for a, b, c in zip(*(x.split(lengths) for x in (q, k, v)), strict=True):
        near = None
        if reach is not None:
            at = torch.arange(len(a))
            near = (at[:, None] - at).abs() <= reach
        heads_first = (x.transpose(0, 1)[None] for x in (a, b, c))
        query, key, value = heads_first
        row = F.scaled_dot_product_attention(query, key, value, attn_mask=near)
        rows.append(row[0].transpose(0, 1))
    return torch.cat(rows)


def seconds(way: Attention, case: Case, dtype: torch.dtype, runs: int) -> list[float]:
    """Best of `runs`: forward without gradients, forward + backward."""
    lengths, reach = case
    draw = torch.Generator().manual_seed(0)
    shape = (sum(lengths), HEADS, WIDTH)
    q, k, v, upstream = (torch.randn(shape, generator=draw).to(dtype) for _ in range(4))
    for leaf in (q, k, v):
        leaf.requires_grad_()

    def forward() -> None:
        with torch.no_grad():
            way(q, k, v, lengths, reach)

    def both() -> None:
        way(q, k, v, lengths, reach).backward(upstream)

    return [min(_timed(step) for _ in range(runs)) for step in (forward, both)]


def _timed(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def main() -> None:
    """Time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    runs = 3 if parser.parse_args().quick else 15
    torch.set_num_threads(2)
    draw = torch.Generator().manual_seed(1)
    speech = tuple(torch.randint(10, 64, (56,), generator=draw).tolist())
    mixed = (752, 752, 500, 252, 252, 128, 128, 76, 40, 28)
    cases: dict[str, Case] = {
        "speech": (speech, None),
        "five_seconds": ((128,) * 16, None),
        "mixed": (mixed, None),
        "mixed_local": (mixed, 48),
    }
    ways: dict[str, Attention] = {
        "fused_loop": fused_loop,
        "dense_mask": partial(packed_attention, backend="masked"),
    }
    rows: list[list[object]] = []
    figures: dict[str, object] = {}
    for (name, case), dtype in product(cases.items(), (torch.float32, torch.bfloat16)):
        label = f"{name}_{'fp32' if dtype == torch.float32 else 'bf16'}"
        ours = seconds(packed_attention, case, dtype, runs)
        row: list[object] = [label, sum(case[0]), *(f"{1e3 * s:.2f}" for s in ours)]
        for way, function in ways.items():
            theirs = seconds(function, case, dtype, runs)
            ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
            row += [f"{r:.2f}x" for r in ratios]
            figures[f"{label}_{way}_forward"], figures[f"{label}_{way}_both"] = ratios
        rows.append(row)
    head = ["lengths", "tokens", "ours fwd, ms", "ours both, ms"]
    head += [f"{way.replace('_', ' ')} {what}" for way in ways for what in ("fwd", "both")]
    show("Packed attention: time of the other way over ours (both: forward + backward)", head, rows)
    finish(figures)


if __name__ == "__main__":
    main()
