"""How long the clips of AudioCaps, Clotho and WavCaps are, cut at 30 s: what SLAP is timed on.

No random draw: n clips are the n quantiles of the mixture, so that a few dozen stand for all.

- AudioCaps: 10 s; the few that a video's end cut short are left out.
- Clotho: between 15 and 30 s evenly (its table: quartiles 18.8, 22.5 and 26.1 s).
- WavCaps, by origin, with the counts and mean lengths of its paper (2303.17395, table 1). AudioSet:
  10 s. FreeSound, BBC, SoundBible: log-normal, none under 1 s. SoundBible's is fitted to its table.
  FreeSound's median makes those of 0.3 to 30 s 7.6 s long in the mean, as the 51,197 clips of
  FSD50K are, Freesound's too and of that range (2010.00475). BBC's is a guess; most are cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist

LEAST_S, MOST_S = 1.0, 30.0
_GRID = 1000  # quantiles of each origin


@dataclass(frozen=True)
class Origin:
    """clips: how many. seconds: the length below which a share of them lies."""

    clips: int
    seconds: Callable[[float], float]


def log_normal(median: float, mean: float) -> Callable[[float], float]:
    """By its median and mean in seconds."""
    spread = math.sqrt(2 * math.log(mean / median))
    return lambda share: median * math.exp(spread * NormalDist().inv_cdf(share))


ORIGINS = {
    "audiocaps": Origin(49_838, lambda share: 10.0),
    "clotho": Origin(3_839, lambda share: 15.0 + 15.0 * share),
    "wavcaps_audioset": Origin(108_317, lambda share: 10.0),
    "wavcaps_freesound": Origin(262_300, log_normal(8.4, 85.98)),
    "wavcaps_bbc": Origin(31_201, log_normal(80.0, 115.04)),
    "wavcaps_soundbible": Origin(1_232, log_normal(5.0, 13.12)),
}


def quantiles(clips: int) -> list[float]:
    """Seconds of so many clips, ascending."""
    points = sorted(
        (min(max(origin.seconds((i + 0.5) / _GRID), LEAST_S), MOST_S), origin.clips / _GRID)
        for origin in ORIGINS.values()
        for i in range(_GRID)
    )
    ends = list(accumulate(weight for _, weight in points))
    found, at = [], 0
    for i in range(clips):
        while ends[at] < (i + 0.5) / clips * ends[-1]:
            at += 1
        found.append(points[at][0])
    return found
