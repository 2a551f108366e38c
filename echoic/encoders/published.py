"""The files of a published text encoder, and the tokenizer that they describe.

They lie in a local folder, or in a repository of the Hugging Face Hub, from which they are fetched
one by one and kept in its cache. Nothing reaches the network unless the user names something to
fetch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from echoic.config import parse_json
from echoic.types import CheckpointError, first_line

# [owner/]name and an optional @revision, in the Hub's own letters: roberta-base has no owner
_HUB_NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*(@[\w./-]+)?", re.ASCII)


def published_file(name: str | Path, *files: str) -> Path:
    """The first of `files` that there is.

    Only a str can name the Hub, and only where nothing here has that name; a Path never does.
    Raises CheckpointError.
    """
    folder = Path(name)
    if folder.is_dir():
        for file in files:
            if (folder / file).is_file():
                return folder / file
        raise CheckpointError(f"{name}: has no {' or '.join(files)}")
    if folder.exists() or not isinstance(name, str) or not _HUB_NAME.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder, nor the name of an encoder on the Hub")
    return _fetched(name, files)


def published_json(name: str | Path, file: str, otherwise: Any = None) -> Any:
    """What that file says; `otherwise`, where that is given and there is no such file beside the
    config.json. Raises CheckpointError."""
    found = published_file(name, *([file] if otherwise is None else [file, "config.json"]))
    if not found.match(file):
        return otherwise
    try:
        return parse_json(found.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{found}: not readable as JSON ({first_line(error)})") from None


def hub_file(repo: str, file: str, revision: str) -> Path:
    """Where the Hub's file is, fetched or kept, if the repository has it; "" is the newest
    revision. Raises what huggingface_hub does."""
    # of one file too: hf_hub_download tries for half a minute where there is no network
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo, revision=revision or None, allow_patterns=[file]), file)


def _fetched(name: str, files: tuple[str, ...]) -> Path:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    why = "it has none"
    for file in files:
        try:
            found = hub_file(repo, file, revision)
        except LocalEntryNotFoundError as error:  # the Hub cannot be asked; another may be here
            why = first_line(error)
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            why = first_line(error)
            break
        else:
            if found.is_file():
                return found
    raise CheckpointError(
        f"{name}: no such folder here, and the Hub did not give {' or '.join(files)} ({why})"
    )


# -- transformers --------------------------------------------------------------------------------


@contextmanager
def without_bar() -> Iterator[None]:
    """`transformers` draws no bar for the weights that it loads; what is fetched keeps its own."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging

    if not logging.is_progress_bar_enabled():
        yield
        return
    fetching = not are_progress_bars_disabled()
    logging.disable_progress_bar()  # and the Hub's
    if fetching:
        enable_progress_bars()
    try:
        yield
    finally:
        logging.enable_progress_bar()  # and the Hub's
        if not fetching:
            disable_progress_bars()


# -- tokenizers ----------------------------------------------------------------------------------

# how CLIP cuts a text into words (2103.00020, section 2.4)
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def published_tokenizer(name: str | Path) -> Backend:
    """Its tokenizer.json; else what vocab.json and merges.txt (RoBERTa, BART, CLIP) or vocab.txt
    (BERT) amount to. `name`: a folder, a tokenizer.json, or a name on the Hub. Raises
    CheckpointError."""
    file = Path(name)
    if not file.is_file():
        file = published_file(name, "tokenizer.json", "vocab.json", "vocab.txt")
    try:
        if file.name == "vocab.json":
            return _byte_pairs(file, published_file(name, "merges.txt"), _options(name, file))
        if file.name == "vocab.txt":
            return _word_pieces(file, _options(name, file))
        return Backend.from_file(str(file))
    except CheckpointError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{file}: not a tokenizer ({first_line(error)})") from None


def _options(name: str | Path, vocab: Path) -> dict[str, Any]:
    """What tokenizer_config.json says; nothing where there is none."""
    file = published_file(name, "tokenizer_config.json", vocab.name)
    return parse_json(file.read_text("utf-8")) if file.suffix == ".json" and file != vocab else {}


def _byte_pairs(vocab: Path, merges: Path, options: dict[str, Any]) -> Backend:
    """RoBERTa's and BART's, or CLIP's, as the vocabulary tells."""
    known = parse_json(vocab.read_text("utf-8"))
    if "<|startoftext|>" in known:
        return _clip(vocab, merges)
    backend = Backend(models.BPE.from_file(str(vocab), str(merges)))
    spaced = bool(options.get("add_prefix_space", False))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    backend.decoder = decoders.ByteLevel()
    _special(backend, ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)])
    _frame(backend, "<s>", "</s>")
    return backend


def _clip(vocab: Path, merges: Path) -> Backend:
    start, end = "<|startoftext|>", "<|endoftext|>"
    backend = Backend(
        models.BPE.from_file(str(vocab), str(merges), unk_token=end, end_of_word_suffix="</w>")
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    _special(backend, [start, end])
    _frame(backend, start, end)
    return backend


def _word_pieces(vocab: Path, options: dict[str, Any]) -> Backend:
    backend = Backend(models.WordPiece.from_file(str(vocab), unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=bool(options.get("tokenize_chinese_chars", True)),
        strip_accents=options.get("strip_accents"),
        lowercase=bool(options.get("do_lower_case", True)),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    _special(backend, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    _frame(backend, "[CLS]", "[SEP]")
    return backend


def _special(backend: Backend, tokens: list[str | AddedToken]) -> None:
    """The library would give an id of its own to one that the vocabulary lacks."""
    lacking = [str(token) for token in tokens if backend.token_to_id(str(token)) is None]
    if lacking:
        raise ValueError(f"its vocabulary lacks {', '.join(lacking)}")
    backend.add_special_tokens(tokens)


def _frame(backend: Backend, start: str, end: str) -> None:
    framed = [(token, backend.token_to_id(token)) for token in (start, end)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=framed
    )
