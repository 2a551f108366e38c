from __future__ import annotations

import functools
import http.server
import json
import logging
import os
import threading
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest

from echoic.data import remote, tar_index
from echoic.data.checksums import damaged_tars
from echoic.data.clips import Clip
from echoic.data.loader import Loader
from echoic.data.remote import RemoteFile, again, place_of
from echoic.data.shards import ShardSource, write_shards
from echoic.data.sources import open_source
from echoic.data.tar_index import SUFFIX, open_index
from echoic.types import AudioError, DataError

RATE_HZ = 8000


@pytest.fixture
def folder(tmp_path):
    """Three shards of 4, 4 and 2 clips."""
    made = (
        (
            Clip(f"clip{i}", (f"caption {i}",), ("x",), None),
            np.random.default_rng(i).uniform(-0.9, 0.9, 800 + 80 * i).astype(np.float32),
        )
        for i in range(10)
    )
    write_shards(made, tmp_path / "shards", per_shard=4, rate_hz=RATE_HZ)
    return tmp_path / "shards"


@pytest.fixture
def store(folder, monkeypatch):
    """The shards in fsspec's memory, and their address."""
    monkeypatch.setattr(remote, "_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(RemoteFile.__init__, "__kwdefaults__", {"pauses_s": (0.0, 0.0)})
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


ADDRESS = "memory://bucket"


def same(source, folder) -> None:
    local = ShardSource(folder)
    assert source.clips == local.clips
    assert list(source.rows) == list(local.rows)
    for i in range(len(local.clips)):
        assert np.array_equal(source.read(i, RATE_HZ), local.read(i, RATE_HZ))
    assert np.array_equal(
        source.read_window(9, RATE_HZ, 0.05, 0.02), local.read_window(9, RATE_HZ, 0.05, 0.02)
    )


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("s3://bucket/x", "s3://bucket/x"),
        (Path("s3://bucket/x"), "s3://bucket/x"),
        (Path("https://host:80/a/b.tar"), "https://host:80/a/b.tar"),
        (Path("filecache::s3://bucket/x"), "filecache::s3://bucket/x"),
        (Path("file:///a/b"), Path("/a/b")),
        ("a/b", Path("a/b")),
        ("/a/b", Path("/a/b")),
        ("C:/a", Path("C:/a")),
    ],
)
def test_places(path, place):
    assert place_of(path) == place


class TestMemory:
    def test_the_same_clips_as_on_disk(self, store, folder):
        same(open_source(ADDRESS), folder)
        same(open_source(Path(ADDRESS)), folder)  # as the command line has it
        assert len(open_source(f"{ADDRESS}/shard-000001.tar").clips) == 4
        assert len(open_source(f"{ADDRESS}/shard-{{000000..000001}}.tar").clips) == 8

    def test_listed_by_the_store_where_no_sizes_json_is(self, store, folder):
        store.rm("/bucket/sizes.json")
        same(open_source(ADDRESS), folder)

    def test_the_index_is_kept_and_made_anew(self, store, monkeypatch):
        built = []
        build = tar_index._build

        def counted(tar, *rest):
            built.append(tar.name)
            return build(tar, *rest)

        monkeypatch.setattr(tar_index, "_build", counted)
        tar = RemoteFile(f"{ADDRESS}/shard-000000.tar")
        first = open_index(tar)
        assert open_index(tar) == first
        assert built == [tar.name]
        store.pipe("/bucket/shard-000000.tar", store.cat("/bucket/shard-000002.tar"))
        assert len(open_index(tar).members) == 2
        assert len(built) == 2

    def test_an_index_beside_the_tar_spares_reading_it(self, store, folder, monkeypatch):
        source = ShardSource(folder)  # makes them
        for path in folder.glob(f"*{SUFFIX}"):
            store.pipe(f"/bucket/{path.name}", path.read_bytes())
        monkeypatch.setattr(tar_index, "_build", None)
        assert open_source(ADDRESS).clips == source.clips

    def test_bytes_other_than_those_written_are_told(self, store):
        source = open_source(ADDRESS)
        place = source._place(1)
        raw = bytearray(store.cat("/bucket/shard-000000.tar"))
        raw[place.offset + place.size // 2] ^= 1
        store.pipe("/bucket/shard-000000.tar", bytes(raw))
        source.read(0, RATE_HZ)
        with pytest.raises(AudioError, match=r"clip1\.flac: damaged: not the bytes .*checksum"):
            source.read(1, RATE_HZ)
        assert damaged_tars(ADDRESS) == {
            "shard-000000.tar": "not the bytes that were written (checksum)"
        }

    def test_nothing_there(self, store):
        with pytest.raises(DataError, match=r"none: no \.tar in it|none: cannot be listed"):
            open_source("memory://none")
        with pytest.raises(DataError, match=r"x\.tar: cannot be read \(no such file there\)"):
            open_source("memory://bucket/x.tar")
        with pytest.raises(DataError, match="no such kind of address"):
            open_source("nonsense://bucket")

    def test_a_tar_that_is_not_there_is_left_out_if_asked(self, store, caplog):
        store.rm("/bucket/shard-000001.tar")
        with pytest.raises(DataError, match=r"shard-000001\.tar: cannot be read"):
            open_source(ADDRESS)
        assert len(open_source(ADDRESS, missing="skip").clips) == 6
        assert "shard-000001.tar: cannot be read (no such file there); left out" in caplog.text


class TestVanishing:
    def test_is_told_once_and_not_waited_for_again(self, store, caplog, monkeypatch):
        source = open_source(ADDRESS)
        store.rm("/bucket/shard-000001.tar")
        asked = []
        cat = type(store).cat_file
        monkeypatch.setattr(
            type(store), "cat_file", lambda *a, **k: asked.append(a) or cat(*a, **k)
        )
        for i in range(4, 8):
            with pytest.raises(AudioError, match=r"000001\.tar/clip\d\.flac: the tar cannot be re"):
                source.read(i, RATE_HZ)
        assert len(asked) == 1
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
            "memory://bucket/shard-000001.tar: the tar cannot be read (no such file there); its 4 "
            "clips count as bad while this lasts"
        ]

    def test_comes_back(self, store, monkeypatch):
        now = [0.0]
        monkeypatch.setattr("echoic.data.shards.time.monotonic", lambda: now[0])
        source = open_source(ADDRESS)
        raw = store.cat("/bucket/shard-000001.tar")
        store.rm("/bucket/shard-000001.tar")
        with pytest.raises(AudioError):
            source.read(4, RATE_HZ)
        store.pipe("/bucket/shard-000001.tar", raw)
        with pytest.raises(AudioError):
            source.read(5, RATE_HZ)
        now[0] = 61.0
        assert len(source.read(5, RATE_HZ)) == 1200

    @pytest.mark.parametrize("allowed", [0.5, 0.1])
    def test_a_training_goes_on_while_few_enough_are_bad(self, store, allowed):
        source = open_source(ADDRESS)
        store.rm("/bucket/shard-000001.tar")
        loader = Loader(
            source, rate_hz=RATE_HZ, tokenize=lambda texts: [[1] for _ in texts],
            cost=lambda s: 1, budget=5, seed=0, max_bad_share=allowed,
        )  # fmt: skip
        batches = loader.batches()
        if allowed == 0.5:
            heard = {key for _ in range(6) for key in next(batches).keys}
            assert heard == {f"clip{i}" for i in (0, 1, 2, 3, 8, 9)}
            assert set(loader.bad) == {f"clip{i}" for i in range(4, 8)}
        else:
            with pytest.raises(DataError, match=r"unusable.*: clip\d: the tar cannot be read"):
                list(islice(batches, 20))
        batches.close()


class TestRetries:
    def fails(self, *errors):
        left = list(errors)

        def work():
            if left:
                raise left.pop(0)
            return "done"

        return work

    def test_passing_failures_are_tried_again(self):
        work = self.fails(ConnectionResetError("reset"), TimeoutError())
        assert again(work, "x", (0.0, 0.0)) == "done"

    def test_then_told_with_their_number(self):
        with pytest.raises(OSError, match=r"reset, 3 times$"):
            again(self.fails(*[ConnectionResetError("reset")] * 9), "x", (0.0, 0.0))
        with pytest.raises(OSError, match=r"no answer in time$"):
            again(self.fails(TimeoutError()), "x", ())

    @pytest.mark.parametrize("error", [FileNotFoundError("x"), PermissionError("no")])
    def test_lasting_ones_are_not(self, error):
        work = self.fails(error)
        with pytest.raises(type(error)):
            again(work, "x", (0.0,))
        assert work() == "done"  # it was called once

    def test_what_is_no_failure_of_the_store_keeps_its_traceback(self):
        with pytest.raises(KeyError):
            again(self.fails(KeyError("bug")), "x", (0.0,))

    def test_a_store_that_ignores_the_range_is_told(self, store, monkeypatch):
        monkeypatch.setattr(type(store), "cat_file", lambda *a, **k: b"0" * 100)
        with pytest.raises(OSError, match=r"its server gives whole files only, no parts$"):
            RemoteFile(f"{ADDRESS}/shard-000000.tar").read(0, 10)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files in parts; `faults` are answered first, one to a request for bytes of a tar."""

    faults: list[int]
    asked: list[str]

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        span = self.headers.get("Range")
        self.asked.append(f"{path.name} {span}")
        if span and self.faults:
            self.send_error(self.faults.pop(0))
            return
        if not path.is_file():
            self.send_error(404)
            return
        raw = path.read_bytes()
        first, last = map(int, span.removeprefix("bytes=").split("-")) if span else (0, len(raw))
        body = raw[first : last + 1]
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        pass


@pytest.fixture
def server(folder, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(RemoteFile.__init__, "__kwdefaults__", {"pauses_s": (0.0, 0.0)})
    handler = type("Faulty", (Handler,), {"faults": [], "asked": []})
    made = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=os.fspath(folder))
    )
    threading.Thread(target=made.serve_forever, daemon=True).start()
    made.handler = handler
    yield made
    made.shutdown()
    made.server_close()
    fsspec.filesystem("http").clear_instance_cache()


class TestHttp:
    def address(self, server) -> str:
        return f"http://127.0.0.1:{server.server_port}"

    def test_the_same_clips_as_on_disk(self, server, folder):
        same(open_source(self.address(server)), folder)

    def test_one_clip_is_one_part(self, server):
        source = open_source(self.address(server))
        server.handler.asked.clear()
        source.read(5, RATE_HZ)
        place = source._place(5)
        span = f"bytes={place.offset}-{place.offset + place.size - 1}"
        assert server.handler.asked == [f"shard-000001.tar {span}"]

    def test_failures_of_a_moment_are_not_noticed(self, server, folder):
        source = open_source(self.address(server))
        server.handler.faults += [503, 500]
        assert np.array_equal(source.read(0, RATE_HZ), ShardSource(folder).read(0, RATE_HZ))
        assert not server.handler.faults

    def test_failures_that_stay_are_told(self, server):
        source = open_source(self.address(server))
        server.handler.faults += [503] * 3
        with pytest.raises(AudioError, match=r"clip0\.flac: .* \(answer 503, 3 times\)"):
            source.read(0, RATE_HZ)
        server.handler.faults.clear()
        server.handler.faults += [403] * 3
        with pytest.raises(AudioError, match=r"clip4\.flac: the tar cannot be read \(answer 403\)"):
            source.read(4, RATE_HZ)
        assert len(server.handler.faults) == 2

    def test_a_shard_that_goes(self, server, folder):
        source = open_source(self.address(server))
        (folder / "shard-000001.tar").unlink()
        with pytest.raises(AudioError, match=r"the tar cannot be read \(no such file there"):
            source.read(4, RATE_HZ)
        assert len(source.read(0, RATE_HZ)) == 800

    def test_no_server(self, server):
        url = self.address(server)
        server.shutdown()
        server.server_close()
        with pytest.raises(DataError, match=r"sizes\.json: cannot be read \(.*3 times"):
            open_source(url)


def test_listed_names_stay_in_their_folder(store):
    store.pipe("/bucket/sizes.json", json.dumps({"../x.tar": 1, "shard-000000.tar": 4}).encode())
    assert len(open_source(ADDRESS).clips) == 4
