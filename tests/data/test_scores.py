from __future__ import annotations

import json

import numpy as np
import pytest

from echoic.data.clips import Clip
from echoic.data.scores import MANIFEST, well_fitting, write_scores
from echoic.types import DataError


class Told:
    """Clip i is silent where i is 2, else a wave of i + 1."""

    def __init__(self, count: int = 7) -> None:
        captions = (("good", "bad"), ("good",), ("good",), ("bad",), ("bad", "good"))
        self.clips = tuple(Clip(f"{i}", captions[i % 5], (), None) for i in range(count))

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        return np.full(rate_hz, 0.0 if i == 2 else i + 1.0, np.float32)


class Score:
    rate_hz = 10

    def __init__(self, name: str = "x") -> None:
        self.name, self.calls = name, []

    def __call__(self, waves, captions):
        assert all(len(wave) == 10 for wave in waves)
        self.calls.append(len(waves))
        return [
            [0.5 + wave[0] / 100 if text == "good" else 0.1 for text in texts]
            for wave, texts in zip(waves, captions, strict=True)
        ]


def test_scores_and_what_fits(tmp_path):
    summary = write_scores(Told(), Score(), tmp_path / "out", batch=2, per_file=3)
    assert (summary.clips, summary.captions, summary.bad) == (7, 9, {"2": "silent"})
    lines = (tmp_path / "out" / "part-000001.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {"key": "4", "captions": ["bad", "good"], "scores": [0.1, 0.55]}
    source, told = well_fitting(Told(), tmp_path / "out", 0.3)
    assert {c.key: c.captions for c in source.clips} == dict.fromkeys("01456", ("good",))
    assert source.read(2, 10)[0] == 5.0
    assert told == "5 of 10 captions fit worse than 0.3; 2 of 7 clips have none left"


def test_a_run_goes_on_where_it_stopped(tmp_path):
    write_scores(Told(), Score(), tmp_path / "whole", batch=2, per_file=3)

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scores(Told(), Score(), tmp_path / "out", batch=2, per_file=3, progress=stop)
    with pytest.raises(DataError, match=r"unfinished, part-000001\.jsonl is not there"):
        well_fitting(Told(), tmp_path / "out", 0.3)
    score = Score()
    write_scores(Told(), score, tmp_path / "out", batch=2, per_file=3)
    assert sum(score.calls) == 4
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_what_does_not_belong_together(tmp_path):
    write_scores(Told(), Score(), tmp_path / "out")
    with pytest.raises(DataError, match="of another model or of other captions"):
        write_scores(Told(), Score("y"), tmp_path / "out")
    with pytest.raises(DataError, match="of another model or of other captions"):
        write_scores(Told(5), Score(), tmp_path / "out")
    with pytest.raises(DataError, match="no score of the captions of clip 7"):
        well_fitting(Told(8), tmp_path / "out", 0.0)
    with pytest.raises(DataError, match="nothing is left: 10 of 10"):
        well_fitting(Told(), tmp_path / "out", 0.9)
    (tmp_path / "out" / MANIFEST).write_text("{}")
    with pytest.raises(DataError, match="was not written by"):
        well_fitting(Told(), tmp_path / "out", 0.0)
    with pytest.raises(DataError, match=r"no readable scores\.json"):
        well_fitting(Told(), tmp_path, 0.0)
