"""Retrieval both ways, with any number of captions per clip.

Protocols: LAION-CLAP (2211.06687, evaluation code of the 5-caption sets) and M2D-CLAP (2503.22104;
the WavCaps metrics). Text to audio: every caption is a query against all clips. Audio to text:
every clip is a query against all captions, and its best-ranked own caption counts for R@k and the
ranks; mAP@10 is over all its own captions.

Shapes: N clips, M captions, D width. Ranks are counted from 0 inside, reported from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.ranks import (
    MAP_DEPTH,
    RECALL_AT,
    TIE_COSINE,
    Floats,
    Ints,
    per_query,
    rank_averages,
    unit_rows,
)

Map10 = Literal["sorted", "laion_legacy"]
Direction = Literal["text_to_audio", "audio_to_text"]
DIRECTIONS: tuple[Direction, Direction] = ("text_to_audio", "audio_to_text")
_BLOCK_VALUES = 4_000_000  # similarities held at once: 32 MB


@dataclass(frozen=True)
class Retrieval:
    """The ranks of one search both ways, from which every figure follows.

    owner: (M,) clip of each caption. text_to_audio: (M,) rank of the own clip among the N clips,
    for each caption. audio_to_text: (M,) rank of each caption among the M captions, when its own
    clip is the query.
    """

    n_clips: int
    owner: Ints
    text_to_audio: Ints
    audio_to_text: Ints
    map10: Map10 = "sorted"

    @cached_property
    def _by_clip(self) -> tuple[Ints, Ints]:
        """Captions ordered by clip, and where each clip begins."""
        order = np.argsort(self.owner, kind="stable")
        starts = np.flatnonzero(np.diff(self.owner[order], prepend=-1))
        return order, starts

    def query_clips(self, direction: Direction) -> Ints:
        """(Q,) the clip of each query; of audio to text, only clips with a caption are queries."""
        if direction == "text_to_audio":
            return self.owner
        order, starts = self._by_clip
        return self.owner[order][starts]

    def query_ranks(self, direction: Direction) -> Ints:
        """(Q,) rank of the right answer; for audio to text that of the best own caption."""
        if direction == "text_to_audio":
            return self.text_to_audio
        order, starts = self._by_clip
        return np.minimum.reduceat(self.audio_to_text[order], starts)

    def per_query(self, direction: Direction) -> dict[str, Floats]:
        """What each query (Q,) adds to R@1/5/10 and mAP@10; their means are the metrics."""
        values = per_query(self.query_ranks(direction))
        if direction == "audio_to_text":
            values[f"mAP@{MAP_DEPTH}"] = self._average_precision()
        return values

    def _average_precision(self) -> Floats:
        order, starts = self._by_clip
        ranks, clip = self.audio_to_text[order], self.owner[order]
        if self.map10 == "sorted":
            ranks = ranks[np.lexsort((ranks, clip))]
        # differs from the paper: LAION's code says that it sorts the ranks but leaves them in
        # caption order, so that its sum can exceed 1; its published figures stand on that, hence
        # "laion_legacy".
        found = ranks < MAP_DEPTH
        before: Ints = np.cumsum(found) - found
        sizes = np.diff(starts, append=len(ranks))
        position: Ints = before - np.repeat(before[starts], sizes) + 1
        precision = np.where(found, position / (ranks + 1.0), 0.0)
        return np.add.reduceat(precision, starts) / np.minimum(sizes, MAP_DEPTH)

    def metrics(self) -> dict[str, float]:
        """`<direction>_<figure>`: R@1, R@5, R@10, mAP@10 (shares), median_rank, mean_rank."""
        found: dict[str, float] = {}
        for way in DIRECTIONS:
            averages = rank_averages(self.query_ranks(way))
            means = {name: float(v.mean()) for name, v in self.per_query(way).items()}
            found |= {f"{way}_{name}": value for name, value in (means | averages).items()}
        return found

    def chance(self) -> dict[str, float]:
        """R@1/5/10 both ways of a model that guesses: draws without return."""
        captions = len(self.owner)
        own = np.bincount(self.owner, minlength=self.n_clips)[self.query_clips("audio_to_text")]
        found: dict[str, float] = {}
        for k in RECALL_AT:
            drawn = np.arange(min(k, captions))
            missed = np.clip(captions - own[:, None] - drawn, 0, None) / (captions - drawn)
            found[f"text_to_audio_R@{k}"] = min(1.0, k / self.n_clips)
            found[f"audio_to_text_R@{k}"] = float(1 - missed.prod(axis=1).mean())
        return found

    def intervals(self, bootstrap: Bootstrap) -> dict[str, Interval]:
        """The figures of `metrics`, each with its interval over clips."""
        found: dict[str, Interval] = {}
        for way in DIRECTIONS:
            ranks, clip = self.query_ranks(way), self.query_clips(way)
            values = self.per_query(way) | {"mean_rank": ranks + 1.0}
            bounds = bootstrap.means(np.stack(list(values.values()), axis=1), clip)
            found |= {f"{way}_{name}": b for name, b in zip(values, bounds, strict=True)}
            found[f"{way}_median_rank"] = bootstrap.median_rank(ranks, clip)
        return found


def retrieve(
    audio: ArrayLike,
    text: ArrayLike,
    owner: ArrayLike,
    *,
    map10: Map10 = "sorted",
    block_values: int = _BLOCK_VALUES,
) -> Retrieval:
    """Rank by cosine both ways, in blocks of at most about `block_values` similarities.

    audio: (N, D); text: (M, D); owner: (M,) int, the clip that each caption belongs to. Vectors
    need not have length 1. A clip without a caption is only there to be found by mistake. A model
    with two vectors per side (LAION's mlp loss: the mean of two logits) hands in [scale_a * a,
    scale_t * a_mlp] and [t_mlp, t], concatenated along D. Ties are pessimistic: an equal score that
    is not an own caption is placed before. Raises EchoicError where a vector is not finite,
    ValueError where shapes or owners do not fit.
    """
    if map10 not in ("sorted", "laion_legacy"):
        raise ValueError(f'map10 is "sorted" or "laion_legacy", got {map10!r}')
    a, t = unit_rows(audio, "audio"), unit_rows(text, "text")
    own_clip = _checked_owner(owner, a, t)
    cosine = np.einsum("md,md->m", a[own_clip], t)
    as_good = cosine - TIE_COSINE
    clips_ahead = np.full(len(t), -1)  # the own clip is as good as itself
    captions_ahead = _place_among_own(own_clip, cosine)
    step = max(1, block_values // len(t))
    for start in range(0, len(a), step):
        scores = a[start : start + step] @ t.T
        clips_ahead += np.count_nonzero(scores >= as_good, axis=0)
        for captions in _one_per_clip(own_clip, start, start + step):
            every = len(captions) == len(scores)  # of each clip of the block one: no copy is needed
            rows = scores if every else scores[own_clip[captions] - start]
            captions_ahead[captions] += np.count_nonzero(rows >= as_good[captions, None], axis=1)
    return Retrieval(len(a), own_clip, clips_ahead, captions_ahead, map10)


def retrieval_metrics(
    audio: ArrayLike, text: ArrayLike, owner: ArrayLike, *, map10: Map10 = "sorted"
) -> dict[str, float]:
    """The figures of `retrieve` alone: see `Retrieval.metrics` for the names."""
    return retrieve(audio, text, owner, map10=map10).metrics()


def validation_loss(
    audio: ArrayLike, text: ArrayLike, owner: ArrayLike, *, logit_scale: float
) -> float:
    """Symmetric cross-entropy of cosines times `logit_scale`, one caption per clip at a time, mean
    over the captions.

    LAION's `cumulative_loss`: the k-th captions of all clips that have one make one square matrix.
    Arguments as in `retrieve`; the loss of a model with two vectors per side is the mean of the two
    losses.
    """
    a, t = unit_rows(audio, "audio"), unit_rows(text, "text")
    own_clip = _checked_owner(owner, a, t)
    losses = []
    for captions in _one_per_clip(own_clip, 0, len(a)):
        ours, theirs = a[own_clip[captions]], t[captions]
        ways = (
            _cross_entropy(ours, theirs, logit_scale),
            _cross_entropy(theirs, ours, logit_scale),
        )
        losses.append(sum(ways) / 2)
    return float(np.mean(losses))


def _cross_entropy(queries: Floats, answers: Floats, logit_scale: float) -> float:
    step = max(1, _BLOCK_VALUES // len(answers))
    total = 0.0
    for start in range(0, len(queries), step):
        logits = logit_scale * (queries[start : start + step] @ answers.T)
        right = np.take_along_axis(logits, start + np.arange(len(logits))[:, None], axis=1)
        top = logits.max(axis=1, keepdims=True)
        spread = np.log(np.exp(logits - top).sum(axis=1, keepdims=True)) + top
        total += float((spread - right).sum())
    return total / len(queries)


def _checked_owner(owner: ArrayLike, audio: Floats, text: Floats) -> Ints:
    clip = np.asarray(owner)
    if audio.shape[1] != text.shape[1]:
        raise ValueError(f"audio vectors have width {audio.shape[1]}, text vectors {text.shape[1]}")
    if clip.shape != (len(text),) or not np.issubdtype(clip.dtype, np.integer):
        raise ValueError(f"owner: expected ({len(text)},) integers, got {clip.dtype} {clip.shape}")
    if clip.min() < 0 or clip.max() >= len(audio):
        raise ValueError(
            f"owner: clips are 0 to {len(audio) - 1}, got {clip.min()} to {clip.max()}"
        )
    return clip.astype(np.int64)


def _place_among_own(owner: Ints, cosine: Floats) -> Ints:
    """(M,) place of each caption among those of its clip, less how many of them (itself too) are as
    good.

    Added to the number of all captions as good, this leaves: strangers as good or better, own ones
    placed before.
    """
    order = np.argsort(owner, kind="stable")
    starts = np.flatnonzero(np.diff(owner[order], prepend=-1))
    surplus = np.empty(len(owner), dtype=np.int64)
    for captions in np.split(order, starts[1:]):
        best_first = captions[np.argsort(-cosine[captions], kind="stable")]
        descending = -cosine[best_first]
        as_good = np.searchsorted(descending, descending + TIE_COSINE, side="right")
        surplus[best_first] = np.arange(len(captions)) - as_good
    return surplus


def _one_per_clip(owner: Ints, start: int, stop: int) -> Iterator[Ints]:
    """The captions of clips start:stop in groups of at most one per clip: all the first, all the
    second ...
    """
    inside = np.flatnonzero((owner >= start) & (owner < stop))
    inside = inside[np.argsort(owner[inside], kind="stable")]
    starts = np.flatnonzero(np.diff(owner[inside], prepend=-1))
    sizes = np.diff(starts, append=len(inside))
    turn = np.arange(len(inside)) - np.repeat(starts, sizes)
    by_turn = np.argsort(turn, kind="stable")
    yield from np.split(inside[by_turn], np.cumsum(np.bincount(turn))[:-1])
