"""What is held out in the real-sound benchmark is never trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.real_sets import EFFECTS, SETS, WORDS, Fold, by_sound, training_source


@pytest.fixture(scope="module")
def folds(shared: Path) -> dict[str, Fold]:
    return {real.name: Fold(real, shared, 2) for real in SETS}


def test_groups_stay_on_one_side(folds):
    for fold in folds.values():
        sides = [{fold.groups[i] for i in part} for part in (fold.train, fold.test)]
        assert sides[0]
        assert sides[1]
        assert not sides[0] & sides[1]


def test_the_four_folds_cover_a_set_once(shared):
    digits = next(real for real in SETS if real.name == "digits")
    held = [i for number in (1, 2, 3, 4) for i in Fold(digits, shared, number).test]
    assert sorted(held) == list(range(800))


def test_nothing_held_out_is_in_the_training_source(shared, folds):
    trained = {clip.key for clip in training_source(shared, folds).clips}
    for name, fold in folds.items():
        for i in fold.test:
            assert f"{name}/{fold.source.clips[i].key}" not in trained


def test_other_sets_share_no_speaker_or_recording_with_what_is_held_out(shared, folds):
    trained = {clip.key for clip in training_source(shared, folds).clips}
    commands = folds["commands"]
    held = {commands.rows[i]["speaker"] for i in commands.test} - {""}
    spoken = WORDS.source(shared)
    for clip, row in zip(spoken.clips, spoken.rows, strict=True):
        assert not (f"words/{clip.key}" in trained and row["speaker"] in held)
    effects = EFFECTS.source(shared)
    rain = next(clip.key for clip in effects.clips if "rain_light" in clip.key)
    assert f"effects/{rain}" not in trained  # Freesound 163264 is in ESC-50 too


def test_near_duplicates_are_one_group(rng):
    one, other = rng.standard_normal((2, 16_000))
    far = [np.sin(f * np.arange(16_000)) for f in (0.05, 0.2, 0.9)]
    waves = [one, other, *far, 0.9 * one + 0.001 * other]
    groups = by_sound([{"file": str(i)} for i in range(6)], waves)
    assert groups[0] == groups[5]
    assert len(set(groups[1:5])) >= 3


def test_every_class_has_words_and_captions(folds):
    for fold in folds.values():
        assert all(name.strip() and "_" not in name for name in fold.classes)
        for prompt in fold.real.prompts:
            assert prompt.count("{label}") == 1
