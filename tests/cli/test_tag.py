"""`echoic tag`: files and stdin in, spans out, in every form; each mistake is one line."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

import echoic
from echoic.cli.time_strip import strips, strongest_labels
from echoic.convert.native import save_model
from echoic.eval.events import Span
from echoic.timeline import Steps, Timeline
from tests import on_disk, tiny

pytestmark = pytest.mark.usefixtures("elsewhere")

LABELS = "a dog barks,rain,a bell"
NAMES = LABELS.split(",")
STEPS = Steps(0.1, 0.4, 1.6)
FINE = ("--step-s", 0.1, "--window-s", 0.4, "--context-s", 1.6, "--median-s", 0)
LOW = ("--threshold", 0.3, "--gap-s", 0.15)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, a folder of a long and a short sound, and one that is none; nothing is changed."""
    folder = tmp_path_factory.mktemp("tag")
    on_disk.save_tiny_model(folder / "model.safetensors")
    (folder / "sounds").mkdir()
    for name, seconds in (("long", 5.3), ("short", 0.7)):
        wave = tiny.noise(seconds)
        wave[: len(wave) // 2] += tiny.tone(900, seconds)[: len(wave) // 2]
        soundfile.write(folder / "sounds" / f"{name}.wav", wave, tiny.RATE)
    (folder / "bad.wav").write_bytes(b"no sound")
    return folder


@pytest.fixture
def tag(run, place):
    def call(*arguments, labels=LABELS):
        return run("tag", *arguments, "-m", place, "--labels", labels, *FINE, *LOW)

    return call


def expected(place, name="long", **options) -> list[Span]:
    line = echoic.load(place).timeline(place / f"sounds/{name}.wav", NAMES, steps=STEPS)
    return line.spans(0.3, gap_s=0.15, **options)


@pytest.fixture
def piped(monkeypatch):
    """Stdin that holds these bytes."""

    def call(raw):
        monkeypatch.setattr("echoic.cli.live.standard_input", lambda: io.BytesIO(raw))

    return call


# -- files ----------------------------------------------------------------------------------------


def test_json_is_what_the_model_says(documented, place):
    found = documented("tag", place / "sounds", "-m", place, "--labels", LABELS, *FINE, *LOW)
    assert (found["labels"], found["scale"], found["step_s"]) == (NAMES, "probability", 0.1)
    assert found["errors"] == []
    for each, name, seconds in zip(found["files"], ("long", "short"), (5.3, 0.7), strict=True):
        assert each["file"] == str(place / f"sounds/{name}.wav")
        assert each["duration_s"] == seconds
        assert each["spans"] == [span.to_json() for span in expected(place, name)]
        assert "scores" not in each
    assert len(found["files"][0]["spans"]) > 1


def test_scores_and_cosines(documented, place):
    by = ("--by", "cosine", "--threshold", 0.5, "--scores")
    file = place / "sounds/short.wav"
    found = documented("tag", file, "-m", place, "--labels", "a dog barks", *FINE, *by)
    line = echoic.load(place).timeline(file, ["a dog barks"], steps=STEPS)
    assert found["files"][0]["scores"] == line.to_json(by="cosine")["scores"]
    assert found["files"][0]["spans"] == [s.to_json() for s in line.spans(0.5, by="cosine")]


def test_labels_of_a_file_and_a_median(run, place, tmp_path):
    (tmp_path / "labels.txt").write_text("a dog barks\nrain\n\na bell\n")
    asked = ("--labels-file", "labels.txt", *FINE, *LOW, "--median-s", 0.5, "--json")
    code, out, _ = run("tag", place / "sounds/long.wav", "-m", place, *asked)
    line = echoic.load(place).timeline(place / "sounds/long.wav", NAMES, steps=STEPS)
    wanted = line.smoothed(0.5).spans(0.3, gap_s=0.15)
    assert code == 0
    assert json.loads(out)["files"][0]["spans"] == [span.to_json() for span in wanted]


def test_in_a_pipe_lines_are_plain_and_no_wider_than_80(tag, place):
    code, out, err = tag(place / "sounds")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert all(len(line) <= 80 for line in out.splitlines() if "sounds/" not in line)
    assert out.count("0:05.3\n") >= 1
    assert re.search(r"^a bell|^rain|^a dog barks", out, re.MULTILINE)
    assert re.search(r"from +to +label +score", out)


def test_files_that_are_written(tag, place, tmp_path):
    code, _, err = tag(
        place / "sounds", "--csv", "t.csv", "--html", "t.html", "--srt", "subs", "--vtt", "subs"
    )
    assert code == 0
    with open("t.csv", newline="") as opened:
        rows = list(csv.DictReader(opened))
    spans = {name: expected(place, name) for name in ("long", "short")}
    assert [(row["label"], float(row["onset_s"])) for row in rows] == [
        (span.label, round(span.onset_s, 6)) for name in spans for span in spans[name]
    ]
    assert {row["file"] for row in rows} == {str(place / f"sounds/{n}.wav") for n in spans}
    assert sorted(os.listdir("subs")) == ["long.srt", "long.vtt", "short.srt", "short.vtt"]
    assert (tmp_path / "subs/long.vtt").read_text().startswith("WEBVTT\n\n00:00:00.")
    page = (tmp_path / "t.html").read_text()
    assert page.count("<figcaption>Time line") == 2
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", page)
    assert f"t.csv: {len(rows)} spans" in err
    tag(place / "sounds/long.wav", "--srt", "one.srt")
    assert (tmp_path / "one.srt").read_text() == (tmp_path / "subs/long.srt").read_text()


@pytest.mark.parametrize("step", [0, -1, "nan"])
def test_steps_of_no_length_are_refused(run, place, step):
    sound = place / "sounds/short.wav"
    code, _, err = run("tag", sound, "-m", place, "--labels", LABELS, "--step-s", step)
    assert (code, err.count("\n")) == (2, 1)
    assert f"error: steps of {step} s with windows of 1 s leave gaps" in err


def test_bad_files_are_named_and_the_rest_is_done(tag, place):
    code, out, err = tag(
        place / "bad.wav", place / "sounds/short.wav", "none.wav", "--csv", "t.csv"
    )
    assert code == 2
    assert "short.wav" in out
    assert err.splitlines()[-1] == (
        "error: 2 of 3 files could not be used (named above); the rest is done"
    )
    assert "left out: none.wav: no such file" in err
    assert os.path.exists("t.csv")
    assert tag("none.wav")[::2] == (2, "error: none.wav: no such file\n")


def test_where_nothing_is_heard_nothing_is_written(tag):
    Path("t.csv").write_text("older")
    code, _, err = tag("none.wav", "--csv", "t.csv", "--html", "t.html")
    assert (code, err) == (2, "error: none.wav: no such file\n")
    assert Path("t.csv").read_text() == "older"
    assert not os.path.exists("t.html")


def test_silence_is_told(tag):
    soundfile.write("silent.wav", np.zeros(tiny.RATE), tiny.RATE)
    code, _, err = tag("silent.wav", "--json")
    assert (code, err) == (0, "warning: silent.wav: silent; its time line says nothing\n")


def test_a_page_survives_a_name_that_is_no_text(tag, place):
    name = os.fsdecode(b"caf\xe9.wav")
    try:
        Path(name).write_bytes((place / "sounds/short.wav").read_bytes())
    except OSError:
        pytest.skip("this disk takes no such name")
    code, _, err = tag(name, "--html", "t.html", "--json")
    assert (code, err) == (0, "page: t.html\n")
    assert "caf\N{REPLACEMENT CHARACTER}.wav" in Path("t.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["a.wav"], "tag: give --labels or --labels-file, one of the two"),
        (["a.wav", "--labels", "rain"], "'rain' alone is always the likeliest"),
        (["a.wav", "--labels", "a,b", "--by", "cosine"], "--by cosine needs a --threshold"),
        (["a.wav", "-", "--labels", "a,b"], "- is stdin, and stands alone"),
        (["a.wav", "--labels", "a,b", "--pcm", "s16le:16000"], "--pcm is for -"),
        (["a.wav", "--labels", "a,b", "--scores"], "--scores is for files, with --json"),
        (["a.wav", "--labels", "a,b", "--low", 0.5], "low 0.5 is above the threshold 0.3"),
        (
            ["a.wav", "--labels", "a,b", "--threshold", 7],
            "tag: --threshold 7 by probability: give 0 to 1",
        ),
        (["a.wav", "--labels", "a,b", "--low", -0.1], "--low -0.1 by probability: give 0 to 1"),
        (
            ["a.wav", "--labels", "a,b", "--by", "cosine", "--threshold", -1.5],
            "--threshold -1.5 by cosine: give -1 to 1",
        ),
        (["a.wav", "--labels", "a,b", "--gap-s", -1], "--gap-s"),
        (["a.wav", "--labels", "a,b", "--template", "x"], "{label}"),
        (["a.wav", "b.wav", "--labels", "a,b", "--srt", "x.srt"], "--srt needs a folder"),
        (
            ["x/a.wav", "y/a.flac", "--labels", "a,b", "--vtt", "o"],
            "x/a.wav and y/a.flac would both",
        ),
        (["-", "--labels", "a,b", "--pcm", "mp3"], "PCM 'mp3': give KIND:RATE"),
        (["a.wav", "--labels", "a,b"], "2 s at once: this model hears up to 2 s"),
    ],
)
def test_mistakes_are_one_line(run, place, arguments, line):
    code, out, err = run("tag", *arguments, "-m", place)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert line in err


# -- the terminal ---------------------------------------------------------------------------------


def shown(console: Console, rows) -> list[str]:
    with console.capture() as caught:
        for row in rows:
            console.print(row, no_wrap=True, overflow="crop")
    return caught.get().splitlines()


def line_of(count: int, labels=("dog", "rain")) -> Timeline:
    scores = np.zeros((count, len(labels)))
    scores[count // 2 :, 0] = 1.0
    return Timeline(labels, 0.2, 0.2 * count, scores, scores)


@pytest.mark.parametrize("count", [1, 7, 300, 18_000])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_strips_fit_the_terminal(count, width):
    console = Console(width=width, file=io.StringIO())
    rows = shown(console, strips(line_of(count), ["dog", "rain"], "probability", console))
    assert len(rows) == 3
    assert all(len(row) <= width for row in rows)
    if count > 1:
        dog = rows[0][6:]
        assert dog.strip(" █") == ""
        assert dog.index("█") == pytest.approx(len(dog) / 2, abs=len(dog) / count / 2 + 1)
    assert rows[1].strip() == "rain"
    assert re.match(r" +0(:00)*", rows[2])


def test_strips_have_colours_where_there_are_some():
    console = Console(width=60, file=io.StringIO(), force_terminal=True, color_system="standard")
    rows = shown(console, strips(line_of(40), ["dog"], "probability", console))
    assert "\x1b[36m" in rows[0]


def test_a_terminal_without_unicode_gets_ascii():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(width=60, file=file)
    long = "a very long label that is cut"
    rows = shown(console, strips(line_of(40, (long,)), [long], "probability", console))
    assert all(row.isascii() for row in rows)
    assert rows[0].startswith("a very long label t.")
    assert "@@@" in rows[0]


def test_letters_of_two_places_keep_rows_in_line():
    console = Console(width=60, file=io.StringIO())
    rows = strips(line_of(40, ("門の音", "dog")), ["門の音", "dog"], "probability", console)
    assert len({row.cell_len for row in rows[:2]}) == 1


def test_of_many_labels_the_strongest_are_shown():
    spans = [Span(i, i + 1, f"label {i}", i / 100) for i in range(40)]
    assert strongest_labels(spans) == [f"label {i}" for i in range(28, 40)]


# -- live -----------------------------------------------------------------------------------------


def pcm(place) -> bytes:
    wave, _ = soundfile.read(place / "sounds/long.wav", dtype="int16")
    return wave.astype("<i2").tobytes()


def test_live_is_what_the_file_is(run, place, piped):
    asked = ("-m", place, "--labels", LABELS, *FINE, *LOW)
    for raw, how in (
        (pcm(place), ("--pcm", "s16le:16000")),
        ((place / "sounds/long.wav").read_bytes(), ()),
    ):
        piped(raw)
        code, out, err = run("tag", "-", *asked, *how, "--json", "--csv", "live.csv")
        assert code == 0, err
        found = [json.loads(line) for line in out.splitlines()]
        in_order = sorted(found, key=lambda each: (each["onset_s"], each["offset_s"]))
        assert in_order == [span.to_json() for span in expected(place)]
        assert err.startswith("hearing s16le:16000 from stdin; tags come 0.4 to 1.2 s behind live")
    code, _, _ = run("tag", place / "sounds/long.wav", *asked, "--csv", "file.csv")
    table = Path("file.csv").read_text().replace(f"{place}/sounds/long.wav", "-")
    assert Path("live.csv").read_text() == table


def test_live_lines_begin_and_end_each_span(tag, place, piped):
    piped(pcm(place))
    code, out, _ = tag("-", "--pcm", "s16le:16000", "--html", "t.html", "--vtt", "t.vtt")
    assert code == 0
    lines = [re.fullmatch(r" *(\S+)  +(\S+)  +([\d.]+)  (.*)", line) for line in out.splitlines()]
    ended = [(each[1], each[4]) for each in lines if each[2] != "..."]
    begun = [(each[1], each[4]) for each in lines if each[2] == "..."]
    assert set(begun) <= set(ended)
    assert len(begun) == len(set(begun)) > 0
    assert len(ended) == len(expected(place))
    assert "<figcaption>Time line" in Path("t.html").read_text()
    assert Path("t.vtt").read_text().startswith("WEBVTT")


def test_a_live_median_is_that_of_a_file(run, place, piped):
    asked = ("-m", place, "--labels", LABELS, *FINE, *LOW, "--median-s", 0.5, "--json")
    piped(pcm(place))
    live = run("tag", "-", *asked, "--pcm", "s16le:16000")[1]
    file = json.loads(run("tag", place / "sounds/long.wav", *asked)[1])["files"][0]["spans"]
    found = [json.loads(line) for line in live.splitlines()]
    assert sorted(found, key=lambda each: (each["onset_s"], each["offset_s"])) == file


@pytest.mark.parametrize(
    ("raw", "how", "line"),
    [
        (b"", [], "stdin: is empty (0 bytes)"),
        (b"what is this?", [], "stdin: has no WAV header: say what the samples are"),
        (np.full(99, np.nan, "<f4").tobytes(), ["--pcm", "f32le:16000"], "stdin: holds NaN"),
    ],
)
def test_what_stdin_may_not_be(tag, piped, raw, how, line):
    piped(raw)
    code, out, err = tag("-", *how)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"error: {line}")


@pytest.mark.parametrize("raw", [b"", b"\x01"])
def test_nothing_in_a_pipe_of_samples_is_told_and_costs_no_file(tag, piped, raw):
    Path("t.csv").write_text("older")
    piped(raw)
    code, out, err = tag("-", "--pcm", "s16le:16000", "--html", "t.html", "--csv", "t.csv")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "error: stdin: is empty (no samples came)"
    assert Path("t.csv").read_text() == "older"
    assert not os.path.exists("t.html")


def test_compressed_sound_in_a_pipe_is_told_where_to_go(tag, piped):
    piped(b"OggS" + bytes(40))
    assert tag("-")[2] == (
        "error: stdin: has no WAV header: say what the samples are (--pcm s16le:16000); "
        "compressed sound is given as a file\n"
    )


def test_a_terminal_is_told_what_to_pipe(tag, monkeypatch):
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    assert "stdin is a terminal: pipe sound into it" in tag("-")[2]


def test_lines_come_while_sound_does_and_ctrl_c_keeps_them(place, tmp_path):
    """A pipe that stays open: the first line is there, then Ctrl-C, and the table is written."""
    command = [sys.executable, "-m", "echoic", "tag", "-", "-m", place, "--labels", LABELS]
    command += [*FINE, "--threshold", 0.01, "--pcm", "s16le:16000", "--csv", "t.csv"]
    with subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        try:
            process.stdin.write(pcm(place))
            process.stdin.flush()
            assert b"..." in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(input=pcm(place)[:3200], timeout=100)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert err.decode().splitlines()[-2:] == ["t.csv: 3 spans", "error: interrupted"]


# -- captions -------------------------------------------------------------------------------------


def test_captions_as_subtitles(run, place, tmp_path):
    save_model(tmp_path / "captioner.safetensors", tiny.content(decoder=tiny.decoder()))
    asked = ("-m", "captioner.safetensors", "--max-tokens", 8)
    code, out, err = run(
        "caption", place / "sounds/long.wav", *asked, "--srt", "a.srt", "--vtt", "a.vtt", "--json"
    )
    assert code == 0, err
    texts = [span["caption"] for span in json.loads(out)["captions"][0]["spans"]]
    cues = (tmp_path / "a.srt").read_text().split("\n\n")
    assert [cue.splitlines()[1] for cue in cues][-1].endswith("--> 00:00:05,300")
    assert " ".join(cues[0].splitlines()[2].split()) == " ".join(texts[0].split())
    assert "a.srt" in err
    code, _, err = run("caption", place / "sounds", *asked, "--srt", "a.srt")
    assert (code, err) == (2, "error: a.srt: of several recordings --srt needs a folder\n")
