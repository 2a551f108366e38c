"""`echoic caption`: files in, words out, as a table or as JSON; each mistake is one line."""

from __future__ import annotations

import os

import pytest
import soundfile

import echoic
from echoic.cli.caption import clock
from echoic.convert.native import save_model
from echoic.encoders.generation import Beam, Greedy, Sampling
from tests import on_disk, tiny

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model with a decoder, and a folder of a long and a short sound; nothing in it is
    changed."""
    folder = tmp_path_factory.mktemp("caption")
    save_model(folder / "model.safetensors", tiny.content(decoder=tiny.decoder()))
    (folder / "sounds").mkdir()
    for name, seconds in (("long", 5.3), ("short", 0.7)):
        soundfile.write(folder / "sounds" / f"{name}.wav", tiny.noise(seconds), tiny.RATE)
    return folder


@pytest.fixture
def caption(run, place):
    """Run the command with the model and short captions."""

    def call(*arguments):
        return run("caption", *arguments, "-m", place, "--max-tokens", "8")

    return call


@pytest.fixture
def files(place):
    return [place / "sounds" / "long.wav", place / "sounds" / "short.wav"]


def test_json_is_what_the_model_says(documented, place, files):
    found = documented("caption", place / "sounds", "-m", place, "--max-tokens", "8")
    model = echoic.load(place)
    captions = model.caption(files, max_tokens=8)
    assert [(c["file"], c["caption"]) for c in found["captions"]] == [
        (str(file), text) for file, text in zip(files, captions, strict=True)
    ]
    long, short = (c["spans"] for c in found["captions"])
    assert [(s["start_s"], s["end_s"]) for s in long] == [(0, 2), (2, 4), (3.3, 5.3)]
    assert short[0]["caption"] == captions[1]
    assert short[0]["log_probability"] < 0
    assert found["errors"] == []


def test_windows_of_ones_own(documented, place, files):
    asked = ("-m", place, "--max-tokens", "8", "--window-s", 1.5)
    (found,) = documented("caption", files[0], *asked)["captions"]
    times = [(span["start_s"], span["end_s"]) for span in found["spans"]]
    assert times == [(0, 1.5), (1.5, 3), (3, 4.5), (3.8, 5.3)]
    second, _ = soundfile.read(files[0], start=24_000, stop=48_000, dtype="float32")
    assert found["spans"][1]["caption"] == echoic.load(place).caption(second, max_tokens=8)[0]


@pytest.fixture
def asked(monkeypatch):
    """The ways to choose words that models were asked for, instead of captions."""
    ways = []

    def heard(self, items, *, how, max_tokens, window_s):
        ways.append(how)
        return iter([(0, [])])

    monkeypatch.setattr("echoic.api.EchoicModel.iter_captions", heard)
    return ways


@pytest.mark.parametrize(
    ("options", "how"),
    [([], Beam()), (["--beam", 2], Beam(width=2)), (["--beam", 1], Greedy())],
)
def test_options_of_a_search(caption, files, asked, options, how):
    assert caption(files[1], *options)[0] == 0
    assert asked == [how]


@pytest.mark.parametrize(
    ("options", "seed", "temperature", "top_p"),
    [
        (["--sample"], 0, 1, 1),
        (["--sample", "--seed", 3], 3, 1, 1),
        (["--sample", "--temperature", 0.5, "--top-p", 0.8], 0, 0.5, 0.8),
    ],
)
def test_options_of_a_sample(caption, files, asked, options, seed, temperature, top_p):
    assert caption(files[1], *options)[0] == 0
    (how,) = asked
    assert how == Sampling(how.generator, temperature=temperature, top_p=top_p)
    assert how.generator.initial_seed() == seed


def test_a_sample_is_the_same_again(caption, files):
    once = caption(*files, "--sample", "--json")
    assert caption(*files, "--sample", "--json") == once
    assert caption(*files, "--sample", "--seed", "1", "--json")[1] != once[1]


def test_tables(caption, place):
    code, out, err = caption(place / "sounds")
    assert (code, err) == (0, "")
    assert [os.path.basename(line.split()[0]) for line in out.splitlines()[1:]] == [
        "long.wav", "short.wav",
    ]  # fmt: skip
    code, out, _ = caption(place / "sounds", "--times")
    assert code == 0
    assert out.count("0:02.0") == 2
    assert "0:03.3  0:05.3" in out


def test_bad_files_are_named_and_the_rest_is_done(caption, files, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"")
    code, out, err = caption(files[1], "bad.wav", "missing.wav")
    assert code == 2
    assert "short.wav" in out
    lines = err.splitlines()
    assert lines[0].startswith("left out: bad.wav: ")
    assert lines[1].startswith("left out: missing.wav: ")
    assert lines[2] == "error: 2 of 3 files could not be used (named above); the rest is done"
    assert caption("missing.wav")[2].startswith("error: missing.wav: no such file")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--beam", 2, "--sample"], "give --beam or --sample, one of the two"),
        (["--top-p", 0.5], "--top-p is for --sample"),
        (["--temperature", 0.5, "--beam", 3], "--temperature is for --sample"),
        (["--seed", 0], "--seed is for --sample"),
        (["--sample", "--top-p", 0], "top_p 0.0: must be above 0, at most 1"),
        (["--sample", "--temperature", 0], "temperature 0.0: must be above 0"),
        (["--beam", 0], "--beam"),
        (["--beam", 101], "--beam"),
        (["--max-tokens", 2], "--max-tokens"),
        (["--window-s", 3], "captions of 3 s each: this model hears 0.1 to 2 s at once"),
        (["--window-s", 0], "captions of 0 s each"),
    ],
)
def test_mistakes_are_one_line(run, files, place, options, line):
    code, out, err = run("caption", files[1], "-m", place, *options)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert line in err


def test_a_model_without_decoder_is_told(run, files, tmp_path):
    other = on_disk.save_tiny_model(tmp_path / "plain.safetensors")
    code, out, err = run("caption", files[1], "-m", other)
    assert (code, out) == (2, "")
    assert err == (
        "error: this model has no decoder to write captions; echoic train slap trains one\n"
    )


@pytest.mark.parametrize(
    ("time_s", "shown"),
    [(0, "0:00.0"), (3.3, "0:03.3"), (59.96, "1:00.0"), (65.24, "1:05.2"), (3725, "1:02:05.0")],
)
def test_clock(time_s, shown):
    assert clock(time_s) == shown
