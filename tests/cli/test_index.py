"""`echoic index`, and `echoic search` in what it made."""

from __future__ import annotations

import csv
import json
import os
import sys
from types import SimpleNamespace

import pytest
import soundfile as sf

from echoic.cli import index as cli_index
from echoic.convert.native import save_model
from tests import tiny

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, tiny.content())
    return path


@pytest.fixture
def refused(run):
    """The one line of a refused command."""

    def call(*arguments):
        code, out, err = run(*arguments)
        assert (code, out) == (2, ""), err
        assert sum(line.startswith("error: ") for line in err.splitlines()) == 1, err
        return err.splitlines()[-1]

    return call


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.wav", "b.wav", "sub/c.flac")):
        sf.write(folder / name, tiny.tone(200 * 1.5**i, 0.4), tiny.RATE)
    return folder


@pytest.fixture
def indexed(run, sounds, model):
    code, out, err = run("index", sounds, "-m", model)
    assert (code, "new" in out) == (0, True), err
    return sounds


def names(document):
    return [os.path.basename(hit["file"]) for hit in document["hits"]]


def test_index_tells_what_it_did(run, documented, indexed, model):
    report = documented("index", indexed)  # the index knows its model
    assert (report["files"], report["same"], report["heard"]) == (3, 3, 0)
    assert report["index"] == str(indexed / ".echoic")
    (indexed / "bad.wav").write_bytes(b"RIFF")
    code, _, err = run("index", indexed)
    assert code == 2
    assert "bad.wav: cannot be decoded" in err
    code, _, err = run("index", indexed)
    assert code == 0
    assert "1 files could not be heard before; try again with --retry" in err
    assert run("index", indexed, "--retry")[0] == 2


def test_search_an_index(run, documented, indexed, monkeypatch):
    found = documented("search", "rain on a roof", "--index", indexed)
    assert len(found["hits"]) == 3
    monkeypatch.chdir(indexed / "sub")  # below the folder
    assert names(documented("search", "rain on a roof")) == names(found)
    monkeypatch.chdir(indexed.parent)
    monkeypatch.setenv("ECHOIC_INDEX", str(indexed / ".echoic"))
    assert names(documented("search", "rain on a roof", "--top", 2)) == names(found)[:2]
    code, out, _ = run("search", "rain")
    assert code == 0
    assert "best moments" in out
    assert "0:00.0-0:00.4" in out


def test_search_by_example(documented, refused, indexed):
    found = documented("search", "-i", indexed, "--like", indexed / "b.wav")
    assert names(found)[0] == "b.wav"
    assert found["query"] is None
    part = ("--like", indexed / "b.wav", "--like-from", 0.1, "--like-to", 0.3)
    assert names(documented("search", "-i", indexed, *part))[0] == "b.wav"
    assert names(documented("search", "rain", "-i", indexed, *part, "--like-weight", 9,
                            "--not", "a dog barks"))[0] == "b.wav"  # fmt: skip
    line = refused("search", "-i", indexed, *part[:2], "--like-from", 0.3, "--like-to", 0.1)
    assert "ends at 0.1 s and begins at 0.3 s" in line


def test_search_among_some(documented, refused, indexed):
    def which(*options):
        return set(names(documented("search", "rain", "-i", indexed, *options)))

    assert which("--folder", "sub") == which("--format", "flac") == {"c.flac"}
    assert which("--min-s", 1) == which("--until", "2001-01-01") == set()
    assert which("--since", "2001-01-01", "--max-s", 1) == {"a.wav", "b.wav", "c.flac"}
    assert "no day such as" in refused("search", "rain", "-i", indexed, "--since", "May")
    line = refused("search", "rain", "-i", indexed, "--min-s", 5, "--max-s", 1.5)
    assert line == "error: search: --min-s 5 is above --max-s 1.5"
    days = ("--since", "2026-02-01", "--until", "2026-01-31")
    line = refused("search", "rain", "-i", indexed, *days)
    assert line == "error: search: --since 2026-02-01 is after --until 2026-01-31"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--min-s", 5], "--min-s 5.0"),
        (["--tag", "rain", "--max-s", 9], "--tag rain"),
        (["--tag", "hum", "--format", "flac", "--format", "ogg"],
         "--format flac --format ogg, --tag hum together"),
        (["--caption", "a low thud"], "--caption 'a low thud'"),
    ],
)  # fmt: skip
def test_a_search_without_hits_says_why(run, documented, indexed, options, why):
    table = indexed.parent / "said.csv"
    table.write_text("file,caption,tags\na.wav,a low hum,hum\n", "utf-8")
    assert run("index", indexed, "--table", table)[0] == 0
    for query in (["rain"], []):
        code, _, err = run("search", *query, "-i", indexed, *options)
        assert (code, err) == (0, f"no hits: no recording of the index fits {why}\n")
    assert documented("search", "rain", "-i", indexed, *options)["hits"] == []


def test_an_index_without_captions_or_recordings_is_told(run, indexed):
    code, _, err = run("search", "rain", "-i", indexed, "--caption", "hum")
    made = f"echoic index {indexed}"
    assert (code, err) == (0, f"no hits: the index has no captions: {made} --captions\n")
    for file in (*indexed.glob("*.wav"), *indexed.glob("*/*.flac")):
        file.write_bytes(b"RIFF")
    assert run("index", indexed)[0] == 2
    code, _, err = run("search", "rain", "-i", indexed)
    assert (code, err) == (0, f"no hits: no recording is in the index: {made}\n")


def test_tables_and_captions(run, documented, indexed):
    table = indexed.parent / "said.csv"
    table.write_text("file,caption,tags\na.wav,a low hum,hum\n", "utf-8")
    assert run("index", indexed, "--table", table)[0] == 0
    assert names(documented("search", "-i", indexed, "--caption", "hum")) == ["a.wav"]
    assert names(documented("search", "rain", "-i", indexed, "--tag", "hum")) == ["a.wav"]
    assert "a low hum" in run("search", "-i", indexed, "--tag", "hum")[1]


def test_captions_of_another_model(run, refused, documented, indexed, tmp_path):
    save_model(tmp_path / "writer.safetensors", tiny.content(decoder=tiny.decoder()))
    assert "no decoder" in refused("index", indexed, "--captions")
    report = documented("index", indexed, "--captioner", tmp_path / "writer.safetensors")
    assert report["captioned"] == 3


def test_an_index_in_another_place(run, documented, sounds, model, tmp_path):
    code, _, err = run("index", sounds, "-m", model, "--out", tmp_path / "index")
    assert code == 0
    assert err.splitlines()[-1].endswith(f"--index {tmp_path / 'index'}")
    assert len(documented("search", "rain", "-i", tmp_path / "index")["hits"]) == 3


def test_time_that_is_left_is_of_what_is_done_now(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(cli_index, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with cli_index._bar() as (progress, captioned):
        now[0] = 1000.0
        progress(50, 50, "a.wav")
        now[0] = 1100.0
        captioned(1, 3)
    hearing, captions = capsys.readouterr().err.splitlines()
    assert hearing == "hearing 100%, 0:00.0 left"
    assert captions == "captions 33%, 3:20.0 left"


def test_hits_as_play_list_and_table(run, indexed, tmp_path):
    lists = ("--m3u", tmp_path / "hits.m3u", "--csv", tmp_path / "hits.csv")
    assert run("search", "rain", "-i", indexed, *lists)[0] == 0
    lines = (tmp_path / "hits.m3u").read_text("utf-8").splitlines()
    assert lines[0] == "#EXTM3U"
    assert {os.path.basename(line) for line in lines[2::2]} == {"a.wav", "b.wav", "c.flac"}
    with (tmp_path / "hits.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert float(rows[0]["cosine"]) >= float(rows[1]["cosine"])


def test_an_index_is_not_forgotten(run, indexed, model):
    _, _, err = run("search", "a bell", indexed, "-m", model)
    assert f"in its index:  echoic search 'a bell' --index {indexed}" in err


def test_folders_are_searched_as_ever(run, documented, refused, indexed, model, monkeypatch):
    monkeypatch.setenv("ECHOIC_INDEX", "elsewhere")
    found = documented("search", "rain", indexed, "--top", 2, "-m", model)
    assert (found["searched"], len(found["hits"])) == (3, 2)
    _, _, err = run("search", "rain", "on", "a", "roof", indexed, "-m", model)
    asked = f"echoic search 'rain on a roof' {indexed}"
    assert err.splitlines()[0] == f"on, a, roof: no such file; put the words in quotes:  {asked}"
    for files in (["fild"], [indexed, "fild"], ["a.wav", indexed], [indexed]):
        assert "quotes" not in run("search", "rain", *files, "-m", model)[2]
    line = refused("search", "rain", indexed, "--tag", "x", "-m", model)
    assert "with FOLDERS there are words alone" in line
    assert "with FOLDERS" in refused("search", "rain", indexed, "--like", indexed / "a.wav")


def test_wrong_words(refused, indexed, tmp_path, model):
    assert "no folder from here up has an index" in refused("search", "rain")
    assert "give words" in refused("search", "-i", indexed)
    assert "no index here" in refused("search", "rain", "-i", tmp_path / "none", "-m", model)
    line = refused("search", "rain", "-i", "fild/.echoic")
    assert line == "error: fild: no index here: there is no such folder"
    (tmp_path / "my field").mkdir()
    for named in ("my field", "my field/.echoic"):
        line = refused("search", "rain", "-i", named)
        assert line == "error: my field: no index here; make one: echoic index 'my field'"
    other = tmp_path / "other.safetensors"
    save_model(other, tiny.content(seed=5))
    line = refused("search", "rain", "-i", indexed, "-m", other)
    assert "its vectors are of space" in line
    assert str(model) in line
    assert "no such folder" in refused("index", tmp_path / "nowhere", "-m", model)
    (tmp_path / "empty").mkdir()
    assert "no audio file" in refused("index", tmp_path / "empty", "-m", model)


def test_without_lancedb(refused, run, sounds, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    line = refused("index", sounds, "-m", model, "--vectors", "place")
    assert "echoic[index]" in line
    assert run("index", sounds, "-m", model)[0] == 0  # nothing was begun
    assert "keeps its vectors in" in refused("index", sounds, "--vectors", "place")


def test_odd_names_in_json(run, indexed, model):
    odd = os.fsencode(indexed) + b"/\xff.wav"
    os.rename(indexed / "a.wav", odd)
    assert run("index", indexed)[0] == 0
    code, out, err = run("search", "rain", "-i", indexed, "--json")
    assert code == 0, err
    assert len(json.loads(out)["hits"]) == 3
