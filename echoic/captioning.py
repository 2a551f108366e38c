"""How a recording, also a long one, is captioned: in words of a model's decoder, from the un-pooled
tokens of its audio tower.

Each stretch that the model hears at once gets a caption of its own, so that one longer than its
window has a list of them, with their times; the text of the whole is these, one after the other. A
caption does not depend on what else is captioned.

P audio tokens of all stretches, D their width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from echoic.audio.io import AudioLike
from echoic.encoders.decoder import CaptionDecoder
from echoic.encoders.generation import Search, generate
from echoic.encoders.tokenizer import TextTokenizer
from echoic.items import Stretch, hear_items, shortest_first
from echoic.listening import AudioTower, Listening, Piece
from echoic.types import AudioError, AudioFeatures, Ragged


@dataclass(frozen=True)
class Wording:
    """A caption, and its log-probability by the decoder."""

    text: str
    log_probability: float


@dataclass(frozen=True)
class CaptionedSpan:
    """What is said of a recording from `start_s` to `end_s`. others: what else, next best first,
    where more than one caption was asked for."""

    start_s: float
    end_s: float
    text: str
    log_probability: float
    others: tuple[Wording, ...] = ()


@dataclass(frozen=True)
class Writer:
    """Writes captions of what was heard. how, max_tokens: see `generation.generate`."""

    decoder: CaptionDecoder
    tokenizer: TextTokenizer
    how: Search
    max_tokens: int | None = None

    def __call__(self, tokens: Sequence[Tensor]) -> list[list[Wording]]:
        """Of tokens (P_i, D) of each stretch, its captions, the best first."""
        heard = Ragged.from_rows(tokens)
        found = generate(self.decoder, heard, self.how, max_tokens=self.max_tokens)
        return [[self._worded(c.ids, c.log_probability) for c in each] for each in found]

    def _worded(self, ids: Sequence[int], log_probability: float) -> Wording:
        return Wording(self.tokenizer.decode(ids), log_probability)


def caption_items(
    items: AudioLike | Iterable[AudioLike],
    tower: AudioTower,
    listening: Listening,
    hear: Callable[[Sequence[Piece]], AudioFeatures],
    write: Writer,
) -> Iterator[tuple[int, list[CaptionedSpan] | AudioError]]:
    """(index, its captions in order, or its error) of each item as soon as it is known, in no fixed
    order."""

    def tokens(pieces: Sequence[Piece]) -> list[Tensor]:
        heard = hear(pieces)
        return list(Ragged(heard.tokens.float(), heard.offsets))  # words are chosen in float32

    def captions(pieces: Sequence[Piece]) -> list[list[Wording]]:
        return write(shortest_first(pieces, tokens))

    for index, found in hear_items(items, tower, listening, captions, finding="caption"):
        if isinstance(found, AudioError):
            yield index, found
        else:
            yield index, [_span(stretch, tower.rate_hz) for stretch in found]


def whole_text(spans: Iterable[CaptionedSpan]) -> str:
    """The captions of a recording as one text: in order, parted by semicolons, a full stop only
    at the end; what is said again of the next stretch is said once."""
    texts = [text for text, _ in itertools.groupby(span.text for span in spans if span.text)]
    return "; ".join([*(text.rstrip(" .") for text in texts[:-1]), *texts[-1:]])


def _span(stretch: Stretch[list[Wording]], rate_hz: int) -> CaptionedSpan:
    best, *others = stretch.found
    return CaptionedSpan(
        stretch.start / rate_hz,
        stretch.stop / rate_hz,
        best.text,
        best.log_probability,
        tuple(others),
    )
