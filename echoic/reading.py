"""What a training reads of captions: token ids, or rows of a store of their vectors, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from echoic.data.clips import Source
from echoic.data.sentences import SentenceStore, embed_captions
from echoic.encoders.sentences import is_local, sentence_encoder
from echoic.encoders.tokenizer import TextTokenizer
from echoic.recipes.recipe import Recipe
from echoic.towers import SentenceTextSpec
from echoic.types import Batch, ConfigError

FOLDER = "sentences"


class StoredSentences:
    """A store as a sentence encoder of the captions that it holds."""

    def __init__(self, store: SentenceStore) -> None:
        self.name, self.settings, self.width = store.encoder, store.settings, store.width
        self._store = store

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(n, E) float32. Raises DataError on a caption that has no vector."""
        return self._store.vectors(torch.tensor([row for (row,) in self._store.tokenize(texts)]))


@dataclass(frozen=True)
class Reading:
    """tokenizer: of a model that reads words. store: of one that reads vectors. Neither: sound
    alone."""

    tokenizer: TextTokenizer | None = None
    store: SentenceStore | None = None

    @property
    def tokenize(self) -> Callable[[list[str]], list[list[int]]] | None:
        """What the loader makes of captions: token ids, or the one row of each in the store."""
        return self.store.tokenize if self.store is not None else self.tokenizer

    @property
    def encoder(self) -> StoredSentences | None:
        return StoredSentences(self.store) if self.store is not None else None

    @property
    def sentences(self) -> Callable[[Batch], Tensor] | None:
        """(B, E) of a batch of such rows."""
        if (store := self.store) is None:
            return None
        return lambda batch: store.vectors(batch.text.values)


def sentence_store(
    recipe: Recipe, source: Source, valid: Source | None, folder: Path, console: Console | None
) -> SentenceStore | None:
    """The vectors that the recipe's model reads: those of `data.sentences`, or made in `folder` by
    the model's own sentence encoder, if that is on this machine. None for a model that reads none.

    Raises ConfigError, DataError, CheckpointError.
    """
    text, given = recipe.model.text, recipe.data.sentences
    if not isinstance(text, SentenceTextSpec):
        if given is not None:
            kind = recipe.model.text_kind
            raise ConfigError(f"data.sentences {given}: a model whose text is {kind} reads none")
        return None
    if given is not None:
        store = SentenceStore.open(given)
        for each in (source, *([valid] if valid else [])):
            store.require(each)
    elif text.encoder is None or not is_local(text.encoder):
        raise ConfigError(
            f"this recipe reads vectors of {text.encoder or 'a sentence encoder'}: make them with "
            "echoic data embed-captions, and name their folder (--sentences)"
        )
    else:
        store = _made(text.encoder, source, valid, folder / FOLDER, console)
    if store.width != text.width:
        change = f"model.text.width={store.width}"
        if text.projection == "none":  # the space is as wide as what is read
            change += " model.text.projection=linear"
        raise ConfigError(
            f"{store.folder}: vectors of {store.width} by {store.encoder}; the recipe reads "
            f"{text.width}: add {change}"
        )
    return store


def made_by(store: SentenceStore) -> dict[str, object]:
    """By which encoder, in the words of SentenceTextSpec, so that its model can read texts."""
    settings = {name: store.settings.get(name) for name in ("pooling", "prompt")}
    told = {name: value for name, value in settings.items() if value is not None}
    return {"encoder": store.encoder, **told}


def _made(
    encoder: str, source: Source, valid: Source | None, folder: Path, console: Console | None
) -> SentenceStore:
    held = [replace(clip, key=f"valid/{clip.key}") for clip in valid.clips] if valid else []
    embed_captions([*source.clips, *held], sentence_encoder(encoder), folder, console=console)
    return SentenceStore.open(folder)
