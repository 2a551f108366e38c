"""The evaluation suite on real sound: what lies of published sets in ../shared/data, laid out as
they are distributed, by the default protocol.

    python -m benchmarks.suite                        # runs/demo; minutes
    python -m benchmarks.suite --quick                # half a minute: shows that it runs
    python -m benchmarks.suite runs/real/seed0 --held-out 2

They are parts, so no figure here is one of a published set, and no paper's value stands beside:

- ESC-50: 343 of its 2000 clips. The list names those alone; its folds are not the published ones
  but four, a recording being in one of them.
- Speech Commands v0.02: 807 of its 105 829 clips, 30 of its 35 words. One of four parts of the
  speakers who say the ten commands judges, another chooses; who says other words is learnt from.
- Clotho: 11 of its 5929 clips, here as if of the evaluation part (they are of the validation
  part). Too few to tell models apart: this shows that it runs.
- Events: the embedded corpus, which is synthetic.

A model that benchmarks.real_sounds or benchmarks.slap_ablation trained has learnt from most of
these clips. --held-out is the fold that was held out there, 2 unless told otherwise: that fold
alone judges. Of a model that heard none of them, as the demo's, all folds of ESC-50 do. A linear
layer or a fine-tuning learns from the other folds in either case.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from benchmarks.output import finish
from benchmarks.probes import shared_folder
from benchmarks.real_sets import FOLDS, SETS, WORDS, Fold, RealSet
from echoic.api import EchoicModel, load
from echoic.data.tasks import find_spec, open_spec
from echoic.data.tasks.task import Task
from echoic.eval.suite_entry import Entry, filled
from echoic.eval.suite_result import SuiteResult
from echoic.evaluate import SynthSize, describe
from echoic.finetune.of_task import finetune_task
from echoic.finetune.presets import preset_of_task
from echoic.measures import How, own_protocol, planned
from echoic.suite import QUICK, find_items, run_suite
from echoic.types import EchoicError

DEMO = Path("runs/demo")
HELD_OUT = 2
_LISTS = {"test": "testing_list.txt", "valid": "validation_list.txt"}


@dataclass(frozen=True)
class Run:
    """judging: the folds of ESC-50 that do, None: all. tuned: that of the fine-tuning; seeds: of
    the linear layers, None: the protocol's."""

    judging: tuple[str, ...] | None
    tuned: str
    epochs: int = 10
    seeds: tuple[int, ...] | None = None
    size: SynthSize = SynthSize()  # noqa: RUF009  # frozen


# -- parts of published sets, as they are distributed --------------------------------------------


def lay_out(shared: Path, folder: Path, held_out: int = HELD_OUT) -> dict[str, str]:
    """Links to the clips in folders named as the tasks, and the lists that name them; the title of
    each, with what is there of it. held_out: the part of the speakers that judges."""
    sets = {real.name: real for real in SETS}
    esc = _esc50(sets["esc"], shared, folder / "esc50")
    spoken = _commands(sets["commands"], shared, folder / "spcv2", held_out)
    clotho = _clotho(shared, folder / "clotho")
    return {
        "esc50": f"ESC-50 ({esc} of {_whole('esc50')} clips)",
        "spcv2": f"Speech Commands v0.02 ({spoken} of {_whole('spcv2')} clips)",
        "clotho": f"Clotho v2.1 ({clotho} of {_whole('clotho')} clips)",
    }


def _whole(task: str) -> int:
    return sum(find_spec(task).expected.values())


def _esc50(real: RealSet, shared: Path, folder: Path) -> int:
    source = real.source(shared)
    rows = [
        {"filename": row["file"], "fold": row["inner_fold"], "category": row["category"]}
        for row in source.rows
    ]
    _list(folder / "meta" / "esc50.csv", rows)
    return _link({f"audio/{p.name}": p for p in source.paths}, folder)


def _commands(real: RealSet, shared: Path, folder: Path, held_out: int) -> int:
    """WORD/SPEAKER_nohash_N.flac, and the lists of who chooses and who judges."""
    numbers = {"test": held_out, "valid": held_out % FOLDS + 1}
    held = {part: _speakers(real, shared, number) for part, number in numbers.items()}
    files: dict[str, Path] = {}
    of_part: dict[str, list[str]] = {part: [] for part in _LISTS}
    for each in (real, WORDS):
        source = each.source(shared)
        for row, path in zip(source.rows, source.paths, strict=True):
            name = f"{row['label']}/{path.name.removeprefix(row['label'] + '_')}"
            if row["label"].startswith("_") or name in files:  # silence, unknown; one is in both
                continue
            files[name] = path
            for part, speakers in held.items():
                if row["speaker"] in speakers:
                    of_part[part].append(name)
    count = _link(files, folder)
    for part, names in of_part.items():
        (folder / _LISTS[part]).write_text("".join(f"{name}\n" for name in names), "utf-8")
    return count


def _speakers(real: RealSet, shared: Path, number: int) -> set[str]:
    fold = Fold(real, shared, number)
    return {fold.rows[i]["speaker"] for i in fold.test} - {""}


def _clotho(shared: Path, folder: Path) -> int:
    source = shared / "data" / "clotho"
    with (source / "captions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [f"caption_{i}" for i in range(1, 6)]
    table = [{"file_name": row["file"], **{name: row[name] for name in names}} for row in rows]
    _list(folder / "clotho_captions_evaluation.csv", table)
    clips = {f"evaluation/{row['file']}": source / "audio" / row["file"] for row in rows}
    return _link(clips, folder)


def _list(file: Path, rows: Sequence[Mapping[str, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _link(files: Mapping[str, Path], folder: Path) -> int:
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(path.resolve())
    return len(files)


# -- what is measured ----------------------------------------------------------------------------


def run_all(model: EchoicModel, data: Path, titles: Mapping[str, str], run: Run) -> Iterator[Entry]:
    """Each as it is done, under the title that says what there is of it, without the papers'
    values: they are of the whole sets."""
    how = How(protocol=own_protocol(model), seeds=run.seeds)
    of_esc = replace(how, folds=run.judging)
    for asked, chosen in (
        ("esc50/zero_shot,esc50/linear", of_esc),
        ("spcv2/zero_shot,spcv2/linear,clotho/retrieval,clotho/captioning,synth/events", how),
    ):
        items = [replace(item, size=run.size) for item in find_items(asked)]
        for entry in run_suite(model, items, chosen, data=data):
            yield _of_a_part(entry, titles)
    yield _of_a_part(_tuned(model, data, how, run), titles)


def _tuned(model: EchoicModel, data: Path, how: How, run: Run) -> Entry:
    """ESC-50 by the preset of the model's own paper, but for few epochs, of one fold and seed."""
    task = open_spec("esc50", data / "esc50")
    assert isinstance(task, Task)
    preset = how.protocol.preset or preset_of_task("esc50", model.network.spec.audio.kind)
    line = f"preset {preset}, but {run.epochs} epochs of 32 clips at 5e-4; fold {run.tuned}, a seed"
    entry = replace(planned(model, "esc50", "finetune", how), protocol=line)
    started = time.perf_counter()
    try:
        found = finetune_task(
            model, task, data / "runs", preset=preset, folds=(run.tuned,), seeds=(0,),
            overrides=(f"epochs={run.epochs}", "warmup_epochs=1", "batch_clips=32", "lr=5e-4"),
            console=Console(stderr=True, quiet=True),
        )  # fmt: skip
    except EchoicError as error:
        return replace(entry, status="failed", reason=str(error))
    return replace(filled(entry, found, (), ()), seconds=time.perf_counter() - started)


def _of_a_part(entry: Entry, titles: Mapping[str, str]) -> Entry:
    if entry.status != "measured" or entry.task not in titles:
        return replace(entry, title=titles.get(entry.task, entry.title))
    figures = tuple(replace(figure, published=None) for figure in entry.figures)
    line = f"{entry.clips} judge; {entry.protocol}"
    return replace(entry, title=titles[entry.task], protocol=line, expected=0, figures=figures)


def learnt_here(model: EchoicModel) -> bool:
    """Did benchmarks.real_sounds train it? Of benchmarks.slap_ablation's no name tells."""
    return str(model.card.get("recipe", "")).startswith("real-sounds")


def main() -> None:
    """Parse, lay out, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, help=f"file or folder (default: {DEMO})")
    parser.add_argument("--quick", action="store_true", help="one fold, few epochs, few scenes")
    parser.add_argument(
        "--shared", type=Path, default=shared_folder(), help="folder that holds data/"
    )
    parser.add_argument(
        "--held-out", type=int, choices=range(1, FOLDS + 1),
        help="the fold that the model's training left out, which alone judges",
    )  # fmt: skip
    args = parser.parse_args()
    try:
        model = load(args.model or DEMO)
    except EchoicError as error:
        parser.error(f"{error} (echoic demo makes {DEMO})")
    if args.held_out is None and learnt_here(model):
        parser.error("the model has learnt from these clips: give --held-out FOLD")
    finish(_measured(model, args))


def _measured(model: EchoicModel, args: argparse.Namespace) -> dict[str, object]:
    fold = str(args.held_out or HELD_OUT)
    run = Run((fold,) if args.held_out else None, fold)
    if args.quick:
        run = Run((fold,), fold, epochs=1, seeds=(42,), size=QUICK)
    asked = f"parts of published sets, {args.model or DEMO}"
    with tempfile.TemporaryDirectory() as scratch:
        titles = lay_out(args.shared, Path(scratch), int(fold))
        entries = []
        for entry in run_all(model, Path(scratch), titles, run):
            print(entry.told(), file=sys.stderr, flush=True)
            entries.append(entry)
    found = SuiteResult(describe(model), asked, tuple(entries))
    Console(width=150).print(found.table())
    return figures(entries)


def figures(entries: Iterable[Entry]) -> dict[str, object]:
    """Those of the table by name, and how many clips each is of."""
    told: dict[str, object] = {}
    for entry in entries:
        name = f"{entry.task}_{entry.measure}"
        told |= {f"{name}_{each.name}": each.ours.value for each in entry.shown()}
        if entry.status == "measured":
            told[f"{name}_clips"] = entry.clips
    return told


if __name__ == "__main__":
    main()
