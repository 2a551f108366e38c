"""The demo at its smallest: all is there, a second call makes nothing anew, a half is mended."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from echoic.data.synth import Event, Scene
from echoic.demo import DemoSize, content_name, run_demo
from echoic.types import ConfigError

TINY = DemoSize(train=16, valid=4, test=5, max_s=2.0, steps=2, singles=4, pairs=6, sounds=3, seed=3)


def demo(folder, size=TINY):
    told = io.StringIO()
    finished = run_demo(folder, size, console=Console(file=told, width=200))
    return finished, told.getvalue()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "d"
    return folder, *demo(folder)


def test_everything_is_there(done):
    folder, finished, told = done
    assert finished
    assert "<svg" in (folder / "report.html").read_text()
    assert json.loads((folder / "evaluation.json").read_text())["data"]["clips"] == 5
    sounds = sorted(path.name for path in (folder / "sounds").iterdir())
    assert len(sounds) == 3
    assert (folder / "model.safetensors").is_file()
    assert told.count("done in") == 5
    assert any(name in told for name in sounds)
    assert f"echoic check {folder / 'model.safetensors'}" in told


def test_second_call_keeps_what_is_finished(done):
    folder, _, first = done
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    finished, told = demo(folder)
    assert finished
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "zero shot/accuracy" in told
    assert _table(told) == _table(first) != []


def _table(told):
    return [line.split() for line in told.splitlines() if line.lstrip().startswith("retrieval/")]


def test_unfinished_stages_are_made_anew(done, tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "demo.yaml").write_text(TINY.to_yaml())
    half = folder / "corpus" / "train"
    half.mkdir(parents=True)
    (half / "shard-000000.tar").write_bytes(b"half")
    (folder / "sounds.part").mkdir()
    assert demo(folder)[0]
    whole = done[0] / "corpus" / "train" / "shard-000000.tar"
    assert (half / "shard-000000.tar").stat().st_size == whole.stat().st_size


def test_other_size_or_other_run_is_refused(done, tmp_path):
    with pytest.raises(ConfigError, match="another size"):
        demo(done[0], TINY.model_copy(update={"steps": 9}))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="no demo"):
        demo(tmp_path)


def test_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/d: cannot be written"):
        demo(tmp_path / "file" / "d")


def scene(relation, *labels):
    events = tuple(Event(i, i + 1, label, ("loud",) * (i == 0)) for i, label in enumerate(labels))
    return Scene("k", events, relation, 3.0, ("c",), (), "test", (0,), -60.0)


@pytest.mark.parametrize(
    ("relation", "labels", "name"),
    [
        ("single", ["Morse code"], "loud-morse-code"),
        ("sequence", ["rain", "dog bark"], "loud-rain_then_dog-bark"),
        ("overlap", ["rain", "owl"], "loud-rain_with_owl"),
        ("during", ["rain", "owl"], "owl_under_loud-rain"),
        ("backdrop", ["rain", "owl", "cow"], "owl_then_cow_under_loud-rain"),
    ],
)
def test_sounds_are_named_by_content(relation, labels, name):
    assert content_name(scene(relation, *labels)) == name
