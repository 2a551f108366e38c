"""LAION-CLAP against `transformers`: the same random weights, the same files, side by side.

    python -m benchmarks.laion_clap             # about 4 minutes on two cores
    python -m benchmarks.laion_clap --quick     # a minute: fewer repeats

HTSAT-tiny + RoBERTa-base, two threads, fp32 unless said. Each ratio is their best time over ours,
in turns in one process, at the batch size that suits each best. The floor, in seconds, is the
floating-point operations of the matrix products over this machine's measured matmul rate.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile as sf
import torch
from torch import Tensor

import echoic
from benchmarks.output import finish, show
from benchmarks.timing import (
    in_own_process,
    in_turns,
    least,
    matmul_rate,
    operations,
    resident_mib,
)
from echoic.objectives.contrastive import contrastive_loss
from echoic.objectives.task import ContrastiveTask
from echoic.types import Batch, Ragged

RATE_HZ = 48_000
SHARED = Path(os.environ.get("ECHOIC_SHARED", Path(__file__).resolve().parents[2] / "shared"))
SENTENCES = (
    "a man speaks while birds chirp in the background", "rain falls on a tin roof",
    "an engine idles and then accelerates", "a dog barks twice as a car passes by",
    "water splashes and people talk", "a crowd applauds and cheers", "a door creaks open slowly",
    "wind blows into a microphone while a woman laughs",
)  # fmt: skip
_CHILD = "--child"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(_CHILD, nargs=2, metavar=("WORK", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(2)
    if args.child:
        print(peak_mib(*args.child))
        return
    rounds = 1 if args.quick else 6
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(Path(folder))
        files = write_files(Path(folder) / "wav", count=4 if args.quick else 8)
        rows = [
            *embedding(models["unfused"], files, rounds),
            features("features_vs_transformers", models["unfused"], 10.0, 5 * rounds),
            features("fusion_features_vs_transformers", models["fused"], 25.0, 5 * rounds),
            *training(models["unfused"], 1 if args.quick else 4, whole=not args.quick),
            *memory(Path(folder), embeddings=1 if args.quick else 5),
        ]
    show(
        "LAION-CLAP, HTSAT-tiny + RoBERTa-base, beside transformers",
        ("figure", "transformers", "echoic", "ratio", "floor", "note"),
        [row.cells() for row in rows],
    )
    figures: dict[str, object] = {row.name: row.ratio for row in rows}
    figures |= {f"{row.name}_floor_s": row.floor_s for row in rows if row.floor_s is not None}
    for row in rows:
        figures |= row.more
    finish(figures)


@dataclass
class Row:
    """One figure: theirs and ours in seconds (or MiB), smaller is better."""

    name: str
    theirs: float
    ours: float
    note: str
    floor_s: float | None = None
    more: dict[str, float] | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.more = self.more or {}

    @property
    def ratio(self) -> float:
        """How many times faster; of memory, our share of theirs."""
        return self.ours / self.theirs if "memory" in self.name else self.theirs / self.ours

    def cells(self) -> tuple[object, ...]:
        floor = "" if self.floor_s is None else f"{self.floor_s:.3f}"
        return self.name, self.theirs, self.ours, f"{self.ratio:.2f}", floor, self.note


# -- what is measured ------------------------------------------------------------------------------


def write_models(folder: Path) -> dict[str, Path]:
    """Random weights in Hugging Face's form, with and without fusion, and a small tokenizer."""
    import transformers as hf

    made = {}
    for name, fused in (("unfused", False), ("fused", True)):
        audio = {"enable_fusion": fused, "fusion_type": "aff_2d" if fused else None}
        config = hf.ClapConfig(audio_config=audio, text_config={"layer_norm_eps": 1e-5})
        with torch.random.fork_rng():
            torch.random.manual_seed(0)
            model = hf.ClapModel(config)
        made[name] = folder / name
        model.save_pretrained(made[name])
        processor(fused).save_pretrained(made[name])
    return made


def processor(fused: bool) -> Any:
    import transformers as hf
    from tokenizers import ByteLevelBPETokenizer

    learnt = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    learnt.train_from_iterator(captions(2000), vocab_size=8000, special_tokens=special)
    with tempfile.TemporaryDirectory() as folder:
        learnt.save_model(folder)
        tokenizer = hf.RobertaTokenizer.from_pretrained(folder)
    extractor = hf.ClapFeatureExtractor(
        frequency_min=50,
        frequency_max=14_000,
        truncation="fusion" if fused else "rand_trunc",
        padding="repeatpad",
    )
    return hf.ClapProcessor(extractor, tokenizer)


def captions(count: int) -> list[str]:
    """AudioCaps captions where they are; else a few sentences over and over."""
    tables = sorted((SHARED / "data" / "text").glob("*audiocaps*.csv"))
    if not tables:
        return [SENTENCES[i % len(SENTENCES)] for i in range(count)]
    with tables[0].open(newline="", encoding="utf-8") as opened:
        rows = [row["caption"] for row in csv.DictReader(opened)]
    return rows[:count]


def waves(count: int, seconds: float) -> list[np.ndarray]:
    """Coloured noise, (T,) each."""
    draw = np.random.default_rng(0)
    samples = round(seconds * RATE_HZ)
    tone = np.sin(np.arange(samples) * 0.05).astype(np.float32)
    return [
        (0.05 * draw.standard_normal(samples) + 0.2 * draw.random() * tone).astype(np.float32)
        for _ in range(count)
    ]


def write_files(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    files = [folder / f"{i:02}.wav" for i in range(count)]
    for file, wave in zip(files, waves(count, 10.0), strict=True):
        sf.write(file, wave, RATE_HZ, subtype="PCM_16")
    return files


class Theirs:
    """ClapProcessor and ClapModel, as their documentation uses them."""

    def __init__(self, folder: Path) -> None:
        import transformers as hf

        self.model = hf.ClapModel.from_pretrained(folder).eval()
        self.processor = hf.ClapProcessor.from_pretrained(folder)

    @torch.no_grad()
    def embed(self, files: Sequence[Path], batch: int) -> Tensor:
        rows = []
        for i in range(0, len(files), batch):
            heard = [sf.read(file, dtype="float32")[0] for file in files[i : i + batch]]
            given = self.processor(audio=heard, sampling_rate=RATE_HZ, return_tensors="pt")
            found = self.model.get_audio_features(**given)
            rows.append(found if isinstance(found, Tensor) else found.pooler_output)
        return torch.nn.functional.normalize(torch.cat(rows), dim=-1)


def embedding(folder: Path, files: list[Path], rounds: int) -> list[Row]:
    """10 s wav files to vectors, end to end."""
    theirs, ours = Theirs(folder), echoic.load(folder)
    half = echoic.load(folder, precision="bf16")
    wanted = theirs.embed(files, 1)
    alike = (ours.embed_audio(files) * wanted).sum(1).min()
    alike_half = (half.embed_audio(files) * wanted).sum(1).min()
    things: dict[str, Callable[[], object]] = {
        "theirs 1": lambda: theirs.embed(files, 1),
        "theirs 4": lambda: theirs.embed(files, 4),
        "ours": lambda: ours.embed_audio(files),
        "half": lambda: half.embed_audio(files),
    }
    times = least(in_turns(things, rounds))
    best = min(t for name, t in times.items() if name.startswith("theirs"))
    flop = operations(lambda: theirs.embed(files, 1))
    floor_s, half_floor_s = (flop / matmul_rate(x) for x in (torch.float32, torch.bfloat16))
    n = len(files)
    return [
        Row("embed_vs_transformers", best / n, times["ours"] / n, "s per 10 s wav, fp32",
            floor_s / n, {"embed_cosine": float(alike)}),
        Row("embed_bf16_vs_transformers", best / n, times["half"] / n, "the same, ours in bf16",
            half_floor_s / n, {"embed_bf16_cosine": float(alike_half)}),
    ]  # fmt: skip


def features(name: str, folder: Path, seconds: float, rounds: int) -> Row:
    """Samples to what the encoder takes: log-mel, filled, cropped, its views."""
    theirs, ours = Theirs(folder), echoic.load(folder)
    heard = waves(8, seconds)
    tower = ours.network.audio

    def extract() -> object:
        if not tower.fused:
            return tower.front_end.of_clips(tower.prepared(torch.from_numpy(w)) for w in heard)
        found = [tower.frames_of([wave])[0] for wave in heard]
        return [tower._views(frames, None) for frames in found]

    extractor = theirs.processor.feature_extractor
    things = {
        "theirs": lambda: extractor(heard, sampling_rate=RATE_HZ, return_tensors="pt"),
        "ours": extract,
    }
    times = least(in_turns(things, rounds))
    n = len(heard)
    return Row(name, times["theirs"] / n, times["ours"] / n, f"s per clip of {seconds:g} s")


class TheirTraining:
    """Steps of ClapModel on 16 recordings of 10 s and as many captions, with fused AdamW."""

    def __init__(self, folder: Path) -> None:
        self.theirs = Theirs(folder)
        self.theirs.model.train()
        self.words = self.theirs.processor.tokenizer(
            captions(16), padding=True, return_tensors="pt"
        )
        self.heard = waves(16, 10.0)
        self.ready = self.features()
        weights = self.theirs.model.parameters()
        self.adam = torch.optim.AdamW(weights, lr=1e-6, fused=True)

    def features(self) -> Any:
        extract = self.theirs.processor.feature_extractor
        return extract(self.heard, sampling_rate=RATE_HZ, return_tensors="pt")

    def step(self, features: Any) -> None:
        self.theirs.model(**self.words, **features, return_loss=True).loss.backward()
        self.adam.step()
        self.adam.zero_grad()


class OurTraining:
    """The same with ours."""

    def __init__(self, folder: Path) -> None:
        listener = echoic.load(folder)
        self.model = listener.network.train()
        self.task = ContrastiveTask(self.model)
        self.adam = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)
        texts = captions(16)
        self.batch = Batch(
            Ragged.from_rows([torch.from_numpy(wave) for wave in waves(16, 10.0)]),
            Ragged.from_rows([torch.tensor(row) for row in listener.tokenizer(texts)]),
            torch.arange(16),
            tuple(texts),
        )
        self.ready = list(self.model.audio.front_end(self.batch.audio))

    def step(self, *, from_samples: bool) -> None:
        if from_samples:
            loss = self.task(self.batch)["contrastive"]
        else:
            heard = self.model.audio.from_frames(self.ready, [10.0] * 16).clip
            read = self.model.text(self.batch.text).clip
            loss = contrastive_loss(heard, read, self.model.logit_scale.exp())
        loss.backward()
        self.adam.step()
        self.adam.zero_grad()


def training(folder: Path, rounds: int, *, whole: bool) -> list[Row]:
    """Forward, loss, backward, AdamW; batch 16; from log-mel on, and if `whole` from samples on.
    Ours has the released recipe's drop path, theirs dropout after each MLP."""
    theirs, ours = TheirTraining(folder), OurTraining(folder)
    things: dict[str, Callable[[], object]] = {
        "theirs": lambda: theirs.step(theirs.ready),
        "ours": lambda: ours.step(from_samples=False),
    }
    if whole:
        things |= {
            "theirs whole": lambda: theirs.step(theirs.features()),
            "ours whole": lambda: ours.step(from_samples=True),
        }
    times = least(in_turns(things, rounds))
    floor_s = operations(lambda: theirs.step(theirs.ready)) / matmul_rate(torch.float32)
    rows = [
        Row("train_step_vs_transformers", times["theirs"], times["ours"],
            "s a step of 16, features ready", floor_s),
    ]  # fmt: skip
    if whole:
        name = "train_step_from_samples_vs_transformers"
        note = "s a step of 16, from samples"
        rows.append(Row(name, times["theirs whole"], times["ours whole"], note))
    return rows


def memory(folder: Path, embeddings: int) -> list[Row]:
    """Largest resident memory of a process that loads the model and embeds the files (median of
    several: what of a mapped file is resident differs), or makes two training steps."""
    rows = []
    for name, what, runs in (("memory", "embed", embeddings), ("train_memory", "train", 1)):
        peaks = {}
        for who in ("theirs", "ours"):
            asked = (_CHILD, f"{who} {what}", str(folder))
            found = [in_own_process("benchmarks.laion_clap", *asked) for _ in range(runs)]
            peaks[who] = median(found)
        note = "peak MiB, " + {"embed": "embedding", "train": "two training steps"}[what]
        rows.append(Row(f"{name}_vs_transformers", peaks["theirs"], peaks["ours"], note))
    return rows


def peak_mib(work: str, folder: str) -> float:
    """Of this process, after some work."""
    files = sorted((Path(folder) / "wav").glob("*.wav"))
    model = Path(folder) / "unfused"
    if work == "theirs embed":
        Theirs(model).embed(files, 4)
    elif work == "ours embed":
        echoic.load(model).embed_audio(files)
    elif work == "theirs train":
        theirs = TheirTraining(model)
        for _ in range(2):
            theirs.step(theirs.ready)
    else:
        ours = OurTraining(model)
        for _ in range(2):
            ours.step(from_samples=False)
    return resident_mib("VmHWM")


if __name__ == "__main__":
    main()
