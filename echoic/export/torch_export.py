"""torch.export: a tower as a program that torch runs without echoic, from Python, C++ (AOTInductor)
or ExecuTorch; and what ONNX is made of.

    program = capture(audio_graph(model.network))
    save_program(Path("audio.pt2"), program)
    torch.export.load("audio.pt2").module()(samples)          # (B, T) -> (B, D)

The number of rows and their length are free.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from echoic.convert.native import replacing
from echoic.export.audio import AudioGraph
from echoic.export.text import SentenceText, TextGraph

Graph = AudioGraph | TextGraph | SentenceText


def capture(graph: Graph) -> ExportedProgram:
    """The graph as a program, any number of rows of any length."""
    example = graph.example()
    rows = Dim("rows", min=1)
    shapes: list[dict[int, Dim]]
    if isinstance(graph, AudioGraph):
        shapes = [{0: rows, 1: Dim("samples", min=graph.shortest)}]
    elif isinstance(graph, TextGraph):
        tokens = Dim("tokens", min=2, max=graph.longest)
        shapes = [{0: rows, 1: tokens}] * 2
    else:
        shapes = [{0: rows}]
    named = dict(zip(graph.inputs, shapes, strict=True))
    with torch.no_grad(), _any_size():
        return torch.export.export(graph.eval(), example, dynamic_shapes=named,
                                   strict=graph.strict)  # fmt: skip


def _any_size() -> Any:
    """Sizes of one are not taken for constants while a graph is traced."""
    config: Any = torch.fx.experimental._config
    return config.patch(backed_size_oblivious=True)


def save_program(path: Path, program: ExportedProgram) -> None:
    """At once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        torch.export.save(program, file)
