"""Live sound: blocks of samples as they come in, vectors or scores over time as they come out.

The steps are those of a whole recording (`echoic.timeline`), bit for bit, in the same order, each
as soon as what it needs was heard. With a context of `context_s` and windows of `window_s` seconds
the first come after `context_s`, and from then on the middle of a step is between `window_s` and
`context_s - window_s` behind live (`Steps.delay_s`). The work is `context_s / (context_s - 2
window_s)` times that of hearing each second once.

Memory holds one context, however long the stream. T samples, C labels or channels, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, from_numpy

from echoic.audio.io import Array, live_audio
from echoic.listening import AudioTower
from echoic.timeline import HearPieces, Scale, Steps, Stretch, stream_scores, stream_vectors

CONTEXT_WINDOWS = 5  # of a live stream where delay matters more than what a model can hear at once


def low_delay(tower: AudioTower, steps: Steps) -> Steps:
    """The same steps of a short context, where none was chosen: `CONTEXT_WINDOWS` windows, or what
    the model hears at once where that is less. Raises EchoicError on what cannot be."""
    if steps.context_s is not None:
        return steps
    short_s = min(tower.max_s, CONTEXT_WINDOWS * steps.window_s)
    return Steps(steps.step_s, steps.window_s, short_s)


def live_vectors(
    tower: AudioTower,
    blocks: Iterable[Array],
    hear: HearPieces,
    *,
    rate_hz: int | None,
    steps: Steps,
    name: str,
) -> Iterator[Stretch]:
    """Blocks (T,) or (T, C) at `rate_hz` (None: the tower's), of any lengths -> unit vectors of the
    steps, once each. An empty stream has none. Raises EchoicError on steps that do not fit the
    tower, and AudioError, as the block is drawn, on one that is no sound."""
    steps.context_of(tower)  # told at once, and not when the first sound is there
    from_hz = tower.rate_hz if rate_hz is None else rate_hz
    mono = live_audio(blocks, from_hz=from_hz, rate_hz=tower.rate_hz, name=name)
    return stream_vectors(tower, mono, hear, steps)


def each_vector(found: Iterable[Stretch], step_s: float) -> Iterator[tuple[float, Tensor]]:
    """(where the step begins in s, its unit vector (D,)) of each step."""
    for stretch in found:
        for place, vector in enumerate(stretch.vectors, start=stretch.first):
            yield place * step_s, vector


def each_score(
    found: Iterable[Stretch], step_s: float, classes: Tensor, scale: float, by: Scale
) -> Iterator[tuple[float, Tensor]]:
    """(where the step begins in s, its scores (C,) float64) of each step, as `Timeline` has them.
    classes: (C, D) unit vectors; scale: of cosines, for probabilities."""
    for each in stream_scores(found, classes, scale):
        rows = each.cosines if by == "cosine" else each.probabilities
        for place, row in enumerate(rows, start=each.first):
            yield place * step_s, from_numpy(row)
