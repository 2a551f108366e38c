"""The model as its users meet it: sounds and words in, vectors out.

    model = echoic.load("runs/demo/model.safetensors")
    model.embed_audio(["rain.wav", "dog.mp3"])          # (2, D) unit vectors
    model.embed_text(["rain on a roof"])                # (1, D)
    model.classify("rain.wav", ["rain", "dog bark"]).top()
    model.caption("rain.wav")                           # in words, of a model with a decoder

The same file gives the same vector, whatever it is embedded with. Recordings longer than the model
hears at once are heard in full, in windows, in constant memory. B items, D embedding width, C
labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from echoic.audio.io import Array, AudioLike, load_audio, stream_audio
from echoic.audio.windows import stream_windows, window_weights
from echoic.captioning import CaptionedSpan, Writer, caption_items, whole_text
from echoic.convert.check import CARD_KEY, self_test
from echoic.convert.native import ModelFile, save_model
from echoic.convert.open import open_model, with_tokenizer
from echoic.encoders.generation import Beam, Search
from echoic.encoders.sentences import SentenceEncoder
from echoic.encoders.tokenizer import TextTokenizer
from echoic.eval.zeroshot import LAION_TEMPLATE, class_vectors
from echoic.hub import find_model, push_to_hub, save_pretrained
from echoic.items import (
    BLOCK_S,
    SilenceWatch,
    Stretch,
    as_items,
    hear_items,
    item_name,
    shortest_first,
)
from echoic.listening import AudioTower, Piece, Windows, listening
from echoic.m2d_features import label_logits, probe_vectors, read_features
from echoic.streaming import each_score, each_vector, live_vectors
from echoic.text_side import TextSide, sentences_for
from echoic.timeline import Scale, Steps, Timeline, read_timeline
from echoic.towers import M2dTower, WindowTower
from echoic.types import AudioError, AudioFeatures, ConfigError, EchoicError, Ragged, finite

Precision = Literal["fp32", "bf16"]


def load(
    path_or_name: str | Path,
    *,
    device: str = "cpu",
    sha256: str | None = None,
    tokenizer: str | Path | None = None,
    text_encoder: str | Path | None = None,
    long: str | None = None,
    generator: np.random.Generator | None = None,
    precision: Precision = "fp32",
) -> EchoicModel:
    """Open a model: ours, LAION-CLAP's (.pt), M2D's and M2D-CLAP's (.pth), or a Hugging Face
    folder; by path, or by a name on the Hugging Face Hub (`echoic models` lists the known ones).

    tokenizer: a folder, a tokenizer.json or a Hub name, for a checkpoint that brings none.
    text_encoder: a folder, a Hub name, a short name (see encoders.sentences) or a model of ours,
    for a model that reads vectors of a sentence encoder (M2D-CLAP 2024). long, generator: how
    recordings longer than the window are heard, see EchoicModel. precision: bf16 is faster where
    the processor has it; its vectors differ a little (docs/RESULTS.md).

    On the CPU float32 weights stay in their file, mapped: while the model is in use that may be
    replaced by another, as every writer here does, but not overwritten in place.
    Raises CheckpointError where there is none, where it is damaged, or where a tensor does not fit.
    """
    content = open_model(find_model(path_or_name, sha256=sha256))
    if tokenizer is not None:
        content = with_tokenizer(content, tokenizer)
    encoder = None
    if text_encoder is not None:
        own = partial(load, device=device)
        encoder = sentences_for(content.model.spec, str(text_encoder), device, own)
    return EchoicModel(
        content,
        sentences=encoder,
        device=device,
        long=long,
        generator=generator,
        precision=precision,
    )


def save_tested(path: Path, content: ModelFile) -> None:
    """Write a model file with the vectors of its self-test, for `echoic check` to compare with.
    Raises CheckpointError."""
    tested = self_test(EchoicModel(content)).to_json()
    save_model(path, replace(content, card=content.card | {CARD_KEY: tested}))


@dataclass(frozen=True)
class LabelScores:
    """Scores of B items under C labels: cosines (B, C) and their softmax at the model's scale."""

    labels: tuple[str, ...]
    cosines: Tensor
    probabilities: Tensor

    def top(self, count: int = 5) -> list[list[tuple[str, float]]]:
        """For each item, the `count` likeliest labels with their probabilities, best first."""
        values, index = self.probabilities.topk(min(count, len(self.labels)), dim=1)
        return [
            [(self.labels[i], p) for i, p in zip(row_i, row_p, strict=True)]
            for row_i, row_p in zip(index.tolist(), values.tolist(), strict=True)
        ]


class EchoicModel:
    """A loaded model, its tokenizer and its card. Inference draws no random number, unless a
    generator is given."""

    def __init__(
        self,
        content: ModelFile,
        *,
        sentences: SentenceEncoder | None = None,
        device: str | None = None,
        long: str | None = None,
        generator: np.random.Generator | None = None,
        precision: Precision = "fp32",
    ) -> None:
        """sentences: the encoder of a model that reads its vectors; None: the one that its file
        names, where that is on this machine. device: where to move the network (the one given, not
        a copy); None leaves it where it is.

        long: how a recording longer than the model's window is heard. "windows": all of it, window
        after window. "centred": by feature fusion's views of the whole, where the model has fusion;
        else only its middle window. "laion": the same at random places that `generator` draws, as
        upstream does. "m2d": an M2D's all of it, in upstream's chunks. None: "centred" with fusion,
        "windows" without. Raises ConfigError.
        """
        self.network = content.model.eval().to(device)
        self._text = TextSide(
            self.network,
            content.tokenizer,
            sentences,
            load=lambda name: load(name, device=str(self.device)),
            autocast=self._autocast,
        )
        self.card: dict[str, Any] = content.card
        self.listening = listening(self.network.audio, long, generator)
        self.precision: Precision = precision

    @property
    def tokenizer(self) -> TextTokenizer:
        """Raises CheckpointError where the checkpoint brought none, or none is needed."""
        return self._text.tokenizer

    @property
    def reads_text(self) -> bool:
        """Whether texts can be embedded: with what there is."""
        return self._text.reads_words

    def save_pretrained(self, folder: str | Path) -> None:
        """A folder for the Hub: weights, description, tokenizer, card."""
        save_pretrained(self._content, Path(folder))

    def push_to_hub(self, name: str, *, private: bool = False) -> str:
        """The same as a repository owner/name of the Hub; returns its address."""
        return push_to_hub(self._content, name, private=private)

    @property
    def _content(self) -> ModelFile:
        return ModelFile(self.network, self._text.given_tokenizer, self.card)

    @property
    def reads(self) -> Literal["words", "ids", "nothing"]:
        """What of a text can be embedded here: words, or, without tokenizer, its token ids; nothing
        where the model has no text side, or half of one."""
        return self._text.reads

    def require_text(self) -> None:
        """Raises CheckpointError with what to give where texts cannot be embedded."""
        self._text.require()

    @property
    def device(self) -> torch.device:
        return self.network.logit_scale.device

    @property
    def rate_hz(self) -> int:
        """The sample rate that the model hears; everything given is resampled to it."""
        return self.network.audio.rate_hz

    @property
    def embed_dim(self) -> int:
        return self.network.spec.embed_dim

    @cached_property
    def space_id(self) -> str:
        """Names the space of the vectors (weights, front end, windowing): compare only within
        one."""
        usual = listening(self.network.audio).name
        heard = self.listening.name
        return self.network.space_id() + ("" if heard == usual else f"-{heard}")

    # -- audio ------------------------------------------------------------

    def embed_audio(
        self,
        items: AudioLike | Iterable[AudioLike],
        *,
        on_error: Callable[[int, AudioError], None] | None = None,
    ) -> Tensor:
        """One item or many -> (B, D) float32 unit vectors on the CPU.

        An item is a path, bytes, a binary file, (array, rate_hz), or an array or tensor at
        `rate_hz`. A list or another iterable holds many. on_error: called with the index and the
        error of an item that cannot be heard, whose row is then NaN; without it the error is
        raised.
        """
        rows: dict[int, Tensor] = {}
        count = 0
        for index, result in self.iter_audio(items):
            if isinstance(result, AudioError):
                if on_error is None:
                    raise result
                on_error(index, result)
                result = torch.full((self.embed_dim,), torch.nan)
            rows[index], count = result, count + 1
        return (
            torch.stack([rows[i] for i in range(count)]) if rows else torch.zeros(0, self.embed_dim)
        )

    def iter_audio(
        self, items: AudioLike | Iterable[AudioLike]
    ) -> Iterator[tuple[int, Tensor | AudioError]]:
        """(index, unit vector (D,) or the error) of each item as soon as it is known, in no fixed
        order.

        Memory does not grow with the number of items, nor, heard in windows, with their length.
        """
        hear = partial(shortest_first, hear=self._clip_vectors)
        for index, heard in hear_items(items, self._audio, self.listening, hear, finding="vector"):
            yield index, heard if isinstance(heard, AudioError) else _pooled(heard)

    def caption(
        self,
        items: AudioLike | Iterable[AudioLike],
        *,
        how: Search = Beam(),
        max_tokens: int | None = None,
        window_s: float | None = None,
    ) -> list[str]:
        """What is heard in one item or many, in words; of a recording longer than the model hears
        at once, the captions of its windows, parted by semicolons.

        how: Greedy(), Beam(...), or Sampling(generator, ...) of `echoic.encoders.generation`.
        max_tokens: of the longest caption; None: the model's. window_s: how much gets a caption of
        its own; None: what the model hears at once. Raises ConfigError on a model that writes none,
        EchoicError on a window that it cannot hear, and AudioError.
        """
        texts: dict[int, str] = {}
        found = self.iter_captions(items, how=how, max_tokens=max_tokens, window_s=window_s)
        for index, spans in found:
            if isinstance(spans, AudioError):
                raise spans
            texts[index] = whole_text(spans)
        return [texts[i] for i in range(len(texts))]

    def iter_captions(
        self,
        items: AudioLike | Iterable[AudioLike],
        *,
        how: Search = Beam(),
        max_tokens: int | None = None,
        window_s: float | None = None,
    ) -> Iterator[tuple[int, list[CaptionedSpan] | AudioError]]:
        """(index, the caption of each stretch heard at once, or the error) of each item as soon as
        it is known, in no fixed order. Raises ConfigError, EchoicError at once, as `caption`."""
        decoder = self.network.decoder
        if decoder is None:
            raise ConfigError(
                "this model has no decoder to write captions; echoic train slap trains one"
            )
        if window_s is not None and not 0.1 <= window_s <= self._audio.max_s:
            raise EchoicError(
                f"captions of {window_s:g} s each: this model hears 0.1 to {self._audio.max_s:g} s "
                "at once"
            )
        write = Writer(decoder, self.tokenizer, how, max_tokens)
        heard = self.listening if window_s is None else Windows(window_s)
        return caption_items(items, self._audio, heard, self._features, write)

    def embed_windows(
        self, item: AudioLike, *, window_s: float, hop_s: float | None = None
    ) -> Iterator[tuple[float, float, Tensor]]:
        """(start_s, stop_s, unit vector (D,)) of each window of one recording, in constant
        memory.

        Raises EchoicError unless 0 < hop_s <= window_s <= max_s of the model.
        """
        rate, longest_s = self.rate_hz, self._audio.max_s
        hop_s = window_s if hop_s is None else hop_s
        if not 0 < hop_s <= window_s <= longest_s:
            raise EchoicError(
                f"windows of {window_s:g} s every {hop_s:g} s: this model hears windows of up to "
                f"{longest_s:g} s, each starting before the last one ends"
            )
        cuts = stream_windows(
            stream_audio(item, rate_hz=rate, block_s=BLOCK_S),
            window_samples=max(1, round(window_s * rate)),
            hop_samples=max(1, round(hop_s * rate)),
        )
        for start, window in cuts:
            piece = Piece(start, start + len(window), window)
            yield start / rate, piece.stop / rate, self._clip_vectors([piece])[0]

    def audio_features(self, waves: Sequence[np.ndarray]) -> AudioFeatures:
        """Un-pooled tokens and clip vectors of waves (T,) at `rate_hz`, none longer than the model
        hears."""
        return self._features([Piece(0, len(wave), wave) for wave in waves])

    def probe_vectors(self, waves: Iterable[np.ndarray]) -> Tensor:
        """(B, D) of waves (T,) at `rate_hz`, on the CPU: what a linear probe sees of each clip. An
        M2D's mean over its stacked columns, of upstream's chunks where it is heard so (long="m2d");
        of others the clip vector, not normalised."""
        with self._autocast():
            return probe_vectors(self._audio, waves, self.listening)

    def features(
        self, items: AudioLike | Iterable[AudioLike], reading: str = "stacked"
    ) -> AudioFeatures:
        """An M2D's features of whole recordings, before any projection: "stacked" columns (3840
        wide at base size), "flat" patches (768), or "frames", one token per column (768); each with
        its time, `clip` their mean. Raises ConfigError for another model, and AudioError."""
        return self._read(items, reading, layers=False)[-1]

    def layer_features(
        self, items: AudioLike | Iterable[AudioLike], reading: str = "stacked"
    ) -> list[AudioFeatures]:
        """The same of each layer, the last as `features` gives it."""
        return self._read(items, reading, layers=True)

    def _read(
        self, items: AudioLike | Iterable[AudioLike], reading: str, *, layers: bool
    ) -> list[AudioFeatures]:
        with self._autocast():
            waves = self._waves(items)
            return read_features(self.network, waves, self.listening, reading, layers=layers)

    def tag(self, items: AudioLike | Iterable[AudioLike]) -> Tensor:
        """(B, classes) probabilities of an M2D that was tuned on labels: of one label per clip
        (card["labels_per_clip"]) they sum to 1, else each stands alone. The columns are those of
        card["labels"]; AudioSet's 527 stand in the order of their mids, sorted as strings.

        Raises ConfigError where the model has no such head, and AudioError.
        """
        with self._autocast():
            logits = label_logits(self._audio, self._waves(items), self.listening)
        if logits is None:
            instead = "" if self.network.spec.text is None else ": classify() takes words instead"
            raise ConfigError(f"this model has no head for labels{instead}")
        return logits.softmax(1) if self.card.get("labels_per_clip") == "one" else logits.sigmoid()

    def _waves(self, items: AudioLike | Iterable[AudioLike]) -> Iterator[np.ndarray]:
        """(T,) of each item, whole. Raises AudioError that names it."""
        for index, item in enumerate(as_items(items)):
            yield load_audio(item, rate_hz=self.rate_hz, name=item_name(index, item))

    @property
    def _audio(self) -> AudioTower:
        return self.network.audio

    def _clip_vectors(self, pieces: Sequence[Piece]) -> tuple[Tensor, ...]:
        """A unit vector (D,) of each."""
        made = self._features(pieces).clip.float()
        return finite(F.normalize(made, dim=-1).cpu()).unbind()

    @torch.no_grad()
    def _features(self, pieces: Sequence[Piece]) -> AudioFeatures:
        """Of pieces that are all samples, or all frames."""
        draw = self.listening.draw
        with self._autocast():
            frames = [p.content for p in pieces if isinstance(p.content, Tensor)]
            if frames:
                assert isinstance(self._audio, WindowTower)
                lengths_s = [(p.stop - p.start) / self.rate_hz for p in pieces]
                return self._audio.from_frames(frames, lengths_s, draw=draw)
            waves = [torch.from_numpy(np.asarray(p.content)) for p in pieces]
            audio = Ragged.from_rows(waves).to(self.device)
            if isinstance(self._audio, M2dTower):
                return self._audio(audio, cutting=self.listening.cutting)
            return self._audio(audio, draw=draw)

    def _autocast(self) -> AbstractContextManager[object]:
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    # -- text ------------------------------------------------------------

    def embed_text(self, texts: str | Sequence[str]) -> Tensor:
        """One text or many -> (B, D) float32 unit vectors on the CPU. Raises CheckpointError where
        the model reads none."""
        return self._text.embed([texts] if isinstance(texts, str) else list(texts))

    def embed_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ready token ids (B, L) with mask (B, L), 1 where a token stands -> (B, D) unit vectors.

        Raises EchoicError on other shapes, where a row has no token, and on a model that reads no
        token ids.
        """
        return self._text.embed_tokens(ids, mask)

    # -- both ------------------------------------------------------------

    def embed_labels(
        self, labels: str | Sequence[str], templates: str | Sequence[str] = LAION_TEMPLATE
    ) -> Tensor:
        """(C, D): for each label, the mean direction of its prompts.

        Raises EchoicError where there is no label, an empty one, or a template without {label}.
        """
        return torch.from_numpy(class_vectors(self.embed_text, _named(labels), templates)).float()

    def classify(
        self,
        items: AudioLike | Iterable[AudioLike],
        labels: str | Sequence[str],
        *,
        templates: str | Sequence[str] = LAION_TEMPLATE,
    ) -> LabelScores:
        """Zero-shot classification: how well each label, put into each template, fits each item."""
        classes = self.embed_labels(labels, templates)  # first: a wrong label costs no listening
        return self._scores(self.embed_audio(items), _named(labels), classes)

    def score_labels(
        self,
        vectors: Tensor,
        labels: str | Sequence[str],
        *,
        templates: str | Sequence[str] = LAION_TEMPLATE,
    ) -> LabelScores:
        """`classify` of sounds that are already embedded (B, D)."""
        return self._scores(vectors, _named(labels), self.embed_labels(labels, templates))

    def timeline(
        self,
        item: AudioLike,
        labels: str | Sequence[str],
        *,
        templates: str | Sequence[str] = LAION_TEMPLATE,
        classes: Tensor | None = None,
        steps: Steps | None = None,
    ) -> Timeline:
        """Tagging over time: how well each label, put into each template, fits each step of one
        recording, of any length, in constant memory (see `echoic.timeline`).

        classes: the labels' vectors (C, D) of `embed_labels`, to tag many recordings; None: they
        are read. steps: how finely; None: every 0.2 s, of what is heard in the second around it.
        Raises AudioError, and EchoicError where steps do not fit the model or it reads no text.
        """
        classes = self.embed_labels(labels, templates) if classes is None else classes
        name = item_name(0, item)
        watch = SilenceWatch(name)
        blocks = stream_audio(item, rate_hz=self.rate_hz, block_s=BLOCK_S, name=name)
        line = read_timeline(
            self._audio,
            watch.passing(blocks),
            self._features,
            classes,
            _named(labels),
            scale=self._scale,
            steps=steps,
        )
        watch.tell("time line")
        return line

    def stream(
        self,
        blocks: Iterable[Array],
        labels: str | Sequence[str] | None = None,
        *,
        rate_hz: int | None = None,
        templates: str | Sequence[str] = LAION_TEMPLATE,
        classes: Tensor | None = None,
        by: Scale = "probability",
        steps: Steps | None = None,
        name: str = "stream",
    ) -> Iterator[tuple[float, Tensor]]:
        """Live sound: blocks (T,) or (T, C) at `rate_hz` (None: the model's), of any lengths, in;
        (where the step begins in s, its unit vector (D,)) out, or with labels its scores (C,), as
        `timeline` gives them, as soon as they are certain. How far behind live that is says
        `Steps.delay_s`; a smaller context means less. An empty stream gives nothing. Memory holds
        one context.

        by: "probability" among the labels, or "cosine". name: what errors call it. Raises
        EchoicError as `timeline` does, and AudioError, as it is drawn, on a block that is no sound.
        """
        how = steps or Steps()
        if labels is not None and classes is None:
            classes = self.embed_labels(labels, templates)
        found = live_vectors(
            self._audio, blocks, self._features, rate_hz=rate_hz, steps=how, name=name
        )
        if classes is None:
            return each_vector(found, how.step_s)
        return each_score(found, how.step_s, classes, self._scale, by)

    @property
    def _scale(self) -> float:
        """Of cosines, for probabilities."""
        return float(self.network.logit_scale.detach().exp())

    def _scores(self, vectors: Tensor, labels: list[str], classes: Tensor) -> LabelScores:
        cosines = vectors @ classes.T
        scale = self.network.logit_scale.detach().exp().cpu()
        return LabelScores(tuple(labels), cosines, (scale * cosines).softmax(dim=1))

    def similarity(
        self, items: AudioLike | Iterable[AudioLike], texts: str | Sequence[str]
    ) -> Tensor:
        """Cosines (B, texts) of sounds and texts."""
        return self.embed_audio(items) @ self.embed_text(texts).T


def _pooled(windows: Sequence[Stretch[Tensor]]) -> Tensor:
    """The mean of the windows' unit vectors in which every sample counts once, as a unit vector."""
    weights = torch.from_numpy(window_weights([(w.start, w.stop) for w in windows])).float()
    return F.normalize(weights @ torch.stack([w.found for w in windows]), dim=0)


def _named(labels: str | Sequence[str]) -> list[str]:
    """One label or several, none empty. Raises EchoicError."""
    several = [labels] if isinstance(labels, str) else list(labels)
    if not several:
        raise EchoicError("no labels given")
    for i, label in enumerate(several):
        if not label.strip():
            raise EchoicError(f"label {i} is empty")
    return several
