"""How the benchmarks of training steps measure: laps in turns, ratios, operations, shares of a
step, peak memory."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from echoic.nn.linear import linear

# As torch's profiler names them.
_PRODUCTS = (
    "mkldnn::_linear_pointwise", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm",
    "aten::convolution", "aten::mkldnn_convolution",
)  # fmt: skip
_ATTENTION = "aten::_scaled_dot_product"


def in_turns(things: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round, after one to warm up; in turns, so that all see the same
    machine."""
    laps: dict[str, list[float]] = {name: [] for name in things}
    for lap in range(rounds + 1):
        for name, thing in things.items():
            gc.collect()
            started = time.perf_counter()
            thing()
            if lap:
                laps[name].append(time.perf_counter() - started)
    return laps


def least(laps: dict[str, list[float]]) -> dict[str, float]:
    """Seconds of each in its best round."""
    return {name: min(seconds) for name, seconds in laps.items()}


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Median over rounds."""
    return median(a / b for a, b in zip(one, other, strict=True))


def short(dtype: torch.dtype) -> str:
    """The name of a type in figures."""
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


# -- operations ------------------------------------------------------------------------------------


def operations(thing: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and of attention, two for a product and its
    sum."""
    with FlopCounterMode(display=False, custom_mapping=_UNKNOWN) as counter:
        thing()
    return int(counter.get_total_flops())


def matmul_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """Floating-point operations per second of a large matrix product here, by whichever of torch's
    libraries is quicker."""
    a = torch.ones(size, size, dtype=dtype)
    laps = in_turns({"torch": lambda: a @ a, "onednn": lambda: linear(a, a)}, 5)
    return 2 * size**3 / min(least(laps).values())


def _linear_flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    rows = 1
    for side in x[:-1]:
        rows *= side
    return 2 * rows * weight[0] * weight[1]


def _attention_flops(
    q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any
) -> int:
    return int(sdpa_flop_count(q, k, v))


def _attention_grad_flops(
    grad: Sequence[int], q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any
) -> int:
    return int(sdpa_backward_flop_count(grad, q, k, v))


# What torch's counter leaves out: kernels of the CPU.
_UNKNOWN = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_grad_flops,
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _UNKNOWN[torch.ops.mkldnn._linear_pointwise] = _linear_flops


def shares(step: Callable[[], object]) -> tuple[float, float]:
    """By torch's profiler, of the seconds of a step: what is neither a matrix product nor a fused
    attention kernel (products with the softmax between them), and those kernels."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    spent = {each.key: each.self_cpu_time_total for each in found.key_averages()}
    total = sum(spent.values())
    products = sum(spent.get(name, 0.0) for name in _PRODUCTS)
    attention = sum(s for name, s in spent.items() if name.startswith(_ATTENTION))
    return 1 - (products + attention) / total, attention / total


# -- memory ----------------------------------------------------------------------------------------


def resident_mib(which: str) -> float:
    """Of this process: "VmRSS" now, "VmHWM" at most so far (ru_maxrss would begin with the
    parent's)."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(which)) / 1024


def in_own_process(module: str, *arguments: str) -> float:
    """The number that `python -m module arguments` prints last."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])
