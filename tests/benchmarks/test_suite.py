"""The parts of published sets are laid out as the suite finds them, and what a model of
benchmarks.real_sounds learnt from is never judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.real_sets import SETS, Fold
from benchmarks.suite import Run, figures, lay_out, learnt_here, run_all
from echoic.api import EchoicModel
from echoic.data.tasks import check_task, open_spec
from echoic.evaluate import SynthSize
from tests import tiny

FOLD = 3


@pytest.fixture(scope="module")
def laid_out(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("sets")
    return folder, lay_out(shared, folder, FOLD)


def held_out(shared: Path, name: str) -> Fold:
    return Fold(next(real for real in SETS if real.name == name), shared, FOLD)


def test_parts_are_found_whole_and_told_as_parts(laid_out):
    folder, titles = laid_out
    counts = {name: len(open_spec(name, folder / name).source.clips) for name in titles}
    assert titles["esc50"] == f"ESC-50 ({counts['esc50']} of 2000 clips)"
    assert titles["spcv2"] == f"Speech Commands v0.02 ({counts['spcv2']} of 105829 clips)"
    assert titles["clotho"] == f"Clotho v2.1 ({counts['clotho']} of 5929 clips)"
    assert not check_task("esc50", folder / "esc50").missing


def test_the_fold_of_sounds_is_the_one_that_was_held_out(laid_out, shared):
    task, fold = open_spec("esc50", laid_out[0] / "esc50"), held_out(shared, "esc")
    judged = {task.source.clips[i].key for i in task.judging(str(FOLD))}
    assert judged == {f"audio/{fold.rows[i]['file']}" for i in fold.test}


def test_words_are_judged_by_held_out_speakers_alone(laid_out, shared):
    task, fold = open_spec("spcv2", laid_out[0] / "spcv2"), held_out(shared, "commands")
    speakers = {
        part: {
            clip.key.partition("/")[2].partition("_")[0]
            for clip, own in zip(task.source.clips, task.parts, strict=True)
            if own == part
        }
        for part in ("train", "valid", "test")
    }
    assert speakers["test"] == {fold.rows[i]["speaker"] for i in fold.test} - {""}
    assert all(speakers.values())
    assert not speakers["test"] & (speakers["train"] | speakers["valid"])
    assert not speakers["valid"] & speakers["train"]


def test_only_the_held_out_fold_judges_and_no_paper_stands_beside(laid_out):
    folder, titles = laid_out
    run = Run((str(FOLD),), str(FOLD), 1, (1,), SynthSize(scenes=2, singles=2, pairs=2, max_s=2.0))
    entries = run_all(EchoicModel(tiny.content()), folder, titles, run)
    asked = next(entries)
    entries.close()  # the rest takes its time
    assert asked.clips == 71
    assert asked.heading().startswith(
        "ESC-50 (343 of 2000 clips), zero shot, by slap (but folds 3)"
    )
    assert asked.figures[0].published is None
    assert figures([asked]).keys() == {"esc50_zero_shot_accuracy", "esc50_zero_shot_clips"}


def test_a_model_that_learnt_from_these_clips_is_known():
    assert learnt_here(EchoicModel(tiny.content(card={"recipe": "real-sounds-nano"})))
    assert not learnt_here(EchoicModel(tiny.content(card={"recipe": "nano"})))
