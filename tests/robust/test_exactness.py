"""The same file gives the same vector: over time (golden vectors), calls, batches, order, threads,
saving and loading. Graphs for other runtimes are held to the model in tests/export."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile as sf
import torch

from echoic.api import EchoicModel
from echoic.convert.native import load_model, save_model
from tests.adapters import families
from tests.robust import golden_vectors

ROOT = Path(__file__).resolve().parents[2]
CLOSE = 1e-5  # sums in another order


@pytest.fixture(params=families.NAMES)
def family(request):
    return request.param


@pytest.fixture
def files(family, tmp_path):
    """Six sounds of different length."""
    paths = []
    for i, sound in enumerate(golden_vectors.sounds(family) * 2):
        paths.append(tmp_path / f"{i}.wav")
        sf.write(paths[-1], sound.roll(i * 999), families.model(family).rate_hz, subtype="PCM_16")
    return paths


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=CLOSE)


def test_golden_vectors(family):
    found = {family: golden_vectors.vectors(family)}
    wanted = {family: golden_vectors.kept()[family]}
    assert not golden_vectors.changes(wanted, found), (
        "if this is meant: python -m tests.robust.golden_vectors --renew, and a line in CHANGELOG"
    )


def test_every_family_is_kept():
    assert golden_vectors.kept().keys() == set(families.NAMES)


def test_a_change_of_the_vectors_is_told():
    kept = golden_vectors.kept()
    other = {**kept, "slap": {"audio": kept["slap"]["audio"] * 0.999}}
    told = golden_vectors.changes(kept, other)
    assert len(told) == 2
    assert told[0].startswith("slap, audio: up to 0.000")
    assert told[1] == "slap, text: gone"


def test_calls_batches_and_order(family, files):
    model = families.model(family)
    together = model.embed_audio(files)
    assert torch.equal(model.embed_audio(files), together)
    close(torch.cat([model.embed_audio(path) for path in files]), together)
    order = [4, 1, 5, 0, 3, 2]
    close(model.embed_audio([files[i] for i in order]), together[order])
    if model.reads_text:
        texts = golden_vectors.texts(family)
        read = model.embed_text(texts)
        assert torch.equal(model.embed_text(texts), read)
        close(model.embed_text(texts[::-1]), read.flip(0))
        close(model.embed_text(texts[0]), read[:1])


THREADS = """
import sys, torch
from tests.adapters import families
from tests.robust import golden_vectors
for count in (1, 2):
    torch.set_num_threads(count)
    found = {name: golden_vectors.vectors(name) for name in families.NAMES}
    changed = golden_vectors.changes(golden_vectors.kept(), found, within=float(sys.argv[1]))
    assert torch.get_num_threads() == count
    assert not changed, (count, changed)
"""


def test_threads():
    """In a process of its own: whatever forks later in this one would wait for its threads."""
    environment = {name: v for name, v in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", THREADS, str(CLOSE)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_saved_and_loaded(family, files, tmp_path):
    """Bit for bit, and the same space."""
    model = families.model(family)
    path = tmp_path / "model.safetensors"
    save_model(path, families.content(family))
    loaded = EchoicModel(load_model(path))
    assert loaded.space_id == model.space_id
    assert torch.equal(loaded.embed_audio(files), model.embed_audio(files))
