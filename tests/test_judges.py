"""Which judges are there, and FENSE's two models: small ones with random weights, in the form of
the published files."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from echoic import judges
from echoic.eval.captioning import AsWritten, score_captions
from echoic.judges import DETECTOR, ErrorDetector, available_judges, find_judges, load_fense
from echoic.types import CheckpointError, ConfigError

transformers = pytest.importorskip("transformers")

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    "a", "dog", "barks", "it", "'", "s", "rain", "on", "roof",
]  # fmt: skip
CAPTIONS = ["A dog barks.", "It's rain!", "rain on a roof on a roof", ""]
REFERENCES = [["a dog", "dog barks"], ["Rain."], ["a roof", "rain, rain", "a dog"], ["rain"]]


def bert(width: int, seed: int) -> torch.nn.Module:
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=width, num_hidden_layers=2, intermediate_size=48,
        num_attention_heads=width // 64, max_position_embeddings=70,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.BertModel(config)
        for weights in model.parameters():
            if weights.ndim > 1:  # as drawn, they say the same of every text
                torch.nn.init.normal_(weights, std=0.15)
    return model.eval()


def tokenizer_in(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    told = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def checkpoint(path: Path, encoder: torch.nn.Module, clf: torch.nn.Linear, **changes) -> None:
    """As FENSE's authors saved it, by a transformers that kept the positions."""
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state["encoder.embeddings.position_ids"] = torch.arange(70)[None]
    state |= {f"clf.{name}": tensor for name, tensor in clf.state_dict().items()} | changes
    told = {"model_type": "bert-base-uncased", "num_classes": 6, "state_dict": state}
    torch.save({**told, "state_dict": {k: v for k, v in state.items() if v is not None}}, path)


def hidden(home, model, text):
    """(L, D) of one text alone, by transformers: no padding, no batches."""
    read = transformers.AutoTokenizer.from_pretrained(home / "bert-base-uncased")
    with torch.no_grad():
        return model(**read(text, return_tensors="pt")).last_hidden_state[0]


def logit_by_hand(home, encoder, clf, caption):
    """Of any error."""
    plain = "".join(letter for letter in caption.lower() if letter.isalnum() or letter == " ")
    return clf(hidden(home, encoder, plain)[0])[-1].item()


def alike_by_hand(home, sentences, caption, references):
    said, *wanted = (hidden(home, sentences, text).mean(0) for text in [caption, *references])
    return np.mean([torch.cosine_similarity(said, each, dim=0).item() for each in wanted])


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The folder of FENSE's data, and what is in it."""
    home = tmp_path_factory.mktemp("fense")
    sentences, encoder, clf = bert(64, 0), bert(128, 1), torch.nn.Linear(128, 6)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        clf.weight.normal_(generator=draw)
        clf.bias.zero_()
    sentences.save_pretrained(home / "paraphrase-TinyBERT-L6-v2")
    tokenizer_in(home / "paraphrase-TinyBERT-L6-v2")
    tokenizer_in(home / "bert-base-uncased")
    logits = [logit_by_hand(home, encoder, clf, caption) for caption in CAPTIONS]
    with torch.no_grad():  # half of them are errors: a probability of 0.9 is a logit of log 9
        clf.bias += math.log(9) - np.median(logits)
    checkpoint(home / DETECTOR, encoder, clf)
    return home, sentences, encoder, clf


@pytest.fixture
def home(parts, monkeypatch, tmp_path):
    """The folder, with a Hub's cache that is empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(judges, "_SHA256", {})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return parts[0]


def test_fense_is_what_its_models_say_by_hand(parts, home):
    _, sentences, encoder, clf = parts
    logits = np.array([logit_by_hand(home, encoder, clf, caption) for caption in CAPTIONS])
    chances = ErrorDetector(home / DETECTOR, home / "bert-base-uncased")(CAPTIONS)
    assert chances == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)
    broken = chances > 0.9
    assert broken.sum() == 2
    pairs = zip(CAPTIONS, REFERENCES, strict=True)
    alike = np.array([alike_by_hand(home, sentences, *pair) for pair in pairs])
    assert np.ptp(alike) > 0.05
    found = score_captions(CAPTIONS, REFERENCES, judges=find_judges(["fense"], home))
    clips = found.scores["fense"].clips
    assert clips == pytest.approx(np.where(broken, 0.1, 1.0) * alike, abs=1e-5)


def test_a_text_has_the_same_chance_in_any_company(home, monkeypatch):
    detector = ErrorDetector(home / DETECTOR, home / "bert-base-uncased")
    alone = np.concatenate([detector([text]) for text in CAPTIONS])
    monkeypatch.setattr(judges, "_AT_ONCE", 3)
    assert detector(CAPTIONS) == pytest.approx(alone, abs=1e-6)
    assert detector([]).shape == (0,)
    assert detector(["a dog " * 100]) == pytest.approx(detector(["a dog " * 31]), abs=1e-6)


def test_what_a_checkpoint_lacks_is_said(parts, home, tmp_path):
    _, _, encoder, clf = parts
    cases = {
        "no detector": {"clf.weight": None},
        "no layer": {"encoder.encoder.layer.1.output.dense.bias": None},
        "strange": {"more.weight": torch.zeros(1)},
    }
    for name, changes in cases.items():
        path = tmp_path / f"{name}.ckpt"
        checkpoint(path, encoder, clf, **changes)
        with pytest.raises(CheckpointError, match="not FENSE's error detector") as error:
            ErrorDetector(path, home / "bert-base-uncased")
        assert "\n" not in str(error.value)
    tokenizer_in(tmp_path / "more")
    with (tmp_path / "more/vocab.txt").open("a") as file:
        file.write("\nwind")
    with pytest.raises(CheckpointError, match="has 15 tokens"):
        ErrorDetector(home / DETECTOR, tmp_path / "more")


def test_a_published_name_has_the_published_weights(parts, monkeypatch):
    home = parts[0]
    with pytest.raises(CheckpointError, match="not the weights that FENSE published"):
        load_fense(home)
    digest = hashlib.sha256((home / DETECTOR).read_bytes()).hexdigest()
    monkeypatch.setitem(judges._SHA256, DETECTOR, digest)
    assert load_fense(home)(["rain"], [["rain"]]).value == pytest.approx(1, rel=0.95)


def test_parts_are_found_in_the_hubs_cache(home, tmp_path, monkeypatch):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / DETECTOR).symlink_to(home / DETECTOR)
    monkeypatch.setenv("FENSE_DATA", str(bare))
    with pytest.raises(ConfigError) as error:
        load_fense()
    assert str(error.value) == (
        "FENSE needs sentence-transformers/paraphrase-TinyBERT-L6-v2 (hf download "
        "sentence-transformers/paraphrase-TinyBERT-L6-v2) and google-bert/bert-base-uncased "
        "(hf download google-bert/bert-base-uncased tokenizer.json)"
    )
    for repo in ("sentence-transformers/paraphrase-TinyBERT-L6-v2", "bert-base-uncased"):
        cached = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs/main").write_text("abc")
        (cached / "snapshots").mkdir()
        (cached / "snapshots/abc").symlink_to(home / repo.rpartition("/")[2])
    found = load_fense()(CAPTIONS, REFERENCES)
    assert found.clips.tolist() == load_fense(home)(CAPTIONS, REFERENCES).clips.tolist()


def test_available_judges_say_what_is_there_and_what_is_missing(home, tmp_path, monkeypatch):
    monkeypatch.setattr(judges, "_PROGRAMS", {
        "meteor": (lambda said, wanted: None, list),
        "spice": (lambda said, wanted: None, lambda: ["Java", "a parser"]),
    })  # fmt: skip
    found = available_judges(home)
    assert list(found.there) == ["meteor", "fense"]
    assert isinstance(found.there["fense"], AsWritten)
    assert found.missing == {"spice": "SPICE needs Java and a parser"}
    assert str(found) == "judges: METEOR, FENSE; SPICE needs Java and a parser"
    (tmp_path / DETECTOR).write_bytes(b"no model")
    for part in ("bert-base-uncased", "paraphrase-TinyBERT-L6-v2"):
        (tmp_path / part).symlink_to(home / part)
    broken = available_judges(tmp_path)
    assert list(broken.there) == ["meteor"]
    assert "not a file of torch.save" in broken.missing["fense"]


def test_names_that_are_not_known_or_not_there():
    assert find_judges([]) == {}
    with pytest.raises(ConfigError, match="'bert'; known: meteor, spice, fense"):
        find_judges(["bert"])


def test_a_program_that_is_missing_is_told_before_it_is_asked(monkeypatch):
    monkeypatch.setattr(judges, "_PROGRAMS", {"meteor": (len, lambda: ["Java"])})
    with pytest.raises(ConfigError, match="METEOR needs Java"):
        find_judges(["meteor"])
