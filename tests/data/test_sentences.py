"""The store of sentence vectors: what it gives back, that stops and damage do not go unnoticed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from echoic.data.clips import Clip
from echoic.data.loader import Loader
from echoic.data.sentences import INDEX, JOURNAL, STORE, VECTORS, SentenceStore, embed_captions
from echoic.types import DataError

CLIPS = [
    Clip("a.wav", ("a dog barks", "barking"), (), 1.0),
    Clip("b/ü.wav", ("rain",), (), 1.0),
    Clip("c.wav", ("barking", "a cat \u732b", "lone \ud800"), (), 1.0),
    Clip("mute.wav", (), (), 1.0),
]
CAPTIONS = ["a dog barks", "barking", "rain", "a cat \u732b", "lone \ud800"]


class Letters:
    """An encoder whose vectors hang on the text alone; notes what it is asked."""

    name, width = "letters", 6

    def __init__(self, **settings):
        self.settings, self.asked = settings, []

    def __call__(self, texts):
        self.asked.append(list(texts))
        return torch.stack([self.vector(text) for text in texts])

    def vector(self, text):
        rng = np.random.default_rng(list(text.encode("utf-8", "surrogatepass")))
        return torch.from_numpy(rng.standard_normal(self.width).astype(np.float32))


class Slow(Letters):
    def __call__(self, texts):
        time.sleep(0.01)
        return super().__call__(texts)


def many(count=600):
    """Clips with two captions each, some of which are equal."""
    return [Clip(f"{i}.wav", (f"sound {i}", f"kind {i % 7}"), (), None) for i in range(count)]


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def refused(call, *args, **options) -> str:
    with pytest.raises(DataError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def store(tmp_path):
    embed_captions(CLIPS, Letters(), tmp_path / "store", per_write=2)
    return SentenceStore.open(tmp_path / "store")


def halves(*texts):
    return torch.stack([Letters().vector(text) for text in texts]).half().float()


class TestReading:
    def test_captions_by_clip_and_by_text(self, store):
        assert (len(store), store.width, store.encoder) == (5, 6, "letters")
        assert list(store.captions) == CAPTIONS
        assert list(store.keys) == [clip.key for clip in CLIPS]
        for clip in CLIPS[:3]:
            assert torch.equal(store.of_clip(clip.key), halves(*clip.captions))
        assert store.of_clip("mute.wav").shape == (0, 6)
        asked = ["rain", "lone \ud800", "rain"]
        rows = store.tokenize(asked)
        assert rows == [[2], [4], [2]]
        found = store.vectors(torch.tensor(rows).flatten())
        assert found.dtype == torch.float32
        assert torch.equal(found, halves(*asked))

    def test_what_is_not_there_is_named(self, store):
        line = refused(store.tokenize, ["rain", "Rain"])
        assert "has no vector of the caption 'Rain'" in line
        assert "has no clip 'x.wav'" in refused(store.of_clip, "x.wav")
        assert "rain" in store.captions
        assert "Rain" not in store.captions
        assert 3 not in store.captions

    def test_require(self, store):
        store.require(CLIPS)
        store.require([replace(CLIPS[0], key="other key")])
        more = [*CLIPS, Clip("n.wav", ("rain", "new", "newer"), (), 1.0), Clip("o", ("x",), (), 1)]
        line = refused(store.require, more)
        assert "has no vector of 3 captions, in 2 of 6 clips (first: n.wav, 'new')" in line

    def test_the_file_is_what_it_says(self, store, tmp_path):
        raw = np.fromfile(store.folder / VECTORS, "<f2").reshape(5, 6)
        assert torch.equal(torch.from_numpy(raw).float(), halves(*CAPTIONS))
        assert sorted(contents(store.folder)) == sorted([STORE, INDEX, VECTORS])

    def test_a_loader_reads_rows_in_place_of_tokens(self, store):
        class Sounds:
            clips = CLIPS[:3]

            def read(self, i, rate_hz):
                return np.full(rate_hz, 0.1, np.float32)

        loader = Loader(
            Sounds(), tokenize=store.tokenize, rate_hz=800, max_s=1, cost=lambda s: 1, budget=3,
            seed=0, threads=1,
        )  # fmt: skip
        batches = loader.batches()
        batch = next(batches)
        batches.close()
        drawn = [store.captions[int(row)] for row in batch.text.values]
        assert batch.text.lengths == (1, 1, 1)
        captions = {clip.key: clip.captions for clip in CLIPS}
        assert all(text in captions[key] for key, text in zip(batch.keys, drawn, strict=True))
        assert torch.equal(store.vectors(batch.text.values), halves(*drawn))


def _read_elsewhere(store: SentenceStore, rows: list[int]) -> list[list[float]]:
    return store.vectors(torch.tensor(rows)).tolist()


class TestProcesses:
    def test_a_pickled_store_is_the_path_alone(self, store):
        raw = pickle.dumps(store)
        assert len(raw) < 400
        again = pickle.loads(raw)
        assert torch.equal(again.of_clip("a.wav"), store.of_clip("a.wav"))

    def test_two_processes_read_one_store(self, store, monkeypatch):
        monkeypatch.chdir(store.folder.parent)
        here = SentenceStore.open(Path("store"))  # relative: a worker may stand elsewhere
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(_read_elsewhere, (here, [4, 0]))
        assert found == here.vectors(torch.tensor([4, 0])).tolist()

    def test_vectors_are_mapped_not_read(self, store):
        assert isinstance(store._vectors, np.memmap)
        assert not store._vectors.flags.writeable


class TestWriting:
    def test_equal_captions_are_embedded_once_in_the_order_of_the_clips(self, tmp_path):
        encode = Letters()
        summary = embed_captions(CLIPS, encode, tmp_path, per_write=2)
        assert encode.asked == [CAPTIONS[:2], CAPTIONS[2:4], CAPTIONS[4:]]
        assert (summary.clips, summary.captions, summary.kept) == (4, 5, 0)
        assert summary.bytes == (tmp_path / VECTORS).stat().st_size == 5 * 6 * 2

    def test_a_whole_store_is_left_alone(self, store):
        before, encode = contents(store.folder), Letters()
        (store.folder / JOURNAL).write_text("of a run killed at its very end")
        assert embed_captions(CLIPS, encode, store.folder, per_write=2).kept == 5
        assert (encode.asked, contents(store.folder)) == ([], before)

    def test_no_captions(self, tmp_path):
        line = refused(embed_captions, CLIPS[3:], Letters(), tmp_path / "x")
        assert line == "no caption to embed in 1 clips"
        assert not (tmp_path / "x").exists()

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (np.nan, "NaN or infinity"),
            (-np.inf, "NaN or infinity"),
            (-1e5, "1.93e+05, more than float16 holds"),
        ],
    )
    def test_a_vector_that_halves_cannot_hold_names_its_caption(self, tmp_path, value, said):
        class Bad(Letters):
            def vector(self, text):
                return super().vector(text) * (1 if text != "rain" else value)

        line = refused(embed_captions, CLIPS, Bad(), tmp_path, per_write=2)
        assert line == f"caption 'rain': its vector of letters has {said}"
        assert "unfinished" in refused(SentenceStore.open, tmp_path)
        assert embed_captions(CLIPS, Letters(), tmp_path, per_write=2).kept == 2

    def test_an_encoder_that_loses_count_is_an_error_of_its_own(self, tmp_path):
        class Short(Letters):
            def __call__(self, texts):
                return super().__call__(texts[:1])

        with pytest.raises(ValueError, match=r"shape \(1, 6\), not \(5, 6\)"):
            embed_captions(CLIPS, Short(), tmp_path)

    def test_progress_without_a_terminal(self, tmp_path, monkeypatch, capsys):
        clock = iter(np.arange(0, 1e4, 4.0))
        own = SimpleNamespace(monotonic=lambda: next(clock))  # other threads keep theirs
        monkeypatch.setattr("echoic.data.sentences.time", own)
        embed_captions(many(20), Letters(), tmp_path, per_write=3, console=Console())
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "9 of 27 captions | 0.75 captions/s | 0:00:24 left"
        assert len(lines) == 2

    def test_silence(self, tmp_path, capsys):
        embed_captions(many(20), Letters(), tmp_path)
        assert capsys.readouterr() == ("", "")


class TestGoingOn:
    @pytest.mark.parametrize("stop_after", range(4))
    def test_after_a_stop_between_pieces(self, tmp_path, stop_after):
        class Stopping(Letters):
            def __call__(self, texts):
                if len(self.asked) == stop_after:
                    raise KeyboardInterrupt
                return super().__call__(texts)

        embed_captions(CLIPS, Letters(), tmp_path / "whole", per_write=2)
        if stop_after < 3:
            with pytest.raises(KeyboardInterrupt):
                embed_captions(CLIPS, Stopping(), tmp_path / "out", per_write=2)
            assert "unfinished; run" in refused(SentenceStore.open, tmp_path / "out")
        encode = Letters()
        summary = embed_captions(CLIPS, encode, tmp_path / "out", per_write=2)
        kept = 2 * stop_after if stop_after < 3 else 0
        assert summary.kept == kept
        assert sum(map(len, encode.asked)) == 5 - kept
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")

    def test_after_kills_at_any_moment(self, tmp_path):
        embed_captions(many(), Letters(), tmp_path / "whole", per_write=5)
        out = tmp_path / "out"
        code = (
            "import sys; sys.path.insert(0, sys.argv[2])\n"
            "from tests.data.test_sentences import *\n"
            "print('ready', flush=True)\n"
            "embed_captions(many(), Slow(), sys.argv[1], per_write=5)\n"
        )
        root = Path(__file__).parents[2]
        for grown in (617, 2345):
            with subprocess.Popen(
                [sys.executable, "-c", code, out, root], stdout=subprocess.PIPE
            ) as process:
                assert process.stdout.readline() == b"ready\n"
                deadline = time.monotonic() + 60
                while size_of(out / VECTORS) < grown and time.monotonic() < deadline:
                    time.sleep(0.001)
                process.send_signal(signal.SIGKILL)
        encode = Letters()
        summary = embed_captions(many(), encode, out, per_write=5)
        assert 50 <= summary.kept < 607
        assert summary.kept + sum(map(len, encode.asked)) == 607
        assert contents(out) == contents(tmp_path / "whole")
        SentenceStore.open(out).verify()

    @pytest.mark.parametrize("name", [VECTORS, JOURNAL])
    def test_after_a_cut_or_a_change_anywhere(self, tmp_path, name, rng):
        """As a machine that lost its power may leave them."""
        clips, whole = many(20), tmp_path / "whole"
        embed_captions(clips, Letters(), whole, per_write=4)

        class Stopping(Letters):
            def __call__(self, texts):
                if len(self.asked) == 5:
                    raise KeyboardInterrupt
                return super().__call__(texts)

        for i in range(12):
            out = tmp_path / str(i)
            with pytest.raises(KeyboardInterrupt):
                embed_captions(clips, Stopping(), out, per_write=4)
            raw = bytearray((out / name).read_bytes())
            place = int(rng.integers(len(raw)))
            if i % 2:
                raw[place] ^= 1 << int(rng.integers(8))
            else:
                del raw[place:]
            (out / name).write_bytes(raw)
            summary = embed_captions(clips, Letters(), out, per_write=4)
            assert summary.kept <= 20
            assert summary.kept == 4 * (place // (48 if name == VECTORS else 65))
            assert contents(out) == contents(whole)


class TestRefused:
    @pytest.mark.parametrize(
        ("clips", "encode", "options", "said"),
        [
            (CLIPS[:2], Letters(a=1), {}, "other captions or clips (5 captions of 4 clips, now 3"),
            ([*CLIPS[1:], CLIPS[0]], Letters(a=1), {}, "other captions or clips, of as many (5"),
            ([replace(CLIPS[0], key="x"), *CLIPS[1:]], Letters(a=1), {}, "other captions or clips"),
            (CLIPS, Letters(a=2), {}, "other settings of letters (a 1, now 2)"),
            (CLIPS, Letters(), {}, "other settings of letters (a 1, now None)"),
            (CLIPS, Letters(a=1), {"per_write": 9}, "(per_write 2, now 9)"),
            (CLIPS, type("L", (Letters,), {"name": "z"})(a=1), {}, "encoder (letters, now z)"),
            (CLIPS, type("L", (Letters,), {"width": 3})(a=1), {}, "another width (6, now 3)"),
        ],
    )
    @pytest.mark.parametrize("finished", [True, False])
    def test_another_run_is_not_mixed_in(self, tmp_path, clips, encode, options, said, finished):
        embed_captions(CLIPS, Letters(a=1), tmp_path, per_write=2)
        if not finished:
            manifest = json.loads((tmp_path / STORE).read_text())
            del manifest["files"]
            (tmp_path / STORE).write_text(json.dumps(manifest))
        before = contents(tmp_path)
        line = refused(embed_captions, clips, encode, tmp_path, **{"per_write": 2, **options})
        assert line.startswith(f"{tmp_path}: holds vectors of ")
        assert said in line
        assert "name another folder, or remove this one" in line
        assert contents(tmp_path) == before

    def test_places(self, tmp_path):
        (tmp_path / "file").write_text("x")
        line = refused(embed_captions, CLIPS, Letters(), tmp_path / "file")
        assert "cannot be made a folder" in line
        line = refused(embed_captions, CLIPS, Letters(), tmp_path)
        assert f"holds no {STORE}, so no sentence vectors" in line
        assert "no such folder" in refused(SentenceStore.open, tmp_path / "gone")

    @pytest.mark.parametrize("name", [VECTORS, INDEX])
    def test_a_flipped_bit_is_found(self, store, name):
        store.verify()
        raw = bytearray((store.folder / name).read_bytes())
        raw[-1] ^= 4
        (store.folder / name).write_bytes(raw)
        again = SentenceStore.open(store.folder)
        assert f"{name}: damaged: its SHA-256" in refused(again.verify)

    @pytest.mark.parametrize("name", [VECTORS, INDEX])
    def test_a_file_cut_off_or_absent(self, store, name):
        file = store.folder / name
        size = file.stat().st_size
        file.write_bytes(file.read_bytes()[:-1])
        line = f"has {size - 1} bytes, not {size}; copy or write the store anew"
        assert line in refused(SentenceStore.open, store.folder)
        assert line in refused(embed_captions, CLIPS, Letters(), store.folder, per_write=2)
        file.unlink()
        assert f"{name}: is not there" in refused(SentenceStore.open, store.folder)

    def test_a_vector_that_is_not_finite_is_named(self, store):
        raw = np.fromfile(store.folder / VECTORS, "<f2")
        raw[13] = np.nan
        raw.tofile(store.folder / VECTORS)
        manifest = json.loads((store.folder / STORE).read_text())
        manifest["files"][VECTORS]["sha256"] = hashlib.sha256(raw.tobytes()).hexdigest()
        (store.folder / STORE).write_text(json.dumps(manifest))
        line = refused(SentenceStore.open(store.folder).verify)
        assert "the vector of 'rain' is not finite" in line

    @pytest.mark.parametrize(
        "text",
        ["{", "[]", "{}", '{"format": "echoic.sentences", "version": 9}',
         '{"format": "echoic.sentences", "version": 1, "files": []}',
         '{"format": "echoic.sentences", "version": 1, "files": {}}'],
    )  # fmt: skip
    def test_a_damaged_manifest(self, store, text):
        (store.folder / STORE).write_text(text)
        assert str(store.folder) in refused(SentenceStore.open, store.folder)

    def test_an_index_of_another_kind(self, store):
        file = store.folder / INDEX
        file.write_bytes(b"x" * file.stat().st_size)
        assert f"{INDEX}: cannot be read" in refused(SentenceStore.open, store.folder)
