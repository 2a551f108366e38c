"""Captions held against what people wrote: BLEU-1 to 4, ROUGE-L and CIDEr-D, of each clip and of
the whole set.

BLEU: Papineni et al. 2002; ROUGE-L: Lin 2004; CIDEr-D: Vedantam et al., 1411.5726, section 5. All
as MS COCO's evaluation code (1504.00325) computes them, from which audio captioning's published
figures come; what that code does otherwise than the papers is marked. Figures that need a program
or models of others (METEOR, SPICE and with it SPIDEr, FENSE) are parts that `score_captions` is
handed: caption_judges.py, fense.py; `echoic.judges` says which can be had.

Shapes: N clips, each with one caption and one or more references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.caption_words import tokenize as penn
from echoic.eval.ranks import Floats, Ints
from echoic.types import DataError

LONGEST = 4  # words in an n-gram
ROUGE_BETA = 1.2  # how much recall counts against precision
CIDER_SIGMA = 6.0  # words by which a caption may be longer or shorter
CIDER_SCALE = 10.0

# differs from the paper: COCO's code lets BLEU divide by nothing with these, so that a caption
# without a match scores not 0 but nearly
_BLEU_TINY, _BLEU_SMALL = 1e-15, 1e-9
BLEU = tuple(f"bleu_{n + 1}" for n in range(LONGEST))
POINTS = ("cider_d", "spider")  # no shares: times 100 without a per cent sign, as papers print

Words = Sequence[str]
Ngrams = Counter[tuple[str, ...]]


class Scores(NamedTuple):
    """One figure. clips: (N,) of each clip. whole: of the set; None where that is their mean."""

    clips: Floats
    whole: float | None = None

    @property
    def value(self) -> float:
        return float(self.clips.mean()) if self.whole is None else self.whole


Judge = Callable[[Sequence[str], Sequence[Sequence[str]]], Scores]


@dataclass(frozen=True)
class AsWritten:
    """A judge that reads captions as they were written, not tokenised."""

    judge: Judge


@dataclass(frozen=True)
class Captioning:
    """What captions are worth: bleu_1 to bleu_4, rouge_l, cider_d, and what judges said. CIDEr-D
    lies between 0 and 10, SPIDEr, its mean with SPICE, between 0 and 5.5, all others between 0 and
    1. bleu_counts: (N, 10) what BLEU puts together, see `bleu_of_counts`."""

    scores: Mapping[str, Scores]
    bleu_counts: Ints

    def metrics(self) -> dict[str, float]:
        """Each figure of the whole set."""
        return {name: score.value for name, score in self.scores.items()}

    def means(self) -> dict[str, Floats]:
        """What each clip (N,) adds to the figures that are means over clips: not BLEU or METEOR,
        which put the counts of all clips together."""
        return {name: score.clips for name, score in self.scores.items() if score.whole is None}

    def intervals(self, bootstrap: Bootstrap) -> dict[str, Interval]:
        """Of all figures, over clips. The document frequencies of CIDEr-D stay those of the set.
        Of METEOR, whose counts its program keeps to itself: that of the mean over clips, moved to
        the figure of the set."""
        others = {name: score for name, score in self.scores.items() if name not in BLEU}
        values = np.stack([score.clips for score in others.values()], axis=1)
        bounds = bootstrap.means(values, np.arange(len(values)))
        bleu = bootstrap.of_sums(self.bleu_counts, bleu_of_counts)
        moved = [_moved(each, to.whole) for each, to in zip(bounds, others.values(), strict=True)]
        return dict(zip([*BLEU, *others], [*bleu, *moved], strict=True))

    def judged_by(
        self,
        name: str,
        judge: Judge | AsWritten,
        captions: Sequence[str],
        references: Sequence[Sequence[str]],
        *,
        tokenize: Callable[[str], Words] = penn,
    ) -> Captioning:
        """With one figure more, and where that is "spice" also with "spider". The arguments are
        those of `score_captions`; raises what the judge raises."""
        if isinstance(judge, AsWritten):
            found = judge.judge(captions, references)
        else:
            lines, *wanted = (
                [" ".join(tokenize(text)) for text in texts] for texts in (captions, *references)
            )
            found = judge(lines, wanted)
        scores = {**self.scores, name: found}
        if name == "spice":
            scores["spider"] = Scores((scores["cider_d"].clips + found.clips) / 2)
        return replace(self, scores=scores)


def _moved(bounds: Interval, whole: float | None) -> Interval:
    """To the figure of the set, where that is not the mean."""
    if whole is None:
        return bounds
    by = whole - bounds.value
    return replace(bounds, value=whole, low=max(0.0, bounds.low + by), high=bounds.high + by)


def score_captions(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenize: Callable[[str], Words] = penn,
    judges: Mapping[str, Judge | AsWritten] | None = None,
) -> Captioning:
    """Hold the caption of each of N clips against its references, of which clips may have different
    numbers.

    tokenize: `str.split` for texts that are tokenised already. judges: further figures by name,
    each handed the tokenised texts, or what was written where it is `AsWritten`; where one is
    "spice", "spider" is its mean with CIDEr-D.
    CIDEr-D weighs words by how rare they are in these references: it cannot be compared between
    sets, and is 0 for one clip alone. Raises DataError where a clip has no reference, ValueError
    where the numbers of clips differ or are 0.
    """
    if not captions or len(captions) != len(references):
        raise ValueError(f"{len(captions)} captions for {len(references)} clips")
    for clip, texts in enumerate(references):
        if isinstance(texts, str):
            raise ValueError(f"clip {clip}: its references are a list of texts, not one text")
        if not texts:
            raise DataError(f"clip {clip} has no reference to hold its caption against")
    said = [tokenize(caption) for caption in captions]
    wanted = [[tokenize(text) for text in texts] for texts in references]
    counts = _bleu_counts(said, wanted)
    scores = _bleu(counts) | {
        "rouge_l": Scores(np.array([_rouge_l(*pair) for pair in zip(said, wanted, strict=True)])),
        "cider_d": Scores(_cider_d(said, wanted)),
    }
    found = Captioning(scores, counts)
    for name, judge in (judges or {}).items():
        found = found.judged_by(name, judge, captions, references, tokenize=tokenize)
    return found


def _bleu_counts(said: Sequence[Words], wanted: Sequence[Sequence[Words]]) -> Ints:
    """(N, 10) of each clip: n-grams that match, and that there are, of 1 to 4 words; words of the
    caption, and of the reference closest in length."""
    matched = np.array([_matched(*pair) for pair in zip(said, wanted, strict=True)])
    length = np.array([len(words) for words in said])[:, None]
    closest = np.array([_closest(*pair) for pair in zip(said, wanted, strict=True)])[:, None]
    offered = np.clip(length - np.arange(LONGEST), 0, None)
    return np.concatenate([matched, offered, length, closest], axis=1)


def _bleu(counts: Ints) -> dict[str, Scores]:
    clips, whole = bleu_of_counts(counts), bleu_of_counts(counts.sum(0))
    return {name: Scores(clips[:, n], float(whole[n])) for n, name in enumerate(BLEU)}


def bleu_of_counts(counts: ArrayLike) -> Floats:
    """(..., 10) as `_bleu_counts` gives them, or sums of them -> (..., 4) BLEU-1 to 4."""
    matched, offered, length, closest = np.split(np.asarray(counts), [4, 8, 9], axis=-1)
    precision = (matched + _BLEU_TINY) / (offered + _BLEU_SMALL)
    mean = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, LONGEST + 1))
    ratio = (length + _BLEU_TINY) / (closest + _BLEU_SMALL)
    brevity: Floats = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return mean * brevity


def _matched(words: Words, references: Sequence[Words]) -> list[int]:
    """How many n-grams of each length are in a reference, each as often as one reference has it."""
    allowed: Ngrams = Counter()
    for reference in references:
        allowed |= _ngrams(reference)
    found = [0] * LONGEST
    for gram, count in (_ngrams(words) & allowed).items():
        found[len(gram) - 1] += count
    return found


def _closest(words: Words, references: Sequence[Words]) -> int:
    """The number of words of the reference closest in length, of two the shorter."""
    return min((abs(len(each) - len(words)), len(each)) for each in references)[1]


def _rouge_l(words: Words, references: Sequence[Words]) -> float:
    """The best precision and the best recall, be they of different references."""
    common = [_common(words, each) for each in references]
    precision = max(common) / max(len(words), 1)
    recall = max(n / max(len(each), 1) for n, each in zip(common, references, strict=True))
    if not max(common):
        return 0.0
    weight = ROUGE_BETA**2
    return (1 + weight) * precision * recall / (recall + weight * precision)


def _common(a: Words, b: Words) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0  # of the row above, one to the left
        for j, other in enumerate(b, start=1):
            above = row[j]
            row[j] = before + 1 if word == other else max(above, row[j - 1])
            before = above
    return row[-1]


class _Weighed(NamedTuple):
    """A text for CIDEr-D: TF-IDF of its n-grams, the norm of that vector for each n, and how many
    words it has."""

    grams: dict[tuple[str, ...], float]
    norms: Floats
    length: int


def _cider_d(said: Sequence[Words], wanted: Sequence[Sequence[Words]]) -> Floats:
    """(N,). The documents are the clips: an n-gram's frequency is in how many clips' references it
    stands."""
    references = [[_ngrams(words) for words in texts] for texts in wanted]
    frequency = Counter(gram for texts in references for gram in set().union(*texts))
    found = [
        np.mean([_likeness(caption, _weighed(text, frequency, len(said))) for text in texts])
        for caption, texts in zip(
            (_weighed(_ngrams(words), frequency, len(said)) for words in said),
            references,
            strict=True,
        )
    ]
    return CIDER_SCALE * np.array(found)


def _weighed(ngrams: Ngrams, frequency: Mapping[tuple[str, ...], int], clips: int) -> _Weighed:
    # differs from the paper: counts are not divided by the length of the text
    grams = {g: n * math.log(clips / max(1, frequency.get(g, 0))) for g, n in ngrams.items()}
    squares = np.zeros(LONGEST)
    for gram, weight in grams.items():
        squares[len(gram) - 1] += weight**2
    length = sum(n for gram, n in ngrams.items() if len(gram) == 1)
    return _Weighed(grams, np.sqrt(squares), length)


def _likeness(caption: _Weighed, reference: _Weighed) -> float:
    """Mean over n of the cosines, what the caption says too often cut off, times the penalty on
    length."""
    dots = np.zeros(LONGEST)
    for gram in caption.grams.keys() & reference.grams.keys():
        right = reference.grams[gram]
        dots[len(gram) - 1] += min(caption.grams[gram], right) * right
    norms = caption.norms * reference.norms
    cosines = np.divide(dots, norms, out=np.zeros(LONGEST), where=norms > 0)
    surplus = caption.length - reference.length
    return float(cosines.mean() * math.exp(-(surplus**2) / (2 * CIDER_SIGMA**2)))


def _ngrams(words: Words) -> Ngrams:
    """How often each run of 1 to 4 words stands in a text."""
    return Counter(
        tuple(words[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(words) - n + 1)
    )
