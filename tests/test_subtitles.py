"""Subtitles by the rules of both formats, read back by another program (FFmpeg)."""

from __future__ import annotations

import io
import itertools
import re

import numpy as np
import pytest

from echoic.captioning import CaptionedSpan
from echoic.eval.events import Span
from echoic.subtitles import Cue, caption_cues, span_cues, to_srt, to_vtt

av = pytest.importorskip("av")


def said(*parts: tuple[float, float, str]) -> list[Cue]:
    return caption_cues([CaptionedSpan(a, b, text, -1.0) for a, b, text in parts])


def rows(cues: list[Cue]) -> list[tuple[int, int, str]]:
    return [(cue.start_ms, cue.end_ms, cue.text) for cue in cues]


def tagged(*parts: tuple[float, float, str]) -> list[tuple[int, int, str]]:
    return rows(span_cues([Span(a, b, label, 0.5) for a, b, label in parts]))


# -- cues -----------------------------------------------------------------------------------------


def test_windows_that_overlap_follow_each_other():
    """The last window is flush with the end."""
    assert rows(said((0, 2, "a"), (2, 4, "b"), (3.3, 5.3, "c"))) == [
        (0, 2000, "a"), (2000, 4000, "b"), (4000, 5300, "c"),
    ]  # fmt: skip
    assert rows(said((0, 2, "a"), (0.5, 1.5, "inside"), (2, 3, "b"))) == [
        (0, 2000, "a"), (2000, 3000, "b"),
    ]  # fmt: skip


def test_what_is_said_again_is_one_cue():
    assert rows(said((0, 2, "rain"), (2, 4, "rain"), (3, 5, "rain"), (6, 7, "rain"))) == [
        (0, 5000, "rain"), (6000, 7000, "rain"),
    ]  # fmt: skip


def test_cues_that_show_nothing_are_left_out():
    assert rows(said((0, 2, "a"), (2, 2.0004, "short"), (2, 4, "  "), (4, 6, "b"))) == [
        (0, 2000, "a"), (4000, 6000, "b"),
    ]  # fmt: skip
    assert said() == []


def test_labels_that_sound_at_once_stand_in_one_cue():
    assert tagged((0, 4, "rain"), (1, 2, "dog"), (2, 3, "bell"), (6, 7, "dog")) == [
        (0, 1000, "rain"), (1000, 2000, "rain, dog"), (2000, 3000, "rain, bell"),
        (3000, 4000, "rain"), (6000, 7000, "dog"),
    ]  # fmt: skip
    assert tagged((0, 1, "dog"), (1, 2, "dog"), (1, 2, "bell")) == [
        (0, 1000, "dog"), (1000, 2000, "bell, dog"),
    ]  # fmt: skip
    assert tagged((1, 1.0002, "dog")) == tagged() == []


def test_any_spans_become_cues_in_order_that_hold_them():
    draw = np.random.default_rng(0)
    for _ in range(50):
        starts = draw.uniform(0, 20, 12)
        parts = [(a, a + draw.exponential(2.0), str(draw.integers(4))) for a in starts.tolist()]
        cues = tagged(*parts)
        assert all(start < end for start, end, _ in cues)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(cues))
        for time_ms in range(0, 25_000, 37):
            wanted = {x for a, b, x in parts if round(1000 * a) <= time_ms < round(1000 * b)}
            shown = [text for start, end, text in cues if start <= time_ms < end]
            assert set(shown[0].split(", ") if shown else []) == wanted


# -- the formats ----------------------------------------------------------------------------------

CUES = [
    Cue(0, 1999, "a dog barks"),
    Cue(2000, 3_661_007, "rain & <wind> --> a \N{GREEK SMALL LETTER ALPHA} storm"),
    Cue(363_600_000, 363_600_001, "after 101 hours"),
]


def test_srt_to_the_letter():
    assert to_srt(CUES) == (
        "1\n00:00:00,000 --> 00:00:01,999\na dog barks\n\n"
        "2\n00:00:02,000 --> 01:01:01,007\nrain & <wind> --> a α storm\n\n"
        "3\n101:00:00,000 --> 101:00:00,001\nafter 101 hours\n"
    )
    assert to_srt([]) == ""


def test_vtt_to_the_letter():
    assert to_vtt(CUES) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.999\na dog barks\n\n"
        "00:00:02.000 --> 01:01:01.007\nrain &amp; &lt;wind&gt; --&gt; a α storm\n\n"
        "101:00:00.000 --> 101:00:00.001\nafter 101 hours\n"
    )
    assert to_vtt([]) == "WEBVTT\n"


def test_a_vtt_file_is_one_by_the_grammar():
    """W3C WebVTT 4: blocks parted by empty lines; no "-->" in a cue's text; & and < escaped."""
    clock = r"\d{2,}:[0-5]\d:[0-5]\d\.\d{3}"
    header, *blocks = to_vtt(CUES).rstrip("\n").split("\n\n")
    assert header == "WEBVTT"
    for block in blocks:
        timing, text = block.split("\n")
        assert re.fullmatch(f"{clock} --> {clock}", timing)
        assert "-->" not in text
        assert not set(re.sub("&(amp|lt|gt);", "", text)) & set("&<>")


@pytest.mark.parametrize(
    "text", ["two\nlines", "an\n\nempty line", "\r\nwrapped\r\n", "nul\0l", "a\tb"]
)
def test_a_text_is_one_line(text):
    cue = said((0, 1, text))[0]
    assert cue.text == {"nul\0l": "null"}.get(text, " ".join(text.split()))


@pytest.mark.parametrize(
    ("time_s", "shown"),
    [
        (0.0004, "00:00:00,000"), (0.0006, "00:00:00,001"), (59.9996, "00:01:00,000"),
        (3599.9999, "01:00:00,000"), (-1e-9, "00:00:00,000"),
    ],
)  # fmt: skip
def test_times_are_rounded_to_milliseconds(time_s, shown):
    assert to_srt(said((time_s, 7200, "x"))).splitlines()[1].startswith(shown)


@pytest.mark.parametrize(("kind", "write"), [("srt", to_srt), ("webvtt", to_vtt)])
def test_ffmpeg_reads_what_was_written(kind, write):
    cues = said((0.0, 2.0, "a dog barks"), (2.0, 4.0, "rain & wind"), (3.3, 5.3, "eine Tür, 門"))
    with av.open(io.BytesIO(write(cues).encode()), format=kind) as file:
        stream = file.streams.subtitles[0]
        packets = [packet for packet in file.demux(stream) if packet.size]
        times = [
            (round(1000 * p.pts * p.time_base), round(1000 * (p.pts + p.duration) * p.time_base))
            for p in packets
        ]
        texts = [bytes(packet).decode() for packet in packets]
    assert times == [(cue.start_ms, cue.end_ms) for cue in cues]
    assert [text.strip().replace("&amp;", "&") for text in texts] == [cue.text for cue in cues]
