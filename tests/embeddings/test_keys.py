"""A vector is found again for the same sound and the same means only; nothing is read to know."""

from __future__ import annotations

import os

import pytest
import soundfile
import torch

from echoic.api import EchoicModel
from echoic.data.clips import ConcatSource, RecaptionedSource, SubsetSource
from echoic.data.shards import ShardSource, write_shards
from echoic.data.sources import FileSource
from echoic.data.synth.corpus import SceneSource, draw_scenes
from echoic.embeddings import VectorCache, hear_parts, keys, unheard
from tests import tiny
from tests.embeddings.counting import counted, heard


def test_a_file_is_not_read_again_while_it_stays_the_same(model, tones, tmp_path, monkeypatch):
    heard(model, tones, tmp_path / "c")
    hashed = []
    digest = keys.hashlib.file_digest
    monkeypatch.setattr(
        keys.hashlib, "file_digest", lambda f, kind: hashed.append(1) or digest(f, kind)
    )
    assert heard(model, tones, tmp_path / "c")[1] == (4, 0)
    assert hashed == []
    copy = tones.paths[0].with_name("copy.wav")
    copy.write_bytes(tones.paths[0].read_bytes())
    assert heard(model, FileSource(tones.clips[:1], [copy]), tmp_path / "c")[1] == (1, 0)
    assert hashed == [1]


def test_a_file_that_may_still_change_is_hashed_each_time(model, tones, tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "_SETTLED_NS", 10**12)
    heard(model, tones, tmp_path / "c")
    with VectorCache(tmp_path / "c") as cache:
        assert cache.ask("SELECT count(*) FROM files") == [(0,)]
    assert heard(model, tones, tmp_path / "c")[1] == (4, 0)


def test_a_changed_file_is_heard(model, tones, tmp_path):
    """Of the same size and the same time of change too."""
    before, _ = heard(model, tones, tmp_path / "c")
    path, told = tones.paths[1], tones.paths[1].stat()
    wave, rate = soundfile.read(path)
    soundfile.write(path, wave[::-1], rate, subtype="PCM_16")
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert path.stat().st_size == told.st_size
    after, counts = heard(model, tones, tmp_path / "c")
    assert counts == (3, 1)
    assert not torch.allclose(after[1], before[1], rtol=0, atol=1e-4)
    assert torch.equal(after[[0, 2, 3]], before[[0, 2, 3]])


def test_a_file_that_changes_while_it_is_heard_is_not_kept(model, tones, tmp_path):
    def read(i):
        wave = tones.read(i, tiny.RATE)
        tones.paths[i].write_bytes(tones.paths[i].read_bytes())
        return wave

    with VectorCache(tmp_path / "c") as cache:
        hear_parts(model, tones, range(4), read, cache=cache)
    assert heard(model, tones, tmp_path / "c")[1] == (0, 4)


OTHERS = {
    "weights": lambda: EchoicModel(tiny.content(seed=1)),
    "precision": lambda: EchoicModel(tiny.content(), precision="bf16"),
    "windowing": lambda: EchoicModel(tiny.content(), long="centred"),
    "window": lambda: EchoicModel(tiny.content(max_s=1.5)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_precision_or_windowing_finds_nothing(name, model, tones, tmp_path):
    other = OTHERS[name]()
    heard(model, tones, tmp_path / "c")
    vectors, counts = heard(other, tones, tmp_path / "c")
    assert counts == (0, 4)
    assert torch.equal(vectors, heard(other, tones, tmp_path / "c")[0])
    assert heard(model, tones, tmp_path / "c")[1] == (4, 0)


@pytest.mark.parametrize("what", ["_code", "_packages"])
def test_other_code_or_packages_find_nothing(what, model, tones, tmp_path, monkeypatch):
    heard(model, tones, tmp_path / "c")
    monkeypatch.setattr(keys, what, lambda: "other")
    assert heard(model, tones, tmp_path / "c")[1] == (0, 4)


def test_views_shards_and_scenes(model, tones, tmp_path):
    write_shards(tones, tmp_path / "tars", rate_hz=tiny.RATE)
    scenes = SceneSource(draw_scenes(2, split="test", max_s=2.0))
    for source, count in ((ShardSource(tmp_path / "tars"), 4), (scenes, 2)):
        assert heard(model, source, tmp_path / "c")[1] == (0, count)
        seen, read = counted(source)
        with VectorCache(tmp_path / "c") as cache:
            assert unheard(model, source, cache) == []
            hear_parts(model, source, range(count), read, cache=cache)
        assert seen == []
    assert heard(model, tones, tmp_path / "c")[1] == (0, 4)
    view = ConcatSource({"a": scenes, "b": RecaptionedSource(tones, lambda clip: ["x"])})
    view = SubsetSource(view, [5, 0, 3])
    assert heard(model, view, tmp_path / "c")[1] == (3, 0)


def test_a_source_of_its_own_is_known_by_its_samples(model, tones, tmp_path):
    class Louder(FileSource):
        def read(self, i, rate_hz):
            return 2 * super().read(i, rate_hz)

    louder = Louder(tones.clips, tones.paths)
    assert heard(model, tones, tmp_path / "c")[1] == (0, 4)
    first, counts = heard(model, louder, tmp_path / "c")
    assert counts == (0, 4)
    again, counts = heard(model, louder, tmp_path / "c")
    assert counts == (4, 0)
    assert torch.equal(first, again)
