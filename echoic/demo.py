"""The demo: a corpus, a small model, its measure, and a search, in one call of some minutes on two
cores.

    OUT/corpus/{train,valid,test}/   shards of the embedded corpus
    OUT/sounds/*.wav                 some scenes of the test split, to listen to and to search
    OUT/model.safetensors            the model (with recipe.yaml, log.jsonl, checkpoints/)
    OUT/evaluation.json, report.html how good it is

Every stage leaves its result whole or not at all, and is passed over where the result lies already.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import soundfile
from rich.console import Console
from rich.table import Table

from echoic.api import EchoicModel, load
from echoic.config import Spec
from echoic.convert.native import FILE_NAME
from echoic.data.shards import SIZES, ShardSource, write_shards
from echoic.data.synth import Scene, render, sound_class
from echoic.data.synth.corpus import clip_of, draw_scenes, render_all
from echoic.eval.evaluation import metrics_table
from echoic.evaluate import SynthSize, evaluate_synth
from echoic.pretrain import pretrain
from echoic.recipes import find_recipe
from echoic.types import ConfigError

RATE_HZ = 16_000
HITS = 5
_JOIN = {"sequence": "_then_", "overlap": "_with_", "during": "_under_", "backdrop": "_under_"}


class DemoSize(Spec):
    """Scenes per split, the longest in seconds, steps of training, and what is evaluated and
    written as wav.
    """

    train: int
    valid: int
    test: int
    max_s: float
    steps: int
    singles: int
    pairs: int
    sounds: int
    seed: int = 0


FULL = DemoSize(
    train=4000, valid=150, test=300, max_s=8.0, steps=600, singles=240, pairs=240, sounds=40
)
QUICK = DemoSize(train=48, valid=10, test=16, max_s=3.0, steps=6, singles=20, pairs=12, sounds=8)


def run_demo(
    folder: Path,
    size: DemoSize = FULL,
    *,
    processes: int = 1,
    console: Console | None = None,
    program: str = "echoic",
) -> bool:
    """Run all stages in `folder`; False where the training was asked to stop (the same call then
    goes on).

    processes: that render scenes. console: where the stages are told. program: how echoic is called
    in what to type next. Raises ConfigError where a
    demo of another size lies in `folder`, and what the stages raise.
    """
    told = console or Console(quiet=True)
    began_s = time.perf_counter()
    _claim(folder, size)
    with _stage(told, 1, f"corpus: {size.train} + {size.valid} + {size.test} scenes"):
        for split, count in (("train", size.train), ("valid", size.valid), ("test", size.test)):
            _write_split(folder / "corpus" / split, split, count, size, processes)
    with _stage(told, 2, f"sounds to listen to: {folder / 'sounds'}"):
        _write_sounds(folder / "sounds", size)
    with _stage(told, 3, f"pretrain: recipe nano, {size.steps} steps"):
        if not _pretrained(folder, size, told):
            return False
    model = load(folder)
    with _stage(told, 4, f"evaluate: {folder / 'report.html'}"):
        told.print(_evaluated(folder, model, size, processes))
    query = _query(size)
    with _stage(told, 5, f"search {folder / 'sounds'} for “{query}”"):
        told.print(_search(model, folder / "sounds", query))
    told.print(f"the whole demo took {_clock(time.perf_counter() - began_s)}")
    told.print(_next(folder, query, program), soft_wrap=True)
    return True


@contextmanager
def _stage(console: Console, number: int, title: str) -> Iterator[None]:
    console.print(f"[{number}/5] {title}")
    began_s = time.perf_counter()
    yield
    console.print(f"[{number}/5] done in {_clock(time.perf_counter() - began_s)}")


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _claim(folder: Path, size: DemoSize) -> None:
    """Remember what is made here; a demo of another size must not go on from it."""
    note = folder / "demo.yaml"
    if note.is_file():
        if DemoSize.from_yaml(note) != size:
            raise ConfigError(
                f"{folder}: holds a demo of another size; remove it or name another --out"
            )
        return
    if (folder / "checkpoints").exists() or (folder / FILE_NAME).exists():
        raise ConfigError(f"{folder}: holds a run that is no demo; name another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(size.to_yaml(), "utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from None


def _write_split(folder: Path, split: str, count: int, size: DemoSize, processes: int) -> None:
    if (folder / SIZES).is_file():
        return
    if folder.exists():
        shutil.rmtree(
            folder
        )  # half of an interrupted demo, in the folder that `_claim` says is ours
    scenes = draw_scenes(count, split=split, seed=size.seed, max_s=size.max_s)
    waves = render_all(scenes, RATE_HZ, processes=processes)
    pairs = zip(map(clip_of, scenes), waves, strict=True)
    write_shards(pairs, folder, rate_hz=RATE_HZ)


def _write_sounds(folder: Path, size: DemoSize) -> None:
    if folder.is_dir():
        return
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for number, scene in enumerate(_test_scenes(size)[: size.sounds], start=1):
        file = unfinished / f"{number:02d}_{content_name(scene)}.wav"
        soundfile.write(file, render(scene, RATE_HZ), RATE_HZ, subtype="PCM_16")
    unfinished.rename(folder)


def content_name(scene: Scene) -> str:
    """What happens in a scene, as a file name: `loud-dog-bark_then_rain`."""
    parts = ["-".join((*event.attributes, *event.label.lower().split())) for event in scene.events]
    if scene.relation in ("during", "backdrop"):  # the long one comes first in the scene
        return "_then_".join(parts[1:]) + _JOIN[scene.relation] + parts[0]
    return _JOIN.get(scene.relation, "_").join(parts)


def _test_scenes(size: DemoSize) -> list[Scene]:
    return draw_scenes(size.test, split="test", seed=size.seed, max_s=size.max_s)


def _pretrained(folder: Path, size: DemoSize, console: Console) -> bool:
    if (folder / FILE_NAME).is_file():
        return True
    recipe = find_recipe("nano").override(
        [
            f"optim.steps={size.steps}",
            f"optim.warmup_steps={max(1, size.steps // 10)}",
            f"run.seed={size.seed}",
        ]
    )
    done = pretrain(
        recipe,
        ShardSource(folder / "corpus" / "train"),
        folder,
        valid=ShardSource(folder / "corpus" / "valid"),
        resume=(folder / "checkpoints").is_dir(),
        console=console,
    )
    return done.model_file is not None


def _evaluated(folder: Path, model: EchoicModel, size: DemoSize, processes: int) -> Table:
    """The figures on the test split; the report is written before the JSON that says that all is
    done.
    """
    file = folder / "evaluation.json"
    if file.is_file():
        return metrics_table(json.loads(file.read_text("utf-8")))
    synth = SynthSize(
        scenes=size.test, singles=size.singles, pairs=size.pairs, max_s=size.max_s, seed=size.seed
    )
    scenes = ShardSource(folder / "corpus" / "test")
    found = evaluate_synth(model, synth, scenes=scenes, processes=processes)
    found.write_report(folder / "report.html", run_folder=folder)
    file.write_text(json.dumps(found.to_json(), indent=2), "utf-8")
    return found.table()


def _query(size: DemoSize) -> str:
    """Words for the first single event among the sounds."""
    scenes = _test_scenes(size)[: size.sounds]
    scene = next((scene for scene in scenes if scene.relation == "single"), scenes[0])
    return sound_class(scene.labels[0]).nouns[0]


def _search(model: EchoicModel, folder: Path, query: str) -> Table:
    files = sorted(folder.glob("*.wav"))
    cosines = model.similarity(files, query)[:, 0]
    table = Table("place", "cosine", "sound", box=None)
    for place, i in enumerate(cosines.argsort(descending=True).tolist()[:HITS], start=1):
        table.add_row(str(place), f"{float(cosines[i]):.3f}", files[i].name)
    return table


def _next(folder: Path, query: str, program: str) -> str:
    model, sounds = folder / FILE_NAME, folder / "sounds"
    lines: Sequence[str] = (
        "what to type next:",
        f"  open {folder / 'report.html'} in a browser",
        f'  {program} search "rain and thunder" {sounds} --model {model}',
        f'  {program} classify {sounds} --labels "{query},rain,footsteps" --top 2 --model {model}',
        f"  {program} check {model}",
        f"  {program} train nano --data YOUR.csv",
    )
    return "\n".join(lines)
