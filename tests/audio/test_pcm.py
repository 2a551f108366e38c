"""PCM from a pipe: every kind of sample, headers that do not know their length, blocks as they
come."""

from __future__ import annotations

import io
import os
import struct
import threading

import numpy as np
import pytest
import soundfile

from echoic.audio.io import live_audio, load_audio
from echoic.audio.pcm import PcmFormat, open_pcm
from echoic.types import AudioError

RATE = 16_000


def wave(count: int = 997, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, (count, channels)).astype(np.float32)


def heard(raw: bytes, told: PcmFormat | None = None) -> np.ndarray:
    form, blocks = open_pcm(io.BytesIO(raw), told, name="pipe")
    mono = list(live_audio(blocks, from_hz=form.rate_hz, rate_hz=form.rate_hz))
    return np.concatenate(mono) if mono else np.empty(0, np.float32)


def wav(subtype: str, endian: str = "LITTLE", form: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave(), RATE, subtype=subtype, endian=endian, format=form)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("u8", "PCM_U8"), ("s16", "PCM_16"), ("s24", "PCM_24"), ("s32", "PCM_32"), ("f32", "FLOAT"),
     ("f64", "DOUBLE")],
)  # fmt: skip
@pytest.mark.parametrize("endian", ["le", "be"])
def test_raw_samples_are_what_libsndfile_makes_of_them(kind, subtype, endian):
    file = io.BytesIO()
    order = "LITTLE" if endian == "le" else "BIG"
    soundfile.write(file, wave(), RATE, format="RAW", subtype=subtype, endian=order)
    told = PcmFormat.parse(f"{kind}{endian if kind != 'u8' else ''}:{RATE}:2")
    wanted = load_audio(io.BytesIO(wav(subtype)), rate_hz=RATE)
    np.testing.assert_array_equal(heard(file.getvalue(), told), wanted)


def test_signed_bytes():
    raw = np.array([-128, 0, 64], np.int8).tobytes()
    assert heard(raw, PcmFormat("s8", RATE)).tolist() == [-1.0, 0.0, 0.5]


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_wav_is_what_a_file_is(subtype, form):
    raw = wav(subtype, form=form)
    np.testing.assert_array_equal(heard(raw), load_audio(io.BytesIO(raw), rate_hz=RATE))


def resized(raw: bytes, size: int) -> bytes:
    at = raw.index(b"data") + 4
    return raw[:at] + struct.pack("<I", size) + raw[at + 4 :]


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x7FFFF024])
def test_a_header_that_does_not_know_the_length(size):
    """As ffmpeg, arecord and sox write it to a pipe."""
    raw = wav("PCM_16")
    np.testing.assert_array_equal(heard(resized(raw, size)), heard(raw))
    assert len(heard(raw)) == 997


def test_what_follows_the_samples_is_not_heard():
    raw = wav("PCM_16")
    assert np.array_equal(heard(raw + b"LIST\x04\0\0\0abcd"), heard(raw))
    chunk = b"bext\x05\0\0\0abcde\0"  # of odd length, with its byte of padding
    assert np.array_equal(heard(raw[:12] + chunk + raw[12:]), heard(raw))


def test_a_frame_that_the_end_cuts_is_left_out():
    raw = np.arange(8, dtype="<i2").tobytes()
    assert len(heard(raw[:-1], PcmFormat("s16le", RATE, 2))) == 3
    assert len(heard(b"", PcmFormat("s16le", RATE))) == 0


def test_blocks_come_while_the_writer_goes_on():
    """The first is there before the second is written."""
    reader, writer = os.pipe()
    go_on = threading.Event()

    def write():
        with os.fdopen(writer, "wb", buffering=0) as file:
            file.write(np.arange(5, dtype="<i2").tobytes() + b"\x01")
            go_on.wait(20)
            file.write(b"\x02")

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    with os.fdopen(reader, "rb") as file:
        _, blocks = open_pcm(file, PcmFormat("s16le", RATE), name="pipe")
        assert next(blocks)[:, 0].tolist() == [0, 1, 2, 3, 4]
        go_on.set()
        assert next(blocks)[:, 0].tolist() == [0x201]  # of bytes that came apart
        assert list(blocks) == []
    thread.join(20)


@pytest.mark.parametrize(
    ("told", "form"),
    [
        ("s16le:16000", PcmFormat("s16le", 16_000)),
        (" F32LE:48000:2 ", PcmFormat("f32le", 48_000, 2)),
    ],
)
def test_formats_in_words(told, form):
    assert PcmFormat.parse(told) == form
    assert PcmFormat.parse(str(form)) == form


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("s16le", "give KIND:RATE or KIND:RATE:CHANNELS, as s16le:16000"),
        ("s17le:16000", "give KIND:RATE"),
        ("s16:16000", "give KIND:RATE"),
        ("f16le:16000", "give KIND:RATE"),
        ("s16le:16000:", "give KIND:RATE"),
        ("s16le:5", "a rate of 5 Hz is not supported"),
        ("s16le:" + "1" * 5000, "give KIND:RATE"),
        ("s16le:16000:0", "0 channels: 1 to 64"),
        ("s16le:16000:65", "65 channels: 1 to 64"),
    ],
)
def test_formats_that_are_none(told, words):
    with pytest.raises(AudioError, match=words):
        PcmFormat.parse(told)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", r"pipe: is empty \(0 bytes\)"),
        (b"OggS" + bytes(40), "pipe: has no WAV header: say what the samples are"),
        (b"RIFF", "has no WAV header"),
        (wav("PCM_16")[:30], "its WAV header is damaged"),
        (b"RIFF\0\0\0\0WAVEdata\x04\0\0\0abcd", "its WAV header is damaged"),
        (b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0ab", "its WAV header is damaged"),
        (b"RIFF\0\0\0\0WAVE" + b"junk\0\0\x10\0" + bytes(2**20) + bytes(9), "header is damaged"),
        (wav("ULAW"), "is WAV of kind 7 with 8 bits, which cannot be heard live"),
        (resized(wav("PCM_16"), 4).replace(struct.pack("<I", RATE), bytes(4)), "a rate of 0 Hz"),
    ],
)
def test_what_is_no_wav_is_told(raw, words):
    with pytest.raises(AudioError, match=words):
        open_pcm(io.BytesIO(raw), None, name="pipe")
