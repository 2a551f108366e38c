"""FENSE (2110.04684, section 3): how alike a caption is to its references by vectors of sentences,
cut to a tenth where it is no fluent sentence.

Two models make it, both handed in: a sentence encoder (of the paper: paraphrase-TinyBERT-L6-v2),
and a detector of errors, trained on captions that were broken on purpose. `echoic.judges` loads the
published ones.

The paper's own program reads captions as they are written; aac-metrics hands it tokenised ones,
which moves the figure a little: `score_captions(judges={"fense": AsWritten(fense)})` is the former,
without `AsWritten` the latter.

N clips, n texts, E width of a sentence vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike

from echoic.eval.captioning import Scores
from echoic.eval.ranks import unit_rows

PENALTY = 0.9  # what an error takes of a caption's score
THRESHOLD = 0.9  # the least probability of an error that is one


class Fense:
    """A judge for `score_captions`.

    sentences: n texts -> (n, E). errors: n texts -> (n,) the probability that it is not fluent.
    """

    def __init__(
        self,
        sentences: Callable[[Sequence[str]], ArrayLike],
        errors: Callable[[Sequence[str]], ArrayLike],
    ) -> None:
        self._sentences, self._errors = sentences, errors

    def __call__(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        """(N,) mean cosine of a caption with its references, times 0.1 where it has an error."""
        said = unit_rows(self._sentences(list(captions)), "sentence")
        wanted = unit_rows(self._sentences(list(chain(*references))), "sentence")
        counts = np.array([len(texts) for texts in references])
        owner = np.repeat(np.arange(len(counts)), counts)
        alike = np.bincount(owner, weights=(said[owner] * wanted).sum(1)) / counts
        # differs from the paper's program: with up to 32 captions that compares the probabilities
        # of all kinds of error; here it is always that of any error
        broken = np.asarray(self._errors(list(captions)), dtype=np.float64) > THRESHOLD
        return Scores(alike * (1 - PENALTY * broken))
