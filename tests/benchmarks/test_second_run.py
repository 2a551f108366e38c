"""The first run makes all vectors, the second none, and the encoding is a part of the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import second_run
from benchmarks.second_run import CAPTIONS, TimedModel, make_clips, measure
from echoic.embeddings import VectorCache
from tests import tiny


def test_what_is_measured(tmp_path: Path) -> None:
    source = make_clips(tmp_path, 6, 0.3, tiny.RATE)
    assert len({path.read_bytes() for path in source.paths}) == 6
    assert {len(clip.captions) for clip in source.clips} == {CAPTIONS}
    found = measure(TimedModel(tiny.content()), source, tmp_path / "cache")
    assert 0 < found["seconds_beyond_encoding"] < found["first_run_s"]
    ratio = found["first_run_s"] / found["second_run_s"]
    assert found["second_run_speedup"] == pytest.approx(ratio)
    with VectorCache(tmp_path / "cache") as cache:
        ((vectors,),) = cache.ask("SELECT count(*) FROM vectors")
    assert vectors == 6 + 6 * CAPTIONS + 6  # clips, captions, one sentence per tag


def test_the_second_run_must_find_its_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(VectorCache):
        def write(self, *_: object) -> None: ...

    monkeypatch.setattr(second_run, "VectorCache", Forgetful)
    source = make_clips(tmp_path, 2, 0.3, tiny.RATE)
    with pytest.raises(AssertionError, match="second run"):
        measure(TimedModel(tiny.content()), source, tmp_path / "cache")
