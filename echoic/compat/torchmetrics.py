"""CLAP score, in the manner of torchmetrics: how well sounds fit their texts, by a model's cosine.

    from echoic.compat.torchmetrics import ClapScore

    score = ClapScore("laion/clap-htsat-unfused")
    score.update(["dog.wav", "rain.wav"], ["a dog barks", "rain falls"])
    score.compute()                                  # tensor(41.3), up to 100

Published uses differ, so `clip` says what becomes of negative cosines: "pair" counts each as 0
(the formula of CLIPScore, 2104.08718, and of torchmetrics' page), "mean" only the mean of all (what
torchmetrics' CLIPScore computes), "none" leaves them (the CLAP score of Stable Audio and of most
papers on text to audio, which print it without the factor: scale=1). Scores of different models or
texts cannot be compared. N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from echoic.api import EchoicModel, load
from echoic.types import ConfigError, DataError

Clip = Literal["pair", "mean", "none"]


class ClapScore:
    """Mean of scale times the cosine of each sound and its text. model: what `echoic.load` opens,
    or an opened model. options: of `echoic.load`."""

    higher_is_better, is_differentiable, full_state_update = True, False, False

    def __init__(
        self,
        model: str | Path | EchoicModel,
        *,
        clip: Clip = "pair",
        scale: float = 100.0,
        **options: Any,
    ) -> None:
        if clip not in get_args(Clip):
            raise ConfigError(f"clip {clip!r}: there are {', '.join(get_args(Clip))}")
        self.model = model if isinstance(model, EchoicModel) else load(model, **options)
        self.clip, self.scale = clip, scale
        self.reset()

    def reset(self) -> None:
        self.total = torch.zeros((), dtype=torch.float64)
        self.count = torch.zeros((), dtype=torch.int64)

    def update(self, audio: Sequence[Any], text: str | Sequence[str]) -> None:
        """audio: N sounds as `EchoicModel.embed_audio` takes them. text: one for each. Raises
        DataError unless there are as many."""
        self._add(self.pairs(audio, text))

    def compute(self) -> Tensor:
        """Over all pairs since `reset`; a float32 number. Raises DataError where there was none."""
        if not self.count:
            raise DataError("ClapScore: compute before any update")
        return _mean(self.total, self.count, self.clip)

    def forward(self, audio: Sequence[Any], text: str | Sequence[str]) -> Tensor:
        """`update`, and the score of these pairs alone."""
        alone = type(self)(self.model, clip=self.clip, scale=self.scale)
        scores = self.pairs(audio, text)
        alone._add(scores)
        self._add(scores)
        return alone.compute()

    __call__ = forward

    def pairs(self, audio: Sequence[Any], text: str | Sequence[str]) -> Tensor:
        """(N,) float32: the score of each pair."""
        sounds, texts = list(audio), [text] if isinstance(text, str) else list(text)
        if len(sounds) != len(texts):
            raise DataError(f"ClapScore: {len(sounds)} sounds and {len(texts)} texts")
        heard, read = self.model.embed_audio(sounds), self.model.embed_text(texts)
        scores = self.scale * (heard * read).sum(1)
        return scores.clamp(min=0) if self.clip == "pair" else scores

    def merge(self, other: Self) -> None:
        """Add the pairs of another process or part."""
        self.total, self.count = self.total + other.total, self.count + other.count

    def _add(self, scores: Tensor) -> None:
        self.total, self.count = self.total + scores.double().sum(), self.count + len(scores)


def _mean(total: Tensor, count: Tensor, clip: Clip) -> Tensor:
    mean = total / count
    return (mean.clamp(min=0) if clip == "mean" else mean).float()


def as_metric(score: ClapScore) -> Any:
    """The same as a `torchmetrics.Metric`, for MetricCollection and for synchronisation across
    processes. Raises ConfigError where torchmetrics is not installed."""
    try:
        from torchmetrics import Metric
    except ImportError:
        raise ConfigError("as_metric needs torchmetrics: pip install torchmetrics") from None

    class ClapScoreMetric(Metric):
        higher_is_better, is_differentiable, full_state_update = True, False, False

        def __init__(self) -> None:
            super().__init__()
            zero = torch.zeros((), dtype=torch.float64)
            self.add_state("total", zero, dist_reduce_fx="sum")
            self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

        def update(self, audio: Sequence[Any], text: str | Sequence[str]) -> None:
            scores = score.pairs(audio, text).to(self.total.device)
            self.total += scores.double().sum()
            self.count += len(scores)

        def compute(self) -> Tensor:
            return _mean(self.total, self.count, score.clip)

    return ClapScoreMetric()
