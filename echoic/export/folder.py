"""What `echoic export` writes: graphs of both sides, the tokenizer, a description, and a README
that says how to run them without echoic.

    audio.onnx  text.onnx              or audio.pt2, text.pt2 of torch.export
    audio.int8.onnx  text.int8.onnx    if asked for
    tokenizer.json  export.json  README.md

A graph is only kept if it computes what the model does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from echoic.convert.native import ModelFile
from echoic.export.audio import AudioGraph, audio_graph
from echoic.export.card import described
from echoic.export.int8 import save_int8
from echoic.export.onnx import need, open_session, save_onnx
from echoic.export.text import SentenceText, TextGraph, text_graph
from echoic.export.torch_export import Graph, capture, save_program
from echoic.model import LanguageAudioModel
from echoic.types import CheckpointError, ConfigError, Ragged

Part = Literal["audio", "text"]
Form = Literal["onnx", "torch"]
PARITY, INT8_COSINE = 1e-4, 0.99
README, TOKENIZER = "README.md", "tokenizer.json"


@dataclass(frozen=True)
class Exported:
    """A file and how far its vectors are from the model's: the largest difference of any number in
    them."""

    file: Path
    difference: float


def export(
    content: ModelFile,
    folder: Path,
    *,
    parts: Sequence[Part] | None = None,
    form: Form = "onnx",
    int8: bool = False,
    told: Callable[[str], None] = lambda line: None,
) -> list[Exported]:
    """Write the sides of a model to a folder. parts: None takes all that there are. told: is told
    what is being made.

    Raises ConfigError where a package is not installed or int8 is asked of torch.export, and
    CheckpointError where there is no text side, or a graph does not compute what the model does.
    The model is moved to the CPU.
    """
    if int8 and form != "onnx":
        raise ConfigError("int8 is a form of ONNX: leave out --int8 or --to torch")
    if form == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            need(package)
    model = content.model.eval().cpu()
    has_text = model.spec.text is not None
    wanted = parts or (("audio", "text") if has_text else ("audio",))
    graphs = [audio_graph(model) if part == "audio" else text_graph(model) for part in wanted]
    found: list[Exported] = []
    for graph in graphs:
        file = folder / f"{graph.part}.{'onnx' if form == 'onnx' else 'pt2'}"
        told(f"{file.name}: tracing the {graph.part} side")
        found.append(_made(file, graph, model, form))
        if int8:
            smaller = folder / f"{graph.part}.int8.onnx"
            save_int8(file, smaller)
            found.append(_checked(smaller, graph, model, _onnx_runner(smaller), least=INT8_COSINE))
    _remove_others(folder, wanted, found)
    _describe(content, folder, graphs, [each.file for each in found])
    return found


def _remove_others(folder: Path, parts: Sequence[Part], found: Sequence[Exported]) -> None:
    """Graphs of the same sides that an earlier export left, of another form or another model."""
    kept = {each.file.name for each in found}
    for part in parts:
        for suffix in ("onnx", "int8.onnx", "pt2"):
            if (name := f"{part}.{suffix}") not in kept:
                (folder / name).unlink(missing_ok=True)


def _made(file: Path, graph: Graph, model: LanguageAudioModel, form: Form) -> Exported:
    if form == "onnx":
        save_onnx(file, graph)
        return _checked(file, graph, model, _onnx_runner(file))
    save_program(file, capture(graph))
    return _checked(file, graph, model, torch.export.load(file).module())


def _onnx_runner(file: Path) -> Callable[..., Tensor]:
    session = open_session(file)
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


@torch.no_grad()
def _checked(
    file: Path,
    graph: Graph,
    model: LanguageAudioModel,
    run: Callable[..., Tensor],
    *,
    least: float | None = None,
) -> Exported:
    """Against the model itself, on one row of another length than what was traced. least: the
    cosine that is enough; None: each number within PARITY. Raises CheckpointError."""
    inputs = _one_row(graph)
    ours, theirs = _vectors(graph, model, inputs), run(*inputs)
    difference = float((ours - theirs).abs().max())
    cosine = float((ours * theirs).sum(1).min())
    if not (difference <= PARITY if least is None else cosine >= least):  # nor NaN
        file.unlink()
        raise CheckpointError(
            f"{file}: does not compute what the model does (cosine {cosine:.6f}, largest "
            f"difference {difference:.2g}); it is not kept"
        )
    return Exported(file, difference)


def _one_row(graph: Graph) -> tuple[Tensor, ...]:
    """A chirp of a little over a second; a few token ids; a vector."""
    if isinstance(graph, AudioGraph):
        time = torch.arange(min(graph.longest, max(graph.shortest, graph.rate_hz + 331)))
        return (0.3 * torch.sin(time * 0.02 * (1 + time / len(time)))[None],)
    if isinstance(graph, TextGraph):
        ids = torch.arange(2, 2 + min(5, graph.longest))[None]
        return ids, torch.ones_like(ids)
    return (torch.linspace(-1, 1, graph.width)[None],)


def _vectors(graph: Graph, model: LanguageAudioModel, inputs: tuple[Tensor, ...]) -> Tensor:
    """(1, D) by the model's own code."""
    if isinstance(graph, SentenceText):
        return F.normalize(model.project_sentence(inputs[0]), dim=-1)
    tower = model.audio if isinstance(graph, AudioGraph) else model.text
    return F.normalize(tower(Ragged.from_rows([inputs[0][0]])).clip.float(), dim=-1)


def _describe(
    content: ModelFile, folder: Path, graphs: Sequence[Graph], files: Sequence[Path]
) -> None:
    if any(isinstance(graph, TextGraph) for graph in graphs):
        if content.tokenizer is not None:
            (folder / TOKENIZER).write_text(content.tokenizer.to_json(), "utf-8")
        else:  # that of an earlier export is another model's
            (folder / TOKENIZER).unlink(missing_ok=True)
    facts = _facts(content, graphs, [file.name for file in files])
    (folder / "export.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    (folder / README).write_text(_readme(content, graphs, facts), "utf-8")


def _facts(content: ModelFile, graphs: Sequence[Graph], files: list[str]) -> dict[str, Any]:
    spec = content.model.spec
    facts: dict[str, Any] = {
        "space_id": content.model.space_id(),
        "embed_dim": spec.embed_dim,
        "logit_scale": float(content.model.logit_scale.detach().exp()),
        "files": files,
    }
    for graph in graphs:
        if isinstance(graph, AudioGraph):
            facts |= {"rate_hz": graph.rate_hz, "shortest_samples": graph.shortest,
                      "longest_samples": graph.longest}  # fmt: skip
        elif isinstance(graph, TextGraph):
            facts["longest_tokens"] = graph.longest
    return facts


def _readme(content: ModelFile, graphs: Sequence[Graph], facts: dict[str, Any]) -> str:
    onnx = facts["files"][0].endswith(".onnx")
    lines = ["# Exported by echoic", ""]
    lines += [
        f"- {name}: {value}" for name, value in described(content).items() if name != "captions"
    ]
    for graph in graphs:
        lines += ["", f"## {graph.part.capitalize()}", "", *_about(graph), ""]
        if isinstance(graph, TextGraph) and content.tokenizer is None:
            lines += [f"This model brought no tokenizer: put its {TOKENIZER} here.", ""]
        lines += ["```python"]
        lines += [*(_onnx_lines(graph, facts) if onnx else _torch_lines(graph, facts)), "```"]
    if len(graphs) == 2:
        lines += [
            "", "The probabilities of texts for a sound: the softmax of "
            f"{facts['logit_scale']:.4f} times the cosines, `audio @ text.T`.",
        ]  # fmt: skip
    if any(name.endswith(".int8.onnx") for name in facts["files"]):
        lines += [
            "", "The .int8.onnx files have 8-bit weights: a quarter of the size, and vectors that "
            "differ a little. Don't mix them with those of the others in one index.",
        ]  # fmt: skip
    lines += ["", "TODO: the licence of these weights.", ""]
    return "\n".join(lines)


def _about(graph: Graph) -> list[str]:
    if isinstance(graph, AudioGraph):
        return [
            f"Mono samples at {graph.rate_hz} Hz, (rows, samples) float32 in -1 to 1, to unit "
            f"vectors. All rows of a call have one length, {graph.shortest} to {graph.longest} "
            "samples; others are refused. Of a longer recording take windows of the greatest "
            "length, the last one flush with the end, and the mean of their vectors in which "
            "each sample counts once, brought to length 1.",
        ]
    if isinstance(graph, TextGraph):
        return [
            f"Token ids, (rows, tokens) int64, 2 to {graph.longest}, to unit vectors. "
            "attention_mask is 1 where a token stands, and 0 where a shorter text is filled up.",
        ]
    return ["Vectors of the sentence encoder that the model was trained with, to unit vectors."]


def _onnx_lines(graph: Graph, facts: dict[str, Any]) -> list[str]:
    file = next(name for name in facts["files"] if name.startswith(graph.part))
    head = ["import numpy as np, onnxruntime"]
    session = f'session = onnxruntime.InferenceSession("{file}")'
    return [*head, *_given(graph, facts), session,
            f"{graph.part} = session.run(None, {_fed(graph)})[0]"]  # fmt: skip


def _torch_lines(graph: Graph, facts: dict[str, Any]) -> list[str]:
    file = next(name for name in facts["files"] if name.startswith(graph.part))
    inputs = ", ".join(f"torch.from_numpy({value})" for value in _values(graph).values())
    return ["import numpy as np, torch", *_given(graph, facts),
            f'program = torch.export.load("{file}").module()',
            f"{graph.part} = program({inputs}).detach().numpy()"]  # fmt: skip


def _given(graph: Graph, facts: dict[str, Any]) -> list[str]:
    """How a person comes by the inputs."""
    if isinstance(graph, AudioGraph):
        return [
            "import soundfile",
            'samples, rate_hz = soundfile.read("sound.wav", dtype="float32")  '
            f"# mono, {facts['rate_hz']} Hz",
        ]
    if isinstance(graph, TextGraph):
        return [
            "from tokenizers import Tokenizer",
            f'ids = np.array([Tokenizer.from_file("{TOKENIZER}").encode("a dog barks").ids])',
        ]
    return [f"vectors = np.ones((1, {graph.width}), np.float32)"]


def _values(graph: Graph) -> dict[str, str]:
    if isinstance(graph, AudioGraph):
        return {"samples": "samples[None]"}
    if isinstance(graph, TextGraph):
        return {"input_ids": "ids", "attention_mask": "np.ones_like(ids)"}
    return {"vectors": "vectors"}


def _fed(graph: Graph) -> str:
    return "{" + ", ".join(f'"{name}": {value}' for name, value in _values(graph).items()) + "}"
