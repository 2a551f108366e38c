"""What an exported model costs and gains: ONNX and 8 bits beside the model in torch.

    python -m benchmarks.export --model runs/demo     # and what 8 bits cost on held-out scenes
    python -m benchmarks.export --quick               # drawn weights: parity, size and speed alone

Needs the extra `onnx`. One clip at a time, on one thread, in turns; the best round of each. The
held-out scenes are the embedded corpus's test split, measured as `echoic eval` measures them, with
every vector, of sounds and of texts, by the form in question.

export_difference_millionths: the largest of any number in a vector, ONNX in float32 from torch.
int8_distance_millionths, _mean_: the greatest and the mean cosine distance of the sounds' vectors,
8 bits from float32. NAME, int8_NAME: a share in
float32 and with 8 bits. onnx_speedup, int8_speedup: against `EchoicModel`, a clip of 10 s (or what
the model hears at once).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.audio_in import sound
from benchmarks.output import finish, show
from benchmarks.second_run import make_clips, make_model
from benchmarks.timing import in_turns, least, ratio
from echoic.api import EchoicModel, load
from echoic.convert.native import ModelFile
from echoic.evaluate import SynthSize, evaluate_synth
from echoic.export.folder import export
from echoic.export.onnx import open_session
from echoic.listening import Piece

SHARES = {"retrieval/text_to_audio_R@10": "text_to_audio_r10",
          "retrieval/audio_to_text_R@10": "audio_to_text_r10",
          "zero_shot/accuracy": "zero_shot"}  # fmt: skip


class OnnxModel(EchoicModel):
    """A model whose vectors come from exported graphs."""

    def __init__(self, model: EchoicModel, folder: Path, kind: str) -> None:
        super().__init__(ModelFile(model.network, model.tokenizer, model.card))
        self.audio = open_session(folder / f"audio{kind}.onnx", threads=1)
        self.texts = open_session(folder / f"text{kind}.onnx", threads=1)

    def _clip_vectors(self, pieces: Sequence[Piece]) -> tuple[Tensor, ...]:
        given = [np.asarray(piece.content, np.float32)[None] for piece in pieces]
        return tuple(torch.from_numpy(self.audio.run(None, {"samples": x})[0][0]) for x in given)

    def _text_vectors(self, ids: Sequence[Sequence[int]]) -> Tensor:
        rows = []
        for row in ids:
            x = np.array([row], np.int64)
            given = {"input_ids": x, "attention_mask": np.ones_like(x)}
            rows.append(torch.from_numpy(self.texts.run(None, given)[0]))
        return torch.cat(rows)


def drawn() -> EchoicModel:
    """`nano` with weights that were not trained."""
    with tempfile.TemporaryDirectory() as folder:
        return make_model(make_clips(Path(folder), 4, 1.0, 16_000), "nano")


def differences(models: dict[str, EchoicModel]) -> dict[str, float]:
    """Of vectors of sounds of several lengths, and of texts."""
    rng, torch_model = np.random.default_rng(0), models["torch"]
    longest_s, rate_hz = torch_model.network.audio.max_s, torch_model.rate_hz
    seconds = [s for s in (0.1, 0.73, 2.0, 5.05, 10.0, 29.9) if s <= longest_s]
    sounds = [sound(s, rate_hz, 1, rng)[:, 0].astype(np.float32) for s in seconds]
    texts = ["rain", "a dog barks twice, then a bell rings far away", "wind in the trees"]
    heard = {name: model.embed_audio(sounds) for name, model in models.items()}
    read = {name: model.embed_text(texts) for name, model in models.items()}
    distance = 1e6 * (1 - (heard["torch"] * heard["int8"]).sum(1))
    apart = max(float((x["torch"] - x["onnx"]).abs().max()) for x in (heard, read))
    return {
        "export_difference_millionths": 1e6 * apart,
        "int8_distance_millionths": float(distance.max()),
        "int8_distance_mean_millionths": float(distance.mean()),
    }


def speeds(models: dict[str, EchoicModel], rounds: int) -> dict[str, float]:
    """Milliseconds of a clip, and of a text; and how many times faster than torch."""
    rng, torch_model = np.random.default_rng(1), models["torch"]
    seconds = min(10.0, torch_model.network.audio.max_s)
    wave = sound(seconds, torch_model.rate_hz, 1, rng)[:, 0].astype(np.float32)
    found: dict[str, float] = {}
    for what, call in {
        "clip": lambda model: model.embed_audio([wave]),
        "text": lambda model: model.embed_text("a dog barks twice, then a bell rings far away"),
    }.items():
        laps = in_turns({name: partial(call, model) for name, model in models.items()}, rounds)
        found |= {f"{name}_{what}_ms": 1000 * s for name, s in least(laps).items()}
        for name in ("onnx", "int8"):
            key = f"{name}_speedup" if what == "clip" else f"{name}_text_speedup"
            found[key] = ratio(laps["torch"], laps[name])
    return found


def shares(model: EchoicModel, size: SynthSize) -> dict[str, float]:
    """By what the held-out scenes tell."""
    done = evaluate_synth(model, size, measures=("retrieval", "zero_shot"), captions=None)
    figures: dict[str, Any] = done.to_json()["metrics"]
    return {short: figures[name]["value"] for name, short in SHARES.items()}


def main() -> None:
    """Export, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="what echoic.load opens; none: drawn weights")
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        original = load(given.model) if given.model else drawn()
        content = ModelFile(original.network, original.tokenizer, original.card)
        made = export(content, folder, int8=True)
        models = {
            "torch": original,
            "onnx": OnnxModel(original, folder, ""),
            "int8": OnnxModel(original, folder, ".int8"),
        }
        sizes = {f"{x.file.stem.replace('.', '_')}_mb": x.file.stat().st_size / 1e6 for x in made}
        figures = sizes | differences(models) | speeds(models, 5 if given.quick else 20)
    if given.model and not given.quick:
        size = SynthSize(scenes=given.scenes, singles=given.scenes)
        for name, model in models.items():
            prefix = "" if name == "torch" else f"{name}_"
            figures |= {prefix + key: value for key, value in shares(model, size).items()}
    rows = [(name, value) for name, value in figures.items()]
    show("An exported model beside the model in torch, one thread", ("figure", "value"), rows)
    finish({"model": given.model or "nano, drawn", **figures})


if __name__ == "__main__":
    main()
