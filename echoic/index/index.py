"""An index of a folder of sounds, as its users meet it.

    index = Index.open("field-recordings", model=echoic.load("runs/demo"))
    index.update()                                     # hears what is new or changed
    index.search(text="rain on a tin roof", without="wind", where=Where(min_s=5), top=5)
    index.search(like="door.wav")

D width.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

from torch import Tensor

from echoic.api import EchoicModel, load
from echoic.audio.io import AudioLike
from echoic.index.lance import LanceVectors
from echoic.index.search import MOMENTS, Finder, Hit, Where, direction
from echoic.index.store import (
    Description,
    Store,
    index_folder,
    is_index,
    read_description,
    sole_writer,
    write_description,
)
from echoic.index.update import WINDOW_S, Progress, Report, Update
from echoic.index.vectors import DamagedError, Floats
from echoic.types import DataError, EchoicError

log = logging.getLogger("echoic.index")

TRIES = 3  # of a search that meets a writer at the moment when it puts new files in place
NEGATIVE_WEIGHT = 0.5


class Index:
    """See `Index.open`."""

    def __init__(self, sounds: Path | None, folder: Path, model: EchoicModel | None) -> None:
        self.folder, self._sounds, self._given = folder, sounds, model
        self._finder: Finder | None = None
        self._store: Store | None = None

    @classmethod
    def open(
        cls,
        place: str | os.PathLike[str],
        *,
        out: str | os.PathLike[str] | None = None,
        model: EchoicModel | None = None,
    ) -> Self:
        """place: a folder of sounds, whose index is `.echoic` in it, or an index. out: where the
        index of a folder of sounds lies, if not there. model: None: the one that made the index,
        opened when it is needed. Nothing is read or written yet."""
        path = Path(place)
        if is_index(path):
            return cls(None, path, model)
        return cls(path, Path(out) if out is not None else index_folder(path), model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = self._finder = None

    @property
    def about(self) -> Description:
        """Raises DataError where there is no index yet."""
        return read_description(self.folder)

    @property
    def has_captions(self) -> bool:
        """Whether anything is said of any sound. Raises DataError where there is no index."""
        return bool(self._opened().catalog.ask("SELECT 1 FROM captions LIMIT 1"))

    @cached_property
    def model(self) -> EchoicModel:
        """Raises EchoicError where none was given, and the index does not know its own."""
        if self._given is not None:
            return self._given
        if (named := self.about.model) is None:
            raise EchoicError(f"{self.folder}: does not know its model; give it (--model)")
        return load(named)

    # -- writing ----------------------------------------------------------------------------------

    def update(
        self,
        model: EchoicModel | None = None,
        *,
        named: str | None = None,
        window_s: float | None = None,
        captions: EchoicModel | None = None,
        tables: Sequence[str | os.PathLike[str]] = (),
        vectors: str | None = None,
        retry: bool = False,
        check: bool = False,
        progress: Progress | None = None,
        captioned: Callable[[int, int], None] = lambda done, total: None,
        waiting: Callable[[], None] | None = None,
    ) -> Report:
        """Hear what is new or changed, and forget what is gone. Stopped at any moment, the next
        call goes on.

        named: how `load` finds the model again. window_s: how a recording is cut when the index is
        made; None: 10 s, or what the model hears. captions: the model that writes a caption of each
        stretch. tables: CSV, TSV or JSONL with tags and captions of the files. vectors: a place for
        LanceDB (`echoic[index]`), when the index is made. retry: hear again what could not be
        heard. check: compare all vectors with their checksums. waiting: called once where another
        process writes.
        Raises DataError where the index cannot be written or is of another space.
        """
        listener = model if model is not None else self.model
        if captions is not None:
            captions.iter_captions([])  # without a decoder that is told before hours of hearing
        self._begin(listener, named, window_s, vectors)
        told = waiting or (lambda: log.warning("%s: waiting for another process", self.folder))
        with sole_writer(self.folder, told), Store(self.folder, writes=True) as store:
            writing = Update(store, listener, progress)
            try:
                writing.run(retry=retry, check=check)
                writing.read_tables([Path(table) for table in tables])
                if captions is not None:
                    writing.caption(captions, captioned)
                return writing.finish()
            except DamagedError as error:
                raise store.told(error) from None

    def _begin(
        self, model: EchoicModel, named: str | None, window_s: float | None, vectors: str | None
    ) -> None:
        """Describe a new index, or hold an old one against what is asked."""
        if not is_index(self.folder):
            if self._sounds is None or not self._sounds.is_dir():
                raise DataError(f"{self._sounds}: no such folder")
            write_description(self.folder, self._described(model, named, window_s, vectors))
            return
        about = self.about
        self._require(model)
        vectors = None if vectors is None else _lasting(vectors)
        if vectors is not None and vectors != about.vectors:
            raise DataError(
                f"{self.folder}: keeps its vectors in {about.vectors or 'files of its own'}; for "
                f"{vectors} name another place with --out"
            )
        if window_s is not None and window_s != about.window_s:
            raise DataError(
                f"{self.folder}: is cut into windows of {about.window_s:g} s; for {window_s:g} s "
                "name another place with --out"
            )
        here = about.sounds if self._sounds is None else str(self._sounds.absolute())
        if here != about.sounds:
            if self.folder.absolute().parent == Path(here):  # the folder was moved, with its index
                write_description(self.folder, replace(about, sounds=here))
            else:
                raise DataError(f"{self.folder}: is the index of {about.sounds}, not of {here}")

    def _described(
        self, model: EchoicModel, named: str | None, window_s: float | None, vectors: str | None
    ) -> Description:
        longest_s = model.network.audio.max_s
        length_s = min(WINDOW_S, longest_s) if window_s is None else window_s
        if not 0 < length_s <= longest_s:
            raise EchoicError(
                f"windows of {length_s:g} s: this model hears windows of up to {longest_s:g} s"
            )
        if vectors is not None:
            vectors = _lasting(vectors)
            LanceVectors(vectors, model.embed_dim, 0)  # what is wrong there is told before all
        assert self._sounds is not None
        sounds = str(self._sounds.absolute())
        return Description(
            model.space_id, model.embed_dim, length_s, length_s, sounds, named, vectors
        )

    def _require(self, model: EchoicModel) -> None:
        """Raises DataError on a model of another space."""
        about = self.about
        if model.space_id != about.space_id:
            named = f" ({about.model})" if about.model else ""
            raise DataError(
                f"{self.folder}: its vectors are of space {about.space_id}, this model's is "
                f"{model.space_id}: give the model that made it{named}, or index anew with another "
                "--out"
            )
        if model.embed_dim != about.dim:
            told = f"vectors of {about.dim} values, this model's have {model.embed_dim}"
            raise DataError(f"{self.folder}: damaged ({told}); remove it and index again")

    # -- searching --------------------------------------------------------------------------------

    def search(
        self,
        text: str | None = None,
        *,
        like: AudioLike | Tensor | None = None,
        like_vector: Tensor | None = None,
        without: str | Sequence[str] = (),
        where: Where | None = None,
        top: int = 10,
        text_weight: float = 1.0,
        like_weight: float = 1.0,
        without_weight: float = NEGATIVE_WEIGHT,
        moments: int = MOMENTS,
    ) -> list[Hit]:
        """The recordings that fit best. like: a sound as `embed_audio` takes it; like_vector: its
        vector (D,), where that is known. without: words of what is not wanted. Weights are of unit
        vectors. With neither text nor like: all that `where` lets through, by path.

        Raises DataError where there is no index, it is damaged, or of another space than the model;
        EchoicError where the question is empty.
        """
        query = None
        examples = [] if like_vector is None else [like_vector]
        if like_vector is not None and like_vector.shape != (self.about.dim,):
            shape = tuple(like_vector.shape)
            raise EchoicError(f"search: like_vector is {shape}, not ({self.about.dim},)")
        if like is not None:
            self._require(self.model)
            examples.append(self.model.embed_audio([like])[0])
        if text is not None or examples or without:
            parts = [(like_weight, example) for example in examples]
            query = self._direction(text, parts, without, text_weight, without_weight)
        elif where is None:
            raise EchoicError("search: give words, an example or both")
        if where is not None and where.folder is not None and os.path.isabs(where.folder):
            where = replace(where, folder=os.path.relpath(where.folder, self.about.sounds))
        for tried in range(1, TRIES + 1):
            try:
                return self._find().find(query, top=top, where=where, moments=moments)
            except DamagedError as error:
                told = self._opened().told(error)
                self.close()
                if tried == TRIES:
                    raise told from None
        raise AssertionError

    def _direction(
        self,
        text: str | None,
        examples: Sequence[tuple[float, Tensor]],
        without: str | Sequence[str],
        text_weight: float,
        without_weight: float,
    ) -> Floats:
        model = self.model
        self._require(model)
        parts = list(examples)
        if text is not None:
            if not text.strip():
                raise EchoicError("search: the query is empty")
            parts.append((text_weight, model.embed_text(text)[0]))
        unwanted = [without] if isinstance(without, str) else list(without)
        if unwanted:
            if not parts:
                raise EchoicError("search: say also what is wanted, in words or by an example")
            vectors = model.embed_text(unwanted)
            parts += [(-without_weight / len(unwanted), vector) for vector in vectors]
        return direction(parts)

    def _opened(self) -> Store:
        if self._store is None:
            self._store = Store(self.folder)
        return self._store

    def _find(self) -> Finder:
        if self._finder is None:
            self._finder = Finder(self._opened())
        return self._finder


def _lasting(place: str) -> str:
    """A place for LanceDB by which it is found from any folder."""
    return place if "://" in place else os.path.abspath(place)
