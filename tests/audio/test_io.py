"""Audio in: right samples from every kind of source, one clear error from every kind of damage."""

from __future__ import annotations

import csv
import http.server
import io
import logging
import os
import re
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echoic.audio.decode import ByteSource
from echoic.audio.io import load_audio, probe_audio, stream_audio
from echoic.types import AudioError, shown

RATE_HZ = 44_100
SHARED = Path(os.environ.get("ECHOIC_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def noise(seconds: float = 2.0, channels: int = 2, seed: int = 0) -> np.ndarray:
    """(T, C) float32 within [-0.8, 0.8]."""
    rng = np.random.default_rng(seed)
    shape = (round(seconds * RATE_HZ), channels)
    return np.clip(rng.standard_normal(shape) * 0.2, -0.8, 0.8).astype(np.float32)


def encode(samples: np.ndarray, form: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE_HZ, format=form, subtype=subtype)
    return buffer.getvalue()


def refusal(source: Any, **options: Any) -> str:
    """The message of the AudioError; a single line that begins with the name."""
    with pytest.raises(AudioError) as caught:
        load_audio(source, **{"rate_hz": 16_000, **options})
    message = str(caught.value)
    assert message.startswith(shown(caught.value.name)[:400])
    assert "\n" not in message
    return message


# the samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "channels"),
    [("MP3", 1), ("MP3", 2), *((f, c) for f in ("WAV", "FLAC", "OGG", "AIFF") for c in (1, 2, 6))],
)
def test_equals_soundfile_and_soxr(tmp_path: Path, form: str, channels: int) -> None:
    path = tmp_path / "clip"
    path.write_bytes(encode(noise(channels=channels), form))
    whole, _ = soundfile.read(path, dtype="float64", always_2d=True)
    expected = soxr.resample(whole.mean(1), RATE_HZ, 16_000, "HQ")
    got = load_audio(path, rate_hz=16_000)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("block_s", [0.001, 0.37, 10.0])
@pytest.mark.parametrize("rate_hz", [RATE_HZ, 16_000, 48_000])
def test_stream_equals_load_bit_for_bit(rate_hz: int, block_s: float) -> None:
    data = encode(noise(3.0), "OGG")
    blocks = list(stream_audio(data, rate_hz=rate_hz, block_s=block_s))
    assert {len(block) for block in blocks[:-1]} <= {round(block_s * rate_hz)}
    np.testing.assert_array_equal(np.concatenate(blocks), load_audio(data, rate_hz=rate_hz))


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 200_000), st.sampled_from([8_000, 16_000, 32_000, 48_000]))
def test_resampling_in_blocks_equals_resampling_at_once(total: int, rate_hz: int) -> None:
    samples = np.random.default_rng(total).standard_normal(total).astype(np.float32)
    expected = soxr.resample(samples, RATE_HZ, rate_hz, "HQ")
    if len(expected):
        got = load_audio((samples, RATE_HZ), rate_hz=rate_hz)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("start_s", [0.25, 1.0, 1.9])
def test_a_part_is_that_part_of_the_whole(form: str, start_s: float) -> None:
    data = encode(noise(), form)
    whole = load_audio(data, rate_hz=RATE_HZ)
    start = round(start_s * RATE_HZ)
    part = load_audio(data, rate_hz=RATE_HZ, start_s=start_s, duration_s=0.5)
    np.testing.assert_array_equal(part, whole[start : start + RATE_HZ // 2])
    rest = load_audio(data, rate_hz=RATE_HZ, start_s=start_s)
    np.testing.assert_array_equal(rest, whole[start:])


@pytest.mark.parametrize(
    "file", ["gen__aac.m4a", "gen__opus.opus", "mutagen__silence-44-s.mp3", "gen__adpcm_ms.wav"]
)
def test_a_part_of_other_kinds(shared: Path, file: str) -> None:
    path = shared / "data/robust/files" / file
    rate_hz = probe_audio(path).rate_hz
    whole = load_audio(path, rate_hz=rate_hz)
    part = load_audio(path, rate_hz=rate_hz, start_s=0.7, duration_s=0.2)
    start = round(0.7 * rate_hz)
    np.testing.assert_array_equal(part, whole[start : start + round(0.2 * rate_hz)])


def test_floats_beyond_one_and_silence_are_kept() -> None:
    loud = np.float32([50, -50, 0.5] * 10)
    np.testing.assert_array_equal(load_audio(encode(loud, "WAV", "FLOAT"), rate_hz=RATE_HZ), loud)
    assert not load_audio(np.zeros(100, np.float32), rate_hz=16_000).any()


# the sources --------------------------------------------------------------------------------------


class Pipe(io.RawIOBase):
    """Bytes that can only be read onwards."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)


class Bare:
    """The least that a file object can be."""

    def __init__(self, data: bytes) -> None:
        inner = io.BytesIO(data)
        self.read, self.seek, self.tell, self.seekable = (
            inner.read,
            inner.seek,
            inner.tell,
            inner.seekable,
        )


@pytest.mark.parametrize("form", ["WAV", "MP3"])
def test_every_source_gives_the_same(tmp_path: Path, form: str) -> None:
    data = encode(noise(), form)
    path = tmp_path / "a clip.raw"  # the name must not matter, and soundfile balks at .raw
    path.write_bytes(data)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(path, "clip")
    tar = tarfile.open(fileobj=io.BytesIO(archive.getvalue()))  # noqa: SIM115
    expected = load_audio(path, rate_hz=16_000)
    read_already = io.BytesIO(data)
    read_already.read()
    member = tar.extractfile("clip")
    sources: list[Any] = [str(path), data, bytearray(data), read_already, member]
    for source in [*sources, Pipe(data), Bare(data)]:
        np.testing.assert_array_equal(load_audio(source, rate_hz=16_000), expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(load_audio(file, rate_hz=16_000), expected)
        assert not file.closed


def test_fallback_reads_any_source(shared: Path) -> None:
    path = shared / "data/robust/files/gen__alac.m4a"
    expected = load_audio(path, rate_hz=16_000)
    assert len(expected) == 24_000
    for source in (path.read_bytes(), Pipe(path.read_bytes()), Bare(path.read_bytes())):
        np.testing.assert_array_equal(load_audio(source, rate_hz=16_000), expected)


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (np.int16, [-32768, 0, 16384], [-1, 0, 0.5]),
        (np.int32, [-(2**31), 0, 2**30], [-1, 0, 0.5]),
        (np.int8, [-128, 0, 64], [-1, 0, 0.5]),
        (np.uint8, [0, 128, 192], [-1, 0, 0.5]),
        (np.float64, [-1, 0, 2.5], [-1, 0, 2.5]),
        (np.float16, [-1, 0, 0.5], [-1, 0, 0.5]),
    ],
)
def test_types_of_samples(dtype: Any, values: list[float], expected: list[float]) -> None:
    got = load_audio(np.array(values, dtype), rate_hz=16_000)
    np.testing.assert_array_equal(got, np.float32(expected))


def test_shapes_of_arrays() -> None:
    stereo = noise(0.1)
    expected = load_audio((stereo.mean(1), RATE_HZ), rate_hz=16_000)
    same: list[Any] = [
        (stereo, RATE_HZ),
        (stereo.T, RATE_HZ),
        (torch.from_numpy(stereo), RATE_HZ),
        (torch.from_numpy(stereo).T.requires_grad_(), RATE_HZ),
        (stereo.mean(1)[:, None], np.int64(RATE_HZ)),
    ]
    for source in same:
        np.testing.assert_allclose(load_audio(source, rate_hz=16_000), expected, atol=1e-6)
    assert load_audio(np.float32([[1, 2, 3]]), rate_hz=16_000).tolist() == [1, 2, 3]
    assert load_audio(np.float32([[7]]), rate_hz=16_000).tolist() == [7]
    assert load_audio(torch.ones(5, dtype=torch.bfloat16), rate_hz=16_000).tolist() == [1] * 5


@pytest.mark.parametrize("shape", [(2, 2), (64, 10), (3, 64), (100, 100), (2, 3, 4), ()])
def test_unclear_shapes_are_refused(shape: tuple[int, ...]) -> None:
    assert str(shape) in refusal(np.zeros(shape, np.float32))


def test_the_result_is_never_the_callers_array() -> None:
    mine = np.ones(10, np.float32)
    load_audio(mine, rate_hz=16_000)[:] = 0
    next(stream_audio(mine, rate_hz=16_000))[:] = 0
    assert mine.all()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros(9, np.int64), "int64"),
        (np.zeros(9, bool), "bool"),
        (np.zeros(0, np.float32), "no samples"),
        ((16_000, np.zeros(9, np.float32)), r"\(array, rate_hz\)"),
        ((np.zeros(9, np.float32), "16000"), "rate"),
        ((np.zeros(9, np.float32), 16_000.5), "rate"),
        ((np.zeros(9, np.float32), 0), "0 Hz"),
        ((np.zeros(9, np.float32), 1), "1 Hz"),
        (42, "<int>: is not audio"),
        (None, "<NoneType>: is not audio"),
        (b"", "<bytes>: is empty"),
        (io.StringIO("x"), "rb"),
        (np.float32([0, 1, np.nan]), "NaN"),
        (np.float64([0, 1, 1e300]), "infinite"),
        (torch.tensor([0.0, -torch.inf]), "infinite"),
        (np.float32([[np.inf] * 99, [-np.inf] * 99]), "NaN"),
    ],
)
def test_unusable_sources(source: Any, words: str) -> None:
    assert re.search(words, refusal(source))


def test_where_the_first_bad_sample_is() -> None:
    samples = np.zeros(200_000, np.float32)
    samples[150_000] = np.nan
    assert "the first at 9.375 s" in refusal((samples, 16_000))
    assert "the first at 9.375 s" in refusal((samples, 16_000), start_s=9.0)


@pytest.mark.parametrize("options", [{"start_s": -1}, {"duration_s": 0}, {"start_s": np.nan}])
def test_an_impossible_part_is_refused(options: dict[str, float]) -> None:
    assert "cannot" in refusal(noise(0.1), **options)


@pytest.mark.parametrize("form", ["WAV", "MP3", None])
def test_a_part_beyond_the_end_is_refused(form: str | None) -> None:
    source = encode(noise(), form) if form else (noise(), RATE_HZ)
    assert "ends before 2.5 s" in refusal(source, start_s=2.5)


def test_too_short_for_the_rate() -> None:
    assert "shorter than one sample at 16000 Hz" in refusal((np.ones(1, np.float32), 48_000))
    assert len(load_audio((np.ones(1, np.float32), 32_000), rate_hz=16_000)) == 1


# files that are not there or not sound ------------------------------------------------------------


@pytest.mark.timeout(20)
def test_paths_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file" in refusal(tmp_path / "gone.wav")
    assert "folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "fifo")  # nobody writes to it: whoever opens it hangs
    assert "not a regular file" in refusal(tmp_path / "fifo")
    assert "cannot be opened" in refusal("a\0b")
    assert "cannot be opened (File name too long)" in refusal("x" * 5_000)
    (tmp_path / "empty.wav").touch()
    assert "empty.wav: is empty" in refusal(tmp_path / "empty.wav")
    assert "the clip: is empty" in refusal(tmp_path / "empty.wav", name="the clip")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.wav"
    path.write_bytes(encode(noise(0.1)))

    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    assert refusal(path) == f"{path}: cannot be opened (Permission denied)"


class Failing(io.BytesIO):
    """A file on a share that goes away."""

    limit = 50_000

    def readinto(self, buffer: Any) -> int:
        if self.tell() > self.limit:
            raise OSError("share is gone")
        return super().readinto(buffer)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_file_that_fails_while_it_is_read(form: str) -> None:
    assert "reading failed (share is gone)" in refusal(Failing(encode(noise(5.0), form)))


def test_a_file_that_fails_while_the_fallback_reads_it(shared: Path) -> None:
    m4a = Failing((shared / "data/robust/files/gen__alac.m4a").read_bytes())
    for m4a.limit in (0, 30_000):
        assert "reading failed (share is gone)" in refusal(m4a)


def test_a_lying_header_cannot_ask_for_more_than_there_is() -> None:
    source = ByteSource(io.BytesIO(b"abc"))
    assert source.read(2**60) == b"abc"
    assert source.seek(-4, io.SEEK_END) == -1
    assert (source.seek(10), source.read(5), source.tell()) == (10, b"", 10)


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def test_absurd_rates_and_channels() -> None:
    wav = encode(noise(0.1, channels=1))
    assert "rate of 1 Hz" in refusal(patched(wav, 24, (1).to_bytes(4, "little")))
    assert "rate of 4000000 Hz" in refusal(patched(wav, 24, (4_000_000).to_bytes(4, "little")))
    many = patched(wav, 22, (500).to_bytes(2, "little"))
    assert "500 channels" in refusal(patched(many, 32, (1_000).to_bytes(2, "little")))
    assert "rate of 0 Hz" in refusal(wav, rate_hz=0)


def test_a_flac_that_claims_days_is_read_to_its_end(caplog: pytest.LogCaptureFixture) -> None:
    flac = encode(noise(1.0, channels=1), "FLAC")
    # STREAMINFO: the last 36 bits of the 8 bytes at 18 count the samples.
    fields = int.from_bytes(flac[18:26], "big") | (2**36 - 1)
    lying = patched(flac, 18, fields.to_bytes(8, "big"))
    assert len(load_audio(lying, rate_hz=RATE_HZ, name="lie.flac")) == RATE_HZ
    assert "lie.flac: cut short?" in caplog.text


@pytest.mark.parametrize("form", ["WAV", "AIFF", "AU", "W64", "MP3"])
def test_a_file_cut_short_is_used_with_a_warning(
    form: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = encode(noise(3.0), form)
    cut = whole[: len(whole) * 6 // 10]
    assert len(load_audio(cut, rate_hz=RATE_HZ, name="clip")) == pytest.approx(79_380, rel=0.02)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.match(r"clip: cut short\? its header announces 3.00 s, it holds 1.", record.message)


def test_a_sound_file_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    wav = encode(noise())
    load_audio(wav, rate_hz=16_000)
    load_audio(wav, rate_hz=16_000, duration_s=0.5)
    at = wav.index(b"data") + 4
    load_audio(patched(wav, at, b"\xff" * 4), rate_hz=16_000)  # as written to a pipe
    load_audio(encode(noise(20.0), "MP3"), rate_hz=16_000)
    assert not caplog.records


def test_damage_in_the_middle_is_an_error_when_it_is_reached() -> None:
    flac = encode(noise(10.0, channels=1), "FLAC")
    broken = patched(flac, len(flac) // 2, bytes(2_000))
    message = refusal(broken, name="clip.flac")
    assert re.match(r"clip.flac: is damaged after [45]\.\d\d s \(flac decoder lost sync\)", message)
    assert len(load_audio(broken, rate_hz=RATE_HZ, duration_s=3.0)) == 3 * RATE_HZ
    blocks = stream_audio(broken, rate_hz=16_000, block_s=1.0)
    assert len(next(blocks)) == 16_000
    with pytest.raises(AudioError):
        list(blocks)


# all of shared/data/robust ------------------------------------------------------------------------

# What we make otherwise than the first of libsndfile and ffmpeg that gives samples: docs/audio.md.
OTHERWISE: dict[str, str] = {
    "gen__nan_inf.wav": "NaN",
    "flac__03_-_decreasing_number_of_channels.flac": "is damaged",
    "flac__04_-_wrong_number_of_channels.flac": "is damaged",
    "gen__bitflip_flac24_96k.flac": "is damaged",
    "mutagen__52-too-short-block-size.flac": "cannot be decoded",
}


def robust_rows() -> list[Any]:
    table = SHARED / "data/robust/expected.csv"
    if not table.is_file():
        return [pytest.param({}, marks=pytest.mark.skip(f"needs {table}"))]
    with table.open(encoding="utf-8", newline="") as file:
        return [pytest.param(row, id=row["file"]) for row in csv.DictReader(file)]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("row", robust_rows())
def test_every_odd_file(row: dict[str, str]) -> None:
    path = SHARED / "data/robust/files" / row["file"]
    by_sndfile = int(row["sf_frames"]) if row["sf"] == "ok" else 0
    by_ffmpeg = int(row["ff_samples"]) if row["ff_rc"] == "0" else 0
    if row["file"] in OTHERWISE or not (by_sndfile or by_ffmpeg):
        assert OTHERWISE.get(row["file"], "") in refusal(path)
        return
    info = probe_audio(path)
    got = load_audio(path, rate_hz=info.rate_hz)
    assert np.isfinite(got).all()
    if by_sndfile:
        assert (len(got), info.rate_hz) == (by_sndfile, int(row["sf_sr"]))
    else:  # releases of ffmpeg differ by a frame at the ends of aac
        assert len(got) == pytest.approx(by_ffmpeg / info.channels, abs=1_024)


def test_what_libsndfile_and_the_fallback_decode_is_the_same(shared: Path) -> None:
    """The lossless fallback, against the same clip that libsndfile reads."""
    files = shared / "data/robust/files"
    expected = load_audio(files / "gen__s32.wav", rate_hz=32_000)
    for file in ("gen__alac.m4a", "gen__tta.tta"):
        got = load_audio(files / file, rate_hz=32_000)
        np.testing.assert_allclose(got, expected, atol=2**-15, err_msg=file)


def test_without_pyav(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    files = shared / "data/robust/files"
    assert 'pip install "echoic[av]"' in refusal(files / "gen__aac.m4a")
    assert 'pip install "echoic[av]"' in refusal(files / "gen__text.wav")
    assert len(load_audio(files / "gen__vbr.mp3", rate_hz=48_000)) == 72_000


def test_importing_does_not_import_pyav() -> None:
    code = "import sys, echoic.audio.io; sys.exit('av' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# promises about resources -------------------------------------------------------------------------


@pytest.fixture
def address() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.mark.timeout(20)
def test_a_playlist_is_not_followed(address: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = address
    (tmp_path / "other.wav").write_bytes(encode(noise(0.1)))
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
    concat = "ffconcat version 1.0\nfile '{}'\n"
    for playlist in (hls, concat):
        for target in (f"{url}/a.ts", f"{tmp_path}/other.wav"):
            path = tmp_path / "list.m3u8"
            path.write_text(playlist.format(target))
            assert "cannot be decoded" in refusal(path)
    assert "no such file" in refusal(f"{url}/a.wav")
    assert not asked


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_files_are_closed(shared: Path) -> None:
    files = shared / "data/robust/files"

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for file in ("gen__u8.wav", "gen__aac.m4a"):
        load_audio(files / file, rate_hz=16_000)
        probe_audio(files / file)
        blocks = stream_audio(files / file, rate_hz=16_000, block_s=0.01)
        next(blocks)
        del blocks
    for file in ("gen__text.wav", "gen__bitflip_flac24_96k.flac", "torchcodec__h265_video.mp4"):
        refusal(files / file)
    assert count() == before


MEMORY = """
import resource, sys
from echoic.audio.io import stream_audio
from echoic.audio.windows import stream_windows

def listen(duration_s):
    blocks = stream_audio(sys.argv[1], rate_hz=16_000, duration_s=duration_s)
    windows = stream_windows(blocks, window_samples=160_000, hop_samples=160_000)
    count = sum(1 for _ in windows)
    return count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

_, before = listen(60)
count, after = listen(None)
print(count, after - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux alone")
def test_an_hour_in_the_memory_of_a_minute(shared: Path) -> None:
    path = shared / "data/robust/files/gen__hour_silence_8k.flac"  # 230 MB as float32 at 16 kHz
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], check=True, capture_output=True, text=True
    )
    count, grown_kb = map(int, out.stdout.split())
    assert count == 360
    assert grown_kb < 8_000


# the header ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("gen__s24.wav", (1.5, 48_000, 1, "wavex/pcm_24")),
        ("gen__8ch.flac", (1.5, 16_000, 8, "flac/pcm_24")),
        ("gen__mp3_named.wav", (1.5, 48_000, 2, "mp3/mpeg_layer_iii")),
        ("gen__aac.m4a", (1.5, 32_000, 1, "mov/aac")),
        ("gen__trunc_s24.wav", (43_186 / 48_000, 48_000, 1, "wavex/pcm_24")),
        ("mutagen__apev2-lyricsv2.mp3", (None, 44_100, 2, "mp3/mpeg_layer_iii")),
        ("flac__10_-_file_starting_at_frame_header.flac", (None, 44_100, 1, "flac/flac")),
    ],
)
def test_probe(shared: Path, file: str, expected: tuple[Any, ...]) -> None:
    info = probe_audio(shared / "data/robust/files" / file)
    assert (info.duration_s, info.rate_hz, info.channels, info.format) == expected


def test_probe_other_sources() -> None:
    assert probe_audio(encode(noise())).duration_s == 2.0
    info = probe_audio((noise(), RATE_HZ))
    assert (info.duration_s, info.channels, info.format) == (2.0, 2, "array/float32")
    with pytest.raises(AudioError, match="rate_hz"):
        probe_audio(noise())
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        probe_audio("gone.wav")


def test_a_frame_that_its_file_cannot_hold():
    """Monkey's Audio decodes a frame of as many samples as the header says, of whatever bytes."""
    pytest.importorskip("av")
    head = struct.pack("<4sHHHHIIIII", b"MAC ", 3960, 2000, 22, 2, RATE_HZ, 44, 0, 1, 129_202_880)
    rest = struct.pack("<II", 0, 256) + bytes(64)
    assert "FFmpeg: claims 2930 s in 104 bytes" in refusal(head + rest)
