"""Many scenes at once: drawn in a row, rendered by several processes, handed out as a source of
clips.

T samples.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice

import numpy as np

from echoic.data.clips import Clip
from echoic.data.synth.events import Scene
from echoic.data.synth.mix import render
from echoic.data.synth.scenes import draw_scene

DEFAULT_MAX_S = 10.0
_CHUNK_SCENES = 8  # per message to a process
_AHEAD = 3  # chunks in the making or waiting, per process


def draw_scenes(
    count: int,
    *,
    split: str,
    seed: int = 0,
    max_s: float = DEFAULT_MAX_S,
    relation: str | None = None,
) -> list[Scene]:
    """The first `count` scenes of a split; see `draw_scene`. Raises ConfigError."""
    return [draw_scene(seed, i, split=split, max_s=max_s, relation=relation) for i in range(count)]


def clip_of(scene: Scene) -> Clip:
    return Clip(scene.key, scene.captions, scene.tags, scene.duration_s)


class SceneSource:
    """Scenes as a source: rendered as they are read."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self.scenes = tuple(scenes)
        self.clips: Sequence[Clip] = tuple(map(clip_of, self.scenes))

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        return render(self.scenes[i], rate_hz)


def render_all(
    scenes: Iterable[Scene], rate_hz: int, *, processes: int = 1
) -> Iterator[np.ndarray]:
    """(T,) of each scene in order, the same bits whatever `processes` is; few are in memory at
    once.

    With more than one process, a script that calls this must guard its main (`if __name__ ==
    "__main__":`).
    """
    if processes <= 1:
        yield from (render(scene, rate_hz) for scene in scenes)
        return
    drawn = iter(scenes)
    chunks = iter(lambda: list(islice(drawn, _CHUNK_SCENES)), [])
    waiting: deque[Future[list[np.ndarray]]] = deque()
    # spawn: a forked child would inherit the locks of torch's threads without the threads
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_leave_ctrl_c_to_parent)
    try:
        while True:
            for chunk in islice(chunks, processes * _AHEAD - len(waiting)):
                waiting.append(pool.submit(_render_chunk, chunk, rate_hz))
            if not waiting:
                return
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _render_chunk(scenes: Sequence[Scene], rate_hz: int) -> list[np.ndarray]:
    return [render(scene, rate_hz) for scene in scenes]


def _leave_ctrl_c_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
