"""Vectors of captions, computed once: what a training reads where it has no text encoder of its own
(M2D-CLAP, 2406.02032 section 3; 2503.22104).

`embed_captions` writes the folder, a piece at a time; `SentenceStore` reads it. Its files are
mapped into memory, so workers share one copy, and nothing is read before it is asked for.

folder
  store.json           of which encoder and data; once all is whole, size and SHA-256 of the files
  vectors.f16          (N, E) little-endian float16: row i is the vector of caption i
  index.safetensors    the captions, each once; the clips' keys; which captions a clip has
  journal.txt          while it is being written: what of vectors.f16 is known to be right

N different captions, K clips, E width of a sentence vector, n rows asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import safetensors.torch
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from torch import Tensor

from echoic.config import parse_json
from echoic.data.clips import Clip, Source
from echoic.data.files import GrowingFile, made_folder, write_whole
from echoic.data.texts import Texts, offsets_of, require_offsets
from echoic.types import DataError, first_line

STORE, VECTORS, INDEX, JOURNAL = "store.json", "vectors.f16", "index.safetensors", "journal.txt"
_FORMAT, _VERSION = "echoic.sentences", 1
_HALF = np.dtype("<f2")
_TOLD_EVERY_S = 10.0
_AT_ONCE = 4096
_REMEDY = "write a store of these captions with echoic data embed-captions"


class Encode(Protocol):
    """Texts to vectors, as `echoic.encoders.sentences` has them: n texts -> (n, E) float32 on the
    CPU. settings: what the vectors depend on beside the name, as JSON has it."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def width(self) -> int: ...

    def __call__(self, texts: Sequence[str]) -> Tensor: ...


def _indexed(clips: Sequence[Clip]) -> tuple[list[str], dict[str, Tensor]]:
    """The different captions in the order of the clips, and the tensors of the index."""
    row_of: dict[str, int] = {}
    rows = [row_of.setdefault(caption, len(row_of)) for clip in clips for caption in clip.captions]
    if not rows:
        raise DataError(f"no caption to embed in {len(clips)} clips")
    captions = list(row_of)
    return captions, {
        **Texts.packed(captions, "captions"),
        **Texts.packed([clip.key for clip in clips], "keys"),
        "clips.offsets": offsets_of([len(clip.captions) for clip in clips]),
        "clips.rows": torch.tensor(rows, dtype=torch.int32),
    }


def _clips(source: Source | Sequence[Clip]) -> Sequence[Clip]:
    return source if isinstance(source, Sequence) else source.clips


# -- writing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmbedSummary:
    """What a store holds. captions: different ones, each a vector. kept: of these, what an earlier
    run had written. seconds: that the others took."""

    folder: Path
    encoder: str
    width: int
    clips: int
    captions: int
    kept: int
    bytes: int
    seconds: float


def embed_captions(
    source: Source | Sequence[Clip],
    encode: Encode,
    folder: str | os.PathLike[str],
    *,
    per_write: int = 256,
    console: Console | None = None,
) -> EmbedSummary:
    """Write the vectors of all captions of a source into `folder`, each different caption once,
    going on where an earlier run stopped.

    per_write: captions per call of the encoder; what a stop loses at most. They are handed over in
    the same order and the same groups whether or not the run was stopped, so the files are the
    same, byte for byte, where the encoder gives the same vectors for the same texts.
    console: for the bar, or a line every ten seconds; None for silence.
    Raises DataError: no captions, a vector that float16 cannot hold, a full disk, or a folder that
    holds something else, or vectors of another encoder, other settings or other captions.
    """
    clips = _clips(source)
    captions, index = _indexed(clips)
    asked: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "encoder": encode.name,
        "settings": {**encode.settings, "per_write": per_write},
        "width": encode.width,
        "clips": len(clips),
        "captions": len(captions),
        "data": _fingerprint(index),
    }
    asked = json.loads(json.dumps(asked))  # as it is read back: a tuple becomes a list
    place, complete = _claimed(folder, asked)
    began_s, kept = time.monotonic(), len(captions)
    if not complete:
        raw = safetensors.torch.save(index)
        del index
        write_whole(place / INDEX, raw)
        made = {INDEX: {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}}
        del raw
        made[VECTORS], kept = _write_vectors(place, captions, encode, per_write, console)
        write_whole(place / STORE, json.dumps({**asked, "files": made}, indent=1))
    (place / JOURNAL).unlink(missing_ok=True)
    return EmbedSummary(
        folder=place,
        encoder=encode.name,
        width=encode.width,
        clips=len(clips),
        captions=len(captions),
        kept=kept,
        bytes=len(captions) * encode.width * _HALF.itemsize,
        seconds=time.monotonic() - began_s,
    )


def _fingerprint(index: Mapping[str, Tensor]) -> str:
    """Of which clip has which captions."""
    digest = hashlib.sha256()
    for name in ("keys", "captions"):
        digest.update(index[f"{name}.utf8"].numpy().data)
        digest.update(index[f"{name}.offsets"].numpy().data)
    digest.update(index["clips.offsets"].numpy().data)
    digest.update(index["clips.rows"].numpy().data)
    return digest.hexdigest()


def _claimed(path: str | os.PathLike[str], asked: Mapping[str, Any]) -> tuple[Path, bool]:
    """The folder, now that of this run, and whether all is there already. Raises DataError."""
    folder, empty = made_folder(path)
    if empty:
        write_whole(folder / STORE, json.dumps(asked, indent=1))
        return folder, False
    before = _manifest(folder)
    if any(before.get(name) != value for name, value in asked.items()):
        raise DataError(
            f"{folder}: holds vectors of {_difference(before, asked)}; name another folder, or "
            "remove this one"
        )
    if "files" not in before:
        return folder, False
    SentenceStore.open(folder)  # complete, so its files must be
    return folder, True


def _difference(before: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    old, new = before.get("encoder"), asked["encoder"]
    if old != new:
        return f"another encoder ({old}, now {new})"
    if before.get("width") != asked["width"]:
        return f"another width ({before.get('width')}, now {asked['width']})"
    was, now = before.get("settings"), asked["settings"]
    if isinstance(was, dict) and was != now:
        names = sorted(n for n in was.keys() | now.keys() if was.get(n) != now.get(n))
        changes = "; ".join(f"{n} {was.get(n)!r}, now {now.get(n)!r}" for n in names)
        return f"other settings of {new} ({changes})"
    had, has = ((each.get("captions"), each.get("clips")) for each in (before, asked))
    if had == has:
        return f"other captions or clips, of as many ({has[0]} captions of {has[1]} clips)"
    return (
        f"other captions or clips ({had[0]} captions of {had[1]} clips, now {has[0]} of {has[1]})"
    )


def _write_vectors(
    folder: Path, captions: Sequence[str], encode: Encode, per_write: int, console: Console | None
) -> tuple[dict[str, Any], int]:
    """Size and digest of the file, and how many captions an earlier run had written."""
    row_bytes = encode.width * _HALF.itemsize
    with GrowingFile(
        folder / VECTORS, folder / JOURNAL, len(captions) * row_bytes, per_write * row_bytes
    ) as file:
        kept = file.done_bytes // row_bytes
        with _telling(console, kept, len(captions)) as tell:
            for first in range(kept, len(captions), per_write):
                texts = captions[first : first + per_write]
                file.add(_halves(encode, texts).tobytes())
                tell(first + len(texts))
        return file.finished(), kept


def _halves(encode: Encode, texts: Sequence[str]) -> np.ndarray:
    """(n, E) float16. Raises DataError naming the caption whose vector it cannot hold."""
    vectors = encode(texts)
    if tuple(vectors.shape) != (len(texts), encode.width):
        shape, wanted = tuple(vectors.shape), (len(texts), encode.width)
        raise ValueError(f"encoder {encode.name}: gave vectors of shape {shape}, not {wanted}")
    wide = vectors.numpy()
    with np.errstate(over="ignore"):
        halves = wide.astype(_HALF)
    good = np.isfinite(halves).all(axis=1)
    if not good.all():
        i = int(good.argmin())
        peak = float(np.abs(wide[i]).max())
        what = f"{peak:.4g}, more than float16 holds" if np.isfinite(peak) else "NaN or infinity"
        raise DataError(f"caption {_short(texts[i])}: its vector of {encode.name} has {what}")
    return halves


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


@contextmanager
def _telling(console: Console | None, kept: int, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, else a line every ten seconds; called with the captions done."""
    console = console or Console(quiet=True)
    bar = Progress(
        TextColumn("[bold]captions"),
        MofNCompleteColumn(),
        BarColumn(bar_width=None),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        refresh_per_second=4,
        disable=not console.is_terminal or console.quiet or "CI" in os.environ,
    )
    task = bar.add_task("", total=total, completed=kept)
    began_s = told_s = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told_s
        bar.update(task, completed=done)
        now_s = time.monotonic()
        if bar.disable and now_s - told_s >= _TOLD_EVERY_S and done < total:
            told_s = now_s
            per_s = (done - kept) / (now_s - began_s)
            left = timedelta(seconds=round((total - done) / per_s))
            console.print(f"{done} of {total} captions | {per_s:.3g} captions/s | {left} left")

    with bar:
        yield tell


# -- reading -------------------------------------------------------------------------------------


class SentenceStore:
    """The vectors of captions, by caption or by clip. `open` makes one; pickled, it is opened anew.

    encoder, settings: by what the vectors were made. width: E. captions, keys: what they are of;
    `len` is the number of captions.
    """

    def __init__(
        self, folder: Path, manifest: Mapping[str, Any], index: Mapping[str, Tensor]
    ) -> None:
        self.folder, self._manifest = folder, manifest
        self.encoder: str = manifest["encoder"]
        self.settings: Mapping[str, Any] = manifest["settings"]
        self.width: int = manifest["width"]
        self.captions = Texts(index, "captions", folder / INDEX)
        self.keys = Texts(index, "keys", folder / INDEX)
        self._clip_offsets = index["clips.offsets"]
        self._clip_rows = index["clips.rows"]
        rows = self._clip_rows
        require_offsets(self._clip_offsets.numpy(), len(self.keys), len(rows))
        if rows.dtype != torch.int32 or rows.ndim != 1:
            raise ValueError("rows that are no numbers")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.captions):
            raise ValueError("rows that are not there")
        shape = (len(self.captions), self.width)
        self._vectors = np.memmap(folder / VECTORS, _HALF, "r", shape=shape)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Raises DataError on what is no store, is not finished, or has files of another size."""
        place = Path(folder)
        if not place.is_dir():
            raise DataError(f"{place}: no such folder of sentence vectors")
        manifest = _manifest(place)
        if "files" not in manifest:
            raise DataError(
                f"{place}: unfinished; run echoic data embed-captions again with the same options"
            )
        try:
            for name in (INDEX, VECTORS):
                _check_size(place / name, manifest["files"][name]["bytes"])
            index = safetensors.torch.load_file(place / INDEX)
            return cls(place, manifest, index)
        except SafetensorError as error:
            raise DataError(f"{place / INDEX}: cannot be read ({first_line(error)})") from None
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise DataError(f"{place}: damaged ({first_line(error)}); write it anew") from None

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return type(self).open, (self.folder.absolute(),)

    def __len__(self) -> int:
        return len(self.captions)

    def of_clip(self, key: str) -> Tensor:
        """(n, E) float32: the vectors of a clip's captions, in their order. Raises DataError."""
        (i,) = self.keys.find([key])
        if i < 0:
            raise DataError(f"{self.folder}: has no clip {key!r}; {_REMEDY}")
        first, last = self._clip_offsets[i : i + 2].tolist()
        return self.vectors(self._clip_rows[first:last].long())

    def tokenize(self, captions: Sequence[str]) -> list[list[int]]:
        """The row of each caption, alone in a list: what a loader takes as its tokens. Raises
        DataError."""
        rows = self.captions.find(captions)
        if -1 in rows:
            lacking = _short(captions[rows.index(-1)])
            raise DataError(f"{self.folder}: has no vector of the caption {lacking}; {_REMEDY}")
        return [[row] for row in rows]

    def vectors(self, rows: Tensor) -> Tensor:
        """(n,) int64 -> (n, E) float32."""
        return torch.from_numpy(self._vectors[rows.cpu().numpy()].astype(np.float32))

    def require(self, source: Source | Sequence[Clip]) -> None:
        """Raises DataError where captions of a source have no vector."""
        clips = _clips(source)
        lacking: list[int] = []  # the clip of each such caption
        first = ""
        for start in range(0, len(clips), _AT_ONCE):
            part = [
                (i, caption)
                for i, clip in enumerate(clips[start : start + _AT_ONCE], start)
                for caption in clip.captions
            ]
            found = self.captions.find([caption for _, caption in part])
            absent = [each for each, row in zip(part, found, strict=True) if row < 0]
            first = first or next((_short(caption) for _, caption in absent), "")
            lacking += [i for i, _ in absent]
        if lacking:
            raise DataError(
                f"{self.folder}: has no vector of {len(lacking)} captions, in {len(set(lacking))} "
                f"of {len(clips)} clips (first: {clips[lacking[0]].key}, {first}); {_REMEDY}"
            )

    def verify(self) -> None:
        """Read all of it. Raises DataError where a file is not the one that was written, or a
        vector is not finite."""
        for name in (INDEX, VECTORS):
            told = self._manifest["files"][name]
            with (self.folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != told.get("sha256"):
                raise DataError(
                    f"{self.folder / name}: damaged: its SHA-256 is not the one of {STORE}; copy "
                    "or write the store anew"
                )
        for start in range(0, len(self), _AT_ONCE):
            good = np.isfinite(self._vectors[start : start + _AT_ONCE]).all(axis=1)
            if not good.all():
                lacking = _short(self.captions[start + int(good.argmin())])
                raise DataError(f"{self.folder}: the vector of {lacking} is not finite")


def _check_size(path: Path, wanted: int) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != wanted:
        state = "is not there" if size is None else f"has {size} bytes, not {wanted}"
        raise DataError(f"{path}: {state}; copy or write the store anew")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / STORE
    try:
        tree = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{folder}: holds no {STORE}, so no sentence vectors") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None
    known = isinstance(tree, dict) and tree.get("format") == _FORMAT
    if not known or not isinstance(tree.get("files", {}), dict):
        raise DataError(f"{path}: not written by echoic data embed-captions")
    if tree.get("version") != _VERSION:
        raise DataError(f"{path}: of version {tree.get('version')}; this echoic reads {_VERSION}")
    return tree
