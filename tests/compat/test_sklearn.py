"""EchoicEmbedder is a transformer as scikit-learn wants one; what needs scikit-learn itself is
skipped where it is not installed."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import soundfile

from echoic.compat.sklearn import EchoicEmbedder
from echoic.types import ConfigError
from tests import tiny
from tests.on_disk import save_tiny_model


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    paths = []
    for i in range(8):
        paths.append(str(folder / f"{i}.wav"))
        wave = tiny.tone(200, 0.4) if i % 2 else tiny.noise(0.4, i)
        soundfile.write(paths[-1], wave, tiny.RATE)
    return paths


def test_sounds_and_texts_become_the_models_vectors(file, sounds):
    embedder = EchoicEmbedder(file)
    heard = embedder.fit_transform(sounds)
    assert heard.dtype == np.float32
    assert np.array_equal(heard, embedder.model_.embed_audio(sounds).numpy())
    assert np.array_equal(EchoicEmbedder(file).transform(sounds), heard)  # nothing is learnt
    assert np.array_equal(embedder.transform(np.array(sounds)), heard)
    read = EchoicEmbedder(embedder.model_, what="texts").transform(np.array(["a dog", "rain"]))
    assert np.array_equal(read, embedder.model_.embed_text(["a dog", "rain"]).numpy())
    assert len(embedder.get_feature_names_out()) == heard.shape[1] == 16


def test_parameters_are_kept_as_given_and_set(file):
    embedder = EchoicEmbedder(file, options={"precision": "bf16"})
    params = embedder.get_params()
    assert params == {
        "model": file, "what": "sounds", "device": "cpu", "options": {"precision": "bf16"},
    }  # fmt: skip
    assert params["model"] is file
    assert embedder.fit().model_.precision == "bf16"
    embedder.set_params(options=None)
    assert not hasattr(embedder, "model_")  # what was opened before is not what is asked for now
    assert embedder.fit().model_.precision == "fp32"
    with pytest.raises(ValueError, match="Invalid parameter 'size'"):
        embedder.set_params(size=3)
    with pytest.raises(ConfigError, match="what 'images'"):
        EchoicEmbedder(file, what="images").fit()


def test_a_pickle_holds_no_weights(file, sounds):
    embedder = EchoicEmbedder(file).fit()
    kept = pickle.dumps(embedder)
    assert len(kept) < 1000
    again = pickle.loads(kept)
    assert np.array_equal(again.transform(sounds), embedder.transform(sounds))


def test_it_is_cloned_and_works_in_a_pipeline(file, sounds):
    pytest.importorskip("sklearn")
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    embedder = EchoicEmbedder(file)
    copy = clone(embedder.fit())
    assert copy.get_params() == embedder.get_params()
    assert not hasattr(copy, "model_")
    labels = ["noise", "tone"] * 4
    probe = make_pipeline(EchoicEmbedder(file), LogisticRegression(C=1000.0))
    assert list(probe.fit(sounds, labels).predict(sounds)) == labels
    search = GridSearchCV(probe, {"logisticregression__C": [1.0, 1000.0]}, cv=2)
    assert search.fit(sounds, labels).best_score_ == 1.0
