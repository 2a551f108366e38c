"""The text side of a model as it is used: what of texts can be read with what its file brought, and
their vectors.

Some models read vectors of a sentence encoder that their file leaves out (M2D-CLAP 2024): it is
found by name, or given. B texts, L tokens, D embedding width, E width of a sentence encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from echoic.convert.known import KNOWN_TOKENIZERS
from echoic.convert.native import FILE_NAME
from echoic.convert.open import reads_tokens
from echoic.convert.torch_file import SUFFIXES
from echoic.encoders.sentences import SentenceEncoder, is_local, sentence_encoder
from echoic.encoders.tokenizer import TextTokenizer
from echoic.model import LanguageAudioModel, ModelSpec
from echoic.towers import PooledTextTower, SentenceTextSpec
from echoic.types import CheckpointError, ConfigError, EchoicError, Ragged, TextFeatures, finite

_AT_ONCE = 256  # texts


class OwnModel(Protocol):
    """A model of ours, as a sentence encoder."""

    @property
    def embed_dim(self) -> int: ...
    @property
    def space_id(self) -> str: ...
    def embed_text(self, texts: str | Sequence[str]) -> Tensor: ...


Open = Callable[[str], OwnModel]


class TextSide:
    """given: the sentence encoder of a model that reads its vectors; None: the one that its file
    names, where that is on this machine. load: opens a model of ours. autocast: how it is computed.
    """

    def __init__(
        self,
        network: LanguageAudioModel,
        tokenizer: TextTokenizer | None,
        given: SentenceEncoder | None,
        *,
        load: Open,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> None:
        if given is not None:
            _require_width(network.spec, given)
        self.network, self.given_tokenizer = network, tokenizer
        self._given, self._load, self._autocast = given, load, autocast

    @property
    def tokenizer(self) -> TextTokenizer:
        """Raises CheckpointError where the checkpoint brought none, or none is needed."""
        if self.given_tokenizer is None:
            self.require()
            raise CheckpointError("this model has no tokenizer: its sentence encoder reads texts")
        return self.given_tokenizer

    @property
    def reads(self) -> Literal["words", "ids", "nothing"]:
        """What of a text can be embedded here."""
        if self.reads_words:
            return "words"
        return "ids" if reads_tokens(self.network.spec) else "nothing"

    @property
    def reads_words(self) -> bool:
        spec = self.network.spec
        if isinstance(spec.text, SentenceTextSpec):
            return self._sentences is not None
        return spec.text is not None and self.given_tokenizer is not None

    @cached_property
    def _sentences(self) -> SentenceEncoder | None:
        spec = self.network.spec
        named = spec.text.encoder if isinstance(spec.text, SentenceTextSpec) else None
        if self._given is None and named is not None and (is_own(named) or is_local(named)):
            return sentences_for(spec, named, str(self._device), self._load)
        return self._given

    @property
    def _device(self) -> torch.device:
        return self.network.logit_scale.device

    def require(self) -> None:
        """Raises CheckpointError with what to give where texts cannot be embedded."""
        spec = self.network.spec.text
        if self.reads_words:
            return
        if spec is None:
            raise CheckpointError("this is a model of sound alone: it reads no text")
        if isinstance(spec, SentenceTextSpec):
            name = f'"{spec.encoder}"' if spec.encoder else "..."
            raise CheckpointError(
                f"this model reads vectors of {spec.width} of a sentence encoder that its file "
                f"leaves out: give text_encoder={name} (--text-encoder)"
            )
        known = KNOWN_TOKENIZERS.get(spec.kind)
        named = f'tokenizer="{known}"' if known else "tokenizer=..."
        raise CheckpointError(
            "this checkpoint brought no tokenizer, and texts need one: give "
            f"{named} (--tokenizer), or a folder that holds it"
        )

    def embed(self, texts: Sequence[str]) -> Tensor:
        """(B, D) float32 unit vectors on the CPU. Raises CheckpointError where none are read."""
        if not texts:
            return torch.zeros(0, self.network.spec.embed_dim)
        self.require()
        if self._sentences is not None:
            return self._projected(self._sentences(texts))
        ids = self.tokenizer(texts)
        return torch.cat(
            [self._vectors(ids[i : i + _AT_ONCE]) for i in range(0, len(ids), _AT_ONCE)]
        )

    def embed_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids (B, L) with mask (B, L) -> (B, D) unit vectors. Raises EchoicError."""
        if not reads_tokens(self.network.spec):
            kind = "vectors of sentences" if self.network.spec.text else "no text"
            raise CheckpointError(f"embed_tokens: this model reads {kind}, and no token ids")
        if ids.ndim != 2 or ids.shape != mask.shape:
            raise EchoicError(
                f"embed_tokens: ids {tuple(ids.shape)} and mask {tuple(mask.shape)} must both be "
                "(B, L)"
            )
        rows = [row[m.bool()].tolist() for row, m in zip(ids, mask, strict=True)]
        if empty := [i for i, row in enumerate(rows) if not row]:
            raise EchoicError(f"embed_tokens: row {empty[0]} has no token")
        return self._vectors(rows) if rows else torch.zeros(0, self.network.spec.embed_dim)

    @torch.no_grad()
    def _projected(self, vectors: Tensor) -> Tensor:
        """Vectors of a sentence encoder (B, E) -> (B, D) unit vectors."""
        read = self.network.project_sentence(vectors.to(self._device, torch.float32))
        return finite(F.normalize(read.float(), dim=-1).cpu())

    @torch.no_grad()
    def _vectors(self, ids: Sequence[Sequence[int]]) -> Tensor:
        ragged = Ragged.from_rows([torch.tensor(row, dtype=torch.int64) for row in ids])
        if isinstance(self.network.text, PooledTextTower):
            self.network.text.encoder.check(ragged)  # here, where a look at the ids costs nothing
        with self._autocast():
            read: TextFeatures = self.network.text(ragged.to(self._device))
        return finite(F.normalize(read.clip.float(), dim=-1).cpu())


# -- sentence encoders ----------------------------------------------------------------------------


class OwnSentences:
    """The text side of a model of ours as a sentence encoder: unit vectors (n, D). name: its file
    or folder. batch: texts at once."""

    def __init__(self, name: str, model: OwnModel, batch: int = 32) -> None:
        self.name, self.width, self._model, self._batch = name, model.embed_dim, model, batch
        self.settings: Mapping[str, Any] = {"space": model.space_id}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        parts = range(0, len(texts), self._batch)
        rows = [self._model.embed_text(texts[i : i + self._batch]) for i in parts]
        return torch.cat(rows) if rows else torch.zeros(0, self.width)


def is_own(name: str) -> bool:
    """Whether the name of a sentence encoder is that of a model of ours: a file, or a folder
    with weights and without the config.json that transformers wants."""
    path = Path(name)
    if not path.is_dir():
        return path.is_file()
    weights = any(file.name == FILE_NAME or file.suffix in SUFFIXES for file in path.iterdir())
    return weights and not (path / "config.json").is_file()


def sentences_for(spec: ModelSpec, name: str, device: str, load: Open) -> SentenceEncoder:
    """The sentence encoder of that name, for a model that reads its vectors. Raises
    CheckpointError, ConfigError."""
    how = _sentence_text(spec, name)
    found: SentenceEncoder
    if is_own(name):
        found = OwnSentences(name, load(name))
    else:
        pooling = None if name.startswith("st:") else how.pooling  # those pool by themselves
        found = sentence_encoder(name, pooling=pooling, prompt=how.prompt, device=device)
    _require_width(spec, found)
    return found


def _sentence_text(spec: ModelSpec, name: str) -> SentenceTextSpec:
    """Raises ConfigError where the model has no use for the sentence encoder of that name."""
    if isinstance(spec.text, SentenceTextSpec):
        return spec.text
    reads = "no text" if spec.text is None else "texts by a text encoder of its own"
    raise ConfigError(f"text_encoder {name}: this model reads {reads}")


def _require_width(spec: ModelSpec, encoder: SentenceEncoder) -> None:
    """Raises ConfigError where the model does not read vectors such as that encoder's."""
    if encoder.width != (wanted := _sentence_text(spec, encoder.name).width):
        raise ConfigError(
            f"text_encoder {encoder.name}: gives vectors of {encoder.width}; this model reads "
            f"{wanted}"
        )
