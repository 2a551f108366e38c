"""What our audio path costs above the decoder and resampler that it uses.

    python -m benchmarks.audio_in            # under a minute
    python -m benchmarks.audio_in --quick    # seconds

One thread, CPU time, interleaved in one run. `load`: load_audio of 30 s stereo files at 44.1 kHz to
16 kHz mono, over bare soundfile.read, a sum of the two columns and soxr. `loader`: an epoch of
training batches from FLAC shards of 5 s clips, over bare decoding and resampling of the same bytes.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from benchmarks.output import finish, show
from echoic.audio.io import load_audio
from echoic.data.clips import Clip
from echoic.data.loader import Loader
from echoic.data.shards import ShardSource, write_shards

RATE_HZ = 16_000
CLIP_S = 5.0  # of the clips in shards
FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


def sound(seconds: float, rate_hz: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Noise under a slow swell, (T, channels) float32: compresses about as music does."""
    frames = int(seconds * rate_hz)
    swell = 0.2 + 0.2 * np.sin(np.arange(frames) / rate_hz)
    noise = np.cumsum(rng.standard_normal((frames, channels)), axis=0)
    noise -= soxr.resample(soxr.resample(noise, rate_hz, 200), 200, rate_hz)[:frames]
    return (swell[:, None] * noise / np.abs(noise).max()).astype(np.float32)


def bare(file: str | io.BytesIO) -> np.ndarray:
    """Decode, mix, resample, and nothing else."""
    samples, rate_hz = soundfile.read(file, dtype="float32", always_2d=True)
    mono = samples[:, 0] if samples.shape[1] == 1 else (samples[:, 0] + samples[:, 1]) * 0.5
    return mono if rate_hz == RATE_HZ else soxr.resample(mono, rate_hz, RATE_HZ, quality="HQ")


def compare(ours: Callable[[], object], theirs: Callable[[], object], runs: int) -> list[float]:
    """Least CPU seconds of each, taken in turns: what else runs on the machine can only add."""
    times = np.array([[_cpu_s(step) for step in (ours, theirs)] for _ in range(runs + 1)][1:])
    return [float(s) for s in times.min(axis=0)]


def _cpu_s(step: Callable[[], object]) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started


def measure_load(folder: Path, runs: int) -> dict[str, list[float]]:
    """Seconds of ours and of the bare way, per format."""
    samples = sound(30, 44_100, 2, np.random.default_rng(0))
    times = {}
    for suffix, subtype in FORMATS.items():
        file = str(folder / f"clip.{suffix}")
        soundfile.write(file, samples, 44_100, subtype=subtype)
        times[suffix] = compare(
            partial(load_audio, file, rate_hz=RATE_HZ), partial(bare, file), runs
        )
    return times


def measure_loader(folder: Path, rate_hz: int, clips: int, runs: int) -> list[float]:
    """Seconds of an epoch by the loader and by the bare way, of shards at `rate_hz`."""
    source, loader = noise_shards(folder, rate_hz, clips)
    raws = [source._bytes(i)[1] for i in range(clips)]
    return compare(partial(epoch, loader), lambda: [bare(io.BytesIO(raw)) for raw in raws], runs)


def noise_shards(folder: Path, rate_hz: int, clips: int) -> tuple[ShardSource, Loader]:
    """Shards of clips of CLIP_S, and the loader of them."""
    rng = np.random.default_rng(1)
    pairs = (
        (Clip(f"{i}", ("noise",), (), CLIP_S), sound(CLIP_S, rate_hz, 1, rng)[:, 0])
        for i in range(clips)
    )
    write_shards(pairs, folder, rate_hz=rate_hz)
    source = ShardSource(folder)
    loader = Loader(
        source, rate_hz=RATE_HZ, tokenize=lambda texts: [[1, 2] for _ in texts],
        cost=lambda seconds: round(25 * seconds), budget=2000, seed=0, prefetch=0,
    )  # fmt: skip
    return source, loader


def epoch(loader: Loader) -> None:
    """All batches of the first one."""
    batches = loader.batches()
    for _ in range(loader.steps_in(1)):
        next(batches)
    batches.close()  # type: ignore[attr-defined]


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    runs, clips = (3, 40) if quick else (9, 200)
    with tempfile.TemporaryDirectory() as scratch:
        times = {f"load_{name}": t for name, t in measure_load(Path(scratch), runs).items()}
        heard_s = dict.fromkeys(times, 30.0)
        for rate_hz in (RATE_HZ, 44_100):
            name = f"loader_{rate_hz}"
            times[name] = measure_loader(Path(scratch) / name, rate_hz, clips, max(3, runs // 3))
            heard_s[name] = CLIP_S * clips
    rows = [
        (
            name,
            f"{heard_s[name] / 3600 / ours:.2f}",
            f"{heard_s[name] / 3600 / theirs:.2f}",
            ours / theirs,
        )
        for name, (ours, theirs) in times.items()
    ]
    show(
        "Audio in, one thread: hours of audio per CPU second",
        ("what", "ours", "bare", "time, ours over bare"),
        rows,
    )
    finish({f"{name}_ratio": ours / theirs for name, (ours, theirs) in times.items()})


if __name__ == "__main__":
    main()
