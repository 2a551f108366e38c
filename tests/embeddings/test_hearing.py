"""Vectors from the cache are those that were computed."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from echoic.api import EchoicModel
from echoic.embeddings import Part, VectorCache, cut, hear_parts, hearing
from echoic.evaluate import hear
from tests import tiny
from tests.embeddings.counting import counted, heard


def test_the_second_run_is_equal_bit_for_bit_and_reads_nothing(model, tones, tmp_path):
    first, counts = heard(model, tones, tmp_path / "c")
    assert counts == (0, 4)
    torch.testing.assert_close(first, hear(model, tones).vectors, rtol=0, atol=1e-6)
    seen, read = counted(tones)
    with VectorCache(tmp_path / "c") as cache:
        rows, again = hear_parts(model, tones, range(4), read, cache=cache)
    assert torch.equal(again, first)
    assert seen == []
    assert [i for i, _ in rows] == [0, 1, 2, 3]
    assert all(part.length == len(tones.read(i, tiny.RATE)) for i, part in rows)


def test_what_hangs_on_chance_is_not_kept(tones, tmp_path, rng):
    drawn = EchoicModel(tiny.content(max_s=0.2), long="laion", generator=rng)
    for _ in range(2):
        assert heard(drawn, tones, tmp_path / "c")[1] == (0, 0)


def test_parts_and_kinds_are_told_apart(model, tones, tmp_path):
    def run(kind, *parts):
        with VectorCache(tmp_path / "c") as cache:
            read = counted(tones)[1]
            _, vectors = hear_parts(
                model, tones, [0], read, parts=lambda i, n: parts, kind=kind, cache=cache
            )
            return vectors, (cache.found, cache.made)

    one, two = Part(0, 3000), Part(1000, 3000)
    assert run("clip", one)[1] == (0, 1)
    mixed, counts = run("clip", two, one)
    assert counts == (1, 1)
    assert run("probe", one)[1] == (0, 1)
    wave = tones.read(0, tiny.RATE)
    wanted = model.embed_audio([wave[1000:4000], wave[:3000]])
    torch.testing.assert_close(mixed, wanted, rtol=0, atol=1e-6)
    assert torch.equal(run("clip", two, one)[0], mixed)


def test_silence_and_what_cannot_be_heard_are_told_each_time(model, tones, tmp_path, caplog):
    soundfile.write(tones.paths[0], np.zeros(4000), tiny.RATE)
    tones.paths[1].write_bytes(b"no sound")
    with VectorCache(tmp_path / "c") as cache:  # a task takes silence for a clip
        read = counted(tones)[1]
        hear_parts(model, tones, [0], read, parts=lambda i, n: [Part(0, n)], cache=cache)
    for _ in range(2):
        with VectorCache(tmp_path / "c") as cache:
            found = hear(model, tones, cache=cache)
        assert found.kept == [2, 3]
        assert found.bad.keys() == {"zero.wav", "one.wav"}


def test_what_was_heard_before_a_stop_is_there(model, tones, tmp_path, monkeypatch):
    monkeypatch.setattr(hearing, "AT_ONCE", 2)

    def read(i):
        if i == 3:
            raise KeyboardInterrupt
        return tones.read(i, tiny.RATE)

    with pytest.raises(KeyboardInterrupt), VectorCache(tmp_path / "c") as cache:
        hear_parts(model, tones, range(4), read, cache=cache)
    assert heard(model, tones, tmp_path / "c")[1] == (2, 2)


def test_cut():
    wave = np.arange(10, dtype=np.float32)
    np.testing.assert_array_equal(cut(wave, Part(3, 4)), wave[3:7])
    np.testing.assert_array_equal(cut(wave, Part(0, 12)), np.append(wave, [0, 0]))
