"""Captions from a decoder: greedy search, beam search, sampling.

The decoder says how likely each token is to follow; the three ways differ in what they make of it.
Each clip is searched for itself, so its captions do not depend on its neighbours; a clip whose
captions have all ended takes no further part. What was computed of the words so far is remembered,
or (`cached=False`) computed anew at every word: slower, with equal results.

B clips still at work, K captions begun on each, L tokens of each so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from echoic.encoders.decoder import CaptionDecoder, check_heard
from echoic.types import ConfigError, Ragged


@dataclass(frozen=True)
class Caption:
    """ids: its tokens without the frame. log_probability: of all of it and its end, by the decoder,
    whatever the search made of that."""

    ids: tuple[int, ...]
    log_probability: float


class Search(Protocol):
    """A way to find captions."""

    def __call__(self, begin: Begin, /) -> list[list[Caption]]:
        """Captions of each clip, the best first."""
        ...


# How many captions to begin on each clip -> those, with nothing said yet.
Begin = Callable[[int], "Begun"]
# (B, K, V) log-probabilities of what may follow -> the tokens that do (B, K).
Choice = Callable[[Tensor, "Begun"], Tensor]


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ConfigError(otherwise)


@dataclass(frozen=True)
class Greedy:
    """The likeliest token, again and again. no_repeat: a caption never says so many words in a row
    twice; 0 leaves it free to."""

    no_repeat: int = 0

    def __post_init__(self) -> None:
        _need(self.no_repeat >= 0, f"no_repeat {self.no_repeat}: must be 0 or more")

    def __call__(self, begin: Begin, /) -> list[list[Caption]]:
        return _one_by_one(begin(1), self._choose)

    def _choose(self, follows: Tensor, begun: Begun) -> Tensor:
        return begun.without_repeats(follows, self.no_repeat).argmax(-1)


@dataclass(frozen=True)
class Sampling:
    """Tokens drawn by their probability, from `generator` (on the CPU). It gives a clip the same
    captions whether it is handed over alone or, in the same order, with others.

    captions: how many of each clip; told in the order of their log-probability. temperature: below
    1 the likely gets likelier. top_k: among so many likeliest; None: among all. top_p: among the
    fewest likeliest that have this probability together.
    """

    generator: torch.Generator
    captions: int = 1
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        _need(self.captions >= 1, f"captions {self.captions}: must be 1 or more")
        _need(self.temperature > 0, f"temperature {self.temperature}: must be above 0")
        _need(self.top_k is None or self.top_k >= 1, f"top_k {self.top_k}: must be 1 or more")
        _need(0 < self.top_p <= 1, f"top_p {self.top_p}: must be above 0, at most 1")

    def __call__(self, begin: Begin, /) -> list[list[Caption]]:
        begun = begin(self.captions)
        # All draws of a clip lie together, whatever it comes to need of them.
        shape = (*begun.said.shape[:2], begun.longest)
        draws = torch.rand(shape, dtype=torch.float64, generator=self.generator)
        return _one_by_one(begun, partial(self._choose, draws=draws.to(begun.said.device)))

    def _choose(self, follows: Tensor, begun: Begun, *, draws: Tensor) -> Tensor:
        most = follows.shape[-1] if self.top_k is None else min(self.top_k, follows.shape[-1])
        scores, tokens = (follows / self.temperature).topk(most)
        share = scores.double().softmax(-1)
        mass = share.cumsum(-1)
        among = (mass - share < self.top_p) & (share > 0)
        share = share.where(among, 0)
        mass = share.cumsum(-1)
        draw = draws[begun.clips, :, begun.length - 1] * mass[..., -1]
        place = torch.searchsorted(mass, draw[..., None], right=True)
        place = place.minimum(among.sum(-1, keepdim=True) - 1)  # rounding can pass the last
        return tokens.gather(-1, place)[..., 0]


@dataclass(frozen=True)
class Beam:
    """The `width` likeliest beginnings are kept at each word; what ends among them is a find.

    A clip's search is over when it has `width` finds and no beginning has a better score than the
    worst of them. captions: how many finds of each clip are told. length_penalty: a score is
    log-probability / tokens ** length_penalty: 0 favours short captions, 1 weighs by the word.
    no_repeat: as in Greedy.
    """

    width: int = 4
    captions: int = 1
    length_penalty: float = 1.0
    no_repeat: int = 0

    def __post_init__(self) -> None:
        _need(self.width >= 1, f"width {self.width}: must be 1 or more")
        _need(
            1 <= self.captions <= self.width,
            f"captions {self.captions}: 1 to the width, {self.width}",
        )
        _need(self.length_penalty >= 0, f"length_penalty {self.length_penalty}: must be 0 or more")
        _need(self.no_repeat >= 0, f"no_repeat {self.no_repeat}: must be 0 or more")

    def __call__(self, begin: Begin, /) -> list[list[Caption]]:
        begun = begin(self.width)
        finds: list[list[Caption]] = [[] for _ in begun.clips]
        # All begin alike, so that one of them is enough to begin with.
        log_p = torch.full(begun.said.shape[:2], -torch.inf, device=begun.said.device)
        log_p[:, 0] = 0
        while len(begun.clips):
            follows = begun.without_repeats(begun.follows(), self.no_repeat)
            vocab = follows.shape[-1]
            # each beginning has one end, so that half of twice as many go on
            best, place = (log_p[..., None] + follows).flatten(1).topk(2 * self.width)
            parents, tokens = place // vocab, place % vocab
            ends = tokens == begun.end_id
            self._collect(begun, best, parents, ends, finds)

            first = ends.to(torch.int8).argsort(dim=1, stable=True)[:, : self.width]
            log_p, parents, tokens = (x.gather(1, first) for x in (best, parents, tokens))
            ahead = (log_p[:, 0] / begun.length**self.length_penalty).tolist()
            clips = [
                i
                for i, (clip, score) in enumerate(zip(begun.clips.tolist(), ahead, strict=True))
                if self._goes_on(finds[clip], score)
            ]
            log_p = log_p[clips]
            begun.go_on(tokens, parents, clips)
        return [each[: self.captions] for each in finds]

    def _collect(
        self,
        begun: Begun,
        best: Tensor,
        parents: Tensor,
        ends: Tensor,
        finds: list[list[Caption]],
    ) -> None:
        """Enter what ends among the `width` best (B, K) of each clip."""
        found = ends & best.isfinite()
        for i, rank in found[:, : self.width].nonzero().tolist():
            ids = begun.said[i, parents[i, rank], 1:].tolist()
            mine = finds[int(begun.clips[i])]
            mine.append(Caption(tuple(ids), float(best[i, rank])))
            mine.sort(key=self._score, reverse=True)
            del mine[self.width :]

    def _goes_on(self, finds: list[Caption], ahead: float) -> bool:
        """ahead: the score of the best beginning, by its length so far."""
        full = len(finds) == self.width
        return ahead > (self._score(finds[-1]) if full else -torch.inf)

    def _score(self, caption: Caption) -> float:
        return caption.log_probability / (len(caption.ids) + 1) ** self.length_penalty


def generate(
    decoder: CaptionDecoder,
    heard: Ragged,
    how: Search = Beam(),
    *,
    max_tokens: int | None = None,
    cached: bool = True,
) -> list[list[Caption]]:
    """Captions of each clip, the best first. heard: audio tokens (P, audio_width).

    max_tokens: of the longest caption, frame included, as a tokenizer counts; None: the decoder's.
    A caption that has not ended by then is ended. Raises ConfigError on a setting that cannot be,
    DataError on a clip without tokens.
    """
    longest = decoder.spec.max_tokens if max_tokens is None else max_tokens
    _need(longest >= 3, f"max_tokens {longest}: a caption of one word has 3, with its frame")
    begin = partial(Begun, decoder, heard, longest=longest, cached=cached)
    with torch.no_grad():
        return how(begin)


class Begun:
    """Captions begun on the clips still at work, as many on each, all of one length.

    said: (B, K, L) ids, the first where a caption begins. clips: (B,) their places in the batch.
    longest: how many tokens a caption may have.
    """

    def __init__(
        self, decoder: CaptionDecoder, heard: Ragged, captions: int, *, longest: int, cached: bool
    ) -> None:
        spec, device = decoder.spec, heard.values.device
        self.longest, self.end_id = longest, spec.end_id
        self.said = torch.full((len(heard), captions, 1), spec.begin_id, device=device)
        self.clips = torch.arange(len(heard), device=device)
        self._banned = torch.tensor([spec.begin_id, *spec.unsaid_ids], device=device)
        self._reader = (_Remembering if cached else _Anew)(decoder, heard, captions)

    @property
    def length(self) -> int:
        """L; also the number of the token that follows, the first word being 1."""
        return self.said.shape[2]

    def follows(self) -> Tensor:
        """(B, K, V) float32 log-probabilities of what may follow; -inf of what may not."""
        logits = self._reader.logits(self.said)
        log_p = logits.float().log_softmax(-1).view(*self.said.shape[:2], -1)
        if self.length < self.longest - 1:
            return log_p.index_fill(2, self._banned, -torch.inf)
        only = torch.full_like(log_p, -torch.inf)
        only[..., self.end_id] = log_p[..., self.end_id]
        return only

    def without_repeats(self, follows: Tensor, words: int) -> Tensor:
        """With -inf for each token that would make a caption say `words` in a row again."""
        if words == 0 or self.length < words:
            return follows
        runs = self.said.unfold(2, words, 1)  # (B, K, runs, words)
        begun = runs[..., :-1] == self.said[:, :, None, self.length - words + 1 :]
        least = torch.where(begun.all(-1), -torch.inf, torch.inf).to(follows)
        return follows.scatter_reduce(2, runs[..., -1], least, "amin")

    def go_on(
        self, tokens: Tensor, parents: Tensor | None = None, clips: list[int] | None = None
    ) -> None:
        """Say (B, K) tokens after the captions that `parents` (B, K) names, each after itself where
        None; then go on with these of the B clips only, all where None."""
        clips = list(range(len(tokens))) if clips is None else clips
        if parents is not None:
            self.said = self.said.gather(1, parents[..., None].expand(-1, -1, self.length))
        self.said = torch.cat([self.said, tokens[..., None]], 2)
        if parents is not None or len(clips) < len(tokens):
            if parents is None:
                parents = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
            kept = torch.tensor(clips, dtype=torch.int64, device=tokens.device)
            self.said, self.clips = self.said[kept], self.clips[kept]
            self._reader.select(kept, parents[kept])


class _Remembering:
    """Reads the last word only."""

    def __init__(self, decoder: CaptionDecoder, heard: Ragged, captions: int) -> None:
        self.decoder, self.memory = decoder, decoder.listen(heard, captions)

    def logits(self, said: Tensor) -> Tensor:
        """(B, K, L) -> (B K, V)."""
        return self.decoder.step(said[..., -1].flatten(), self.memory)

    def select(self, clips: Tensor, parents: Tensor) -> None:
        self.memory.select(clips, parents)


class _Anew:
    """Reads all words each time."""

    def __init__(self, decoder: CaptionDecoder, heard: Ragged, captions: int) -> None:
        check_heard(heard)
        self.decoder, self.captions = decoder, captions
        self.rows = list(heard)

    def logits(self, said: Tensor) -> Tensor:
        heard = Ragged.from_rows([row for row in self.rows for _ in range(self.captions)])
        text = Ragged.from_rows(list(said.flatten(0, 1)))
        return self.decoder(heard, text)[text.offsets[1:] - 1]

    def select(self, clips: Tensor, parents: Tensor) -> None:
        self.rows = [self.rows[i] for i in clips.tolist()]


def _one_by_one(begun: Begun, choose: Choice) -> list[list[Caption]]:
    """Each caption goes its own way until it ends."""
    captions: list[list[Caption]] = [[] for _ in begun.clips]
    log_p = torch.zeros(begun.said.shape[:2], device=begun.said.device)
    while len(begun.clips):
        follows = begun.follows()
        ended = begun.said[..., -1] == begun.end_id
        tokens = choose(follows, begun).masked_fill(ended, begun.end_id)
        gain = follows.gather(2, tokens[..., None])[..., 0]
        log_p = log_p + gain.masked_fill(ended, 0)
        done = (tokens == begun.end_id).all(1)
        for i in done.nonzero()[:, 0].tolist():
            told = zip(begun.said[i, :, 1:].tolist(), log_p[i].tolist(), strict=True)
            made = [Caption(_to_end(ids, begun.end_id), each) for ids, each in told]
            captions[int(begun.clips[i])] = sorted(made, key=lambda c: -c.log_probability)
        log_p = log_p[~done]
        begun.go_on(tokens, clips=(~done).nonzero()[:, 0].tolist())
    return captions


def _to_end(ids: list[int], end_id: int) -> tuple[int, ...]:
    return tuple(ids[: ids.index(end_id)] if end_id in ids else ids)
