from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from echoic.audio.io import load_audio
from echoic.data.fingerprint import (
    RATE_HZ,
    LandmarkIndex,
    Landmarks,
    landmarks,
    likeness,
    sound_digest,
)


def scene(seed, seconds=4.0):
    """Bursts of filtered noise and decaying tones: no two seeds are alike."""
    rng = np.random.default_rng(seed)
    audio = 0.003 * rng.standard_normal(round(seconds * RATE_HZ))
    for _ in range(round(3 * seconds)):
        at, length = rng.integers(0, len(audio) - 4000), int(rng.integers(2000, 4000))
        t = np.arange(length) / RATE_HZ
        tone = np.sin(2 * np.pi * rng.uniform(200, 3500) * t)
        event = 0.3 * (tone + 0.3 * rng.standard_normal(length)) * np.exp(-t * rng.uniform(5, 30))
        audio[at : at + length] += event
    return (audio / np.abs(audio).max() * 0.7).astype(np.float32)


def coded(audio, form, subtype, level):
    file = io.BytesIO()
    soundfile.write(file, audio, RATE_HZ, format=form, subtype=subtype, compression_level=level)
    return load_audio(file, rate_hz=RATE_HZ)


def best(first, second):
    """The likeness at the landmarks' lags; 0 where no landmarks are alike."""
    found = LandmarkIndex([landmarks(second)]).matches([landmarks(first)])
    lags = [match.lag for matches in found for match in matches]
    return max((likeness(first, second, lag) for lag in lags), default=0.0)


COPIES = {
    "same": lambda a: a,
    "soft": lambda a: 0.01 * a,
    "mp3": lambda a: coded(a, "MP3", "MPEG_LAYER_III", 0.9),
    "vorbis": lambda a: coded(a, "OGG", "VORBIS", 0.8),
    "later": lambda a: np.concatenate([np.zeros(7777, np.float32), a]),
    "cut": lambda a: a[11_111:43_210],
    "half of another": lambda a: np.concatenate([a[32_000:], scene(99, 2.0)]),
    "cut, soft, mp3": lambda a: coded(0.2 * a[11_111:43_210], "MP3", "MPEG_LAYER_III", 0.8),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_found(change):
    audio = scene(1)
    assert best(audio, COPIES[change](audio)) > 0.6


def test_other_sounds_are_not():
    scenes = [scene(seed) for seed in range(12)]
    pairs = [(i, j) for i in range(12) for j in range(i)]
    assert max(best(scenes[i], scenes[j]) for i, j in pairs) < 0.4


def test_two_tones_of_one_pitch_are_not_one_recording():
    """Their samples correlate by 0.99: softened, what lies between the partials counts too."""
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * RATE_HZ) / RATE_HZ)
    first, second = (tone + 0.1 * rng.standard_normal(len(tone)) for _ in range(2))
    assert np.corrcoef(first, second)[0, 1] > 0.97
    assert likeness(first, second, 0) < 0.4


def test_likeness_is_of_the_shared_part_at_any_level():
    audio = scene(2)
    assert likeness(audio[8000:], 0.1 * audio, -8000) == pytest.approx(1.0, abs=1e-3)
    assert likeness(audio, audio[8000:], 8000) == pytest.approx(1.0, abs=1e-3)
    assert likeness(audio, audio[8000:], 8300) > 0.9  # landmarks lie on a grid
    assert likeness(audio, audio, len(audio) - 100) == 0.0  # too little is shared
    assert likeness(audio, np.zeros_like(audio), 0) == 0.0


def test_landmarks_follow_the_sound():
    audio = scene(3)
    marks = landmarks(audio)
    later = landmarks(np.concatenate([np.zeros(25_600, np.float32), audio]))
    shared = set(marks.at + 25_600) & set(later.at)
    assert len(shared) >= len(marks.at) - 1
    assert np.linalg.norm(marks.vectors.astype(np.float32), axis=1) == pytest.approx(1, abs=1e-2)
    assert np.diff(marks.at).min() > 0.12 * RATE_HZ


@pytest.mark.parametrize("audio", [np.full(1, 0.5, np.float32), np.ones(9000, np.float32)])
def test_what_has_no_shape_has_a_landmark(audio):
    marks = landmarks(audio)
    assert len(marks.at) >= 1
    assert np.isfinite(marks.vectors).all()


def test_index_keeps_the_best_places_across_blocks(monkeypatch):
    monkeypatch.setattr("echoic.data.fingerprint._BLOCK", 3)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((10, 144))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    at = np.arange(10) * 1000
    index = LandmarkIndex([Landmarks(at[:4], vectors[:4]), Landmarks(at[:6], vectors[4:])])
    [matches] = index.matches([Landmarks(at[:5] + 300, vectors[4:9])])
    assert [(match.first, match.second, match.lag) for match in matches] == [(0, 1, 300)]
    found = list(index.matches([Landmarks(at, vectors)]))
    assert {(m.second, m.lag) for matches in found for m in matches} == {(0, 0), (1, 4000)}
    assert list(LandmarkIndex([]).matches([Landmarks(at, vectors)])) == []
    assert list(index.matches([])) == []


def test_digest_is_of_sixteen_bits():
    audio = scene(4)
    stored = np.rint(audio * 32768) / 32768
    assert sound_digest(audio) == sound_digest(stored.astype(np.float32))
    assert sound_digest(audio) != sound_digest(audio[1:])
    assert sound_digest(audio) != sound_digest(0.5 * audio)
