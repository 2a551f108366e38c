"""The judges of captions that can be had here: METEOR, SPICE and FENSE.

METEOR and SPICE are programs (eval/caption_judges.py), FENSE is two published models
(eval/fense.py). Nothing is fetched: FENSE's parts are looked for where the programs `fense` and
`aac-metrics` keep them, and in the Hugging Face Hub's cache; what is missing is said in one line.

n texts, L tokens, D width.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from echoic.convert.torch_file import read_state_dict
from echoic.encoders.published import published_tokenizer
from echoic.encoders.sentences import sentence_encoder
from echoic.eval.caption_judges import (
    lacking_for_meteor,
    lacking_for_spice,
    meteor,
    require,
    spice,
)
from echoic.eval.captioning import AsWritten, Captioning, Judge
from echoic.eval.fense import Fense
from echoic.types import CheckpointError, ConfigError, first_line

if TYPE_CHECKING:
    from transformers import BertConfig

log = logging.getLogger("echoic.judges")

JUDGES = ("meteor", "spice", "fense")

SENTENCES = "sentence-transformers/paraphrase-TinyBERT-L6-v2"
TOKENIZER = "google-bert/bert-base-uncased"
DETECTOR = "echecker_clotho_audiocaps_base.ckpt"
_ADDRESS = "https://github.com/blmoistawinde/fense/releases/download/V0.1"
_SHA256 = {
    DETECTOR: "1a719f090af70614bbdb9f9437530b7e133c48cfa4a58d964de0d47fc974a2fa",
    "echecker_clotho_audiocaps_tiny.ckpt": (
        "90ed0ac5033ec497ec66d4f68588053813e085671136dae312097c96c504f673"
    ),
}
_MOST_TOKENS = 64
_AT_ONCE = 32


@dataclass(frozen=True)
class Judges:
    """there: for `score_captions`. missing: the line that says what is lacking. Both by name."""

    there: Mapping[str, Judge | AsWritten]
    missing: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        there = ", ".join(map(str.upper, self.there)) or "none beside our own figures"
        return "; ".join([f"judges: {there}", *self.missing.values()])

    def add_to(
        self, scores: Captioning, captions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[Captioning, Judges]:
        """With what all of them say, and those that said it. One whose program fails is told and
        left out: what was written took far longer than judging it."""
        there, missing = dict[str, Judge | AsWritten](), dict(self.missing)
        for name, judge in self.there.items():
            try:
                scores = scores.judged_by(name, judge, captions, references)
                there[name] = judge
            except ConfigError as error:
                missing[name] = str(error)
                log.warning("captions are not judged by %s: %s", name.upper(), error)
        return scores, Judges(there, missing)


def available_judges(folder: str | os.PathLike[str] | None = None) -> Judges:
    """All of JUDGES that are installed, loaded; folder: FENSE's, see `load_fense`."""
    there: dict[str, Judge | AsWritten] = {}
    missing: dict[str, str] = {}
    for name in JUDGES:
        try:
            there |= find_judges([name], folder)
        except (ConfigError, CheckpointError) as error:
            missing[name] = str(error)
    return Judges(there, missing)


def find_judges(
    names: Iterable[str], folder: str | os.PathLike[str] | None = None
) -> dict[str, Judge | AsWritten]:
    """Those of these names, loaded. Raises ConfigError on a name that is not known and where
    something is missing, CheckpointError on a model that cannot be read."""
    found: dict[str, Judge | AsWritten] = {}
    for name in names:
        if name == "fense":
            found[name] = AsWritten(load_fense(folder))
        elif name in _PROGRAMS:
            found[name], lacking = _PROGRAMS[name]
            require(name.upper(), lacking())
        else:
            raise ConfigError(f"unknown caption figure {name!r}; known: {', '.join(JUDGES)}")
    return found


_PROGRAMS = {"meteor": (meteor, lacking_for_meteor), "spice": (spice, lacking_for_spice)}


# -- FENSE ---------------------------------------------------------------------------------------


def load_fense(folder: str | os.PathLike[str] | None = None) -> Fense:
    """FENSE by its published parts: the paper's sentence encoder and error detector.

    folder: holds echecker_clotho_audiocaps_base.ckpt, and where the Hub's cache lacks them the
    folders paraphrase-TinyBERT-L6-v2 and bert-base-uncased (the detector's tokenizer). By default
    FENSE_DATA, else fense_data in torch.hub's folder. Raises ConfigError, which names all that is
    missing, and CheckpointError.
    """
    home = Path(folder) if folder is not None else _default_folder()
    if find_spec("transformers") is None:
        raise ConfigError('FENSE needs transformers (pip install "echoic[hf]")')
    detector = home / DETECTOR
    sentences = _published(home, SENTENCES, "config.json")
    tokenizer = _published(home, TOKENIZER, "tokenizer.json", "vocab.txt")
    missing = [] if detector.is_file() else [f"{detector} ({_ADDRESS}/{DETECTOR})"]
    missing += [] if sentences else [f"{SENTENCES} (hf download {SENTENCES})"]
    missing += [] if tokenizer else [f"{TOKENIZER} (hf download {TOKENIZER} tokenizer.json)"]
    require("FENSE", missing)
    return Fense(sentence_encoder(str(sentences)), ErrorDetector(detector, str(tokenizer)))


def _default_folder() -> Path:
    named = os.environ.get("FENSE_DATA")
    return Path(named).expanduser() if named else Path(torch.hub.get_dir(), "fense_data")


def _published(home: Path, repo: str, *files: str) -> Path | None:
    """The folder of that name which has one of `files`: in `home`, else in the Hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    name = repo.partition("/")[2]
    for file in files:
        if (home / name / file).is_file():
            return home / name
        for asked in (repo, name):  # old programs asked for it without its owner
            if isinstance(cached := try_to_load_from_cache(asked, file), str):
                return Path(cached).parent
    return None


class ErrorDetector:
    """n texts -> (n,) the probability that the text is not a fluent sentence.

    FENSE's classifier of kinds of error (2110.04684, section 3.2), the last of which is any: a BERT
    and one layer on its first token. file: as its authors published it, by torch.save. tokenizer:
    of that BERT, a folder or a name on the Hub. Raises CheckpointError.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        tokenizer: str | Path = TOKENIZER,
        *,
        device: str | torch.device = "cpu",
    ) -> None:
        path = Path(file)
        _check_digest(path)
        self._device = torch.device(device)
        self._model = _classifier(path).to(self._device).eval()
        self._tokenizer = published_tokenizer(tokenizer)
        self._tokenizer.enable_truncation(_MOST_TOKENS)
        self._tokenizer.no_padding()
        rows = self._model.encoder.config.vocab_size
        if (size := self._tokenizer.get_vocab_size()) > rows:
            raise CheckpointError(f"{tokenizer}: has {size} tokens, {path} knows {rows}")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        # as it was trained: lower case, no punctuation
        plain = [re.sub(r"[^\w\s]", "", text).lower() for text in texts]
        ids = [row.ids for row in self._tokenizer.encode_batch(plain)]
        parts = [self._chances(ids[i : i + _AT_ONCE]) for i in range(0, len(ids), _AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    @torch.inference_mode()
    def _chances(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """(B,) of B rows of token ids."""
        padded = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
        lengths = torch.tensor([len(row) for row in ids])
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        logits = self._model(padded.to(self._device), mask.long().to(self._device))
        chances: np.ndarray = logits[:, -1].sigmoid().cpu().numpy()
        return chances


class _Classifier(nn.Module):
    """Named as the published weights."""

    def __init__(self, config: BertConfig, classes: int) -> None:
        from transformers import BertModel

        super().__init__()
        self.encoder = BertModel(config)
        self.clf = nn.Linear(config.hidden_size, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, L) twice -> (B, kinds of error) logits."""
        first = self.encoder(ids, mask).last_hidden_state[:, 0]
        logits: Tensor = self.clf(first)
        return logits


def _classifier(path: Path) -> _Classifier:
    state = read_state_dict(path)
    state.pop("encoder.embeddings.position_ids", None)  # 0, 1, 2 ...: older transformers saved it
    try:
        config, classes = _config(state), len(state["clf.weight"])
        with torch.random.fork_rng(devices=[]):  # what is drawn is replaced
            model = _Classifier(config, classes)
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not FENSE's error detector ({first_line(error)})") from None
    return model


def _config(state: Mapping[str, Tensor]) -> Any:
    """Of the BERT whose weights these are. Raises KeyError."""
    from transformers import BertConfig

    def size(name: str) -> int:
        return len(state[f"encoder.{name}.weight"])

    layers = {name.split(".")[3] for name in state if name.startswith("encoder.encoder.layer.")}
    width = state["encoder.embeddings.word_embeddings.weight"].shape[1]
    return BertConfig(
        vocab_size=size("embeddings.word_embeddings"),
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=width // 64,  # in BERTs of all sizes
        intermediate_size=size("encoder.layer.0.intermediate.dense"),
        max_position_embeddings=size("embeddings.position_embeddings"),
        type_vocab_size=size("embeddings.token_type_embeddings"),
    )


def _check_digest(path: Path) -> None:
    """A file of a published name is the one that was published."""
    if (wanted := _SHA256.get(path.name)) is None or not path.is_file():
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wanted:
        raise CheckpointError(f"{path}: not the weights that FENSE published (SHA-256 {digest})")
