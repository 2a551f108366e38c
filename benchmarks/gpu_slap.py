"""SLAP's base audio encoder (2601.12594, section 2) on a GPU: tokens/s and model FLOP utilisation
of forward + backward with each attention back end, with and without torch.compile.

    python -m benchmarks.gpu_slap                          # a GPU, bfloat16, some minutes
    python -m benchmarks.gpu_slap --backends varlen flex
    python -m benchmarks.gpu_slap --device cpu --quick     # does it run: a tiny size, seconds

Needs torch and numpy, nothing else. First each back end's output and gradients are compared with
the masked reference on the card. The last line is one JSON object.

FLOP are those that the model needs, an operation of a product counted as two. Of a token and block:
matrices 2 (4 D^2 + 3 D M), attention 4 D keys; keys: the clip's tokens, in a local block those
inside the window only, cut off at the clip's ends. The backward pass is twice the forward; norms,
softmax, rotary positions and what a kernel recomputes count nothing. Utilisation is FLOP/s over the
best rate of a large matrix product in the same run and precision.

P tokens of all clips, D width, M hidden width, H heads.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.clip_lengths import quantiles
from echoic.nn.attention import BACKENDS, Backend, Lengths, packed_attention, set_backend
from echoic.nn.rope import rope_turns
from echoic.nn.transformer import Block, init_weights
from echoic.types import ConfigError, first_line

ROWS = 4  # patches of a column: 64 mel bins by 16
TOKENS_PER_S = 25


@dataclass(frozen=True)
class Size:
    """An encoder, and the clips of a step."""

    depth: int
    width: int
    heads: int
    hidden: int
    clips: int
    window_columns: int = 24
    global_every: int = 3

    def reach(self, block: int) -> int | None:
        """Of block `block`, from 0: tokens to each side; None: the whole clip."""
        return None if (block + 1) % self.global_every == 0 else self.window_columns * ROWS // 2


BASE = Size(depth=12, width=768, heads=12, hidden=3072, clips=192)
TINY = Size(depth=3, width=32, heads=2, hidden=64, clips=6)


class Encoder(nn.Module):
    """The blocks and the norm after them. (P, D) -> (P, D)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width=size.width, heads=size.heads, hidden=size.hidden, reach=size.reach(i))
            for i in range(size.depth)
        )
        self.norm = nn.RMSNorm(size.width)
        init_weights(self, size.depth)

    def forward(self, x: Tensor, lengths: Lengths, turns: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, lengths, turns)
        out: Tensor = self.norm(x)
        return out


def clip_lengths(clips: int) -> Lengths:
    """Tokens of clips like those of AudioCaps, Clotho and WavCaps, in an order that says
    nothing."""
    seconds = np.random.default_rng(0).permutation(quantiles(clips))
    return tuple(ROWS * int(np.ceil(s * TOKENS_PER_S / ROWS)) for s in seconds)


def step_flop(size: Size, lengths: Lengths) -> int:
    """Of a forward and a backward pass."""
    matrices = 2 * (4 * size.width**2 + 3 * size.width * size.hidden) * sum(lengths)
    forward = 0
    for block in range(size.depth):
        pairs = sum(heard_pairs(n, size.reach(block)) for n in lengths)
        forward += matrices + 4 * size.width * pairs
    return 3 * forward


def heard_pairs(length: int, reach: int | None) -> int:
    """(query, key) pairs of a clip that attend."""
    if reach is None or reach >= length - 1:
        return length**2
    return length * (2 * reach + 1) - reach * (reach + 1)


# -- measuring -------------------------------------------------------------------------------------


def seconds(run: Callable[[], object], device: torch.device, runs: int) -> float:
    """Median of `runs`, after two that warm up."""
    laps = []
    for _ in range(runs + 2):
        _wait(device)
        started = time.perf_counter()
        run()
        _wait(device)
        laps.append(time.perf_counter() - started)
    return float(np.median(laps[2:]))


def matmul_peak(device: torch.device, dtype: torch.dtype, *, quick: bool) -> float:
    """FLOP/s of a square product, the best of some sizes."""
    rates = []
    for n in (256,) if quick else (4096, 8192, 16384):
        draw = _draw(device)
        a, b = (torch.randn(n, n, generator=draw, device=device, dtype=dtype) for _ in "ab")
        rates.append(2 * n**3 / seconds(partial(torch.mm, a, b), device, 5 if quick else 20))
    return max(rates)


def faults(backend: Backend, device: torch.device, dtype: torch.dtype) -> float:
    """The largest error of output and gradients beside the masked reference in float32, over the
    size of what it should be. Raises ConfigError where the back end cannot run."""
    worst = 0.0
    lengths = (5, 300, 64, 1, 752, 130)
    for reach in (48, None):
        draw = _draw(device)
        shape = (4, sum(lengths), 2, 64)
        exact = torch.randn(shape, generator=draw, device=device).to(dtype).float()
        results = []
        ways: list[tuple[Backend, torch.dtype]] = [("masked", torch.float32), (backend, dtype)]
        for way, kind in ways:
            q, k, v = (x.to(kind).requires_grad_() for x in exact[:3].clone().unbind(0))
            out = packed_attention(q, k, v, lengths, reach, backend=way)
            grads = torch.autograd.grad(out, (q, k, v), exact[3].to(kind))
            results.append([x.detach().float() for x in (out, *grads)])
        for reference, found in zip(*results, strict=True):
            error = (found - reference).abs().max() / reference.abs().max()
            worst = max(worst, float(error))
    return worst


def step_seconds(
    size: Size,
    lengths: Lengths,
    backend: Backend,
    device: torch.device,
    dtype: torch.dtype,
    *,
    compiled: bool,
    runs: int,
) -> tuple[float, int]:
    """Seconds of forward + backward under autocast, and the peak of memory in bytes (0 on CPU)."""
    with torch.random.fork_rng(devices=[]), device:
        encoder = Encoder(size)
    set_backend(encoder, backend)
    if compiled:
        torch.compiler.reset()  # or the back ends before count against its limit of variants
        for block in encoder.blocks:
            block.compile(dynamic=True)
    x = torch.randn(sum(lengths), size.width, generator=_draw(device), device=device)
    at = torch.cat([torch.arange(n) for n in lengths]).to(device)
    turns = rope_turns(torch.stack([at // ROWS, at % ROWS], 1), size.width // size.heads)

    def step() -> None:
        encoder.zero_grad(set_to_none=True)
        with _autocast(device, dtype):
            out = encoder(x, lengths, turns)
        out.float().square().mean().backward()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taken = seconds(step, device, runs)
    return taken, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def _draw(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -- all of it -------------------------------------------------------------------------------------


def measured(
    backend: Backend,
    size: Size,
    lengths: Lengths,
    device: torch.device,
    dtype: torch.dtype,
    peak: float,
    *,
    compile_too: bool,
    runs: int,
) -> dict[str, object]:
    """The figures of one back end by name; `error`, where it cannot run here, differs from the
    reference or fails on the way: the others shall still be measured."""
    found: dict[str, object] = {}
    try:
        found["fault"] = fault = faults(backend, device, dtype)
        if fault > (1e-4 if dtype == torch.float32 else 0.03):
            return found | {"error": f"differs from the reference by {fault:.1e}"}
        for compiled in (False, True) if compile_too else (False,):
            name = "compiled" if compiled else "eager"
            taken, memory = step_seconds(
                size, lengths, backend, device, dtype, compiled=compiled, runs=runs
            )
            found[f"{name}_tokens_per_s"] = sum(lengths) / taken
            found[f"{name}_mfu"] = step_flop(size, lengths) / taken / peak
            found[f"{name}_gib"] = memory / 2**30
    except (ConfigError, RuntimeError) as error:  # out of memory, a kernel that is not built
        found["error"] = first_line(error)
    return found


def table(results: dict[str, dict[str, object]]) -> str:
    """Rows of text, one for each back end and way."""
    rows = [f"{'back end':16}{'tokens/s':>12}{'MFU':>8}{'GiB':>8}{'error':>10}"]
    for backend, found in results.items():
        if "error" in found:
            rows.append(f"{backend:16}{found['error']}")
        for way in ("eager", "compiled"):
            if f"{way}_mfu" in found:
                rate, mfu, gib = (found[f"{way}_{x}"] for x in ("tokens_per_s", "mfu", "gib"))
                name, fault = f"{backend} {way}", found["fault"]
                rows.append(f"{name:16}{rate:12.0f}{mfu:8.3f}{gib:8.2f}{fault:10.1e}")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny size, nothing compiled")
    parser.add_argument("--clips", type=int, help="of a step")
    parser.add_argument("--runs", type=int, default=10)
    # The reference's (P, P) mask is no way to train.
    others = [backend for backend in BACKENDS if backend != "masked"]
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=others)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    args = parser.parse_args(arguments)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    size, runs = (TINY, 2) if args.quick else (BASE, args.runs)
    lengths = clip_lengths(args.clips or size.clips)
    peak = matmul_peak(device, dtype, quick=args.quick)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{card}, torch {torch.__version__}, {args.dtype}: matmul peak {peak / 1e12:.3g} TFLOP/s; "
        f"{len(lengths)} clips, {sum(lengths)} tokens, {step_flop(size, lengths):.4g} FLOP a step"
    )
    results = {
        backend: measured(
            backend, size, lengths, device, dtype, peak, compile_too=not args.quick, runs=runs
        )
        for backend in args.backends
    }
    print(table(results))
    figures = {"card": card, "dtype": args.dtype, "matmul_peak_tflops": peak / 1e12}
    print(json.dumps(figures | {"tokens": sum(lengths)} | results))


if __name__ == "__main__":
    main()
