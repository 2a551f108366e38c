"""Which captions count: of a .json, a shard, a table; and those that a folder of them adds."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile

from echoic.data.describe import describe
from echoic.data.keyword_captions import TemplateGenerator, write_captions
from echoic.data.shards import ShardSource
from echoic.data.sources import open_source, tagged_clips
from echoic.types import DataError

ABOUT = {
    "both": {
        "text": "own",
        "text_augment_t5": "made",
        "text_augment_all": ["own", "made", "more"],
        "tag": ["dog"],
    },
    "null": {"text": ["own", "other"], "text_augment_t5": None, "tag": ["rain"]},
    "made": {"text_augment_t5": "made alone"},
    "tags": {"tag": ["bell", "wind"]},
}
CHOSEN = {
    "written": {"both": ("own",), "null": ("own", "other")},
    "generated": {"both": ("made",), "null": ("own", "other"), "made": ("made alone",)},
    "all": {"both": ("own", "made", "more"), "null": ("own", "other")},
}


def sound() -> bytes:
    memory = io.BytesIO()
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, 800)
    soundfile.write(memory, audio, 8000, format="FLAC")
    return memory.getvalue()


@pytest.fixture
def shards(tmp_path):
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/x.tar", "w") as tar:
        for key, about in ABOUT.items():
            for name, raw in ((f"{key}.flac", sound()), (f"{key}.json", json.dumps(about))):
                raw = raw if isinstance(raw, bytes) else raw.encode()
                info = tarfile.TarInfo(name)
                info.size = len(raw)
                tar.addfile(info, io.BytesIO(raw))
    return tmp_path / "shards"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    for key, about in ABOUT.items():
        (tmp_path / f"folder/{key}.flac").write_bytes(sound())
        (tmp_path / f"folder/{key}.json").write_text(json.dumps(about))
    return tmp_path / "folder"


@pytest.fixture
def table(folder):
    for path in folder.glob("*.json"):
        path.unlink()
    rows = (json.dumps({"file": f"{key}.flac", **about}) for key, about in ABOUT.items())
    (folder / "my.jsonl").write_text("\n".join(rows))
    return folder / "my.jsonl"


def captions(source):
    return {clip.key.partition(".")[0]: clip.captions for clip in source.clips}


@pytest.mark.parametrize("which", CHOSEN)
@pytest.mark.parametrize("form", ["shards", "folder", "table"])
def test_the_choice(request, form, which):
    path = request.getfixturevalue(form)
    for _ in range(2):  # shards: made, then read from the index, which holds all of them
        assert captions(open_source(path, captions=which, missing="skip")) == CHOSEN[which]
    assert captions(open_source(path, missing="skip")) == CHOSEN["written"]


def test_a_clip_without_a_chosen_caption_is_named(shards):
    with pytest.raises(DataError, match=r"x\.tar: 2 of 4 clips have no caption: made\.flac, tags"):
        ShardSource(shards)
    with pytest.raises(DataError, match=r"1 of 4 clips have no caption: tags\.flac"):
        ShardSource(shards, captions="generated")
    assert len(ShardSource(shards, need_captions=False).clips) == 4


@pytest.mark.parametrize("form", ["shards", "folder", "table"])
def test_generated_captions_of_a_folder(request, form, tmp_path, caplog):
    path = request.getfixturevalue(form)
    out = tmp_path / "out"
    source = tagged_clips(path)
    assert [clip.tags for clip in source.clips if "tags" in clip.key] == [("bell", "wind")]
    write_captions(source, TemplateGenerator(), out, shortest_s=0)
    made = {
        "both": ("The sound of dog",),
        "null": ("The sound of rain",),
        "tags": ("The sounds of bell and wind",),
    }
    assert captions(open_source(path, captions_from=out)) == made
    assert "1 of 4 clips have no caption; left out" in caplog.text
    joined = open_source(path, captions_from=out, captions="all")
    assert captions(joined) == {
        "both": ("own", *made["both"]),
        "null": ("own", "other", *made["null"]),
        "tags": made["tags"],
    }
    assert len(joined.read(2, 8000)) == 800
    with pytest.raises(DataError, match="would leave these captions unused"):
        open_source(path, captions_from=out, captions="written")


def test_tags_need_no_audio(tmp_path):
    (tmp_path / "t.csv").write_text('ytid,labels,duration\nr1nicOVtvkQ,"dog, rain",10\nx,bell,\n')
    source = tagged_clips(tmp_path / "t.csv", file_column="ytid")
    assert [(c.key, c.tags, c.duration_s) for c in source.clips] == [
        ("r1nicOVtvkQ", ("dog", "rain"), 10.0),
        ("x", ("bell",), None),
    ]
    with pytest.raises(DataError, match="no column of captions"):
        open_source(tmp_path / "t.csv", file_column="ytid", tag_column="duration")


def test_what_is_kept_of_the_origin():
    told = {"id": 7, "url": "u", "title": "long", "key": None, "freesound_id": [1]}
    raw = json.dumps({"text": "x", "original_data": told}).encode()
    assert describe("x.json", "x", raw).origin == {"id": "7", "url": "u"}
    for other in ("text", None, [1]):
        raw = json.dumps({"text": "x", "original_data": other}).encode()
        assert describe("x.json", "x", raw).origin == {}
