"""What an evaluation costs beyond the encoding, and a second one that finds its vectors.

    python -m benchmarks.second_run            # 1000 clips of 10 s: a few minutes
    python -m benchmarks.second_run --quick    # 50 clips: seconds

`echoic.evaluate.evaluate` on WAV files with five captions and one tag each: retrieval both ways,
zero-shot classification, the space, all with intervals, as JSON; without captions of a decoder.
Models of SLAP's sizes small and nano with random weights, which cost as much as any; loading them
is not counted. One thread, also of NumPy's library of matrices (a second one that waits would be
counted), CPU seconds. Each run opens the cache anew.

second_run_speedup: seconds of the first run, with an empty cache, over those of the second; small.
seconds_beyond_encoding: of the first run, all but the calls that read and encode clips and texts.
nano_...: the same of nano, which encodes so fast that the figures themselves weigh most.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from benchmarks.audio_in import sound
from benchmarks.output import finish, show
from echoic.api import EchoicModel
from echoic.convert.native import ModelFile
from echoic.data.clips import Clip
from echoic.data.sources import FileSource
from echoic.embeddings import VectorCache
from echoic.encoders.text import SmallTextSpec
from echoic.encoders.tokenizer import TextTokenizer
from echoic.evaluate import evaluate
from echoic.model import build
from echoic.recipes import find_recipe

RECIPES = {"small": "slap:small", "nano": "nano"}
SECONDS, RATE_HZ = 10.0, 16_000
CAPTIONS, CLASSES = 5, 50
_SETTLING_S = 2.5  # before that a file counts as one that may still change, and is read again


class TimedModel(EchoicModel):
    """One that knows how long it has encoded, what it reads meanwhile included."""

    encoding_s = 0.0

    def embed_audio(self, items: Iterable[object], **options: object) -> Tensor:
        return self._timed(lambda: EchoicModel.embed_audio(self, items, **options))

    def embed_text(self, texts: Sequence[str] | str) -> Tensor:
        return self._timed(lambda: EchoicModel.embed_text(self, texts))

    def _timed(self, encode: Callable[[], Tensor]) -> Tensor:
        started = time.process_time()
        try:
            return encode()
        finally:
            self.encoding_s += time.process_time() - started


def make_clips(folder: Path, clips: int, seconds: float, rate_hz: int) -> FileSource:
    """Noise, each clip another; sentences of drawn words."""
    rng = np.random.default_rng(0)
    words = [f"{a}{b}{c}" for a in "bdgklmnprst" for b in "aeiou" for c in "lmnrst"]
    paths = [folder / f"{i:04}.wav" for i in range(clips)]
    noise = sound(seconds, rate_hz, 1, rng)[:, 0]
    for path in paths:
        soundfile.write(path, np.roll(noise, rng.integers(len(noise))), rate_hz, subtype="PCM_16")
    told = [
        Clip(path.name, tuple(" ".join(rng.choice(words, 10)) for _ in range(CAPTIONS)),
             (words[i % CLASSES],), seconds)
        for i, path in enumerate(paths)
    ]  # fmt: skip
    return FileSource(told, paths)


def make_model(source: FileSource, recipe: str) -> TimedModel:
    """That recipe's, drawn."""
    texts = [text for clip in source.clips for text in clip.captions]
    tokenizer = TextTokenizer.train(texts, vocab=2000, max_tokens=64)
    spec = find_recipe(recipe).model
    assert isinstance(spec.text, SmallTextSpec)
    text = spec.text.model_copy(update={"vocab": tokenizer.vocab})
    drawn = build(spec.model_copy(update={"text": text, "decoder": None}), seed=0)
    model = TimedModel(ModelFile(drawn, tokenizer))
    model.embed_audio([np.ones(model.rate_hz, np.float32)])  # the first call is slower than others
    return model


def measure(model: TimedModel, source: FileSource, folder: Path) -> dict[str, float]:
    """CPU seconds of both runs, and what follows from them."""

    def run() -> tuple[float, float]:
        model.encoding_s, started = 0.0, time.process_time()
        with VectorCache(folder) as cache:
            evaluate(model, source, captions=None, cache=cache).to_json()
        return time.process_time() - started, cache.made

    (first_s, _), encoding_s = run(), model.encoding_s
    second_s, made = run()
    assert made == 0, "the second run found its vectors"
    return {
        "first_run_s": first_s,
        "second_run_s": second_s,
        "second_run_speedup": first_s / second_s,
        "seconds_beyond_encoding": first_s - encoding_s,
    }


def main() -> None:
    """Measure, print."""
    if os.environ.get("OMP_NUM_THREADS") != "1":  # is read when NumPy is loaded
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "OMP_NUM_THREADS": "1"})
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    clips = 50 if parser.parse_args().quick else 1000
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = make_clips(folder, clips, SECONDS, RATE_HZ)
        time.sleep(_SETTLING_S)
        for name, recipe in RECIPES.items():
            found[name] = measure(make_model(source, recipe), source, folder / "cache")
    show(
        f"Evaluation of {clips} clips of {SECONDS:g} s: CPU seconds",
        ("model", "first run", "of it beyond the encoding", "second run", "speedup"),
        [
            (
                name,
                each["first_run_s"],
                each["seconds_beyond_encoding"],
                each["second_run_s"],
                each["second_run_speedup"],
            )
            for name, each in found.items()
        ],
    )
    nano = {f"nano_{name}": value for name, value in found["nano"].items()}
    finish({"clips": clips, **found["small"], **nano})


if __name__ == "__main__":
    main()
