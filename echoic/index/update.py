"""Bringing an index up to date: what is new or changed is heard, the rest is only looked at.

Everything is done in small batches, each of which counts when it is on the disk (store.py), so a
kill costs the last of them: some seconds of hearing, or the recording that was being heard.

w windows of a recording, D width.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from echoic.api import EchoicModel
from echoic.audio.io import AudioInfo, probe_audio
from echoic.audio.windows import stream_windows
from echoic.data.tables import find_columns, read_table
from echoic.encoders.m2d import whole_columns
from echoic.index.catalog import Caption, File
from echoic.index.scan import Scan, compare, digest_of, scan, state_of
from echoic.index.store import Store
from echoic.index.vectors import Heard
from echoic.items import Stretch, hear_items, shortest_first
from echoic.listening import AudioTower, Blocks, Piece
from echoic.types import AudioError, DataError

log = logging.getLogger("echoic.index")

WINDOW_S = 10.0  # as long as the clips that most models learnt from
_BATCH_ROWS, _BATCH_S = 256, 10.0  # what a kill costs at most, beside one recording
_WORDS = (  # as people ask; what they find tells how far a search has to look
    "a dog barks", "rain on a tin roof", "birds sing at dawn", "a crowd cheers", "a door creaks",
    "footsteps on gravel", "thunder far away", "waves on a beach", "a car passes by", "an engine",
    "a baby cries", "people talk in a room", "a woman laughs", "a man speaks", "a choir sings",
    "piano", "electric guitar", "drums", "slow ambient music", "techno", "a violin plays", "siren",
    "church bells", "a clock ticks", "wind in trees", "a river flows", "crickets at night", "a cat",
    "horses gallop", "glass breaks", "a gunshot", "an explosion", "fireworks", "a helicopter",
    "a train arrives", "an aeroplane takes off", "a phone rings", "typing on a keyboard", "toilet",
    "frying in a pan", "water drips", "a saw cuts wood", "hammering", "applause", "a whistle",
    "static noise", "silence in a room", "a deep drone", "a short beep", "a cough",
)  # fmt: skip
_UNSETTLED = -1  # in place of a time: to be tried again

# done and total bytes of what is heard, and the file that was just done
Progress = Callable[[int, int, str], None]


@dataclass
class Report:
    """What a writing did, in files. new, changed: also those that turned out unreadable. moved:
    found in another place; copied: found a second time. heard: by the model. unreadable: this time,
    path -> why; known_unreadable: not tried again. mended: sounds whose vectors were damaged.
    files, windows: in the index now."""

    new: int = 0
    changed: int = 0
    moved: int = 0
    copied: int = 0
    deleted: int = 0
    same: int = 0
    heard: int = 0
    known_unreadable: int = 0
    captioned: int = 0
    mended: int = 0
    files: int = 0
    windows: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """All of a recording, in windows of a length. See `listening.Listening`."""

    window_s: float
    hop_s: float
    name = "windows"
    draw = None
    cutting = staticmethod(whole_columns)

    def pieces(self, tower: AudioTower, blocks: Blocks) -> Iterator[Piece]:
        samples = [max(1, round(s * tower.rate_hz)) for s in (self.window_s, self.hop_s)]
        cuts = stream_windows(blocks, window_samples=samples[0], hop_samples=samples[1])
        for start, window in cuts:
            yield Piece(start, start + len(window), window)


@dataclass
class _Pending:
    """A file that is being heard, and those found meanwhile that hold the same."""

    file: File
    digest: bytes
    copies: list[File] = field(default_factory=list)


class Update:
    """One writing, by the store's sole writer. progress: see `Progress`."""

    def __init__(self, store: Store, model: EchoicModel, progress: Progress | None = None) -> None:
        self._store, self._model, self._catalog = store, model, store.catalog
        self._root, self._progress = os.fsencode(store.about.sounds), progress
        self.report = Report()
        self._gone = Counter[int | None]()  # of contents: files that are no longer there
        self._handed = 0
        self._asked: dict[int, _Pending] = {}  # in the order in which the model is handed them
        self._by_digest: dict[bytes, _Pending] = {}
        self._batch: list[tuple[_Pending, Heard, AudioInfo]] = []
        self._linked: list[File] = []  # files that are known without the model
        self._written_s = time.monotonic()
        self._done_bytes = self._total_bytes = 0

    def run(self, *, retry: bool = False, check: bool = False) -> None:
        """Of the folder's files. retry: those too that could not be heard. check: every vector's
        checksum. Raises DataError where the folder is not there, or nothing in it."""
        self.report.mended = self._store.prepare(check=check)
        known = self._catalog.files()
        told = compare(self._scan(len(known)), known, retry=retry)
        self.report.same, self.report.known_unreadable = told.same, told.unreadable
        self.report.deleted = len(told.gone)
        self._gone = Counter(file.content for file in told.gone)
        if told.gone:
            with self._catalog.change():
                self._catalog.drop_files(file.path for file in told.gone)
        self._total_bytes = sum(file.size for file in told.pending)
        try:
            self._hear(told.pending, known)
        finally:  # Ctrl-C: what was heard is kept
            self._write()

    def finish(self) -> Report:
        """Tidy, and count."""
        self._store.tidy(self._texts)
        asked = "SELECT count(*) FROM files WHERE content IS NOT NULL"
        self.report.files = self._catalog.ask(asked)[0][0]
        self.report.windows = self._catalog.state().rows
        return self.report

    def _texts(self) -> Tensor | None:
        return self._model.embed_text(_WORDS) if self._model.reads_text else None

    def _scan(self, known: int) -> Scan:
        folder = os.fsdecode(self._root)
        try:
            found = scan(Path(folder))
        except OSError as error:
            raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
        if not found.files and known:
            raise DataError(
                f"{folder}: no sound is there any more, and {known} are in the index: is its disk "
                f"mounted? If they are to go, remove {self._store.folder}"
            )
        if not found.files:
            raise DataError(f"{folder}: no audio file in this folder")
        for below, reason in found.blocked.items():
            self.report.unreadable[self._name(below)] = reason
        return found

    def _name(self, path: bytes) -> str:
        return os.fsdecode(os.path.join(self._root, path))

    # -- hearing ----------------------------------------------------------------------------------

    def _hear(self, pending: Sequence[File], known: Mapping[bytes, File]) -> None:
        about, tower = self._store.about, self._model.network.audio
        cut = Cut(about.window_s, about.hop_s)
        names = self._to_hear(pending, known)
        for index, found in hear_items(names, tower, cut, self._vectors, finding="vector"):
            each = self._asked.pop(index)
            if isinstance(found, AudioError):
                self._unheard(each, found.reason)
            else:
                self._found(each, found, tower.rate_hz)
            self._step(each.file)

    def _vectors(self, pieces: Sequence[Piece]) -> list[Tensor]:
        def hear(some: Sequence[Piece]) -> Sequence[Tensor]:
            clips = self._model.audio_features([np.asarray(each.content) for each in some]).clip
            return F.normalize(clips.float(), dim=-1).cpu().unbind()

        return shortest_first(pieces, hear)

    def _to_hear(self, pending: Sequence[File], known: Mapping[bytes, File]) -> Iterator[str]:
        """The names of those files that hold what was never heard; of the others it is noted."""
        for file in pending:
            name, old = self._name(file.path), known.get(file.path)
            try:
                digest = digest_of(os.fsencode(name))
            except OSError as error:
                reason = f"cannot be opened ({error.strerror})"
                self._unreadable(replace(file, mtime_ns=_UNSETTLED), reason)
                self._step(file)
                continue
            content = self._catalog.content_of(digest)
            self._count(old, content)
            if content is not None:
                self._link(file, content)
                self._step(file)
            elif (same := self._by_digest.get(digest)) is not None:
                same.copies.append(file)
                self._step(file)
            else:
                each = self._by_digest[digest] = _Pending(file, digest)
                self._asked[self._handed] = each
                self._handed += 1
                yield name

    def _count(self, old: File | None, content: int | None) -> None:
        if old is not None and old.content is not None:
            self.report.changed += old.content != content
            self.report.same += old.content == content  # touched
        elif content is None:
            self.report.new += 1
        elif self._gone[content]:
            self._gone[content] -= 1
            self.report.moved += 1
            self.report.deleted -= 1
        else:
            self.report.copied += 1

    def _found(self, each: _Pending, windows: Sequence[Stretch[Tensor]], rate_hz: int) -> None:
        if self._state(each.file) not in (None, (each.file.size, each.file.mtime_ns)):
            del self._by_digest[each.digest]  # what was heard may not be what was hashed
            return
        vectors = torch.stack([window.found for window in windows])
        if not bool(vectors.isfinite().all()):
            self._unheard(each, "the model makes no finite vector of it")
            return
        times_s = np.array([(w.start, w.stop) for w in windows], np.float64) / rate_hz
        heard = Heard(each.digest, vectors.half().numpy(), times_s)
        self.report.heard += 1
        self._batch.append((each, heard, self._info(each.file, float(times_s[-1, 1]))))
        rows = sum(len(heard.vectors) for _, heard, _ in self._batch)
        if rows >= _BATCH_ROWS or time.monotonic() - self._written_s >= _BATCH_S:
            self._write()

    def _info(self, file: File, heard_s: float) -> AudioInfo:
        try:
            return replace(probe_audio(self._name(file.path)), duration_s=heard_s)
        except AudioError:  # changed since it was heard: looked at again when it is found again
            return AudioInfo(heard_s, 0, 0, "")

    def _link(self, file: File, content: int) -> None:
        asked = "SELECT duration_s FROM contents WHERE id = ? AND rate_hz = 0"
        if remade := self._catalog.ask(asked, content):  # of a catalogue that was made again
            info = self._info(file, remade[0][0])
            with self._catalog.change():
                self._catalog.do(
                    "UPDATE contents SET rate_hz = ?, channels = ?, format = ? WHERE id = ?",
                    [(info.rate_hz, info.channels, info.format, content)],
                )
        self._linked.append(replace(file, content=content))
        if len(self._linked) >= _BATCH_ROWS:
            self._write()

    def _unheard(self, each: _Pending, reason: str) -> None:
        del self._by_digest[each.digest]
        for file in (each.file, *each.copies):
            self._unreadable(file, reason)

    def _unreadable(self, file: File, reason: str) -> None:
        self.report.unreadable[self._name(file.path)] = reason
        if reason != "no such file":  # gone since it was found
            self._linked.append(replace(file, reason=reason))

    def _step(self, file: File) -> None:
        self._done_bytes += file.size
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes, self._name(file.path))

    def _write(self) -> None:
        """What is known by now counts when this returns."""
        batch, self._batch = self._batch, []
        linked, self._linked = self._linked, []
        if batch:
            first = self._catalog.state().rows
            self._store.vectors.add(first, [heard for _, heard, _ in batch])
        if batch or linked:
            with self._catalog.change():
                ids = self._store.add([h for _, h, _ in batch], [info for *_, info in batch])
                for (each, *_), content in zip(batch, ids, strict=True):
                    files = (each.file, *each.copies)
                    linked += [replace(f, content=content) for f in files if self._is_same(f)]
                self._catalog.put_files(linked)
        for each, *_ in batch:
            self._by_digest.pop(each.digest, None)
        self._written_s = time.monotonic()

    def _is_same(self, file: File) -> bool:
        """Whether it is still what was hashed; else the next writing looks at it again."""
        return self._state(file) == (file.size, file.mtime_ns)

    def _state(self, file: File) -> tuple[int, int] | None:
        return state_of(os.path.join(self._root, file.path))

    # -- words ------------------------------------------------------------------------------------

    def caption(self, writer: EchoicModel, on_done: Callable[[int, int], None]) -> None:
        """What each recording says, by a model with decoder, where it has no such captions. Raises
        ConfigError where it has no decoder."""
        asked = (
            "SELECT contents.id, min(path) FROM contents JOIN files ON content = contents.id "
            "WHERE NOT captioned GROUP BY contents.id ORDER BY min(path)"
        )
        todo = self._catalog.ask(asked)
        names = (self._name(path) for _, path in todo)
        for index, spans in writer.iter_captions(names):
            content = todo[index][0]
            if isinstance(spans, AudioError):
                self.report.unreadable[spans.name] = spans.reason
                continue
            said = [Caption(s.start_s, s.end_s, s.text) for s in spans if s.text]
            with self._catalog.change():
                self._catalog.put_captions(content, said, source="model")
                self._catalog.do("UPDATE contents SET captioned = 1 WHERE id = ?", [(content,)])
            self.report.captioned += 1
            on_done(self.report.captioned, len(todo))

    def read_tables(self, tables: Sequence[Path]) -> None:
        """Tags and captions that tables say of the files: by path from the table or the folder, or
        by a name that is there once. Raises DataError."""
        places = self._places()
        for table in tables:
            self._read_table(table, places)

    def _places(self) -> dict[bytes, int | None]:
        """The content of each path, and of each name; None of a name that stands for several."""
        found: dict[bytes, int | None] = {}
        rows = self._catalog.ask("SELECT path, content FROM files WHERE content > 0")
        for path, content in rows:
            name = os.path.basename(path)
            if name != path:
                found[name] = content if found.get(name, content) == content else None
        return found | {bytes(path): content for path, content in rows}

    def _read_table(self, path: Path, places: Mapping[bytes, int | None]) -> None:
        table = read_table(path)
        columns = find_columns(str(path), table.columns, need_captions=False)
        lost, said = 0, defaultdict[int, dict[str, None]](dict)  # a file may have several rows
        with self._catalog.change():
            for row in table.rows:
                content = self._place_of(path, str(row.cells.get(columns.file or "")), places)
                if content is None:
                    lost += 1
                    continue
                self._catalog.put_tags(content, map(_as_utf8, columns.tags_of(row.cells)))
                said[content] |= dict.fromkeys(map(_as_utf8, columns.captions_of(row.cells)))
            for content, texts in said.items():
                captions = [Caption(0.0, math.inf, text) for text in texts]
                self._catalog.put_captions(content, captions, source=f"table {path.name}")
        if lost:
            log.warning("%s: %d of %d rows name no file of the index", path, lost, len(table.rows))

    def _place_of(self, table: Path, cell: str, places: Mapping[bytes, int | None]) -> int | None:
        try:
            named = os.fsencode(cell)
        except UnicodeEncodeError:  # of what no file can be named
            return None
        beside = os.path.relpath(os.path.join(os.fsencode(table.parent), named), self._root)
        for path in (named, beside, os.path.basename(named)):
            if (content := places.get(os.path.normpath(path))) is not None:
                return content
        return None


def _as_utf8(text: str) -> str:
    """JSON can hold half of a character, which UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()
