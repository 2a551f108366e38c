"""What the model is asked by the page, and what it answers."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from fastapi.testclient import TestClient

from echoic.api import EchoicModel
from echoic.timeline import Steps
from echoic.types import EchoicError
from echoic.web.app import create_app
from tests import tiny
from tests.web.conftest import HOST, brought, file_id, wav


def test_tags_are_those_of_the_model(client, model):
    raw = wav(3.0)
    sound = brought(client, raw).json()["id"]
    told = client.post("/api/tag", json={"sound": sound, "labels": ["dog", "rain"]}).json()
    line = model.timeline(raw, ["dog", "rain"], steps=Steps(0.2, 2 / 3))
    assert (told["labels"], told["step_s"], told["scale"]) == (["dog", "rain"], 0.2, "probability")
    np.testing.assert_allclose(told["scores"], line.probabilities, atol=1e-5)
    expected = [(s.label, s.onset_s, s.offset_s) for s in line.spans(0.3)]
    assert [(s["label"], s["onset_s"], s["offset_s"]) for s in told["spans"]] == expected


def test_tags_of_a_file_of_the_index(client):
    asked = {"file": file_id(client), "labels": ["a"], "step_s": 0.1, "threshold": 0.99}
    told = client.post("/api/tag", json=asked).json()
    assert len(told["scores"]) == 5
    assert told["spans"][0]["offset_s"] == 0.5


@pytest.mark.parametrize("step_s", [0.03, 50])
def test_steps_that_no_model_has(client, step_s):
    sound = brought(client, wav(700 if step_s < 1 else 1.0, form="FLAC")).json()["id"]
    asked = {"sound": sound, "labels": ["a"], "step_s": step_s}
    answer = client.post("/api/tag", json=asked)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("step_s: ")


def test_captions_are_those_of_the_model(client, model):
    raw = wav(3.0)
    sound = brought(client, raw).json()["id"]
    told = client.post("/api/caption", json={"sound": sound}).json()
    ((_, spans),) = model.iter_captions([raw])
    assert told["text"] == model.caption(raw)[0]
    assert [s["start_s"] for s in told["spans"]] == [s.start_s for s in spans]


def test_how_near_two_are(client, model):
    one, other = wav(1.0, 1), wav(1.0, 2)
    a, b = (brought(client, raw).json()["id"] for raw in (one, other))
    asked = {"a": {"sound": a}, "b": {"sound": b}, "labels": ["dog"]}
    told = client.post("/api/compare", json=asked).json()
    vectors = model.embed_audio([one, other])
    assert told["cosine"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
    scores = vectors @ model.embed_labels(["dog"]).T
    assert told["labels"][0]["a"] == pytest.approx(float(scores[0]), abs=1e-5)
    assert client.post("/api/compare", json=asked | {"labels": []}).json()["labels"] is None


def test_a_sound_is_heard_once_for_all_that_wants_its_vector(client, sound, monkeypatch):
    heard = []
    real = EchoicModel.embed_audio
    monkeypatch.setattr(
        EchoicModel, "embed_audio", lambda self, items: (heard.append(1), real(self, items))[1]
    )
    both = {"a": {"sound": sound}, "b": {"file": file_id(client)}}
    for _ in range(2):
        client.post("/api/search", json={"sound": sound})
        client.post("/api/compare", json=both)
    assert len(heard) == 2


@pytest.mark.parametrize("path", ["tag", "caption", "compare", "search"])
@pytest.mark.parametrize(
    "asked",
    [{"sound": "x"}, {"sound": "0" * 32, "file": "0" * 64}, {"sound": ["0" * 32]},
     {"text": "\x00"}, {"text": "x" * 3000}, {"labels": []}, {"labels": [""]}, {"top": 0},
     {"top": 10**400}, {"shortest_s": -1}, {"after": "yesterday"}, {"before": 0},
     {"after": "20260131"}, {"after": "2026-02-30"}, {"top": "5"}, {"top": True},
     {"unknown": 1}, {"text": None}, {"x" * 10**5: 1}, [], "x", None],
)  # fmt: skip
def test_what_is_no_question_is_refused_in_one_line(client, path, asked):
    answer = client.post(f"/api/{path}", json=asked)
    assert (answer.status_code, list(answer.json())) == (422, ["error"])
    assert "\n" not in answer.json()["error"]
    assert len(answer.json()["error"]) <= 500


def test_no_number_is_no_number(client):
    raw = b'{"text": "a", "text_weight": NaN, "shortest_s": Infinity}'
    answer = client.post("/api/search", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 422


def test_what_a_model_cannot_do_is_told():
    with TestClient(create_app(tiny.model()), base_url=HOST) as client:
        assert client.get("/api/info").json()["model"]["captions"] is False
        sound = brought(client).json()["id"]
        answer = client.post("/api/caption", json={"sound": sound})
    assert answer.status_code == 409
    assert "decoder" in answer.json()["error"]


def test_an_error_of_our_own_has_no_details_and_the_log_has(model, indexed, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(EchoicModel, "embed_text", broken)
    app = create_app(model, indexed)
    with TestClient(app, base_url=HOST, raise_server_exceptions=False) as client:
        answer = client.post("/api/search", json={"text": "a"})
        assert answer.status_code == 500
        assert list(answer.json()) == ["error"]
        assert "secret" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert client.get("/api/info").status_code == 200
        logged = TestClient(app, base_url=HOST)
        with pytest.raises(ZeroDivisionError):  # which uvicorn writes into its log
            logged.post("/api/search", json={"text": "a"})


@pytest.mark.parametrize(
    "line",
    ["/home/me/a b/x.wav: bad", "in '/home/me/secret/x'", "C:\\Users\\me\\x.wav: bad",
     "('/home/me/x', 3)"],
)  # fmt: skip
def test_no_line_names_a_place(client, line, monkeypatch):
    def broken(*_, **__):
        raise EchoicError(line)

    monkeypatch.setattr(EchoicModel, "embed_text", broken)
    told = client.post("/api/search", json={"text": "a"}).json()["error"]
    assert "/home" not in told
    assert "Users" not in told
    assert "x" in told


def test_the_model_is_used_by_one_thread(client, monkeypatch):
    threads, inside, most = set(), 0, 0
    real = EchoicModel.embed_text
    lock = threading.Lock()

    def noted(self, texts):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threads.add(threading.current_thread().name)
        try:
            return real(self, texts)
        finally:
            with lock:
                inside -= 1

    monkeypatch.setattr(EchoicModel, "embed_text", noted)
    asking = [
        threading.Thread(target=lambda: client.post("/api/search", json={"text": "a"}))
        for _ in range(8)
    ]
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    assert (len(threads), most) == (1, 1)


def test_who_comes_to_a_full_queue_is_told_to_come_again(started, monkeypatch):
    client = started(limits={"at_once": 1})
    begun, go_on = threading.Event(), threading.Event()
    real = EchoicModel.embed_text

    def slow(self, texts):
        begun.set()
        assert go_on.wait(30)
        return real(self, texts)

    monkeypatch.setattr(EchoicModel, "embed_text", slow)
    answers = []
    first = threading.Thread(
        target=lambda: answers.append(client.post("/api/search", json={"text": "a"}))
    )
    first.start()
    assert begun.wait(30)
    refused = client.post("/api/search", json={"text": "b"})
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "2"
    assert client.get("/api/info").status_code == 200  # what needs no model is answered
    go_on.set()
    first.join(30)
    assert answers[0].status_code == 200


def test_what_takes_too_long_is_given_up_and_frees_the_model(started, sound, client):
    hasty = started()
    long = brought(hasty, wav(2.0, form="FLAC"))
    listening = hasty.app.state.parts.listening
    listening.limit_s = 0.01
    slow = hasty.app.state.parts.model.network.audio.register_forward_pre_hook(
        lambda *_: time.sleep(0.05)
    )
    told = hasty.post("/api/caption", json={"sound": long.json()["id"]})
    slow.remove()
    assert told.status_code == 503
    assert "longer than" in told.json()["error"]
    listening.limit_s = 60
    assert hasty.post("/api/search", json={"text": "a"}).status_code == 200
    assert listening.held <= 1
