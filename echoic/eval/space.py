"""Is the space of sounds and captions in order: spread, dimensions, modality gap, hubs.

The figures of `echoic.objectives.monitors`, here of a test set with any number of captions per
clip, and two that they do without: the mean cosine of the pairs that do not match, beside that of
those that do; and hubs (Radovanović et al. 2010), vectors that come first for very many queries.

N clips, M captions, Q queries, C candidates, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from echoic.eval.ranks import Floats, Ints, unit_rows

# Beyond these a space is alarming: between what collapsed or untrained models show and what trained
# ones do, weak ones included. They judge no model against another.
LEAST_SPREAD = 0.05
LEAST_DIMENSIONS = 2.0
MOST_GAP = 1.2
LEAST_MARGIN = 0.02
MOST_FIRST = 0.2

_ENOUGH = 10  # clips and captions: fewer look alarming by chance
_FAIR_SHARES = 5  # of few candidates one comes first often without being a hub
_TINY = 1e-12  # below it a variance is rounding, as in the monitors
_TIE_COSINE = 1e-6  # rounding of a float32 cosine
_BLOCK_VALUES = 4_000_000  # cosines held at once: 16 MB


@dataclass(frozen=True)
class Space:
    """N clips and M captions in D dimensions.

    spread: 1 less the length of the mean vector. 0: all vectors are one.
    dims: how many directions share the variance, at most min(vectors - 1, D). 1: all lie on a line;
    0: there is no variance.
    gap: distance of the means of sound and text, the modality gap (2203.02053), at most 2.
    alignment: mean cosine of a caption with its clip. others: with all other clips; None where
    there is one clip only.
    audio_first: of the M captions, the share whose first hit is the clip that comes first most
    often; text_first: the same of the N clips, over captions.
    """

    clips: int
    captions: int
    width: int
    audio_spread: float
    text_spread: float
    audio_dims: float
    text_dims: float
    gap: float
    alignment: float
    others: float | None
    audio_first: float
    text_first: float

    def metrics(self) -> dict[str, float]:
        """The figures by name, without the sizes, and without `others` where it is not known."""
        sizes = ("clips", "captions", "width")
        return {k: v for k, v in vars(self).items() if k not in sizes and v is not None}

    @property
    def margin(self) -> float | None:
        """By how much matching pairs are nearer than others."""
        return None if self.others is None else self.alignment - self.others

    def most_dims(self) -> tuple[int, int]:
        """What the dimensions of sound and of text can be at most."""
        return min(self.clips - 1, self.width), min(self.captions - 1, self.width)

    def alarms(self) -> dict[str, str]:
        """What is alarming, by the name of the figure (or "margin"): a sentence for each. Nothing
        is where there are fewer than ten clips or captions.
        """
        if min(self.clips, self.captions) < _ENOUGH:
            return {}
        found = self._alarms_of("audio", "sounds", self.clips)
        found |= self._alarms_of("text", "captions", self.captions)
        if self.gap > MOST_GAP:
            found["gap"] = f"Sounds and captions lie far apart: modality gap {self.gap:.2f}."
        if self.margin is not None and self.margin < LEAST_MARGIN:
            found["margin"] = (
                "Captions are hardly nearer to their own clip than to others: cosine "
                f"{self.alignment:.2f} against {self.others:.2f}."
            )
        return found

    def _alarms_of(self, side: str, these: str, count: int) -> dict[str, str]:
        found: dict[str, str] = {}
        spread, dims, first = (getattr(self, f"{side}_{k}") for k in ("spread", "dims", "first"))
        if spread < LEAST_SPREAD:
            found[f"{side}_spread"] = f"All {these} lie nearly in one place: spread {spread:.3f}."
        if dims < LEAST_DIMENSIONS:
            found[f"{side}_dims"] = f"The {these} lie nearly on a line: {dims:.1f} dimensions."
        if first > max(MOST_FIRST, _FAIR_SHARES / count):
            found[f"{side}_first"] = (
                f"One of the {these} comes first for {100 * first:.0f} % of all queries."
            )
        return found


def measure_space(audio: ArrayLike, text: ArrayLike, owner: Ints) -> Space:
    """audio: (N, D); text: (M, D); owner: (M,) the clip of each caption, as `Retrieval` has it.
    Vectors need not have length 1.

    Raises EchoicError where a vector is not finite, ValueError where shapes do not fit.
    """
    a, t = unit_rows(audio, "audio"), unit_rows(text, "text")
    centres = a.mean(axis=0), t.mean(axis=0)
    matching = float(np.einsum("md,md->", a[owner], t))
    every = len(a) * len(t) * float(centres[0] @ centres[1])
    strangers = len(t) * (len(a) - 1)
    return Space(
        clips=len(a),
        captions=len(t),
        width=a.shape[1],
        audio_spread=_spread(centres[0]),
        text_spread=_spread(centres[1]),
        audio_dims=_dimensions(a - centres[0]),
        text_dims=_dimensions(t - centres[1]),
        gap=float(np.linalg.norm(centres[0] - centres[1])),
        alignment=matching / len(t),
        others=(every - matching) / strangers if strangers else None,
        audio_first=_most_often_first(t, a),
        text_first=_most_often_first(a, t),
    )


def _spread(centre: Floats) -> float:
    return 1 - float(np.linalg.norm(centre))


def _dimensions(rows: Floats) -> float:
    """Participation ratio of the eigenvalues of the covariance of centred rows (Q, D)."""
    count, width = rows.shape
    gram = (rows @ rows.T if count < width else rows.T @ rows) / count
    variance = np.square(rows).sum() / count
    return float(variance**2 / (np.square(gram).sum() + _TINY))


def _most_often_first(queries: Floats, candidates: Floats) -> float:
    """Share of the queries (Q, D) that have the same one of the candidates (C, D) nearest; of
    candidates that tie, the first."""
    # float32: a third of the time, and whoever is first by less than that is first by chance
    asking, asked = queries.astype(np.float32), candidates.astype(np.float32)
    first = []
    step = max(1, _BLOCK_VALUES // len(asked))
    for start in range(0, len(asking), step):
        scores = asking[start : start + step] @ asked.T
        best = scores.max(axis=1, keepdims=True)
        first.append((scores >= best - _TIE_COSINE).argmax(axis=1))
    return int(np.bincount(np.concatenate(first)).max()) / len(asking)
