"""What the examples of the pages find on disk: small models under the names that the pages use,
sounds, tables, and a cache of the Hub that holds tiny models by published names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
import torch

from echoic.api import EchoicModel, save_tested
from echoic.convert.native import ModelFile
from tests import clap, m2d, task_trees, tiny
from tests.convert import m2d_files
from tests.m2d_stages import CHANGES

LABELS = ("dog", "rain", "cat")
STEPS = ("optim.steps=2", "optim.warmup_steps=1")
_SIZE = ("depth=1", "width=32", "heads=2", "hidden=48")
_HEAD = ("prototypes=32", "hidden=32", "bottleneck=16")
# Added to commands that would take minutes, by the names that the pages' marks give them.
SMALLER: dict[str, tuple[str, ...]] = {
    "tiny": (
        *(f"model.{side}.{each}" for side in ("audio", "text") for each in _SIZE),
        "model.embed_dim=16", "data.budget_tokens=400", *STEPS,
    ),
    "tiny m2d": CHANGES["m2d"],
    "tiny clap": (
        *STEPS, "data.budget_clips=2", "model.text.depth=1", "model.audio.depths=[1,1,1,1]",
    ),
}  # fmt: skip
SMALLER["tiny slap"] = (
    *SMALLER["tiny"], *(f"model.decoder.{each}" for each in _SIZE),
    *(f"objectives.distillation.head.{each}" for each in _HEAD),
)  # fmt: skip


def furnish(folder: Path) -> None:
    """All of it, below `folder`."""
    _models(folder / "runs")
    _sounds(folder)
    _tables(folder)
    _published(folder)
    _tasks(folder)
    _m2d_files(folder)


def _tasks(folder: Path) -> None:
    """Published tasks, as they are laid out, and lists of what not to train on."""
    task_trees.esc50(folder / "ESC-50-master", per_class=1)
    task_trees.us8k(folder / "UrbanSound8K")
    task_trees.gtzan(folder / "GTZAN")
    for name in ("ESC-50", "DATA/esc50"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(folder / "ESC-50-master")
    (folder / "audio").mkdir()
    for name in ("wavcaps_blacklist", "blacklist"):
        (folder / f"{name}.json").write_text('["1234", "5678"]', "utf-8")


def _models(runs: Path) -> None:
    for seed, name in enumerate(("demo", "other", "mine", "nano-my")):
        _save(runs / name, tiny.content(seed, max_s=4.0))
    for name in ("slap", "slap-nano-my"):
        _save(runs / name, tiny.content(0, max_s=4.0, decoder=tiny.decoder()))
    for name in ("m2d", "one", "two"):
        _save(runs / name, m2d.content("tokens", text="small"))


def _save(run: Path, content: ModelFile) -> None:
    run.mkdir(parents=True)
    save_tested(run / "model.safetensors", content)


def _sounds(folder: Path) -> None:
    single = ("dog.wav", "dog.mp3", "rain.wav", "more.wav", "whole_day.mp3")
    longer = ("rain.flac", "door.wav", "street.wav", "hour.wav")  # than a model hears at once
    folders = ("field-recordings", "sounds", "noises", "rain")
    several = [f"{each}/{name}.wav" for each in folders for name in "abc"]
    for seed, name in enumerate([*single, *longer, *several]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        seconds = 6.0 if name in longer else 1.0 + 0.1 * seed
        soundfile.write(folder / name, tiny.noise(seconds, seed), tiny.RATE)
    (folder / "broken.wav").write_bytes(b"no sound")


def _tables(folder: Path) -> None:
    """Of thirty clips: with a caption and a tag each, in five folds."""
    rows = []
    for i in range(30):
        name, label = f"clips/{i:02}.wav", LABELS[i % 3]
        wave = tiny.tone(200.0 * 1.5 ** (i % 3) + 10 * i, 2.0) + 0.1 * tiny.noise(2.0, i)
        (folder / "clips").mkdir(exist_ok=True)
        soundfile.write(folder / name, wave, tiny.RATE)
        rows.append((name, f"the sound of a {label} number {i}", label, str(i % 5 + 1)))
    for name in ("my", "tags", "esc", "esc50", "labelled", "audioset"):
        _table(folder / f"{name}.csv", rows)
    for name, part in (("train", rows[:18]), ("valid", rows[18:24]), ("test", rows[24:])):
        _table(folder / f"{name}.csv", part)
    _table(folder / "held_out.csv", rows[24:])
    _table(folder / "field-recordings/notes.csv", [("a.wav", "thunder", "night", "1")])
    (folder / "notes.csv").write_text("file,caption,tags\na.wav,thunder,night\n", "utf-8")
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n", "utf-8")


def _table(path: Path, rows: list[tuple[str, ...]]) -> None:
    lines = [f"{file},{caption},{tag},{fold}" for file, caption, tag, fold in rows]
    path.write_text("\n".join(["file,caption,tags,fold", *lines]) + "\n", "utf-8")


def _published(folder: Path) -> None:
    """LAION-CLAP's files, and what the cache of the Hub would hold after a first use."""
    clap.pt_file(folder / "630k-audioset-best.pt")
    (folder / "roberta-folder").mkdir()
    (folder / "roberta-folder/tokenizer.json").write_text(clap.tokenizer_json(), "utf-8")
    cache = folder / "hub"
    for name, fusion in (("clap-htsat-fused", True), ("clap-htsat-unfused", False)):
        clap.huggingface_folder(_snapshot(cache, f"laion/{name}"), fusion=fusion)
    tokenizer = _snapshot(cache, "FacebookAI/roberta-base") / "tokenizer.json"
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.write_text(clap.tokenizer_json(), "utf-8")


def _snapshot(cache: Path, repository: str) -> Path:
    """Where huggingface_hub looks for a repository's files; its parents are made."""
    place = cache / f"models--{repository.replace('/', '--')}"
    commit = "0" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text(commit, "utf-8")
    (place / "snapshots").mkdir()
    return place / "snapshots" / commit


def _m2d_files(folder: Path) -> None:
    """In upstream's layouts: an M2D, an M2D-CLAP of 2024, a tagger."""
    name = "m2d_{}vit_base-80x{}p16x16-{}".format
    m2d_files.m2d_file(folder, m2d_files.fill(m2d_files.M2D), name("", 608, "221006-mr7"))
    m2d_files.m2d_file(folder, m2d_files.fill(m2d_files.CLAP_2024), name("clap_", 608, "240128"))
    width = m2d_files.WIDTH
    head = {"norm.running_mean": (width,), "norm.running_var": (width,)}
    head |= m2d_files.linear("mlp.mlp.0", 527, width)
    tuned = m2d_files.fill(m2d_files.wrapped("module.ar.runtime.backbone.", m2d_files.ALONE))
    tuned |= m2d_files.fill(m2d_files.wrapped("module.head.", head))
    tuned["module.head.norm.running_var"].fill_(1.0)
    tagger = folder / name("as_", 1001, "240213_AS-FT_enconly") / "weights_ep69it3124-0.48494.pth"
    tagger.parent.mkdir()
    torch.save(tuned, tagger)
    rows = [f"{i},/m/{526 - i:03},Sound {i}" for i in range(527)]  # the mids fall
    lines = "\n".join(["index,mid,display_name", *rows])
    (folder / "class_labels_indices.csv").write_text(lines, "utf-8")


def without_the_hub(load: Callable[..., EchoicModel]) -> Callable[..., EchoicModel]:
    """`echoic.load`; M2D-CLAP 2025 is a tiny one of ours, and a sentence encoder one of words."""

    def call(path: Any, **options: Any) -> EchoicModel:
        if "2025" in str(path):
            return m2d.model("tokens", text="small")
        named = {"text_encoder": "words:64"} if "text_encoder" in options else {}
        return load(path, **options | named)

    return call
