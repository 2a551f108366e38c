"""MTEB's EncoderProtocol and its batches (mteb 2.26.24), written down here; and its own audio tasks
where it is installed."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from echoic.adapters import mteb as adapter
from echoic.adapters.mteb import MtebEncoder
from echoic.types import AudioError, CheckpointError, ConfigError
from tests import m2d, tiny
from tests.adapters.families import close

TEXTS = ["a dog barks", "a bell rings twice", "wind in the trees"]
TASK = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "prompt_type": None}
needs_mteb = pytest.mark.skipif(not find_spec("mteb"), reason="needs mteb (pip install mteb)")


@pytest.fixture
def stand_in(monkeypatch):
    """What of mteb an encoder needs, where it is not installed."""
    made = SimpleNamespace(create_empty=lambda overwrites: SimpleNamespace(**overwrites))
    models: Any = ModuleType("mteb.models")
    models.ModelMeta = made
    monkeypatch.setitem(sys.modules, "mteb", ModuleType("mteb"))
    monkeypatch.setitem(sys.modules, "mteb.models", models)
    monkeypatch.setattr(adapter, "find_spec", lambda name: object())


@pytest.fixture
def encoder(stand_in) -> MtebEncoder:
    return MtebEncoder(tiny.model(), name="me/tiny")


@pytest.fixture
def waves() -> list[np.ndarray]:
    return [tiny.noise(0.4), tiny.tone(400, 0.9), tiny.tone(900, 2.7)]


def heard(waves, rate_hz=tiny.RATE) -> list[dict[str, Any]]:
    return [{"array": wave, "sampling_rate": rate_hz} for wave in waves]


def file_of(wave: np.ndarray, rate_hz: int = tiny.RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate_hz, format="FLAC", subtype="PCM_16")
    return file.getvalue()


# -- vectors -------------------------------------------------------------------------------------


def test_sounds_become_the_vectors_of_the_joint_space(encoder, waves):
    found = encoder.encode([{"audio": heard(waves[:2])}, {"audio": heard(waves[2:])}], **TASK)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    close(torch.from_numpy(found), tiny.model().embed_audio(waves))
    assert np.array_equal(found, encoder.encode([{"audio": heard(waves)}], **TASK, batch_size=1))


def test_texts_become_the_vectors_of_the_joint_space(encoder):
    found = encoder.encode([{"text": TEXTS[:1]}, {"text": TEXTS[1:], "id": [1, 2]}], **TASK)
    close(torch.from_numpy(found), tiny.model().embed_text(TEXTS))


def test_a_sound_with_its_text_lies_between_both(encoder, waves):
    found = encoder.encode([{"audio": heard(waves), "text": TEXTS}], **TASK)
    both = tiny.model().embed_audio(waves) + tiny.model().embed_text(TEXTS)
    close(torch.from_numpy(found), F.normalize(both, dim=1))


def test_another_rate_and_channels_are_heard_as_everywhere(encoder):
    wave = np.stack([tiny.tone(500, 0.5), tiny.noise(0.5)])
    found = encoder.encode([{"audio": heard([wave], 22_050)}], **TASK)
    close(torch.from_numpy(found), tiny.model().embed_audio([(wave, 22_050)]))


def test_similarity_is_the_cosine(encoder, rng):
    one, other = rng.standard_normal((3, 8)), torch.from_numpy(rng.standard_normal((5, 8)))
    wanted = F.cosine_similarity(torch.from_numpy(one)[:, None], other[None], dim=2).float()
    close(encoder.similarity(one, other), wanted, 1e-6)
    close(encoder.similarity(one[0], other), wanted[:1], 1e-6)
    close(encoder.similarity_pairwise(one, other[:3]), wanted.diagonal(), 1e-6)


# -- files ---------------------------------------------------------------------------------------


@dataclass
class Audio:
    """As the feature of `datasets` of that name."""

    sampling_rate: int | None = None
    decode: bool = True


class Files(Dataset):
    """As a data set of `datasets` with a column of files, where torchcodec is not installed."""

    def __init__(self, rows: list[dict[str, Any]], audio: Audio) -> None:
        self.rows, self.features = rows, {"audio": audio, "label": object()}

    def cast_column(self, column: str, feature: Audio) -> Files:
        assert column == "audio"
        return Files(self.rows, feature)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        if self.features["audio"].decode:
            raise ImportError("To support decoding audio data, please install 'torchcodec'.")
        return {"audio": self.rows[i], "label": i}


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [row[key] for row in rows] for key in rows[0]}


@pytest.mark.parametrize("workers", [0, 1])
def test_files_are_decoded_by_echoic(encoder, waves, tmp_path, workers):
    contents = [file_of(wave, 22_050) for wave in waves]
    path = tmp_path / "last.flac"
    path.write_bytes(contents[2])
    rows = [{"bytes": each, "path": "x.flac"} for each in contents[:2]]
    rows.append({"bytes": None, "path": str(path)})
    loader = DataLoader(
        Files(rows, Audio(48_000)), batch_size=2, collate_fn=columns, num_workers=workers
    )
    found = encoder.encode(loader, **TASK)
    close(torch.from_numpy(found), tiny.model().embed_audio([*contents[:2], path]))


def test_what_decoders_of_datasets_answer(encoder, waves):
    class Decoder:
        def __getitem__(self, key):
            return {"array": waves[0], "sampling_rate": tiny.RATE}[key]

    found = encoder.encode([{"audio": [Decoder()]}], **TASK)
    close(torch.from_numpy(found), tiny.model().embed_audio([waves[0]]))


# -- what is told --------------------------------------------------------------------------------


def test_what_mteb_is_told(encoder):
    meta = encoder.mteb_model_meta
    assert (meta.name, meta.revision) == ("me/tiny", tiny.model().space_id)
    assert (meta.embed_dim, meta.modalities) == (16, ["audio", "text"])
    assert MtebEncoder(m2d.model()).mteb_model_meta.modalities == ["audio"]
    for name in ("tiny", "a/b/c", "/b", "a/"):
        with pytest.raises(ConfigError, match='mteb wants "owner/model"'):
            MtebEncoder(tiny.model(), name=name)


def test_what_cannot_be_encoded(encoder, stand_in, waves):
    with pytest.raises(AudioError, match="item 1"):
        encoder.encode([{"audio": heard([waves[0], waves[1] * np.nan])}], **TASK)
    with pytest.raises(ConfigError, match="neither sounds nor texts"):
        encoder.encode([{"image": [1]}], **TASK)
    with pytest.raises(CheckpointError, match="reads no text"):
        MtebEncoder(m2d.model()).encode([{"text": TEXTS}], **TASK)


@pytest.mark.skipif(bool(find_spec("mteb")), reason="mteb is installed")
def test_without_mteb_it_is_named():
    with pytest.raises(ConfigError, match="pip install mteb") as caught:
        MtebEncoder(tiny.model())
    assert "\n" not in str(caught.value)


# -- mteb itself ---------------------------------------------------------------------------------


def task_of_files(kind: Any, rows: dict[str, dict[str, list[Any]]]) -> Any:
    """One of mteb's mock tasks with files of ours."""
    from datasets import Audio, DatasetDict
    from datasets import Dataset as Table

    class OfFiles(kind):
        def load_data(self, **kwargs: Any) -> None:
            storage = {s: Table.from_dict(r) for s, r in rows.items()}
            self.dataset = DatasetDict(storage).cast_column("audio", Audio())
            self.data_loaded = True

        def get_candidate_labels(self) -> list[str]:
            return TEXTS

    return OfFiles()


@needs_mteb
@pytest.mark.filterwarnings("default")
def test_zero_shot_in_mteb_is_our_own(waves):
    import mteb
    from mteb.mocks.mock_tasks.zeroshot_classification import MockAudioZeroshotClassificationTask
    from mteb.models.models_protocols import EncoderProtocol

    model = tiny.model()
    contents = [file_of(wave, 22_050) for wave in waves]
    labels = model.similarity(contents, TEXTS).argmax(1)
    labels[0] = (labels[0] + 1) % 3  # two of three are right
    encoder = MtebEncoder(model, name="me/tiny")
    assert isinstance(encoder, EncoderProtocol)
    rows = {"audio": [{"bytes": c, "path": None} for c in contents], "label": labels.tolist()}
    task = task_of_files(MockAudioZeroshotClassificationTask, {"test": rows})
    result = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False)
    (only,) = result.task_results
    assert float(only.get_score()) == pytest.approx(2 / 3, abs=1e-4)
    assert (result.model_name, result.model_revision) == ("me/tiny", model.space_id)


@needs_mteb
@pytest.mark.filterwarnings("default")
def test_classification_in_mteb():
    import mteb
    from mteb.mocks.mock_tasks.classification import MockAudioClassification

    pitches = [300, 2500] * 5
    audio = [{"bytes": file_of(tiny.tone(p, 0.5)), "path": None} for p in pitches]
    rows = {"audio": audio, "label": [int(p > 1000) for p in pitches]}
    task = task_of_files(MockAudioClassification, {"train": rows, "test": rows})
    result = mteb.evaluate(MtebEncoder(tiny.model()), task, cache=None, show_progress_bar=False)
    assert float(result.task_results[0].get_score()) == 1.0
