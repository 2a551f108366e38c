"""The index behind the page: searched while it changes, damaged, mended; files as it knows them."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress

import numpy as np
import pytest
import soundfile as sf
import torch

from echoic.index import Index
from echoic.web.folder import principal
from tests import tiny
from tests.web.conftest import brought, file_id


@pytest.fixture
def client(started, folder):
    """On a folder that the test may change."""
    return started(folder)


def search(client, **asked):
    return client.post("/api/search", json=asked)


def paths(client, **asked):
    return [hit["path"] for hit in search(client, **asked).json()["hits"]]


def add(folder, name, seed=9):
    sf.write(folder / name, tiny.noise(0.5, seed), tiny.RATE)


def update(folder, model, **options):
    with Index.open(folder, model=model) as index:
        return index.update(**options)


def test_hits_are_those_of_the_index(client, folder, model):
    hits = search(client, text="a dog", top=3).json()["hits"]
    with Index.open(folder, model=model) as index:
        expected = index.search("a dog", top=3)
    assert [h["path"] for h in hits] == [os.path.relpath(h.path, folder) for h in expected]
    assert hits[0]["score"] == pytest.approx(expected[0].cosine, abs=1e-5)
    assert hits[0]["name"] == hits[0]["path"].rpartition("/")[2]
    assert hits[0]["moments"][0]["start_s"] == expected[0].moments[0].start_s


def test_by_an_example_that_was_brought(client, folder):
    sound = brought(client, (folder / "deep/c.ogg").read_bytes()).json()["id"]
    assert paths(client, sound=sound, top=1) == ["deep/c.ogg"]


def test_by_an_example_of_the_index(client):
    assert paths(client, file=file_id(client, "b.flac"), top=1) == ["b.flac"]


def test_filters(client):
    assert sorted(paths(client, text="x", folder="deep", top=9)) == [
        "deep/c.ogg", "deep/d.aiff", "deep/lång ☂.wav"
    ]  # fmt: skip
    assert paths(client, formats=["flac"]) == ["b.flac"]
    assert paths(client, longest_s=0.6) == ["a.wav"]
    assert paths(client, text="x", shortest_s=4) == ["deep/d.aiff"]
    assert paths(client, text="x", after="2999-01-01") == []
    assert paths(client, text="x", tags=["none"]) == []
    assert len(paths(client, text="x", before="9999-12-31", after="0001-01-01")) == 5


def test_only_filters_give_no_score(client):
    hit = search(client, formats=["flac"]).json()["hits"][0]
    assert hit["score"] is None


def test_with_no_words_there_is_everything_by_path(client):
    assert paths(client) == sorted(paths(client, text="x"))


@pytest.mark.parametrize("asked", [{"without": ["a"]}, {"text": " "}, {"folder": "/etc"}])
def test_what_asks_nothing_is_refused(client, asked):
    answer = search(client, **asked)
    assert answer.status_code == 422
    assert "\n" not in answer.json()["error"]


def test_an_example_and_its_own_negative_weight_cancel(client):
    assert search(client, text="a", text_weight=0).status_code == 422


# -- the index changes -----------------------------------------------------------------------------


def test_what_is_indexed_meanwhile_is_found(client, folder, model):
    assert len(paths(client, text="x", top=50)) == 5
    add(folder, "new.wav")
    (folder / "a.wav").unlink()
    update(folder, model)
    found = paths(client, text="x", top=50)
    assert "new.wav" in found
    assert "a.wav" not in found
    names = [p["name"] for p in client.get("/api/map").json()["points"]]
    assert sorted(names) == sorted(path.rpartition("/")[2] for path in found)
    assert client.get("/api/info").json()["index"]["files"] == 5


def test_an_index_that_is_made_anew_is_seen(client, folder, model):
    assert len(paths(client, text="x", top=50)) == 5
    shutil.rmtree(folder / ".echoic")
    assert client.get("/api/info").json()["index"] is None
    assert search(client, text="x").status_code == 404
    add(folder, "new.wav")
    update(folder, model)
    assert len(paths(client, text="x", top=50)) == 6


def test_a_folder_without_an_index_waits_for_one(started, tmp_path, model):
    root = tmp_path / "later"
    root.mkdir()
    client = started(root)
    assert client.get("/api/info").json()["index"] is None
    for answer in (search(client, text="x"), client.get("/api/map")):
        assert answer.status_code == 404
        assert "echoic index" in answer.json()["error"]
    add(root, "one.wav")
    update(root, model)
    assert paths(client, text="x") == ["one.wav"]


def test_no_folder_at_all(started):
    client = started(None)
    assert client.get("/api/info").json()["index"] is None
    assert search(client, text="x").status_code == 404
    sound = brought(client).json()["id"]
    assert client.post("/api/compare", json={"a": {"sound": sound}, "b": {"sound": sound}}).json()[
        "cosine"
    ] == pytest.approx(1, abs=1e-5)


def test_an_empty_index(started, tmp_path, model):
    root = tmp_path / "empty"
    root.mkdir()
    (root / "broken.wav").write_bytes(b"no sound")
    update(root, model)
    client = started(root)
    assert paths(client, text="x") == []
    assert client.get("/api/map").json() == {"explained": [0.0, 0.0], "points": []}
    assert client.get("/api/info").json()["index"]["files"] == 0


def test_an_index_of_another_model_is_refused(started, folder):
    from fastapi.testclient import TestClient

    from echoic.web.app import create_app

    with TestClient(create_app(tiny.captioner(5), folder), base_url="http://localhost") as client:
        answer = search(client, text="x")
    assert answer.status_code == 409
    assert "space" in answer.json()["error"]


# -- the index is damaged --------------------------------------------------------------------------


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def garbled(path):
    raw = bytearray(path.read_bytes())
    some = slice(len(raw) // 4, 3 * len(raw) // 4)
    raw[some] = b"\xaa" * len(raw[some])
    path.write_bytes(raw)


def emptied(path):
    path.write_bytes(b"")


def gone(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut, garbled, emptied, gone])
@pytest.mark.parametrize("name", ["index.json", "catalog.sqlite", "vectors-1.f16", "rows-1.bin"])
def test_a_damaged_index_is_told_and_the_server_lives(started, folder, model, name, damage):
    index = folder / ".echoic"
    for beside in index.glob("catalog.sqlite-*"):
        beside.unlink()
    client = started(folder)  # an error of our own would come through here
    known = file_id(client)
    damage(index / name)
    told = client.get("/api/info").json()
    answers = [
        search(client, text="x", top=50),
        client.get("/api/map"),
        client.get(f"/api/files/{known}/audio"),
        client.get(f"/api/files/{known}/peaks"),
    ]
    assert {answer.status_code for answer in answers} <= {200, 404, 409}
    for answer in answers:
        assert str(folder) not in answer.text
        assert str(folder.parent) not in answer.text
    wrong = [answer.json()["error"] for answer in answers if answer.status_code == 409]
    assert all("\n" not in line for line in wrong)
    if name != "index.json" or damage is not gone:
        assert wrong
        assert any("echoic index" in line or "damaged" in line for line in wrong)
    sound = brought(client).json()["id"]
    assert client.get(f"/api/sounds/{sound}/peaks").status_code == 200
    if name in {"index.json", "catalog.sqlite"} and damage in {cut, emptied}:
        assert told["index"] is None


def test_an_index_that_was_mended_is_seen(client, folder, model):
    assert len(paths(client, text="x", top=50)) == 5
    catalog = folder / ".echoic/catalog.sqlite"
    for beside in (folder / ".echoic").glob("catalog.sqlite-*"):
        beside.unlink()
    emptied(catalog)
    assert search(client, text="x").status_code == 409
    update(folder, model)
    assert len(paths(client, text="x", top=50)) == 5


# -- files -----------------------------------------------------------------------------------------


def test_a_file_is_heard_and_drawn(client, folder):
    known = file_id(client, "lång ☂.wav")
    assert (
        client.get(f"/api/files/{known}/audio").content == (folder / "deep/lång ☂.wav").read_bytes()
    )
    told = client.get(f"/api/files/{known}/peaks?points=50").json()
    assert told["duration_s"] == 3.5
    assert len(told["peaks"]) == 50


@pytest.mark.parametrize("change", ["other", "longer", "gone", "folder", "pipe"])
def test_a_file_that_is_not_what_was_indexed_is_not_served(client, folder, change):
    known, path = file_id(client), folder / "a.wav"
    if change == "other":
        os.utime(path, ns=(1, 1))
    elif change == "longer":
        path.write_bytes(path.read_bytes() + b"x")
    else:
        path.unlink()
        if change == "folder":
            path.mkdir()
        if change == "pipe":
            os.mkfifo(path)
    for what in ("audio", "peaks"):
        answer = client.get(f"/api/files/{known}/{what}")
        assert answer.status_code == 410
        assert answer.json()["error"].startswith("a.wav: ")
    assert client.post("/api/caption", json={"file": known}).status_code == 410


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="reads /proc")
def test_a_folder_in_the_place_of_a_file_is_not_left_open(client, folder):
    known, path = file_id(client), folder / "a.wav"
    path.unlink()
    path.mkdir()
    for _ in range(3):
        client.get(f"/api/files/{known}/audio")
    held = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            held.append(os.readlink(f"/proc/self/fd/{number}"))
    assert str(path) not in held


def test_a_copy_is_served_where_the_first_is_gone(client, folder, model):
    known = file_id(client)
    shutil.copy(folder / "a.wav", folder / "z.wav")
    update(folder, model)
    (folder / "a.wav").unlink()
    assert client.get(f"/api/files/{known}/audio").status_code == 200


def test_a_link_that_is_led_elsewhere_is_not_followed(started, folder, model, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    add(outside, "x.wav", seed=4)
    add(outside, "secret.wav", seed=5)
    (folder / "link.wav").symlink_to(outside / "x.wav")
    update(folder, model)
    client = started(folder)
    known = file_id(client, "link.wav")
    assert client.get(f"/api/files/{known}/audio").status_code == 200
    (folder / "link.wav").unlink()
    (folder / "link.wav").symlink_to(outside / "secret.wav")
    os.utime(outside / "secret.wav", ns=(5, 5))
    assert client.get(f"/api/files/{known}/audio").status_code == 410


@pytest.mark.parametrize(
    "named", ["../a.wav", "%2e%2e%2fa.wav", "a.wav", "0" * 63, "G" * 64, "0" * 64, "..%00"]
)
def test_no_path_is_a_name_of_a_file(client, named):
    assert client.get(f"/api/files/{named}/audio").status_code in {404, 422}
    assert client.post("/api/caption", json={"file": named}).status_code in {404, 422}


def test_no_answer_names_a_place_of_this_machine(client, folder, tmp_path):
    known = file_id(client)
    answers = [
        client.get("/api/info"), search(client, text="x", top=50), client.get("/api/map"),
        client.get(f"/api/files/{known}/peaks"), client.post("/api/caption", json={"file": known}),
        client.get("/openapi.json"), brought(client, b"no sound"),
    ]  # fmt: skip
    for answer in answers:
        assert str(tmp_path) not in answer.text
        assert "/tmp" not in answer.text


def test_names_that_are_no_text(started, folder, model):
    os.rename(folder / "a.wav", os.fsencode(folder) + b"/\xff\xfe\n.wav")
    update(folder, model)
    client = started(folder)
    assert "\ufffd\ufffd\n.wav" in paths(client, text="x", top=50)
    known = file_id(client, "\ufffd\n.wav")
    assert client.get(f"/api/files/{known}/audio").status_code == 200


# -- the map ---------------------------------------------------------------------------------------


def test_the_map_is_that_of_the_principal_components():
    draw = torch.Generator().manual_seed(0)
    spread = torch.tensor([5.0, 2.0, 0.1, 0.1])
    turned = torch.linalg.qr(torch.randn(4, 4, generator=draw)).Q
    known = torch.randn(300, 4, generator=draw) * spread
    places, explained = principal((known @ turned).float())
    x = np.corrcoef(places[:, 0], known[:, 0])[0, 1]
    y = np.corrcoef(places[:, 1], known[:, 1])[0, 1]
    assert min(abs(x), abs(y)) > 0.99
    assert explained[0] == pytest.approx(25 / 29, abs=0.05)
    assert sum(explained) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("count", [1, 2])
def test_the_map_of_very_few(count):
    places, explained = principal(torch.eye(4)[:count])
    assert places.shape == (count, 2)
    assert all(np.isfinite(explained))


def test_as_many_points_as_are_asked_for(client):
    told = client.get("/api/map?points=3").json()
    assert len(told["points"]) == 3
    assert len(client.get("/api/map").json()["points"]) == 5
    assert {"id", "name", "folder", "x", "y"} == told["points"][0].keys()
