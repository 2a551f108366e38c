"""How recordings are played: their type, their parts, what browsers do not play."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile as sf

from echoic.audio.io import AudioInfo
from echoic.web.play import content_type
from tests import tiny
from tests.web.conftest import brought, file_id, wav


def part(client, place, told):
    return client.get(place, headers={"Range": told})


def test_a_browser_gets_the_file_as_it_is(client):
    raw = wav(form="FLAC")
    told = brought(client, raw, "lies.html").json()
    answer = client.get(f"/api/sounds/{told['id']}/audio")
    assert answer.content == raw
    assert answer.headers["content-type"] == "audio/flac"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("told", "expected"),
    [("bytes=0-9", slice(0, 10)), ("bytes=5-", slice(5, None)), ("bytes=-7", slice(-7, None)),
     ("bytes=3-99999999", slice(3, None)), ("bytes=-99999999", slice(None))],
)  # fmt: skip
def test_a_part(client, told, expected):
    raw = wav()
    place = f"/api/sounds/{brought(client, raw).json()['id']}/audio"
    answer = part(client, place, told)
    assert answer.status_code == 206
    assert answer.content == raw[expected]
    start = range(len(raw))[expected][0]
    end = range(len(raw))[expected][-1]
    assert answer.headers["content-range"] == f"bytes {start}-{end}/{len(raw)}"
    assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.parametrize("told", ["bytes=9999999-", "bytes=-0"])
def test_no_such_part(client, sound, told):
    answer = part(client, f"/api/sounds/{sound}/audio", told)
    assert answer.status_code == 416
    assert answer.headers["content-range"].startswith("bytes */")


@pytest.mark.parametrize(
    "told", ["bytes=0-1,4-5", "bytes=5-3", "seconds=1-2", "bytes=-", "bytes=a-b", ""]
)
def test_what_is_not_understood_is_answered_by_the_whole(client, sound, told):
    assert part(client, f"/api/sounds/{sound}/audio", told).status_code == 200


def test_what_browsers_do_not_play_comes_as_wav(client, indexed):
    place = f"/api/files/{file_id(client, 'd.aiff')}/audio"
    answer = client.get(place)
    assert answer.headers["content-type"] == "audio/wav"
    heard, rate = sf.read(io.BytesIO(answer.content))
    expected, expected_rate = sf.read(indexed / "deep/d.aiff")
    assert rate == expected_rate
    np.testing.assert_allclose(heard, expected, atol=1e-4)
    for start, stop in ((0, 10), (40, 60), (44, 45), (4001, 9002), (len(answer.content) - 3, None)):
        got = part(client, place, f"bytes={start}-{'' if stop is None else stop - 1}")
        assert got.content == answer.content[start:stop]


def test_as_wav_whatever_it_is(client):
    told = brought(client, wav(1.0, form="OGG")).json()
    answer = client.get(f"/api/sounds/{told['id']}/audio?wav=true")
    heard, rate = sf.read(io.BytesIO(answer.content))
    assert (len(heard), rate) == (tiny.RATE, tiny.RATE)


@pytest.mark.parametrize(
    ("form", "rate", "channels", "expected"),
    [("wav/pcm_16", 44100, 2, "audio/wav"), ("wav/ima_adpcm", 44100, 2, None),
     ("mp3/mpeg_layer_iii", 44100, 2, "audio/mpeg"), ("mov/aac", 44100, 2, "audio/mp4"),
     ("mov/alac", 44100, 2, None), ("matroska/opus", 48000, 1, "audio/webm"),
     ("flac/pcm_24", 384_000, 2, None), ("wav/pcm_16", 44100, 16, None),
     ("ogg/flac", 44100, 1, None), ("new/thing", 44100, 1, None)],
)  # fmt: skip
def test_types(form, rate, channels, expected):
    assert content_type(AudioInfo(1.0, rate, channels, form)) == expected
