"""ONNX: a tower as one file that onnxruntime, and whatever else reads ONNX, runs without torch.

    save_onnx(Path("audio.onnx"), audio_graph(model.network))
    session = open_session(Path("audio.onnx"))
    session.run(None, {"samples": samples})[0]                # (B, T) float32 -> (B, D)

The number of rows and their length are free. The graph refuses lengths that the model does not
hear at once. Needs the extra `onnx`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from echoic.convert.native import replacing
from echoic.export.audio import AudioGraph
from echoic.export.text import TextGraph
from echoic.export.torch_export import Graph, capture
from echoic.types import ConfigError

OPSET = 20
OUTPUT = "vector"


def save_onnx(path: Path, graph: Graph) -> None:
    """Write the graph with its weights to one file, at once or not at all. Raises ConfigError where
    a package is not installed."""
    onnx = need("onnx")
    need("onnxscript")
    program = capture(graph)
    with _quiet_exporter():
        made = torch.onnx.export(
            program, (), input_names=list(graph.inputs), output_names=[OUTPUT],
            opset_version=OPSET, dynamo=True, verbose=False,
        )  # fmt: skip
    assert made is not None
    proto = made.model_proto
    # shapes of what lies between: int8 is confused by them, and no runtime needs them
    del proto.graph.value_info[:]
    _name_sides(proto, graph)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        onnx.save(proto, str(unfinished))


def open_session(path: Path, *, threads: int | None = None) -> Any:
    """An onnxruntime session on the CPU. threads: None takes all cores. Raises ConfigError."""
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def need(package: str) -> Any:
    """An optional package. Raises ConfigError in one line."""
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError:
        raise ConfigError(f'ONNX needs {package}: pip install "echoic[onnx]"') from None


def _name_sides(proto: Any, graph: Graph) -> None:
    """Rows and lengths by name in what a person sees of the file."""
    second = {AudioGraph: "samples", TextGraph: "tokens"}
    length = next((name for kind, name in second.items() if isinstance(graph, kind)), None)
    for value in (*proto.graph.input, *proto.graph.output):
        sides = value.type.tensor_type.shape.dim
        sides[0].dim_param = "rows"
        if sides[1].HasField("dim_param") and length:
            sides[1].dim_param = length


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without what the exporter says of torchvision, which nobody asked for, and of its insides."""
    told = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
            yield
    finally:
        told.setLevel(level)
