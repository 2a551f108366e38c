"""What is heard, while it is heard.

    python examples/live_tags.py "dog bark,rain,speech,silence"                the microphone
    arecord -f S16_LE -r 16000 -t raw | python examples/live_tags.py "dog bark,rain,speech,silence"

The microphone needs `pip install sounddevice`; without it, or where something is piped in, sound
comes from stdin: 16-bit samples, mono, at the rate of --rate (16000).
"""

from __future__ import annotations

import argparse
import queue
import sys
from collections.abc import Iterator

import numpy as np

import echoic
from echoic.streaming import low_delay
from echoic.timeline import Steps


def microphone(rate_hz: int) -> Iterator[np.ndarray]:
    """Blocks (T, 1) as the sound card hands them out."""
    import sounddevice

    blocks: queue.Queue[np.ndarray] = queue.Queue()

    def keep(block: np.ndarray, *_: object) -> None:
        blocks.put(block.copy())

    with sounddevice.InputStream(samplerate=rate_hz, channels=1, callback=keep):
        while True:
            yield blocks.get()


def standard_input() -> Iterator[np.ndarray]:
    """Blocks (T,) of 16-bit samples, as they come."""
    rest = b""
    while raw := sys.stdin.buffer.read1(4096):
        raw = rest + raw
        whole = len(raw) - len(raw) % 2
        yield np.frombuffer(raw[:whole], "<i2").astype(np.int16)
        rest = raw[whole:]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("labels", help="what to tell apart, with commas between")
    options.add_argument("--model", default="runs/demo/model.safetensors")
    options.add_argument("--rate", type=int, default=16_000, help="samples per second")
    options.add_argument("--window", type=float, default=1.0, help="seconds that a tag is of")
    asked = options.parse_args()

    labels = [label.strip() for label in asked.labels.split(",")]
    model = echoic.load(asked.model)
    steps = low_delay(model.network.audio, Steps(step_s=asked.window / 5, window_s=asked.window))
    blocks = microphone(asked.rate) if sys.stdin.isatty() else standard_input()
    for time_s, scores in model.stream(blocks, labels, rate_hz=asked.rate, steps=steps):
        best = int(scores.argmax())
        bar = "#" * round(20 * float(scores[best]))
        print(f"{time_s:8.1f} s  {bar:<20}  {labels[best]}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (echoic.EchoicError, ImportError) as error:
        sys.exit(f"error: {error}")
