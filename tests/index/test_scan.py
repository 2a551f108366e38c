"""What lies in a folder, and what of it changed."""

from __future__ import annotations

import os

import pytest

from echoic.index.catalog import File
from echoic.index.scan import Scan, compare, scan


def touch(path, size=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))


def test_names_of_all_kinds(tmp_path):
    odd = os.fsencode(tmp_path) + b"/\xff\xfe.wav"
    for name in ("a.wav", "B.FLAC", "x/ü ☂\n.mp3", "notes.txt", ".hidden.wav", ".git/c.wav"):
        touch(tmp_path / name)
    open(odd, "wb").close()
    names = {b"a.wav", b"B.FLAC", "x/ü ☂\n.mp3".encode(), b"\xff\xfe.wav"}
    assert set(scan(tmp_path).files) == names


def test_loops_of_links_end(tmp_path):
    touch(tmp_path / "real/a.wav")
    (tmp_path / "real/up").symlink_to(tmp_path)
    (tmp_path / "real/self").symlink_to(tmp_path / "real")
    (tmp_path / "nothing").symlink_to(tmp_path / "nowhere")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "linked.wav").symlink_to(tmp_path / "real/a.wav")
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    touch(elsewhere / "b.wav")
    (tmp_path / "out").symlink_to(elsewhere)
    assert set(scan(tmp_path).files) == {b"real/a.wav", b"linked.wav", b"out/b.wav"}


def test_a_pipe_is_no_sound(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    assert scan(tmp_path).files == {}


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "none")


def test_files_of_a_folder_that_cannot_be_read_are_not_gone(tmp_path, monkeypatch):
    for name in ("a.wav", "closed/b.wav", "closed-not/c.wav"):
        touch(tmp_path / name)
    known = scan(tmp_path).files
    real = os.scandir

    def refusing(path):
        if os.fsencode(path).endswith(b"/closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    (tmp_path / "closed-not/c.wav").unlink()
    found = scan(tmp_path)
    assert found.blocked == {b"closed": "Permission denied"}
    assert [file.path for file in compare(found, known).gone] == [b"closed-not/c.wav"]


def test_what_changed():
    def files(*rows):
        return {row[0]: File(*row) for row in rows}

    known = files(
        (b"same", 1, 1, 7), (b"size", 1, 1, 7), (b"time", 1, 1, 7), (b"gone", 1, 1, 7),
        (b"bad", 1, 1, None, "no audio"), (b"cut short", 1, 1, None, None),
        (b"mended", 1, 1, None, "no audio"),
    )  # fmt: skip
    found = files(
        (b"same", 1, 1), (b"size", 2, 1), (b"time", 1, 2), (b"new", 1, 1), (b"bad", 1, 1),
        (b"cut short", 1, 1), (b"mended", 1, 2),
    )  # fmt: skip
    told = compare(Scan(found), known)
    pending = [b"size", b"time", b"new", b"cut short", b"mended"]
    assert [file.path for file in told.pending] == pending
    assert [file.path for file in told.gone] == [b"gone"]
    assert (told.same, told.unreadable) == (1, 1)
    assert b"bad" in [file.path for file in compare(Scan(found), known, retry=True).pending]


def test_a_huge_folder():
    paths = [b"%d/%d.wav" % (i % 100, i) for i in range(30_000)]
    found = Scan({path: File(path, 1, 1) for path in paths})
    known = {path: File(path, 1, 1, i) for i, path in enumerate(paths)}
    told = compare(found, known)
    assert (told.same, told.pending, told.gone) == (30_000, [], [])
