"""Weights in 8 bits, for the CPU: a quarter of the size, and faster where products are large.

onnxruntime's dynamic quantisation: the matrices are rounded once, per output channel; what they
multiply is rounded as it comes, by its own range. Products of attention, norms and the front end
stay float32. Both sides are unsigned: of signed weights the sums overflow on processors without
VNNI, so that the same file would give other vectors there. What it costs in accuracy: `python -m
benchmarks.export`, docs/RESULTS.md.
"""

from __future__ import annotations

import logging
from pathlib import Path

from echoic.convert.native import replacing
from echoic.export.onnx import need


def save_int8(source: Path, target: Path) -> None:
    """The ONNX file `source` with 8-bit weights to `target`, at once or not at all. Raises
    ConfigError where a package is not installed."""
    need("onnxruntime")
    quantization = need("onnxruntime.quantization")
    target.parent.mkdir(parents=True, exist_ok=True)
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # it advises, on the root logger, to a step that dynamic
    try:  # quantisation does not need
        with replacing(target) as unfinished:
            quantization.quantize_dynamic(
                str(source), str(unfinished),
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=quantization.QuantType.QUInt8,
                extra_options={"MatMulConstBOnly": True},
            )  # fmt: skip
    finally:
        root.setLevel(level)
